"""Keys as the kernel takes them, byte by byte."""

import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.ktls import (
    LAYOUTS,
    SOL_TLS,
    TCP_ULP,
    TLS_1_3_VERSION,
    TLS_RX,
    TLS_TX,
    CryptoInfoError,
    KernelSecrets,
    KtlsCipher,
    TrafficKey,
    pack_crypto_info,
    unpack_crypto_info_untrusted,
)

IV = bytes(range(0xA0, 0xAC))
KEY_16 = bytes(range(0x10, 0x20))
KEY_32 = bytes(range(0x10, 0x30))


def secrets(cipher: KtlsCipher, key: bytes) -> KernelSecrets:
    tx = TrafficKey(key=key, iv=IV, sequence=0x0102030405060708)
    return KernelSecrets(
        version=TLS_1_3_VERSION, cipher=cipher, tx=tx, rx=TrafficKey(key=key[::-1], iv=IV[::-1], sequence=1)
    )


def header(cipher: int) -> bytes:
    return (0x0304).to_bytes(2, sys.byteorder) + cipher.to_bytes(2, sys.byteorder)


@pytest.mark.parametrize(
    ("cipher", "key", "layout"),
    [
        (
            KtlsCipher.AES_GCM_128,
            KEY_16,
            header(51)
            + bytes.fromhex("a4a5a6a7a8a9aaab")
            + bytes.fromhex("101112131415161718191a1b1c1d1e1f")
            + bytes.fromhex("a0a1a2a3")
            + bytes.fromhex("0102030405060708"),
        ),
        (
            KtlsCipher.AES_GCM_256,
            KEY_32,
            header(52)
            + bytes.fromhex("a4a5a6a7a8a9aaab")
            + bytes.fromhex("101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f")
            + bytes.fromhex("a0a1a2a3")
            + bytes.fromhex("0102030405060708"),
        ),
        (
            KtlsCipher.AES_CCM_128,
            KEY_16,
            header(53)
            + bytes.fromhex("a4a5a6a7a8a9aaab")
            + bytes.fromhex("101112131415161718191a1b1c1d1e1f")
            + bytes.fromhex("a0a1a2a3")
            + bytes.fromhex("0102030405060708"),
        ),
        (
            KtlsCipher.CHACHA20_POLY1305,
            KEY_32,
            header(54)
            + bytes.fromhex("a0a1a2a3a4a5a6a7a8a9aaab")
            + bytes.fromhex("101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f")
            + bytes.fromhex("0102030405060708"),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, KtlsCipher) else "",
)
def test_packs_each_structure_as_the_kernel_lays_it_out(
    cipher: KtlsCipher, key: bytes, layout: bytes
) -> None:
    assert pack_crypto_info(secrets(cipher, key), TLS_TX) == layout


def test_each_direction_gets_its_own_key() -> None:
    both = secrets(KtlsCipher.AES_GCM_128, KEY_16)
    assert pack_crypto_info(both, TLS_RX) == header(51) + (
        bytes.fromhex("a7a6a5a4a3a2a1a0")
        + bytes.fromhex("1f1e1d1c1b1a19181716151413121110")
        + bytes.fromhex("abaaa9a8")
        + bytes.fromhex("0000000000000001")
    )


@pytest.mark.parametrize(
    ("cipher", "size"),
    [
        (KtlsCipher.AES_GCM_128, 40),
        (KtlsCipher.AES_GCM_256, 56),
        (KtlsCipher.AES_CCM_128, 40),
        (KtlsCipher.CHACHA20_POLY1305, 56),
    ],
)
def test_each_structure_has_the_kernels_size(cipher: KtlsCipher, size: int) -> None:
    assert LAYOUTS[cipher].size == size


def test_every_cipher_has_a_layout_that_holds_the_iv() -> None:
    assert set(LAYOUTS) == set(KtlsCipher)
    assert all(layout.iv + layout.salt == 12 for layout in LAYOUTS.values())


def test_the_option_numbers_are_the_kernels() -> None:
    assert (TCP_ULP, SOL_TLS, TLS_TX, TLS_RX) == (31, 282, 1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": KEY_32}, "AES_GCM_128 takes a key of 16 bytes, but this one has 32"),
        ({"key": b""}, "AES_GCM_128 takes a key of 16 bytes, but this one has 0"),
        ({"iv": IV[:8]}, "an IV of 12 bytes, but this one has 8"),
        ({"iv": IV + b"\0"}, "an IV of 12 bytes, but this one has 13"),
        ({"sequence": -1}, "sequence number -1 does not fit"),
        ({"sequence": 2**64}, "does not fit into 64 bits"),
    ],
)
@pytest.mark.parametrize("direction", [TLS_TX, TLS_RX])
def test_refuses_a_key_that_does_not_fit_and_does_not_show_it(
    direction: int, changes: dict[str, object], message: str
) -> None:
    good = secrets(KtlsCipher.AES_GCM_128, KEY_16)
    bad = TrafficKey(**({"key": KEY_16, "iv": IV, "sequence": 0} | changes))  # type: ignore[arg-type]
    wrong = replace(good, tx=bad) if direction == TLS_TX else replace(good, rx=bad)
    with pytest.raises(ValueError, match=message) as caught:
        pack_crypto_info(wrong, direction)
    assert "10111213" not in str(caught.value)
    assert "\\x10" not in str(caught.value)


def test_refuses_other_versions_of_tls() -> None:
    with pytest.raises(ValueError, match="not those of version 0x0303"):
        pack_crypto_info(replace(secrets(KtlsCipher.AES_GCM_128, KEY_16), version=0x0303), TLS_TX)


@pytest.mark.parametrize("direction", [0, 3])
def test_refuses_what_is_not_a_direction(direction: int) -> None:
    with pytest.raises(ValueError, match=f"direction is {direction}, neither"):
        pack_crypto_info(secrets(KtlsCipher.AES_GCM_128, KEY_16), direction)


def test_repr_never_shows_a_key() -> None:
    shown = repr(secrets(KtlsCipher.CHACHA20_POLY1305, KEY_32))
    assert "key=" not in shown
    assert "iv=" not in shown
    assert repr(KEY_32)[2:-1] not in shown
    assert "sequence=1" in shown


def traffic_keys(cipher: KtlsCipher) -> st.SearchStrategy[TrafficKey]:
    size = LAYOUTS[cipher].key
    return st.builds(
        TrafficKey,
        key=st.binary(min_size=size, max_size=size),
        iv=st.binary(min_size=12, max_size=12),
        sequence=st.integers(0, 2**64 - 1),
    )


any_secrets = st.sampled_from(KtlsCipher).flatmap(
    lambda cipher: st.builds(
        KernelSecrets,
        version=st.just(TLS_1_3_VERSION),
        cipher=st.just(cipher),
        tx=traffic_keys(cipher),
        rx=traffic_keys(cipher),
    )
)


@given(any_secrets)
def test_what_is_packed_is_unpacked_unchanged(both: KernelSecrets) -> None:
    assert unpack_crypto_info_untrusted(pack_crypto_info(both, TLS_TX)) == (both.cipher, both.tx)
    assert unpack_crypto_info_untrusted(pack_crypto_info(both, TLS_RX)) == (both.cipher, both.rx)


GOOD = pack_crypto_info(secrets(KtlsCipher.AES_GCM_128, KEY_16), TLS_TX)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_refuses_a_structure_that_was_cut_short(length: int) -> None:
    with pytest.raises(CryptoInfoError):
        unpack_crypto_info_untrusted(GOOD[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x04", "1 bytes; its header alone takes 4"),
        (GOOD + b"\0", "takes a structure of 40 bytes, not 41"),
        ((0x0303).to_bytes(2, sys.byteorder) + GOOD[2:], "version 0x0303, not TLS 1.3"),
        (header(50) + GOOD[4:], "unknown cipher 50"),
        (header(52) + GOOD[4:], "AES_GCM_256 takes a structure of 56 bytes, not 40"),
    ],
)
def test_refuses_a_structure_that_the_kernel_would_refuse(data: bytes, message: str) -> None:
    with pytest.raises(CryptoInfoError, match=message):
        unpack_crypto_info_untrusted(data)


@given(
    st.binary(max_size=64) | st.sampled_from(KtlsCipher).flatmap(lambda c: st.binary().map(header(c).__add__))
)
def test_any_bytes_are_unpacked_or_refused(data: bytes) -> None:
    try:
        cipher, key = unpack_crypto_info_untrusted(data)
    except CryptoInfoError:
        return
    same = KernelSecrets(version=TLS_1_3_VERSION, cipher=cipher, tx=key, rx=key)
    assert pack_crypto_info(same, TLS_TX) == data
