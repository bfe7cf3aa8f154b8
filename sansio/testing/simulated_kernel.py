"""The kernel's side of the `handshake` family, without I/O: for tests, and for trying the agent without root.

`SimulatedKernel` answers netlink bytes with netlink bytes, by the rules of `net/handshake/` and of generic netlink:
the same validation, the same errors, the same bound on requests that nobody has accepted.

    kernel = SimulatedKernel(install=install)           # install(request) makes the agent's socket
    answers = kernel.receive_datagram(datagram)         # what the agent sent on its netlink socket
    kernel.join_group(kernel.family.groups["tlshd"])    # the agent's ADD_MEMBERSHIP
    ready = kernel.post(PendingRequest(...))            # what a consumer does: READY for the listeners, or OSError
    kernel.completions                                  # what consumers were told

A request goes from pending (`post`) to accepted (ACCEPT installs its descriptor) to completed (DONE), or is cancelled on
the way.  A descriptor stays known after its DONE, as its socket does in the kernel, until `close`.  What can go wrong in
reality and what can't be had from a well-behaved kernel is asked for with `inject`; see `Fault`.

Not simulated: privileges, net namespaces, which socket a message came from, the other families of generic netlink.
"""

import errno
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ..netlink import messages, spec
from ..netlink.codec import (
    Message,
    NetlinkDecodeError,
    read_attributes_untrusted,
    split_attributes_untrusted,
    split_genl_untrusted,
    split_messages_untrusted,
)
from ..netlink.events import AcceptReply, CertificateSerials, FamilyResolved
from ..netlink.spec import (
    AcceptAttribute,
    AttributeSet,
    Auth,
    Command,
    CtrlAttribute,
    CtrlCommand,
    DoneAttribute,
    HandlerClass,
    MessageType,
    MulticastGroup,
    NlmsgFlag,
    NlmsgType,
)

PENDING_LIMIT_MINIMUM: Final = 3
PENDING_LIMIT_MAXIMUM: Final = 50
MAX_COMPLETIONS: Final = 4096
"""How many of the latest completions are kept, so that a long run does not grow."""

FAMILY: Final = FamilyResolved(
    family_id=0x23, version=spec.FAMILY_VERSION, groups={MulticastGroup.NONE: 9, MulticastGroup.TLSHD: 10}
)
_ATTRIBUTES_OFFSET: Final = 20  # Of the first attribute in a message: behind nlmsghdr and genlmsghdr.
_U32_MAX: Final = 0xFFFFFFFF

# The kernel's policies: which attributes a request may hold, and their largest values (net/handshake/genl.c).
_Policy = Mapping[AttributeSet, int]
_ACCEPT_POLICY: Final[_Policy] = {AcceptAttribute.HANDLER_CLASS: len(HandlerClass)}
_DONE_POLICY: Final[_Policy] = {
    DoneAttribute.STATUS: spec.MAX_ERRNO,
    DoneAttribute.SOCKFD: _U32_MAX,
    DoneAttribute.REMOTE_AUTH: _U32_MAX,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PendingRequest:
    """What a consumer asks for; two requests are never equal, whatever they hold.

    Attributes:
        message_type: HANDSHAKE_MSG_TYPE_*, any number.
        auth_mode: HANDSHAKE_AUTH_*, any number.
        timeout_ms: Milliseconds, or None for a consumer that doesn't say.
        peer_identities: Key serials of PSKs.
        certificates: Key serials of certificates and their private keys.
        peername: The peer's host name.
        keyring: The serial of a keyring.
        label: For whoever posted it; not part of the protocol.
    """

    message_type: int = MessageType.CLIENTHELLO
    auth_mode: int = Auth.UNAUTH
    timeout_ms: int | None = None
    peer_identities: tuple[int, ...] = ()
    certificates: tuple[CertificateSerials, ...] = ()
    peername: str | None = None
    keyring: int | None = None
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a consumer was told.

    Attributes:
        request: Its request.
        status: 0 or a positive errno (the consumer's callback gets it negated).
        remote_auth: Every REMOTE_AUTH of the DONE (today's consumers see only the first).
    """

    request: PendingRequest
    status: int
    remote_auth: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DropReady:
    """The next READY is lost: `post` returns b""."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseCommand:
    """The next request with this command is answered with an error, and nothing is done.

    Attributes:
        command: ACCEPT or DONE.
        error: A positive errno.
        text: The extended acknowledgement.
    """

    command: Command
    error: int
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoseDoneAnswer:
    """The next DONE is carried out, but its answer does not arrive (ENOBUFS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeAnswer:
    """The next datagram that is an answer is replaced.

    Attributes:
        change: From the true answer to what arrives, for example a malformed one.
    """

    change: Callable[[bytes], bytes]


Fault = DropReady | RefuseCommand | LoseDoneAnswer | ChangeAnswer
_F = TypeVar("_F", DropReady, RefuseCommand, LoseDoneAnswer, ChangeAnswer)


class _Refused(Exception):  # noqa: N818 - an answer, not a fault of ours
    """A request is answered with NLMSG_ERROR."""

    def __init__(
        self, error: int, text: str = "", *, offset: int | None = None, missing: int | None = None
    ) -> None:
        super().__init__(text)
        self.error = error
        self.text = text
        self.offset = offset
        self.missing = missing


@dataclass(slots=True, kw_only=True)
class _Accepted:
    request: PendingRequest
    completed: bool = field(default=False)


def no_such_descriptor(_sockfd: int) -> int:
    """What DONE is answered about a descriptor that was not installed by ACCEPT, unless told otherwise: EBADF."""
    return errno.EBADF


def pending_limit(pages: int) -> int:
    """How many unaccepted requests the kernel keeps in a net namespace (`handshake_net_init`).

    Args:
        pages: The machine's memory in pages of 4096 bytes.
    """
    return max(PENDING_LIMIT_MINIMUM, min(pages // 102400, PENDING_LIMIT_MAXIMUM))


class SimulatedKernel:
    """See the module's docstring.

    Attributes:
        family: The id and the groups that GETFAMILY tells.
        completions: What consumers were told, the latest `MAX_COMPLETIONS`.
    """

    def __init__(
        self,
        *,
        install: Callable[[PendingRequest], int],
        pending_limit: int = PENDING_LIMIT_MINIMUM,
        completed: Callable[[Completion], None] | None = None,
        other_descriptor: Callable[[int], int] = no_such_descriptor,
        extended_ack: bool = True,
        capped_ack: bool = False,
        family_present: bool = True,
    ) -> None:
        """Make a kernel in which nobody listens and nothing is pending.

        Args:
            install: Called on ACCEPT: makes the agent's socket and returns its descriptor; an OSError refuses.
            pending_limit: How many requests may wait for ACCEPT; the default is that of a small machine.
            completed: Called when a request completes, beside being kept in `completions`.
            other_descriptor: The errno for a DONE about a descriptor that ACCEPT did not install: EBADF,
                ENOTSOCK, or EBUSY for a socket without a request.
            extended_ack: Whether the agent's socket has NETLINK_EXT_ACK set.
            capped_ack: Whether the agent's socket has NETLINK_CAP_ACK set.
            family_present: False for a kernel without CONFIG_NET_HANDSHAKE.
        """
        self.family = FAMILY
        self.completions: deque[Completion] = deque(maxlen=MAX_COMPLETIONS)
        self._install = install
        self._pending_limit = pending_limit
        self._completed = completed
        self._other_descriptor = other_descriptor
        self._extended_ack = extended_ack
        self._capped_ack = capped_ack
        self._family_present = family_present
        self._listeners = 0
        self._pending: deque[PendingRequest] = deque()  # bounded by pending_limit
        self._accepted: dict[int, _Accepted] = {}  # bounded by the agent's descriptors
        self._faults: list[Fault] = []

    @property
    def pending(self) -> tuple[PendingRequest, ...]:
        """The requests that wait for ACCEPT, the oldest first."""
        return tuple(self._pending)

    def join_group(self, group: int) -> None:
        """A socket joins a multicast group (NETLINK_ADD_MEMBERSHIP).

        Raises:
            OSError: ENOENT: the family has no such group.
        """
        if group not in self.family.groups.values():
            raise OSError(errno.ENOENT, f"the handshake family has no multicast group {group}")
        if group == self.family.groups[MulticastGroup.TLSHD]:
            self._listeners += 1

    def leave_group(self, group: int) -> None:
        """A socket leaves a multicast group, or is closed; no effect if none is in it."""
        if group == self.family.groups[MulticastGroup.TLSHD]:
            self._listeners = max(0, self._listeners - 1)

    def post(self, request: PendingRequest) -> bytes:
        """A consumer asks for a handshake (`handshake_req_submit`).

        Returns:
            READY, for every socket in the group; b"" if it got lost (`DropReady`).

        Raises:
            OSError: As the consumer would see it: EAGAIN: too many requests wait; ESRCH: nobody listens.
        """
        if len(self._pending) >= self._pending_limit:
            raise OSError(errno.EAGAIN, f"{self._pending_limit} handshake requests wait for ACCEPT already")
        if not self._listeners:
            raise OSError(errno.ESRCH, "no handshake agent listens in the multicast group tlshd")
        self._pending.append(request)
        if self._take(DropReady):
            return b""
        return messages.encode_ready(family_id=self.family.family_id)

    def cancel(self, request: PendingRequest) -> bool:
        """A consumer gives a request up (`handshake_req_cancel`); the agent is not told.

        The consumer also shuts its socket down, which is up to whoever has the socket.

        Returns:
            False if the request was completed already or is unknown.
        """
        if request in self._pending:
            self._pending.remove(request)
            return True
        for accepted in self._accepted.values():
            if accepted.request is request and not accepted.completed:
                accepted.completed = True
                return True
        return False

    def close(self, sockfd: int) -> None:
        """The agent closed a descriptor: from now on a DONE about it is about one that ACCEPT did not install."""
        self._accepted.pop(sockfd, None)

    def inject(self, fault: Fault) -> None:
        """Let something go wrong once, at the next occasion; faults of one kind take effect in order."""
        self._faults.append(fault)

    def receive_datagram(self, data: bytes) -> list[bytes]:
        """The agent sent a datagram.

        Returns:
            The answers, each a datagram.  As in the kernel, what has no valid length or does not claim to be a
            request is passed over in silence.
        """
        answers: list[bytes] = []
        try:
            for message in split_messages_untrusted(data):
                if message.flags & NlmsgFlag.REQUEST and message.message_type >= NlmsgType.GENL_ID_CTRL:
                    answers += self._answer(message)
        except NetlinkDecodeError:
            pass
        return [self._changed(answer) for answer in answers]

    def _answer(self, message: Message) -> list[bytes]:
        echo = messages.encode_message(
            message.message_type, message.payload, flags=message.flags, sequence=message.sequence
        )
        try:
            answers = self._dispatch(message)
        except _Refused as refused:
            return [self._error(echo, refused)]
        if message.flags & NlmsgFlag.ACK:
            answers.append(messages.encode_error(request=echo, error=0))
        return [] if self._answer_is_lost(message) else answers

    def _answer_is_lost(self, message: Message) -> bool:
        return self._is(message, Command.DONE) and self._take(LoseDoneAnswer) is not None

    def _is(self, message: Message, command: Command) -> bool:
        return message.message_type == self.family.family_id and message.payload[:1] == bytes([command])

    def _dispatch(self, message: Message) -> list[bytes]:
        try:
            command, chain = split_genl_untrusted(message.payload)
        except NetlinkDecodeError:
            raise _Refused(errno.EINVAL) from None
        match message.message_type, command:
            case NlmsgType.GENL_ID_CTRL, CtrlCommand.GETFAMILY:
                return self._get_family(message.sequence, chain)
            case self.family.family_id, Command.ACCEPT if self._family_present:
                return self._accept(message.sequence, chain)
            case self.family.family_id, Command.DONE if self._family_present:
                return self._done(chain)
            case (NlmsgType.GENL_ID_CTRL, _) | (self.family.family_id, _):
                raise _Refused(errno.EOPNOTSUPP)
            case _:
                raise _Refused(errno.ENOENT)

    def _get_family(self, sequence: int, chain: bytes) -> list[bytes]:
        name = read_attributes_untrusted(chain, CtrlAttribute).text(CtrlAttribute.FAMILY_NAME)
        if name is None:
            raise _Refused(errno.EINVAL)
        if name != spec.FAMILY_NAME or not self._family_present:
            raise _Refused(errno.ENOENT)
        return [messages.encode_new_family(self.family, sequence=sequence)]

    def _accept(self, sequence: int, chain: bytes) -> list[bytes]:
        self._refuse_if_told(Command.ACCEPT)
        values = _validate(chain, _ACCEPT_POLICY, AcceptAttribute)
        handler_class = _required(values, AcceptAttribute.HANDLER_CLASS)
        if handler_class != HandlerClass.TLSHD or not self._pending:
            raise _Refused(errno.EAGAIN)
        request = self._pending.popleft()
        try:
            sockfd = self._install(request)
        except OSError as error:
            self._complete(Completion(request=request, status=errno.EIO))
            raise _Refused(error.errno or errno.EIO) from None
        self._accepted[sockfd] = _Accepted(request=request)
        reply = AcceptReply(
            sockfd=sockfd,
            message_type=request.message_type,
            timeout_ms=request.timeout_ms,
            auth_mode=request.auth_mode,
            peer_identities=request.peer_identities,
            certificates=request.certificates,
            peername=request.peername,
            keyring=request.keyring,
        )
        return [messages.encode_accept_reply(reply, family_id=self.family.family_id, sequence=sequence)]

    def _done(self, chain: bytes) -> list[bytes]:
        self._refuse_if_told(Command.DONE)
        values = _validate(chain, _DONE_POLICY, DoneAttribute)
        sockfd = _required(values, DoneAttribute.SOCKFD)
        accepted = self._accepted.get(sockfd)
        if accepted is None:
            raise _Refused(self._other_descriptor(sockfd))
        if (
            not accepted.completed
        ):  # a second DONE, or one after a cancel, is answered with 0 and changes nothing
            accepted.completed = True
            status = values.get(DoneAttribute.STATUS, [errno.EIO])[-1]
            remote_auth = tuple(values.get(DoneAttribute.REMOTE_AUTH, ()))
            self._complete(Completion(request=accepted.request, status=status, remote_auth=remote_auth))
        return []

    def _complete(self, completion: Completion) -> None:
        self.completions.append(completion)
        if self._completed is not None:
            self._completed(completion)

    def _refuse_if_told(self, command: Command) -> None:
        fault = self._take(RefuseCommand, lambda fault: fault.command == command)
        if fault is not None:
            raise _Refused(fault.error, fault.text)

    def _changed(self, answer: bytes) -> bytes:
        fault = self._take(ChangeAnswer)
        return answer if fault is None else fault.change(answer)

    def _take(self, kind: type[_F], applies: Callable[[_F], bool] = lambda _: True) -> _F | None:
        for index, fault in enumerate(self._faults):
            if isinstance(fault, kind) and applies(fault):
                del self._faults[index]
                return fault
        return None

    def _error(self, echo: bytes, refused: _Refused) -> bytes:
        if not self._extended_ack:
            return messages.encode_error(request=echo, error=refused.error, capped=self._capped_ack)
        return messages.encode_error(
            request=echo,
            error=refused.error,
            text=refused.text,
            offset=refused.offset,
            missing=refused.missing,
            capped=self._capped_ack,
        )


def _validate(chain: bytes, policy: _Policy, table: type[AttributeSet]) -> dict[AttributeSet, list[int]]:
    """What `__nla_validate_parse` does under NL_VALIDATE_STRICT; all attributes here are 32 bit numbers."""
    values: dict[AttributeSet, list[int]] = {}
    try:
        for raw in split_attributes_untrusted(chain):
            attribute = spec.by_number(table).get(raw.number)
            offset = _ATTRIBUTES_OFFSET + raw.offset
            if attribute is None or raw.number > max(allowed.number for allowed in policy):
                raise _Refused(errno.EINVAL, "Unknown attribute type", offset=offset)
            if attribute not in policy:
                raise _Refused(errno.EINVAL, "Unsupported attribute", offset=offset)
            if len(raw.payload) != 4:
                raise _Refused(errno.EINVAL, "invalid attribute length", offset=offset)
            value = messages.U32.unpack(raw.payload)[0]
            if value > policy[attribute]:
                raise _Refused(errno.ERANGE, "integer out of range", offset=offset)
            values.setdefault(attribute, []).append(value)
    except NetlinkDecodeError:
        raise _Refused(errno.EINVAL, "bytes leftover after parsing attributes") from None
    return values


def _required(values: dict[AttributeSet, list[int]], attribute: AttributeSet) -> int:
    """GENL_REQ_ATTR_CHECK; of a repeated attribute the kernel keeps the last."""
    if attribute not in values:
        raise _Refused(errno.EINVAL, missing=attribute.number)
    return values[attribute][-1]
