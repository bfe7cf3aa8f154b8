"""The identities of NVMe's pre-shared keys, and which hash a key is for."""

import base64
import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ktls_agent.sansio.nvme import (
    HASH_LENGTHS,
    MAX_NQN_LENGTH,
    NvmeIdentity,
    PskUnusable,
    choose_hash_untrusted,
    is_nvme_identity,
    parse_nvme_identity_untrusted,
)

HOST = "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
SUBSYSTEM = "nqn.2014-08.org.nvmexpress:subsystem"
NAMES = f"{HOST} {SUBSYSTEM}".encode()
DIGEST_32 = base64.b64encode(bytes(32))
DIGEST_48 = base64.b64encode(bytes(range(48)))

WELL_FORMED: dict[str, tuple[bytes, NvmeIdentity]] = {
    "version_0": (
        b"NVMe0R01 " + NAMES,
        NvmeIdentity(version=0, generated=False, hash_name="sha256", host_nqn=HOST, subsystem_nqn=SUBSYSTEM),
    ),
    "version_0_sha384_generated": (
        b"NVMe0G02 " + NAMES,
        NvmeIdentity(version=0, generated=True, hash_name="sha384", host_nqn=HOST, subsystem_nqn=SUBSYSTEM),
    ),
    "version_1": (
        b"NVMe1R01 " + NAMES + b" " + DIGEST_32,
        NvmeIdentity(
            version=1,
            generated=False,
            hash_name="sha256",
            host_nqn=HOST,
            subsystem_nqn=SUBSYSTEM,
            digest=bytes(32),
        ),
    ),
    "version_1_sha384_generated": (
        b"NVMe1G02 " + NAMES + b" " + DIGEST_48,
        NvmeIdentity(
            version=1,
            generated=True,
            hash_name="sha384",
            host_nqn=HOST,
            subsystem_nqn=SUBSYSTEM,
            digest=bytes(range(48)),
        ),
    ),
    "longest_names": (
        b"NVMe0R01 " + b"h" * MAX_NQN_LENGTH + b" " + "é".encode() * 111,
        NvmeIdentity(
            version=0,
            generated=False,
            hash_name="sha256",
            host_nqn="h" * MAX_NQN_LENGTH,
            subsystem_nqn="é" * 111,
        ),
    ),
}


@pytest.mark.parametrize(("identity", "parsed"), WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_takes_an_identity_apart(identity: bytes, parsed: NvmeIdentity) -> None:
    assert parse_nvme_identity_untrusted(identity) == parsed


HEAD = "its identity does not begin as NVMe's do: NVMe, version, R or G, and two digits"
MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", HEAD),
    "another_prefix": (b"nvme0R01 " + NAMES, HEAD),
    "no_version": (b"NVMeR01 " + NAMES, HEAD),
    "one_digit": (b"NVMe0R1 " + NAMES, HEAD),
    "three_digits": (b"NVMe0R001 " + NAMES, HEAD),
    "version_2": (b"NVMe2R01 " + NAMES, "its identity is of version 2; 0 and 1 are known"),
    "neither_kind": (
        b"NVMe0X01 " + NAMES,
        "its identity is neither that of a retained key (R) nor of a generated one (G)",
    ),
    "newline_as_kind": (
        b"NVMe0\n01 " + NAMES,
        "its identity is neither that of a retained key (R) nor of a generated one (G)",
    ),
    "hash_00": (
        b"NVMe0R00 " + NAMES,
        "its identity has the hash 00; 01 (SHA-256) and 02 (SHA-384) are known",
    ),
    "hash_03": (
        b"NVMe0R03 " + NAMES,
        "its identity has the hash 03; 01 (SHA-256) and 02 (SHA-384) are known",
    ),
    "head_alone": (
        b"NVMe0R01",
        "its identity has 1 parts, but version 0 has 3: the head, a host NQN, a subsystem NQN",
    ),
    "one_name": (
        b"NVMe0R01 host",
        "its identity has 2 parts, but version 0 has 3: the head, a host NQN, a subsystem NQN",
    ),
    "version_0_with_digest": (
        b"NVMe0R01 " + NAMES + b" " + DIGEST_32,
        "its identity has 4 parts, but version 0 has 3: the head, a host NQN, a subsystem NQN",
    ),
    "version_1_without_digest": (
        b"NVMe1R01 " + NAMES,
        "its identity has 3 parts, but version 1 has 4: the head, a host NQN, a subsystem NQN and a digest",
    ),
    "two_spaces": (
        b"NVMe0R01  host",
        "its identity has a host NQN of 0 bytes; 1 to 223 are allowed",
    ),
    "name_too_long": (
        b"NVMe0R01 host " + b"s" * 224,
        "its identity has a subsystem NQN of 224 bytes; 1 to 223 are allowed",
    ),
    "name_not_utf8": (
        b"NVMe0R01 \xff sub",
        "its identity has a host NQN that is not printable UTF-8",
    ),
    "name_with_nul": (
        b"NVMe0R01 host sub\0",
        "its identity has a subsystem NQN that is not printable UTF-8",
    ),
    "digest_not_base64": (
        b"NVMe1R01 " + NAMES + b" " + b"!" * 44,
        "its identity has a digest that is not base64",
    ),
    "digest_unpadded": (
        b"NVMe1R01 " + NAMES + b" " + DIGEST_32.rstrip(b"="),
        "its identity has a digest that is not base64",
    ),
    "digest_empty": (
        b"NVMe1R01 " + NAMES + b" ",
        "its identity has a digest of 0 bytes; those of sha256 have 32",
    ),
    "digest_of_the_other_hash": (
        b"NVMe1R02 " + NAMES + b" " + DIGEST_32,
        "its identity has a digest of 32 bytes; those of sha384 have 48",
    ),
}


@pytest.mark.parametrize(("identity", "sentence"), MALFORMED.values(), ids=MALFORMED.keys())
def test_refuses_a_malformed_identity_and_says_why(identity: bytes, sentence: str) -> None:
    with pytest.raises(PskUnusable) as caught:
        parse_nvme_identity_untrusted(identity)
    assert str(caught.value) == sentence


@given(st.binary(max_size=600) | st.binary(max_size=600).map(b"NVMe0R01 ".__add__))
@example(b"NVMe1R01 a b " + b"=" * 44)
@example("NVMe\u0660R01 a b".encode())
def test_lets_one_error_escape(identity: bytes) -> None:
    parsed = None
    with contextlib.suppress(PskUnusable):
        parsed = parse_nvme_identity_untrusted(identity)
    assert parsed is None or (is_nvme_identity(identity) and parsed.hash_name in HASH_LENGTHS)


@given(
    st.sampled_from([0, 1]),
    st.booleans(),
    st.sampled_from([("01", "sha256"), ("02", "sha384")]),
    st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=50),
    st.binary(min_size=48, max_size=48),
)
def test_takes_back_what_was_put_together(
    version: int, generated: bool, hashed: tuple[str, str], name: str, digest: bytes
) -> None:
    digest = digest[: HASH_LENGTHS[hashed[1]]]
    tail = b" " + base64.b64encode(digest) if version else b""
    head = f"NVMe{version}{'G' if generated else 'R'}{hashed[0]} {name} {name}"
    assert parse_nvme_identity_untrusted(head.encode() + tail) == NvmeIdentity(
        version=version,
        generated=generated,
        hash_name=hashed[1],
        host_nqn=name,
        subsystem_nqn=name,
        digest=digest if version else None,
    )


@pytest.mark.parametrize(
    ("identity", "length", "hash_name"),
    [
        (b"NVMe0R01 host sub", 32, "sha256"),
        (b"NVMe0G02 host sub", 48, "sha384"),
        (b"NVMe1R02 host sub " + DIGEST_48, 48, "sha384"),
        (b"anything", 32, "sha256"),
        (b"\xff\0", 48, "sha384"),
        (b"anything", 16, "sha256"),
        (b"anything", 64, "sha256"),
    ],
)
def test_chooses_the_hash(identity: bytes, length: int, hash_name: str) -> None:
    assert choose_hash_untrusted(identity, bytes(length)) == hash_name


@pytest.mark.parametrize(
    ("identity", "length", "sentence"),
    [
        (b"anything", 0, "its secret is empty"),
        (
            b"NVMe0R01 host sub",
            48,
            "its secret has 48 bytes, but its identity is for sha256, which takes 32",
        ),
        (
            b"NVMe0G02 host sub",
            32,
            "its secret has 32 bytes, but its identity is for sha384, which takes 48",
        ),
        (b"NVMe9R01 host sub", 32, "its identity is of version 9; 0 and 1 are known"),
    ],
)
def test_refuses_a_key_that_does_not_fit_its_identity(identity: bytes, length: int, sentence: str) -> None:
    with pytest.raises(PskUnusable) as caught:
        choose_hash_untrusted(identity, b"\x5a" * length)
    assert str(caught.value) == sentence
