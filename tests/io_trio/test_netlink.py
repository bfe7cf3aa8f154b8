"""The agent's netlink sockets: to the real kernel of this machine, and to the simulated one."""

import errno
import os
import socket
import struct

import pytest
import trio
from trio.testing import MockClock

from ktls_agent.io_trio.netlink import EXCHANGE_SECONDS, HandshakeNetlink, KernelSocket
from ktls_agent.io_trio.simulation.machine import Machine
from ktls_agent.sansio.netlink.client import GenlClient
from ktls_agent.sansio.netlink.codec import split_messages_untrusted
from ktls_agent.sansio.netlink.events import (
    AcceptReply,
    DoneAnswered,
    FamilyResolved,
    KernelError,
    NothingPending,
)
from ktls_agent.sansio.netlink.messages import encode_message
from ktls_agent.sansio.netlink.spec import NlmsgType
from ktls_agent.sansio.testing.simulated_kernel import FAMILY, ChangeAnswer

# The real kernel

NEWFAMILY = 1


def get_family(name: bytes) -> bytes:
    """GETFAMILY by hand, for any family."""
    attribute = struct.pack("=HH", 4 + len(name) + 1, 2) + name + b"\0"
    attribute += b"\0" * (-len(attribute) % 4)
    return struct.pack("=IHHII", 20 + len(attribute), 16, 1, 7, 0) + struct.pack("=BBH", 3, 1, 0) + attribute


def receive(sock: KernelSocket) -> bytes:
    data = sock.receive_nowait()
    assert data is not None  # the kernel answers while the request is being sent
    return data


async def test_the_kernel_resolves_its_own_controller() -> None:
    sock = KernelSocket()
    sock.send_nowait(get_family(b"nlctrl"))
    (message,) = split_messages_untrusted(receive(sock))
    assert message.message_type == NlmsgType.GENL_ID_CTRL
    assert message.payload[0] == NEWFAMILY
    assert message.sequence == 7
    assert sock.receive_nowait() is None
    sock.close()
    sock.close()


async def test_the_kernels_errors_are_capped() -> None:
    sock = KernelSocket()
    sock.send_nowait(get_family(b"no-such-family"))
    (message,) = split_messages_untrusted(receive(sock))
    assert message.message_type == NlmsgType.ERROR
    assert struct.unpack_from("=i", message.payload)[0] == -errno.ENOENT
    assert len(message.payload) == 20  # the error and our header: no copy of the request
    sock.close()


async def test_a_group_that_does_not_exist_is_refused() -> None:
    sock = KernelSocket()
    with pytest.raises(OSError, match=r"Invalid argument|No such file"):
        sock.join_group(4_000_000)
    sock.close()


async def test_a_group_can_be_joined() -> None:
    sock = KernelSocket()
    sock.join_group(16)  # nlctrl's "notify"
    sock.close()


async def test_the_real_kernel_answers_the_client() -> None:
    netlink = HandshakeNetlink(
        asker=(asker := KernelSocket()),
        listener=(listener := KernelSocket()),
        accepted=lambda *_: None,
        complain=lambda _: None,
    )
    match await netlink.resolve():
        case FamilyResolved(groups=groups):
            assert "tlshd" in groups
        case KernelError(error=error):
            assert error == errno.ENOENT  # a kernel without CONFIG_NET_HANDSHAKE
    asker.close()
    listener.close()


async def test_what_other_processes_send_is_dropped() -> None:
    sock = KernelSocket()
    other = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
    with other:
        try:
            other.sendto(b"forged", (sock.port, 0))
        except PermissionError:
            pytest.skip("sending to another netlink socket takes CAP_NET_ADMIN")
        await sock.wait_readable()
        assert sock.receive_nowait() is None
    sock.close()


def test_a_kernel_without_generic_netlink_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktls_agent.io_trio.netlink.SOL_NETLINK", 999)
    with pytest.raises(OSError, match=r"Protocol not available|Operation not supported"):
        KernelSocket()


# The simulated kernel


class Desk:
    """A HandshakeNetlink and what it was told."""

    def __init__(self, machine: Machine) -> None:
        self.asker = machine.open_socket()
        self.listener = machine.open_socket()
        self.accepted: list[AcceptReply] = []
        self.complaints: list[str] = []
        self.netlink = HandshakeNetlink(
            asker=self.asker,
            listener=self.listener,
            accepted=lambda reply, _: self.accepted.append(reply),
            complain=self.complaints.append,
        )

    async def resolve(self) -> None:
        family = await self.netlink.resolve()
        assert family == FAMILY
        self.netlink.join(FAMILY)

    def close(self) -> None:
        self.asker.close()
        self.listener.close()


@pytest.fixture
def machine() -> Machine:
    return Machine()


async def test_an_answer_that_is_there_is_taken_without_waiting(machine: Machine) -> None:
    desk = Desk(machine)
    await desk.resolve()  # no reader runs: it would wait for ever if the answer were not there
    assert isinstance(await desk.netlink.accept(), NothingPending)
    desk.close()


async def test_an_answer_that_comes_later_is_waited_for(machine: Machine, nursery: trio.Nursery) -> None:
    desk = Desk(machine)
    await desk.resolve()
    nursery.start_soon(desk.netlink.read_answers)
    desk.asker.hold()

    async def release() -> None:
        await trio.testing.wait_all_tasks_blocked()
        desk.asker.release()

    nursery.start_soon(release)
    assert isinstance(await desk.netlink.accept(), NothingPending)
    nursery.cancel_scope.cancel()
    desk.close()


async def test_answers_that_never_come_are_given_up(machine: Machine, autojump_clock: MockClock) -> None:
    desk = Desk(machine)
    await desk.resolve()
    desk.asker.hold()
    started = trio.current_time()
    accepted = await desk.netlink.accept()
    assert isinstance(accepted, KernelError)
    assert (accepted.error, accepted.text) == (errno.ETIMEDOUT, "the kernel did not answer within 2 s")
    assert trio.current_time() - started == pytest.approx(EXCHANGE_SECONDS)
    assert await desk.netlink.done(sockfd=3, status=0, remote_auth=(), deadline=started + 3) is None
    assert trio.current_time() - started == pytest.approx(3)
    desk.close()


async def test_a_family_that_is_never_answered_is_given_up(
    machine: Machine, autojump_clock: MockClock
) -> None:
    desk = Desk(machine)
    desk.asker.hold()
    resolved = await desk.netlink.resolve()
    assert isinstance(resolved, KernelError)
    assert resolved.command == "resolve"
    desk.close()


async def test_a_request_is_seen_through_although_it_is_cancelled(machine: Machine) -> None:
    desk = Desk(machine)
    await desk.resolve()
    with trio.CancelScope() as scope:
        scope.cancel()
        assert isinstance(await desk.netlink.accept(), NothingPending)
    desk.close()


async def test_a_request_that_can_not_be_sent_is_answered(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(machine)
    await desk.resolve()

    def refuse(_data: bytes) -> None:
        raise OSError(errno.ENOBUFS, "x")

    monkeypatch.setattr(desk.asker, "send_nowait", refuse)
    accepted = await desk.netlink.accept()
    assert isinstance(accepted, KernelError)
    assert accepted.text == "the request could not be sent: No buffer space available"
    done = await desk.netlink.done(sockfd=3, status=0, remote_auth=())
    assert isinstance(done, DoneAnswered)
    assert (done.sockfd, done.error) == (3, errno.ENOBUFS)
    desk.close()


async def test_an_overflow_answers_whoever_waits(machine: Machine, nursery: trio.Nursery) -> None:
    desk = Desk(machine)
    await desk.resolve()
    nursery.start_soon(desk.netlink.read_answers)
    desk.asker.hold()

    async def overflow() -> None:
        await trio.testing.wait_all_tasks_blocked()
        desk.asker._held = None
        desk.asker.overflow()

    nursery.start_soon(overflow)
    accepted = await desk.netlink.accept()
    assert isinstance(accepted, KernelError)
    assert accepted.error == errno.ENOBUFS
    nursery.cancel_scope.cancel()
    desk.close()


async def test_an_asking_socket_that_breaks_is_an_error(machine: Machine) -> None:
    desk = Desk(machine)
    await desk.resolve()
    desk.asker.errors.append(OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(OSError, match="Input/output error"):
        await desk.netlink.accept()
    desk.close()


async def test_a_listening_socket_that_breaks_is_an_error(machine: Machine) -> None:
    desk = Desk(machine)
    await desk.resolve()
    desk.listener.errors.append(OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(OSError, match="Input/output error"):
        await desk.netlink.wait_ready()
    desk.close()


async def test_a_malformed_notification_is_reason_to_accept(machine: Machine) -> None:
    desk = Desk(machine)
    await desk.resolve()
    desk.listener.deliver(b"\xff" * 7)
    await desk.netlink.wait_ready()
    assert len(desk.complaints) == 1
    desk.close()


async def test_what_says_nothing_wakes_nobody(machine: Machine) -> None:
    desk = Desk(machine)
    await desk.resolve()
    desk.listener.deliver(encode_message(NlmsgType.NOOP, b""))
    with trio.move_on_after(0.01) as scope:
        await desk.netlink.wait_ready()
    assert scope.cancelled_caught
    desk.close()


async def test_a_flood_is_read_in_bounded_portions(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktls_agent.io_trio.netlink.MAX_DRAINED", 2)
    desk = Desk(machine)
    await desk.resolve()
    noop = encode_message(NlmsgType.NOOP, b"")
    for _ in range(5):
        desk.asker.deliver(noop)
    accepted = await desk.netlink.done(sockfd=3, status=0, remote_auth=(), deadline=trio.current_time())
    assert accepted is None  # its answer lies behind the flood
    desk.close()


async def test_a_malformed_answer_is_an_answer(machine: Machine) -> None:
    desk = Desk(machine)
    await desk.resolve()
    machine.kernel.inject(ChangeAnswer(change=lambda answer: answer[:16] + b"\1" + answer[17:]))
    assert isinstance(await desk.netlink.accept(), KernelError)
    assert GenlClient().outstanding == 0
    desk.close()
