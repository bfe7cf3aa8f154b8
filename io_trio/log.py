"""Where log lines go, and what they look like: `handshake failed role=client peer=nfs.example reason="..."`.

The words of an event come first, then its fields as key=value; a value with blanks or quotes in it is quoted, as in
logfmt.  Values may come from a peer: control characters are escaped and each value is bounded, so a line stays a
line.

In JSON each line is an object of `time`, `level`, `event` and the fields, in ASCII.

Lines go to stderr with -s and on a terminal, else to syslog; to stderr also where no syslog listens.  Where stderr is
the journal, which keeps time and priority itself, a line begins with its priority (`<4>`, sd-daemon(3)) instead of
time and level.
"""

import json
import logging
import logging.handlers
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TextIO, cast

import structlog

MAX_VALUE: Final = 600
"""Characters of one value: the longest reasons have about 400."""

SYSLOG_SOCKET: Final = Path("/dev/log")
LogFormat = Literal["text", "json"]
"""How a line is written: for people, or for programs."""

PRIORITIES: Final[Mapping[str, int]] = {"debug": 7, "info": 6, "warning": 4, "error": 3}
"""syslog(3)'s, as sd-daemon(3) has them in front of a line."""

_IDENT: Final = "ktls-agent"
_CONTROLS: Final[Mapping[int, str]] = {
    number: f"\\x{number:02x}" for number in (*range(0x20), *range(0x7F, 0xA0))
} | {0x2028: "\\u2028", 0x2029: "\\u2029"}


def printable(value: object) -> str:
    """Make any value fit for a log line: one line, no control characters or lone surrogates, bounded."""
    text = str(value)
    if len(text) > MAX_VALUE:
        text = f"{text[:MAX_VALUE]}..."
    return text.encode("utf-8", "backslashreplace").decode().translate(_CONTROLS)


def render(event: str, fields: Mapping[str, object]) -> str:
    """Make a log line of an event and its fields."""
    return " ".join((printable(event), *(f"{name}={_quoted(value)}" for name, value in fields.items())))


def render_json(event: str, fields: Mapping[str, object]) -> str:
    """Make a log line of an event and its fields, as a JSON object."""
    return json.dumps({"event": event, **{name: _json_value(value) for name, value in fields.items()}})


def _json_value(value: object) -> object:
    # JSON itself escapes what would end the line.
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    bounded = text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}..."
    return bounded.encode("utf-8", "backslashreplace").decode()


def is_journal(stream: TextIO, value: str | None) -> bool:
    """Does a stream lead to the journal?

    Args:
        stream: For example stderr.
        value: The environment's JOURNAL_STREAM (systemd.exec(5)): the device and inode of the journal's stream.
    """
    if value is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # io.UnsupportedOperation, too: a stream without a descriptor
        return False
    return value == f"{status.st_dev}:{status.st_ino}"


def _quoted(value: object) -> str:
    text = printable(value)
    if text and not any(character in ' "=' for character in text):
        return text
    quoted = text.replace('"', '\\"')
    return f'"{quoted}"'


class StderrLogger:
    """Writes lines with their time and level; what structlog wraps."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        """Write one line."""
        self._stream.write(f"{message}\n")
        self._stream.flush()

    debug = info = warning = error = msg


class _SysLogHandler(logging.handlers.SysLogHandler):
    """The standard library's, which would print a traceback for each line that gets lost."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name there
        """Syslog went away: the line goes to stderr."""
        sys.stderr.write(f"{record.getMessage()}\n")


class SyslogLogger:
    """Hands lines to the local syslog with their level; what structlog wraps."""

    def __init__(self, address: Path) -> None:
        """Connect.

        Raises:
            OSError: Nobody listens there.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(str(address))  # The handler itself keeps quiet about it.
        facility = logging.handlers.SysLogHandler.LOG_DAEMON
        self._handler = _SysLogHandler(address=str(address), facility=facility)
        self._handler.ident = f"{_IDENT}: "

    def _emit(self, level: int, message: str) -> None:
        self._handler.emit(logging.LogRecord(_IDENT, level, "", 0, message, None, None))

    def close(self) -> None:
        """Let the connection go."""
        self._handler.close()

    def debug(self, message: str) -> None:
        """Write one line."""
        self._emit(logging.DEBUG, message)

    def info(self, message: str) -> None:
        """Write one line."""
        self._emit(logging.INFO, message)

    def warning(self, message: str) -> None:
        """Write one line."""
        self._emit(logging.WARNING, message)

    def error(self, message: str) -> None:
        """Write one line."""
        self._emit(logging.ERROR, message)


def make_logger(
    *,
    to_stderr: bool,
    debug: bool,
    log_format: LogFormat = "text",
    stream: TextIO | None = None,
    syslog: Path = SYSLOG_SOCKET,
    journal: str | None = None,
) -> structlog.typing.FilteringBoundLogger:
    """Choose where to log.

    Args:
        to_stderr: Log to stderr whatever there is.
        debug: Log debugging lines, too.
        log_format: How a line is written.
        stream: Instead of stderr.
        syslog: The socket of the local syslog.
        journal: The environment's JOURNAL_STREAM.
    """
    errors = sys.stderr if stream is None else stream
    inner: StderrLogger | SyslogLogger | None = None
    if not to_stderr and not errors.isatty():
        inner = _syslog(syslog)
    render_line = _JSON if log_format == "json" else _TEXT
    processors: list[structlog.typing.Processor] = [render_line.bare]
    if inner is None:
        inner = StderrLogger(errors)
        if is_journal(errors, journal):
            processors = [render_line.bare, _with_priority]
        else:
            stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="_time")
            processors = [stamp, render_line.stamped]
    level = logging.DEBUG if debug else logging.INFO
    logger = structlog.wrap_logger(
        inner,
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    return cast("structlog.typing.FilteringBoundLogger", logger)


def _syslog(path: Path) -> SyslogLogger | None:
    try:
        return SyslogLogger(path)
    except OSError:
        return None


def _text_line(_logger: Any, _level: str, event: MutableMapping[str, Any]) -> str:
    return render(str(event.pop("event")), event)


def _text_line_stamped(logger: Any, level: str, event: MutableMapping[str, Any]) -> str:
    time = event.pop("_time")
    return f"{time} {level:<7} {_text_line(logger, level, event)}"


def _json_line(_logger: Any, level: str, event: MutableMapping[str, Any]) -> str:
    return render_json(str(event.pop("event")), {"level": level, **event})


def _json_line_stamped(logger: Any, level: str, event: MutableMapping[str, Any]) -> str:
    return _json_line(logger, level, {"event": event.pop("event"), "time": event.pop("_time"), **event})


def _with_priority(_logger: Any, level: str, line: Any) -> str:
    return f"<{PRIORITIES[level]}>{line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renderer:
    """How a format writes its lines: for where the time is kept already, and for where it is not."""

    bare: structlog.typing.Processor
    stamped: structlog.typing.Processor


_TEXT: Final = _Renderer(bare=_text_line, stamped=_text_line_stamped)
_JSON: Final = _Renderer(bare=_json_line, stamped=_json_line_stamped)
