"""Post-quantum key exchange: ML-KEM-768 beside an elliptic curve (draft-ietf-tls-ecdhe-mlkem).

| group              | the client's share        | the server's share         | the shared secret        |
|--------------------|---------------------------|----------------------------|--------------------------|
| X25519MLKEM768     | ML-KEM key, X25519 key    | ML-KEM ciphertext, X25519  | of ML-KEM, then X25519   |
| SecP256r1MLKEM768  | P-256 point, ML-KEM key   | P-256 point, ciphertext    | of P-256, then ML-KEM    |

ML-KEM is `cryptography`'s, where its version and its OpenSSL have it.  A client's key is made from a seed, so that entropy
stays an argument.  A server's encapsulation draws inside the library: `Encapsulate` is what a replay puts in its place,
and a step `Encapsulated` tells what came out of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm

from ..status import Alert
from .errors import violation
from .parameters import Entropy
from .primitives import GROUPS_BY_NAME, GROUPS_BY_NUMBER, EphemeralKey, Group

SEED_LENGTH: Final = 64  # FIPS 203, 7.1: d and z
PUBLIC_LENGTH: Final = 1184  # FIPS 203, table 3
CIPHERTEXT_LENGTH: Final = 1088

Encapsulate = Callable[[bytes], tuple[bytes, bytes]]
"""Takes an ML-KEM-768 public key; returns a shared secret and its ciphertext; raises ValueError for no such key."""


def encapsulate(public_key: bytes) -> tuple[bytes, bytes]:
    """Make a shared secret for the owner of a public key; see `Encapsulate`."""
    from cryptography.hazmat.primitives.asymmetric import mlkem  # noqa: PLC0415 - see `available`

    return mlkem.MLKEM768PublicKey.from_public_bytes(public_key).encapsulate()


def available() -> bool:
    """Does the `cryptography` that is installed have ML-KEM?  Versions that have are newer than what is required."""
    try:
        _private_key(bytes(SEED_LENGTH))
    except (ImportError, UnsupportedAlgorithm):
        return False
    return True


def _private_key(seed: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric import mlkem  # noqa: PLC0415 - see `available`

    return mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridKey:
    """A client's ephemeral private key: `cryptography`'s of ML-KEM, and one of the curve."""

    lattice: Any
    curve: EphemeralKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Hybrid:
    """A group; its client's side is called as a `Group` is.

    Attributes:
        name: The name in `parameters.HYBRID_GROUPS`.
        number: The code point.
        curve: The elliptic curve beside ML-KEM.
        curve_length: Of the curve's share.
        lattice_first: Does ML-KEM's part come first, in shares and in the secret?
    """

    name: str
    number: int
    curve: Group
    curve_length: int
    lattice_first: bool

    def generate(self, entropy: Entropy) -> HybridKey:
        """Make a client's ephemeral private key."""
        return HybridKey(lattice=_private_key(entropy(SEED_LENGTH)), curve=self.curve.generate(entropy))

    def public_value(self, private_key: HybridKey) -> bytes:
        """The client's key_exchange field."""
        public = private_key.lattice.public_key().public_bytes_raw()
        return self._join(public, self.curve.public_value(private_key.curve))

    def exchange_untrusted(self, private_key: HybridKey, share: bytes) -> bytes:
        """The client's shared secret; raises HandshakeError for a share that is none of this group."""
        ciphertext, point = self._split_untrusted(share, CIPHERTEXT_LENGTH)
        # A wrong ciphertext gives a secret that nobody else has (implicit rejection): the Finished shows it.
        secret = private_key.lattice.decapsulate(ciphertext)
        return self._join(secret, self.curve.exchange_untrusted(private_key.curve, point))

    def encapsulate_untrusted(
        self, share: bytes, entropy: Entropy, encapsulate: Encapsulate
    ) -> tuple[bytes, bytes]:
        """Answer a client's share.

        Returns:
            The server's shared secret and its own key_exchange field.

        Raises:
            HandshakeError: The share is none of this group.
        """
        public, point = self._split_untrusted(share, PUBLIC_LENGTH)
        private = self.curve.generate(entropy)
        curve_secret = self.curve.exchange_untrusted(private, point)
        try:
            secret, ciphertext = encapsulate(public)
        except ValueError as error:
            # Among others the modulus check of FIPS 203, 7.2.
            raise violation(
                Alert.ILLEGAL_PARAMETER, f"{self.name} key share without an ML-KEM key"
            ) from error
        return self._join(secret, curve_secret), self._join(ciphertext, self.curve.public_value(private))

    def _join(self, lattice: bytes, curve: bytes) -> bytes:
        return lattice + curve if self.lattice_first else curve + lattice

    def _split_untrusted(self, share: bytes, lattice_length: int) -> tuple[bytes, bytes]:
        if len(share) != lattice_length + self.curve_length:
            raise violation(
                Alert.ILLEGAL_PARAMETER,
                f"{self.name} key share of {len(share)} bytes instead of {lattice_length + self.curve_length}",
            )
        if self.lattice_first:
            return share[:lattice_length], share[lattice_length:]
        return share[self.curve_length :], share[: self.curve_length]


_HYBRIDS: Final = (
    Hybrid(
        name="x25519mlkem768",
        number=0x11EC,
        curve=GROUPS_BY_NAME["x25519"],
        curve_length=32,
        lattice_first=True,
    ),
    Hybrid(
        name="secp256r1mlkem768",
        number=0x11EB,
        curve=GROUPS_BY_NAME["secp256r1"],
        curve_length=65,
        lattice_first=False,
    ),
)
HYBRIDS_BY_NUMBER: Final[Mapping[int, Hybrid]] = MappingProxyType({each.number: each for each in _HYBRIDS})
EXCHANGES_BY_NUMBER: Final[Mapping[int, Group | Hybrid]] = MappingProxyType(
    {**GROUPS_BY_NUMBER, **HYBRIDS_BY_NUMBER}
)
"""Every group that a handshake can use."""

EXCHANGES_BY_NAME: Final[Mapping[str, Group | Hybrid]] = MappingProxyType(
    {exchange.name: exchange for exchange in EXCHANGES_BY_NUMBER.values()}
)
