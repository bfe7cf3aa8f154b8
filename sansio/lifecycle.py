"""The life of one request: one transition table, and the commands that each transition gives.

    QUEUED -> HANDSHAKING -> INSTALLING -> REPORTING -> FINISHED

`TRANSITIONS` holds every transition that there is; `next_state` looks one up, and what is not in the table is
a mistake of the caller's (`LocalProtocolError`).  `Request` adds what a table can't hold: the failure, the
deadline and the commands.  The caller feeds what happened into its methods and carries out the commands that
they return, in order.

The one promise to the kernel: a request that leaves QUEUED gives exactly one `SendDone`, however it ends, and
then exactly one `CloseSocket`.  DONE goes out on entering REPORTING, the only way to FINISHED.  Failure is
sticky: the first one decides the status.

Cancel, shutdown and the deadline can come at any time.  They end a handshake or an installation; once DONE is
under way they change nothing, so a caller need not look at the state first.
"""

import enum
import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, assert_never

from .ktls import KernelSecrets
from .request import (
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from .status import Alert, Cause, Failure
from .status import failure as make_failure

CLIENT_SECONDS: Final = 9.0
"""A client's handshake without TIMEOUT: sunrpc's client waits 10 s (net/sunrpc/xprtsock.c)."""

SERVER_SECONDS: Final = 4.5
"""A server's handshake without TIMEOUT: nfsd waits 5 s (net/sunrpc/svcsock.c)."""

TIMEOUT_MARGIN_SECONDS: Final = 0.5
"""How long before the consumer's TIMEOUT to give up, so that it still hears why."""

REPORTING_SECONDS: Final = 2.0
"""How long to wait for DONE's answer: the kernel gives it at once, or the socket's queue overflowed."""


class LocalProtocolError(Exception):
    """A method was called that the request's state does not allow: a defect in the caller."""


class State(enum.Enum):
    """Where a request is."""

    QUEUED = "queued"
    HANDSHAKING = "handshaking"
    INSTALLING = "installing"
    REPORTING = "reporting"
    FINISHED = "finished"


class Input(enum.Enum):
    """What can happen to a request."""

    START = "start"
    REFUSE = "refuse"
    HANDSHAKE_COMPLETED = "handshake completed"
    HANDSHAKE_FAILED = "handshake failed"
    KEYS_INSTALLED = "keys installed"
    INSTALL_FAILED = "install failed"
    LOCAL_FAILURE = "local failure"
    CANCEL = "cancel"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    DONE_ANSWERED = "done answered"
    DONE_UNANSWERED = "done unanswered"


_ENDED_EARLY: Final = {
    Input.LOCAL_FAILURE: State.REPORTING,
    Input.CANCEL: State.REPORTING,
    Input.DEADLINE: State.REPORTING,
    Input.SHUTDOWN: State.REPORTING,
}

TRANSITIONS: Final[Mapping[State, Mapping[Input, State]]] = MappingProxyType(
    {
        State.QUEUED: MappingProxyType(
            {Input.START: State.HANDSHAKING, Input.REFUSE: State.REPORTING, **_ENDED_EARLY}
        ),
        State.HANDSHAKING: MappingProxyType(
            {
                Input.HANDSHAKE_COMPLETED: State.INSTALLING,
                Input.HANDSHAKE_FAILED: State.REPORTING,
                **_ENDED_EARLY,
            }
        ),
        # Whoever hung up or gave up must not be told of a success, even where the keys are already in.
        State.INSTALLING: MappingProxyType(
            {
                Input.KEYS_INSTALLED: State.REPORTING,
                Input.INSTALL_FAILED: State.REPORTING,
                **_ENDED_EARLY,
            }
        ),
        State.REPORTING: MappingProxyType(
            {
                Input.DONE_ANSWERED: State.FINISHED,
                Input.DONE_UNANSWERED: State.FINISHED,
                Input.DEADLINE: State.FINISHED,
                Input.CANCEL: State.REPORTING,
                Input.SHUTDOWN: State.REPORTING,
            }
        ),
        State.FINISHED: MappingProxyType(
            {
                Input.CANCEL: State.FINISHED,
                Input.DEADLINE: State.FINISHED,
                Input.SHUTDOWN: State.FINISHED,
            }
        ),
    }
)


def next_state(state: State, event: Input) -> State:
    """Look one transition up.

    Raises:
        LocalProtocolError: The table has no such transition.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise LocalProtocolError(f"A request that is {state.value} can't take {event.value!r}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartHandshake:
    """Choose credentials and run the handshake; answer with `handshake_completed` or a failure."""

    request: HandshakeRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallKeys:
    """Put the keys into the socket, and the peer's identity into keys; answer `keys_installed` or a failure."""

    secrets: KernelSecrets


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortHandshake:
    """Stop the handshake or the installation that is under way, without waiting for it.

    Attributes:
        alert: What to tell the peer first; None tells it nothing.
    """

    alert: Alert | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendDone:
    """Send DONE; answer with `done_answered` or `done_unanswered`.

    Attributes:
        sockfd: The descriptor from ACCEPT.
        status: 0, or a positive errno.
        remote_auth: Serials of the keys that hold the peer's identity.
    """

    sockfd: int
    status: int
    remote_auth: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSocket:
    """Close the descriptor: the last command.  Before DONE's answer the kernel still needs it."""

    sockfd: int


Command = StartHandshake | InstallKeys | AbortHandshake | SendDone | CloseSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long a request may take, in seconds.

    Attributes:
        client: A client's handshake for which the kernel sent no TIMEOUT.
        server: A server's handshake for which the kernel sent no TIMEOUT.
        margin: How long before the kernel's TIMEOUT to give up.
        reporting: How long to wait for DONE's answer after the handshake's deadline.
    """

    client: float = CLIENT_SECONDS
    server: float = SERVER_SECONDS
    margin: float = TIMEOUT_MARGIN_SECONDS
    reporting: float = REPORTING_SECONDS

    def handshake_seconds(self, request: HandshakeRequest | InvalidRequest) -> float:
        """Return how long the handshake and the installation may take together."""
        match request:
            case InvalidRequest():
                return self.server  # The shortest wait: its role is not known.
            case ClientAnon() | ClientX509() | ClientPsk():
                default = self.client
            case ServerX509() | ServerPsk():
                default = self.server
            case _:
                assert_never(request)
        if request.timeout is None:
            return default
        # Half of a very short TIMEOUT, for which the margin leaves nothing.
        return max(request.timeout - self.margin, request.timeout / 2)


class Request:
    """One request, from ACCEPT to the answer to DONE.

    Every method that reports something returns the commands to carry out, in order, and raises
    `LocalProtocolError` where `TRANSITIONS` does not allow it.

    Attributes:
        request: What the kernel asked for.
        accepted_at: The monotonic time of the ACCEPT, in seconds.
        report_error: Why DONE did not arrive, as a sentence; None while nothing is known to be wrong with it.
    """

    def __init__(
        self,
        request: HandshakeRequest | InvalidRequest,
        *,
        now: float,
        deadlines: Deadlines = Deadlines(),
    ) -> None:
        self.request: Final = request
        self.accepted_at: Final = now
        self.report_error: str | None = None
        self._state = State.QUEUED
        self._failure: Failure | None = None
        self._reporting_seconds = deadlines.reporting
        self._deadline = now + deadlines.handshake_seconds(request)
        if isinstance(request, InvalidRequest):
            self._failure = make_failure(Cause.INVALID_REQUEST, request.reason)

    @property
    def state(self) -> State:
        """Where the request is."""
        return self._state

    @property
    def failure(self) -> Failure | None:
        """The first failure; None while there was none, and so for a request that succeeded."""
        return self._failure

    @property
    def sockfd(self) -> int:
        """The descriptor from ACCEPT."""
        return self.request.sockfd

    def start(self) -> list[Command]:
        """The request's turn has come: start the handshake, or refuse an invalid request."""
        if isinstance(self.request, InvalidRequest):
            return self._report(Input.REFUSE)
        self._advance(Input.START)
        return [StartHandshake(request=self.request)]

    def handshake_completed(self, secrets: KernelSecrets) -> list[Command]:
        """The handshake is over, and the engine has given its secrets out."""
        self._advance(Input.HANDSHAKE_COMPLETED)
        return [InstallKeys(secrets=secrets)]

    def handshake_failed(self, failure: Failure) -> list[Command]:
        """The engine failed; the alert that it made, if any, has already been sent."""
        return self._fail(Input.HANDSHAKE_FAILED, failure)

    def keys_installed(self, remote_auth: tuple[int, ...] = ()) -> list[Command]:
        """The socket has its keys: report success.

        Args:
            remote_auth: Serials of the keys that hold the peer's identity; empty for a peer without one.
        """
        return self._report(Input.KEYS_INSTALLED, remote_auth=remote_auth)

    def install_failed(self, failure: Failure) -> list[Command]:
        """The kernel refused the keys."""
        return self._fail(Input.INSTALL_FAILED, failure)

    def local_failure(self, failure: Failure) -> list[Command]:
        """Something on this side went wrong before DONE: no credentials, no memory, a defect.

        `failure.alert` is sent to the peer if the handshake is under way.
        """
        return self._interrupt(Input.LOCAL_FAILURE, failure)

    def cancel(self) -> list[Command]:
        """The consumer hung up; after DONE this changes nothing."""
        return self._interrupt(
            Input.CANCEL,
            make_failure(
                Cause.CANCELLED, f"The kernel's consumer hung up while the request was {self._state.value}."
            ),
        )

    def shutdown(self) -> list[Command]:
        """The agent stops now; after DONE this changes nothing."""
        return self._interrupt(
            Input.SHUTDOWN,
            make_failure(Cause.SHUTDOWN, f"The agent was stopped while the request was {self._state.value}."),
        )

    def done_answered(self, error: int, text: str = "") -> list[Command]:
        """The kernel answered DONE.

        Args:
            error: 0, or a positive errno: EBADF, ENOTSOCK, EBUSY, EINVAL.
            text: The kernel's extended acknowledgement.
        """
        if not error:
            return self._finish(Input.DONE_ANSWERED, None)
        name = errno.errorcode.get(error, str(error))
        said = f", and says: {text}" if text else ""
        return self._finish(Input.DONE_ANSWERED, f"The kernel refused DONE with {name}{said}.")

    def done_unanswered(self, reason: str) -> list[Command]:
        """DONE could not be sent, or its answer was lost.

        Args:
            reason: A sentence for the log.
        """
        return self._finish(Input.DONE_UNANSWERED, reason)

    def next_deadline(self) -> float | None:
        """Return when to call `handle_deadline`, in monotonic seconds; None when finished."""
        return None if self._state is State.FINISHED else self._deadline

    def handle_deadline(self, now: float) -> list[Command]:
        """Give up whatever should have been over by now.

        Args:
            now: The monotonic time in seconds; before `next_deadline` the call changes nothing.
        """
        if now < self._deadline:
            return []
        if self._state is State.REPORTING:
            return self._finish(
                Input.DEADLINE,
                f"The kernel did not answer DONE by {now - self.accepted_at:.1f} s after ACCEPT.",
            )
        waited = (
            f"The request was still {self._state.value} {now - self.accepted_at:.1f} s after ACCEPT; "
            "the consumer is about to give up."
        )
        commands = self._interrupt(Input.DEADLINE, make_failure(Cause.TIMED_OUT, waited))
        # A late call must leave DONE its time to be answered.
        self._deadline = max(self._deadline, now + self._reporting_seconds)
        return commands

    def _advance(self, event: Input) -> bool:
        """Take a transition; whether it led anywhere."""
        left, self._state = self._state, next_state(self._state, event)
        return self._state is not left

    def _interrupt(self, event: Input, failure: Failure) -> list[Command]:
        """End the request from outside; what is under way has to be stopped first."""
        left = self._state
        if not self._advance(event):
            return []
        # Only a handshake can carry an alert: before it nothing was said, after it the keys may be half in.
        told = failure if left is State.HANDSHAKING else replace(failure, alert=None)
        stop: list[Command] = [] if left is State.QUEUED else [AbortHandshake(alert=told.alert)]
        return [*stop, self._done(told)]

    def _fail(self, event: Input, failure: Failure) -> list[Command]:
        self._advance(event)
        return [self._done(failure)]

    def _report(self, event: Input, remote_auth: tuple[int, ...] = ()) -> list[Command]:
        self._advance(event)
        return [self._done(None, remote_auth)]

    def _done(self, failure: Failure | None, remote_auth: tuple[int, ...] = ()) -> SendDone:
        """The one place that makes a DONE."""
        self._failure = self._failure or failure
        self._deadline += self._reporting_seconds
        status = 0 if self._failure is None else self._failure.status
        return SendDone(sockfd=self.sockfd, status=status, remote_auth=remote_auth)

    def _finish(self, event: Input, report_error: str | None) -> list[Command]:
        self._advance(event)
        self.report_error = report_error
        return [CloseSocket(sockfd=self.sockfd)]
