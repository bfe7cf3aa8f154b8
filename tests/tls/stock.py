"""tlslite-ng as it comes, behind the calls of `TlsEngine`: what its defects look like without the engine."""

from collections.abc import Callable, Iterator
from typing import Any

from tlslite.api import HandshakeSettings, TLSConnection, X509CertChain, parsePEMKey  # noqa: TID251

from ktls_agent.sansio.status import Cause, failure
from ktls_agent.sansio.tls.parameters import (
    GROUPS,
    KEY_SHARES,
    HandshakeCompleted,
    HandshakeFailed,
    TlsEvent,
)
from tests import pki

Start = Callable[[Any, Any], Iterator[int]]


class _Socket:
    """The two ends of a pipe; remembers how much was asked for."""

    def __init__(self) -> None:
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.asked: list[int] = []

    def recv(self, size: int) -> bytes:
        self.asked.append(size)
        if not self.incoming:
            raise BlockingIOError(11, "nothing there")
        data = bytes(self.incoming[:size])
        del self.incoming[:size]
        return data

    def send(self, data: bytes) -> int:
        self.outgoing += data
        return len(data)

    def sendall(self, data: bytes) -> None:
        self.outgoing += data

    def close(self) -> None:
        """Nothing to close."""


class StockEngine:
    """A handshake of stock tlslite-ng.

    Attributes:
        error: What escaped from it, if anything did.
        asked: The sizes that it asked the socket for.
    """

    def __init__(self, begin: Start) -> None:
        self._socket = _Socket()
        self.asked = self._socket.asked
        self.connection = TLSConnection(self._socket)
        self.error: Exception | None = None
        self._event: TlsEvent | None = None
        self._done = False
        try:
            self._steps = begin(self.connection, settings())
        except Exception as error:
            self._fail(error)
        else:
            self._advance()

    def receive_data(self, data: bytes) -> None:
        self._socket.incoming += data
        self._advance()

    def data_to_send(self) -> bytes:
        data = bytes(self._socket.outgoing)
        self._socket.outgoing.clear()
        return data

    def next_event(self) -> TlsEvent | None:
        event, self._event = self._event, None
        return event

    def _advance(self) -> None:
        while not self._done:
            asked = len(self.asked)
            try:
                wants = next(self._steps)
            except StopIteration:
                self._complete()
            except Exception as error:
                self._fail(error)
            else:
                if wants == 0 and not self._socket.incoming and len(self.asked) > asked:
                    return

    def _complete(self) -> None:
        self._done = True
        self._event = HandshakeCompleted(
            cipher_suite="", group="", alpn=self.connection.session.appProto, peer=None, server_name=None
        )

    def _fail(self, error: Exception) -> None:
        self._done = True
        self.error = error
        self._event = HandshakeFailed(failure=failure(Cause.INTERNAL, type(error).__name__))


def settings() -> Any:
    """What the reference recommends for TLS 1.3 alone."""
    made = HandshakeSettings()
    made.versions = [(3, 4)]
    made.minVersion = made.maxVersion = (3, 4)
    made.record_size_limit = None
    made.use_heartbeat_extension = False
    made.eccCurves = list(GROUPS)
    made.keyShares = list(KEY_SHARES)
    made.dhGroups = []
    made.certificate_compression_send = []
    made.certificate_compression_receive = []
    made.ticket_count = 0
    return made


def stock_client(issued: pki.Issued | None = None, **arguments: Any) -> StockEngine:
    """A client, with a certificate if there is one."""

    def begin(connection: Any, wanted: Any) -> Any:
        chain, key = _credentials(issued) if issued else (None, None)
        return connection.handshakeClientCert(chain, key, settings=wanted, async_=True, **arguments)

    return StockEngine(begin)


def stock_server(issued: pki.Issued, **arguments: Any) -> StockEngine:
    """A server; `arguments` are those of `handshakeServerAsync`."""

    def begin(connection: Any, wanted: Any) -> Any:
        chain, key = _credentials(issued)
        return connection.handshakeServerAsync(certChain=chain, privateKey=key, settings=wanted, **arguments)

    return StockEngine(begin)


def _credentials(issued: pki.Issued) -> tuple[Any, Any]:
    chain = X509CertChain()
    chain.parsePemList(issued.certificate_pem().decode())
    return chain, parsePEMKey(issued.private_key_pem().decode(), private=True)
