"""The record protocol (RFC 8446, 5 and D.4): every content type at every place, and how messages lie in records."""

from typing import Any, Final

import pytest

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls.parameters import HandshakeFailed
from ktls_agent.sansio.tls.records import MAX_CHANGE_CIPHER_SPECS
from tests.conformance.situations import ROLES, TYPES, Situation, each, judged, positions, refused, spoiled
from tests.peers.adversary import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    Adversary,
    Protection,
    Step,
    after,
    does,
    sends_raw,
    sends_record,
)

OTHER_TYPES: Final = (0, 1, 19, 24, 25, 64, 255)
"""No content types of TLS 1.3; 24 is heartbeat (RFC 6520)."""


def sends_inner(inner: bytes) -> Step:
    return Step(name="sends_inner", run=lambda peer: peer.protected(inner))


# Content types


@each()
def test_every_content_type_at_every_position(situation: Situation) -> None:
    for position in positions(situation):
        for content_type in (*OTHER_TYPES, APPLICATION_DATA):
            peer, verdict = spoiled(situation, position, sends_record(content_type, b"data"))
            skipped = content_type == APPLICATION_DATA and not situation.protected_at(position)
            undecipherable = skipped and situation.keyed_at(position)
            alert = Alert.BAD_RECORD_MAC if undecipherable else Alert.UNEXPECTED_MESSAGE
            refused(peer, verdict, alert, situation.protection_at(position))


@each()
def test_empty_records_at_every_position(situation: Situation) -> None:
    """5.1 and 5.4: no empty handshake or alert; an empty record of application data has no place in a handshake."""
    for position in positions(situation):
        for content_type in (HANDSHAKE, ALERT, APPLICATION_DATA):
            peer, verdict = spoiled(situation, position, sends_record(content_type, b""))
            skipped = content_type == APPLICATION_DATA and not situation.protected_at(position)
            undecipherable = skipped and situation.keyed_at(position)
            alert = Alert.BAD_RECORD_MAC if undecipherable else Alert.UNEXPECTED_MESSAGE
            refused(peer, verdict, alert, situation.protection_at(position))


@each()
@pytest.mark.parametrize("padding", [0, 1, 100])
def test_an_inner_plaintext_of_zeros_alone(situation: Situation, padding: int) -> None:
    """5.4: a receiver that finds no content type ends the connection with unexpected_message."""
    for position in positions(situation):
        if situation.protected_at(position):
            peer, verdict = spoiled(situation, position, sends_inner(bytes(padding)))
            refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


@each()
@pytest.mark.parametrize("padding", [1, 100])
@pytest.mark.parametrize("content_type", [ALERT, HANDSHAKE])
def test_an_empty_record_with_padding(situation: Situation, content_type: int, padding: int) -> None:
    position = len(situation.names()) - 1
    peer, verdict = spoiled(situation, position, sends_inner(bytes([content_type]) + bytes(padding)))
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


@each()
@pytest.mark.parametrize("content_type", [HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC, APPLICATION_DATA, 24])
def test_a_plaintext_record_after_protected_ones(situation: Situation, content_type: int) -> None:
    """5: what is not protected is an unexpected record then, but for ChangeCipherSpec."""
    position = len(situation.names()) - 1
    if not situation.protected_at(position) or situation.names()[position - 1] == "handshake_keys":
        position = situation.names().index("handshake_keys") + 1
    body = b"\x01" if content_type == CHANGE_CIPHER_SPEC else b"\x02\x28"
    raw = bytes([content_type, 3, 3]) + len(body).to_bytes(2) + body
    peer, verdict = spoiled(situation, position, sends_raw(raw))
    if content_type == CHANGE_CIPHER_SPEC:
        assert verdict.completed
    elif content_type == APPLICATION_DATA:
        refused(peer, verdict, Alert.BAD_RECORD_MAC, situation.protection_at(position))
    elif content_type == ALERT and situation.names()[position - 1] == "handshake_keys":
        assert verdict.alert is None, "a plain alert is heard until the first protected record"
    else:
        refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


def plaintext_finished(peer: Adversary) -> None:
    key, peer.write_key = peer.write_key, None
    secret = peer.handshake_secrets[0 if peer.role == "client" else 1]
    data = peer.schedule.verify_data(secret, peer.transcript)
    peer.message(b"\x14" + len(data).to_bytes(3) + data)
    peer.write_key = key


@each()
def test_a_finished_in_plaintext(situation: Situation) -> None:
    position = len(situation.names()) - 1
    peer, verdict = spoiled(situation, position, does(plaintext_finished))
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


# ChangeCipherSpec


@each()
def test_a_change_cipher_spec_is_dropped_at_every_place_but_before_the_first_hello(
    situation: Situation,
) -> None:
    for position in positions(situation):
        peer, verdict = spoiled(situation, position, sends_record(CHANGE_CIPHER_SPEC, b"\x01"))
        if situation.role == "server" and position == 0:
            refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, Protection.NONE)
        else:
            assert verdict.completed, position


@each()
@pytest.mark.parametrize("body", [b"", b"\x00", b"\x02", b"\xff", b"\x01\x01", b"\x01\x00", bytes(100)])
def test_a_change_cipher_spec_of_another_value(situation: Situation, body: bytes) -> None:
    for position in positions(situation):
        peer, verdict = spoiled(situation, position, sends_record(CHANGE_CIPHER_SPEC, body))
        refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


@each()
def test_a_change_cipher_spec_under_the_keys(situation: Situation) -> None:
    for position in positions(situation):
        if situation.protected_at(position):
            peer, verdict = spoiled(situation, position, sends_inner(b"\x01\x14"))
            refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


@each()
def test_endless_change_cipher_specs(situation: Situation) -> None:
    step = sends_record(CHANGE_CIPHER_SPEC, b"\x01")
    position = len(situation.names()) - 1
    peer, verdict = spoiled(situation, position, *[step] * (MAX_CHANGE_CIPHER_SPECS + 1))
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(position))


@each()
def test_a_few_change_cipher_specs(situation: Situation) -> None:
    step = sends_record(CHANGE_CIPHER_SPEC, b"\x01")
    assert spoiled(situation, len(situation.names()) - 1, *[step] * (MAX_CHANGE_CIPHER_SPECS - 3))[
        1
    ].completed


# Messages in records


@each()
@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 100, 1000])
@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 255])
def test_how_messages_lie_in_records_makes_no_difference(
    situation: Situation, size: int, coalesce: bool, pad: int
) -> None:
    peer = situation.peer()
    peer.fragment, peer.coalesce, peer.pad = size, coalesce, pad
    assert peer.run(situation.script(peer)).completed


INTERLOPERS: Final[dict[str, tuple[int, bytes, Alert]]] = {
    "change_cipher_spec": (CHANGE_CIPHER_SPEC, b"\x01", Alert.UNEXPECTED_MESSAGE),
    "application data": (APPLICATION_DATA, b"data", Alert.UNEXPECTED_MESSAGE),
    "empty handshake": (HANDSHAKE, b"", Alert.UNEXPECTED_MESSAGE),
    "heartbeat": (24, b"\x01", Alert.UNEXPECTED_MESSAGE),
}


def parted(step: Step, content_type: int, body: bytes) -> Step:
    """The step, with a record within its message."""

    def run(sender: Any) -> None:
        sender.coalesce = True
        step.run(sender)
        data = sender.take_waiting()
        sender.coalesce = False
        if data:
            sender.record(HANDSHAKE, data[:9])
            sender.record(content_type, body)
            sender.record(HANDSHAKE, data[9:])

    return Step(name=step.name, run=run)


@each()
@pytest.mark.parametrize("interloper", INTERLOPERS)
def test_a_record_within_a_message(situation: Situation, interloper: str) -> None:
    """5.1: there is no other record between those of one message."""
    content_type, body, alert = INTERLOPERS[interloper]
    names = situation.names()
    for position, name in enumerate(names):
        if name not in ("finished", "client_hello", "server_hello", "certificate", "second_client_hello"):
            continue
        if situation.keyed_at(position) != situation.protected_at(position):
            continue
        peer = situation.peer()

        script = situation.script(peer)
        script[position] = parted(script[position], content_type, body)
        refused(peer, judged(peer, script), alert, situation.protection_at(position))


def excess_behind(situation: Situation, name: str, more: bytes) -> tuple[Any, Any]:
    """Bytes behind a message, in its last record."""
    peer = situation.peer()
    honest = peer.alter.get(TYPES[name], lambda data: data)
    peer.alter[TYPES[name]] = lambda data: honest(data) + more
    return peer, judged(peer, situation.script(peer))


@each()
@pytest.mark.parametrize("more", [b"\x08", b"\x08\x00\x00\x02\x00\x00", b"\x01\x00\x00\x00", b"\x14\x00"])
def test_data_behind_the_last_message_before_a_change_of_keys(situation: Situation, more: bytes) -> None:
    """5.1: a message before a change of keys ends its record; what is behind it is refused at once."""
    hello = "server_hello" if situation.role == "client" else "client_hello"
    peer, verdict = excess_behind(situation, hello, more)
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, Protection.NONE)
    peer, verdict = excess_behind(situation, "finished", more)
    refused(peer, verdict, Alert.UNEXPECTED_MESSAGE, situation.protection_at(len(situation.names())))


@each(ROLES)
@pytest.mark.parametrize("version", [0, 0x0300, 0x0301, 0x0302, 0x0304, 0x7F1C, 0xFFFF])
def test_the_version_of_records_is_ignored(situation: Situation, version: int) -> None:
    """5.1: legacy_record_version MUST be ignored for all purposes."""
    peer = situation.peer()
    write = peer._record
    peer._record = lambda kind, data, _=0: write(kind, data, version)
    assert peer.run(situation.script(peer)).completed


# Lengths


@each()
@pytest.mark.parametrize("length", [2**14 + 1, 2**14 + 256, 2**16 - 1])
@pytest.mark.parametrize("content_type", [HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC])
def test_a_plaintext_record_that_is_too_long(situation: Situation, length: int, content_type: int) -> None:
    raw = sends_raw(bytes([content_type, 3, 3]) + length.to_bytes(2) + bytes(length))
    for position in positions(situation):
        peer, verdict = spoiled(situation, position, raw)
        refused(peer, verdict, Alert.RECORD_OVERFLOW, situation.protection_at(position))


@each()
def test_a_protected_record_that_is_too_long(situation: Situation) -> None:
    """5.2: more than 2^14 + 256 bytes are refused by their header."""
    for position in positions(situation):
        peer, verdict = spoiled(situation, position, sends_raw(b"\x17\x03\x03\x41\x01"))
        refused(peer, verdict, Alert.RECORD_OVERFLOW, situation.protection_at(position))


@each()
@pytest.mark.parametrize("size", [2**14 + 2, 2**14 + 240])
def test_an_inner_plaintext_that_is_too_long(situation: Situation, size: int) -> None:
    """5.4: 2^14 + 1 bytes are the most, the content type and the padding counted."""
    position = len(situation.names()) - 1
    for inner in (b"\x16" + bytes(size - 1), b"x" * (size - 1) + b"\x16"):
        peer, verdict = spoiled(situation, position, sends_inner(inner))
        refused(peer, verdict, Alert.RECORD_OVERFLOW, situation.protection_at(position))


@each()
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 40, 2**14 + 256])
def test_a_record_that_does_not_decrypt(situation: Situation, length: int) -> None:
    position = len(situation.names()) - 1
    raw = sends_raw(b"\x17\x03\x03" + length.to_bytes(2) + bytes(length))
    peer, verdict = spoiled(situation, position, raw)
    refused(peer, verdict, Alert.BAD_RECORD_MAC, situation.protection_at(position))


@each(ROLES)
def test_padding_up_to_the_limit(situation: Situation) -> None:
    peer = situation.peer()

    def pad(sender: Adversary) -> None:
        sender.pad = 2**14 - 1000

    assert peer.run(after(situation.script(peer), "handshake_keys", does(pad))).completed


# What is no TLS at all


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
        b"\x80\x2e\x01\x03\x03" + bytes(43),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00" * 20,
        b"\xff" * 20,
        b"\x17\x03\x03\x00\x05hello",
        b"\x18\x03\x03\x00\x03\x01\x00\x00",
    ],
)
@each(ROLES)
def test_what_is_no_handshake(situation: Situation, data: bytes) -> None:
    peer = situation.peer()
    refused(peer, peer.run([sends_raw(data)]), Alert.UNEXPECTED_MESSAGE, Protection.NONE)


# Slow and truncated streams


class Trickle:
    """Stands before an engine, and gives it a byte at a time."""

    def __init__(self, engine: Any) -> None:
        self.data_to_send, self.next_event = engine.data_to_send, engine.next_event
        self._receive = engine.receive_data

    def receive_data(self, data: bytes) -> None:
        for at in range(len(data)):
            self._receive(data[at : at + 1])


@each()
def test_a_peer_that_sends_a_byte_at_a_time(situation: Situation) -> None:
    peer = situation.peer()
    peer.engine = Trickle(peer.engine)
    assert peer.run(situation.script(peer)).completed


@each()
def test_a_connection_that_ends_anywhere(situation: Situation) -> None:
    """6.1: without a Finished there is nothing to use; an end of file is answered with nothing."""
    whole = situation.peer()
    assert whole.run(situation.script(whole)).completed
    for end in range(0, len(whole.sent), 13):
        engine = situation.peer().engine
        engine.receive_data(whole.sent[:end])
        engine.data_to_send()
        engine.receive_data(b"")
        event = engine.next_event()
        assert isinstance(event, HandshakeFailed), end
        assert event.failure.cause is Cause.END_OF_FILE
        assert engine.data_to_send() == b""
