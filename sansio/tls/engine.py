"""The TLS 1.3 handshake without I/O, in the manner of h11.

    engine = TlsEngine(ClientParameters(...), entropy=os.urandom)
    engine.start()
    while (event := engine.next_event()) is None:
        sock.sendall(engine.data_to_send())
        engine.receive_data(sock.recv(engine.bytes_wanted()))     # b"" is the end of file
    sock.sendall(engine.data_to_send())                          # the last flight, or an alert
    match event:
        case HandshakeCompleted(): secrets = engine.extract_secrets()
        case HandshakeFailed(): ...

Who never reads more than `bytes_wanted` leaves everything behind the handshake in the socket, where the
kernel looks for it.  A failure is sticky: later input is ignored, the alert stays readable.
"""

import enum
from typing import Final

from ..ktls import KernelSecrets
from ..status import Cause, Failure, failure
from ..steps import Trace, no_trace
from .connection import Connection
from .errors import HandshakeError
from .hybrid import Encapsulate, encapsulate
from .parameters import (
    CertificateRejected,
    Entropy,
    HandshakeCompleted,
    HandshakeFailed,
    KeysRequested,
    Parameters,
    PreSharedKey,
    TlsEvent,
)

MAX_TRAILING_DATA: Final = 64 * 1024
"""What a caller may feed beyond the end, as one that replays a capture does; a socket's reader feeds none."""


class LocalProtocolError(Exception):
    """The engine was used in a way that its state does not allow: a defect of the caller."""


class _State(enum.Enum):
    IDLE = enum.auto()
    HANDSHAKING = enum.auto()
    WAITING_FOR_KEYS = enum.auto()
    COMPLETED = enum.auto()
    EXTRACTED = enum.auto()
    FAILED = enum.auto()


class TlsEngine:
    """One TLS 1.3 handshake, client or server.

    Args:
        parameters: The role, and what it is to do.
        entropy: Where random bytes come from; the same entropy and the same input give the same output (but for
            RSA signatures, whose salt `cryptography` draws, and a server's ML-KEM).
        encapsulate: Makes a server's post-quantum secrets, which are not made of `entropy`: `cryptography` draws for them.
        trace: Is told what is in the records, the signature and the traffic secrets, as they come.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        entropy: Entropy,
        encapsulate: Encapsulate = encapsulate,
        trace: Trace = no_trace,
    ) -> None:
        self._connection = Connection(parameters, entropy, trace, encapsulate)
        self._state = _State.IDLE
        self._event: TlsEvent | None = None

    def start(self) -> None:
        """Begin: a client has its first flight in `data_to_send` then.

        Raises:
            LocalProtocolError: Called twice.
        """
        if self._state is not _State.IDLE:
            raise LocalProtocolError("the handshake was started before")
        self._state = _State.HANDSHAKING
        self._advance()

    def bytes_wanted(self) -> int:
        """How many bytes to read next, at most; 0 when the handshake is over, or waits for keys."""
        return self._connection.reader.bytes_wanted() if self._state is _State.HANDSHAKING else 0

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer; b"" is the end of file.

        What comes after a failure is ignored, what comes after the handshake's end is kept for `trailing_data`.

        Raises:
            LocalProtocolError: Called before `start`, or more than `MAX_TRAILING_DATA` came after the end.
        """
        if self._state is _State.IDLE:
            raise LocalProtocolError("the handshake was not started")
        if self._state is _State.FAILED:
            return
        if self._state in (_State.COMPLETED, _State.EXTRACTED):
            self._keep_trailing(data)
        elif not data:
            self._fail(failure(Cause.END_OF_FILE, "the peer closed the connection during the handshake"))
        elif self._state is _State.WAITING_FOR_KEYS:
            self._keep_trailing(data)
        else:
            self._connection.reader.feed_untrusted(data)
            self._advance()

    def provide_keys(self, keys: tuple[PreSharedKey, ...]) -> None:
        """Answer `KeysRequested`: the keys that are known, of those that the client offers; none refuses it.

        Raises:
            LocalProtocolError: No keys were requested, or they were provided before.
        """
        if self._state is not _State.WAITING_FOR_KEYS:
            raise LocalProtocolError("no keys were requested")
        self._state = _State.HANDSHAKING
        self._connection.provide_keys(keys)
        self._advance()

    def _keep_trailing(self, data: bytes) -> None:
        if self._connection.reader.unused + len(data) > MAX_TRAILING_DATA:
            raise LocalProtocolError(
                "the handshake wants nothing now: what follows is not the engine's to read"
            )
        self._connection.reader.feed_untrusted(data)

    def next_event(self) -> TlsEvent | None:
        """What happened: keys are requested, or the handshake has ended; each is told once, None is nothing."""
        event, self._event = self._event, None
        return event

    def data_to_send(self) -> bytes:
        """The bytes that are due to the peer; each is returned once."""
        return self._connection.writer.take()

    def trailing_data(self) -> bytes:
        """The bytes that were fed beyond the handshake's end; empty if no more than `bytes_wanted` was read."""
        over = self._state in (_State.COMPLETED, _State.EXTRACTED, _State.FAILED)
        return self._connection.reader.take_rest() if over else b""

    def abort(self, failed: Failure) -> None:
        """End the handshake for a reason of our own; the peer gets the failure's alert, if it has one.

        A handshake that is over is left as it is.
        """
        if self._state in (_State.IDLE, _State.HANDSHAKING, _State.WAITING_FOR_KEYS):
            self._fail(failed)

    def extract_secrets(self) -> KernelSecrets:
        """The application traffic keys, for the kernel: once.

        Raises:
            LocalProtocolError: The handshake is not complete, bytes are still to be sent, or the secrets were
                taken before.
        """
        if self._state is not _State.COMPLETED:
            raise LocalProtocolError(f"no secrets to extract: the handshake is {self._state.name.lower()}")
        if self._connection.writer.pending:
            raise LocalProtocolError("send what data_to_send has before the kernel gets the keys")
        self._state = _State.EXTRACTED
        return self._connection.take_secrets()

    def _advance(self) -> None:
        try:
            if self._connection.step():
                self._complete(self._connection.result())
            elif (identities := self._connection.requested_keys()) is not None:
                self._state = _State.WAITING_FOR_KEYS
                self._event = KeysRequested(identities=identities)
        except (HandshakeError, CertificateRejected) as error:
            self._fail(error.failure)
        except Exception as error:
            self._fail(failure(Cause.INTERNAL, f"defect in the TLS engine: {type(error).__name__}: {error}"))

    def _complete(self, completed: HandshakeCompleted) -> None:
        self._state = _State.COMPLETED
        self._event = completed

    def _fail(self, failed: Failure) -> None:
        self._state = _State.FAILED
        if failed.alert is not None and failed.cause is not Cause.PEER_ALERT:
            self._connection.send_alert(failed.alert)
        self._event = HandshakeFailed(failure=failed)
