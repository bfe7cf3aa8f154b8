"""Requests from the simulated kernel, carried out: what the consumer, the peer and the log are told."""

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from ktls_agent.io_trio import agent as agent_module
from ktls_agent.io_trio.agent import Agent, AgentError
from ktls_agent.io_trio.handler import Services
from ktls_agent.io_trio.ktls import KeysRefused
from ktls_agent.io_trio.simulation.machine import Consumer, Machine, SimulatedSocket, connected_pair
from ktls_agent.sansio.config import Configuration, DebugConfiguration
from ktls_agent.sansio.ktls import KernelSecrets
from ktls_agent.sansio.netlink.events import AcceptReply, CertificateSerials
from ktls_agent.sansio.netlink.messages import encode_message
from ktls_agent.sansio.netlink.spec import Auth, Command, NlmsgType
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.session import AUTHENTICATED
from ktls_agent.sansio.status import OUTCOMES, Alert, Cause
from ktls_agent.sansio.steps import Received, Started
from ktls_agent.sansio.testing.simulated_kernel import (
    ChangeAnswer,
    DropReady,
    LoseDoneAnswer,
    PendingRequest,
    RefuseCommand,
)
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import ClientParameters, ServerParameters
from tests.io_trio.house import (
    SERVER_NAME,
    House,
    Log,
    Peer,
    as_client,
    as_server,
    authority,
    client_certificate,
    client_request,
    full_credentials,
    host_request,
    open_descriptors,
    reset,
    running_house,
    send_all,
    server_request,
    trust,
    until,
)
from tests.pki import DAY, NOW, Authority

# Handshakes that succeed


async def exchange_data(consumer: Consumer, peer: Peer, sock: trio.socket.SocketType) -> None:
    """Under the keys that the agent installed, and those of the peer."""
    assert peer.records is not None
    await consumer.send(b"ping")
    assert [record.data for record in peer.records.receive_data_untrusted(await sock.recv(4096))] == [b"ping"]
    await send_all(sock, peer.records.seal(b"pong"))
    assert (await consumer.receive()).data == b"pong"


@dataclass(frozen=True)
class Success:
    """A request, its peer, and whom the two sides take each other for."""

    request: Callable[[Machine], PendingRequest]
    peer: ClientParameters | ServerParameters
    description: str | None
    seen_by_peer: str | None


def with_keys(machine: Machine) -> PendingRequest:
    own = authority().issue(("keyring.test",))
    keys = CertificateSerials(
        certificate=machine.keyring.add(own.chain[0]), private_key=machine.keyring.add(own.private_key_der())
    )
    return client_request(Auth.X509, certificates=(keys,))


SUCCESSES = {
    "client_unauth": Success(lambda _: client_request(), as_server(), "TLS x509 server.test", None),
    "client_x509_from_files": Success(
        lambda _: client_request(Auth.X509), as_server(), "TLS x509 server.test", "CN=client.test"
    ),
    "client_x509_from_keyring": Success(with_keys, as_server(), "TLS x509 server.test", "CN=keyring.test"),
    "server_with_client_certificate": Success(
        lambda _: server_request(), as_client(client_certificate()), "TLS x509 127.0.0.1", "CN=server.test"
    ),
    "server_without_client_certificate": Success(
        lambda _: server_request(), as_client(), None, "CN=server.test"
    ),
}


@pytest.mark.parametrize("case", SUCCESSES.values(), ids=SUCCESSES.keys())
async def test_hands_working_keys_and_the_peers_identity_over(case: Success) -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(case.request(house.machine))
        peer = Peer()
        await peer.shake_hands(theirs, case.peer)
        completion = await consumer.wait()
        assert completion.status == 0
        descriptions = [house.machine.keyring.descriptions[serial] for serial in completion.remote_auth]
        assert descriptions == ([] if case.description is None else [case.description])
        seen = peer.completed.peer
        assert (None if seen is None else seen.subject) == case.seen_by_peer
        await exchange_data(consumer, peer, theirs)
        level, fields = await house.finished()
        assert (level, fields["status"], fields["alpn"]) == ("info", "ok", "sunrpc")


async def test_leaves_what_follows_the_handshake_in_the_socket() -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(client_request())
        peer = Peer()
        await peer.shake_hands(theirs, as_server())
        assert peer.records is not None
        await send_all(theirs, peer.records.seal(b"a ticket", 22) + peer.records.seal(b"data"))
        await consumer.wait()
        assert [(await consumer.receive()).data for _ in range(2)] == [b"a ticket", b"data"]


async def test_never_reads_more_than_the_record_it_is_in() -> None:
    async with running_house() as house:
        _, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        await house.finished()
        received = [step.data for _, step in house.steps if isinstance(step, Received)]
        assert all(len(header) == 5 for header in received[::2])
        assert all(
            len(body) == int.from_bytes(header[3:])
            for header, body in zip(received[::2], received[1::2], strict=True)
        )


async def test_a_client_without_a_peername_verifies_the_address() -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(client_request(peername=None))
        peer = Peer()
        await peer.shake_hands(theirs, as_server(authority().issue((), ips=("127.0.0.1",))))
        assert (await consumer.wait()).status == 0
        assert peer.completed.server_name is None


async def test_two_ends_of_one_connection_shake_hands_with_each_other() -> None:
    async with running_house() as house:
        ours, theirs = await house.connect()
        server = house.machine.submit(server_request(), theirs)
        client = house.machine.submit(client_request(Auth.X509), ours)
        assert (await client.wait()).status == (await server.wait()).status == 0
        await client.send(b"hello")
        assert (await server.receive()).data == b"hello"


async def test_a_kernel_without_asymmetric_keys_still_learns_that_the_peer_is_authenticated() -> None:
    async with running_house() as house:
        house.machine.keyring.problem = OSError(errno.ENODEV, "No such device")
        consumer, theirs = await house.ask(server_request())
        await Peer().shake_hands(theirs, as_client(client_certificate()))
        assert (await consumer.wait()).remote_auth == (AUTHENTICATED,)


async def test_the_socket_is_handed_back_as_it_was() -> None:
    async with running_house() as house:
        ours, theirs = await house.connect()
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        os.set_blocking(ours.fileno(), True)
        consumer = house.machine.submit(server_request(), ours)
        await until(lambda: ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        assert not os.get_blocking(ours.fileno())
        await Peer().shake_hands(theirs, as_client())
        assert (await consumer.wait()).status == 0
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
        assert os.get_blocking(ours.fileno())


async def test_the_keyring_of_a_request_is_unlinked_after_it() -> None:
    async with running_house() as house:
        _, theirs = await house.ask(client_request(keyring=77))
        await Peer().shake_hands(theirs, as_server())
        await house.finished()
        assert house.machine.keyring.unlinked == [77]


async def test_a_keyring_that_stays_linked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()

    def refuse(_serial: int) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(machine.keyring, "release", refuse)
    async with running_house(machine=machine) as house:
        _, theirs = await house.ask(client_request(keyring=77))
        await Peer().shake_hands(theirs, as_server())
        level, fields = await house.finished()
        assert level == "warning"
        assert fields["note"] == "The keyring 77 stays linked: Permission denied."


# Requests that are refused before the peer is asked


def no_identity() -> Credentials:
    return Credentials(client=RoleCredentials(trust=trust()), server=RoleCredentials(trust=trust()))


ABSENT_KEYS = (CertificateSerials(certificate=1, private_key=2),)

REFUSALS: dict[str, tuple[PendingRequest, Callable[[], Credentials], int, str, str]] = {
    "server_without_certificate": (
        server_request(),
        no_identity,
        errno.ENOKEY,
        "no_credentials",
        "The server has no certificate; set x509.certificate and x509.private_key in [authenticate.server].",
    ),
    "client_without_certificate": (
        client_request(Auth.X509),
        no_identity,
        errno.ENOKEY,
        "no_credentials",
        "The client has no certificate; set x509.certificate and x509.private_key in [authenticate.client].",
    ),
    "client_without_trust_store": (
        client_request(),
        Credentials,
        errno.ENOKEY,
        "no_trust_anchors",
        "This system has no trust store in a usual place; set x509.truststore in [authenticate.client].",
    ),
    "unreadable_key": (
        client_request(Auth.X509, certificates=ABSENT_KEYS),
        full_credentials,
        errno.ENOKEY,
        "key_unreadable",
        "The key 1 does not exist.",
    ),
    "missing_psk": (
        host_request(5),
        Credentials,
        errno.EACCES,  # not ENOKEY, after which the NVMe host would never try again
        "psk_unavailable",
        "The key 5 does not exist.",
    ),
    "contradiction": (
        server_request(Auth.UNAUTH),
        full_credentials,
        errno.EINVAL,
        "invalid_request",
        "The request combines MESSAGE_TYPE SERVERHELLO with AUTH_MODE UNAUTH.",
    ),
}


@pytest.mark.parametrize(
    ("request_", "credentials", "status", "cause", "reason"), REFUSALS.values(), ids=REFUSALS.keys()
)
async def test_refuses_with_the_reason(
    request_: PendingRequest, credentials: Callable[[], Credentials], status: int, cause: str, reason: str
) -> None:
    async with running_house(credentials=credentials) as house:
        consumer, theirs = await house.ask(request_)
        assert (await consumer.wait()).status == status
        # The peer is told as well, in the clear: there are no keys yet.
        alert = OUTCOMES[Cause[cause.upper()]].alert
        if alert is not None:
            assert await theirs.recv(100) == bytes([21, 3, 3, 0, 2, 2, alert])
        level, fields = await house.finished()
        assert (level, fields["cause"], fields["reason"]) == ("warning", cause, reason)


async def test_keys_that_are_no_certificate_are_told() -> None:
    async with running_house() as house:
        serial = house.machine.keyring.add(b"no DER")
        keys = (CertificateSerials(certificate=serial, private_key=serial),)
        consumer, _ = await house.ask(client_request(Auth.X509, certificates=keys))
        assert (await consumer.wait()).status == errno.ENOKEY
        _, fields = await house.finished()
        assert str(fields["reason"]).startswith(f"The keys {serial} and {serial} can't be used: ")


# Peers that fail


async def test_a_server_that_is_not_trusted_gets_its_alert_and_the_consumer_eacces() -> None:
    expired = authority().issue((SERVER_NAME,), not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    async with running_house() as house:
        consumer, theirs = await house.ask(client_request())
        peer = Peer()
        await peer.shake_hands(theirs, as_server(expired))
        assert (await consumer.wait()).status == errno.EACCES
        # The server of TLS 1.3 has sent its flight when the client looks at it: the alert is the answer.
        assert peer.failed.failure.alert is Alert.CERTIFICATE_EXPIRED
        _, fields = await house.finished()
        assert "expired on 2026-05-31" in str(fields["reason"])


async def test_a_client_of_a_foreign_authority_is_refused() -> None:
    foreign = Authority("Foreign Root").issue(("client.test",))
    async with running_house() as house:
        consumer, theirs = await house.ask(server_request())
        peer = Peer()
        # Its CertificateRequest names our authorities; this client presents its certificate nevertheless.
        await peer.shake_hands(theirs, as_client(foreign))
        completion = await consumer.wait()
        assert (completion.status, completion.remote_auth) == (errno.EACCES, ())
        _, fields = await house.finished()
        assert fields["cause"] == "unknown_ca"


PEERS: dict[str, tuple[bytes | None, str, str]] = {
    "garbage": (b"GET / HTTP/1.0\r\n\r\n", "protocol_violation", "not a TLS record"),
    "end_of_file": (b"", "end_of_file", "the peer closed the connection during the handshake"),
    "half_a_record": (
        b"\x16\x03\x03\x00\x10abc",
        "end_of_file",
        "the peer closed the connection during the handshake",
    ),
    "alert": (b"\x15\x03\x03\x00\x02\x02\x28", "peer_alert", "handshake_failure"),
    "reset": (None, "connection_lost", "Connection reset by peer"),
}


@pytest.mark.parametrize(("data", "cause", "reason"), PEERS.values(), ids=PEERS.keys())
@pytest.mark.parametrize("request_", [client_request(), server_request()], ids=["client", "server"])
async def test_tells_how_a_peer_failed(
    request_: PendingRequest, data: bytes | None, cause: str, reason: str
) -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(request_)
        await until(lambda: house.steps)
        if data is None:
            reset(theirs)
        else:
            await send_all(theirs, data)
            theirs.shutdown(socket.SHUT_WR)
        assert (await consumer.wait()).status == errno.EACCES
        _, fields = await house.finished()
        assert fields["cause"] == cause
        assert reason in str(fields["reason"])


async def test_a_connection_that_ended_before_accept_is_told() -> None:
    async with running_house() as house:
        house.machine.kernel.inject(DropReady())
        consumer, theirs = await house.ask(client_request(peername=None))
        reset(theirs)
        with pytest.raises(ConnectionResetError):
            await consumer.socket.recv(1)
        await house.ask(server_request(Auth.UNAUTH))  # its READY brings both
        assert (await consumer.wait()).status == errno.EACCES
        reasons = [str(fields["reason"]) for _, fields in house.log.finished()]
        assert any("before its address could be read" in reason for reason in reasons)


# The consumer hangs up


async def test_a_consumer_that_hangs_up_is_noticed_at_once(autojump_clock: MockClock) -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(client_request())
        await trio.sleep(1)
        consumer.hang_up()
        before = trio.current_time()
        _, fields = await house.finished()
        assert trio.current_time() - before < 0.1
        assert (fields["cause"], fields["status"]) == ("cancelled", "ETIMEDOUT")
        assert (await theirs.recv(4096))[:1] == b"\x16"  # the ClientHello, and
        assert await theirs.recv(4096) == b""  # no alert behind it


async def test_a_consumer_that_hung_up_before_accept_is_noticed() -> None:
    async with running_house() as house:
        house.machine.kernel.inject(DropReady())
        consumer, _theirs = await house.ask(server_request())
        consumer.socket.shutdown(socket.SHUT_RDWR)
        await house.ask(server_request(Auth.UNAUTH))
        assert (await consumer.wait()).status == errno.ETIMEDOUT


async def test_a_hang_up_after_the_handshake_changes_nothing() -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        assert (await consumer.wait()).status == 0
        consumer.hang_up()
        level, _ = await house.finished()
        assert level == "info"


# Deadlines


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [
        (client_request(), 9.0),
        (server_request(), 4.5),
        (server_request(timeout_ms=10_000), 9.5),
        (client_request(timeout_ms=100), 0.05),
    ],
)
async def test_gives_up_before_the_consumer_does(
    request_: PendingRequest, seconds: float, autojump_clock: MockClock
) -> None:
    async with running_house() as house:
        started = trio.current_time()
        consumer, _theirs = await house.ask(request_)
        assert (await consumer.wait()).status == errno.ETIMEDOUT
        assert trio.current_time() - started == pytest.approx(seconds, abs=0.01)


async def test_a_peer_that_drips_bytes_gains_no_time(autojump_clock: MockClock) -> None:
    async with running_house() as house:
        started = trio.current_time()
        consumer, theirs = await house.ask(server_request())
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in b"\x16\x03\x01\x02\x00" + bytes(512):
                    await send_all(theirs, bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(drip)
            assert (await consumer.wait()).status == errno.ETIMEDOUT
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started == pytest.approx(4.5, abs=0.01)


async def test_slow_peers_hold_nobody_up(autojump_clock: MockClock) -> None:
    async with running_house() as house:
        for _ in range(20):
            await house.ask(server_request())
        started = trio.current_time()
        consumer, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        assert (await consumer.wait()).status == 0
        assert trio.current_time() - started < 0.1


# READY, ACCEPT, DONE


async def test_accepts_what_was_pending_before_it_started() -> None:
    machine = Machine()
    machine.kernel.join_group(machine.kernel.family.groups["tlshd"])
    ours, theirs = await connected_pair()
    consumer = machine.submit(client_request(), ours)
    async with running_house(machine=machine) as house:
        house.sockets.extend((ours, theirs))
        await Peer().shake_hands(theirs, as_server())
        assert (await consumer.wait()).status == 0


async def test_the_next_ready_also_brings_the_request_whose_ready_was_lost() -> None:
    async with running_house() as house:
        house.machine.kernel.inject(DropReady())
        first, _ = await house.ask(server_request(Auth.UNAUTH))
        await trio.sleep(0.01)
        assert first.completion is None
        second, _ = await house.ask(server_request(Auth.UNAUTH))
        assert [(await consumer.wait()).status for consumer in (first, second)] == [errno.EINVAL] * 2


async def test_accepts_after_notifications_were_lost() -> None:
    async with running_house() as house:
        house.machine.kernel.inject(DropReady())
        consumer, _ = await house.ask(server_request(Auth.UNAUTH))
        (listener,) = (sock for sock in house.machine.sockets if sock.listens)
        listener.overflow()
        assert (await consumer.wait()).status == errno.EINVAL
        assert ("warning", "netlink") in [line[:2] for line in house.log.lines]


async def test_one_ready_is_enough_for_many_requests() -> None:
    async with running_house() as house:
        for _ in range(9):
            house.machine.kernel.inject(DropReady())
        consumers = [(await house.ask(server_request(Auth.UNAUTH)))[0] for _ in range(10)]
        assert [(await consumer.wait()).status for consumer in consumers] == [errno.EINVAL] * 10


async def test_a_refused_done_is_told_and_the_descriptor_closed() -> None:
    async with running_house() as house:
        house.machine.kernel.inject(RefuseCommand(command=Command.DONE, error=errno.EBUSY, text="not yours"))
        _, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        level, fields = await house.finished()
        assert level == "warning"
        assert fields["done_error"] == "The kernel refused DONE with EBUSY, and says: not yours."


async def test_a_lost_answer_to_done_does_not_hold_the_request_for_ever(autojump_clock: MockClock) -> None:
    async with running_house() as house:
        house.machine.kernel.inject(LoseDoneAnswer())
        await house.ask(server_request(Auth.UNAUTH))
        _, fields = await house.finished()
        assert fields["done_error"] == "The kernel's answer to DONE was lost."
        assert trio.current_time() < 10


async def test_an_overflow_of_the_asking_socket_is_the_answer() -> None:
    async with running_house() as house:
        house.machine.kernel.inject(LoseDoneAnswer())
        consumer, theirs = await house.ask(client_request())
        (asker,) = (sock for sock in house.machine.sockets if not sock.listens)
        await until(lambda: house.steps)
        asker.overflow()
        await Peer().shake_hands(theirs, as_server())
        assert (await consumer.wait()).status == 0
        await house.finished()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM])
async def test_tries_again_after_a_failed_accept(error: int, autojump_clock: MockClock) -> None:
    async with running_house() as house:
        for _ in range(3):
            house.machine.kernel.inject(RefuseCommand(command=Command.ACCEPT, error=error))
        consumer, _ = await house.ask(server_request(Auth.UNAUTH))
        assert (await consumer.wait()).status == errno.EINVAL
        assert [line[2] for line in house.log.lines if line[1] == "accept failed"] == [
            {"error": os.strerror(error)}
        ] * 3
        assert trio.current_time() < 1


async def test_no_more_requests_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(agent_module, "MAX_REQUESTS", 2)
    async with running_house() as house:
        for _ in range(3):
            await house.ask(server_request())
        await trio.sleep(1)
        assert len(house.machine.kernel.pending) == 1
        await trio.sleep(4)  # the first two have timed out
        assert len(house.machine.kernel.pending) == 0


# Defects and lacks


class Boom:
    """An installer with a defect."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def install(self, sock: socket.socket, secrets: KernelSecrets) -> None:
        del sock, secrets
        raise self.error


CRASHES: dict[str, tuple[Exception, int, str, str]] = {
    "defect": (RuntimeError("oops"), errno.EIO, "error", "RuntimeError: oops"),
    "memory": (MemoryError(), errno.ENOMEM, "warning", "The agent could not go on: out of memory."),
    "descriptors": (
        OSError(errno.EMFILE, "x"),
        errno.ENOMEM,
        "warning",
        "The agent could not go on: Too many open files.",
    ),
}


@pytest.mark.parametrize(("error", "status", "level", "reason"), CRASHES.values(), ids=CRASHES.keys())
async def test_a_crash_is_contained_and_reported(
    error: Exception, status: int, level: str, reason: str
) -> None:
    async with running_house(installer=Boom(error)) as house:
        consumer, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        assert (await consumer.wait()).status == status
        logged, fields = await house.finished()
        assert logged == level
        assert reason in str(fields["reason"])
        consumer, _ = await house.ask(server_request(Auth.UNAUTH))  # and the agent lives on
        assert (await consumer.wait()).status == errno.EINVAL


async def test_a_crash_before_the_handshake_is_contained() -> None:
    def boom() -> Credentials:
        raise LookupError("no such thing")

    async with running_house(credentials=boom) as house:
        consumer, _ = await house.ask(client_request())
        assert (await consumer.wait()).status == errno.EIO


async def test_a_crash_of_the_netlink_side_closes_the_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def boom(*_: object, **__: object) -> None:
        raise RuntimeError("netlink is broken")

    async with running_house() as house:
        monkeypatch.setattr("ktls_agent.io_trio.netlink.HandshakeNetlink.done", boom)
        before = len(open_descriptors())
        await house.ask(server_request(Auth.UNAUTH))
        _, fields = await house.finished()
        assert "netlink is broken" in str(fields["note"])
        assert len(open_descriptors()) == before + 2  # the consumer's and the peer's


async def test_a_crash_whose_done_crashes_as_well_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def boom(*_: object, **__: object) -> None:
        raise RuntimeError("netlink is broken")

    def no_credentials() -> Credentials:
        raise LookupError

    async with running_house(credentials=no_credentials) as house:
        monkeypatch.setattr("ktls_agent.io_trio.netlink.HandshakeNetlink.done", boom)
        await house.ask(client_request())
        _, fields = await house.finished()
        assert fields["note"] == "DONE could not be sent: netlink is broken."


async def test_a_crash_while_stopping_is_contained(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def boom(*_: object, **__: object) -> None:
        raise RuntimeError("netlink is broken")

    async with running_house() as house:
        await house.ask(client_request())
        await trio.sleep(1)
        monkeypatch.setattr("ktls_agent.io_trio.netlink.HandshakeNetlink.done", boom)
        house.agent.stop()
        house.agent.stop()
        _, fields = await house.finished()
        assert (fields["cause"], fields["note"]) == ("shutdown", "DONE could not be sent: netlink is broken.")


async def test_keys_that_the_kernel_refuses_are_told() -> None:
    machine = Machine()
    machine.refuse_keys = KeysRefused("The kernel refused TCP_ULP tls.")
    async with running_house(machine=machine) as house:
        consumer, theirs = await house.ask(client_request())
        await Peer().shake_hands(theirs, as_server())
        assert (await consumer.wait()).status == errno.EIO
        _, fields = await house.finished()
        assert (fields["cause"], fields["reason"]) == ("ktls_refused", "The kernel refused TCP_ULP tls.")


async def test_a_descriptor_that_is_no_socket_is_answered_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setattr(machine.kernel, "_install", lambda _: os.open("/dev/null", os.O_RDONLY))
    before = len(open_descriptors())
    async with running_house(machine=machine) as house:
        ours, theirs = await connected_pair()
        with ours, theirs:
            consumer = house.machine.submit(client_request(), ours)
            assert (await consumer.wait()).status == errno.EIO
    assert len(open_descriptors()) == before


async def test_no_descriptor_is_left_open() -> None:
    before = open_descriptors()
    async with running_house() as house:
        for number in range(10):
            consumer, theirs = await house.ask(server_request() if number % 2 else client_request())
            if number % 3:
                await Peer().shake_hands(theirs, as_client() if number % 2 else as_server())
            else:
                await send_all(theirs, b"garbage")
            await consumer.wait()
            theirs.close()
            consumer.socket.close()
    assert open_descriptors() == before


# Start and stop


async def run_alone(machine: Machine) -> None:
    """Run an agent until it ends by itself."""
    services = Services(credentials=full_credentials, installer=machine, keyring=machine.keyring, log=Log())
    await Agent(services, open_socket=machine.open_socket).run()


async def test_a_kernel_without_the_family_is_told() -> None:
    with pytest.raises(AgentError, match="has no handshake service") as caught:
        await run_alone(Machine(family_present=False))
    assert caught.value.exit_code == os.EX_UNAVAILABLE


async def test_a_kernel_that_does_not_answer_is_told(autojump_clock: MockClock) -> None:
    machine = Machine()
    machine.kernel.inject(ChangeAnswer(change=lambda _: encode_message(NlmsgType.NOOP, b"")))
    with pytest.raises(
        AgentError, match="can't be looked up: the kernel did not answer within 2 s"
    ) as caught:
        await run_alone(machine)
    assert caught.value.exit_code == os.EX_OSERR


def test_a_descriptor_that_comes_after_the_end_is_closed() -> None:
    machine = Machine()
    services = Services(credentials=full_credentials, installer=machine, keyring=machine.keyring, log=Log())
    agent = Agent(services, open_socket=machine.open_socket)
    before = open_descriptors()
    agent._take(AcceptReply(sockfd=os.open("/dev/null", os.O_RDONLY)), [])
    assert open_descriptors() == before


async def test_a_missing_privilege_is_told() -> None:
    machine = Machine()
    machine.kernel.inject(RefuseCommand(command=Command.ACCEPT, error=errno.EPERM))
    with pytest.raises(AgentError, match="CAP_NET_ADMIN") as caught:
        await run_alone(machine)
    assert caught.value.exit_code == os.EX_NOPERM
    assert machine.sockets == []


async def test_a_group_that_can_not_be_joined_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()

    def refuse(_group: int) -> None:
        raise OSError(errno.EPERM, "x")

    monkeypatch.setattr(machine.kernel, "join_group", refuse)
    with pytest.raises(AgentError, match="notifications can't be joined: Operation not permitted") as caught:
        await run_alone(machine)
    assert caught.value.exit_code == os.EX_OSERR


async def test_netlink_that_can_not_be_opened_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    opened = machine.open_socket()

    def open_socket() -> SimulatedSocket:
        if machine.sockets == [opened]:
            machine.sockets.append(opened)
            return opened
        raise OSError(errno.EAFNOSUPPORT, "x")

    monkeypatch.setattr(machine, "open_socket", open_socket)
    with pytest.raises(AgentError, match="socket can't be opened: Address family not supported") as caught:
        await run_alone(machine)
    assert caught.value.exit_code == os.EX_OSERR


async def test_netlink_that_breaks_is_told() -> None:
    machine = Machine()
    failures: list[AgentError] = []

    async def run_until_it_fails() -> None:
        try:
            await run_alone(machine)
        except AgentError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_until_it_fails)
        await until(lambda: machine.sockets and machine.sockets[-1].listens)
        machine.sockets[-1].errors.append(OSError(errno.EIO, "x"))
        machine.sockets[-1].deliver(b"something to read")
    assert [(str(error), error.exit_code) for error in failures] == [
        ("Netlink failed: Input/output error.", os.EX_OSERR)
    ]


async def stopped_house(house: House) -> None:
    """Wait until a stopped agent has ended."""
    await until(lambda: not house.machine.sockets)


async def test_a_stop_lets_a_handshake_end() -> None:
    async with running_house() as house:
        consumer, theirs = await house.ask(client_request())
        await until(lambda: house.steps)
        house.agent.stop()
        await trio.sleep(0.01)
        await Peer().shake_hands(theirs, as_server())
        assert (await consumer.wait()).status == 0
        await stopped_house(house)


async def test_a_stop_leaves_what_comes_later_to_a_successor() -> None:
    async with running_house() as house:
        consumer, _ = await house.ask(server_request())
        await until(lambda: house.steps)
        house.agent.stop()
        await trio.sleep(0.01)
        late, _ = await house.ask(server_request())
        await trio.sleep(0.01)
        assert house.machine.kernel.pending == (late.request,)
        house.agent.stop()
        assert (await consumer.wait()).status == errno.EIO


async def test_a_stop_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    async with running_house(drain_seconds=3) as house:
        consumer, theirs = await house.ask(client_request())
        await trio.sleep(1)
        house.agent.stop()
        assert (await consumer.wait()).status == errno.EIO
        assert trio.current_time() == pytest.approx(4, abs=0.01)
        _, fields = await house.finished()
        assert fields["cause"] == "shutdown"
        assert (await theirs.recv(4096))[:1] == b"\x16"
        await stopped_house(house)


async def test_a_second_stop_cuts_the_rest_short(autojump_clock: MockClock) -> None:
    async with running_house() as house:
        consumer, _ = await house.ask(client_request())
        await trio.sleep(1)
        house.agent.stop()
        await trio.sleep(1)
        house.agent.stop()
        assert (await consumer.wait()).status == errno.EIO
        assert trio.current_time() == pytest.approx(2, abs=0.01)


async def test_an_answer_without_a_descriptor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_house() as house:
        ready = house.machine.kernel

        def strip(answer: bytes) -> bytes:
            # SOCKFD is the first attribute, and of 8 bytes.
            return (len(answer) - 8).to_bytes(4, "little") + answer[4:20] + answer[28:]

        ready.inject(ChangeAnswer(change=strip))
        await house.ask(client_request())
        await until(lambda: any(line[1] == "accept answer unusable" for line in house.log.lines))


async def test_an_answer_that_comes_too_late_leaks_no_descriptor(autojump_clock: MockClock) -> None:
    async with running_house() as house:
        (asker,) = (sock for sock in house.machine.sockets if not sock.listens)
        asker.hold()
        before = len(open_descriptors())
        consumer, _ = await house.ask(server_request(Auth.UNAUTH))
        await trio.sleep(0.5)
        assert len(open_descriptors()) == before + 3  # both ends, and what ACCEPT installed
        asker.release()
        assert (await consumer.wait()).status == errno.EINVAL
        await house.finished()
        assert len(open_descriptors()) == before + 2


async def test_accepts_between_the_steps_of_other_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many handshakes could go on computing, a READY is heeded after a few steps."""
    steps = 0
    receive_data = TlsEngine.receive_data

    async with running_house() as house:
        peers = [(await house.ask(server_request()))[1] for _ in range(8)]
        await until(lambda: sum(isinstance(step, Started) for _, step in house.steps) == 8)
        late, _ = await house.connect()

        def count(self: TlsEngine, data: bytes) -> None:
            nonlocal steps
            if len(data) == len(b"garbage"):
                steps += 1
                if steps == 1:
                    house.machine.submit(server_request(), late)
            receive_data(self, data)

        install = house.machine.kernel._install
        steps_before_accept: list[int] = []

        def accept(request: PendingRequest) -> int:
            steps_before_accept.append(steps)
            return install(request)

        monkeypatch.setattr(house.machine.kernel, "_install", accept)
        monkeypatch.setattr(TlsEngine, "receive_data", count)
        for theirs in peers:
            os.write(theirs.fileno(), b"\x16\x03\x03\x00\x07garbage")  # all at once: nobody runs between
        await until(lambda: steps == 8)
        assert min(steps_before_accept, default=99) <= 2, (steps_before_accept, steps)


def delaying(seconds: int) -> Credentials:
    debug = DebugConfiguration(delay_done=seconds)
    return replace(full_credentials(), configuration=Configuration(debug=debug))


async def test_done_is_delayed_where_the_configuration_says_so(autojump_clock: MockClock) -> None:
    async with running_house(credentials=lambda: delaying(7)) as house:
        consumer, _ = await house.ask(server_request(Auth.UNAUTH))
        assert (await consumer.wait()).status == errno.EINVAL
        assert trio.current_time() == pytest.approx(7, abs=0.01)
        _, fields = await house.finished()
        assert "done_error" not in fields  # The answer's deadline is later by the delay, too.


async def test_a_stop_does_not_cut_the_delay_short(autojump_clock: MockClock) -> None:
    async with running_house(credentials=lambda: delaying(20)) as house:
        consumer, _ = await house.ask(server_request(Auth.UNAUTH))
        await trio.sleep(1)
        house.agent.stop()
        house.agent.stop()
        assert (await consumer.wait()).status == errno.EINVAL
        assert trio.current_time() == pytest.approx(20, abs=0.01)
