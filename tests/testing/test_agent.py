"""The agent without sockets: every kind of request against a simulated kernel and a peer, on virtual time."""

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.sansio.lifecycle import CLIENT_SECONDS, REPORTING_SECONDS, SERVER_SECONDS, Deadlines
from ktls_agent.sansio.netlink.client import MAX_OUTSTANDING
from ktls_agent.sansio.netlink.codec import decode_error_untrusted, split_messages_untrusted
from ktls_agent.sansio.netlink.events import (
    AcceptReply,
    CertificateSerials,
    KernelError,
    MalformedMessage,
)
from ktls_agent.sansio.netlink.messages import encode_accept_reply, encode_done, encode_message
from ktls_agent.sansio.netlink.spec import Auth, Command, MessageType, NlmsgType
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.request import UnanswerableReply
from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.testing import agent as agent_module
from ktls_agent.sansio.testing.agent import Consumer, SimulatedAgent
from ktls_agent.sansio.testing.pair import PERFECT_LINK, Link
from ktls_agent.sansio.testing.pki import Authority
from ktls_agent.sansio.testing.records import Record
from ktls_agent.sansio.testing.simulated_kernel import (
    FAMILY,
    ChangeAnswer,
    Completion,
    DropReady,
    LoseDoneAnswer,
    PendingRequest,
    RefuseCommand,
)
from ktls_agent.sansio.tls.parameters import (
    ClientParameters,
    ClientPskParameters,
    Identity,
    Parameters,
    PreSharedKey,
    ServerParameters,
    ServerPskParameters,
)

KEY = PreSharedKey(identity=b"host", secret=bytes(32), hash_name="sha256")
OTHER = PreSharedKey(identity=b"other", secret=b"\1" * 32, hash_name="sha256")
AUTHORITY = Authority()
OWN = AUTHORITY.issue("own.test").identity()
PEER = AUTHORITY.issue("peer.test").identity()
NAMED = AUTHORITY.issue("named.test").identity()
ROLE = RoleCredentials(trust=AUTHORITY.trust_store(), identity=OWN)
KEYRING: dict[int, PreSharedKey | Identity] = {7: KEY, 8: OTHER, 9: NAMED}

ANON = PendingRequest(peername="peer.test")
X509 = replace(ANON, auth_mode=Auth.X509)
SERVER = PendingRequest(message_type=MessageType.SERVERHELLO, auth_mode=Auth.X509)
PSK = PendingRequest(auth_mode=Auth.PSK, peer_identities=(7,))
TARGET = PendingRequest(message_type=MessageType.SERVERHELLO, auth_mode=Auth.PSK)

AS_SERVER = ServerParameters(identities=(PEER,), verifier=AUTHORITY.client_verifier())
AS_CLIENT = ClientParameters(verifier=AUTHORITY.server_verifier("own.test"), identity=PEER)
AS_TARGET = ServerPskParameters()
AS_HOST = ClientPskParameters(keys=(KEY,))
PSKS = {KEY.identity: KEY, OTHER.identity: OTHER}
USUAL = Deadlines()
NAMED_KEYS = (CertificateSerials(certificate=9, private_key=10),)


def make(pending_limit: int = 50, deadlines: Deadlines = USUAL) -> SimulatedAgent:
    return SimulatedAgent(
        credentials=Credentials(client=ROLE, server=ROLE),
        keyring=KEYRING,
        pending_limit=pending_limit,
        deadlines=deadlines,
    )


def served(
    request: PendingRequest, peer: Parameters | None, to_agent: Link = PERFECT_LINK
) -> tuple[SimulatedAgent, Consumer]:
    agent = make()
    consumer = agent.submit(replace(request), peer=peer, psks=PSKS, to_agent=to_agent)
    agent.run()
    return agent, consumer


def assert_data_passes(agent: SimulatedAgent, consumer: Consumer) -> None:
    consumer.send(b"there")
    consumer.peer.send(b"back")
    agent.run()
    assert consumer.peer.receive() == [Record(content_type=23, data=b"there")]
    assert consumer.receive() == [Record(content_type=23, data=b"back")]


# Every kind of request


@pytest.mark.parametrize(
    ("request_", "peer", "remote_auth"),
    [
        (ANON, AS_SERVER, (0x1000,)),
        (X509, AS_SERVER, (0x1000,)),
        (replace(X509, certificates=NAMED_KEYS), AS_SERVER, (0x1000,)),
        (SERVER, AS_CLIENT, (0x1000,)),
        (SERVER, replace(AS_CLIENT, identity=None), ()),
        (PSK, AS_TARGET, (7,)),
        (replace(PSK, peer_identities=(1, 8, 7)), AS_TARGET, (8,)),
        (TARGET, AS_HOST, (7,)),
        (replace(TARGET, peer_identities=(8,)), replace(AS_HOST, keys=(KEY, OTHER)), (8,)),
    ],
)
def test_a_request_succeeds_and_its_keys_fit_the_peers(
    request_: PendingRequest, peer: Parameters, remote_auth: tuple[int, ...]
) -> None:
    agent, consumer = served(request_, peer)
    assert consumer.completion == Completion(request=consumer.request, status=0, remote_auth=remote_auth)
    assert list(agent.kernel.completions) == [consumer.completion]
    assert (agent.clock.now, list(agent.problems)) == (0.0, [])
    assert_data_passes(agent, consumer)


@pytest.mark.parametrize(
    ("request_", "subject"), [(X509, "own.test"), (replace(X509, certificates=NAMED_KEYS), "named.test")]
)
def test_a_client_presents_the_identity_that_the_request_names_else_its_own(
    request_: PendingRequest, subject: str
) -> None:
    _, consumer = served(request_, AS_SERVER)
    peer = consumer.peer.completed.peer
    assert peer is not None
    assert peer.subject == f"CN={subject}"


def test_peers_with_certificates_get_serials_of_their_own() -> None:
    agent = make()
    consumers = [agent.submit(replace(ANON), peer=AS_SERVER) for _ in range(2)]
    agent.run()
    assert [consumer.completion.remote_auth for consumer in consumers] == [(0x1000,), (0x1001,)]


@pytest.mark.parametrize(
    ("request_", "peer", "status", "alert"),
    [
        (replace(ANON, auth_mode=77), AS_SERVER, errno.EINVAL, None),
        (replace(ANON, peername="else.test"), AS_SERVER, errno.EACCES, Alert.BAD_CERTIFICATE),
        (replace(PSK, peer_identities=(1,)), AS_TARGET, errno.EACCES, Alert.INTERNAL_ERROR),
        (replace(PSK, peer_identities=(9,)), AS_TARGET, errno.EACCES, Alert.INTERNAL_ERROR),
        (replace(TARGET, peer_identities=(8,)), AS_HOST, errno.EACCES, Alert.UNKNOWN_PSK_IDENTITY),
        (
            replace(X509, certificates=(CertificateSerials(certificate=7, private_key=7),)),
            AS_SERVER,
            errno.ENOKEY,
            Alert.INTERNAL_ERROR,
        ),
    ],
)
def test_a_request_fails_with_its_status_and_the_peer_hears_the_alert(
    request_: PendingRequest, peer: Parameters, status: int, alert: Alert | None
) -> None:
    _, consumer = served(request_, peer)
    assert consumer.completion == Completion(request=consumer.request, status=status)
    assert consumer.peer.failure.alert is alert
    with pytest.raises(AssertionError, match="the consumer has no keys: it was told Completion"):
        consumer.send(b"data")


def test_an_agent_without_configuration_has_no_credentials() -> None:
    agent = SimulatedAgent()
    consumer = agent.submit(replace(ANON), peer=AS_SERVER)
    agent.run()
    assert consumer.completion.status == errno.ENOKEY
    assert consumer.peer.failure.alert is Alert.UNKNOWN_CA


def test_a_key_that_is_passed_over_is_noted() -> None:
    agent, _ = served(replace(PSK, peer_identities=(1, 7)), AS_TARGET)
    assert list(agent.notes) == ["The keyring holds no pre-shared key 1."]


@settings(max_examples=30)
@given(
    latency=st.floats(0, 1.4),
    chunks=st.lists(st.integers(1, 200), max_size=3).map(tuple),
    request_=st.sampled_from([ANON, X509, SERVER, PSK, TARGET]),
)
def test_neither_latency_nor_cuts_change_how_it_ends(
    latency: float, chunks: tuple[int, ...], request_: PendingRequest
) -> None:
    peers: dict[PendingRequest, Parameters] = {
        ANON: AS_SERVER,
        X509: AS_SERVER,
        SERVER: AS_CLIENT,
        PSK: AS_TARGET,
        TARGET: AS_HOST,
    }
    link = Link(latency=latency, chunks=chunks)
    agent = make()
    consumer = agent.submit(replace(request_), peer=peers[request_], psks=PSKS, to_agent=link, to_peer=link)
    agent.run()
    _, ideal = served(request_, peers[request_])
    assert consumer.completion.status == 0
    assert (consumer.own.sent, consumer.peer.sent) == (ideal.own.sent, ideal.peer.sent)
    assert_data_passes(agent, consumer)


# Time


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [(ANON, CLIENT_SECONDS), (TARGET, SERVER_SECONDS), (replace(PSK, timeout_ms=2000), 1.5)],
)
def test_a_silent_peer_costs_the_deadline_and_no_more(request_: PendingRequest, seconds: float) -> None:
    agent, consumer = served(request_, None)
    assert consumer.completion.status == errno.ETIMEDOUT
    assert agent.clock.now == seconds


def test_a_slow_peer_is_told_that_the_agent_gave_up() -> None:
    agent = make(deadlines=Deadlines(server=3.0))
    consumer = agent.submit(replace(SERVER), peer=AS_CLIENT, to_agent=Link(latency=2.0))
    agent.run(until=2.5)
    with pytest.raises(AssertionError, match="told nothing yet"):
        _ = consumer.completion
    with pytest.raises(AssertionError, match="told nothing yet"):
        consumer.receive()
    agent.run(until=3.0)
    assert consumer.completion.status == errno.ETIMEDOUT
    agent.run(until=2.0)
    assert agent.clock.now == 3.0
    agent.run()
    # It had completed its own handshake already: the alert is the first thing that it reads then.
    assert consumer.peer.receive() == [Record(content_type=21, data=bytes([1, Alert.USER_CANCELED]))]


def test_requests_are_served_at_the_same_time() -> None:
    agent = make()
    link = Link(latency=1.0)
    consumers = [agent.submit(replace(ANON), peer=AS_SERVER, to_agent=link) for _ in range(5)]
    silent = agent.submit(replace(ANON), peer=None)
    agent.run(until=1.0)
    assert [consumer.completion.status for consumer in consumers] == [0] * 5
    agent.run()
    assert silent.completion.status == errno.ETIMEDOUT


# What the kernel and the consumer do


def test_more_requests_than_may_wait_are_refused_as_in_the_kernel() -> None:
    agent = make(pending_limit=3)
    for _ in range(3):
        agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    with pytest.raises(OSError, match="3 handshake requests wait") as caught:
        agent.submit(replace(PSK), peer=AS_TARGET)
    assert caught.value.errno == errno.EAGAIN
    agent.run()
    agent.submit(replace(PSK), peer=AS_TARGET)


def test_a_lost_notification_leaves_the_request_until_the_next() -> None:
    agent = make()
    agent.kernel.inject(DropReady())
    first = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    agent.run()
    assert agent.kernel.pending == (first.request,)
    second = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    agent.run()
    assert (first.completion.status, second.completion.status) == (0, 0)


def test_a_done_whose_answer_is_lost_does_not_hold_the_descriptor() -> None:
    agent = make()
    agent.kernel.inject(LoseDoneAnswer())
    consumer = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    agent.run()
    assert consumer.completion.status == 0
    assert agent.clock.now == CLIENT_SECONDS + REPORTING_SECONDS


def test_answers_that_are_lost_again_and_again_cost_nothing() -> None:
    agent = make()
    for _ in range(MAX_OUTSTANDING + 1):
        agent.kernel.inject(LoseDoneAnswer())
        consumer = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
        agent.run()
        assert consumer.completion.status == 0


def test_a_descriptor_is_closed_once_its_done_is_answered() -> None:
    agent, _ = served(PSK, AS_TARGET)
    family_id = agent.kernel.family.family_id
    done = encode_done(family_id=family_id, sequence=1, status=0, sockfd=10, remote_auth=())
    (answer,) = agent.kernel.receive_datagram(done)
    (message,) = split_messages_untrusted(answer)
    assert decode_error_untrusted(message).error == errno.EBADF


def test_a_refused_accept_is_a_problem_and_the_next_one_goes_on() -> None:
    agent = make()
    agent.kernel.inject(RefuseCommand(command=Command.ACCEPT, error=errno.ENOMEM))
    consumer = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    agent.run()
    assert consumer.completion.status == 0
    assert [type(problem) for problem in agent.problems] == [KernelError]


def test_a_malformed_answer_is_a_problem() -> None:
    agent = make()
    agent.kernel.inject(ChangeAnswer(change=lambda _: b"\x01"))
    agent.submit(replace(PSK), peer=AS_TARGET)
    agent.run()
    assert [type(problem) for problem in agent.problems] == [MalformedMessage]


@pytest.mark.parametrize(
    ("sockfd", "reason"),
    [
        (None, "The kernel's ACCEPT reply carries no descriptor."),
        (999, "The kernel's ACCEPT reply names the descriptor 999, which it did not install."),
    ],
)
def test_a_reply_without_a_descriptor_of_its_own_is_a_problem(sockfd: int | None, reason: str) -> None:
    def change(answer: bytes) -> bytes:
        (message,) = split_messages_untrusted(answer)
        reply = AcceptReply(sockfd=sockfd)
        return encode_accept_reply(reply, family_id=FAMILY.family_id, sequence=message.sequence)

    agent = make()
    agent.kernel.inject(ChangeAnswer(change=change))
    agent.submit(replace(PSK), peer=AS_TARGET)
    agent.run()
    assert list(agent.problems) == [UnanswerableReply(reason=reason)]


def test_notifications_that_may_be_lost_are_an_occasion_to_accept() -> None:
    agent = make()
    agent.kernel.inject(DropReady())
    first = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    agent.kernel.inject(ChangeAnswer(change=lambda _: encode_message(NlmsgType.OVERRUN, b"")))
    second = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    agent.run()
    assert agent.kernel.pending == ()
    assert first.own.event is None  # OVERRUN came in the place of the reply that named its descriptor.
    assert second.completion.status == 0


def test_a_request_that_was_not_submitted_here_has_no_connection() -> None:
    agent = make()
    stray = PendingRequest()
    agent.kernel.post(stray)
    consumer = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    agent.run()
    assert list(agent.kernel.completions) == [
        Completion(request=stray, status=errno.EIO),
        consumer.completion,
    ]


@pytest.mark.parametrize("latency", [0.0, 1.0])
def test_a_consumer_that_hangs_up_is_told_nothing_and_its_peer_meets_the_end(latency: float) -> None:
    agent = make()
    consumer = agent.submit(
        replace(SERVER), peer=AS_CLIENT, to_agent=Link(latency=1.0), to_peer=Link(latency=latency)
    )
    agent.run(until=0.5)
    bystander = agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS)
    agent.hang_up(consumer)
    agent.run()
    assert [completion.request for completion in agent.kernel.completions] == [bystander.request]
    assert consumer.peer.failure.cause is Cause.END_OF_FILE
    assert agent.clock.now <= 1.5


def test_a_consumer_may_hang_up_before_its_request_is_accepted() -> None:
    agent = make()
    consumer = agent.submit(replace(PSK), peer=AS_TARGET)
    agent.hang_up(consumer)
    agent.run()
    assert not agent.kernel.completions
    assert consumer.own.event is None


def test_a_consumer_that_hangs_up_while_others_are_served_ends_alone() -> None:
    agent = make()
    one, other = (agent.submit(replace(PSK), peer=None) for _ in range(2))
    agent.run(until=1.0)
    agent.hang_up(one)
    agent.run()
    assert other.completion.status == errno.ETIMEDOUT
    assert agent.clock.now == CLIENT_SECONDS


def test_an_agent_that_stops_reports_what_is_under_way_and_listens_no_more() -> None:
    agent = make()
    consumer = agent.submit(replace(SERVER), peer=AS_CLIENT, to_agent=Link(latency=1.0))
    agent.run(until=0.5)
    agent.stop()
    assert consumer.completion.status == errno.EIO
    agent.run()
    assert consumer.peer.failure.alert is Alert.USER_CANCELED
    with pytest.raises(OSError, match="no handshake agent listens") as caught:
        agent.submit(replace(PSK), peer=None)
    assert caught.value.errno == errno.ESRCH


def test_an_agent_serves_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "MAX_CONSUMERS", 1)
    agent, _ = served(PSK, AS_TARGET)
    with pytest.raises(OSError, match="serves 1 consumers") as caught:
        agent.submit(replace(PSK), peer=AS_TARGET)
    assert caught.value.errno == errno.EMFILE


def test_the_same_seed_says_the_same() -> None:
    makers: list[Callable[[], SimulatedAgent]] = [
        lambda: SimulatedAgent(keyring=KEYRING),
        lambda: SimulatedAgent(keyring=KEYRING),
        lambda: SimulatedAgent(keyring=KEYRING, seed=b"other"),
    ]
    consumers = []
    for maker in makers:
        agent = maker()
        consumers.append(agent.submit(replace(PSK), peer=AS_TARGET, psks=PSKS))
        agent.run()
    first, again, other = ((consumer.own.sent, consumer.peer.sent) for consumer in consumers)
    assert first == again != other
