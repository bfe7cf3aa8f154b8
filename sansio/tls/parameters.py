"""What a handshake is told to do, and what came of it: the records of the engine's public API."""

import abc
import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from ..status import Failure
from .certificates import quiet

PrivateKey = (
    ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
)
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey


class Signer(abc.ABC):
    """A private key that is somewhere else: its signatures come from there."""

    @abc.abstractmethod
    def sign(self, data: bytes, hash_name: str) -> bytes:
        """Sign as a TLS 1.3 CertificateVerify does (RFC 8446, 4.4.3): ECDSA, RSA-PSS with a salt as long as the hash, EdDSA.

        Args:
            data: The digest of the signed content; for EdDSA the content itself.
            hash_name: The digest's name, "sha256" and the like; not used for EdDSA.
        """
        ...


def key_kind(key: PrivateKey | PublicKey, certificate: x509.Certificate | None = None) -> str:
    """Name the kind of a key: its curve, "ed25519", "ed448", "rsa", or "rsa-pss".

    Args:
        key: A public or private key.
        certificate: Its certificate, which tells a key for RSASSA-PSS alone ("rsa-pss") from one for all of RSA.
    """
    match key:
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey():
            return key.curve.name
        case ed25519.Ed25519PrivateKey() | ed25519.Ed25519PublicKey():
            return "ed25519"
        case ed448.Ed448PrivateKey() | ed448.Ed448PublicKey():
            return "ed448"
        case _:
            pss = x509.PublicKeyAlgorithmOID.RSASSA_PSS
            return "rsa-pss" if certificate and certificate.public_key_algorithm_oid == pss else "rsa"


Entropy = Callable[[int], bytes]
"""Returns that many bytes of cryptographic randomness: `os.urandom`, or a recording of it."""

CIPHER_SUITES: Final = ("AES_256_GCM", "AES_128_GCM", "CHACHA20_POLY1305", "AES_128_CCM")
GROUPS: Final = ("x25519", "secp256r1", "secp384r1", "secp521r1")
KEY_SHARES: Final = ("x25519", "secp256r1")
HYBRID_GROUPS: Final = ("x25519mlkem768", "secp256r1mlkem768")
"""Post-quantum groups, for who names them: see `hybrid.available`."""

PSK_HASHES: Final = ("sha256", "sha384")
MAX_IDENTITY_LENGTH: Final = 0xFFFF  # RFC 8446, 4.2.11: opaque identity<1..2^16-1>

MAX_PSK_IDENTITIES: Final = 32
"""How many of a client's identities are looked up; each costs the keyrings a search.  Clients offer one to four."""

SUNRPC_ALPN: Final = b"sunrpc"  # RFC 9289, 4.2: the protocol that RPC-with-TLS offers and expects.


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate chain and its private key.

    Attributes:
        chain: DER certificates, the leaf first.
        private_key: The leaf's key, or who signs with it.
        names: The DNS names of the leaf, lower case, for the choice by SNI.
        key_kind: What `key_kind` says of the leaf.
    """

    chain: tuple[bytes, ...]
    private_key: PrivateKey | Signer = field(repr=False)
    names: tuple[str, ...] = ()
    key_kind: str = field(init=False)

    def __post_init__(self) -> None:
        """Look at the leaf once, when the identity is loaded."""
        with quiet():
            leaf = x509.load_der_x509_certificate(self.chain[0])
        object.__setattr__(self, "key_kind", key_kind(cast("PublicKey", leaf.public_key()), leaf))


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificate:
    """A peer's certificate that was verified.

    Attributes:
        chain: The DER certificates that the peer sent, the leaf first.
        subject: The leaf's subject, RFC 4514.
        names: The leaf's subject alternative names, as text ("DNS:host", "IP:192.0.2.1", "URI:...").
        issuer: The leaf's issuer, RFC 4514.
        not_after: When the leaf expires, UTC.
    """

    chain: tuple[bytes, ...] = field(repr=False)
    subject: str
    names: tuple[str, ...]
    issuer: str
    not_after: dt.datetime


class CertificateRejected(Exception):  # noqa: N818 - a verdict, named as the field names it
    """A peer's certificate was not accepted; `failure` carries the cause, the alert and the reason."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class PeerVerifier(Protocol):
    """Judges the chain that a peer presented."""

    def verify_untrusted(self, chain: Sequence[bytes]) -> tuple[PeerCertificate, x509.Certificate]:
        """Verify DER certificates, the leaf first, as the peer sent them.

        Returns:
            What is to be told about the peer, and the parsed leaf, whose key has to have signed the handshake.

        Raises:
            CertificateRejected: The chain is not accepted.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientParameters:
    """A TLS client's handshake.

    Attributes:
        verifier: Judges the server's chain.
        server_name: The host name for SNI; None sends none (an address has no SNI: RFC 6066, 3).
        identity: What to present when the server asks for a certificate; None presents none.
        alpn: The protocols to offer; a server that chooses none of them is still accepted.
        cipher_suites: In order of preference, names of `CIPHER_SUITES`.
        groups: In order of preference, names of `GROUPS` and `HYBRID_GROUPS`.
        key_shares: The groups for which a share is sent at once.
    """

    verifier: PeerVerifier
    server_name: str | None = None
    identity: Identity | None = None
    alpn: tuple[bytes, ...] = (SUNRPC_ALPN,)
    cipher_suites: tuple[str, ...] = CIPHER_SUITES
    groups: tuple[str, ...] = GROUPS
    key_shares: tuple[str, ...] = KEY_SHARES


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParameters:
    """A TLS server's handshake.

    Attributes:
        identities: At least one; SNI and the client's signature schemes choose, the first is the default.
        verifier: Judges the client's chain; None asks for no client certificate.
        require_client_certificate: Refuse a client that presents none.
        certificate_authorities: DER names for CertificateRequest (RFC 8446, 4.2.4).
        alpn: The protocols that are spoken; a client that offers none of them is refused, one that offers no
            ALPN at all is accepted.
        cipher_suites: In order of preference, names of `CIPHER_SUITES`.
        groups: In order of preference, names of `GROUPS` and `HYBRID_GROUPS`.
    """

    identities: tuple[Identity, ...]
    verifier: PeerVerifier | None = None
    require_client_certificate: bool = False
    certificate_authorities: tuple[bytes, ...] = ()
    alpn: tuple[bytes, ...] = (SUNRPC_ALPN,)
    cipher_suites: tuple[str, ...] = CIPHER_SUITES
    groups: tuple[str, ...] = GROUPS


@dataclass(frozen=True, slots=True, kw_only=True)
class PreSharedKey:
    """An external pre-shared key (RFC 8446, 2.2) with the hash that it is bound to.

    Attributes:
        identity: What names it on the wire; any bytes.
        secret: The key itself.
        hash_name: "sha256" or "sha384": the hash of the cipher suites that it can be used with.
        serial: The kernel's serial of the key, for DONE; None if it is not from a keyring.
    """

    identity: bytes
    secret: bytes = field(repr=False)
    hash_name: str
    serial: int | None = None

    def __post_init__(self) -> None:
        """Hold the caller to what TLS can express (RFC 8446, 4.2.11).

        Raises:
            ValueError: The identity is empty or longer than 65535 bytes, the secret is empty, or the hash unknown.
        """
        if not 0 < len(self.identity) <= MAX_IDENTITY_LENGTH:
            raise ValueError(
                f"a pre-shared key's identity has 1 to {MAX_IDENTITY_LENGTH} bytes, not {len(self.identity)}"
            )
        if not self.secret:
            raise ValueError("a pre-shared key is not empty")
        if self.hash_name not in PSK_HASHES:
            raise ValueError(f"a pre-shared key goes with {' or '.join(PSK_HASHES)}, not {self.hash_name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPskParameters:
    """A TLS client's handshake with pre-shared keys: a server that does not choose one of them is refused.

    Attributes:
        keys: All to be offered, in order of preference; at least one.
        server_name: As in `ClientParameters`.
        alpn: As in `ClientParameters`; nothing by default, as NVMe/TCP has none.
        allow_psk_ke: Also offer psk_ke, a handshake without key exchange and so without forward secrecy.
        cipher_suites: In order of preference; those whose hash no key has are not offered.
        groups: In order of preference, names of `GROUPS` and `HYBRID_GROUPS`.
        key_shares: The groups for which a share is sent at once.
    """

    keys: tuple[PreSharedKey, ...]
    server_name: str | None = None
    alpn: tuple[bytes, ...] = ()
    allow_psk_ke: bool = False
    cipher_suites: tuple[str, ...] = CIPHER_SUITES
    groups: tuple[str, ...] = GROUPS
    key_shares: tuple[str, ...] = KEY_SHARES[:1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPskParameters:
    """A TLS server's handshake with pre-shared keys alone; `TlsEngine.provide_keys` answers for the keys.

    Attributes:
        alpn: As in `ServerParameters`; nothing by default.
        allow_psk_ke: Also accept psk_ke.
        cipher_suites: In order of preference, names of `CIPHER_SUITES`.
        groups: In order of preference, names of `GROUPS` and `HYBRID_GROUPS`.
    """

    alpn: tuple[bytes, ...] = ()
    allow_psk_ke: bool = False
    cipher_suites: tuple[str, ...] = CIPHER_SUITES
    groups: tuple[str, ...] = GROUPS


Parameters = ClientParameters | ClientPskParameters | ServerParameters | ServerPskParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysRequested:
    """A client offers pre-shared keys; the handshake waits for `TlsEngine.provide_keys`.

    Attributes:
        identities: What the client offers, in its order, at most `MAX_PSK_IDENTITIES`.
    """

    identities: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeCompleted:
    """The handshake is over and the keys can be taken with `TlsEngine.extract_secrets`.

    Attributes:
        cipher_suite: The name of the suite, one of `CIPHER_SUITES`.
        group: The key exchange group, one of `GROUPS` or `HYBRID_GROUPS`; None after psk_ke.
        alpn: The protocol that was chosen, or None.
        peer: The peer's verified certificate; None when a client presented none, and with a pre-shared key.
        server_name: The SNI that was sent or received, or None.
        psk_identity: The identity of the pre-shared key that was used, or None.
    """

    cipher_suite: str
    group: str | None
    alpn: bytes | None
    peer: PeerCertificate | None
    server_name: str | None
    psk_identity: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeFailed:
    """The handshake is over without keys; an alert for the peer may still be in `data_to_send`."""

    failure: Failure


TlsEvent = KeysRequested | HandshakeCompleted | HandshakeFailed
