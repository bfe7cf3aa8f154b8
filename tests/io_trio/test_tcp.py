"""The consumer's socket, borrowed: who hung up, what is read first, and how it is handed back."""

import contextlib
import errno
import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from ktls_agent.io_trio.tcp import ConsumerHungUp, HandshakeSocket
from tests.io_trio.house import open_descriptors


@dataclass
class Line:
    """A connection: the consumer's end, our borrowed end of the same open file, and the peer's."""

    consumer: socket.socket
    borrowed: HandshakeSocket
    peer: socket.socket


@contextmanager
def connected() -> Iterator[Line]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        consumer = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    borrowed = HandshakeSocket(os.dup(consumer.fileno()))
    try:
        yield Line(consumer=consumer, borrowed=borrowed, peer=peer)
    finally:
        borrowed.close()
        consumer.close()
        peer.close()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


async def test_reads_what_a_peer_sent_before_its_fin() -> None:
    with connected() as line:
        line.peer.sendall(b"abc")
        line.peer.shutdown(socket.SHUT_WR)
        assert await line.borrowed.receive(2) == b"ab"
        assert await line.borrowed.receive(2) == b"c"
        assert await line.borrowed.receive(2) == b""


async def test_sends_after_the_peers_fin() -> None:
    with connected() as line:
        line.peer.shutdown(socket.SHUT_WR)
        await line.borrowed.send_all(b"alert")
        assert line.peer.recv(10) == b"alert"


async def test_reads_an_alert_before_the_peers_reset() -> None:
    with connected() as line:
        line.consumer.send(b"unread by the peer, so that its close is a reset")
        line.peer.sendall(b"alert")
        line.peer.close()
        assert await line.borrowed.receive(5) == b"alert"
        with pytest.raises(ConnectionResetError):
            await line.borrowed.receive(5)


async def test_a_reset_while_waiting_is_not_taken_for_a_hang_up() -> None:
    with connected() as line:

        async def reset_soon() -> None:
            await trio.testing.wait_all_tasks_blocked()
            reset(line.peer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reset_soon)
            with pytest.raises(ConnectionResetError):
                await line.borrowed.receive(5)


@pytest.mark.parametrize("how", ["before", "while_waiting"])
async def test_a_consumers_shutdown_is_a_hang_up_for_a_reader(how: str) -> None:
    with connected() as line:

        async def hang_up() -> None:
            if how == "while_waiting":
                await trio.testing.wait_all_tasks_blocked()
            line.consumer.shutdown(socket.SHUT_RDWR)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up)
            await trio.lowlevel.checkpoint()
            with pytest.raises(ConsumerHungUp):
                await line.borrowed.receive(5)


@pytest.mark.parametrize("how", ["before", "while_waiting"])
async def test_a_consumers_shutdown_is_a_hang_up_for_a_writer(how: str) -> None:
    with connected() as line:

        async def hang_up() -> None:
            if how == "while_waiting":
                await trio.testing.wait_all_tasks_blocked()
            line.consumer.shutdown(socket.SHUT_RDWR)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang_up)
            if how == "before":
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConsumerHungUp):
                await line.borrowed.send_all(bytes(64 << 20))  # more than any buffer holds


async def test_sends_more_than_the_buffers_hold() -> None:
    with connected() as line:
        data = os.urandom(8 << 20)
        received = bytearray()
        line.peer.setblocking(False)
        peer = trio.socket.from_stdlib_socket(line.peer.dup())

        async def read() -> None:
            while len(received) < len(data):
                received.extend(await peer.recv(1 << 20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await line.borrowed.send_all(data)
        peer.close()
        assert received == data


async def test_a_half_shut_socket_breaks_without_being_a_hang_up() -> None:
    with connected() as line:
        line.consumer.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            await line.borrowed.send_all(b"x")


async def test_an_alert_to_nobody_is_no_error() -> None:
    with connected() as line:
        line.consumer.shutdown(socket.SHUT_RDWR)
        line.borrowed.send_nowait(b"alert")


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("nodelay", [0, 1])
async def test_is_handed_back_as_it_was(blocking: bool, nodelay: int) -> None:
    with connected() as line:
        line.consumer.setblocking(blocking)
        line.consumer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
        borrowed = HandshakeSocket(os.dup(line.consumer.fileno()))
        assert not os.get_blocking(line.consumer.fileno())
        assert line.consumer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        borrowed.restore()
        assert os.get_blocking(line.consumer.fileno()) == blocking
        assert bool(line.consumer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) == bool(nodelay)
        borrowed.close()
        borrowed.close()  # once is enough, twice no harm


async def test_tells_the_peers_address_while_there_is_one() -> None:
    with connected() as line:
        assert line.borrowed.peer_address == "127.0.0.1"
        reset(line.peer)
        with pytest.raises(ConnectionResetError):
            await line.borrowed.receive(1)
        assert line.borrowed.peer_address is None


async def test_a_socket_that_is_not_tcp_is_used_as_it_is() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        borrowed = HandshakeSocket(ours.detach())
        assert borrowed.peer_address is None
        theirs.sendall(b"abc")
        assert await borrowed.receive(3) == b"abc"
        borrowed.restore()
        borrowed.close()


def test_what_is_no_socket_stays_with_the_caller() -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    before = open_descriptors()
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        HandshakeSocket(descriptor)
    assert open_descriptors() == before
    os.close(descriptor)


def test_a_socket_that_can_not_be_watched_stays_with_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def register(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, "x")

        def close(self) -> None:
            pass

    monkeypatch.setattr(select, "epoll", Full)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(OSError, match="x"):
            HandshakeSocket(ours.fileno())
        ours.send(b"still open")
        assert theirs.recv(20) == b"still open"


def epoll_sets_with(descriptor: int) -> list[str]:
    """The epoll sets of this process that hold a descriptor."""
    found = []
    for name in os.listdir("/proc/self/fdinfo"):  # noqa: PTH208
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            text = Path("/proc/self/fdinfo", name).read_text()
            found += [name for line in text.splitlines() if line.split()[:2] == ["tfd:", str(descriptor)]]
    return found


async def test_leaves_nothing_in_trios_epoll_set() -> None:
    """The consumer keeps the open file: a descriptor in Trio's own set would stay there, and hear of its end."""
    with connected() as line:

        async def send_soon() -> None:
            await trio.testing.wait_all_tasks_blocked()
            line.peer.sendall(b"x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_soon)
            await line.borrowed.receive(1)
        watchers = epoll_sets_with(line.borrowed.stdlib.fileno())
        assert len(watchers) == 1  # its own epoll set, which ends with it
