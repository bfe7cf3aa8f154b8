"""A whole agent without I/O, at work for the consumers of a simulated kernel, on virtual time.

    agent = SimulatedAgent(keyring={7: KEY})
    consumer = agent.submit(
        PendingRequest(auth_mode=Auth.PSK, peer_identities=(7,)),
        peer=ServerPskParameters(), psks={KEY.identity: KEY},
    )
    agent.run()
    consumer.completion, consumer.peer.event
    consumer.send(b"data")                      # under the keys that the agent installed

Everything between the consumer's request and its completion is what the daemon runs: netlink's bytes (`GenlClient`
against `SimulatedKernel`) and `Session`, with policy, lifecycle and engine in it.  In the place of sockets are the pipes of
`pair`, in the place of the kernel's keyrings is a mapping.  A request that nobody serves runs into its deadline at
once, since `run` sets the clock forward.

What goes wrong is asked for in three places: `agent.kernel.inject` for netlink, a `Link` for the connection,
`hang_up` for the consumer.
"""

import datetime as dt
import errno
import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, assert_never

from ..ktls import TLS_RX, TLS_TX, KernelSecrets, pack_crypto_info
from ..lifecycle import CloseSocket, Deadlines, InstallKeys, SendDone
from ..netlink.client import GenlClient, Outgoing
from ..netlink.events import (
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
from ..netlink.spec import MulticastGroup
from ..policy import Credentials, RequestRefused
from ..request import CertificateKeys, UnanswerableReply, parse_request_untrusted
from ..session import Action, Receive, Send, Session
from ..status import Cause, failure
from ..steps import Completed, Failed, Interruption, Noted, Step
from ..tls.parameters import HandshakeCompleted, HandshakeFailed, Identity, Parameters, PreSharedKey
from .entropy import SeededEntropy
from .pair import NO_KEYS, PERFECT_LINK, Endpoint, Link, Pipe, VirtualClock, earliest
from .pki import NOW
from .records import KtlsRecords, Record
from .simulated_kernel import PENDING_LIMIT_MAXIMUM, Completion, PendingRequest, SimulatedKernel

PEER_ADDRESS: Final = "192.0.2.1"
"""Where every peer is: RFC 5737's addresses are nobody's."""

MAX_CONSUMERS: Final = 1024
"""How many consumers one agent serves in its life: their connections are kept, since a test looks at them."""

MAX_PROBLEMS: Final = 64
"""How many of the latest problems are kept, so that a long run does not grow."""

_FIRST_DESCRIPTOR: Final = 10
_FIRST_SERIAL: Final = 0x1000

Keyring = Mapping[int, PreSharedKey | Identity]
"""What the kernel's keyrings hold, by serial; an identity by that of its certificate."""

_EMPTY: Final[Keyring] = MappingProxyType({})
_NO_CREDENTIALS: Final = Credentials()
_DEADLINES: Final = Deadlines()


class OwnEnd:
    """The consumer's end of the connection: first the agent's, for the handshake, then the consumer's again.

    Attributes:
        incoming: What is read from.
        outgoing: What is written to.
        event: How the handshake ended; None until then.
        sent: All bytes of the handshake that were sent.
    """

    def __init__(self, *, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming: Final = incoming
        self.outgoing: Final = outgoing
        self.event: HandshakeCompleted | HandshakeFailed | None = None
        self.sent = b""
        self._records: KtlsRecords | None = None

    def say(self, data: bytes) -> None:
        """Send a part of the handshake."""
        self.sent += data
        self.outgoing.write(data)

    def install(self, secrets: KernelSecrets) -> None:
        """Take the keys."""
        self._records = KtlsRecords(
            tx=pack_crypto_info(secrets, TLS_TX), rx=pack_crypto_info(secrets, TLS_RX)
        )

    def send(self, data: bytes) -> None:
        """Send data under the keys."""
        self.outgoing.write(self._keyed().seal(data))

    def receive(self) -> list[Record]:
        """Read every record that has arrived, under the keys."""
        records: list[Record] = []
        while data := self.incoming.read():
            records += self._keyed().receive_data_untrusted(data)
        return records

    def close(self) -> None:
        """Close this end: the other one meets the end of file."""
        self.outgoing.close()

    def _keyed(self) -> KtlsRecords:
        if self._records is None:
            raise AssertionError("no keys were installed at this end")
        return self._records


class Consumer:
    """A kernel consumer, its request and its connection.

    Attributes:
        request: What it asked for.
        own: Its end of the connection, at which the agent does the handshake.
        peer: The other end.
    """

    def __init__(self, request: PendingRequest, *, own: OwnEnd, peer: Endpoint) -> None:
        self.request: Final = request
        self.own: Final = own
        self.peer: Final = peer
        self._completion: Completion | None = None

    @property
    def completion(self) -> Completion:
        """What it was told.

        Raises:
            AssertionError: It was told nothing yet.
        """
        if self._completion is None:
            raise AssertionError("the consumer was told nothing yet")
        return self._completion

    def send(self, data: bytes) -> None:
        """Send data under the keys that the agent installed.

        Raises:
            AssertionError: It was not told of a success.
        """
        self._connected().send(data)

    def receive(self) -> list[Record]:
        """Read every record that has arrived, under the keys that the agent installed.

        Raises:
            AssertionError: It was not told of a success.
            RecordError: What has arrived does not fit the keys.
        """
        return self._connected().receive()

    def complete(self, completion: Completion) -> None:
        """The kernel's callback (`ta_done`); after a failure the consumer closes its connection."""
        self._completion = completion
        if completion.status:
            self.own.close()

    def _connected(self) -> OwnEnd:
        if self.completion.status:
            raise AssertionError(f"the consumer has no keys: it was told {self.completion}")
        return self.own


@dataclass(slots=True, kw_only=True, eq=False)
class _Served:
    """A request that was accepted, and what is to be done about it next."""

    session: Session
    consumer: Consumer
    action: Action
    done_sequence: int | None = None


class SimulatedAgent:
    """See the module's docstring.

    Attributes:
        clock: The time, in seconds; it starts at 0.
        kernel: Whose consumers are served.
        notes: What the agent would log beside the outcome.
        problems: What the kernel said that is no answer to anything, the latest `MAX_PROBLEMS`.
    """

    def __init__(
        self,
        *,
        credentials: Credentials = _NO_CREDENTIALS,
        keyring: Keyring = _EMPTY,
        deadlines: Deadlines = _DEADLINES,
        pending_limit: int = PENDING_LIMIT_MAXIMUM,
        certificate_time: dt.datetime = NOW,
        seed: bytes = b"",
    ) -> None:
        """Make an agent that listens, on a kernel where nobody has asked for anything.

        Args:
            credentials: What is configured.
            keyring: What the kernel's keyrings hold.
            deadlines: How long requests may take.
            pending_limit: How many requests may wait for ACCEPT.
            certificate_time: The time for which certificates have to be valid.
            seed: Of all randomness.
        """
        self.clock: Final = VirtualClock()
        self.kernel: Final = SimulatedKernel(
            install=self._install_descriptor, pending_limit=pending_limit, completed=self._complete
        )
        self.notes: Final[deque[str]] = deque(maxlen=MAX_PROBLEMS)
        self.problems: Final[deque[NetlinkEvent | UnanswerableReply]] = deque(maxlen=MAX_PROBLEMS)
        self._credentials = credentials
        self._keyring = keyring
        self._deadlines = deadlines
        self._certificate_time = certificate_time
        self._seed = seed
        self._client = GenlClient()
        self._consumers: dict[PendingRequest, Consumer] = {}  # bounded by MAX_CONSUMERS
        self._served: dict[int, _Served] = {}  # by descriptor; bounded by the consumers
        self._descriptors: dict[int, Consumer] = {}  # the same
        self._ready = False
        self._numbers = itertools.count(_FIRST_DESCRIPTOR)
        self._serials = itertools.count(_FIRST_SERIAL)
        self._group = self.kernel.family.groups[MulticastGroup.TLSHD]
        self._ask(self._client.resolve_family())
        self.kernel.join_group(self._group)

    def submit(
        self,
        request: PendingRequest,
        *,
        peer: Parameters | None,
        psks: Mapping[bytes, PreSharedKey] = NO_KEYS,
        to_agent: Link = PERFECT_LINK,
        to_peer: Link = PERFECT_LINK,
    ) -> Consumer:
        """Let a consumer ask for a handshake on a new connection; nothing moves before `run`.

        Args:
            request: What it asks for.
            peer: What the other end of the connection is to do; None for one that says nothing.
            psks: The pre-shared keys of a peer that is a server.
            to_agent: What happens to what the peer sends.
            to_peer: What happens to what the agent and the consumer send.

        Raises:
            OSError: As the consumer would see it: EAGAIN: too many requests wait; ESRCH: nobody listens; EMFILE:
                these were `MAX_CONSUMERS`.
        """
        if len(self._consumers) >= MAX_CONSUMERS:
            raise OSError(
                errno.EMFILE, f"a simulated agent serves {MAX_CONSUMERS} consumers; make another one"
            )
        ready = self.kernel.post(request)
        incoming, outgoing = Pipe(self.clock, to_agent), Pipe(self.clock, to_peer)
        consumer = self._consumers[request] = Consumer(
            request,
            own=OwnEnd(incoming=incoming, outgoing=outgoing),
            peer=Endpoint(self.clock, incoming=outgoing, outgoing=incoming),
        )
        if peer is not None:
            consumer.peer.start(peer, entropy=self._entropy(b"peer"), psks=psks)
        self._receive(ready)
        return consumer

    def run(self, until: float = math.inf) -> None:
        """Let time pass until nothing can move and no deadline is left.

        Args:
            until: When to stop in any case; the clock stands there then.
        """
        while True:
            while self._move():
                pass
            upcoming = self._next_time()
            if upcoming is None or upcoming > until:
                break
            self.clock.now = upcoming
        if until < math.inf:
            self.clock.now = max(self.clock.now, until)

    def hang_up(self, consumer: Consumer) -> None:
        """A consumer gives up, as sunrpc does: it cancels its request and shuts its connection down."""
        self.kernel.cancel(consumer.request)
        consumer.own.close()
        consumer.peer.close()
        for served in list(self._served.values()):
            if served.consumer is consumer:
                self._interrupt(served, Interruption.CANCEL)

    def stop(self) -> None:
        """The agent stops: what is under way is reported as failed, and nobody listens any more."""
        self.kernel.leave_group(self._group)
        for served in list(self._served.values()):
            self._interrupt(served, Interruption.SHUTDOWN)

    # What moves

    def _move(self) -> bool:
        moved = self._accept_all()
        for served in list(self._served.values()):
            moved |= self._go_on(served) or self._meet_deadline(served)
        for consumer in self._consumers.values():
            moved |= consumer.peer.pump()
        return moved

    def _next_time(self) -> float | None:
        pipes = (end.incoming for each in self._consumers.values() for end in (each.own, each.peer))
        deadlines = (served.session.request.next_deadline() for served in self._served.values())
        return earliest(*(pipe.next_arrival() for pipe in pipes), *deadlines)

    def _go_on(self, served: _Served) -> bool:
        """Do what a request's session wants next, if that can be done now."""
        match served.action:
            case Send(data=data):
                served.consumer.own.say(data)
                served.action = served.session.sent()
            case Receive(size=size):
                said = served.consumer.own.incoming.read(size)
                if said is None:
                    return False
                served.action = served.session.received(said)
            case InstallKeys(secrets=secrets):
                served.consumer.own.install(secrets)
                served.action = served.session.installed()
            case SendDone() as done:
                return self._report(served, done)
            case CloseSocket(sockfd=sockfd):
                self._close(served, sockfd)
            case _:
                assert_never(served.action)
        return True

    def _report(self, served: _Served, done: SendDone) -> bool:
        if served.done_sequence is not None:
            return False  # Its answer was lost.
        outgoing = self._client.done(sockfd=done.sockfd, status=done.status, remote_auth=done.remote_auth)
        served.done_sequence = outgoing.sequence
        self._ask(outgoing)
        return True

    def _close(self, served: _Served, sockfd: int) -> None:
        if served.done_sequence is not None:
            self._client.abandon(served.done_sequence)
        self.kernel.close(sockfd)
        del self._served[sockfd]

    def _meet_deadline(self, served: _Served) -> bool:
        deadline = served.session.request.next_deadline()
        if deadline is None or deadline > self.clock.now:
            return False
        self._interrupt(served, Interruption.DEADLINE)
        return True

    def _interrupt(self, served: _Served, by: Interruption) -> None:
        """Let something come from outside, and see it through as far as nobody has to be waited for."""
        if by is Interruption.DEADLINE or not served.session.over:
            served.action = served.session.interrupt(by, now=self.clock.now)
        while served.session.request.sockfd in self._served and self._go_on(served):
            pass

    # Netlink

    def _ask(self, outgoing: Outgoing) -> None:
        for answer in self.kernel.receive_datagram(outgoing.datagram):
            self._receive(answer)

    def _receive(self, datagram: bytes) -> None:
        for event in self._client.receive_datagram_untrusted(datagram):
            self._handle(event)

    def _handle(self, event: NetlinkEvent) -> None:
        match event:
            case Ready() | NotificationsLost():
                self._ready = True
            case Accepted(reply=reply):
                self._begin(reply)
            case DoneAnswered(sockfd=sockfd, error=error, text=text):
                served = self._served[sockfd]
                served.action = served.session.answered(error, text)
            case MalformedMessage() | KernelError():
                self.problems.append(event)
            case FamilyResolved():
                pass
            case NothingPending():
                self._ready = False
            case _:
                assert_never(event)

    def _accept_all(self) -> bool:
        """ACCEPT until nothing is pending, once a READY has come."""
        moved = False
        while self._ready:
            self._ask(self._client.accept())
            moved = True
        return moved

    def _begin(self, reply: AcceptReply) -> None:
        parsed = parse_request_untrusted(reply)
        if isinstance(parsed, UnanswerableReply):
            self.problems.append(parsed)
            return
        if parsed.sockfd not in self._descriptors:
            reason = (
                f"The kernel's ACCEPT reply names the descriptor {parsed.sockfd}, which it did not install."
            )
            self.problems.append(UnanswerableReply(reason=reason))
            return
        consumer = self._descriptors[parsed.sockfd]
        session = Session(
            parsed,
            keys=self,
            entropy=self._entropy(b"agent"),
            now=self.clock.now,
            deadlines=self._deadlines,
            trace=lambda step: self._take(consumer, step),
        )
        action = session.start(
            self._credentials, peer_address=PEER_ADDRESS, wall_clock=self._certificate_time
        )
        self._served[parsed.sockfd] = _Served(session=session, consumer=consumer, action=action)

    def _take(self, consumer: Consumer, step: Step) -> None:
        match step:
            case Completed(result=result):
                consumer.own.event = result
            case Failed(failure=failed):
                consumer.own.event = HandshakeFailed(failure=failed)
            case Noted(text=text):
                self.notes.append(text)
            case _:
                pass

    # The kernel's side of it

    def _install_descriptor(self, request: PendingRequest) -> int:
        if request not in self._consumers:
            raise OSError(errno.ENOTSOCK, "only a request that was submitted has a connection")
        descriptor = next(self._numbers)
        self._descriptors[descriptor] = self._consumers[request]
        return descriptor

    def _complete(self, completion: Completion) -> None:
        if completion.request in self._consumers:
            self._consumers[completion.request].complete(completion)

    # A `KeySource`

    def load_identity(self, pair: CertificateKeys) -> Identity:
        """See `KeySource`."""
        key = self._keyring.get(pair.certificate)
        if not isinstance(key, Identity):
            reason = f"The keyring holds no identity {pair.certificate}."
            raise RequestRefused(failure(Cause.KEY_UNREADABLE, reason))
        return key

    def load_psk(self, serial: int) -> PreSharedKey:
        """See `KeySource`."""
        key = self._keyring.get(serial)
        if not isinstance(key, PreSharedKey):
            reason = f"The keyring holds no pre-shared key {serial}."
            raise RequestRefused(failure(Cause.PSK_UNAVAILABLE, reason))
        return replace(key, serial=serial)

    def look_up(
        self, identities: Sequence[bytes], *, only: Sequence[int]
    ) -> tuple[tuple[PreSharedKey, ...], tuple[str, ...]]:
        """See `KeySource`."""
        keys = {
            key.identity: replace(key, serial=serial)
            for serial, key in self._keyring.items()
            if isinstance(key, PreSharedKey) and (not only or serial in only)
        }
        return tuple(keys[identity] for identity in identities if identity in keys), ()

    def add_certificate(self, description: str, der: bytes) -> int:
        """See `KeySource`."""
        del description, der
        return next(self._serials)

    def _entropy(self, whose: bytes) -> SeededEntropy:
        return SeededEntropy(self._seed + whose + len(self._consumers).to_bytes(2))
