"""The record layer that stands in for the kernel's: it agrees with itself, and refuses what the kernel would."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.ktls import (
    LAYOUTS,
    TLS_RX,
    TLS_TX,
    CryptoInfoError,
    KernelSecrets,
    KtlsCipher,
    TrafficKey,
    pack_crypto_info,
)
from ktls_agent.sansio.testing.records import KtlsRecords, Record, RecordError
from ktls_agent.sansio.tls.records import MAX_PLAINTEXT


def pair(cipher: KtlsCipher = KtlsCipher.AES_GCM_256, sequence: int = 0) -> tuple[KtlsRecords, KtlsRecords]:
    """Both ends of a connection."""
    size = LAYOUTS[cipher].key
    there = TrafficKey(key=bytes(range(size)), iv=bytes(range(100, 112)), sequence=sequence)
    back = TrafficKey(key=bytes(range(1, size + 1)), iv=bytes(range(50, 62)), sequence=sequence + 5)
    ends = []
    for tx, rx in ((there, back), (back, there)):
        secrets = KernelSecrets(version=0x0304, cipher=cipher, tx=tx, rx=rx)
        ends.append(KtlsRecords(tx=pack_crypto_info(secrets, TLS_TX), rx=pack_crypto_info(secrets, TLS_RX)))
    return ends[0], ends[1]


@pytest.mark.parametrize("cipher", KtlsCipher)
@pytest.mark.parametrize("sequence", [0, 1, 2**32])
def test_each_end_opens_what_the_other_sealed(cipher: KtlsCipher, sequence: int) -> None:
    ours, theirs = pair(cipher, sequence)
    for _ in range(3):
        assert theirs.receive_data_untrusted(ours.seal(b"there")) == [Record(content_type=23, data=b"there")]
        assert ours.receive_data_untrusted(theirs.seal(b"back", 22)) == [
            Record(content_type=22, data=b"back")
        ]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_records_may_come_in_any_pieces(messages: list[bytes], data: st.DataObject) -> None:
    ours, theirs = pair()
    stream = b"".join(ours.seal(message) for message in messages)
    received = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += theirs.receive_data_untrusted(stream[:size])
        stream = stream[size:]
    assert [record.data for record in received] == messages


def test_long_data_takes_several_records() -> None:
    ours, theirs = pair()
    records = theirs.receive_data_untrusted(ours.seal(bytes(MAX_PLAINTEXT + 1)))
    assert [len(record.data) for record in records] == [MAX_PLAINTEXT, 1]


def test_padding_is_taken_off() -> None:
    ours, theirs = pair()
    # The type first, then zeros, is what seal makes of data that ends so and of the type 0.
    assert theirs.receive_data_untrusted(ours.seal(b"data\x17\0\0", 0)) == [
        Record(content_type=23, data=b"data")
    ]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda ours: b"\x16" + ours.seal(b"x")[1:],
            "A record of type 22 and 18 bytes is not one of TLS 1.3's.",
        ),
        (lambda _: b"\x17\x03\x03\xff\xff", "A record of type 23 and 65535 bytes is not one of TLS 1.3's."),
        (lambda ours: ours.seal(b"x")[:-1] + b"\0", "Record 0 does not decrypt under the keys of TLS_RX."),
        (lambda ours: ours.seal(b"\0", 0), "A record holds no content type."),
    ],
)
def test_refuses_what_is_no_record(make: Callable[[KtlsRecords], bytes], sentence: str) -> None:
    ours, theirs = pair()
    with pytest.raises(RecordError) as caught:
        theirs.receive_data_untrusted(make(ours))
    assert str(caught.value) == sentence


def test_a_replayed_record_is_refused() -> None:
    ours, theirs = pair()
    record = ours.seal(b"once")
    theirs.receive_data_untrusted(record)
    with pytest.raises(RecordError, match="Record 1 does not decrypt"):
        theirs.receive_data_untrusted(record)


def test_keys_that_the_kernel_would_not_take_are_refused() -> None:
    with pytest.raises(CryptoInfoError):
        KtlsRecords(tx=b"", rx=b"")
