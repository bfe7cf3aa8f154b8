"""A request from ACCEPT to its descriptor's end, without I/O."""

import errno
from collections.abc import Callable, Sequence

import pytest

from ktls_agent.sansio.lifecycle import (
    CloseSocket,
    Deadlines,
    InstallKeys,
    LocalProtocolError,
    SendDone,
)
from ktls_agent.sansio.policy import RequestRefused
from ktls_agent.sansio.request import (
    CertificateKeys,
    ClientAnon,
    HandshakeRequest,
    InvalidRequest,
    ServerX509,
)
from ktls_agent.sansio.session import AUTHENTICATED, Action, Receive, Send, Session
from ktls_agent.sansio.status import Cause, failure
from ktls_agent.sansio.steps import Interruption, Reported, Step, Trace, no_trace
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import Identity, Parameters, PreSharedKey
from tests.io_trio.house import SERVER_NAME, as_client, as_server, full_credentials
from tests.pki import NOW
from tests.tls.handshakes import Counter


class NoKeys:
    """Keyrings that hold nothing; a `KeySource`."""

    def load_identity(self, pair: CertificateKeys) -> Identity:
        raise RequestRefused(failure(Cause.KEY_UNREADABLE, f"There is no key {pair.certificate}."))

    def load_psk(self, serial: int) -> PreSharedKey:
        raise RequestRefused(failure(Cause.PSK_UNAVAILABLE, f"There is no key {serial}."))

    def look_up(
        self, identities: Sequence[bytes], *, only: Sequence[int]
    ) -> tuple[tuple[PreSharedKey, ...], tuple[str, ...]]:
        return (), ()

    def add_certificate(self, description: str, der: bytes) -> int | None:
        return None


class Peer:
    """The other end, in memory."""

    def __init__(self, parameters: Parameters) -> None:
        self.engine = TlsEngine(parameters, entropy=Counter())
        self.engine.start()
        self.waiting = b""

    def say(self, data: bytes) -> None:
        self.engine.receive_data(data)
        self.waiting += self.engine.data_to_send()

    def hear(self, size: int) -> bytes:
        data, self.waiting = self.waiting[:size], self.waiting[size:]
        return data


class Stage:
    """A session, its peer, and the steps that it told."""

    def __init__(
        self, request: HandshakeRequest | InvalidRequest, peer: Parameters, trace: Trace = no_trace
    ) -> None:
        self.steps: list[Step] = []
        self._trace = trace
        self.peer = Peer(peer)
        self.session = Session(
            request,
            keys=NoKeys(),
            entropy=Counter(),
            now=100.0,
            deadlines=Deadlines(),
            trace=self.take,
        )

    def take(self, step: Step) -> None:
        self.steps.append(step)
        self._trace(step)

    def start(self) -> Action:
        return self.session.start(full_credentials(), peer_address="192.0.2.1", wall_clock=NOW)

    def answer(self, action: Action) -> Action:
        """Do what is wanted, with success."""
        match action:
            case Send(data=data):
                self.peer.say(data)
                return self.session.sent()
            case Receive(size=size):
                return self.session.received(self.peer.hear(size))
            case InstallKeys():
                return self.session.installed()
            case SendDone():
                return self.session.answered(0)
            case _:
                raise AssertionError("it is over")

    def run(self, action: Action) -> list[Action]:
        """Answer everything until the end; the actions, the last of which is CloseSocket."""
        actions = [action]
        while not isinstance(actions[-1], CloseSocket):
            actions.append(self.answer(actions[-1]))
        return actions


CLIENT = ClientAnon(sockfd=3, peername=SERVER_NAME)
SERVER = ServerX509(sockfd=3)


def stage(role: str, trace: Trace = no_trace) -> Stage:
    if role == "client":
        return Stage(CLIENT, as_server(), trace)
    made = Stage(SERVER, as_client(), trace)
    made.peer.waiting += made.peer.engine.data_to_send()
    return made


def kinds(actions: list[Action]) -> list[str]:
    """The actions' names; what is received several times in a row once."""
    names = [type(action).__name__ for action in actions]
    return [name for name, before in zip(names, [None, *names], strict=False) if name != before]


def test_says_what_is_to_be_done_one_by_one() -> None:
    client, server = stage("client"), stage("server")
    end = ["InstallKeys", "SendDone", "CloseSocket"]
    assert kinds(client.run(client.start())) == ["Send", "Receive", "Send", *end]
    assert kinds(server.run(server.start())) == ["Receive", "Send", "Receive", *end]
    for made in (client, server):
        assert made.session.report == SendDone(
            sockfd=3, status=0, remote_auth=(AUTHENTICATED,) if made is client else ()
        )


def test_an_invalid_request_is_answered_and_closed() -> None:
    made = Stage(InvalidRequest(sockfd=3, reason="It is."), as_server())
    assert made.run(made.start()) == [SendDone(sockfd=3, status=errno.EINVAL), CloseSocket(sockfd=3)]


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("by", Interruption)
def test_wherever_it_is_interrupted_it_reports_once_and_closes_once(role: str, by: Interruption) -> None:
    for place in range(len(complete(role))):
        made = stage(role)
        action = made.start()
        for _ in range(place):
            action = made.answer(action)
        reported = made.session.over
        rest = made.run(made.session.interrupt(by, now=200.0))
        assert sum(isinstance(left, SendDone) for left in rest) == (0 if reported else 1)
        assert sum(isinstance(step, Reported) for step in made.steps) == 1
        assert made.session.report is not None
        assert (made.session.report.status == 0) is reported


def complete(role: str) -> list[Action]:
    made = stage(role)
    return made.run(made.start())


def test_a_lost_connection_leaves_nothing_to_be_sent() -> None:
    made = stage("client")
    assert isinstance(made.start(), Send)
    action = made.session.connection_lost("It broke.")
    assert action == SendDone(sockfd=3, status=errno.EACCES)
    assert made.session.request.failure == failure(Cause.CONNECTION_LOST, "It broke.")


def test_a_defect_before_the_start_is_answered() -> None:
    made = stage("client")
    action = made.session.local_failure(failure(Cause.INTERNAL, "It is one."))
    assert [type(left) for left in made.run(action)] == [SendDone, CloseSocket]


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.sent(),
        lambda session: session.received(b""),
        lambda session: session.installed(),
        lambda session: session.install_refused("No."),
        lambda session: session.answered(0),
        lambda session: session.unanswered("It was lost."),
    ],
)
def test_an_answer_to_nothing_is_a_defect_of_the_callers(call: Callable[[Session], Action]) -> None:
    with pytest.raises((AssertionError, LocalProtocolError)):
        call(stage("client").session)


def test_who_looks_at_nothing_pays_nothing() -> None:
    """Without a trace no trust store is taken apart."""
    session = Session(CLIENT, keys=NoKeys(), entropy=Counter(), now=0.0, deadlines=Deadlines())
    assert isinstance(session.start(full_credentials(), peer_address=None, wall_clock=NOW), Send)
