"""Extensions: which may stand in which message (RFC 8446, 4.2), none twice, and none that answers nothing.

Messages come as tlslite-ng has parsed them.  It reads an extension in the format of the ClientHello where that has
no place in a message, and fails over another one: `check_places_untrusted` looks at the bytes then.
"""

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ..status import Alert
from .errors import violation
from .records import HandshakeType

HELLO_RETRY_RANDOM: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""RFC 8446, 4.1.3: the ServerHello with this random is a HelloRetryRequest."""


class ExtensionType(enum.IntEnum):
    """ExtensionType (RFC 8446, 4.2, and the IANA registry for what a TLS 1.3 peer may recognise)."""

    SERVER_NAME = 0
    MAX_FRAGMENT_LENGTH = 1
    STATUS_REQUEST = 5
    CERT_TYPE = 9
    SUPPORTED_GROUPS = 10
    EC_POINT_FORMATS = 11
    SIGNATURE_ALGORITHMS = 13
    USE_SRTP = 14
    HEARTBEAT = 15
    ALPN = 16
    SIGNED_CERTIFICATE_TIMESTAMP = 18
    CLIENT_CERTIFICATE_TYPE = 19
    SERVER_CERTIFICATE_TYPE = 20
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


_E = ExtensionType
_KNOWN: Final = frozenset(_E)
_IN_ENCRYPTED_EXTENSIONS: Final = frozenset(
    {
        _E.SERVER_NAME,
        _E.MAX_FRAGMENT_LENGTH,
        _E.SUPPORTED_GROUPS,
        _E.USE_SRTP,
        _E.HEARTBEAT,
        _E.ALPN,
        _E.CLIENT_CERTIFICATE_TYPE,
        _E.SERVER_CERTIFICATE_TYPE,
        _E.RECORD_SIZE_LIMIT,
        _E.EARLY_DATA,
    }
)
_IN_CERTIFICATE_REQUEST: Final = frozenset(
    {
        _E.STATUS_REQUEST,
        _E.SIGNATURE_ALGORITHMS,
        _E.SIGNED_CERTIFICATE_TIMESTAMP,
        _E.COMPRESS_CERTIFICATE,
        _E.CERTIFICATE_AUTHORITIES,
        _E.OID_FILTERS,
        _E.SIGNATURE_ALGORITHMS_CERT,
    }
)

_PLACES: Final[Mapping[str, frozenset[ExtensionType]]] = {
    "ServerHello": frozenset({_E.KEY_SHARE, _E.PRE_SHARED_KEY, _E.SUPPORTED_VERSIONS}),
    "HelloRetryRequest": frozenset({_E.KEY_SHARE, _E.COOKIE, _E.SUPPORTED_VERSIONS}),
    "EncryptedExtensions": _IN_ENCRYPTED_EXTENSIONS,
    "CertificateRequest": _IN_CERTIFICATE_REQUEST,
    "Certificate": frozenset({_E.STATUS_REQUEST, _E.SIGNED_CERTIFICATE_TIMESTAMP}),
}
"""What may stand in which message, by its name (RFC 8446, 4.2); in a ClientHello everything but oid_filters."""


def is_hello_retry(hello: Any) -> bool:
    """Is this ServerHello a HelloRetryRequest?"""
    return bytes(hello.random) == HELLO_RETRY_RANDOM


def extension_types(message: Any) -> list[int]:
    """The types of a message's extensions, in their order."""
    return [extension.extType for extension in message.extensions or ()]


def check_unique(types: Sequence[int], where: str) -> None:
    """No type comes twice (RFC 8446, 4.2)."""
    if len(set(types)) != len(types):
        raise violation(Alert.ILLEGAL_PARAMETER, f"{where} has the same extension twice")


def check_placed(types: Iterable[int], where: str) -> None:
    """Extensions that we know stand only where they may."""
    for number in types:
        if number in _KNOWN and number not in _PLACES[where]:
            raise violation(Alert.ILLEGAL_PARAMETER, f"extension {number} has no place in {where}")


def check_answered(types: Sequence[int], offered: Collection[int], where: str) -> None:
    """Extensions of a response: each once, known ones only where they may stand, and only what we sent."""
    check_unique(types, where)
    check_placed(types, where)
    for number in types:
        if number not in offered:
            raise violation(
                Alert.UNSUPPORTED_EXTENSION, f"{where} has extension {number}, which was not offered"
            )


def check_places_untrusted(message: bytes) -> None:
    """Look for a misplaced extension in a message that could not be parsed: its format may be another one there.

    Raises:
        HandshakeError: There is one; nothing is raised for whatever else is wrong.
    """
    body = message[4:]
    match message[0]:
        case HandshakeType.SERVER_HELLO:
            where = "HelloRetryRequest" if body[2:34] == HELLO_RETRY_RANDOM else "ServerHello"
            _check_block(body[38 + body[34] :] if len(body) > 34 else b"", where)
        case HandshakeType.ENCRYPTED_EXTENSIONS:
            _check_block(body, "EncryptedExtensions")
        case HandshakeType.CERTIFICATE_REQUEST:
            _check_block(body[1 + body[0] :] if body else b"", "CertificateRequest")
        case HandshakeType.CERTIFICATE:
            # The context, the list's length, the first certificate: then come its extensions.
            rest = body[4 + body[0] :] if body else b""
            _check_block(rest[3 + int.from_bytes(rest[:3]) :], "Certificate")


def _check_block(block: bytes, where: str) -> None:
    check_placed(_types_untrusted(block[2 : 2 + int.from_bytes(block[:2])]), where)


def _types_untrusted(extensions: bytes) -> Iterator[int]:
    at = 0
    while at + 4 <= len(extensions):
        yield int.from_bytes(extensions[at : at + 2])
        at += 4 + int.from_bytes(extensions[at + 2 : at + 4])
