"""Tests of a request's life as scripts: what happens to it (`>>`), and what it commands then (`<<`).

    book = Playbook(ClientAnon(sockfd=7))
    assert book >> Start() << StartHandshake
    assert (
        book
        >> At(9.0)
        << AbortHandshake(alert=Alert.USER_CANCELED)
        << SendDone(sockfd=7, status=errno.ETIMEDOUT)
        >> DoneAnswered()
        << CloseSocket(sockfd=7)
    )

What is expected is a command, a command with `ANY` in the fields that don't matter, or the class of any such command.
`>>` and `<<` only write the script.  `assert` plays it, and everything counts: a command that is missing, one that differs,
and one too many, each before the next `>>` and at the end.  A script that the request did not follow is an AssertionError
that shows it, with what was expected and what happened one below the other; one that was never played is a
ResourceWarning.

The time starts at 0, when the request was accepted; `At` and `Elapse` move it and meet each deadline on the way.
"""

import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Self

from ..ktls import KernelSecrets, KtlsCipher, TrafficKey
from ..lifecycle import Command, Deadlines, LocalProtocolError, Request
from ..request import HandshakeRequest, InvalidRequest
from ..status import Failure


class _Any:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "ANY"


ANY: Final[Any] = _Any()
"""Stands for any value in a field of an expected command."""

_DEADLINES: Final = Deadlines()
_ZERO_KEY: Final = TrafficKey(key=bytes(16), iv=bytes(12), sequence=0)
ZERO_SECRETS: Final = KernelSecrets(version=0x0304, cipher=KtlsCipher.AES_GCM_128, tx=_ZERO_KEY, rx=_ZERO_KEY)
"""The secrets of a handshake that never was; nothing looks into them before the kernel does."""


@dataclass(frozen=True, slots=True)
class Start:
    """The request's turn has come."""

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.start()


@dataclass(frozen=True, slots=True)
class Completed:
    """The handshake completed."""

    secrets: KernelSecrets = ZERO_SECRETS

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.handshake_completed(self.secrets)


@dataclass(frozen=True, slots=True)
class Failed:
    """The handshake failed."""

    failure: Failure

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.handshake_failed(self.failure)


@dataclass(frozen=True, slots=True)
class KeysInstalled:
    """The socket has its keys."""

    remote_auth: tuple[int, ...] = ()

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.keys_installed(self.remote_auth)


@dataclass(frozen=True, slots=True)
class InstallFailed:
    """The kernel refused the keys."""

    failure: Failure

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.install_failed(self.failure)


@dataclass(frozen=True, slots=True)
class LocalFailure:
    """Something on this side went wrong before DONE."""

    failure: Failure

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.local_failure(self.failure)


@dataclass(frozen=True, slots=True)
class Cancel:
    """The consumer hung up."""

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.cancel()


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The agent stops."""

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.shutdown()


@dataclass(frozen=True, slots=True)
class DoneAnswered:
    """The kernel answered DONE, with 0 or a positive errno."""

    error: int = 0
    text: str = ""

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.done_answered(self.error, self.text)


@dataclass(frozen=True, slots=True)
class DoneUnanswered:
    """DONE's answer was lost."""

    reason: str = "The answer was lost."

    def give(self, request: Request) -> list[Command]:
        """Let it happen."""
        return request.done_unanswered(self.reason)


@dataclass(frozen=True, slots=True)
class At:
    """It is so many seconds after ACCEPT; a time that has passed changes nothing."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Elapse:
    """So many seconds pass."""

    seconds: float


Happening = (
    Start
    | Completed
    | Failed
    | KeysInstalled
    | InstallFailed
    | LocalFailure
    | Cancel
    | Shutdown
    | DoneAnswered
    | DoneUnanswered
)
Given = Happening | At | Elapse
Expected = Command | type[Command]


@dataclass(slots=True)
class _Line:
    """One line of the script, and what came of it."""

    said: Given | None = None
    expected: Expected | None = None
    happened: str | None = None  # Where it is not what was expected.


class Playbook:
    """See the module's docstring.

    Attributes:
        request: The request as it is; for its `state`, its `failure` and its `report_error`.
        now: The time, in seconds after ACCEPT.
    """

    def __init__(
        self, request: HandshakeRequest | InvalidRequest, *, deadlines: Deadlines = _DEADLINES
    ) -> None:
        self._script: list[_Line] = []
        self._played = 0
        self.now = 0.0
        self.request: Final = Request(request, now=self.now, deadlines=deadlines)
        self._commands: deque[Command] = deque()

    def __rshift__(self, given: Given) -> Self:
        """Write down what happens next."""
        self._script.append(_Line(said=given))
        return self

    def __lshift__(self, expected: Expected) -> Self:
        """Write down what the request has to command then."""
        self._script.append(_Line(expected=expected))
        return self

    def __bool__(self) -> bool:
        """Play what was not played yet.

        Returns:
            True: the request followed the script.

        Raises:
            AssertionError: It did not.
        """
        while self._played < len(self._script):
            self._play(self._script[self._played])
            self._played += 1
        self._expect_nothing_more()
        return True

    def __del__(self) -> None:
        """Warn of a script that was written and never played: its test would pass whatever happens."""
        if self._played < len(self._script):
            message = "a playbook was never played: write `assert` before it"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)

    def _play(self, line: _Line) -> None:
        if line.said is None:
            self._compare(line)
            return
        self._expect_nothing_more()
        try:
            self._commands.extend(self._happen(line.said))
        except LocalProtocolError as error:
            self._differs(line, f"LocalProtocolError: {error}")

    def _happen(self, given: Given) -> list[Command]:
        match given:
            case At(seconds=seconds):
                return self._pass_time(seconds)
            case Elapse(seconds=seconds):
                return self._pass_time(self.now + seconds)
            case _:
                return given.give(self.request)

    def _pass_time(self, until: float) -> list[Command]:
        commands: list[Command] = []
        while (deadline := self.request.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            commands += self.request.handle_deadline(self.now)
        self.now = max(self.now, until)
        return commands

    def _compare(self, line: _Line) -> None:
        if not self._commands:
            self._differs(line, "nothing")
        command = self._commands.popleft()
        as_expected = (
            isinstance(command, line.expected)
            if isinstance(line.expected, type)
            else command == line.expected
        )
        if not as_expected:
            self._differs(line, repr(command))

    def _expect_nothing_more(self) -> None:
        if self._commands:
            extra = _Line(happened=", then ".join(map(repr, self._commands)))
            self._script.insert(self._played, extra)
            self._differs(extra, extra.happened or "")

    def _differs(self, line: _Line, happened: str) -> None:
        line.happened = happened
        self._played = len(self._script)
        text = "\n".join(_shown(each) for each in self._script)
        raise AssertionError(f"the request did not follow the script (at {self.now:g} s):\n{text}")


def _shown(line: _Line) -> str:
    """Show a line of the script; where the request went another way, with that below."""
    script = f"   >> {line.said!r}" if line.said is not None else f"   << {_name(line.expected)}"
    if line.happened is None:
        return script
    return f"{script}\n !    {line.happened}"


def _name(expected: Expected | None) -> str:
    if expected is None:
        return "nothing more"
    return expected.__name__ if isinstance(expected, type) else repr(expected)
