"""The life of one request: its transitions, what each one commands, and that DONE is sent exactly once."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ktls_agent.sansio.ktls import KernelSecrets, KtlsCipher, TrafficKey
from ktls_agent.sansio.lifecycle import (
    CLIENT_SECONDS,
    REPORTING_SECONDS,
    SERVER_SECONDS,
    TIMEOUT_MARGIN_SECONDS,
    TRANSITIONS,
    AbortHandshake,
    CloseSocket,
    Command,
    Deadlines,
    Input,
    InstallKeys,
    LocalProtocolError,
    Request,
    SendDone,
    StartHandshake,
    State,
    next_state,
)
from ktls_agent.sansio.request import (
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from ktls_agent.sansio.status import Alert, Cause, Failure, failure
from ktls_agent.sansio.testing.playbook import (
    At,
    Cancel,
    Completed,
    DoneAnswered,
    DoneUnanswered,
    Failed,
    Given,
    Happening,
    InstallFailed,
    KeysInstalled,
    LocalFailure,
    Playbook,
    Shutdown,
    Start,
)

NOW = 100.0
SERVER = ServerX509(sockfd=7)
INVALID = InvalidRequest(sockfd=8, reason="The request has no AUTH_MODE.")
SECRETS = KernelSecrets(
    version=0x0304,
    cipher=KtlsCipher.AES_GCM_128,
    tx=TrafficKey(key=bytes(16), iv=bytes(12), sequence=0),
    rx=TrafficKey(key=bytes(16), iv=bytes(12), sequence=0),
)
UNKNOWN_CA = failure(Cause.UNKNOWN_CA, "The certificate comes from no trusted authority.")
NO_CREDENTIALS = failure(Cause.NO_CREDENTIALS, "No certificate is configured.")
KTLS_REFUSED = failure(Cause.KTLS_REFUSED, "setsockopt failed.")

GIVEN: dict[Input, Happening] = {
    Input.START: Start(),
    Input.HANDSHAKE_COMPLETED: Completed(SECRETS),
    Input.HANDSHAKE_FAILED: Failed(UNKNOWN_CA),
    Input.KEYS_INSTALLED: KeysInstalled((41, 42)),
    Input.INSTALL_FAILED: InstallFailed(KTLS_REFUSED),
    Input.LOCAL_FAILURE: LocalFailure(NO_CREDENTIALS),
    Input.CANCEL: Cancel(),
    Input.SHUTDOWN: Shutdown(),
    Input.DONE_ANSWERED: DoneAnswered(),
    Input.DONE_UNANSWERED: DoneUnanswered(),
}
"""How each input is given but the deadline; REFUSE is what START becomes for an invalid request."""

CALLS: dict[Input, Callable[[Request], list[Command]]] = {
    **{event: given.give for event, given in GIVEN.items()},
    Input.DEADLINE: lambda request: request.handle_deadline(request.next_deadline() or NOW),
}

PATHS: dict[State, list[Input]] = {
    State.QUEUED: [],
    State.HANDSHAKING: [Input.START],
    State.INSTALLING: [Input.START, Input.HANDSHAKE_COMPLETED],
    State.REPORTING: [Input.START, Input.HANDSHAKE_COMPLETED, Input.KEYS_INSTALLED],
    State.FINISHED: [Input.START, Input.HANDSHAKE_COMPLETED, Input.KEYS_INSTALLED, Input.DONE_ANSWERED],
}


def request_in(state: State, asked: HandshakeRequest | InvalidRequest = SERVER) -> Request:
    request = Request(asked, now=NOW)
    for event in PATHS[state]:
        CALLS[event](request)
    assert request.state is state
    return request


def book_in(state: State) -> Playbook:
    book = Playbook(SERVER)
    for event, command in zip(PATHS[state], (StartHandshake, InstallKeys, SendDone), strict=False):
        assert book >> GIVEN[event] << command
    return book


# The table


@pytest.mark.parametrize(("state", "event"), list(product(State, Input)))
def test_every_state_and_input_is_either_in_the_table_or_refused(state: State, event: Input) -> None:
    if event in TRANSITIONS[state]:
        assert next_state(state, event) is TRANSITIONS[state][event]
    else:
        with pytest.raises(LocalProtocolError, match=f"is {state.value} can't take '{event.value}'"):
            next_state(state, event)


@pytest.mark.parametrize(("state", "event"), list(product(State, CALLS)))
def test_every_method_follows_the_table(state: State, event: Input) -> None:
    request = request_in(state)
    if event in TRANSITIONS[state]:
        CALLS[event](request)
        assert request.state is TRANSITIONS[state][event]
    else:
        before = (request.failure, request.next_deadline(), request.report_error)
        with pytest.raises(LocalProtocolError):
            CALLS[event](request)
        assert request.state is state
        assert (request.failure, request.next_deadline(), request.report_error) == before


@pytest.mark.parametrize(
    ("state", "event"), [(state, event) for state in State for event in CALLS if event in TRANSITIONS[state]]
)
def test_done_is_sent_on_entering_reporting_and_the_socket_closed_on_finishing(
    state: State, event: Input
) -> None:
    request = request_in(state)
    commands = CALLS[event](request)
    moved = request.state is not state
    done = [command for command in commands if isinstance(command, SendDone)]
    closed = [command for command in commands if isinstance(command, CloseSocket)]
    assert len(done) == (moved and request.state is State.REPORTING)
    assert len(closed) == (moved and request.state is State.FINISHED)


def test_reporting_is_the_only_way_out_of_the_states_before_it() -> None:
    for state in (State.QUEUED, State.HANDSHAKING, State.INSTALLING):
        assert State.FINISHED not in TRANSITIONS[state].values()


@pytest.mark.parametrize("state", [State.QUEUED, State.HANDSHAKING, State.INSTALLING])
def test_every_state_before_done_can_be_ended_from_outside(state: State) -> None:
    for event in (Input.CANCEL, Input.DEADLINE, Input.SHUTDOWN, Input.LOCAL_FAILURE):
        assert next_state(state, event) is State.REPORTING


@pytest.mark.parametrize("state", [State.REPORTING, State.FINISHED])
@pytest.mark.parametrize("event", [Input.CANCEL, Input.SHUTDOWN])
def test_after_done_cancel_and_shutdown_change_nothing(state: State, event: Input) -> None:
    request = request_in(state)
    deadline = request.next_deadline()
    assert CALLS[event](request) == []
    assert (request.state, request.failure, request.next_deadline()) == (state, None, deadline)


# Success


def test_a_handshake_that_succeeds() -> None:
    book = Playbook(SERVER)
    assert book >> Start() << StartHandshake(request=SERVER)
    assert book >> Completed(SECRETS) << InstallKeys(secrets=SECRETS)
    assert book >> KeysInstalled((41, 42)) << SendDone(sockfd=7, status=0, remote_auth=(41, 42))
    assert book >> DoneAnswered(0) << CloseSocket(sockfd=7)
    assert book.request.state is State.FINISHED
    assert book.request.failure is None
    assert book.request.report_error is None


def test_a_request_knows_its_descriptor_and_the_time_of_its_accept() -> None:
    request = Request(SERVER, now=NOW)
    assert (request.sockfd, request.accepted_at) == (7, NOW)


def test_a_peer_without_identity_is_reported_without_one() -> None:
    assert book_in(State.INSTALLING) >> KeysInstalled() << SendDone(sockfd=7, status=0)


# Failure


def test_an_invalid_request_is_answered_with_einval_and_starts_no_handshake() -> None:
    book = Playbook(INVALID)
    assert book >> Start() << SendDone(sockfd=8, status=errno.EINVAL)
    assert book.request.failure == Failure(cause=Cause.INVALID_REQUEST, reason=INVALID.reason)


@pytest.mark.parametrize("event", [Input.CANCEL, Input.DEADLINE, Input.SHUTDOWN, Input.LOCAL_FAILURE])
def test_an_invalid_request_stays_einval_whatever_ends_it(event: Input) -> None:
    assert CALLS[event](Request(INVALID, now=NOW)) == [SendDone(sockfd=8, status=errno.EINVAL)]


def test_a_handshake_that_the_engine_failed_needs_no_abort() -> None:
    book = book_in(State.HANDSHAKING)
    assert book >> Failed(UNKNOWN_CA) << SendDone(sockfd=7, status=errno.EACCES)
    assert book.request.failure is UNKNOWN_CA


def test_keys_that_the_kernel_refused_are_reported_as_eio() -> None:
    book = book_in(State.INSTALLING)
    assert book >> InstallFailed(KTLS_REFUSED) << SendDone(sockfd=7, status=errno.EIO)
    assert book.request.failure is KTLS_REFUSED


@dataclass(frozen=True, kw_only=True)
class Ending:
    given: Given
    cause: Cause
    done: SendDone
    alert: Alert | None


LATE = SendDone(sockfd=7, status=errno.ETIMEDOUT)
NO_KEY = SendDone(sockfd=7, status=errno.ENOKEY)
FAULT = SendDone(sockfd=7, status=errno.EIO)
ENDINGS = [
    Ending(
        given=LocalFailure(NO_CREDENTIALS),
        cause=Cause.NO_CREDENTIALS,
        done=NO_KEY,
        alert=Alert.HANDSHAKE_FAILURE,
    ),
    Ending(given=Cancel(), cause=Cause.CANCELLED, done=LATE, alert=None),
    Ending(given=At(SERVER_SECONDS), cause=Cause.TIMED_OUT, done=LATE, alert=Alert.USER_CANCELED),
    Ending(given=Shutdown(), cause=Cause.SHUTDOWN, done=FAULT, alert=Alert.USER_CANCELED),
]


def cause_and_alert(request: Request) -> tuple[Cause, Alert | None]:
    assert request.failure is not None
    return request.failure.cause, request.failure.alert


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.cause.name)
def test_ending_a_queued_request_says_nothing_to_the_peer(ending: Ending) -> None:
    book = Playbook(SERVER)
    assert book >> ending.given << ending.done
    assert cause_and_alert(book.request) == (ending.cause, None)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.cause.name)
def test_ending_a_handshake_sends_the_alert_before_done(ending: Ending) -> None:
    book = book_in(State.HANDSHAKING)
    assert book >> ending.given << AbortHandshake(alert=ending.alert) << ending.done
    assert cause_and_alert(book.request) == (ending.cause, ending.alert)


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.cause.name)
def test_ending_an_installation_stops_it_without_an_alert(ending: Ending) -> None:
    book = book_in(State.INSTALLING)
    assert book >> ending.given << AbortHandshake(alert=None) << ending.done
    assert cause_and_alert(book.request) == (ending.cause, None)


def test_the_reason_says_how_far_the_request_came() -> None:
    request = request_in(State.HANDSHAKING)
    request.handle_deadline(NOW + SERVER_SECONDS)
    assert request.failure is not None
    assert request.failure.reason == (
        "The request was still handshaking 4.5 s after ACCEPT; the consumer is about to give up."
    )


# DONE's answer


@pytest.mark.parametrize(
    ("error", "text", "report_error"),
    [
        (errno.EBADF, "", "The kernel refused DONE with EBADF."),
        (errno.EBUSY, "", "The kernel refused DONE with EBUSY."),
        (errno.ENOTSOCK, "", "The kernel refused DONE with ENOTSOCK."),
        (errno.EINVAL, "no such thing", "The kernel refused DONE with EINVAL, and says: no such thing."),
        (4000, "", "The kernel refused DONE with 4000."),
    ],
)
def test_a_refused_done_is_recorded_and_the_socket_still_closed(
    error: int, text: str, report_error: str
) -> None:
    book = book_in(State.REPORTING)
    assert book >> DoneAnswered(error, text) << CloseSocket(sockfd=7)
    assert book.request.report_error == report_error
    assert book.request.failure is None


def test_a_done_that_could_not_be_sent_is_recorded_and_the_socket_still_closed() -> None:
    book = book_in(State.REPORTING)
    assert book >> DoneUnanswered("The netlink socket is closed.") << CloseSocket(sockfd=7)
    assert book.request.report_error == "The netlink socket is closed."


def test_a_done_that_is_never_answered_does_not_hold_the_socket() -> None:
    book = book_in(State.REPORTING)
    assert book >> At(SERVER_SECONDS + REPORTING_SECONDS) << CloseSocket(sockfd=7)
    assert book.request.report_error == "The kernel did not answer DONE by 6.5 s after ACCEPT."
    assert book.request.next_deadline() is None


# Deadlines


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (ClientAnon(sockfd=7), CLIENT_SECONDS),
        (ClientX509(sockfd=7), CLIENT_SECONDS),
        (ClientPsk(sockfd=7, peer_identities=(1,)), CLIENT_SECONDS),
        (ServerX509(sockfd=7), SERVER_SECONDS),
        (ServerPsk(sockfd=7), SERVER_SECONDS),
        (INVALID, SERVER_SECONDS),
        (ClientAnon(sockfd=7, timeout=60.0), 60 - TIMEOUT_MARGIN_SECONDS),
        (ServerPsk(sockfd=7, timeout=2.0), 2 - TIMEOUT_MARGIN_SECONDS),
        (ServerPsk(sockfd=7, timeout=0.5), 0.25),
    ],
)
def test_the_handshake_ends_before_its_consumer_gives_up(
    asked: HandshakeRequest | InvalidRequest, seconds: float
) -> None:
    assert Request(asked, now=NOW).next_deadline() == NOW + seconds


def test_the_defaults_are_below_what_the_consumers_wait() -> None:
    assert CLIENT_SECONDS < 10
    assert SERVER_SECONDS < 5


def test_deadlines_can_be_chosen() -> None:
    deadlines = Deadlines(client=1.0, server=2.0, margin=3.0, reporting=4.0)
    assert Request(ClientAnon(sockfd=1), now=NOW, deadlines=deadlines).next_deadline() == NOW + 1
    assert Request(SERVER, now=NOW, deadlines=deadlines).next_deadline() == NOW + 2
    request = Request(replace(SERVER, timeout=10.0), now=NOW, deadlines=deadlines)
    assert request.next_deadline() == NOW + 7
    request.cancel()
    assert request.next_deadline() == NOW + 11


@pytest.mark.parametrize("state", [State.QUEUED, State.HANDSHAKING, State.INSTALLING, State.REPORTING])
def test_an_early_call_changes_nothing(state: State) -> None:
    request = request_in(state)
    deadline = request.next_deadline()
    assert deadline is not None
    assert request.handle_deadline(deadline - 0.001) == []
    assert (request.state, request.next_deadline()) == (state, deadline)


@pytest.mark.parametrize("now", [NOW, NOW + 1e9])
def test_a_call_after_the_end_changes_nothing(now: float) -> None:
    request = request_in(State.FINISHED)
    assert request.handle_deadline(now) == []
    assert request.state is State.FINISHED
    assert request.failure is None


def test_installing_has_what_the_handshake_left_of_the_time() -> None:
    assert request_in(State.INSTALLING).next_deadline() == NOW + SERVER_SECONDS


def test_a_late_call_leaves_done_its_time_to_be_answered() -> None:
    request = request_in(State.HANDSHAKING)
    request.handle_deadline(NOW + 3600)
    assert request.handle_deadline(NOW + 3600) == []
    assert request.next_deadline() == NOW + 3600 + REPORTING_SECONDS


# Any sequence of inputs


class AnyRequest(RuleBasedStateMachine):
    """Any inputs in any order, refused ones among them: what the kernel and the peer see stays right."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[Command] = []
        self.first_failure: Failure | None = None

    @initialize(asked=st.sampled_from([SERVER, INVALID, ClientAnon(sockfd=9, timeout=1.0)]))
    def accept(self, asked: HandshakeRequest | InvalidRequest) -> None:
        self.request = Request(asked, now=NOW)
        self.now = NOW

    @rule(event=st.sampled_from(sorted(CALLS.keys() - {Input.DEADLINE}, key=lambda event: event.name)))
    def happen(self, event: Input) -> None:
        try:
            self.commands += CALLS[event](self.request)
        except LocalProtocolError:
            refused = (
                Input.REFUSE
                if event is Input.START and isinstance(self.request.request, InvalidRequest)
                else event
            )
            assert refused not in TRANSITIONS[self.request.state]

    @rule(seconds=st.floats(0, 20))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.commands += self.request.handle_deadline(self.now)

    @precondition(lambda self: self.request.next_deadline() is not None)
    @rule()
    def reach_the_deadline(self) -> None:
        deadline = self.request.next_deadline()
        assert deadline is not None
        before = self.request.state
        self.now = max(self.now, deadline)
        self.commands += self.request.handle_deadline(self.now)
        assert self.request.state is not before

    def count(self, kind: type[Command]) -> int:
        return sum(isinstance(command, kind) for command in self.commands)

    @invariant()
    def done_is_sent_exactly_once_and_then_the_socket_closed(self) -> None:
        reported = self.request.state in {State.REPORTING, State.FINISHED}
        assert self.count(SendDone) == reported
        assert self.count(CloseSocket) == (self.request.state is State.FINISHED)
        if self.request.state is State.FINISHED:
            assert isinstance(self.commands[-1], CloseSocket)
            assert isinstance(self.commands[-2], SendDone)

    @invariant()
    def the_status_is_the_first_failures(self) -> None:
        self.first_failure = self.first_failure or self.request.failure
        assert self.request.failure is self.first_failure
        for command in self.commands:
            if isinstance(command, SendDone):
                assert command.status == (self.first_failure.status if self.first_failure else 0)
                assert not (command.status and command.remote_auth)

    @invariant()
    def success_needs_installed_keys(self) -> None:
        done = [command for command in self.commands if isinstance(command, SendDone)]
        if done and done[0].status == 0:
            assert self.count(InstallKeys) == 1
            assert self.count(AbortHandshake) == 0

    @invariant()
    def only_a_finished_request_has_no_deadline(self) -> None:
        assert (self.request.next_deadline() is None) == (self.request.state is State.FINISHED)


TestAnyRequest = AnyRequest.TestCase
