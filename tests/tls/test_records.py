"""The record layer: what is taken, what is dropped, what ends the handshake, and how much is kept."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls import records
from ktls_agent.sansio.tls.errors import HandshakeError
from ktls_agent.sansio.tls.primitives import SUITES_BY_NAME, RecordKey
from ktls_agent.sansio.tls.records import (
    MAX_CHANGE_CIPHER_SPECS,
    MAX_CIPHERTEXT,
    MAX_EARLY_DATA,
    MAX_HANDSHAKE_BYTES,
    MAX_HANDSHAKE_MESSAGE,
    MAX_PLAINTEXT,
    ContentType,
    HandshakeMessage,
    RecordReader,
    RecordWriter,
    handshake_type_name,
)

CERTIFICATE = 11
ANY = range(256)


def record(content_type: int, body: bytes, version: bytes = b"\x03\x03") -> bytes:
    return bytes([content_type]) + version + len(body).to_bytes(2) + body


def handshake(body: bytes, message_type: int = CERTIFICATE) -> bytes:
    return bytes([message_type]) + len(body).to_bytes(3) + body


def key(suite: str = "AES_128_GCM") -> RecordKey:
    return RecordKey.from_traffic_secret(SUITES_BY_NAME[suite], b"s" * 32)


def sealed(sender: RecordKey, inner: bytes) -> bytes:
    header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2)
    return header + sender.seal(inner, header)


def reader(*, protected: bool = False, early_data: bool = False, hello_sent: bool = True) -> RecordReader:
    made = RecordReader()
    made.hello_sent = hello_sent
    if early_data:
        made.skip_early_data()
    if protected:
        made.change_key(key())
    return made


def messages(target: RecordReader, data: bytes) -> list[HandshakeMessage]:
    target.feed_untrusted(data)
    found = []
    while (message := target.next_message_untrusted(ANY)) is not None:
        found.append(message)
    return found


def refusal(target: RecordReader, data: bytes) -> tuple[Alert | None, str]:
    with pytest.raises(HandshakeError) as caught:
        messages(target, data)
    return caught.value.failure.alert, caught.value.failure.reason


# Messages


@pytest.mark.parametrize("protected", [False, True])
@given(
    bodies=st.lists(st.binary(max_size=60), max_size=5),
    fragment=st.integers(1, 80),
    pieces=st.integers(1, 50),
)
def test_messages_come_out_whole_however_they_were_cut(
    protected: bool, bodies: list[bytes], fragment: int, pieces: int
) -> None:
    sent = [handshake(body, number) for number, body in enumerate(bodies, start=30)]
    stream, sender = b"", key()
    joined = b"".join(sent)
    for start in range(0, len(joined), fragment):
        part = joined[start : start + fragment]
        stream += sealed(sender, part + b"\x16" + bytes(start % 3)) if protected else record(22, part)
    target = reader(protected=protected)
    got = [
        item for at in range(0, len(stream), pieces) for item in messages(target, stream[at : at + pieces])
    ]
    assert got == [HandshakeMessage(number, data) for number, data in enumerate(sent, start=30)]
    assert target.take_rest() == b""


def test_bytes_wanted_is_the_header_then_the_record() -> None:
    target = RecordReader()
    assert target.bytes_wanted() == 5
    target.feed_untrusted(b"\x16\x03")
    assert target.bytes_wanted() == 3
    target.feed_untrusted(b"\x03\x01\x00")
    assert target.bytes_wanted() == 256
    target.feed_untrusted(b"x" * 300)
    assert target.bytes_wanted() == 0


def test_the_version_of_a_record_is_ignored() -> None:
    assert messages(reader(), record(22, handshake(b"x"), b"\x7f\x7f")) == [
        HandshakeMessage(CERTIFICATE, handshake(b"x"))
    ]


def test_a_message_is_refused_as_soon_as_its_type_is_known() -> None:
    target = reader()
    target.feed_untrusted(record(22, b"\x04"))
    with pytest.raises(HandshakeError) as caught:
        target.next_message_untrusted([8, 13])
    assert caught.value.failure.alert is Alert.UNEXPECTED_MESSAGE
    assert caught.value.failure.reason == (
        "NewSessionTicket came where EncryptedExtensions or CertificateRequest was due"
    )


def test_message_types_without_a_name_are_told_by_number() -> None:
    assert handshake_type_name(99) == "message type 99"
    assert handshake_type_name(2) == "ServerHello"


# Refusals


@pytest.mark.parametrize("first", [0x00, 0x47, 0x80, 0x13, 0x18, 0xFF])
@pytest.mark.parametrize("protected", [False, True])
def test_what_is_not_tls_is_refused_at_its_first_byte(first: int, protected: bool) -> None:
    alert, reason = refusal(reader(protected=protected), bytes([first]))
    assert alert is Alert.UNEXPECTED_MESSAGE
    assert f"begins with byte {first}" in reason


@pytest.mark.parametrize(
    ("header", "fits"),
    [
        (b"\x16\x03\x03" + MAX_PLAINTEXT.to_bytes(2), True),
        (b"\x16\x03\x03" + (MAX_PLAINTEXT + 1).to_bytes(2), False),
        (b"\x15\x03\x03" + (MAX_PLAINTEXT + 1).to_bytes(2), False),
        (b"\x17\x03\x03" + MAX_CIPHERTEXT.to_bytes(2), True),
        (b"\x17\x03\x03" + (MAX_CIPHERTEXT + 1).to_bytes(2), False),
    ],
)
def test_a_record_that_is_too_long_is_refused_by_its_header(header: bytes, fits: bool) -> None:
    if fits:
        assert messages(reader(), header) == []
    else:
        assert refusal(reader(), header)[0] is Alert.RECORD_OVERFLOW


@pytest.mark.parametrize(
    ("data", "alert"),
    [
        (record(22, b""), Alert.UNEXPECTED_MESSAGE),
        (record(23, b"early"), Alert.UNEXPECTED_MESSAGE),
        (record(21, b"\x02"), Alert.DECODE_ERROR),
        (record(21, b"\x02\x28\x00"), Alert.DECODE_ERROR),
        (record(21, b""), Alert.UNEXPECTED_MESSAGE),
        (record(20, b"\x02"), Alert.UNEXPECTED_MESSAGE),
        (record(20, b"\x01\x01"), Alert.UNEXPECTED_MESSAGE),
        (record(20, b""), Alert.UNEXPECTED_MESSAGE),
        (record(22, b"\x14") + record(20, b"\x01"), Alert.UNEXPECTED_MESSAGE),
    ],
)
def test_plaintext_records_that_are_refused(data: bytes, alert: Alert) -> None:
    assert refusal(reader(), data)[0] is alert


@pytest.mark.parametrize(
    ("inner", "alert"),
    [
        (b"", Alert.UNEXPECTED_MESSAGE),
        (b"\0" * 10, Alert.UNEXPECTED_MESSAGE),
        (b"\x16", Alert.UNEXPECTED_MESSAGE),
        (b"\x16\0\0", Alert.UNEXPECTED_MESSAGE),
        (b"data\x17", Alert.UNEXPECTED_MESSAGE),
        (b"\x01\x14", Alert.UNEXPECTED_MESSAGE),
        (b"what\x63", Alert.UNEXPECTED_MESSAGE),
        (b"\x02\x15", Alert.DECODE_ERROR),
        (b"x" * (MAX_PLAINTEXT + 1) + b"\x16", Alert.RECORD_OVERFLOW),
        (b"x\x16" + b"\0" * MAX_PLAINTEXT, Alert.RECORD_OVERFLOW),
    ],
    ids=[
        *("empty", "zeros", "empty handshake", "padded empty handshake", "application data"),
        *("inner CCS", "unknown type", "short alert", "long", "long padding"),
    ],
)
def test_protected_records_that_are_refused(inner: bytes, alert: Alert) -> None:
    assert refusal(reader(protected=True), sealed(key(), inner))[0] is alert


def test_the_largest_protected_record_is_taken() -> None:
    message = handshake(b"x" * (MAX_PLAINTEXT - 4))
    assert messages(reader(protected=True), sealed(key(), message + b"\x16"))[0].data == message


@pytest.mark.parametrize("content_type", [22, 21])
def test_unprotected_records_are_refused_under_keys(content_type: int) -> None:
    target = reader(protected=True)
    messages(target, sealed(key(), handshake(b"x") + b"\x16"))
    alert, reason = refusal(target, record(content_type, b"\x02\x28"))
    assert alert is Alert.UNEXPECTED_MESSAGE
    assert f"unprotected record of type {content_type}" in reason


def test_an_unprotected_alert_is_heard_until_the_first_protected_record() -> None:
    alert, reason = refusal(reader(protected=True), record(21, b"\x02\x28"))
    assert alert is Alert.HANDSHAKE_FAILURE
    assert "the peer ended the handshake" in reason


@pytest.mark.parametrize("suite", list(SUITES_BY_NAME))
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40])
def test_a_record_that_does_not_decrypt(suite: str, length: int) -> None:
    target = RecordReader()
    target.change_key(RecordKey.from_traffic_secret(SUITES_BY_NAME[suite], b"s" * 32))
    assert refusal(target, record(23, b"x" * length))[0] is Alert.BAD_RECORD_MAC


@pytest.mark.parametrize("message_type", [1, 2, 20])
@pytest.mark.parametrize("more", [b"\x14", b"\x0b\x00\x00\x00"])
def test_a_message_must_not_straddle_a_change_of_keys(message_type: int, more: bytes) -> None:
    alert, reason = refusal(reader(), record(22, handshake(b"x", message_type) + more))
    assert alert is Alert.UNEXPECTED_MESSAGE
    assert "not the last in its record" in reason


@pytest.mark.parametrize(
    ("message_type", "longest"), [(2, 65607), (8, 65537), (13, 65793), (15, 65539), (20, 48)]
)
def test_a_message_longer_than_it_can_be_is_refused_by_its_header(message_type: int, longest: int) -> None:
    header = bytes([message_type])
    assert messages(reader(), record(22, header + longest.to_bytes(3))) == []
    assert refusal(reader(), record(22, header + (longest + 1).to_bytes(3)))[0] is Alert.DECODE_ERROR


# ChangeCipherSpec


@pytest.mark.parametrize("protected", [False, True])
def test_change_cipher_spec_is_dropped_a_few_times(protected: bool) -> None:
    target = reader(protected=protected)
    for _ in range(MAX_CHANGE_CIPHER_SPECS):
        assert messages(target, record(20, b"\x01")) == []
    assert refusal(target, record(20, b"\x01"))[0] is Alert.UNEXPECTED_MESSAGE


def test_change_cipher_spec_has_no_place_before_the_first_hello() -> None:
    target = reader(hello_sent=False)
    assert refusal(target, record(20, b"\x01"))[0] is Alert.UNEXPECTED_MESSAGE
    later = reader(hello_sent=False)
    messages(later, record(22, handshake(b"hello", 1)))
    assert messages(later, record(20, b"\x01")) == []


# Early data


def test_early_data_is_skipped_until_something_decrypts() -> None:
    target = reader(early_data=True, protected=True)
    assert messages(target, record(23, b"e" * 1000) * 3) == []
    assert len(messages(target, sealed(key(), handshake(b"x") + b"\x16"))) == 1
    assert refusal(target, record(23, b"e" * 100))[0] is Alert.BAD_RECORD_MAC


def test_early_data_is_skipped_before_a_second_client_hello() -> None:
    target = reader(early_data=True)
    assert messages(target, record(23, b"e" * 100)) == []
    assert messages(target, record(22, handshake(b"hello", 1)))[0].message_type == 1
    assert refusal(target, record(23, b"e" * 100))[0] is Alert.UNEXPECTED_MESSAGE


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_early_data_is_bounded_and_empty_records_count(size: int) -> None:
    target = reader(early_data=True, protected=True)
    taken = MAX_EARLY_DATA // (size + 5)
    assert messages(target, record(23, b"e" * size) * taken) == []
    assert refusal(target, record(23, b"e" * 1005))[0] is Alert.BAD_RECORD_MAC


# Bounds


def test_a_message_that_is_too_long_is_refused_by_its_header() -> None:
    header = bytes([CERTIFICATE]) + (MAX_HANDSHAKE_MESSAGE - 3).to_bytes(3)
    alert, reason = refusal(reader(), record(22, header))
    assert alert is Alert.ILLEGAL_PARAMETER
    assert str(MAX_HANDSHAKE_MESSAGE + 1) in reason


def test_the_longest_message_is_taken() -> None:
    message = handshake(b"x" * (MAX_HANDSHAKE_MESSAGE - 4))
    stream = b"".join(
        record(22, message[at : at + MAX_PLAINTEXT]) for at in range(0, len(message), MAX_PLAINTEXT)
    )
    assert messages(reader(), stream)[0].data == message


def test_all_messages_together_are_bounded() -> None:
    target = reader()
    one = record(22, handshake(b"x" * (MAX_PLAINTEXT - 4)))
    for _ in range(MAX_HANDSHAKE_BYTES // MAX_PLAINTEXT):
        messages(target, one)
    assert refusal(target, one)[0] is Alert.ILLEGAL_PARAMETER


@given(st.binary(max_size=200), st.sampled_from([False, True]))
def test_random_bytes_are_records_or_one_error(data: bytes, protected: bool) -> None:
    target = reader(protected=protected, early_data=bool(len(data) % 2))
    causes = [Cause.PROTOCOL_VIOLATION]
    try:
        messages(target, data)
    except HandshakeError as error:
        causes.append(error.failure.cause)
    assert causes[-1] in (Cause.PROTOCOL_VIOLATION, Cause.PEER_ALERT)


# Writing


@pytest.mark.parametrize(("is_client", "first"), [(True, b"\x03\x01"), (False, b"\x03\x03")])
def test_only_a_clients_first_record_has_the_old_version(is_client: bool, first: bytes) -> None:
    writer = RecordWriter(is_client=is_client)
    writer.write(ContentType.HANDSHAKE, b"one")
    writer.write(ContentType.HANDSHAKE, b"two")
    pending = [writer.pending]
    assert writer.take() == record(22, b"one", first) + record(22, b"two")
    pending.append(writer.pending)
    assert pending == [True, False]
    assert writer.take() == b""


@pytest.mark.parametrize("size", [0, 1, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 3 * MAX_PLAINTEXT])
@pytest.mark.parametrize("protected", [False, True])
def test_what_is_written_is_read_again(size: int, protected: bool) -> None:
    message = handshake(b"x" * size)
    writer = RecordWriter(is_client=True)
    writer.key = key() if protected else None
    writer.write(ContentType.HANDSHAKE, message)
    assert messages(reader(protected=protected), writer.take())[0].data == message


def test_change_cipher_spec_is_never_protected() -> None:
    writer = RecordWriter(is_client=False)
    writer.key = key()
    writer.write(ContentType.CHANGE_CIPHER_SPEC, b"\x01")
    assert writer.take() == record(20, b"\x01")
    assert writer.key.sequence == 0


def test_each_record_has_the_next_sequence_number() -> None:
    writer, opener = RecordWriter(is_client=False), key()
    writer.key = key()
    for number in range(3):
        assert writer.key.sequence == number
        writer.write(ContentType.ALERT, b"\x02\x28")
        data = writer.take()
        assert opener.open_untrusted(data[5:], data[:5]) == b"\x02\x28\x15"
    assert writer.key.traffic_key().sequence == 3
    assert replace(writer.key).sequence == 3


@pytest.mark.parametrize(
    ("alert", "check"),
    [
        (42, lambda reason: "refused our certificate" in reason),
        (116, lambda reason: "configure one" in reason),
        (0, lambda reason: "close_notify" in reason),
        (80, lambda reason: "internal_error" in reason),
        (200, lambda reason: "unknown alert 200" in reason),
    ],
)
def test_alerts_are_explained(alert: int, check: Callable[[str], bool]) -> None:
    assert check(refusal(reader(), record(21, bytes([2, alert])))[1])
    assert check(refusal(reader(), record(21, bytes([1, alert])))[1])


def test_a_plain_alert_is_fatal() -> None:
    assert records.plain_alert(Alert.INTERNAL_ERROR) == record(21, bytes([2, Alert.INTERNAL_ERROR]))


def test_every_content_type_has_a_number_of_its_own() -> None:
    assert sorted(records.ContentType) == [20, 21, 22, 23]
