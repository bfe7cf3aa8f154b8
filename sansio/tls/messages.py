"""tlslite-ng's messages, as the handshake reads and writes them.

Their formats are tlslite-ng's, but what is the same in each handshake is done once:

* The extensions of our ClientHello are made and serialised once for each configuration (`_fixed_extensions`); a
  handshake adds its key shares and pre-shared keys.
* Extensions that come in are parsed by tlslite-ng once for each content (`_parse_shared`): peers send the same
  versions, groups and schemes over and over.  Only parsed objects that nobody changes are shared.
* Certificates stay bytes.

`rebound` gives a method of tlslite-ng other globals, so that tlslite-ng itself stays as it is for everybody else in
the process.
"""

import types
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from tlslite import messages
from tlslite.constants import CertificateType, GroupName, PskKeyExchangeMode
from tlslite.errors import TLSIllegalParameterException
from tlslite.extensions import (
    ALPNExtension,
    ClientKeyShareExtension,
    PreSharedKeyExtension,
    PskIdentity,
    PskKeyExchangeModesExtension,
    SignatureAlgorithmsExtension,
    SNIExtension,
    SupportedGroupsExtension,
    SupportedVersionsExtension,
    TLSExtension,
)
from tlslite.messages import (
    Certificate,
    CertificateEntry,
    CertificateRequest,
    CertificateVerify,
    ClientHello,
    EncryptedExtensions,
    Finished,
    ServerHello,
)
from tlslite.utils.codec import DecodeError, Parser
from tlslite.x509certchain import X509CertChain

from ..status import Alert, Cause
from . import checks
from .adapters import CertificateBytes
from .errors import HandshakeError, refused, violation
from .extensions import ExtensionType, check_places_untrusted
from .primitives import CERTIFICATE_ONLY_SCHEMES, HASHES, SCHEMES_BY_NUMBER
from .records import HandshakeMessage, HandshakeType, handshake_type_name


def rebound(method: Any, namespace: Mapping[str, Any]) -> Any:
    """The same method, but with another namespace behind the global names it uses."""
    return types.FunctionType(
        method.__code__, dict(namespace), method.__name__, method.__defaults__, method.__closure__
    )


# Signature schemes as tlslite-ng has them


def scheme_pair(scheme: int) -> tuple[int, int]:
    """A SignatureScheme as tlslite-ng writes it."""
    return scheme >> 8, scheme & 0xFF


def scheme_number(scheme: tuple[int, int]) -> int:
    """A SignatureScheme as everybody else writes it."""
    return scheme[0] << 8 | scheme[1]


ORDERED_SIGNATURE_SCHEMES: Final = [
    scheme_pair(number) for number in (*SCHEMES_BY_NUMBER, *CERTIFICATE_ONLY_SCHEMES)
]


# Extensions that come in

MAX_SHARED_EXTENSION: Final = 512
"""Bytes of an extension that is worth keeping: a long list of groups or schemes has about 60."""

MAX_SHARED_EXTENSIONS: Final = 256
"""Parsed extensions that are kept: a client sends six of them, and there are few kinds of clients."""

_SHARED: Final = frozenset(
    {
        ExtensionType.SERVER_NAME,
        ExtensionType.SUPPORTED_GROUPS,
        ExtensionType.EC_POINT_FORMATS,
        ExtensionType.SIGNATURE_ALGORITHMS,
        ExtensionType.ALPN,
        ExtensionType.EXTENDED_MASTER_SECRET,
        ExtensionType.SESSION_TICKET,
        ExtensionType.SUPPORTED_VERSIONS,
        ExtensionType.PSK_KEY_EXCHANGE_MODES,
        ExtensionType.SIGNATURE_ALGORITHMS_CERT,
    }
)
"""Neither secret, nor different each time, nor changed after its parsing (as key_share is by a HelloRetryRequest)."""


@lru_cache(maxsize=MAX_SHARED_EXTENSIONS)
def _parse_shared(content: bytes, server: bool, cert: bool, hrr: bool) -> Any:
    return TLSExtension(server=server, cert=cert, hrr=hrr).parse(Parser(bytearray(content)))


class _Extension:
    """Stands where tlslite-ng's messages have TLSExtension for parsing."""

    def __init__(
        self, *, server: bool = False, cert: bool = False, hrr: bool = False, **_no_parsers: bool
    ) -> None:
        self._flags = server, cert, hrr

    def parse(self, parser: Any) -> Any:
        data, start = parser.bytes, parser.index
        if int.from_bytes(data[start : start + 2]) in _SHARED:
            end = start + 4 + int.from_bytes(data[start + 2 : start + 4])
            if end <= len(data) and end - start <= MAX_SHARED_EXTENSION:
                parser.index = end
                return _parse_shared(bytes(data[start:end]), *self._flags)
        server, cert, hrr = self._flags
        return TLSExtension(server=server, cert=cert, hrr=hrr).parse(parser)


class _Parser(Parser):
    """tlslite-ng's, with its most used methods done at once."""

    index: int

    def get(self, length: int) -> int:
        end = self.index + length
        if end > len(self.bytes):
            raise DecodeError("Read past end of buffer")
        number = int.from_bytes(self.bytes[self.index : end])
        self.index = end
        return number

    def getVarList(self, length: int, lengthLength: int) -> list[int]:
        data = self.getVarBytes(lengthLength)
        if len(data) % length:
            raise DecodeError("Encoded length not a multiple of element length")
        return [int.from_bytes(data[start : start + length]) for start in range(0, len(data), length)]


_READING: Final = {**vars(messages), "TLSExtension": _Extension, "Parser": _Parser}


# Messages that come in


class _Extensions:
    """Of a message with extensions; each of them is there once, which is checked as soon as it is parsed."""

    extensions: list[Any] | None

    def getExtension(self, extType: int) -> Any:
        for extension in self.extensions or ():
            if extension.extType == extType:
                return extension
        return None


class _ClientHello(_Extensions, ClientHello):
    parse = rebound(ClientHello.parse, _READING)


class _ServerHello(_Extensions, ServerHello):
    parse = rebound(ServerHello.parse, _READING)


class _EncryptedExtensions(_Extensions, EncryptedExtensions):
    parse = rebound(EncryptedExtensions.parse, _READING)


class _CertificateRequest(_Extensions, CertificateRequest):
    parse = rebound(CertificateRequest.parse, _READING)


class Chain(X509CertChain):
    """A certificate chain; `usable` is false where the peer can't check its key's signatures."""

    def __init__(self, certificates: Sequence[CertificateBytes], kind: str = "") -> None:
        super().__init__(list(certificates))
        self.kind = kind
        self.usable = True

    def __bool__(self) -> bool:
        return self.usable


class _CertificateEntry(CertificateEntry):
    def parse(self, parser: Any) -> "_CertificateEntry":
        self.certificate = CertificateBytes(bytes(parser.getVarBytes(3)))
        self.extensions = []
        parser.startLengthCheck(2)
        while not parser.atLengthCheck():
            self.extensions.append(TLSExtension(cert=True).parse(parser))
        parser.stopLengthCheck()
        return self


_MAX_CERTIFICATES: Final = 100
"""More than any verifier takes; a message has room for 20,000, all to be parsed before one is looked at."""


class CertificateMessage(Certificate):
    """A peer's Certificate message, its certificates left as bytes."""

    cert_chain: Chain | None = None

    def _parse_certificate_list(self, parser: Any) -> None:
        self.certificate_list: list[Any] = []
        while parser.getRemainingLength():
            if len(self.certificate_list) == _MAX_CERTIFICATES:
                raise refused(Cause.BAD_CERTIFICATE, f"more than {_MAX_CERTIFICATES} certificates in a chain")
            self.certificate_list.append(_CertificateEntry(self.certificateType).parse(parser))
        if self.certificate_list:
            self.cert_chain = Chain([entry.certificate for entry in self.certificate_list])

    @property
    def chain(self) -> tuple[bytes, ...]:
        return tuple(entry.certificate.bytes for entry in self.certificate_list)


PARSERS: Final[dict[int, Callable[..., Any]]] = {
    HandshakeType.CLIENT_HELLO: lambda _: _ClientHello(),
    HandshakeType.SERVER_HELLO: lambda _: _ServerHello(),
    HandshakeType.ENCRYPTED_EXTENSIONS: lambda _: _EncryptedExtensions(),
    HandshakeType.CERTIFICATE_REQUEST: lambda _: cast("Any", _CertificateRequest)(checks.TLS_1_3),
    HandshakeType.CERTIFICATE: lambda _: CertificateMessage(CertificateType.x509, checks.TLS_1_3),
    HandshakeType.CERTIFICATE_VERIFY: lambda _: CertificateVerify(checks.TLS_1_3),
    HandshakeType.FINISHED: lambda length: Finished(checks.TLS_1_3, length),
}
"""The messages that a peer may send; each takes what tlslite-ng gives for its type, the length of a Finished."""


def parse_untrusted(message: HandshakeMessage, length: object) -> Any:
    """Parse a message as tlslite-ng does.

    Args:
        message: One of the types in `PARSERS`.
        length: What tlslite-ng gives for its type.

    Raises:
        HandshakeError: It is malformed.
    """
    parser = _Parser(bytearray(message.data[1:]))
    try:
        return PARSERS[message.message_type](length).parse(parser)
    except HandshakeError:
        raise
    except TLSIllegalParameterException as error:
        name = handshake_type_name(message.message_type)
        raise violation(Alert.ILLEGAL_PARAMETER, f"malformed {name}: {error}") from error
    except Exception as error:  # tlslite-ng's parsers raise about anything on malformed input
        check_places_untrusted(message.data)
        name = handshake_type_name(message.message_type)
        raise violation(Alert.DECODE_ERROR, f"malformed {name}: {error}") from error


# The ClientHello that goes out


@lru_cache(maxsize=64)
def _fixed_extensions(
    server_name: str | None,
    alpn: tuple[bytes, ...],
    groups: tuple[str, ...],
    psk_modes: tuple[str, ...],
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a configuration's ClientHellos have in common: the extensions before the key shares, and behind them.

    With pre-shared keys there are no signature_algorithms: without them no server can answer with a certificate
    (RFC 8446, 4.2.3).  Without keys there are no psk_key_exchange_modes, so that servers send no tickets (4.2.9).
    """
    before: list[Any] = []
    if server_name is not None:
        before.append(SNIExtension().create(bytearray(server_name, "ascii")))
    if not psk_modes:
        before.append(SignatureAlgorithmsExtension().create(ORDERED_SIGNATURE_SCHEMES))
    if alpn:
        before.append(ALPNExtension().create([bytearray(name) for name in alpn]))
    before.append(SupportedVersionsExtension().create([checks.TLS_1_3]))
    modes = [getattr(PskKeyExchangeMode, mode) for mode in psk_modes]
    behind = [PskKeyExchangeModesExtension().create(modes)] if modes else []
    behind.append(SupportedGroupsExtension().create([getattr(GroupName, name) for name in groups]))
    for extension in (*before, *behind):
        extension.written = bytes(extension.write())
    return tuple(before), tuple(behind)


class OwnClientHello(_Extensions, ClientHello):
    """A ClientHello of ours."""

    def write(self) -> bytes:
        """Serialise it (RFC 8446, 4.1.2)."""
        extensions = b"".join(
            getattr(extension, "written", None) or extension.write() for extension in self.extensions or ()
        )
        suites = b"".join(suite.to_bytes(2) for suite in self.cipher_suites)
        body = b"".join(
            (
                b"\x03\x03",
                self.random,
                len(self.session_id).to_bytes(1),
                self.session_id,
                len(suites).to_bytes(2),
                suites,
                b"\x01\x00",
                len(extensions).to_bytes(2),
                extensions,
            )
        )
        return bytes([HandshakeType.CLIENT_HELLO]) + len(body).to_bytes(3) + body


def client_hello(
    *,
    session_id: bytearray,
    suites: Sequence[int],
    server_name: str | None,
    alpn: tuple[bytes, ...],
    groups: tuple[str, ...],
    shares: Sequence[Any],
    psk_modes: tuple[str, ...] = (),
    psks: Sequence[tuple[bytes, bytes, str]] = (),
) -> OwnClientHello:
    """A ClientHello, but for its random.

    Args:
        session_id: For middleboxes (RFC 8446, D.4).
        suites: The numbers of the cipher suites.
        server_name: For SNI, or None.
        alpn: The protocols to offer, or none.
        groups: The groups to offer, those of the shares first.
        shares: tlslite-ng's KeyShareEntry of each share.
        psk_modes: tlslite-ng's names of the modes; none without pre-shared keys.
        psks: The pre-shared keys as tlslite-ng's settings have them; their binders are left blank.
    """
    hello = OwnClientHello()
    before, behind = _fixed_extensions(server_name, alpn, groups, psk_modes)
    extensions = [*before, ClientKeyShareExtension().create(list(shares)), *behind]
    if psks:
        identities = [PskIdentity().create(identity, 0) for identity, _, _ in psks]
        binders = [bytearray(HASHES[hash_name].digest_size) for _, _, hash_name in psks]
        extensions.append(PreSharedKeyExtension().create(identities, binders))
    hello.client_version = checks.TLS_1_2
    hello.session_id = session_id
    hello.cipher_suites = list(suites)
    hello.compression_methods = [0]
    hello.extensions = extensions
    return hello
