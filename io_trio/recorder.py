"""`run --record DIR`: writes a transcript of each request when it is over, and a pcapng file of the same.

Steps are collected in memory while a request runs; a thread writes the file afterwards, so that a slow disk, or one that
is itself mounted through this agent, keeps no handshake waiting.  Recordings that come faster than they can be written
are dropped, which the log tells.  A recording is a file of mode 0600 that appears whole, under its final name; the oldest
ones go when together they are too many or too large.

What can go wrong here never reaches a handshake: it is told in the log.
"""

import datetime as dt
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import trio

from ktls_agent.sansio.capture.pcapng import encode_pcapng
from ktls_agent.sansio.capture.recording import Recording
from ktls_agent.sansio.capture.transcript import encode_transcript
from ktls_agent.sansio.steps import Step, Trace

from .handler import Log

SUFFIX: Final = ".transcript"
PCAPNG_SUFFIX: Final = ".pcapng"

MAX_WAITING: Final = 64
"""Recordings that wait to be written; each takes some tens of kilobytes."""

MAX_RECORDINGS: Final = 1000
"""Files that are kept."""

MAX_RECORDED_BYTES: Final = 256 << 20
"""Bytes of all files that are kept: some thousand ordinary handshakes take 20 MB."""

WRITE_SECONDS: Final = 5.0
"""How long a stopping agent waits for what is still to be written."""

_UNFINISHED: Final = ".part"
_NAME_LENGTH: Final = 60
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """What is recorded, and where.

    Attributes:
        directory: Where the files go.
        only_failures: Record failed requests only.
        secrets: Keep keys, too.
    """

    directory: Path
    only_failures: bool = False
    secrets: bool = False


class RecordingImpossible(Exception):  # noqa: N818 - a verdict
    """The directory can't be used; the text is a sentence."""


class Recorder:
    """See the module's docstring.

    Attributes:
        dropped: How many recordings were not written.
    """

    def __init__(self, options: RecordingOptions, *, log: Log, wall_clock: Callable[[], dt.datetime]) -> None:
        """Make sure of the directory.

        Args:
            options: What is recorded, and where.
            log: Where is told what could not be recorded.
            wall_clock: The time for the files' names.

        Raises:
            RecordingImpossible: It can't be made or written to, or others may write to it.
        """
        self._options = options
        self._log = log
        self._wall_clock = wall_clock
        self._agent = version("ktls-agent")
        self._written = 0
        self.dropped = 0
        self._finished, self._waiting = trio.open_memory_channel[Recording](MAX_WAITING)
        _prepare(options.directory)

    def trace_for(self, _sockfd: int) -> Trace:
        """Make the trace of a request."""
        recording = Recording(clock=trio.current_time, now=self._wall_clock())

        def trace(step: Step) -> None:
            recording(step)
            if recording.over:
                self._finish(recording)

        return trace

    async def run(self) -> None:
        """Write what is finished, until `stop`; run it as a task."""
        async for recording in self._waiting:
            try:
                await trio.to_thread.run_sync(self._write, recording, abandon_on_cancel=True)
            except OSError as error:
                self._drop(f"{error.strerror}: {error.filename}")

    def stop(self) -> None:
        """Take no more recordings; `run` ends when all are written."""
        self._finished.close()

    def _finish(self, recording: Recording) -> None:
        if recording.overflowed:
            self._drop("The handshake had more steps or bytes than are kept.")
        elif not (self._options.only_failures and recording.succeeded):
            try:
                self._finished.send_nowait(recording)
            except trio.WouldBlock:
                self._drop("Writing does not keep up with the handshakes.")

    def _drop(self, reason: str) -> None:
        self.dropped += 1
        self._log.warning("not recorded", reason=reason)

    def _write(self, recording: Recording) -> None:
        transcript = recording.transcript(agent=self._agent, secrets=self._options.secrets)
        self._written += 1
        time = transcript.recorded.astimezone(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        name = f"{time}-{os.getpid()}-{self._written}-{_describe(recording.summary)}{SUFFIX}"
        path = self._options.directory / name
        write_privately(path.with_suffix(PCAPNG_SUFFIX), encode_pcapng(transcript))
        write_privately(path, encode_transcript(transcript))
        rotate(self._options.directory)


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
        for leftover in directory.glob(f".*{_UNFINISHED}"):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise RecordingImpossible(
            f"The directory for recordings {directory} can't be used: {error.strerror}."
        ) from None
    if mode & 0o022:
        raise RecordingImpossible(
            f"Others may write to the directory for recordings {directory}: use chmod go-w, or another one."
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise RecordingImpossible(f"The directory for recordings {directory} may not be written to.")


def _describe(summary: dict[str, str | int | float]) -> str:
    """Say in a file's name what the recording is of; peers' and consumers' names are cut to harmless characters."""
    facts = (summary.get(name) for name in ("role", "peer", "address", "status"))
    text = "-".join(str(fact) for fact in facts if fact is not None)
    return _NOT_IN_NAMES.sub("_", text)[:_NAME_LENGTH]


def write_privately(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; it appears whole, or not at all.

    Raises:
        OSError: It could not be written; nothing is left of it.
    """
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as file:
            file.write(data)
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def rotate(directory: Path, *, most: int = MAX_RECORDINGS, most_bytes: int = MAX_RECORDED_BYTES) -> None:
    """Remove the oldest recordings, beyond a number and a size of all together; their names begin with the time."""
    size = 0
    for kept, path in enumerate(sorted(directory.glob(f"*{SUFFIX}"), reverse=True), 1):
        files = [file for file in (path, path.with_suffix(PCAPNG_SUFFIX)) if file.exists()]
        size += sum(file.stat().st_size for file in files)
        if kept > most or (size > most_bytes and kept > 1):
            for file in files:
                file.unlink(missing_ok=True)
