"""What [debug] `tls` and `nl` add to the log: the steps of each request, at debug level.

| setting | lines                                                                                   |
|---------|-----------------------------------------------------------------------------------------|
| nl=1    | each datagram's way and size, what the kernel asked for, DONE and its answer            |
| nl=2    | the datagrams themselves, in hexadecimal                                                |
| tls=1   | what a handshake has to authenticate with, and what came of it                          |
| tls=2   | each message of the handshake: its way, its kind and its size                           |

No secret is in a line: randomness, keys and traffic secrets have steps of their own, which are not told.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ktls_agent.sansio.config import DebugConfiguration
from ktls_agent.sansio.steps import (
    Answered,
    Completed,
    Configured,
    Datagram,
    Failed,
    IdentityLoaded,
    Plaintext,
    PskLoaded,
    PsksLookedUp,
    Reported,
    RevocationChecked,
    Started,
    Step,
    Trace,
)
from ktls_agent.sansio.summary import ROLES
from ktls_agent.sansio.tls.psk import shown_identity
from ktls_agent.sansio.tls.records import ContentType, handshake_type_name

from .handler import Log

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugTrace:
    """A `Trace` that logs, and tells another one.

    Attributes:
        log: Where the lines go.
        levels: What [debug] says.
        sockfd: The request's descriptor, to tell requests apart.
        then: Is told each step, too.
    """

    log: Log
    levels: DebugConfiguration
    sockfd: int
    then: Trace

    def __call__(self, step: Step) -> None:
        """Log a step, if it is one that the levels ask for."""
        for event, fields in (("netlink", self._netlink(step)), ("tls", self._tls(step))):
            if fields is not None:
                self.log.debug(event, fd=self.sockfd, step=type(step).__name__, **fields)
        self.then(step)

    def _netlink(self, step: Step) -> Fields | None:
        return _netlink_fields(step, whole=self.levels.nl > 1) if self.levels.nl > 0 else None

    def _tls(self, step: Step) -> Fields | None:
        if self.levels.tls > 1 and isinstance(step, Plaintext):
            return {"way": _way(step.outgoing, "peer"), "says": _message(step), "bytes": len(step.data)}
        return _means_fields(step) or _outcome_fields(step) if self.levels.tls > 0 else None


def _netlink_fields(step: Step, *, whole: bool) -> Fields | None:
    match step:
        case Datagram(outgoing=outgoing, data=data):
            shown = {"data": data.hex()} if whole else {}
            return {"way": _way(outgoing, "kernel"), "bytes": len(data), **shown}
        case Started(request=request):
            role, auth = ROLES[type(request)]
            return {"role": role, "auth": auth, "asked": request}
        case Reported(status=status, remote_auth=serials):
            return {"status": status, "remote_auth": serials}
        case Answered(error=error, text=text):
            return {"error": error, "text": text}
        case _:
            return None


def _means_fields(step: Step) -> Fields | None:
    match step:
        case Configured(trust=trust, names=names, groups=groups, key_shares=shares):
            return {
                "anchors": len(trust or ()),
                "names": names,
                "groups": groups or "elliptic curves",
                "shares": shares,
            }
        case IdentityLoaded(certificate=serial, names=names):
            return {"certificate": serial, "names": names, "problem": step.failure and step.failure.reason}
        case PskLoaded(serial=serial):
            return {"serial": serial, "problem": step.failure and step.failure.reason}
        case PsksLookedUp(identities=offered, found=found):
            return {"offered": " ".join(map(shown_identity, offered)), "known": len(found)}
        case _:
            return None


def _outcome_fields(step: Step) -> Fields | None:
    match step:
        case RevocationChecked(failure=failed):
            return {"problem": failed and failed.reason}
        case Completed(result=result):
            return {"cipher": result.cipher_suite, "group": result.group, "sni": result.server_name}
        case Failed(failure=failed):
            return {"cause": failed.cause.name.lower(), "alert": failed.alert and failed.alert.name.lower()}
        case _:
            return None


def _way(outgoing: bool, other: str) -> str:  # noqa: FBT001 - as the steps have it
    return f"to {other}" if outgoing else f"from {other}"


def _message(step: Plaintext) -> str:
    if step.content_type == ContentType.HANDSHAKE and step.data:
        return handshake_type_name(step.data[0])
    return "alert" if step.content_type == ContentType.ALERT else f"content type {step.content_type}"
