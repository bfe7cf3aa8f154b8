"""The one error type that escapes the functions which read a peer's bytes."""

from ..status import Alert, Cause, Failure, failure


class HandshakeError(Exception):
    """The handshake can't go on; `failure` carries the cause, the alert and the reason."""

    def __init__(self, failed: Failure) -> None:
        super().__init__(failed.reason)
        self.failure = failed


def violation(alert: Alert, reason: str) -> HandshakeError:
    """The peer broke the protocol; `alert` is what RFC 8446 answers to that."""
    return HandshakeError(Failure(cause=Cause.PROTOCOL_VIOLATION, reason=reason, alert=alert))


def refused(cause: Cause, reason: str) -> HandshakeError:
    """The handshake ends for `cause`, with the alert that `OUTCOMES` gives for it."""
    return HandshakeError(failure(cause, reason))
