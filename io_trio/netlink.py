"""The agent's two netlink sockets, around `GenlClient`.

One socket asks (GETFAMILY, ACCEPT, DONE) and one listens for READY.  They are apart so that a burst of
notifications can only overflow the listening one: an overflow there costs an ACCEPT too many, while an ACCEPT's
answer that is lost would lose a handshake.

The kernel answers while a request is being sent, so `_exchange` looks for the answer at once and, on a real kernel,
never waits: a READY is followed by all its ACCEPTs without another task in between.  Where the answer comes later
(a simulated kernel, a lost answer) the reader task `read_answers` takes it in.

A descriptor arrives in an ACCEPT's answer.  It is given to `accepted` in the very call that decodes it, with no await
between: nothing that is cancelled in the meantime can lose it.
"""

import errno
import math
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from ktls_agent.sansio.netlink.client import GenlClient, Outgoing
from ktls_agent.sansio.netlink.events import (
    Accepted,
    AcceptReply,
    DoneAnswered,
    FamilyResolved,
    KernelError,
    MalformedMessage,
    NetlinkEvent,
    NothingPending,
    NotificationsLost,
    Ready,
)
from ktls_agent.sansio.netlink.spec import MulticastGroup
from ktls_agent.sansio.steps import Datagram, Trace, no_trace

# include/uapi/linux/netlink.h, include/linux/socket.h
NETLINK_GENERIC: Final = 16
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11

MAX_DATAGRAM: Final = 64 << 10
"""The largest answer is GETFAMILY's, of about a kilobyte; the kernel never sends more than 32 KiB (NLMSG_GOODSIZE)."""

MAX_DRAINED: Final = 1024
"""Datagrams that are read in one go: more than a receive buffer holds, so only a socket that never ends reaches it."""

EXCHANGE_SECONDS: Final = 2.0
"""How long to wait for an answer: the kernel answers at once, so only one that is lost takes longer."""


class DatagramSocket(Protocol):
    """A netlink socket to the kernel, or to what plays it."""

    def send_nowait(self, data: bytes) -> None:
        """Send one datagram.

        Raises:
            OSError: The kernel did not take it.
        """
        ...

    def receive_nowait(self) -> bytes | None:
        """Return the next datagram of the kernel's; None if there is none now.

        Raises:
            OSError: ENOBUFS: datagrams were lost.
        """
        ...

    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` has something to say."""
        ...

    def join_group(self, group: int) -> None:
        """Receive what is sent to a multicast group.

        Raises:
            OSError: The kernel refused.
        """
        ...

    def close(self) -> None:
        """Close it."""
        ...


class KernelSocket:
    """A generic netlink socket to the real kernel; a `DatagramSocket`."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            OSError: The kernel has no netlink for us.
        """
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_GENERIC)
        try:
            self._socket.bind((0, 0))
            # Errors come with the kernel's own words, and without our request repeated behind them.
            for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK):
                self._socket.setsockopt(SOL_NETLINK, option, 1)
        except OSError:
            self._socket.close()
            raise

    @property
    def port(self) -> int:
        """Its netlink address (`nl_pid`)."""
        return int(self._socket.getsockname()[0])

    def send_nowait(self, data: bytes) -> None:
        """See `DatagramSocket`."""
        self._socket.sendto(data, (0, 0))

    def receive_nowait(self) -> bytes | None:
        """See `DatagramSocket`; what other processes send is dropped."""
        while True:
            try:
                data, (sender, _groups) = self._socket.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                return None
            if sender == 0:
                return data

    async def wait_readable(self) -> None:
        """See `DatagramSocket`."""
        await trio.lowlevel.wait_readable(self._socket)

    def join_group(self, group: int) -> None:
        """See `DatagramSocket`."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def close(self) -> None:
        """See `DatagramSocket`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


@dataclass(slots=True, kw_only=True)
class _Waiter:
    """Who waits for one answer."""

    event: trio.Event
    answer: NetlinkEvent | None = None
    datagrams: list[Datagram]  # what was asked, and what was answered


class HandshakeNetlink:
    """The `handshake` family as coroutines; see the module's docstring.

    Args:
        asker: Sends requests and receives their answers.
        listener: Receives READY once `join` has been called.
        accepted: Takes each request that the kernel hands over, and the datagrams that brought it; must not block or
            raise.
        complain: Takes a sentence about what the kernel said that it should not have.
    """

    def __init__(
        self,
        *,
        asker: DatagramSocket,
        listener: DatagramSocket,
        accepted: Callable[[AcceptReply, Sequence[Datagram]], None],
        complain: Callable[[str], object],
    ) -> None:
        self._asker = asker
        self._listener = listener
        self._accepted = accepted
        self._complain = complain
        self._client = GenlClient()
        self._waiters: dict[int, _Waiter] = {}  # bounded by netlink.client.MAX_OUTSTANDING

    async def resolve(self) -> FamilyResolved | KernelError:
        """Look the family up; needed before everything else."""
        match await self._exchange(self._client.resolve_family()):
            case FamilyResolved() | KernelError() as answer:
                return answer
            case _:
                return _unanswered("resolve")

    def join(self, family: FamilyResolved) -> None:
        """Listen for READY.

        Raises:
            OSError: The kernel refused.
        """
        self._listener.join_group(family.groups[MulticastGroup.TLSHD])

    async def accept(self) -> Accepted | NothingPending | KernelError:
        """Ask for one request; it has been given to `accepted` when this returns."""
        match await self._exchange(self._client.accept()):
            case Accepted() | NothingPending() | KernelError() as answer:
                return answer
            case _:
                return _unanswered("accept")

    async def done(
        self,
        *,
        sockfd: int,
        status: int,
        remote_auth: tuple[int, ...],
        deadline: float = math.inf,
        trace: Trace = no_trace,
    ) -> DoneAnswered | None:
        """Report the end of a handshake.

        Args:
            sockfd: The descriptor from ACCEPT.
            status: 0 or a positive errno.
            remote_auth: Key serials of the peer's identities.
            deadline: When to stop waiting for the answer, in Trio's time; it is never later than `EXCHANGE_SECONDS`.
            trace: Is told both datagrams.

        Returns:
            The kernel's answer; None if it was lost.
        """
        outgoing = self._client.done(sockfd=sockfd, status=status, remote_auth=remote_auth)
        match await self._exchange(outgoing, deadline, trace):
            case DoneAnswered() as answer:
                return answer
            case KernelError(sequence=sequence, error=error, text=text):
                return DoneAnswered(sequence=sequence, sockfd=sockfd, error=error, text=text)
            case _:
                return None

    async def wait_ready(self) -> None:
        """Wait for a READY, or for a sign that one may have been lost."""
        while not self._drain_listener():
            await self._listener.wait_readable()

    async def read_answers(self) -> None:
        """Take in answers that were not there at once; run it as a task for as long as anything else here runs."""
        while True:
            await self._asker.wait_readable()
            self._drain_answers()

    async def _exchange(
        self, outgoing: Outgoing, deadline: float = math.inf, trace: Trace = no_trace
    ) -> NetlinkEvent | None:
        asked = Datagram(outgoing=True, data=outgoing.datagram)
        waiter = self._waiters[outgoing.sequence] = _Waiter(event=trio.Event(), datagrams=[asked])
        try:
            # A request that was sent is seen through: its answer may bring a descriptor.
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = min(deadline, trio.current_time() + EXCHANGE_SECONDS)
                waiter.answer = self._send(outgoing)
                self._drain_answers()
                if waiter.answer is None:
                    await waiter.event.wait()
        finally:
            del self._waiters[outgoing.sequence]
            self._client.abandon(outgoing.sequence)
            for datagram in waiter.datagrams:
                trace(datagram)
        return waiter.answer

    def _send(self, outgoing: Outgoing) -> KernelError | None:
        try:
            self._asker.send_nowait(outgoing.datagram)
        except OSError as error:
            number = error.errno or errno.EIO
            text = f"the request could not be sent: {os.strerror(number)}"
            return KernelError(sequence=outgoing.sequence, command="send", error=number, text=text)
        return None

    def _drain_answers(self) -> None:
        for _ in range(MAX_DRAINED):
            try:
                data = self._asker.receive_nowait()
            except OSError as error:
                self._answers_failed(error)
                continue
            if data is None:
                return
            self._receive(data)

    def _answers_failed(self, error: OSError) -> None:
        if error.errno != errno.ENOBUFS:
            raise error
        # What is still in the buffer is read first; after that no answer can come.
        while (data := self._asker.receive_nowait()) is not None:
            self._receive(data)
        self._dispatch(self._client.answers_lost())

    def _drain_listener(self) -> bool:
        """Read all notifications; whether there is reason to ACCEPT."""
        heard = False
        for _ in range(MAX_DRAINED):
            try:
                data = self._listener.receive_nowait()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._dispatch(self._client.notifications_lost())
                heard = True
                continue
            if data is None:
                break
            heard |= self._receive(data)
        return heard

    def _receive(self, data: bytes) -> bool:
        return self._dispatch(self._client.receive_datagram_untrusted(data), data)

    def _dispatch(self, events: list[NetlinkEvent], data: bytes = b"") -> bool:
        """Carry the events of a datagram out; whether one of them is a reason to ACCEPT."""
        ready = False
        for event in events:
            match event:
                case Ready():
                    ready = True
                case NotificationsLost():
                    self._complain("netlink notifications were lost; every pending request is accepted now")
                    ready = True
                case MalformedMessage(reason=reason):
                    self._complain(reason)
                    ready = True
                case Accepted(reply=reply):
                    self._accepted(reply, self._answer(event.sequence, event, data))
                case FamilyResolved():
                    self._answer_family(event)
                case NothingPending() | DoneAnswered() | KernelError():
                    self._answer(event.sequence, event, data)
        return ready

    def _answer_family(self, event: FamilyResolved) -> None:
        # It bears no sequence number; it is asked for before anything else is.
        for sequence in self._waiters:
            self._answer(sequence, event, b"")

    def _answer(self, sequence: int, event: NetlinkEvent, data: bytes) -> Sequence[Datagram]:
        """Wake who waits for an answer; the datagrams of the exchange."""
        answer = Datagram(outgoing=False, data=data)
        waiter = self._waiters.get(sequence)
        if waiter is None:
            return [answer]
        waiter.answer = event
        waiter.event.set()
        if data:  # (none for an answer that was lost)
            waiter.datagrams.append(answer)
        return waiter.datagrams


def _unanswered(command: str) -> KernelError:
    text = f"the kernel did not answer within {EXCHANGE_SECONDS:g} s"
    return KernelError(sequence=0, command=command, error=errno.ETIMEDOUT, text=text)
