"""Every operation on a secret, from `cryptography`: AEADs, key exchange, HKDF, signatures.

Tables say what TLS 1.3 calls them and how `cryptography` computes them; nothing here knows tlslite-ng.
Ephemeral keys are made from entropy that the caller passes in, so that a recorded handshake can be
replayed byte for byte.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from ..ktls import KtlsCipher, TrafficKey
from ..status import Alert
from .errors import violation
from .parameters import Entropy, PrivateKey, PublicKey, Signer

HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_PREHASHED: Final = {name: utils.Prehashed(algorithm) for name, algorithm in HASHES.items()}
_EMPTY_DIGEST: Final = {name: hashlib.new(name).digest() for name in HASHES}

IV_LENGTH: Final = 12  # RFC 8446, 5.3: N_MAX of every AEAD used here.
TAG_LENGTH: Final = 16


# Cipher suites


class Aead(Protocol):
    """An AEAD of `cryptography`, keyed."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Return ciphertext and tag."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Return the plaintext; raise InvalidTag."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CipherSuite:
    """One TLS 1.3 cipher suite (RFC 8446, B.4).

    Attributes:
        name: The name in `parameters.CIPHER_SUITES`.
        number: The code point.
        hash_name: The hash of its key schedule.
        key_length: In bytes.
        ktls: The kernel's number for its record protection.
        aead: Makes the AEAD from a key.
    """

    name: str
    number: int
    hash_name: str
    key_length: int
    ktls: KtlsCipher
    aead: Callable[[bytes], Aead]


_SUITES: Final = (
    CipherSuite(
        name="AES_128_GCM",
        number=0x1301,
        hash_name="sha256",
        key_length=16,
        ktls=KtlsCipher.AES_GCM_128,
        aead=AESGCM,
    ),
    CipherSuite(
        name="AES_256_GCM",
        number=0x1302,
        hash_name="sha384",
        key_length=32,
        ktls=KtlsCipher.AES_GCM_256,
        aead=AESGCM,
    ),
    CipherSuite(
        name="CHACHA20_POLY1305",
        number=0x1303,
        hash_name="sha256",
        key_length=32,
        ktls=KtlsCipher.CHACHA20_POLY1305,
        aead=ChaCha20Poly1305,
    ),
    CipherSuite(
        name="AES_128_CCM",
        number=0x1304,
        hash_name="sha256",
        key_length=16,
        ktls=KtlsCipher.AES_CCM_128,
        aead=AESCCM,
    ),
)
SUITES_BY_NAME: Final[Mapping[str, CipherSuite]] = {suite.name: suite for suite in _SUITES}
SUITES_BY_NUMBER: Final[Mapping[int, CipherSuite]] = {suite.number: suite for suite in _SUITES}


@dataclass(slots=True, kw_only=True)
class RecordKey:
    """One direction's record protection (RFC 8446, 5.2 and 5.3)."""

    suite: CipherSuite
    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    sequence: int = 0
    _aead: Aead = field(init=False, repr=False)
    _iv_number: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Key the AEAD once."""
        self._aead = self.suite.aead(self.key)
        self._iv_number = int.from_bytes(self.iv)

    @classmethod
    def from_traffic_secret(cls, suite: CipherSuite, secret: bytes) -> "RecordKey":
        """Derive key and IV (RFC 8446, 7.3)."""
        keyed = hmac.HMAC(secret, HASHES[suite.hash_name])
        key = _first_block(keyed.copy(), b"key", b"", suite.key_length)
        iv = _first_block(keyed, b"iv", b"", IV_LENGTH)
        return cls(suite=suite, key=key, iv=iv)

    def _next_nonce(self) -> bytes:
        nonce = (self._iv_number ^ self.sequence).to_bytes(IV_LENGTH)
        self.sequence += 1
        return nonce

    def seal(self, inner_plaintext: bytes, header: bytes) -> bytes:
        """Encrypt one TLSInnerPlaintext; `header` is the record's."""
        return self._aead.encrypt(self._next_nonce(), inner_plaintext, header)

    def open_untrusted(self, ciphertext: bytes, header: bytes) -> bytes | None:
        """Decrypt one record's body; None, and no step of the sequence, where it is not authentic."""
        try:
            plaintext = self._aead.decrypt(
                (self._iv_number ^ self.sequence).to_bytes(IV_LENGTH), ciphertext, header
            )
        except InvalidTag:
            return None
        self.sequence += 1
        return plaintext

    def traffic_key(self) -> TrafficKey:
        """What the kernel gets."""
        return TrafficKey(key=self.key, iv=self.iv, sequence=self.sequence)


# Key schedule


class Transcript:
    """The hash of the handshake's messages (RFC 8446, 4.4.1), for whichever hash is asked for.

    The hash is not known before the ServerHello: messages are kept, and hashed once for each algorithm in use.  What
    is kept is never changed, only replaced, so that a copy costs nothing.
    """

    __slots__ = ("_hashed", "_messages")

    def __init__(self) -> None:
        self._messages = b""
        self._hashed: dict[str, tuple[int, hashlib._Hash, bytes]] = {}

    def update(self, message: bytes) -> None:
        """Add a handshake message with its header."""
        self._messages += message

    def digest(self, name: str) -> bytes:
        """The hash of all messages so far."""
        length, context, digest = self._hashed.get(name) or (0, hashlib.new(name), _EMPTY_DIGEST[name])
        if length < len(self._messages):
            context = context.copy()
            context.update(memoryview(self._messages)[length:])
            digest = context.digest()
            self._hashed[name] = len(self._messages), context, digest
        return digest

    def copy(self) -> "Transcript":
        """A transcript that goes its own way from here."""
        other = Transcript()
        other._messages = self._messages
        other._hashed = self._hashed.copy()
        return other


def hmac_digest(key: bytes, data: bytes, hash_name: str) -> bytes:
    """HMAC; with the salt as the key also HKDF-Extract (RFC 5869, 2.2)."""
    context = hmac.HMAC(key, HASHES[hash_name])
    context.update(data)
    return context.finalize()


@lru_cache(maxsize=64)
def _info(label: bytes, context_length: int, length: int) -> bytes:
    """The HkdfLabel of RFC 8446, 7.1, up to its context."""
    full_label = b"tls13 " + label
    return b"".join((length.to_bytes(2), len(full_label).to_bytes(1), full_label, context_length.to_bytes(1)))


def _first_block(keyed: hmac.HMAC, label: bytes, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of no more than one hash: a single HMAC (RFC 5869, 2.3), under the secret as its key."""
    keyed.update(b"%b%b\x01" % (_info(label, len(context), length), context))
    return keyed.finalize()[:length]


def hkdf_expand_label(secret: bytes, label: bytes, context: bytes, length: int, hash_name: str) -> bytes:
    """HKDF-Expand-Label (RFC 8446, 7.1); TLS 1.3 never asks for more than one hash.

    Raises:
        ValueError: `length` is more than that.
    """
    block = _first_block(hmac.HMAC(secret, HASHES[hash_name]), label, context, length)
    if len(block) < length:
        raise ValueError(f"{length} bytes are more than one {hash_name}")
    return block


def derive_secret(secret: bytes, label: bytes, transcript: Transcript | None, hash_name: str) -> bytes:
    """Derive-Secret (RFC 8446, 7.1); no transcript stands for no messages."""
    digest = _EMPTY_DIGEST[hash_name] if transcript is None else transcript.digest(hash_name)
    return hkdf_expand_label(secret, label, digest, len(digest), hash_name)


_SIGNATURE_CONTEXTS: Final = {
    role: b" " * 64 + f"TLS 1.3, {role} CertificateVerify".encode() + b"\0" for role in ("client", "server")
}


def signed_content(transcript: Transcript, hash_name: str, *, role: str, scheme: "SignatureScheme") -> bytes:
    """What a CertificateVerify signs (RFC 8446, 4.4.3), in the form that `sign` takes.

    Args:
        transcript: The messages up to the Certificate.
        hash_name: The hash of the cipher suite.
        role: "client" or "server": whose signature it is.
        scheme: The signature's.
    """
    content = _SIGNATURE_CONTEXTS[role] + transcript.digest(hash_name)
    return content if scheme.hash_name is None else hashlib.new(scheme.hash_name, content).digest()


# Key exchange

_MAX_CANDIDATES: Final = 64
"""One draw in 2**32 is no private key of P-256, fewer of the others: so many in a row is not chance."""

EphemeralKey = ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey


class Group(Protocol):
    """A key exchange group (RFC 8446, 4.2.7)."""

    @property
    def name(self) -> str:
        """The name in `parameters.GROUPS`."""
        ...

    @property
    def number(self) -> int:
        """The code point."""
        ...

    def generate(self, entropy: Entropy) -> EphemeralKey:
        """Make an ephemeral private key."""
        ...

    def public_value(self, private_key: EphemeralKey) -> bytes:
        """The key_exchange field of a KeyShareEntry."""
        ...

    def exchange_untrusted(self, private_key: EphemeralKey, share: bytes) -> bytes:
        """The shared secret; raises HandshakeError for a share that is not a point of the group."""
        ...


@dataclass(frozen=True, slots=True)
class _X25519:
    name: str = "x25519"
    number: int = 29

    def generate(self, entropy: Entropy) -> EphemeralKey:
        return x25519.X25519PrivateKey.from_private_bytes(entropy(32))

    def public_value(self, private_key: EphemeralKey) -> bytes:
        return private_key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    def exchange_untrusted(self, private_key: EphemeralKey, share: bytes) -> bytes:
        assert isinstance(private_key, x25519.X25519PrivateKey)  # noqa: S101 - for the type checker
        try:
            # cryptography refuses an all-zero result, as RFC 8446, 7.4.2 asks.
            return private_key.exchange(x25519.X25519PublicKey.from_public_bytes(share))
        except ValueError as error:
            raise violation(Alert.ILLEGAL_PARAMETER, f"x25519 key share of no use: {error}") from error


@dataclass(frozen=True, slots=True)
class _Curve:
    """A NIST curve.

    `oid` is the DER of the curve's object identifier.  `mask` is put over the first byte of a private key's
    candidate, so that about every candidate is below the group's order (FIPS 186-5, A.2.2).
    """

    name: str
    number: int
    curve: ec.EllipticCurve
    oid: bytes
    mask: int

    def generate(self, entropy: Entropy) -> EphemeralKey:
        for _ in range(_MAX_CANDIDATES):
            key = self._from_candidate(entropy((self.curve.key_size + 7) // 8))
            if key is not None:
                return key
        raise ValueError(f"the entropy made no private key for {self.name} in {_MAX_CANDIDATES} draws")

    def _from_candidate(self, candidate: bytes) -> EphemeralKey | None:
        # An ECPrivateKey (RFC 5915) is how secret bytes get into cryptography without being made a Python
        # integer.  OpenSSL refuses a zero and anything from the order upwards.
        scalar = bytes([candidate[0] & self.mask]) + candidate[1:]
        body = (
            b"\x02\x01\x01\x04" + bytes([len(scalar)]) + scalar + b"\xa0" + bytes([len(self.oid)]) + self.oid
        )
        try:
            key = serialization.load_der_private_key(b"\x30" + bytes([len(body)]) + body, None)
        except ValueError:
            return None
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - for the type checker
        return key

    def public_value(self, private_key: EphemeralKey) -> bytes:
        return private_key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )

    def exchange_untrusted(self, private_key: EphemeralKey, share: bytes) -> bytes:
        assert isinstance(private_key, ec.EllipticCurvePrivateKey)  # noqa: S101 - for the type checker
        if share[:1] != b"\x04":
            raise violation(Alert.ILLEGAL_PARAMETER, f"{self.name} key share is not an uncompressed point")
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self.curve, share)
            return private_key.exchange(ec.ECDH(), peer)
        except ValueError as error:
            raise violation(Alert.ILLEGAL_PARAMETER, f"{self.name} key share is not on the curve") from error


_GROUPS: Final[tuple[Group, ...]] = (
    _X25519(),
    _Curve("secp256r1", 23, ec.SECP256R1(), bytes.fromhex("06082a8648ce3d030107"), 0xFF),
    _Curve("secp384r1", 24, ec.SECP384R1(), bytes.fromhex("06052b81040022"), 0xFF),
    _Curve("secp521r1", 25, ec.SECP521R1(), bytes.fromhex("06052b81040023"), 0x01),
)
GROUPS_BY_NAME: Final[Mapping[str, Group]] = {group.name: group for group in _GROUPS}
GROUPS_BY_NUMBER: Final[Mapping[int, Group]] = {group.number: group for group in _GROUPS}


# Signatures


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureScheme:
    """One SignatureScheme of CertificateVerify (RFC 8446, 4.2.3).

    Attributes:
        name: The RFC's name.
        number: The code point.
        hash_name: The hash over the signed content; None where the algorithm hashes by itself.
        key_kind: What `key_kind` says of a key that can make such a signature.
    """

    name: str
    number: int
    hash_name: str | None
    key_kind: str


def _scheme(name: str, number: int, hash_name: str | None, key_kind: str) -> SignatureScheme:
    return SignatureScheme(name=name, number=number, hash_name=hash_name, key_kind=key_kind)


SIGNATURE_SCHEMES: Final = (
    _scheme("ecdsa_secp256r1_sha256", 0x0403, "sha256", "secp256r1"),
    _scheme("ed25519", 0x0807, None, "ed25519"),
    _scheme("rsa_pss_rsae_sha256", 0x0804, "sha256", "rsa"),
    _scheme("rsa_pss_pss_sha256", 0x0809, "sha256", "rsa-pss"),
    _scheme("ecdsa_secp384r1_sha384", 0x0503, "sha384", "secp384r1"),
    _scheme("rsa_pss_rsae_sha384", 0x0805, "sha384", "rsa"),
    _scheme("rsa_pss_pss_sha384", 0x080A, "sha384", "rsa-pss"),
    _scheme("ecdsa_secp521r1_sha512", 0x0603, "sha512", "secp521r1"),
    _scheme("ed448", 0x0808, None, "ed448"),
    _scheme("rsa_pss_rsae_sha512", 0x0806, "sha512", "rsa"),
    _scheme("rsa_pss_pss_sha512", 0x080B, "sha512", "rsa-pss"),
)
SCHEMES_BY_NUMBER: Final[Mapping[int, SignatureScheme]] = {
    scheme.number: scheme for scheme in SIGNATURE_SCHEMES
}

CERTIFICATE_ONLY_SCHEMES: Final = (0x0401, 0x0501, 0x0601)
"""rsa_pkcs1_sha256, 384 and 512: offered, since they stand for signatures in certificates, but never valid in a
TLS 1.3 CertificateVerify (RFC 8446, 4.2.3)."""


# Deterministic (RFC 6979): no entropy that could fail or that a replay would have to know.
_ECDSA_SIGNING: Final = {
    name: ec.ECDSA(prehashed, deterministic_signing=True) for name, prehashed in _PREHASHED.items()
}
_ECDSA: Final = {name: ec.ECDSA(prehashed) for name, prehashed in _PREHASHED.items()}
_PSS: Final = {
    name: padding.PSS(padding.MGF1(algorithm), algorithm.digest_size) for name, algorithm in HASHES.items()
}


def sign(key: PrivateKey | Signer, data: bytes, hash_name: str) -> bytes:
    """Sign as a TLS 1.3 CertificateVerify does.

    Args:
        key: The private key, or who signs with it.
        data: The digest of the signed content; for EdDSA the content itself.
        hash_name: The digest's name; not used for EdDSA.
    """
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(data, _ECDSA_SIGNING[hash_name])
        case rsa.RSAPrivateKey():
            return key.sign(data, _PSS[hash_name], _PREHASHED[hash_name])
        case Signer():
            return key.sign(data, hash_name)
        case _:
            return key.sign(data)


def signature_is_valid(key: PublicKey, signature: bytes, data: bytes, hash_name: str) -> bool:
    """Check a signature; the arguments are those of `sign`."""
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, data, _ECDSA[hash_name])
            case rsa.RSAPublicKey():
                key.verify(signature, data, _PSS[hash_name], _PREHASHED[hash_name])
            case _:
                key.verify(signature, data)
    except InvalidSignature:
        return False
    return True
