"""The agent's side of the `handshake` family, without I/O: requests out, answers and notifications in.

`GenlClient` numbers each request, remembers it until its answer comes, and turns datagrams into events.  One client
serves both of an agent's netlink sockets (of one net namespace): the one that asks and the one that listens.

- Every request gets exactly one answering event: FamilyResolved or KernelError; Accepted, NothingPending or
  KernelError; DoneAnswered.  Where the kernel's answer is malformed (EBADMSG) or lost (ENOBUFS) the client says so in
  the same event, so that nobody waits for ever.
- Nothing raises on what the kernel says.  A descriptor that the kernel has installed would leak if the event that
  names it were lost because a later message in the datagram, or another attribute in the message, is malformed.  So
  malformation is told by events, in order: by the answer if the message answers a request, else by MalformedMessage.
- A message that answers nothing (a stale or foreign sequence number, an unknown type, the end of a dump) is counted
  in `unmatched` and otherwise ignored.  In particular the SOCKFD in it is not believed.

The caller has to check that a datagram's sender is the kernel (`nl_pid` 0 in its address).
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from . import messages, spec
from .codec import (
    Message,
    NetlinkDecodeError,
    decode_accept_reply_untrusted,
    decode_error_untrusted,
    decode_family_untrusted,
    decode_handler_class_untrusted,
    split_genl_untrusted,
    split_messages_untrusted,
)
from .events import (
    Accepted,
    DoneAnswered,
    KernelError,
    MalformedMessage,
    NetlinkEvent,
    NothingPending,
    NotificationsLost,
    Ready,
)
from .spec import Command, CtrlCommand, NlmsgType

MAX_OUTSTANDING: Final = 64
"""Requests that wait for an answer.  The kernel answers while the request is being sent, so more than one or two
means that answers are not read."""
_MAX_SEQUENCE: Final = 0xFFFFFFFF
_MAX_SOCKFD: Final = 0x7FFFFFFF


class NetlinkUsageError(RuntimeError):
    """The client was asked for what it can't do now: a mistake of the caller, not of the kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request to be sent as one datagram.

    Attributes:
        sequence: Its sequence number; the answering event bears it too.
        datagram: The bytes.
    """

    sequence: int
    datagram: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resolve:
    """GETFAMILY waits for its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accept:
    """ACCEPT waits for its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """DONE waits for its answer."""

    sockfd: int


_Request = _Resolve | _Accept | _Done


class GenlClient:
    """See the module's docstring.

    Args:
        first_sequence: The sequence number of the first request; a replay goes on where the recorded one did.

    Attributes:
        unmatched: How many messages answered no request of this client.
    """

    def __init__(self, *, first_sequence: int = 1) -> None:
        self.unmatched = 0
        self._family_id: int | None = None
        self._last_sequence = first_sequence - 1
        self._outstanding: dict[int, _Request] = {}

    @property
    def outstanding(self) -> int:
        """How many requests wait for an answer."""
        return len(self._outstanding)

    def resolve_family(self) -> Outgoing:
        """Ask the controller for the family `handshake`.

        Returns:
            The request; FamilyResolved or KernelError (ENOENT: the kernel has no such family) answers it.

        Raises:
            NetlinkUsageError: Too many requests wait for an answer.
        """
        sequence = self._ask(_Resolve())
        return Outgoing(sequence=sequence, datagram=messages.encode_get_family(sequence=sequence))

    def accept(self) -> Outgoing:
        """Ask for the next pending handshake request.

        It asks for no acknowledgement: the reply or the error is the answer.

        Returns:
            The request; Accepted, NothingPending or KernelError answers it.

        Raises:
            NetlinkUsageError: The family is not resolved, or too many requests wait for an answer.
        """
        family_id = self._resolved()
        sequence = self._ask(_Accept())
        datagram = messages.encode_accept(family_id=family_id, sequence=sequence)
        return Outgoing(sequence=sequence, datagram=datagram)

    def done(self, *, sockfd: int, status: int, remote_auth: Sequence[int] = ()) -> Outgoing:
        """Report that a handshake has ended.

        Args:
            sockfd: The descriptor that ACCEPT gave; it has to be open until DONE is answered.
            status: 0, or a positive errno.
            remote_auth: Key serials of the peer's identities, as u32; the consumer sees only the first.

        Returns:
            The request; DoneAnswered answers it.

        Raises:
            ValueError: A number is outside of what its attribute can hold.
            NetlinkUsageError: The family is not resolved, or too many requests wait for an answer.
        """
        _check("the status", status, spec.MAX_ERRNO)
        _check("the descriptor", sockfd, _MAX_SOCKFD)
        for serial in remote_auth:
            _check("a peer identity", serial, 0xFFFFFFFF)
        family_id = self._resolved()
        sequence = self._ask(_Done(sockfd=sockfd))
        datagram = messages.encode_done(
            family_id=family_id, sequence=sequence, status=status, sockfd=sockfd, remote_auth=remote_auth
        )
        return Outgoing(sequence=sequence, datagram=datagram)

    def abandon(self, sequence: int) -> None:
        """Forget a request that could not be sent; does nothing if it does not wait for an answer."""
        self._outstanding.pop(sequence, None)

    def notifications_lost(self) -> list[NetlinkEvent]:
        """The listening socket reported ENOBUFS: a READY may have been lost."""
        return [NotificationsLost()]

    def answers_lost(self) -> list[NetlinkEvent]:
        """The asking socket reported ENOBUFS and then was read until it was empty: no answer can come any more.

        An answer that was lost installed no descriptor: the kernel installs it only once its reply is queued.

        Returns:
            The answering event, with ENOBUFS, of every request that waited.
        """
        text = "the kernel's answer was lost: the netlink socket's receive buffer was full"
        return [self._failed(sequence, errno.ENOBUFS, text) for sequence in list(self._outstanding)]

    def receive_datagram_untrusted(self, data: bytes) -> list[NetlinkEvent]:
        """Take one datagram from either socket.

        Returns:
            What it says, in order.  Raises nothing on any bytes: see the module's docstring.
        """
        events: list[NetlinkEvent] = []
        try:
            for message in split_messages_untrusted(data):
                events.extend(self._receive_untrusted(message))
        except NetlinkDecodeError as error:
            events.append(MalformedMessage(reason=f"netlink: {error}"))
        return events

    def _receive_untrusted(self, message: Message) -> list[NetlinkEvent]:
        try:
            return self._dispatch_untrusted(message)
        except NetlinkDecodeError as error:
            if message.sequence in self._outstanding:
                return [self._failed(message.sequence, errno.EBADMSG, f"the answer is malformed: {error}")]
            return [MalformedMessage(reason=f"netlink message of type {message.message_type}: {error}")]

    def _dispatch_untrusted(self, message: Message) -> list[NetlinkEvent]:
        match message.message_type:
            case NlmsgType.NOOP:
                return []
            case NlmsgType.OVERRUN:
                return self.notifications_lost()
            case NlmsgType.ERROR:
                return self._receive_error_untrusted(message)
            case NlmsgType.GENL_ID_CTRL:
                return self._receive_family_untrusted(message)
            case self._family_id:
                return self._receive_handshake_untrusted(message)
            case _:
                return self._ignore()

    def _receive_error_untrusted(self, message: Message) -> list[NetlinkEvent]:
        answer = decode_error_untrusted(message)
        if message.sequence not in self._outstanding:
            return self._ignore()
        return [self._failed(message.sequence, answer.error, answer.text)]

    def _receive_family_untrusted(self, message: Message) -> list[NetlinkEvent]:
        command, chain = split_genl_untrusted(message.payload)
        if command != CtrlCommand.NEWFAMILY or not self._waits_as(message.sequence, _Resolve):
            return self._ignore()
        family = decode_family_untrusted(chain)
        if spec.MulticastGroup.TLSHD not in family.groups:
            raise NetlinkDecodeError(f"the family has no multicast group {spec.MulticastGroup.TLSHD}")
        del self._outstanding[message.sequence]
        self._family_id = family.family_id
        return [family]

    def _receive_handshake_untrusted(self, message: Message) -> list[NetlinkEvent]:
        command, chain = split_genl_untrusted(message.payload)
        # A READY too many costs one ACCEPT, a READY too few a handshake: so its sequence number is not judged.
        if command == Command.READY:
            return [Ready(handler_class=decode_handler_class_untrusted(chain))]
        if command != Command.ACCEPT or not self._waits_as(message.sequence, _Accept):
            return self._ignore()
        del self._outstanding[message.sequence]
        return [Accepted(sequence=message.sequence, reply=decode_accept_reply_untrusted(chain))]

    def _failed(self, sequence: int, error: int, text: str) -> NetlinkEvent:
        request = self._outstanding.pop(sequence)
        match request:
            case _Done(sockfd=sockfd):
                return DoneAnswered(sequence=sequence, sockfd=sockfd, error=error, text=text)
            case _Accept() if error == errno.EAGAIN:
                return NothingPending(sequence=sequence)
            case _Accept():
                return KernelError(sequence=sequence, command="accept", error=error, text=text)
            case _Resolve():
                return KernelError(sequence=sequence, command="resolve", error=error, text=text)
            case _:
                assert_never(request)

    def _ignore(self) -> list[NetlinkEvent]:
        self.unmatched += 1
        return []

    def _waits_as(self, sequence: int, kind: type[_Request]) -> bool:
        return isinstance(self._outstanding.get(sequence), kind)

    def _resolved(self) -> int:
        if self._family_id is None:
            raise NetlinkUsageError("The netlink family is not resolved yet: send resolve_family() first.")
        return self._family_id

    def _ask(self, request: _Request) -> int:
        if len(self._outstanding) >= MAX_OUTSTANDING:
            raise NetlinkUsageError(
                f"{MAX_OUTSTANDING} netlink requests wait for their answers: read the socket, or call answers_lost()."
            )
        # 0 is left out: notifications bear it.
        self._last_sequence = self._last_sequence % _MAX_SEQUENCE + 1
        self._outstanding[self._last_sequence] = request
        return self._last_sequence


def _check(what: str, value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise ValueError(f"DONE can't be sent: {what} is {value}, not between 0 and {largest}.")
