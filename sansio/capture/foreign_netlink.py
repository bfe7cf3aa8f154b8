"""The requests in a capture of netlink (nlmon), put together from the messages of agents and kernel.

nlmon sees all netlink of its network name space, in both directions, and does not say which one a datagram took: what
has NLM_F_REQUEST goes to the kernel.  The family's number is in the controller's answer to GETFAMILY, which every agent
asks for at its start; where the capture began later, it is taken to be the type of the first message that looks like
an ACCEPT reply in all its parts.

An ACCEPT reply belongs to the ACCEPT with its sequence number and port id.  DONE names the descriptor: it belongs to
the request that this process got under this number last.  Who the process is tells the port id: libnl makes it
of the process id (its low 22 bits) and a counter, so that tlshd's two sockets, one for ACCEPT and one for DONE, go
together.  ktls-agent leaves it 0; of several workers that do, the requests can be mixed up.
"""

import errno
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ..netlink.codec import (
    Message,
    NetlinkDecodeError,
    decode_accept_reply_untrusted,
    decode_done_untrusted,
    decode_error_untrusted,
    decode_family_untrusted,
    split_genl_untrusted,
    split_messages_untrusted,
)
from ..netlink.spec import Command, CtrlCommand, NlmsgFlag, NlmsgType
from ..request import (
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    UnanswerableReply,
    parse_request_untrusted,
)
from .foreign_records import NetlinkDatagram

MAX_FINDINGS: Final = 64
"""Sentences about one capture: a reader has understood by then."""

_PROCESS: Final = 0x3FFFFF  # libnl: _nl_socket_generate_local_port


@dataclass(frozen=True, slots=True, kw_only=True)
class NetlinkRequest:
    """A request for a handshake, from READY to DONE.

    Attributes:
        process: Who accepted it: the process id as the port id has it, 0 if it has none.
        request: What the kernel asked for.
        ready: When the last READY before it was, seconds since 1970; None without one.
        accepted: When ACCEPT was answered.
        done: When DONE was sent; None if it was not.
        status: DONE's status, a positive errno or 0; None if it has none.
        remote_auth: The serials of the keys that hold the peer's identity.
        answer: The kernel's answer to DONE, a positive errno or 0; None if none was asked for, or none came.
    """

    process: int
    request: HandshakeRequest | InvalidRequest
    ready: float | None
    accepted: float
    done: float | None = None
    status: int | None = None
    remote_auth: tuple[int, ...] = ()
    answer: int | None = None

    @property
    def is_client(self) -> bool | None:
        """Is the agent TLS's client?  None if the request does not say."""
        if isinstance(self.request, InvalidRequest):
            return None
        return isinstance(self.request, ClientAnon | ClientX509 | ClientPsk)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetlinkTraffic:
    """What the `handshake` family said in a capture.

    Attributes:
        family_id: Its number; None if nothing in the capture tells it.
        guessed: Was that concluded from the messages' form?
        requests: The requests, in the order of their ACCEPTs.
        notifications: How many READYs there were.
        nothing_pending: How many ACCEPTs were answered with EAGAIN.
        unchecked: What can't be told, and why.
        findings: What is wrong.
    """

    family_id: int | None
    guessed: bool = False
    requests: tuple[NetlinkRequest, ...] = ()
    notifications: int = 0
    nothing_pending: int = 0
    unchecked: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


def examine_netlink(datagrams: Iterable[NetlinkDatagram]) -> NetlinkTraffic:
    """Put the requests in a capture together.

    Args:
        datagrams: Generic-netlink datagrams of one name space, in their order, with any bytes.
    """
    traffic = _Traffic()
    seen = list(traffic.split(datagrams))
    family_id = _family_of(seen)
    guessed = family_id is None
    if family_id is None:
        family_id = _guess_family(seen)
    if family_id is not None:
        for message in seen:
            traffic.take(message, family_id)
    return traffic.result(family_id, guessed=guessed and family_id is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A message and its time."""

    at: float
    message: Message

    @property
    def to_kernel(self) -> bool:
        return bool(self.message.flags & NlmsgFlag.REQUEST)

    @property
    def process(self) -> int:
        return self.message.port_id & _PROCESS


def _genl(seen: _Seen) -> tuple[int, bytes] | None:
    try:
        return split_genl_untrusted(seen.message.payload)
    except NetlinkDecodeError:
        return None


def _family_of(seen: Sequence[_Seen]) -> int | None:
    """The number in the controller's answer to GETFAMILY."""
    for one in seen:
        if one.message.message_type != NlmsgType.GENL_ID_CTRL or one.to_kernel:
            continue
        command, chain = _genl(one) or (0, b"")
        try:
            if command == CtrlCommand.NEWFAMILY:
                return decode_family_untrusted(chain).family_id
        except NetlinkDecodeError:  # (another family's)
            continue
    return None


def _guess_family(seen: Sequence[_Seen]) -> int | None:
    for one in seen:
        command, chain = _genl(one) or (0, b"")
        if one.message.message_type <= NlmsgType.GENL_ID_CTRL or one.to_kernel or command != Command.ACCEPT:
            continue
        request = parse_request_untrusted(decode_accept_reply_untrusted(chain))
        if not isinstance(request, InvalidRequest | UnanswerableReply):
            return one.message.message_type
    return None


_Key = tuple[int, int]
"""Sequence number and port id of a message to the kernel."""


@dataclass(slots=True)
class _Traffic:
    """Takes the messages of the family one by one.

    `open` has the index of each request without a DONE, by process and descriptor; `accepting` the ACCEPTs without an
    answer; `finishing` the index of each request whose DONE has no answer.
    """

    requests: list[NetlinkRequest] = field(default_factory=list)
    open: dict[tuple[int, int], int] = field(default_factory=dict)
    accepting: set[_Key] = field(default_factory=set)
    finishing: dict[_Key, int] = field(default_factory=dict)
    ready: float | None = None
    notifications: int = 0
    nothing_pending: int = 0
    unchecked: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def split(self, datagrams: Iterable[NetlinkDatagram]) -> Iterator[_Seen]:
        """Cut datagrams into messages."""
        for datagram in datagrams:
            try:
                for message in split_messages_untrusted(datagram.data):
                    yield _Seen(at=datagram.at, message=message)
            except NetlinkDecodeError as error:
                self._say(
                    self.unchecked, f"A datagram is not netlink, or was cut off by the capture: {error}."
                )

    def take(self, seen: _Seen, family_id: int) -> None:
        """Take one message, of whatever family."""
        if seen.message.message_type == NlmsgType.ERROR and not seen.to_kernel:
            self._take_error(seen)
        if seen.message.message_type != family_id:
            return
        command, chain = _genl(seen) or (0, b"")
        match command, seen.to_kernel:
            case Command.READY, False:
                self.ready = seen.at
                self.notifications += 1
            case Command.ACCEPT, True:
                self.accepting.add((seen.message.sequence, seen.message.port_id))
            case Command.ACCEPT, False:
                self._take_reply(seen, chain)
            case Command.DONE, True:
                self._take_done(seen, chain)
            case _:
                self._say(self.unchecked, f"A message of the family is unknown here (command {command}).")

    def _take_reply(self, seen: _Seen, chain: bytes) -> None:
        asked = self._asked(seen, self.accepting)
        if asked is None:
            self._say(self.unchecked, "An ACCEPT reply: its ACCEPT is not in the capture.")
        else:
            self.accepting.discard(asked)
        request = parse_request_untrusted(decode_accept_reply_untrusted(chain))
        if isinstance(request, UnanswerableReply):
            self._say(self.findings, request.reason)
            return
        if isinstance(request, InvalidRequest):
            self._say(self.findings, request.reason)
        process = (asked[1] if asked is not None else seen.message.port_id) & _PROCESS
        self._open(
            NetlinkRequest(process=process, request=request, ready=self.ready, accepted=seen.at),
            (process, request.sockfd),
        )

    def _open(self, request: NetlinkRequest, key: tuple[int, int]) -> None:
        if key in self.open:
            self._say(
                self.findings, f"Process {key[0]} got descriptor {key[1]} again, without a DONE for it."
            )
        self.open[key] = len(self.requests)
        self.requests.append(request)

    def _take_done(self, seen: _Seen, chain: bytes) -> None:
        try:
            done = decode_done_untrusted(chain)
        except NetlinkDecodeError as error:
            self._say(self.findings, f"A DONE is malformed: {error}.")
            return
        if done.sockfd is not None and done.sockfd < 0:
            return  # tlshd asks what the kernel knows, with a DONE for no descriptor
        index = None if done.sockfd is None else self.open.pop((seen.process, done.sockfd), None)
        if index is None:
            self._say(
                self.unchecked,
                f"A DONE of process {seen.process} for descriptor {done.sockfd}: its ACCEPT is not in the capture.",
            )
            return
        self.requests[index] = replace(
            self.requests[index], done=seen.at, status=done.status, remote_auth=done.remote_auth
        )
        self.finishing[seen.message.sequence, seen.message.port_id] = index

    def _take_error(self, seen: _Seen) -> None:
        accepting, finishing = self._asked(seen, self.accepting), self._asked(seen, self.finishing)
        if accepting is None and finishing is None:
            return
        try:
            error = decode_error_untrusted(seen.message).error
        except NetlinkDecodeError as problem:
            self._say(self.findings, f"The kernel's answer is malformed: {problem}.")
            return
        if accepting is not None:
            self._accept_refused(accepting, error)
        if finishing is not None:
            index = self.finishing.pop(finishing)
            self.requests[index] = replace(self.requests[index], answer=error)

    def _accept_refused(self, key: _Key, error: int) -> None:
        self.accepting.discard(key)
        if error == errno.EAGAIN:
            self.nothing_pending += 1
        else:
            name = errno.errorcode.get(error, str(error))
            self._say(
                self.findings, f"The kernel answered an ACCEPT of process {key[1] & _PROCESS} with {name}."
            )

    @staticmethod
    def _asked(seen: _Seen, waiting: Collection[_Key]) -> _Key | None:
        """What a message from the kernel answers; agents may leave their port id out, the kernel never does."""
        sequence, port_id = seen.message.sequence, seen.message.port_id
        keys = ((sequence, port_id), (sequence, 0))
        return next((key for key in keys if key in waiting), None)

    @staticmethod
    def _say(where: list[str], sentence: str) -> None:
        if len(where) < MAX_FINDINGS:
            where.append(sentence)

    def result(self, family_id: int | None, *, guessed: bool) -> NetlinkTraffic:
        """Sum up."""
        unfinished = [
            f"How the request with descriptor {key[1]} of process {key[0]} ended: there is no DONE."
            for key in self.open
        ]
        return NetlinkTraffic(
            family_id=family_id,
            guessed=guessed,
            requests=tuple(self.requests),
            notifications=self.notifications,
            nothing_pending=self.nothing_pending,
            unchecked=tuple((self.unchecked + unfinished)[:MAX_FINDINGS]),
            findings=tuple(self.findings),
        )
