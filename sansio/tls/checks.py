"""What RFC 8446 demands of a message and tlslite-ng does not look at.

tlslite-ng's message objects come in as they were parsed; each function raises HandshakeError with the alert that
RFC 8446 names.  Only attributes of those objects are used, so that this module does not depend on tlslite-ng.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from ..status import Alert, Cause
from .errors import refused, violation
from .extensions import (
    ExtensionType,
    check_answered,
    check_placed,
    check_unique,
    extension_types,
    is_hello_retry,
)
from .parameters import Identity
from .primitives import SCHEMES_BY_NUMBER, SUITES_BY_NUMBER, SignatureScheme

SSL_3_0: Final = (3, 0)
TLS_1_2: Final = (3, 3)
TLS_1_3: Final = (3, 4)

MAX_KEY_SHARES: Final = 64
"""tlslite-ng looks each share up in the list of groups, which may have 32,000 entries; clients send one to three."""

MAX_SESSION_ID: Final = 32
_DOWNGRADE_SENTINELS: Final = (b"DOWNGRD\x01", b"DOWNGRD\x00")  # RFC 8446, 4.1.3


_E = ExtensionType
_DONE_WITH: Final = frozenset(
    {
        _E.SERVER_NAME,  # tlslite-ng stumbles over an empty list, and refuses names with an underscore
        _E.EARLY_DATA,  # tlslite-ng compares two hellos wrongly if the first has it before the cookie
    }
)
"""What a server looks at here, and hides from tlslite-ng."""

_NOT_IN_CLIENT_HELLO: Final = frozenset({_E.OID_FILTERS})


# What a server receives


def check_client_hello(hello: Any) -> None:
    """Check a ClientHello's form (RFC 8446, 4.1.2 and 4.2)."""
    types = extension_types(hello)
    check_unique(types, "ClientHello")
    versions = hello.getExtension(_E.SUPPORTED_VERSIONS)
    if versions is not None and not versions.versions:
        raise violation(Alert.DECODE_ERROR, "supported_versions is empty")
    if versions is None or TLS_1_3 not in versions.versions:
        raise violation(Alert.PROTOCOL_VERSION, "the client does not speak TLS 1.3")
    if hello.client_version <= SSL_3_0:
        raise violation(Alert.PROTOCOL_VERSION, "ClientHello of SSL 3.0 or older")
    if list(hello.compression_methods) != [0]:
        raise violation(Alert.ILLEGAL_PARAMETER, "ClientHello offers compression")
    if misplaced := _NOT_IN_CLIENT_HELLO.intersection(types):
        raise violation(Alert.ILLEGAL_PARAMETER, f"extension {min(misplaced)} has no place in ClientHello")
    _check_groups(hello)
    _check_certificate_schemes(hello)
    _check_psk_offer(hello, last=types[-1] == _E.PRE_SHARED_KEY)


def hide_what_was_checked(hello: Any) -> None:
    """Keep from tlslite-ng what it would judge in another way; `legacy_version` stays for a second ClientHello."""
    # RFC 8446, 4.2.1: the version is negotiated by supported_versions alone.
    hello.legacy_version, hello.client_version = hello.client_version, TLS_1_2
    hello.extensions = [item for item in hello.extensions if item.extType not in _DONE_WITH]


def check_second_client_hello(hello: Any, first: Any, *, same_name: bool) -> None:
    """What may differ between two ClientHellos (RFC 8446, 4.1.2), as far as tlslite-ng does not see to it."""
    if hello.client_version != first.legacy_version:
        raise violation(Alert.ILLEGAL_PARAMETER, "the second ClientHello has another legacy_version")
    if not same_name:
        raise violation(Alert.ILLEGAL_PARAMETER, "the second ClientHello has another server_name")
    if hello.getExtension(_E.PRE_SHARED_KEY) is None:
        # Keys that don't fit the suite are left out, all of them perhaps.
        first.extensions = [item for item in first.extensions if item.extType != _E.PRE_SHARED_KEY]


def _check_shares(offered: Sequence[int], shares: Sequence[Any]) -> None:
    """Each for another group, of those offered, in their order (RFC 8446, 4.2.8)."""
    if len(shares) > MAX_KEY_SHARES:
        raise violation(Alert.ILLEGAL_PARAMETER, f"more than {MAX_KEY_SHARES} key shares")
    if not all(share.key_exchange for share in shares):
        raise violation(Alert.DECODE_ERROR, "empty key share")
    groups = [share.group for share in shares]
    shared = set(groups)
    if groups != [group for group in offered if group in shared]:
        raise violation(
            Alert.ILLEGAL_PARAMETER,
            "key shares that are not of the supported groups, once each, in their order",
        )


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


def _check_certificate_schemes(message: Any) -> None:
    """Nothing is chosen by signature_algorithms_cert here, but it has to be a list (RFC 8446, 4.2.3)."""
    extension = message.getExtension(_E.SIGNATURE_ALGORITHMS_CERT)
    if extension is not None and not extension.sigalgs:
        raise violation(Alert.DECODE_ERROR, "empty signature_algorithms_cert")


def _check_groups(hello: Any) -> None:
    """Groups and shares come together, or not at all (RFC 8446, 9.2); tlslite-ng stumbles otherwise over psk_ke."""
    groups, shares = hello.getExtension(_E.SUPPORTED_GROUPS), hello.getExtension(_E.KEY_SHARE)
    if (groups is None) != (shares is None):
        raise violation(Alert.MISSING_EXTENSION, "supported_groups and key_share, one without the other")
    if groups is not None and (not groups.groups or shares.client_shares is None):
        raise violation(Alert.DECODE_ERROR, "empty supported_groups or key_share")
    if groups is not None:
        _check_shares(groups.groups, shares.client_shares)


def check_offer_to_certificates(hello: Any) -> None:
    """What a ClientHello needs when it is to be answered with a certificate (RFC 8446, 9.2)."""
    if hello.getExtension(_E.SIGNATURE_ALGORITHMS) is None:
        raise violation(Alert.MISSING_EXTENSION, "ClientHello without signature_algorithms")
    if hello.getExtension(_E.KEY_SHARE) is None:
        raise violation(Alert.MISSING_EXTENSION, "ClientHello without key_share")


_MIN_BINDER_LENGTH: Final = 32  # RFC 8446, 4.2.11: PskBinderEntry<32..255>


def _check_psk_offer(hello: Any, *, last: bool) -> None:
    """The form of an offer of pre-shared keys (RFC 8446, 4.2.9 and 4.2.11), whether one is wanted or not."""
    offer, modes = hello.getExtension(_E.PRE_SHARED_KEY), hello.getExtension(_E.PSK_KEY_EXCHANGE_MODES)
    if modes is not None and not modes.modes:
        raise violation(Alert.DECODE_ERROR, "psk_key_exchange_modes is empty")
    if offer is None:
        return
    if not last:
        raise violation(Alert.ILLEGAL_PARAMETER, "pre_shared_key is not the last extension")
    if any(not item.identity for item in offer.identities or ()) or any(
        len(item) < _MIN_BINDER_LENGTH for item in offer.binders or ()
    ):
        raise violation(Alert.DECODE_ERROR, "empty identity or short binder in pre_shared_key")
    if not offer.identities or not offer.binders:
        raise violation(Alert.DECODE_ERROR, "pre_shared_key without identities or binders")
    if len(offer.identities) != len(offer.binders):
        raise violation(Alert.ILLEGAL_PARAMETER, "pre_shared_key without one binder for each identity")
    if modes is None:
        raise violation(Alert.MISSING_EXTENSION, "pre_shared_key without psk_key_exchange_modes")


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
    check_unique(extension_types(hello), where)
    if hello.server_version <= SSL_3_0:
        raise violation(Alert.PROTOCOL_VERSION, f"{where} of SSL 3.0 or older")
    if len(hello.session_id) > MAX_SESSION_ID:
        raise violation(Alert.DECODE_ERROR, f"{where} with a session id of {len(hello.session_id)} bytes")
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
    check_answered(extension_types(hello), offered, where)
    if retry:
        _check_cookie(hello.getExtension(_E.COOKIE))
    else:
        _check_server_share(hello.getExtension(_E.KEY_SHARE), required=not psk)


def _check_cookie(extension: Any) -> None:
    """It is echoed as it is, if it is one (RFC 8446, 4.2.2)."""
    if extension is None:
        return
    data = extension.extData
    if len(data) <= 2 or len(data) != 2 + int.from_bytes(data[:2]):
        raise violation(Alert.DECODE_ERROR, "malformed cookie in HelloRetryRequest")


def _check_server_share(extension: Any, *, required: bool) -> None:
    if extension is None and not required:
        return
    if extension is None:
        raise violation(Alert.MISSING_EXTENSION, "ServerHello without key_share")
    if extension.server_share is None:
        raise violation(Alert.DECODE_ERROR, "ServerHello with an empty key_share")
    if not extension.server_share.key_exchange:
        raise violation(Alert.DECODE_ERROR, "ServerHello with an empty share")


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
    check_answered(extension_types(message), extension_types(client_hello), "EncryptedExtensions")
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
    check_unique(types, "CertificateRequest")
    if message.certificate_request_context:
        raise violation(Alert.ILLEGAL_PARAMETER, "CertificateRequest with a context during the handshake")
    check_placed(types, "CertificateRequest")
    if _E.SIGNATURE_ALGORITHMS not in types:
        raise violation(Alert.MISSING_EXTENSION, "CertificateRequest without signature_algorithms")
    if not message.supported_signature_algs:
        raise violation(Alert.DECODE_ERROR, "CertificateRequest with empty signature_algorithms")
    _check_certificate_schemes(message)


# What both receive


def check_certificate(message: Any) -> None:
    """Check the form of a Certificate message (RFC 8446, 4.4.2); we ask for none of its extensions."""
    if message.certificate_request_context:
        raise violation(Alert.ILLEGAL_PARAMETER, "Certificate with a context during the handshake")
    for entry in message.certificate_list:
        if not entry.certificate.bytes:
            raise violation(Alert.DECODE_ERROR, "empty certificate in the chain")
        check_answered(extension_types(entry), (), "Certificate")


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
