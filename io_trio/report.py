"""What is told about a request: each step to whoever observes, and one log line when it is over."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ktls_agent.sansio.lifecycle import Request
from ktls_agent.sansio.request import (
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from ktls_agent.sansio.tls.parameters import HandshakeCompleted
from ktls_agent.sansio.tls.psk import shown_identity

ROLES: Final[dict[type[HandshakeRequest | InvalidRequest], tuple[str, str]]] = {
    ClientAnon: ("client", "unauth"),
    ClientX509: ("client", "x509"),
    ClientPsk: ("client", "psk"),
    ServerX509: ("server", "x509"),
    ServerPsk: ("server", "psk"),
    InvalidRequest: ("unknown", "unknown"),
}
"""A request's role and authentication mode, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The kernel handed a request over."""

    request: HandshakeRequest | InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Bytes of the handshake went to the peer."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Bytes of the handshake came from the peer."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The handshake is over, and its keys go into the socket next."""

    result: HandshakeCompleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The keys are in the socket."""

    cipher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """DONE was answered; `error` is 0, a positive errno, or None if the answer was lost."""

    status: int
    remote_auth: tuple[int, ...]
    error: int | None


Step = Started | Sent | Received | Completed | Installed | Reported
Observer = Callable[[int, float, Step], None]
"""Takes each step of a request: its descriptor, Trio's time, and what happened.  It must not block or raise."""


def observe_nothing(_sockfd: int, _now: float, _step: Step) -> None:
    """The observer that is there when nobody looks."""


@dataclass(slots=True, kw_only=True)
class Journal:
    """What is known about a request so far, for its log line.

    Attributes:
        peer_address: The peer's address.
        completed: The handshake's result.
        phases: When each phase ended, by its name, in Trio's time.
        done_status: The status in DONE.
        remote_auth: The serials in DONE.
        notes: Sentences about what went wrong beside the outcome.
    """

    peer_address: str | None = None
    completed: HandshakeCompleted | None = None
    phases: dict[str, float] = field(default_factory=dict)
    done_status: int | None = None
    remote_auth: tuple[int, ...] = ()
    notes: list[str] = field(default_factory=list)


def summarize(request: Request, journal: Journal) -> dict[str, str | int | float]:
    """Make the fields of a finished request's log line; what is not known is left out."""
    role, auth = ROLES[type(request.request)]
    fields: dict[str, str | int | float | None] = {
        "role": role,
        "auth": auth,
        "peer": None if isinstance(request.request, InvalidRequest) else request.request.peername,
        "address": journal.peer_address,
        "status": _status_name(journal.done_status),
        "cause": None if request.failure is None else request.failure.cause.name.lower(),
        "reason": None if request.failure is None else request.failure.reason,
        **_tls_fields(journal.completed),
        "remote_auth": " ".join(str(serial) for serial in journal.remote_auth) or None,
        "note": " ".join(_notes(request, journal)) or None,
        "done_error": request.report_error,
        **_durations(request.accepted_at, journal.phases),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _notes(request: Request, journal: Journal) -> list[str]:
    # nfsd lets such a client in or not by the export's xprtsec, and logs nothing: this line is what there is.
    unknown = journal.completed is not None and journal.completed.peer is None
    if unknown and isinstance(request.request, ServerX509):
        return [
            "The client presented no certificate; an export with xprtsec=mtls refuses it.",
            *journal.notes,
        ]
    return journal.notes


def _tls_fields(completed: HandshakeCompleted | None) -> dict[str, str | int | float | None]:
    if completed is None:
        return {}
    return {
        "cipher": completed.cipher_suite,
        "group": completed.group,
        "alpn": None if completed.alpn is None else completed.alpn.decode(errors="backslashreplace"),
        "subject": None if completed.peer is None else completed.peer.subject,
        "psk": None if completed.psk_identity is None else shown_identity(completed.psk_identity),
    }


def _durations(accepted_at: float, phases: dict[str, float]) -> dict[str, float]:
    """Milliseconds for each phase, and `total_ms`."""
    durations: dict[str, float] = {}
    before = accepted_at
    for name, ended in phases.items():
        durations[f"{name}_ms"] = round((ended - before) * 1000, 1)
        before = ended
    durations["total_ms"] = round((before - accepted_at) * 1000, 1)
    return durations


def _status_name(status: int | None) -> str | None:
    if status is None:
        return None
    return errno.errorcode.get(status, str(status)) if status else "ok"
