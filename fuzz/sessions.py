"""Targets that are a sequence of steps: netlink sessions, at both ends, and the life of a request."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from ktls_agent.sansio.ktls import KernelSecrets, KtlsCipher, TrafficKey
from ktls_agent.sansio.lifecycle import (
    TRANSITIONS,
    CloseSocket,
    Command,
    Input,
    LocalProtocolError,
    Request,
    SendDone,
    State,
)
from ktls_agent.sansio.netlink.client import MAX_OUTSTANDING, GenlClient, NetlinkUsageError
from ktls_agent.sansio.netlink.codec import MAX_MESSAGES
from ktls_agent.sansio.netlink.events import (
    Accepted,
    CertificateSerials,
    DoneAnswered,
    FamilyResolved,
    KernelError,
    NetlinkEvent,
    NothingPending,
)
from ktls_agent.sansio.netlink.spec import MulticastGroup
from ktls_agent.sansio.request import (
    ClientAnon,
    ClientPsk,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
    parse_request_untrusted,
)
from ktls_agent.sansio.status import Cause, Failure, failure
from ktls_agent.sansio.testing.simulated_kernel import PendingRequest, SimulatedKernel

from . import mutators
from .mutators import Mutator
from .target import Target

# The agent's end of netlink


def _kernel() -> SimulatedKernel:
    kernel = SimulatedKernel(install=lambda _: 3)
    kernel.join_group(kernel.family.groups[MulticastGroup.TLSHD])
    return kernel


def _resolved_client() -> GenlClient:
    client = GenlClient()
    for answer in _kernel().receive_datagram(client.resolve_family().datagram):
        client.receive_datagram_untrusted(answer)
    return client


def _answer(event: NetlinkEvent) -> int | None:
    """The sequence number that an event answers; 0 for the family."""
    match event:
        case Accepted() | NothingPending() | DoneAnswered() | KernelError():
            return event.sequence
        case FamilyResolved():
            return 0
        case _:
            return None


def netlink_datagram(data: bytes) -> None:
    """A datagram from the kernel, while ACCEPT and DONE wait for their answers: each is answered once."""
    client = _resolved_client()
    client.accept()
    client.done(sockfd=3, status=0)
    events = client.receive_datagram_untrusted(data)
    assert len(events) <= MAX_MESSAGES + 1
    for event in events:
        if isinstance(event, Accepted):
            parse_request_untrusted(event.reply)
    answered = [number for event in (*events, *client.answers_lost()) if (number := _answer(event))]
    assert len(set(answered)) == len(answered) == 2
    assert client.outstanding == 0


class _Session:
    """A client and a simulated kernel, with the fuzzer between them.

    A step is a byte, modulo the number of `STEPS`, and an argument.
    """

    def __init__(self) -> None:
        self.client = GenlClient()
        self.kernel = _kernel()
        self.resolved = False
        self.asked: list[int] = []
        self.resolving: list[int] = []
        self.answered: Counter[int] = Counter()
        self.families = 0
        self.answers: list[bytes] = []

    def run(self, step: int, argument: bytes) -> None:
        STEPS[step % len(STEPS)](self, argument)
        assert self.client.outstanding <= MAX_OUTSTANDING

    def _ask(self, ask: Callable[[], tuple[int, bytes]], *, allowed: bool) -> None:
        full = self.client.outstanding >= MAX_OUTSTANDING
        try:
            sequence, datagram = ask()
        except NetlinkUsageError:
            assert full or not allowed
            return
        assert allowed
        assert not full
        self.asked.append(sequence)
        self.answers += self.kernel.receive_datagram(datagram)
        del self.answers[:-MAX_OUTSTANDING]

    def resolve(self, _: bytes) -> None:
        def ask() -> tuple[int, bytes]:
            outgoing = self.client.resolve_family()
            self.resolving.append(outgoing.sequence)
            return outgoing.sequence, outgoing.datagram

        self._ask(ask, allowed=True)

    def accept(self, _: bytes) -> None:
        def ask() -> tuple[int, bytes]:
            outgoing = self.client.accept()
            return outgoing.sequence, outgoing.datagram

        self._ask(ask, allowed=self.resolved)

    def done(self, argument: bytes) -> None:
        sockfd, status = (*argument[:2], 3, 0)[:2]

        def ask() -> tuple[int, bytes]:
            outgoing = self.client.done(sockfd=sockfd, status=status, remote_auth=tuple(argument[2:6]))
            return outgoing.sequence, outgoing.datagram

        self._ask(ask, allowed=self.resolved)

    def post(self, argument: bytes) -> None:
        """A consumer asks; its READY comes at once."""
        auth, kind, *serials = (*argument[:8], 1, 1)
        request = PendingRequest(
            message_type=kind,
            auth_mode=auth,
            peer_identities=tuple(serials),
            certificates=(CertificateSerials(certificate=1, private_key=2),) if auth == 3 else (),
            peername="server.test",
        )
        try:
            self._deliver(self.kernel.post(request))
        except OSError:
            assert self.kernel.pending

    def deliver(self, argument: bytes) -> None:
        """An answer comes: the oldest, with bytes of it changed."""
        if self.answers:
            self._deliver(_changed(self.answers.pop(0), argument))

    def repeat(self, argument: bytes) -> None:
        """An answer comes, and will come again."""
        if self.answers:
            self._deliver(_changed(self.answers[-1], argument))

    def forge(self, argument: bytes) -> None:
        """A datagram of the fuzzer's comes."""
        self._deliver(argument)

    def lose(self, _: bytes) -> None:
        """The socket overflowed."""
        self.answers.clear()
        self._note(self.client.answers_lost())
        assert self.client.outstanding == 0
        self._note(self.client.notifications_lost())

    def _deliver(self, datagram: bytes) -> None:
        self._note(self.client.receive_datagram_untrusted(datagram))

    def _note(self, events: list[NetlinkEvent]) -> None:
        for event in events:
            number = _answer(event)
            if number == 0:
                self.resolved = True
                self.families += 1
            elif number is not None:
                self.answered[number] += 1
            if isinstance(event, Accepted):
                parse_request_untrusted(event.reply)

    def finish(self) -> None:
        """Every request was answered once."""
        self.lose(b"")
        assert set(self.answered) <= set(self.asked)
        assert set(self.answered.values()) <= {1}
        unanswered = set(self.asked) - set(self.answered)
        assert unanswered <= set(self.resolving)
        assert len(unanswered) == self.families


STEPS: Final = (
    _Session.resolve,
    _Session.accept,
    _Session.done,
    _Session.post,
    _Session.deliver,
    _Session.repeat,
    _Session.forge,
    _Session.lose,
)
_MAX_STEPS: Final = 200


def _changed(datagram: bytes, argument: bytes) -> bytes:
    """Two bytes of the argument say where and with what to XOR; a byte left over cuts the end off."""
    changed = bytearray(datagram)
    for at, mask in zip(argument[::2], argument[1::2], strict=False):
        if changed:
            changed[at % len(changed)] ^= mask
    return bytes(changed[: len(changed) - argument[-1] % 8] if len(argument) % 2 else changed)


def genl_session(data: bytes) -> None:
    """Calls of the client, answers of the kernel, changed answers and forged ones in any order."""
    session, at = _Session(), 0
    for _ in range(_MAX_STEPS):
        if len(data) - at < 3:
            break
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3])
        session.run(data[at], data[at + 3 : end])
        at = end
    session.finish()


def _step(step: Callable[[_Session, bytes], None], argument: bytes = b"") -> bytes:
    return bytes([STEPS.index(step)]) + len(argument).to_bytes(2) + argument


def _sessions() -> list[bytes]:
    start = _step(_Session.resolve) + _step(_Session.deliver)
    ask = _step(_Session.post, b"\x03\x01") + _step(_Session.accept) + _step(_Session.deliver)
    told = _step(_Session.done, b"\x03\0\x07") + _step(_Session.deliver)
    return [
        start + ask + told,
        start + ask + _step(_Session.accept) + _step(_Session.deliver) + told,
        start + _step(_Session.post, b"\x02\x02\x01") + _step(_Session.accept) + _step(_Session.lose),
        start + _step(_Session.accept) + b"".join(_step(_Session.forge, datagram) for datagram in to_agent()),
        start + _step(_Session.accept) * 2 + _step(_Session.repeat, b"\x10\x01") + _step(_Session.deliver),
    ]


# The kernel's end


def kernel_side(data: bytes) -> None:
    """A datagram from an agent, at a simulated kernel where one request waits and one is accepted."""
    kernel = _kernel()
    kernel.post(PendingRequest(peername="server.test"))
    kernel.post(PendingRequest(peername="server.test"))
    kernel.receive_datagram(_resolved_client().accept().datagram)
    answers = kernel.receive_datagram(data)
    assert len(answers) <= 2 * MAX_MESSAGES
    assert len(kernel.completions) <= 2
    client = GenlClient()
    for answer in answers:
        client.receive_datagram_untrusted(answer)
    assert client.unmatched == len(answers)


def _datagrams() -> tuple[list[bytes], list[bytes]]:
    """Datagrams to the agent and to the kernel, of one request from READY to DONE."""
    client, kernel = GenlClient(), _kernel()
    said = [client.resolve_family().datagram]
    heard = kernel.receive_datagram(said[0])
    for answer in heard:
        client.receive_datagram_untrusted(answer)
    certificates = (CertificateSerials(certificate=5, private_key=6),)
    request = PendingRequest(message_type=1, auth_mode=3, peername="server.test", certificates=certificates)
    heard.append(kernel.post(request))
    done = client.done(sockfd=3, status=0, remote_auth=(7,)).datagram
    for datagram in (client.accept().datagram, client.accept().datagram, done, done[:-4] + b"\xff" * 4):
        said.append(datagram)
        heard += kernel.receive_datagram(datagram)
    return heard, said


def to_agent() -> list[bytes]:
    """What the kernel says in a session."""
    return _datagrams()[0]


def to_kernel() -> list[bytes]:
    """What an agent says in a session."""
    return _datagrams()[1]


# The life of a request

_KEY: Final = TrafficKey(key=bytes(16), iv=bytes(12), sequence=0)
_SECRETS: Final = KernelSecrets(version=0x0304, cipher=KtlsCipher.AES_GCM_128, tx=_KEY, rx=_KEY)
_ASKED: Final[tuple[HandshakeRequest | InvalidRequest, ...]] = (
    ClientAnon(sockfd=7),
    ServerX509(sockfd=7, timeout=0.25),
    ClientPsk(sockfd=7, peer_identities=(1,), timeout=40.0),
    ServerPsk(sockfd=7),
    InvalidRequest(sockfd=7, reason="The request has no AUTH_MODE."),
)
_CAUSES: Final = tuple(Cause)


def _failure(number: int) -> Failure:
    return failure(_CAUSES[number % len(_CAUSES)], "It failed.")


_CALLS: Final[dict[Input, Callable[[Request, int], list[Command]]]] = {
    Input.START: lambda request, _: request.start(),
    Input.REFUSE: lambda request, _: request.start(),
    Input.HANDSHAKE_COMPLETED: lambda request, _: request.handshake_completed(_SECRETS),
    Input.HANDSHAKE_FAILED: lambda request, number: request.handshake_failed(_failure(number)),
    Input.KEYS_INSTALLED: lambda request, number: request.keys_installed((number,) * (number % 3)),
    Input.INSTALL_FAILED: lambda request, number: request.install_failed(_failure(number)),
    Input.LOCAL_FAILURE: lambda request, number: request.local_failure(_failure(number)),
    Input.CANCEL: lambda request, _: request.cancel(),
    Input.SHUTDOWN: lambda request, _: request.shutdown(),
    Input.DONE_ANSWERED: lambda request, number: request.done_answered(number, "no"),
    Input.DONE_UNANSWERED: lambda request, _: request.done_unanswered("It was lost."),
}


class _Life:
    """A request, and what its commands and its failure have been so far."""

    def __init__(self, kind: int) -> None:
        self.now = 100.0
        self.request = Request(_ASKED[kind % len(_ASKED)], now=self.now)
        self.commands: list[Command] = []

    def take(self, event: Input, argument: int) -> None:
        before, failed, deadline = self.request.state, self.request.failure, self.request.next_deadline()
        if event is Input.START and isinstance(self.request.request, InvalidRequest):
            event = Input.REFUSE
        try:
            self.commands += self._call(event, argument)
        except LocalProtocolError:
            assert event not in TRANSITIONS[before]
            assert (self.request.state, self.request.next_deadline()) == (before, deadline)
        assert failed is None or self.request.failure is failed, "the first failure decides"
        self.check()

    def _call(self, event: Input, argument: int) -> list[Command]:
        if event is Input.DEADLINE:
            self.now += argument / 16
            return self.request.handle_deadline(self.now)
        return _CALLS[event](self.request, argument)

    def check(self) -> None:
        """One DONE, then one CloseSocket; nothing else behind either."""
        kinds = [type(command) for command in self.commands]
        reported = self.request.state in {State.REPORTING, State.FINISHED}
        assert kinds.count(SendDone) == reported
        assert kinds.count(CloseSocket) == (self.request.state is State.FINISHED)
        ending = [SendDone] * reported + [CloseSocket] * (self.request.state is State.FINISHED)
        assert kinds[len(kinds) - len(ending) :] == ending
        for command in self.commands:
            if isinstance(command, SendDone):
                failed = self.request.failure
                assert command.status == (0 if failed is None else failed.status)
                assert not command.remote_auth or failed is None

    def finish(self) -> None:
        """Deadlines alone bring every request to its end."""
        for _ in range(2):
            deadline = self.request.next_deadline()
            if deadline is not None:
                self.now = max(self.now, deadline)
                self.commands += self.request.handle_deadline(self.now)
        assert self.request.state is State.FINISHED
        assert self.request.next_deadline() is None
        self.check()


_INPUTS: Final = tuple(event for event in Input if event is not Input.REFUSE)


def lifecycle(data: bytes) -> None:
    """A byte that chooses the request, then pairs of an input and its argument."""
    life = _Life(data[0] if data else 0)
    for event, argument in zip(data[1::2], data[2::2], strict=False):
        life.take(_INPUTS[event % len(_INPUTS)], argument)
    life.finish()


def _life(kind: int, *events: Input) -> bytes:
    return bytes([kind, *(number for event in events for number in (_INPUTS.index(event), 0))])


def _lives() -> list[bytes]:
    done = (Input.START, Input.HANDSHAKE_COMPLETED, Input.KEYS_INSTALLED, Input.DONE_ANSWERED)
    return [
        _life(0, *done),
        _life(1, Input.START, Input.HANDSHAKE_FAILED, Input.CANCEL, Input.DONE_UNANSWERED),
        _life(2, Input.START, Input.HANDSHAKE_COMPLETED, Input.INSTALL_FAILED, Input.SHUTDOWN),
        _life(3, Input.LOCAL_FAILURE, Input.DEADLINE),
        _life(4, Input.START, Input.CANCEL),
    ]


TARGETS: Final = (
    Target(run=netlink_datagram, seeds=to_agent, mutator=Mutator(mutators.DATAGRAM), max_length=2048),
    Target(
        run=genl_session,
        seeds=_sessions,
        mutator=Mutator(mutators.steps(mutators.DATAGRAM)),
        weight=2,
        edges_only=True,
    ),
    Target(run=kernel_side, seeds=to_kernel, mutator=Mutator(mutators.DATAGRAM), max_length=2048),
    Target(run=lifecycle, seeds=_lives, mutator=Mutator(mutators.HEADED_PAIRS), max_length=256),
)
