"""The few fields of handshake messages that tell what was negotiated (RFC 8446, 4).

Each function takes a whole handshake message with its header.  What is malformed raises HandshakeError, as for the engine.
"""

from dataclasses import dataclass
from typing import Final

from ..status import Alert
from ..tls.errors import violation
from ..tls.extensions import HELLO_RETRY_RANDOM, ExtensionType

_HEADER: Final = 4


class Cursor:
    """Reads a message's fields, one behind the other."""

    def __init__(self, data: bytes, start: int = 0) -> None:
        self._data = data
        self._offset = start

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            HandshakeError: There are not as many.
        """
        taken = self._data[self._offset : self._offset + size]
        if len(taken) != size:
            raise violation(Alert.DECODE_ERROR, "a handshake message ends within one of its fields")
        self._offset += size
        return taken

    def number(self, width: int) -> int:
        """The next number of that many bytes."""
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> bytes:
        """The next vector, whose length is a number of that many bytes."""
        return self.take(self.number(width))

    @property
    def more(self) -> bool:
        """Is anything left?"""
        return self._offset < len(self._data)


def _vectors(data: bytes, width: int) -> tuple[bytes, ...]:
    """A list that is itself a vector of vectors (ALPN's names, for example)."""
    cursor, found = Cursor(data), []
    while cursor.more:
        found.append(cursor.vector(width))
    return tuple(found)


def _numbers(data: bytes) -> tuple[int, ...]:
    cursor, found = Cursor(data), []
    while cursor.more:
        found.append(cursor.number(2))
    return tuple(found)


def _extensions(data: bytes) -> dict[int, bytes]:
    cursor, found = Cursor(data), dict[int, bytes]()
    while cursor.more:
        number, content = cursor.number(2), cursor.vector(2)
        if number in found:
            raise violation(Alert.ILLEGAL_PARAMETER, f"a message has extension {number} twice")
        found[number] = content
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """A ClientHello (RFC 8446, 4.1.2).

    Attributes:
        random: Its random, by which key logs name the connection.
        session_id: What a server has to echo.
        suites: The cipher suites, code points.
        server_name: The host name of SNI (RFC 6066, 3), or None.
        alpn: The protocols that are offered.
        schemes: The signature schemes that are accepted.
        groups: The groups that are offered.
        shares: The groups for which there is a key share.
        psk_identities: The identities of the pre-shared keys that are offered.
        early_data: Is early data announced?
    """

    random: bytes
    session_id: bytes
    suites: tuple[int, ...]
    server_name: str | None
    alpn: tuple[bytes, ...]
    schemes: tuple[int, ...]
    groups: tuple[int, ...]
    shares: tuple[int, ...]
    psk_identities: tuple[bytes, ...]
    early_data: bool


def parse_client_hello(message: bytes) -> ClientHello:
    """Parse a ClientHello."""
    cursor = Cursor(message, _HEADER)
    cursor.take(2)
    random, session_id = cursor.take(32), cursor.vector(1)
    suites = _numbers(cursor.vector(2))
    cursor.vector(1)
    extensions = _extensions(cursor.vector(2)) if cursor.more else {}
    _end(cursor, "ClientHello")

    def inside(number: int) -> bytes:
        """The list inside an extension, b"" where that is missing."""
        content = extensions.get(number)
        return b"" if content is None else Cursor(content).vector(2)

    return ClientHello(
        random=random,
        session_id=session_id,
        suites=suites,
        server_name=_host_name(inside(ExtensionType.SERVER_NAME)),
        alpn=_vectors(inside(ExtensionType.ALPN), 1),
        schemes=_numbers(inside(ExtensionType.SIGNATURE_ALGORITHMS)),
        groups=_numbers(inside(ExtensionType.SUPPORTED_GROUPS)),
        shares=_shares(inside(ExtensionType.KEY_SHARE)),
        psk_identities=_identities(inside(ExtensionType.PRE_SHARED_KEY)),
        early_data=ExtensionType.EARLY_DATA in extensions,
    )


def _host_name(names: bytes) -> str | None:
    cursor = Cursor(names)
    while cursor.more:
        kind, name = cursor.number(1), cursor.vector(2)
        if kind == 0:
            return name.decode("ascii", "backslashreplace")
    return None


def _shares(entries: bytes) -> tuple[int, ...]:
    cursor, found = Cursor(entries), []
    while cursor.more:
        found.append(cursor.number(2))
        cursor.vector(2)
    return tuple(found)


def _identities(entries: bytes) -> tuple[bytes, ...]:
    cursor, found = Cursor(entries), []
    while cursor.more:
        found.append(cursor.vector(2))
        cursor.take(4)  # obfuscated_ticket_age
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHello:
    """A ServerHello or HelloRetryRequest (RFC 8446, 4.1.3 and 4.1.4).

    Attributes:
        retry: Is it a HelloRetryRequest?
        session_id: The echo of the client's.
        suite: The cipher suite, a code point.
        version: What supported_versions selects; None without it, which means an older TLS.
        group: The group of the key share, or the one that is asked for; None without it.
        psk: The index of the pre-shared key that was chosen, or None.
    """

    retry: bool
    session_id: bytes
    suite: int
    version: int | None
    group: int | None
    psk: int | None


def parse_server_hello(message: bytes) -> ServerHello:
    """Parse a ServerHello or HelloRetryRequest."""
    cursor = Cursor(message, _HEADER)
    cursor.take(2)
    random, session_id, suite = cursor.take(32), cursor.vector(1), cursor.number(2)
    cursor.take(1)
    extensions = _extensions(cursor.vector(2)) if cursor.more else {}
    _end(cursor, "ServerHello")

    def number(extension: int) -> int | None:
        content = extensions.get(extension)
        return None if content is None else Cursor(content).number(2)

    return ServerHello(
        retry=random == HELLO_RETRY_RANDOM,
        session_id=session_id,
        suite=suite,
        version=number(ExtensionType.SUPPORTED_VERSIONS),
        group=number(ExtensionType.KEY_SHARE),
        psk=number(ExtensionType.PRE_SHARED_KEY),
    )


def parse_encrypted_extensions(message: bytes) -> dict[int, bytes]:
    """Parse EncryptedExtensions: contents by number."""
    cursor = Cursor(message, _HEADER)
    extensions = _extensions(cursor.vector(2))
    _end(cursor, "EncryptedExtensions")
    return extensions


def chosen_alpn(extensions: dict[int, bytes]) -> bytes | None:
    """The protocol that a server's EncryptedExtensions choose."""
    content = extensions.get(ExtensionType.ALPN)
    names = () if content is None else _vectors(Cursor(content).vector(2), 1)
    return names[0] if names else None


def parse_certificate_request(message: bytes) -> tuple[int, ...]:
    """Parse a CertificateRequest: the signature schemes that the server accepts."""
    cursor = Cursor(message, _HEADER)
    cursor.vector(1)
    extensions = _extensions(cursor.vector(2))
    _end(cursor, "CertificateRequest")
    content = extensions.get(ExtensionType.SIGNATURE_ALGORITHMS)
    return () if content is None else _numbers(Cursor(content).vector(2))


def parse_certificate(message: bytes) -> tuple[bytes, ...]:
    """Parse a Certificate: the chain as DER, the leaf first."""
    cursor = Cursor(message, _HEADER)
    cursor.vector(1)
    entries, chain = Cursor(cursor.vector(3)), []
    _end(cursor, "Certificate")
    while entries.more:
        chain.append(entries.vector(3))
        entries.vector(2)
    return tuple(chain)


def parse_certificate_verify(message: bytes) -> tuple[int, bytes]:
    """Parse a CertificateVerify: the signature scheme, and the signature."""
    cursor = Cursor(message, _HEADER)
    scheme, signature = cursor.number(2), cursor.vector(2)
    _end(cursor, "CertificateVerify")
    return scheme, signature


def _end(cursor: Cursor, name: str) -> None:
    if cursor.more:
        raise violation(Alert.DECODE_ERROR, f"bytes are left over behind {name}")
