"""TLS 1.3 handshake messages as the adversary builds and reads them (RFC 8446, 4).

They are plain lists and bytes with no checks at all: whatever a test puts in goes out.  An extension is a pair of
its type and its content; the functions below make the contents that are well-formed.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

Extension = tuple[int, bytes]

HELLO_RETRY_RANDOM: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


class MessageType(enum.IntEnum):
    """HandshakeType, RFC 8446, B.3."""

    HELLO_REQUEST = 0
    CLIENT_HELLO = 1
    SERVER_HELLO = 2
    NEW_SESSION_TICKET = 4
    END_OF_EARLY_DATA = 5
    ENCRYPTED_EXTENSIONS = 8
    CERTIFICATE = 11
    SERVER_KEY_EXCHANGE = 12
    CERTIFICATE_REQUEST = 13
    SERVER_HELLO_DONE = 14
    CERTIFICATE_VERIFY = 15
    FINISHED = 20
    KEY_UPDATE = 24
    COMPRESSED_CERTIFICATE = 25
    MESSAGE_HASH = 254


class Type(enum.IntEnum):
    """ExtensionType, RFC 8446, 4.2, and some that TLS 1.3 does not know."""

    SERVER_NAME = 0
    MAX_FRAGMENT_LENGTH = 1
    STATUS_REQUEST = 5
    SUPPORTED_GROUPS = 10
    EC_POINT_FORMATS = 11
    SIGNATURE_ALGORITHMS = 13
    HEARTBEAT = 15
    ALPN = 16
    CERTIFICATE_TIMESTAMP = 18
    CLIENT_CERTIFICATE_TYPE = 19
    PADDING = 21
    EXTENDED_MASTER_SECRET = 23
    COMPRESS_CERTIFICATE = 27
    RECORD_SIZE_LIMIT = 28
    SESSION_TICKET = 35
    PRE_SHARED_KEY = 41
    EARLY_DATA = 42
    SUPPORTED_VERSIONS = 43
    COOKIE = 44
    PSK_KEY_EXCHANGE_MODES = 45
    CERTIFICATE_AUTHORITIES = 47
    OID_FILTERS = 48
    POST_HANDSHAKE_AUTH = 49
    SIGNATURE_ALGORITHMS_CERT = 50
    KEY_SHARE = 51
    RENEGOTIATION_INFO = 0xFF01


# Writing


def vector(data: bytes, width: int) -> bytes:
    """A variable-length vector: a length of `width` bytes, then the data."""
    return len(data).to_bytes(width) + data


def numbers(values: Iterable[int], width: int = 2) -> bytes:
    return b"".join(value.to_bytes(width) for value in values)


def message(message_type: int, body: bytes) -> bytes:
    return bytes([message_type]) + vector(body, 3)


def extension_block(extensions: Sequence[Extension]) -> bytes:
    return vector(b"".join(kind.to_bytes(2) + vector(content, 2) for kind, content in extensions), 2)


def key_share_entry(group: int, share: bytes) -> bytes:
    return group.to_bytes(2) + vector(share, 2)


def server_name(name: bytes, name_type: int = 0) -> Extension:
    return Type.SERVER_NAME, vector(bytes([name_type]) + vector(name, 2), 2)


def alpn(*protocols: bytes) -> Extension:
    return Type.ALPN, vector(b"".join(vector(name, 1) for name in protocols), 2)


def supported_groups(*groups: int) -> Extension:
    return Type.SUPPORTED_GROUPS, vector(numbers(groups), 2)


def signature_algorithms(*schemes: int) -> Extension:
    return Type.SIGNATURE_ALGORITHMS, vector(numbers(schemes), 2)


def client_versions(*versions: int) -> Extension:
    return Type.SUPPORTED_VERSIONS, vector(numbers(versions), 1)


def client_shares(*shares: tuple[int, bytes]) -> Extension:
    return Type.KEY_SHARE, vector(b"".join(key_share_entry(*share) for share in shares), 2)


def psk_offer(identities: Sequence[bytes], binders: Sequence[bytes]) -> Extension:
    listed = b"".join(vector(identity, 2) + bytes(4) for identity in identities)
    return Type.PRE_SHARED_KEY, vector(listed, 2) + vector(b"".join(vector(item, 1) for item in binders), 2)


@dataclass(kw_only=True)
class ClientHello:
    """RFC 8446, 4.1.2."""

    random: bytes
    session_id: bytes = b""
    cipher_suites: list[int]
    extensions: list[Extension]
    version: int = 0x0303
    compression: bytes = b"\x00"
    trailer: bytes = b""

    def write(self) -> bytes:
        body = self.version.to_bytes(2) + self.random + vector(self.session_id, 1)
        body += vector(numbers(self.cipher_suites), 2) + vector(self.compression, 1)
        return message(MessageType.CLIENT_HELLO, body + extension_block(self.extensions) + self.trailer)


@dataclass(kw_only=True)
class ServerHello:
    """RFC 8446, 4.1.3; a HelloRetryRequest is one with a certain random."""

    random: bytes
    session_id: bytes = b""
    cipher_suite: int
    extensions: list[Extension] = field(default_factory=list)
    version: int = 0x0303
    compression: int = 0
    trailer: bytes = b""

    def write(self) -> bytes:
        body = self.version.to_bytes(2) + self.random + vector(self.session_id, 1)
        body += self.cipher_suite.to_bytes(2) + bytes([self.compression])
        return message(MessageType.SERVER_HELLO, body + extension_block(self.extensions) + self.trailer)


def certificate(
    chain: Sequence[bytes], *, context: bytes = b"", extensions: Sequence[Extension] = ()
) -> bytes:
    """RFC 8446, 4.4.2; `extensions` go to the first entry."""
    entries = b""
    for position, der in enumerate(chain):
        entries += vector(der, 3) + extension_block(extensions if position == 0 else ())
    return message(MessageType.CERTIFICATE, vector(context, 1) + vector(entries, 3))


def certificate_verify(scheme: int, signature: bytes) -> bytes:
    return message(MessageType.CERTIFICATE_VERIFY, scheme.to_bytes(2) + vector(signature, 2))


def certificate_request(extensions: Sequence[Extension], *, context: bytes = b"") -> bytes:
    return message(MessageType.CERTIFICATE_REQUEST, vector(context, 1) + extension_block(extensions))


def encrypted_extensions(extensions: Sequence[Extension] = ()) -> bytes:
    return message(MessageType.ENCRYPTED_EXTENSIONS, extension_block(extensions))


# Reading (what the engine under test wrote, which is well-formed or the test fails here)


class Reader:
    """Reads numbers and vectors one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        assert len(piece) == count, "a message ends too early"
        self._at += count
        return piece

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width))

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))

    @property
    def done(self) -> bool:
        return self._at == len(self._data)

    def end(self) -> None:
        assert self.done, "a message has bytes behind its end"

    def extensions(self) -> list[Extension]:
        block = Reader(self.vector(2))
        found = []
        while not block.done:
            found.append((block.number(2), block.vector(2)))
        return found


def read_numbers(data: bytes, width: int = 2) -> list[int]:
    return [int.from_bytes(data[at : at + width]) for at in range(0, len(data), width)]


def _body(data: bytes, message_type: int) -> Reader:
    assert data[0] == message_type, f"message {data[0]}, not {message_type}"
    reader = Reader(data[1:])
    body = reader.vector(3)
    reader.end()
    return Reader(body)


def read_client_hello(data: bytes) -> ClientHello:
    body = _body(data, MessageType.CLIENT_HELLO)
    hello = ClientHello(
        version=body.number(2),
        random=body.take(32),
        session_id=body.vector(1),
        cipher_suites=read_numbers(body.vector(2)),
        compression=body.vector(1),
        extensions=body.extensions(),
    )
    body.end()
    return hello


def read_server_hello(data: bytes) -> ServerHello:
    body = _body(data, MessageType.SERVER_HELLO)
    hello = ServerHello(
        version=body.number(2),
        random=body.take(32),
        session_id=body.vector(1),
        cipher_suite=body.number(2),
        compression=body.number(1),
        extensions=body.extensions(),
    )
    body.end()
    return hello


def read_certificate_request(data: bytes) -> tuple[bytes, list[Extension]]:
    body = _body(data, MessageType.CERTIFICATE_REQUEST)
    context, extensions = body.vector(1), body.extensions()
    body.end()
    return context, extensions


def read_encrypted_extensions(data: bytes) -> list[Extension]:
    body = _body(data, MessageType.ENCRYPTED_EXTENSIONS)
    extensions = body.extensions()
    body.end()
    return extensions


def read_certificate(data: bytes) -> list[bytes]:
    body = _body(data, MessageType.CERTIFICATE)
    body.vector(1)
    entries, chain = Reader(body.vector(3)), []
    while not entries.done:
        chain.append(entries.vector(3))
        entries.extensions()
    return chain


def read_client_shares(hello: ClientHello) -> dict[int, bytes]:
    entries, shares = Reader(Reader(dict(hello.extensions)[Type.KEY_SHARE]).vector(2)), {}
    while not entries.done:
        group = entries.number(2)
        shares[group] = entries.vector(2)
    return shares
