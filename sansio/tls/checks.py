"""What RFC 8446 demands of a message and tlslite-ng does not look at.

tlslite-ng's message objects come in as they were parsed; each function raises HandshakeError with the alert that
RFC 8446 names.  Only attributes of those objects are used, so that this module does not depend on tlslite-ng.
"""

import enum
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from ..status import Alert, Cause
from .errors import refused, violation
from .parameters import Identity
from .primitives import SCHEMES_BY_NUMBER, SUITES_BY_NUMBER, SignatureScheme

TLS_1_2: Final = (3, 3)
TLS_1_3: Final = (3, 4)

HELLO_RETRY_RANDOM: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""RFC 8446, 4.1.3: the ServerHello with this random is a HelloRetryRequest."""

MAX_KEY_SHARES: Final = 64
"""tlslite-ng looks each share up in the list of groups, which may have 32,000 entries; clients send one to three."""

_DOWNGRADE_SENTINELS: Final = (b"DOWNGRD\x01", b"DOWNGRD\x00")  # RFC 8446, 4.1.3


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
_IN_SERVER_HELLO: Final = frozenset({_E.KEY_SHARE, _E.PRE_SHARED_KEY, _E.SUPPORTED_VERSIONS})
_IN_HELLO_RETRY: Final = frozenset({_E.KEY_SHARE, _E.COOKIE, _E.SUPPORTED_VERSIONS})
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
_IN_CERTIFICATE: Final = frozenset({_E.STATUS_REQUEST, _E.SIGNED_CERTIFICATE_TIMESTAMP})
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
DONE_WITH: Final = frozenset(
    {
        _E.SERVER_NAME,  # tlslite-ng stumbles over an empty list, and refuses names with an underscore
        _E.EARLY_DATA,  # tlslite-ng compares two hellos wrongly if the first has it before the cookie
    }
)
"""What a server looks at here, and hides from tlslite-ng."""

_NOT_IN_CLIENT_HELLO: Final = frozenset({_E.OID_FILTERS})


def extension_types(message: Any) -> list[int]:
    """The types of a message's extensions, in their order."""
    return [extension.extType for extension in message.extensions or ()]


def _check_unique(types: Sequence[int], where: str) -> None:
    if len(set(types)) != len(types):
        raise violation(Alert.ILLEGAL_PARAMETER, f"{where} has the same extension twice")


def _check_answered(
    types: Sequence[int], allowed: Collection[int], offered: Collection[int], where: str
) -> None:
    """Extensions of a response: known ones only where RFC 8446, 4.2 has them, and only if we sent them."""
    _check_unique(types, where)
    for number in types:
        if number in _KNOWN and number not in allowed:
            raise violation(Alert.ILLEGAL_PARAMETER, f"extension {number} has no place in {where}")
        if number not in offered:
            raise violation(
                Alert.UNSUPPORTED_EXTENSION, f"{where} has extension {number}, which was not offered"
            )


# What a server receives


def check_client_hello(hello: Any) -> None:
    """Check a ClientHello's form (RFC 8446, 4.1.2 and 4.2)."""
    types = extension_types(hello)
    _check_unique(types, "ClientHello")
    versions = hello.getExtension(_E.SUPPORTED_VERSIONS)
    if versions is not None and not versions.versions:
        raise violation(Alert.DECODE_ERROR, "supported_versions is empty")
    if versions is None or TLS_1_3 not in versions.versions:
        raise violation(Alert.PROTOCOL_VERSION, "the client does not speak TLS 1.3")
    if list(hello.compression_methods) != [0]:
        raise violation(Alert.ILLEGAL_PARAMETER, "ClientHello offers compression")
    if misplaced := _NOT_IN_CLIENT_HELLO.intersection(types):
        raise violation(Alert.ILLEGAL_PARAMETER, f"extension {min(misplaced)} has no place in ClientHello")
    _check_shares(hello.getExtension(_E.KEY_SHARE))
    _check_groups(hello)
    _check_psk_offer(hello.getExtension(_E.PRE_SHARED_KEY), last=types[-1] == _E.PRE_SHARED_KEY)


def _check_shares(offer: Any) -> None:
    if offer is not None and len(offer.client_shares or ()) > MAX_KEY_SHARES:
        raise violation(Alert.ILLEGAL_PARAMETER, f"more than {MAX_KEY_SHARES} key shares")


def check_early_data_offer(hello: Any, *, retried: bool) -> bool:
    """Does the client announce early data (RFC 8446, 4.2.10)?  It may do so once, and for a pre-shared key."""
    extension = hello.getExtension(_E.EARLY_DATA)
    if extension is None:
        return False
    if extension.extData:
        raise violation(Alert.DECODE_ERROR, "the client's early_data extension is not empty")
    if retried:
        raise violation(Alert.ILLEGAL_PARAMETER, "the second ClientHello has early_data")
    if hello.getExtension(_E.PRE_SHARED_KEY) is None:
        raise violation(Alert.ILLEGAL_PARAMETER, "early_data without pre_shared_key")
    return True


def _check_groups(hello: Any) -> None:
    """Groups and shares come together, or not at all (RFC 8446, 9.2); tlslite-ng stumbles otherwise over psk_ke."""
    groups, shares = hello.getExtension(_E.SUPPORTED_GROUPS), hello.getExtension(_E.KEY_SHARE)
    if (groups is None) != (shares is None):
        raise violation(Alert.MISSING_EXTENSION, "supported_groups and key_share, one without the other")
    if groups is not None and (not groups.groups or shares.client_shares is None):
        raise violation(Alert.DECODE_ERROR, "empty supported_groups or key_share")


def check_offer_to_certificates(hello: Any) -> None:
    """What a ClientHello needs when it is to be answered with a certificate (RFC 8446, 9.2)."""
    if hello.getExtension(_E.SIGNATURE_ALGORITHMS) is None:
        raise violation(Alert.MISSING_EXTENSION, "ClientHello without signature_algorithms")
    if hello.getExtension(_E.KEY_SHARE) is None:
        raise violation(Alert.MISSING_EXTENSION, "ClientHello without key_share")


_MIN_BINDER_LENGTH: Final = 32  # RFC 8446, 4.2.11: PskBinderEntry<32..255>


def _check_psk_offer(offer: Any, *, last: bool) -> None:
    if offer is None:
        return
    if not last:
        raise violation(Alert.ILLEGAL_PARAMETER, "pre_shared_key is not the last extension")
    if any(not item.identity for item in offer.identities or ()) or any(
        len(item) < _MIN_BINDER_LENGTH for item in offer.binders or ()
    ):
        raise violation(Alert.DECODE_ERROR, "empty identity or short binder in pre_shared_key")


_HOST_NAME: Final = re.compile(rb"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?\.?", re.ASCII)
_IP_LITERAL: Final = re.compile(rb"[0-9.]+")


def server_name_untrusted(extension: Any) -> str | None:
    """The host name of a ClientHello's server_name extension (RFC 6066, 3), lower case.

    None stands for no name: no extension, no name of type host_name, or an IP literal, which RFC 6066 does not
    allow and some clients send; it is ignored, as OpenSSL and GnuTLS do.
    """
    if extension is None:
        return None
    if not extension.serverNames:
        raise violation(Alert.DECODE_ERROR, "server_name without a name")
    names = extension.hostNames
    if not names:
        return None
    if len(names) > 1:
        raise violation(Alert.ILLEGAL_PARAMETER, "server_name with several host names")
    name = bytes(names[0])
    if not name:
        raise violation(Alert.DECODE_ERROR, "server_name with an empty host name")
    if b":" in name or _IP_LITERAL.fullmatch(name):
        return None
    if not _HOST_NAME.fullmatch(name):
        raise violation(Alert.ILLEGAL_PARAMETER, "server_name is not a host name")
    return name.rstrip(b".").decode("ascii").lower()


def check_alpn_offer(hello: Any, spoken: Sequence[bytes]) -> None:
    """A client that offers ALPN has to offer a protocol that we speak (RFC 7301, 3.2)."""
    extension = hello.getExtension(_E.ALPN)
    if extension is None or not spoken:
        return
    if not extension.protocol_names or not all(extension.protocol_names):
        raise violation(Alert.DECODE_ERROR, "ALPN without a protocol, or with an empty one")
    offered = [bytes(name) for name in extension.protocol_names]
    if not set(offered).intersection(spoken):
        shown = ", ".join(repr(name.decode("ascii", "backslashreplace")) for name in offered[:8])
        raise violation(
            Alert.NO_APPLICATION_PROTOCOL, f"the client speaks none of our protocols, only {shown}"
        )


# What a client receives


def is_hello_retry(hello: Any) -> bool:
    """Is this ServerHello a HelloRetryRequest?"""
    return bytes(hello.random) == HELLO_RETRY_RANDOM


def check_server_hello(hello: Any, client_hello: Any, *, retried: bool, psk: bool = False) -> None:
    """Check a ServerHello or HelloRetryRequest (RFC 8446, 4.1.3 and 4.1.4).

    Args:
        hello: The message.
        client_hello: What it answers.
        retried: A HelloRetryRequest came before.
        psk: Pre-shared keys are offered, so that key_share may be missing; `psk` judges that.
    """
    retry = is_hello_retry(hello)
    where = "HelloRetryRequest" if retry else "ServerHello"
    _check_unique(extension_types(hello), where)
    _check_selected_version(hello)
    if retry and retried:
        raise violation(Alert.UNEXPECTED_MESSAGE, "second HelloRetryRequest")
    if hello.cipher_suite not in client_hello.cipher_suites or hello.cipher_suite not in SUITES_BY_NUMBER:
        raise violation(Alert.ILLEGAL_PARAMETER, f"cipher suite 0x{hello.cipher_suite:04x} was not offered")
    if hello.compression_method != 0:
        raise violation(Alert.ILLEGAL_PARAMETER, "ServerHello selects compression")
    if hello.session_id != client_hello.session_id:
        raise violation(Alert.ILLEGAL_PARAMETER, "ServerHello does not echo the session id")
    offered = {*extension_types(client_hello), *((_E.COOKIE,) if retry else ())}
    allowed = _IN_HELLO_RETRY if retry else _IN_SERVER_HELLO
    _check_answered(extension_types(hello), allowed, offered, where)
    if not retry:
        _check_server_share(hello.getExtension(_E.KEY_SHARE), required=not psk)


def _check_server_share(extension: Any, *, required: bool) -> None:
    if extension is None and not required:
        return
    if extension is None:
        raise violation(Alert.MISSING_EXTENSION, "ServerHello without key_share")
    if extension.server_share is None:
        raise violation(Alert.DECODE_ERROR, "ServerHello with an empty key_share")


def _check_selected_version(hello: Any) -> None:
    extension = hello.getExtension(_E.SUPPORTED_VERSIONS)
    if extension is None:
        if bytes(hello.random[-8:]) in _DOWNGRADE_SENTINELS:
            raise violation(Alert.ILLEGAL_PARAMETER, "someone forced the server to an older version of TLS")
        raise violation(Alert.PROTOCOL_VERSION, "the server does not speak TLS 1.3")
    if extension.version != TLS_1_3 or hello.server_version != TLS_1_2:
        raise violation(Alert.ILLEGAL_PARAMETER, "ServerHello selects a version that was not offered")


def check_encrypted_extensions(message: Any, client_hello: Any) -> None:
    """Check EncryptedExtensions (RFC 8446, 4.3.1; ALPN: RFC 7301, 3.1; SNI: RFC 6066, 3)."""
    _check_answered(
        extension_types(message),
        _IN_ENCRYPTED_EXTENSIONS,
        extension_types(client_hello),
        "EncryptedExtensions",
    )
    name = message.getExtension(_E.SERVER_NAME)
    if name is not None and name.extData:
        raise violation(Alert.DECODE_ERROR, "the server's server_name extension is not empty")
    alpn = message.getExtension(_E.ALPN)
    if alpn is None:
        return
    if len(alpn.protocol_names or ()) != 1 or not alpn.protocol_names[0]:
        raise violation(Alert.DECODE_ERROR, "the server's ALPN does not name one protocol")
    if alpn.protocol_names[0] not in client_hello.getExtension(_E.ALPN).protocol_names:
        raise violation(Alert.ILLEGAL_PARAMETER, "the server chose an ALPN protocol that was not offered")


def check_certificate_request(message: Any) -> None:
    """Check a CertificateRequest (RFC 8446, 4.3.2); extensions that nobody knows are to be ignored."""
    types = extension_types(message)
    _check_unique(types, "CertificateRequest")
    if message.certificate_request_context:
        raise violation(Alert.ILLEGAL_PARAMETER, "CertificateRequest with a context during the handshake")
    for number in types:
        if number in _KNOWN and number not in _IN_CERTIFICATE_REQUEST:
            raise violation(Alert.ILLEGAL_PARAMETER, f"extension {number} has no place in CertificateRequest")
    if message.supported_signature_algs is None:
        raise violation(Alert.MISSING_EXTENSION, "CertificateRequest without signature_algorithms")
    if not message.supported_signature_algs:
        raise violation(Alert.DECODE_ERROR, "CertificateRequest with empty signature_algorithms")


# What both receive


def check_certificate(message: Any) -> None:
    """Check the form of a Certificate message (RFC 8446, 4.4.2); we ask for none of its extensions."""
    if message.certificate_request_context:
        raise violation(Alert.ILLEGAL_PARAMETER, "Certificate with a context during the handshake")
    for entry in message.certificate_list:
        if not entry.certificate.bytes:
            raise violation(Alert.DECODE_ERROR, "empty certificate in the chain")
        _check_answered(extension_types(entry), _IN_CERTIFICATE, (), "Certificate")


def check_certificate_verify(scheme: int, key_kind: str) -> None:
    """The scheme must be one that we offered, and fit the peer's key (RFC 8446, 4.4.3)."""
    known = SCHEMES_BY_NUMBER.get(scheme)
    if known is None:
        raise violation(Alert.ILLEGAL_PARAMETER, f"signature scheme 0x{scheme:04x} was not offered")
    if known.key_kind != key_kind:
        raise violation(Alert.ILLEGAL_PARAMETER, f"scheme {known.name} does not fit a key of kind {key_kind}")


# Choices


def fitting_schemes(kind: str, accepted: Iterable[int]) -> list[int]:
    """The schemes that a key of that kind can make and the peer accepts, in our order."""
    wanted = set(accepted)
    return [
        number for number, scheme in SCHEMES_BY_NUMBER.items() if scheme.key_kind == kind and number in wanted
    ]


def choose_suite(ours: Iterable[int], theirs: Collection[int]) -> int:
    """Our first choice among the suites that the client offers."""
    for number in ours:
        if number in theirs:
            return number
    raise refused(Cause.NO_COMMON_PARAMETERS, "the client offers none of our cipher suites")


def choose_identity(
    identities: Sequence[Identity], server_name: str | None, accepted: Collection[int]
) -> tuple[Identity, SignatureScheme]:
    """The identity for a client: one for the name it asks for if there is one, with a key whose signatures it takes.

    A name that no identity has is answered with the first identity, as other servers do: whether that will do is
    the client's to say.
    """
    named = [identity for identity in identities if _serves(identity, server_name)]
    for identity in (*named, *identities):
        schemes = fitting_schemes(identity.key_kind, accepted)
        if schemes:
            return identity, SCHEMES_BY_NUMBER[schemes[0]]
    kinds = ", ".join(sorted({identity.key_kind for identity in identities}))
    raise refused(Cause.NO_COMMON_PARAMETERS, f"the client takes no signature of our keys ({kinds})")


def _serves(identity: Identity, server_name: str | None) -> bool:
    if server_name is None:
        return False
    _, _, parent = server_name.partition(".")
    return server_name in identity.names or (bool(parent) and f"*.{parent}" in identity.names)
