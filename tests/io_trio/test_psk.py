"""Pre-shared keys from the kernel's request to DONE: read, offered, looked up, named, and what is told of them."""

import errno
from dataclasses import replace

import pytest
import trio

from ktls_agent.io_trio.keys import RequestKeys
from ktls_agent.io_trio.simulation.machine import Consumer, Machine, MemoryKeyring
from ktls_agent.io_trio.tcp import HandshakeSocket
from ktls_agent.sansio.policy import Credentials, RequestRefused
from ktls_agent.sansio.session import TICKET_NOTE
from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls.parameters import MAX_PSK_IDENTITIES, PreSharedKey, ServerPskParameters
from ktls_agent.sansio.tls.records import ContentType
from tests.io_trio.house import (
    Peer,
    as_client,
    as_server,
    client_request,
    host_request,
    nvme_identity,
    offering,
    psk,
    running_house,
    send_all,
    target_request,
    until,
)

KEY = psk()
KEY_384 = psk(nvme_identity(2), b"\2" * 48)
BINARY = psk(b"\xff\x80;\n", b"\5" * 32)
PORT = 0x77
"""The keyring of a target's port."""


def put(machine: Machine, *keys: PreSharedKey, keyring: int | None = None) -> tuple[int, ...]:
    return tuple(machine.keyring.add_psk(key.identity, key.secret, keyring=keyring) for key in keys)


async def exchange_data(consumer: Consumer, peer: Peer, sock: trio.socket.SocketType) -> None:
    assert peer.records is not None
    await consumer.send(b"ping")
    assert [record.data for record in peer.records.receive_data_untrusted(await sock.recv(4096))] == [b"ping"]
    await send_all(sock, peer.records.seal(b"pong"))
    assert (await consumer.receive()).data == b"pong"


# The host's side


@pytest.mark.parametrize(
    ("offered", "known"),
    [
        ((KEY,), KEY),
        ((KEY_384,), KEY_384),
        ((KEY_384, KEY), KEY),
        ((KEY, KEY_384), KEY_384),
        ((KEY, BINARY), BINARY),
    ],
)
async def test_a_host_offers_all_its_keys_and_learns_which_was_used(
    offered: tuple[PreSharedKey, ...], known: PreSharedKey
) -> None:
    async with running_house(credentials=Credentials) as house:
        serials = put(house.machine, *offered)
        consumer, theirs = await house.ask(host_request(*serials))
        peer = Peer(psks=(known,))
        await peer.shake_hands(theirs, ServerPskParameters())
        completion = await consumer.wait()
        assert peer.asked == tuple(key.identity for key in offered)
        assert (completion.status, completion.remote_auth) == (0, (serials[offered.index(known)],))
        await exchange_data(consumer, peer, theirs)
        level, fields = await house.finished()
        assert (level, fields["auth"], fields["status"]) == ("info", "psk", "ok")
        assert "alpn" not in fields


async def test_a_host_passes_a_bad_key_over_and_says_so() -> None:
    async with running_house(credentials=Credentials) as house:
        expired, good = put(house.machine, KEY_384, KEY)
        house.machine.keyring.faults[expired] = errno.EKEYEXPIRED
        consumer, theirs = await house.ask(host_request(expired, good))
        peer = Peer(psks=(KEY,))
        await peer.shake_hands(theirs, ServerPskParameters())
        assert (await consumer.wait()).remote_auth == (good,)
        assert peer.asked == (KEY.identity,)
        level, fields = await house.finished()
        assert (level, fields["note"]) == ("warning", f"The key {expired} has expired.")


@pytest.mark.parametrize(
    ("fault", "status", "cause", "reason"),
    [
        (errno.ENOKEY, errno.EACCES, "psk_unavailable", "does not exist."),
        (errno.EKEYEXPIRED, errno.EACCES, "psk_unavailable", "has expired."),
        (errno.EACCES, errno.EACCES, "psk_unavailable", "may not be read by this agent; link it"),
        (errno.EKEYREVOKED, errno.ENOKEY, "psk_unusable", "was revoked."),
    ],
)
async def test_a_host_is_told_whether_it_is_worth_trying_again(
    fault: int, status: int, cause: str, reason: str
) -> None:
    async with running_house() as house:
        (serial,) = put(house.machine, KEY)
        house.machine.keyring.faults[serial] = fault
        consumer, _ = await house.ask(host_request(serial))
        assert (await consumer.wait()).status == status
        _, fields = await house.finished()
        assert fields["cause"] == cause
        assert str(fields["reason"]).startswith(f"The key {serial} {reason}")


async def test_a_host_with_a_key_that_does_not_fit_its_identity_is_told() -> None:
    async with running_house() as house:
        (serial,) = put(house.machine, psk(nvme_identity(1), b"\1" * 48))
        consumer, _ = await house.ask(host_request(serial))
        assert (await consumer.wait()).status == errno.ENOKEY
        _, fields = await house.finished()
        assert fields["reason"] == (
            f"The key {serial} (NVMe0R01 nqn.host nqn.sub) can't be used: its secret has 48 bytes, but its identity "
            "is for sha256, which takes 32."
        )


@pytest.mark.parametrize(
    ("known", "alert"),
    [((), Alert.UNKNOWN_PSK_IDENTITY), ((psk(secret=b"\6" * 32),), Alert.DECRYPT_ERROR)],
    ids=["unknown", "wrong"],
)
async def test_a_host_whose_key_is_refused_may_try_again(
    known: tuple[PreSharedKey, ...], alert: Alert
) -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(host_request(*put(house.machine, KEY)))
        await Peer(psks=known).shake_hands(theirs, ServerPskParameters())
        completion = await consumer.wait()
        assert (completion.status, completion.remote_auth) == (errno.EACCES, ())
        _, fields = await house.finished()
        assert fields["cause"] == "peer_alert"
        assert alert.name.lower() in str(fields["reason"])


# Session tickets


@pytest.mark.parametrize(
    ("content_type", "data", "noted"),
    [
        (22, b"\4\0\0\4abcd", True),
        (22, b"\x18\0\0\1\0", False),
        (23, b"\4\0\0\4abcd", False),
    ],
    ids=["ticket", "key_update", "data"],
)
async def test_a_ticket_that_the_host_would_die_of_is_told_and_left_where_it_is(
    content_type: int, data: bytes, noted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = trio.Event()
    send_flight = HandshakeSocket.send_all

    async def wait_behind_the_last_flight(self: HandshakeSocket, flight: bytes) -> None:
        await send_flight(self, flight)
        if flight[0] == ContentType.CHANGE_CIPHER_SPEC:
            await behind.wait()

    monkeypatch.setattr(HandshakeSocket, "send_all", wait_behind_the_last_flight)
    async with running_house() as house:
        consumer, theirs = await house.ask(host_request(*put(house.machine, KEY)))
        peer = Peer(psks=(KEY,))
        await peer.shake_hands(theirs, ServerPskParameters())
        assert peer.records is not None
        await send_all(theirs, peer.records.seal(data, content_type))
        behind.set()
        assert (await consumer.wait()).status == 0
        record = await consumer.receive()
        assert (record.content_type, record.data) == (content_type, data)
        _, fields = await house.finished()
        assert fields.get("note") == (TICKET_NOTE if noted else None)


# The target's side


@pytest.mark.parametrize("key", [KEY, KEY_384, BINARY], ids=["sha256", "sha384", "binary"])
async def test_a_target_finds_the_key_in_the_keyring_of_its_port(key: PreSharedKey) -> None:
    async with running_house(credentials=Credentials) as house:
        serials = put(house.machine, KEY, KEY_384, BINARY, keyring=PORT)
        consumer, theirs = await house.ask(target_request(keyring=PORT))
        peer = Peer()
        await peer.shake_hands(theirs, offering(psk(b"unknown"), key))
        completion = await consumer.wait()
        assert completion.status == 0
        assert completion.remote_auth == (serials[(KEY, KEY_384, BINARY).index(key)],)
        await exchange_data(consumer, peer, theirs)
        level, fields = await house.finished()
        assert (level, fields["role"], fields["auth"]) == ("info", "server", "psk")
        assert house.machine.keyring.unlinked == [PORT]


async def test_a_requests_keyring_stays_linked_while_another_request_needs_it() -> None:
    async with running_house() as house:
        (serial,) = put(house.machine, KEY, keyring=PORT)
        first, first_peer = await house.ask(target_request(keyring=PORT))
        second, second_peer = await house.ask(target_request(keyring=PORT))
        await until(lambda: house.machine.keyring.linked[PORT] == 2)
        await Peer().shake_hands(first_peer, offering(KEY))
        assert (await first.wait()).status == 0
        await house.finished()
        await Peer().shake_hands(second_peer, offering(KEY))
        assert (await second.wait()).remote_auth == (serial,)
        await house.finished(2)
        assert house.machine.keyring.unlinked == [PORT]


@pytest.mark.parametrize("named", [True, False])
async def test_a_target_that_names_its_keys_accepts_no_other(named: bool) -> None:
    async with running_house() as house:
        serial, other = put(house.machine, KEY, KEY_384)
        consumer, theirs = await house.ask(target_request(serial if named else other))
        await Peer().shake_hands(theirs, offering(KEY))
        completion = await consumer.wait()
        assert completion.remote_auth == ((serial,) if named else ())
        assert completion.status == (0 if named else errno.EACCES)


REFUSED: dict[str, tuple[PreSharedKey, str, Alert, str]] = {
    "unknown": (psk(b"nobody"), "unknown_psk", Alert.UNKNOWN_PSK_IDENTITY, "nobody"),
    "wrong_secret": (psk(secret=b"\6" * 32), "psk_mismatch", Alert.DECRYPT_ERROR, "wrong binder"),
    "only_the_beginning": (
        psk(KEY.identity[:-1]),
        "unknown_psk",
        Alert.UNKNOWN_PSK_IDENTITY,
        "nqn.host nqn.su",
    ),
}


@pytest.mark.parametrize(("key", "cause", "alert", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_target_tells_an_unknown_key_from_a_wrong_one(
    key: PreSharedKey, cause: str, alert: Alert, reason: str
) -> None:
    async with running_house() as house:
        put(house.machine, KEY)
        consumer, theirs = await house.ask(target_request())
        peer = Peer()
        await peer.shake_hands(theirs, offering(key))
        completion = await consumer.wait()
        assert (completion.status, completion.remote_auth) == (errno.EACCES, ())
        assert peer.failed.failure.alert is alert
        _, fields = await house.finished()
        assert fields["cause"] == cause
        assert reason in str(fields["reason"])


@pytest.mark.parametrize(
    ("identity", "fault", "note"),
    [
        (KEY.identity, errno.EKEYEXPIRED, "The key {serial} has expired."),
        (KEY.identity, errno.EKEYREVOKED, "The key {serial} was revoked."),
        (
            b"NVMe9R01 a b",
            0,
            "The client offers NVMe9R01 a b, which is refused: its identity is of version 9; 0 and 1 are known.",
        ),
    ],
)
async def test_a_target_says_why_an_offered_key_was_not_taken(identity: bytes, fault: int, note: str) -> None:
    async with running_house() as house:
        (serial,) = put(house.machine, psk(identity))
        house.machine.keyring.faults |= {serial: fault} if fault else {}
        consumer, theirs = await house.ask(target_request())
        await Peer().shake_hands(theirs, offering(psk(identity)))
        assert (await consumer.wait()).status == errno.EACCES
        _, fields = await house.finished()
        assert (fields["cause"], fields["note"]) == ("unknown_psk", note.format(serial=serial))


async def test_a_target_refuses_a_client_that_offers_no_pre_shared_key() -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(target_request())
        await Peer().shake_hands(theirs, as_client())
        assert (await consumer.wait()).status == errno.EACCES


async def test_a_host_and_a_target_shake_hands_with_each_other() -> None:
    async with running_house() as house:
        (hosts,), (targets,) = put(house.machine, KEY, keyring=-1), put(house.machine, KEY, keyring=PORT)
        ours, theirs = await house.connect()
        target = house.machine.submit(target_request(keyring=PORT), theirs)
        host = house.machine.submit(host_request(hosts), ours)
        assert ((await host.wait()).remote_auth, (await target.wait()).remote_auth) == ((hosts,), (targets,))
        await host.send(b"hello")
        assert (await target.receive()).data == b"hello"


async def test_keyrings_that_came_late_are_linked_when_a_key_is_wanted() -> None:
    machine = Machine()
    (serial,) = put(machine, KEY)
    asked: list[int] = []

    def link() -> None:
        asked.append(len(asked))
        machine.keyring.faults.pop(serial, None)

    async with running_house(machine=machine, link_keyrings=link) as house:
        machine.keyring.faults[serial] = errno.EACCES
        consumer, theirs = await house.ask(host_request(serial))
        await Peer(psks=(KEY,)).shake_hands(theirs, ServerPskParameters())
        assert (await consumer.wait()).status == 0
        _, theirs = await house.ask(target_request())
        await Peer().shake_hands(theirs, offering(KEY))
        _, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        await house.finished(3)
        assert len(asked) == 2


async def test_no_secret_is_logged() -> None:
    secret = b"a secret that nobody may see: 48 bytes in a row!"
    async with running_house() as house:
        (serial,) = put(house.machine, psk(nvme_identity(1), secret), keyring=PORT)
        await house.ask(host_request(serial))
        _, theirs = await house.ask(target_request(keyring=PORT))
        await Peer().shake_hands(theirs, offering(KEY))
        await house.finished(2)
        assert "secret that nobody" not in repr(house.log.lines)


# The source of keys


def test_a_loaded_key_bears_its_serial() -> None:
    keyring = MemoryKeyring()
    serial = keyring.add_psk(KEY.identity, KEY.secret)
    assert RequestKeys(keyring).load_psk(serial) == replace(KEY, serial=serial)


async def test_of_two_keys_with_one_identity_the_first_is_offered_and_named() -> None:
    async with running_house() as house:
        first, second = put(house.machine, KEY, KEY)
        consumer, theirs = await house.ask(host_request(first, second))
        peer = Peer(psks=(KEY,))
        await peer.shake_hands(theirs, ServerPskParameters())
        assert (await consumer.wait()).remote_auth == (first,)
        assert peer.asked == (KEY.identity,)


def test_looks_no_more_identities_up_than_its_bound() -> None:
    keyring = MemoryKeyring()
    names = [b"%d" % number for number in range(MAX_PSK_IDENTITIES + 1)]
    for name in names:
        keyring.add_psk(name, b"\1" * 32)
    keys, notes = RequestKeys(keyring).look_up(names)
    assert [key.identity for key in keys] == names[:-1]
    assert notes == ()


def test_a_key_that_can_not_be_read_is_refused() -> None:
    with pytest.raises(RequestRefused) as caught:
        RequestKeys(MemoryKeyring()).load_psk(9)
    assert caught.value.failure.cause is Cause.PSK_UNAVAILABLE
