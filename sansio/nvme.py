"""The identities of NVMe/TCP's pre-shared keys, and the hash that goes with any key.

The NVM Express TCP Transport Specification (3.6.1.3, TLS PSK and PSK Identity Derivation) has two versions:

    NVMe0R01 <hostnqn> <subnqn>               version 0
    NVMe1R01 <hostnqn> <subnqn> <digest>      version 1: with a digest of the configured key, in base64

The fifth character is the version, the sixth says where the key comes from: R is a retained one, configured by
hand; G one that was generated in DH-HMAC-CHAP.  Then comes the hash, 01 SHA-256 or 02 SHA-384, which decides the
length of the key and the cipher suites that it goes with.  Such an identity is the description of a key of the
type "psk" in a keyring, and what names it on the wire.

A key of any other description has its hash by its length: 48 bytes are for SHA-384, all else for SHA-256, which is
RFC 8446's default (4.2.11).
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

PREFIX: Final = b"NVMe"
MAX_NQN_LENGTH: Final = 223
"""Bytes of an NVMe Qualified Name without its terminator (NVM Express Base Specification, 4.7; NVMF_NQN_SIZE)."""

HASH_LENGTHS: Final = {"sha256": 32, "sha384": 48}
"""The length of each hash and so, with NVMe, of its keys and digests; in bytes."""

_HASHES: Final = {b"01": "sha256", b"02": "sha384"}
_HEAD: Final = re.compile(rb"NVMe([0-9])(.)([0-9]{2})", re.DOTALL)
_PARTS: Final = {0: 3, 1: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeIdentity:
    """The identity of an NVMe/TCP key, taken apart.

    Attributes:
        version: 0 or 1.
        generated: Was the key made by DH-HMAC-CHAP (G), not configured (R)?
        hash_name: "sha256" or "sha384".
        host_nqn: The host's name.
        subsystem_nqn: The subsystem's name.
        digest: Of the configured key; None in version 0.
    """

    version: int
    generated: bool
    hash_name: str
    host_nqn: str
    subsystem_nqn: str
    digest: bytes | None = None


class PskUnusable(Exception):  # noqa: N818 - a verdict
    """An identity is malformed, or a key does not fit it; the text is a sentence that begins with "its"."""


def is_nvme_identity(identity: bytes) -> bool:
    """Does an identity claim to be NVMe's?"""
    return identity.startswith(PREFIX)


def parse_nvme_identity_untrusted(identity: bytes) -> NvmeIdentity:
    """Take an identity apart.

    Args:
        identity: Any bytes.

    Raises:
        PskUnusable: It is not what the specification defines.
    """
    head, *rest = identity.split(b" ")
    version, generated, hash_name = _parse_head(head)
    if len(rest) + 1 != _PARTS[version]:
        wanted = "a host NQN, a subsystem NQN" + (" and a digest" if version else "")
        raise PskUnusable(
            f"its identity has {len(rest) + 1} parts, but version {version} has {_PARTS[version]}: the head, {wanted}"
        )
    return NvmeIdentity(
        version=version,
        generated=generated,
        hash_name=hash_name,
        host_nqn=_parse_nqn(rest[0], "host"),
        subsystem_nqn=_parse_nqn(rest[1], "subsystem"),
        digest=_parse_digest(rest[2], hash_name) if version else None,
    )


def choose_hash_untrusted(identity: bytes, secret: bytes) -> str:
    """Tell which hash a key is for: an NVMe identity says so, else the length decides.

    Args:
        identity: What names the key, any bytes.
        secret: The key.

    Returns:
        "sha256" or "sha384".

    Raises:
        PskUnusable: The NVMe identity is malformed, or the key does not have its length; or it is empty.
    """
    if not secret:
        raise PskUnusable("its secret is empty")
    if not is_nvme_identity(identity):
        return "sha384" if len(secret) == HASH_LENGTHS["sha384"] else "sha256"
    hash_name = parse_nvme_identity_untrusted(identity).hash_name
    if len(secret) != HASH_LENGTHS[hash_name]:
        raise PskUnusable(
            f"its secret has {len(secret)} bytes, but its identity is for {hash_name}, which takes "
            f"{HASH_LENGTHS[hash_name]}"
        )
    return hash_name


def _parse_head(head: bytes) -> tuple[int, bool, str]:
    match = _HEAD.fullmatch(head)
    if match is None:
        raise PskUnusable("its identity does not begin as NVMe's do: NVMe, version, R or G, and two digits")
    version, kind, number = match.groups()
    if int(version) not in _PARTS:
        raise PskUnusable(f"its identity is of version {version.decode()}; 0 and 1 are known")
    if kind not in (b"R", b"G"):
        raise PskUnusable("its identity is neither that of a retained key (R) nor of a generated one (G)")
    if number not in _HASHES:
        raise PskUnusable(
            f"its identity has the hash {number.decode()}; 01 (SHA-256) and 02 (SHA-384) are known"
        )
    return int(version), kind == b"G", _HASHES[number]


def _parse_nqn(name: bytes, whose: str) -> str:
    if not 1 <= len(name) <= MAX_NQN_LENGTH:
        raise PskUnusable(
            f"its identity has a {whose} NQN of {len(name)} bytes; 1 to {MAX_NQN_LENGTH} are allowed"
        )
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        raise PskUnusable(f"its identity has a {whose} NQN that is not printable UTF-8")
    return text


def _parse_digest(text: bytes, hash_name: str) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise PskUnusable("its identity has a digest that is not base64") from None
    if len(digest) != HASH_LENGTHS[hash_name]:
        raise PskUnusable(
            f"its identity has a digest of {len(digest)} bytes; those of {hash_name} have {HASH_LENGTHS[hash_name]}"
        )
    return digest
