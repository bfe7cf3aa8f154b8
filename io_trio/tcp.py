"""The socket of one request: borrowed from a kernel consumer, used, and handed back as it was.

**It is the consumer's socket too.**  Our descriptor and the consumer's share one open file, so O_NONBLOCK, TCP_NODELAY
and the file's life are shared.  `restore` puts the flags back before DONE; `close` only drops our descriptor.

**Why an epoll of its own.**  An epoll set forgets a descriptor when its *open file* ends, not when the descriptor is
closed.  The consumer keeps the file for days, so a descriptor that was given to Trio's epoll set would stay in it,
and would be mistaken for the next one with the same number.  Here each socket has a private epoll set; Trio waits
for that set to become readable, and closing the set ends it all.

**Who hung up.**  The consumer cancels by shutting the socket down in both directions: EPOLLHUP, without EPOLLERR.  A
peer's FIN is no hang-up: what it sent before is still read, and then the end of file.  A peer's RST brings EPOLLHUP
with EPOLLERR: reading goes on as well, since an alert may lie before the error that `recv` then tells.  A
hang-up is noticed wherever the socket is waited for, and where `recv` or `send` finds the socket shut.
"""

import contextlib
import os
import select
import socket
from typing import Final

import trio

TCP_NODELAY: Final = socket.TCP_NODELAY


class ConsumerHungUp(Exception):  # noqa: N818 - an event, not an error of this program
    """The kernel's consumer shut the socket down: nobody waits for this handshake any more."""


class HandshakeSocket:
    """See the module's docstring.

    Attributes:
        stdlib: The socket, for `setsockopt`.
    """

    def __init__(self, sockfd: int) -> None:
        """Take a descriptor over: `close` closes it.

        Args:
            sockfd: A connected stream socket, as ACCEPT installed it.

        Raises:
            OSError: It is no socket, or there are no more descriptors; it is still the caller's then.
        """
        epoll = select.epoll()
        try:
            self.stdlib: Final = socket.socket(fileno=sockfd)
            self._was_blocking = os.get_blocking(sockfd)
            self._had_nodelay = self._swap_nodelay(1)
            os.set_blocking(sockfd, False)
            epoll.register(sockfd, 0)
        except OSError:
            epoll.close()
            if hasattr(self, "stdlib"):
                self.stdlib.detach()
            raise
        self._epoll = epoll

    @property
    def peer_address(self) -> str | None:
        """The peer's address without its port; None if the connection is gone already."""
        try:
            name = self.stdlib.getpeername()
        except OSError:
            return None
        return str(name[0]) if isinstance(name, tuple) else None

    async def receive(self, size: int) -> bytes:
        """Receive at most `size` bytes; b"" is the peer's end of file.

        Raises:
            ConsumerHungUp: The consumer shut the socket down.
            OSError: The connection broke.
        """
        await trio.lowlevel.checkpoint()
        while True:
            try:
                data = self.stdlib.recv(size)
            except BlockingIOError:
                await self._wait(select.EPOLLIN)
                continue
            if not data:
                self._raise_if_hung_up(self._poll())
            return data

    def check_hung_up(self) -> None:
        """Look whether anybody still waits for this handshake.

        Raises:
            ConsumerHungUp: The consumer shut the socket down.
        """
        self._epoll.modify(self.stdlib.fileno(), 0)
        self._raise_if_hung_up(self._poll())

    def peek(self, size: int) -> bytes:
        """Look at what has come already, without waiting and without taking it; b"" if there is nothing."""
        try:
            return self.stdlib.recv(size, socket.MSG_PEEK)
        except OSError:
            return b""

    async def send_all(self, data: bytes) -> None:
        """Send everything.

        Raises:
            ConsumerHungUp: The consumer shut the socket down.
            OSError: The connection broke.
        """
        await trio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.stdlib.send(rest, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                await self._wait(select.EPOLLOUT)
            except BrokenPipeError:
                self._raise_if_hung_up(self._poll())
                raise

    def send_nowait(self, data: bytes) -> None:
        """Send what fits without waiting, as for an alert on the way out; errors don't matter any more."""
        with contextlib.suppress(OSError):
            self.stdlib.send(data, socket.MSG_NOSIGNAL)

    def restore(self) -> None:
        """Hand the socket back as it was; call it before DONE."""
        with contextlib.suppress(OSError):
            os.set_blocking(self.stdlib.fileno(), self._was_blocking)
        if self._had_nodelay == 0:
            self._swap_nodelay(0)

    def close(self) -> None:
        """Drop our descriptor, once."""
        if not self._epoll.closed:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
        self.stdlib.close()

    async def _wait(self, wanted: int) -> None:
        self._epoll.modify(self.stdlib.fileno(), wanted)
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            events = self._poll()
            self._raise_if_hung_up(events)
            if events:
                return

    def _poll(self) -> int:
        return sum(events for _, events in self._epoll.poll(0, 1))

    def _raise_if_hung_up(self, events: int) -> None:
        if events & select.EPOLLHUP and not events & select.EPOLLERR:
            raise ConsumerHungUp

    def _swap_nodelay(self, value: int) -> int | None:
        """Set TCP_NODELAY; return what it was, None for a socket that has no such thing."""
        try:
            former = self.stdlib.getsockopt(socket.IPPROTO_TCP, TCP_NODELAY)
            self.stdlib.setsockopt(socket.IPPROTO_TCP, TCP_NODELAY, value)
        except OSError:
            return None
        return former
