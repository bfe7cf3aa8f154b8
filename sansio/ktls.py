"""Traffic secrets, and how the kernel wants them: `struct tls_crypto_info_*` (include/uapi/linux/tls.h).

After the handshake the socket gets `TCP_ULP` "tls", then one structure for each direction:

    sock.setsockopt(IPPROTO_TCP, TCP_ULP, b"tls")
    for direction in (TLS_TX, TLS_RX):
        sock.setsockopt(SOL_TLS, direction, pack_crypto_info(secrets, direction))

Each structure is version and cipher (u16, host byte order), then iv, key, salt and rec_seq without padding.  The
sizes differ for each cipher (`LAYOUTS`), and the kernel takes no other length.  What TLS 1.3 calls the IV (12
bytes) lies in two places: its first bytes are the salt, the rest is the iv.  rec_seq is big-endian.

`unpack_crypto_info_untrusted` is the inverse, for whoever plays the kernel.
"""

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

TCP_ULP: Final = 31  # include/uapi/linux/tcp.h
TCP_ULP_TLS: Final = b"tls"
SOL_TLS: Final = 282  # include/linux/socket.h

# include/uapi/linux/tls.h
TLS_TX: Final = 1
TLS_RX: Final = 2
TLS_TX_ZEROCOPY_RO: Final = 3
TLS_RX_EXPECT_NO_PAD: Final = 4
TLS_TX_MAX_PAYLOAD_LEN: Final = 5
TLS_1_3_VERSION: Final = 0x0304

IV_SIZE: Final = 12  # RFC 8446, 5.3, for every cipher here.
_HEADER: Final = struct.Struct("=HH")  # struct tls_crypto_info: version, cipher_type
_REC_SEQ_SIZE: Final = 8


class KtlsCipher(enum.IntEnum):
    """TLS_CIPHER_*, include/uapi/linux/tls.h."""

    AES_GCM_128 = 51
    AES_GCM_256 = 52
    AES_CCM_128 = 53
    CHACHA20_POLY1305 = 54


@dataclass(frozen=True, slots=True, kw_only=True)
class CryptoInfoLayout:
    """The sizes of one `struct tls12_crypto_info_*`, in bytes.

    Attributes:
        iv: TLS_CIPHER_*_IV_SIZE.
        key: TLS_CIPHER_*_KEY_SIZE.
        salt: TLS_CIPHER_*_SALT_SIZE.
    """

    iv: int
    key: int
    salt: int

    @property
    def size(self) -> int:
        """The size of the whole structure."""
        return _HEADER.size + self.iv + self.key + self.salt + _REC_SEQ_SIZE


LAYOUTS: Final[Mapping[KtlsCipher, CryptoInfoLayout]] = MappingProxyType(
    {
        KtlsCipher.AES_GCM_128: CryptoInfoLayout(iv=8, key=16, salt=4),
        KtlsCipher.AES_GCM_256: CryptoInfoLayout(iv=8, key=32, salt=4),
        KtlsCipher.AES_CCM_128: CryptoInfoLayout(iv=8, key=16, salt=4),
        KtlsCipher.CHACHA20_POLY1305: CryptoInfoLayout(iv=12, key=32, salt=0),
    }
)


class CryptoInfoError(Exception):
    """Bytes that are no `struct tls_crypto_info_*` that the kernel would take for TLS 1.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficKey:
    """One direction's application traffic key.

    Attributes:
        key: The AEAD key, in bytes.
        iv: The 12 byte per-connection IV (RFC 8446, 5.3).
        sequence: The sequence number of the next record under this key.
    """

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSecrets:
    """What the kernel needs to go on where the handshake ended.

    Attributes:
        version: The TLS version number, 0x0304.
        cipher: The record protection that both directions use.
        tx: The key of what this end sends.
        rx: The key of what this end receives.
    """

    version: int
    cipher: KtlsCipher
    tx: TrafficKey
    rx: TrafficKey


def pack_crypto_info(secrets: KernelSecrets, direction: int) -> bytes:
    """Pack one direction's key for `setsockopt(SOL_TLS, direction, ...)`.

    Args:
        secrets: The version, the cipher and both keys.
        direction: `TLS_TX` or `TLS_RX`.

    Returns:
        A `struct tls12_crypto_info_*`, of exactly the length that the kernel wants.  It holds the key: don't log it.

    Raises:
        ValueError: The version is not TLS 1.3, the direction is neither, or the key does not fit the cipher.
    """
    if secrets.version != TLS_1_3_VERSION:
        raise ValueError(f"Only TLS 1.3 keys can be packed, not those of version {secrets.version:#06x}.")
    if direction not in (TLS_TX, TLS_RX):
        raise ValueError(f"The direction is {direction}, neither TLS_TX (1) nor TLS_RX (2).")
    key = secrets.tx if direction == TLS_TX else secrets.rx
    layout = LAYOUTS[secrets.cipher]
    _check_key(secrets.cipher, layout, key)
    salt, iv = key.iv[: layout.salt], key.iv[layout.salt :]
    rec_seq = key.sequence.to_bytes(_REC_SEQ_SIZE, "big")
    return b"".join((_HEADER.pack(secrets.version, secrets.cipher), iv, key.key, salt, rec_seq))


def _check_key(cipher: KtlsCipher, layout: CryptoInfoLayout, key: TrafficKey) -> None:
    # Sizes only: a message must not bring the key itself into a log.
    if len(key.key) != layout.key:
        raise ValueError(f"{cipher.name} takes a key of {layout.key} bytes, but this one has {len(key.key)}.")
    if len(key.iv) != IV_SIZE:
        raise ValueError(f"TLS 1.3 takes an IV of {IV_SIZE} bytes, but this one has {len(key.iv)}.")
    if not 0 <= key.sequence < 2**64:
        raise ValueError(f"The sequence number {key.sequence} does not fit into 64 bits.")


def unpack_crypto_info_untrusted(data: bytes) -> tuple[KtlsCipher, TrafficKey]:
    """Take what `pack_crypto_info` made apart again.

    Args:
        data: The value of a TLS_TX or TLS_RX option, any bytes at all.

    Returns:
        The cipher and the key.

    Raises:
        CryptoInfoError: The kernel would refuse these bytes, or they are not for TLS 1.3.
    """
    if len(data) < _HEADER.size:
        raise CryptoInfoError(f"The structure has {len(data)} bytes; its header alone takes {_HEADER.size}.")
    version, number = _HEADER.unpack_from(data)
    if version != TLS_1_3_VERSION:
        raise CryptoInfoError(f"The structure is for version {version:#06x}, not TLS 1.3.")
    try:
        cipher = KtlsCipher(number)
    except ValueError:
        raise CryptoInfoError(f"The structure is for the unknown cipher {number}.") from None
    layout = LAYOUTS[cipher]
    if len(data) != layout.size:
        raise CryptoInfoError(f"{cipher.name} takes a structure of {layout.size} bytes, not {len(data)}.")
    key_at = _HEADER.size + layout.iv
    salt_at = key_at + layout.key
    rec_seq_at = salt_at + layout.salt
    return cipher, TrafficKey(
        key=bytes(data[key_at:salt_at]),
        iv=bytes(data[salt_at:rec_seq_at] + data[_HEADER.size : key_at]),
        sequence=int.from_bytes(data[rec_seq_at:], "big"),
    )
