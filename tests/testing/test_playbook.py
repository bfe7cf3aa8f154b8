"""The playbook: what it accepts, what it refuses, and what it shows then."""

import errno
import gc
from collections.abc import Callable

import pytest

from ktls_agent.sansio.lifecycle import (
    AbortHandshake,
    CloseSocket,
    Deadlines,
    InstallKeys,
    SendDone,
    StartHandshake,
    State,
)
from ktls_agent.sansio.request import ClientAnon, InvalidRequest
from ktls_agent.sansio.status import Alert, Cause, failure
from ktls_agent.sansio.testing.playbook import (
    ANY,
    ZERO_SECRETS,
    At,
    Cancel,
    Completed,
    DoneAnswered,
    DoneUnanswered,
    Elapse,
    Failed,
    Given,
    InstallFailed,
    KeysInstalled,
    LocalFailure,
    Playbook,
    Shutdown,
    Start,
)

ASKED = ClientAnon(sockfd=7, peername="server.test")
UNKNOWN_CA = failure(Cause.UNKNOWN_CA, "The certificate comes from no trusted authority.")
KTLS_REFUSED = failure(Cause.KTLS_REFUSED, "setsockopt failed.")
NO_CREDENTIALS = failure(Cause.NO_CREDENTIALS, "No certificate is configured.")
CANCELLED = SendDone(sockfd=7, status=errno.ETIMEDOUT)


def started() -> Playbook:
    book = Playbook(ASKED)
    assert book >> Start() << StartHandshake
    return book


def installing() -> Playbook:
    book = started()
    assert book >> Completed() << InstallKeys
    return book


def refusal(write: Callable[[Playbook], Playbook], book: Playbook | None = None) -> list[str]:
    """The lines of the error, without the first."""
    with pytest.raises(AssertionError) as caught:
        bool(write(book or Playbook(ASKED)))
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("the request did not follow the script (at ")
    return lines


# What can happen


def test_a_script_from_start_to_end() -> None:
    book = Playbook(ASKED)
    assert (
        book
        >> Start()
        << StartHandshake(request=ASKED)
        >> Completed()
        << InstallKeys(secrets=ZERO_SECRETS)
        >> KeysInstalled((41, 42))
        << SendDone(sockfd=7, status=0, remote_auth=(41, 42))
        >> DoneAnswered()
        << CloseSocket(sockfd=7)
    )
    assert (book.request.state, book.request.failure, book.now) == (State.FINISHED, None, 0.0)


@pytest.mark.parametrize(
    ("make", "given", "cause"),
    [
        (started, Failed(UNKNOWN_CA), Cause.UNKNOWN_CA),
        (started, LocalFailure(NO_CREDENTIALS), Cause.NO_CREDENTIALS),
        (started, Cancel(), Cause.CANCELLED),
        (started, Shutdown(), Cause.SHUTDOWN),
        (started, At(9.0), Cause.TIMED_OUT),
        (installing, InstallFailed(KTLS_REFUSED), Cause.KTLS_REFUSED),
    ],
)
def test_each_way_to_fail_can_be_given(make: Callable[[], Playbook], given: Given, cause: Cause) -> None:
    book = make() >> given
    if make is started and given != Failed(UNKNOWN_CA):
        book = book << AbortHandshake
    assert book << SendDone(sockfd=7, status=failure(cause, "").status)
    assert book.request.failure is not None
    assert book.request.failure.cause is cause


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (DoneAnswered(errno.EBADF), "The kernel refused DONE with EBADF."),
        (DoneAnswered(errno.EINVAL, "why"), "The kernel refused DONE with EINVAL, and says: why."),
        (DoneUnanswered(), "The answer was lost."),
        (DoneUnanswered("The socket is closed."), "The socket is closed."),
    ],
)
def test_each_way_in_which_done_can_fail_can_be_given(given: Given, error: str) -> None:
    book = installing()
    assert book >> KeysInstalled() << SendDone(sockfd=7, status=0) >> given << CloseSocket
    assert book.request.report_error == error


def test_an_invalid_request_is_one_too() -> None:
    book = Playbook(InvalidRequest(sockfd=8, reason="no AUTH_MODE"))
    assert book >> Start() << SendDone(sockfd=8, status=errno.EINVAL)


# Time


def test_time_meets_the_deadlines_on_the_way() -> None:
    book = started()
    assert book >> At(8.5)
    assert book >> Elapse(0.5) << AbortHandshake(alert=Alert.USER_CANCELED) << CANCELLED
    assert book.now == 9.0
    assert book >> Elapse(1.5)
    assert book >> Elapse(1.0) << CloseSocket(sockfd=7)
    assert book.now == 11.5


def test_a_long_time_meets_all_of_them() -> None:
    book = started()
    assert book >> At(3600.0) << AbortHandshake << CANCELLED << CloseSocket
    assert book.now == 3600.0


def test_time_does_not_go_back() -> None:
    book = started()
    assert book >> At(5.0) >> At(1.0)
    assert book.now == 5.0


def test_deadlines_can_be_chosen() -> None:
    book = Playbook(ASKED, deadlines=Deadlines(client=1.0))
    assert book >> Start() << StartHandshake >> At(1.0) << AbortHandshake << CANCELLED


# Wildcards


@pytest.mark.parametrize(
    "expected", [SendDone, SendDone(sockfd=ANY, status=ANY), SendDone(sockfd=7, status=ANY, remote_auth=ANY)]
)
def test_what_does_not_matter_need_not_be_said(expected: SendDone | type[SendDone]) -> None:
    assert Playbook(ASKED) >> Cancel() << expected


def test_what_matters_is_compared_beside_a_wildcard() -> None:
    assert refusal(lambda book: book >> Cancel() << SendDone(sockfd=ANY, status=errno.EACCES)) == [
        "   >> Cancel()",
        "   << SendDone(sockfd=ANY, status=13, remote_auth=())",
        " !    SendDone(sockfd=7, status=110, remote_auth=())",
    ]


def test_a_wildcard_equals_everything() -> None:
    assert ANY == 1
    assert None == ANY  # noqa: E711, SIM300 - from the other side
    assert not ANY != ZERO_SECRETS  # noqa: SIM202
    assert hash(ANY) == hash(ANY)
    assert repr(ANY) == "ANY"


# Where the request goes another way


def test_a_wrong_command_is_shown_below_what_was_expected_and_the_rest_follows() -> None:
    lines = refusal(
        lambda book: (
            book
            >> Start()
            << StartHandshake
            >> Cancel()
            << AbortHandshake(alert=None)
            << SendDone(sockfd=7, status=errno.EACCES)
            >> DoneAnswered()
            << CloseSocket(sockfd=7)
        )
    )
    assert lines == [
        "   >> Start()",
        "   << StartHandshake",
        "   >> Cancel()",
        "   << AbortHandshake(alert=None)",
        "   << SendDone(sockfd=7, status=13, remote_auth=())",
        " !    SendDone(sockfd=7, status=110, remote_auth=())",
        "   >> DoneAnswered(error=0, text='')",
        "   << CloseSocket(sockfd=7)",
    ]


def test_a_command_of_another_class_is_shown_too() -> None:
    assert refusal(lambda book: book >> Cancel() << CloseSocket) == [
        "   >> Cancel()",
        "   << CloseSocket",
        " !    SendDone(sockfd=7, status=110, remote_auth=())",
    ]


def test_a_missing_command_is_nothing() -> None:
    assert refusal(lambda book: book >> At(1.0) << SendDone) == [
        "   >> At(seconds=1.0)",
        "   << SendDone",
        " !    nothing",
    ]


def test_commands_that_nobody_expected_are_shown_at_the_end() -> None:
    assert refusal(lambda book: book >> Cancel(), started()) == [
        "   >> Start()",
        "   << StartHandshake",
        "   >> Cancel()",
        "   << nothing more",
        " !    AbortHandshake(alert=None), then SendDone(sockfd=7, status=110, remote_auth=())",
    ]


def test_commands_that_nobody_expected_are_shown_before_the_next_input() -> None:
    assert refusal(lambda book: book >> Cancel() >> DoneAnswered() << CloseSocket) == [
        "   >> Cancel()",
        "   << nothing more",
        " !    SendDone(sockfd=7, status=110, remote_auth=())",
        "   >> DoneAnswered(error=0, text='')",
        "   << CloseSocket",
    ]


def test_what_the_state_does_not_allow_is_shown_at_its_place() -> None:
    assert refusal(lambda book: book >> KeysInstalled() << SendDone) == [
        "   >> KeysInstalled(remote_auth=())",
        " !    LocalProtocolError: A request that is queued can't take 'keys installed'.",
        "   << SendDone",
    ]


def test_the_first_line_tells_the_time() -> None:
    with pytest.raises(AssertionError, match=r"script \(at 2.5 s\)"):
        assert Playbook(ASKED) >> At(2.5) << SendDone


def test_no_secret_is_shown() -> None:
    lines = refusal(lambda book: book >> Completed() << CloseSocket, started())
    assert "key=" not in "".join(lines)
    assert "InstallKeys(secrets=KernelSecrets(" in lines[-1]


# Playing


def test_a_script_is_played_once() -> None:
    book = started()
    assert book
    assert book >> Cancel() << AbortHandshake << SendDone
    assert book
    assert book.request.state is State.REPORTING


def test_a_script_that_nobody_played_is_warned_of() -> None:
    with pytest.warns(ResourceWarning, match="a playbook was never played: write `assert` before it"):
        id(Playbook(ASKED) >> Start() << CloseSocket)


def test_a_script_that_failed_is_not_warned_of() -> None:
    refusal(lambda book: book >> Start() << CloseSocket >> Cancel())
    gc.collect()
