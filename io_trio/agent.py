"""The agent: ACCEPT whatever the kernel has pending, and give each request a task of its own.

    service nursery     reads netlink answers, for as long as anything below runs
      handlers nursery  one task for each request
        acceptor        ACCEPT until nothing is pending; at the start, after READY, and when a READY may be lost

`stop` ends the acceptor at once and gives the handlers `DRAIN_SECONDS`; those that are not done by then are
cancelled, which still sends their DONE.  Until it ends the agent stays in the multicast group: requests that come
meanwhile wait in the kernel for its successor, or for another agent, instead of failing.

READYs that arrive while the acceptor is busy stay in the listening socket, whose buffer is all the queue that
is needed.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import Final

import trio

from ktls_agent.sansio.activity import Activity
from ktls_agent.sansio.netlink.events import Accepted, AcceptReply, KernelError, NothingPending
from ktls_agent.sansio.request import (
    HandshakeRequest,
    InvalidRequest,
    UnanswerableReply,
    parse_request_untrusted,
)
from ktls_agent.sansio.steps import Datagram

from .groups import first_error
from .handler import Services, handle_request
from .netlink import DatagramSocket, HandshakeNetlink

MAX_REQUESTS: Final = 256
"""Requests under way at once.  Each takes two descriptors, of which a process has 1024 by default.  Beyond that the
kernel keeps a few and refuses the rest, which is better than to accept them and be late with all."""

DRAIN_SECONDS: Final = 5.0
"""How long a stopping agent lets handshakes go on: nfsd waits 5 s for one (net/sunrpc/svcsock.c)."""

FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 5.0
"""How long to wait after a failed ACCEPT, at first and at most.  Each try that fails for want of descriptors costs
one consumer its request."""


class AgentError(Exception):
    """The agent can't do its work; the text is one line that says why and what to do.

    Attributes:
        exit_code: With what the process ends (sysexits.h).
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Agent:
    """See the module's docstring.

    Args:
        services: What requests share.
        open_socket: Opens a netlink socket; called twice by `run`.
        drain_seconds: How long `stop` leaves requests that are under way.
    """

    def __init__(
        self,
        services: Services,
        *,
        open_socket: Callable[[], DatagramSocket],
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._services = services
        self._open_socket = open_socket
        self._drain_seconds = drain_seconds
        self._slots = trio.Semaphore(MAX_REQUESTS)
        self._stop = trio.Event()
        self._drain = trio.CancelScope()
        self._handlers: trio.Nursery | None = None
        self._netlink: HandshakeNetlink | None = None

    @property
    def activity(self) -> Activity:
        """What it has done so far."""
        return self._services.activity

    def stop(self) -> None:
        """Accept no more requests and end when those under way are done; the second call cuts them short."""
        if self._stop.is_set():
            self._drain.cancel()
        self._stop.set()

    async def run(self, *, on_ready: Callable[[], object] = lambda: None) -> None:
        """Serve until `stop`.

        Args:
            on_ready: Called once the agent listens, and has accepted what was pending before.

        Raises:
            AgentError: The kernel has no such service, or does not let us have it.
        """
        with contextlib.ExitStack() as stack:
            asker, listener = self._sockets(stack)
            netlink = self._netlink = HandshakeNetlink(
                asker=asker,
                listener=listener,
                accepted=self._take,
                complain=lambda text: self._services.log.warning("netlink", problem=text),
            )
            try:
                await self._serve(netlink, on_ready)
            except* AgentError as group:
                raise first_error(group) from None
            except* OSError as group:
                # Requests keep their errors to themselves: this one is netlink's.
                raise AgentError(
                    f"Netlink failed: {_said(first_error(group))}.", exit_code=os.EX_OSERR
                ) from group

    def _sockets(self, stack: contextlib.ExitStack) -> tuple[DatagramSocket, DatagramSocket]:
        try:
            asker = self._open_socket()
            stack.callback(asker.close)
            listener = self._open_socket()
            stack.callback(listener.close)
        except OSError as error:
            raise AgentError(
                f"A generic netlink socket can't be opened: {_said(error)}.", exit_code=os.EX_OSERR
            ) from error
        return asker, listener

    async def _serve(self, netlink: HandshakeNetlink, on_ready: Callable[[], object]) -> None:
        async with trio.open_nursery() as service:
            service.start_soon(netlink.read_answers)
            await _join(netlink)
            with self._drain:
                async with trio.open_nursery() as self._handlers:
                    await self._accept_until_stopped(netlink, on_ready)
                    self._drain.deadline = trio.current_time() + self._drain_seconds
            self._handlers = None
            service.cancel_scope.cancel()

    async def _accept_until_stopped(self, netlink: HandshakeNetlink, on_ready: Callable[[], object]) -> None:
        async with trio.open_nursery() as acceptor:
            acceptor.start_soon(self._accept_on_ready, netlink, on_ready)
            await self._stop.wait()
            acceptor.cancel_scope.cancel()

    async def _accept_on_ready(self, netlink: HandshakeNetlink, on_ready: Callable[[], object]) -> None:
        await self._accept_all(netlink)
        on_ready()
        while True:
            await netlink.wait_ready()
            await self._accept_all(netlink, heard=trio.current_time())

    async def _accept_all(self, netlink: HandshakeNetlink, *, heard: float | None = None) -> None:
        retry = FIRST_RETRY_SECONDS
        while True:
            await self._take_slot()
            match await netlink.accept():
                case Accepted():
                    retry = FIRST_RETRY_SECONDS  # The slot is the handler's now.
                    if heard is not None:
                        self._services.activity.accepted_after(trio.current_time() - heard)
                case NothingPending():
                    self._slots.release()
                    return
                case KernelError() as refused:
                    self._slots.release()
                    self._complain(refused)
                    await trio.sleep(retry)
                    retry = min(2 * retry, LAST_RETRY_SECONDS)

    async def _take_slot(self) -> None:
        # Without a checkpoint where a slot is free: nothing else runs between a READY and the last ACCEPT.
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._slots.acquire()

    def _complain(self, refused: KernelError) -> None:
        said = refused.text or os.strerror(refused.error)
        if refused.error == errno.EPERM:
            raise AgentError(
                "The kernel does not let this process accept handshakes (EPERM): it needs CAP_NET_ADMIN in the initial "
                "user namespace. Run it as root.",
                exit_code=os.EX_NOPERM,
            )
        self._services.log.error("accept failed", error=said)

    def _take(self, reply: AcceptReply, datagrams: Sequence[Datagram]) -> None:
        """Start a request's task, in the call that decoded its descriptor."""
        match parse_request_untrusted(reply):
            case UnanswerableReply(reason=reason):
                self._services.log.error("accept answer unusable", reason=reason)
                self._slots.release()
            case request if self._handlers is not None and self._netlink is not None:
                self._handlers.start_soon(self._handle, request, self._netlink, datagrams)
            case request:
                # An answer that came more than EXCHANGE_SECONDS late, to an agent that has stopped.
                os.close(request.sockfd)

    async def _handle(
        self,
        request: HandshakeRequest | InvalidRequest,
        netlink: HandshakeNetlink,
        datagrams: Sequence[Datagram],
    ) -> None:
        try:
            await handle_request(request, self._services, netlink, datagrams)
        finally:
            self._slots.release()


async def _join(netlink: HandshakeNetlink) -> None:
    family = await netlink.resolve()
    if isinstance(family, KernelError):
        raise _no_family(family)
    try:
        netlink.join(family)
    except OSError as error:
        raise AgentError(
            f"The kernel's handshake notifications can't be joined: {_said(error)}.", exit_code=os.EX_OSERR
        ) from error


def _no_family(refused: KernelError) -> AgentError:
    if refused.error == errno.ENOENT:
        return AgentError(
            f"This kernel ({os.uname().release}) has no handshake service (generic netlink family handshake). It takes "
            "Linux 6.4 or newer with CONFIG_NET_HANDSHAKE, which comes with CONFIG_SUNRPC (NFS) or NVMe/TCP, and "
            "CONFIG_TLS for the keys; distributions' own kernels have them. `ktls-agent demo` runs without.",
            exit_code=os.EX_UNAVAILABLE,
        )
    said = refused.text or os.strerror(refused.error)
    return AgentError(f"The kernel's handshake service can't be looked up: {said}.", exit_code=os.EX_OSERR)


def _said(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
