"""Draws what happened to a request as a ladder: kernel, agent and peer as three uprights, with times.

Steps come in as they happen (`Ladder.observe` is the agent's observer); `Ladder.lines` draws them.  Bytes that arrive
piece by piece, a header and then its record, are one rung.  Records are named as far as an onlooker can
see into them: after ServerHello all is encrypted.
"""

from dataclasses import dataclass, field
from typing import Final

from ktls_agent.sansio.capture.ladder_text import Rung, Side, draw_ladder
from ktls_agent.sansio.netlink.spec import Auth, MessageType
from ktls_agent.sansio.request import HandshakeRequest, InvalidRequest
from ktls_agent.sansio.steps import Answered, Completed, Installed, Received, Reported, Sent, Started, Step
from ktls_agent.sansio.summary import ROLES, status_name
from ktls_agent.sansio.tls.parameters import HandshakeCompleted

_HANDSHAKE_MESSAGES: Final = {1: "ClientHello", 2: "ServerHello"}
_RECORDS: Final = {20: "CCS", 21: "alert", 23: "encrypted"}


@dataclass(slots=True, kw_only=True)
class Ladder:
    """One request's steps.

    Attributes:
        start: The time of the first step, in Trio's time.
        rungs: The steps.
    """

    start: float
    rungs: list[Rung] = field(default_factory=list)
    _received: bytearray = field(default_factory=bytearray)
    _received_at: float = 0.0
    _report: Reported | None = None

    def add(self, now: float, side: Side, text: str, *, inward: bool | None) -> None:
        """Add a rung."""
        self._flush()
        self.rungs.append(Rung(at=now - self.start, side=side, text=text, inward=inward))

    def observe(self, now: float, step: Step) -> None:
        """Add what the agent tells."""
        match step:
            case Started(request=request):
                self.add(now, "kernel", "ACCEPT", inward=False)
                self.add(now, "kernel", _request_text(request), inward=True)
            case Sent(data=data):
                self.add(now, "peer", describe_flight(data), inward=False)
            case Received(data=data):
                self._received += data or b""
                self._received_at = now
                if not data:
                    self.add(now, "peer", "end of file", inward=True)
            case _:
                self._observe_end(now, step)

    def _observe_end(self, now: float, step: Step) -> None:
        match step:
            case Completed(result=result):
                self.add(now, "peer", _result_text(result), inward=None)
            case Installed(cipher=cipher):
                self.add(now, "kernel", f"TLS_TX, TLS_RX: {cipher}", inward=False)
            case Reported():
                self._report = step
            case Answered(error=error) if self._report is not None:
                self.add(now, "kernel", _done_text(self._report, error), inward=False)
            case _:
                pass  # What makes no rung.

    def lines(self) -> list[str]:
        """Draw it."""
        self._flush()
        return draw_ladder(self.rungs)

    def _flush(self) -> None:
        if self._received:
            text, at = describe_flight(bytes(self._received)), self._received_at
            self._received.clear()
            self.rungs.append(Rung(at=at - self.start, side="peer", text=text, inward=True))


def describe_flight(data: bytes) -> str:
    """Name the records in a flight, and count its bytes."""
    names: list[str] = []
    rest = data
    while len(rest) >= 5:
        length = int.from_bytes(rest[3:5])
        names.append(_record_name(rest[0], rest[5:6]))
        rest = rest[5 + length :]
    counted = [_counted(name, names.count(name)) for name in dict.fromkeys(names)]
    return f"{', '.join(counted) or 'no record'} ({len(data)} B)"


def _counted(name: str, count: int) -> str:
    return name if count == 1 else f"{count} {name}"


def _record_name(content_type: int, first: bytes) -> str:
    if content_type == 22 and first:
        return _HANDSHAKE_MESSAGES.get(first[0], "handshake")
    return _RECORDS.get(content_type, f"type {content_type}")


def _request_text(request: HandshakeRequest | InvalidRequest) -> str:
    role, auth = ROLES[type(request)]
    name = None if isinstance(request, InvalidRequest) else request.peername
    return ", ".join(part for part in (f"fd {request.sockfd}", role, auth, name) if part)


def ready_text(message_type: int, auth_mode: int) -> str:
    """Label READY with what is asked for."""
    return f"READY ({MessageType(message_type).name}, {Auth(auth_mode).name})"


def _result_text(result: HandshakeCompleted) -> str:
    peer = f"; {result.peer.subject}" if result.peer else ""
    psk = "; psk" if result.psk_identity is not None else ""
    return f"{result.cipher_suite}, {result.group or 'no key exchange'}{peer}{psk}"


def _done_text(report: Reported, error: int | None) -> str:
    status = status_name(report.status) if report.status else "0"
    peer = f", peer key {report.remote_auth[0]:#x}" if report.remote_auth else ""
    answer = {0: "", None: ", no answer"}.get(error, f", refused: {error}")
    return f"DONE {status}{peer}{answer}"
