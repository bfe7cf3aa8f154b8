"""The one log line of a request: who, what, how long, and why not."""

import errno
from collections.abc import Mapping, Sequence
from typing import Final

from .request import (
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from .session import Session
from .tls.certificates import load_certificate_untrusted, name_text
from .tls.parameters import HandshakeCompleted, Identity
from .tls.psk import shown_identity

ROLES: Final[dict[type[HandshakeRequest | InvalidRequest], tuple[str, str]]] = {
    ClientAnon: ("client", "unauth"),
    ClientX509: ("client", "x509"),
    ClientPsk: ("client", "psk"),
    ServerX509: ("server", "x509"),
    ServerPsk: ("server", "psk"),
    InvalidRequest: ("unknown", "unknown"),
}
"""A request's role and authentication mode, in words."""

TLS_VERSION: Final = "TLS 1.3"
"""The one that is spoken."""

MAX_NAMES_TOLD: Final = 8
"""Alternative names of a peer that a line tells; a certificate may have hundreds."""

Fields = dict[str, str | int | float]


def summarize(session: Session, phases: Mapping[str, float]) -> Fields:
    """Make the fields of a finished request's log line; what is not known is left out.

    Args:
        session: The request.
        phases: When each phase ended, by its name, in monotonic seconds.
    """
    request = session.request
    asked = request.request
    role, auth = ROLES[type(asked)]
    report = session.report
    fields: dict[str, str | int | float | None] = {
        "role": role,
        "auth": auth,
        "peer": None if isinstance(asked, InvalidRequest) else asked.peername,
        "address": session.peer_address,
        "status": None if report is None else status_name(report.status),
        "cause": None if request.failure is None else request.failure.cause.name.lower(),
        "reason": None if request.failure is None else request.failure.reason,
        **_tls_fields(session.completed),
        "remote_auth": None if report is None else " ".join(map(str, report.remote_auth)) or None,
        "note": " ".join(_notes(session)) or None,
        "done_error": request.report_error,
        **_durations(request.accepted_at, phases),
    }
    return {name: value for name, value in fields.items() if value is not None}


def log_fields(session: Session, phases: Mapping[str, float]) -> Fields:
    """Make all fields of a finished request's log line: `summarize`'s, and what a transcript has in its own steps.

    Args:
        session: The request.
        phases: As for `summarize`.
    """
    return {**summarize(session, phases), **_details(session)}


def _details(session: Session) -> Fields:
    completed = session.completed
    details: dict[str, str | None] = {
        "version": None if completed is None else TLS_VERSION,
        "identity": ", ".join(map(_subject, session.identities)) or None,
        "names": None if completed is None or completed.peer is None else _listed(completed.peer.names),
        "sni": None if completed is None else completed.server_name,
    }
    return {name: value for name, value in details.items() if value is not None}


def _subject(identity: Identity) -> str:
    return name_text(load_certificate_untrusted(identity.chain[0]).subject)


def _listed(names: Sequence[str]) -> str | None:
    more = len(names) - MAX_NAMES_TOLD
    shown = ", ".join(names[:MAX_NAMES_TOLD])
    return f"{shown} and {more} more" if more > 0 else shown or None


def status_name(status: int) -> str:
    """Name a DONE's status: "ok", or the errno's name."""
    return errno.errorcode.get(status, str(status)) if status else "ok"


def _notes(session: Session) -> list[str]:
    # nfsd lets such a client in or not by the export's xprtsec, and logs nothing: this line is what there is.
    unknown = session.completed is not None and session.completed.peer is None
    if unknown and isinstance(session.request.request, ServerX509):
        return [
            "The client presented no certificate; an export with xprtsec=mtls refuses it.",
            *session.notes,
        ]
    return session.notes


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


def _durations(accepted_at: float, phases: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds for each phase, and `total_ms`."""
    durations: dict[str, float] = {}
    before = accepted_at
    for name, ended in phases.items():
        durations[f"{name}_ms"] = round((ended - before) * 1000, 1)
        before = ended
    durations["total_ms"] = round((before - accepted_at) * 1000, 1)
    return durations
