"""Where log lines go, and what they look like: `handshake failed role=client peer=nfs.example reason="..."`.

The words of an event come first, then its fields as key=value; a value with blanks or quotes in it is quoted, as in
logfmt.  Values may come from a peer: control characters are escaped and each value is bounded, so a line stays a
line.

Lines go to stderr with -s and on a terminal, else to syslog; to stderr also where no syslog listens.
"""

import logging
import logging.handlers
import socket
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog

MAX_VALUE: Final = 600
"""Characters of one value: the longest reasons have about 400."""

SYSLOG_SOCKET: Final = Path("/dev/log")
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
    stream: TextIO | None = None,
    syslog: Path = SYSLOG_SOCKET,
) -> structlog.typing.FilteringBoundLogger:
    """Choose where to log.

    Args:
        to_stderr: Log to stderr whatever there is.
        debug: Log debugging lines, too.
        stream: Instead of stderr.
        syslog: The socket of the local syslog.
    """
    errors = sys.stderr if stream is None else stream
    inner: StderrLogger | SyslogLogger | None = None
    if not to_stderr and not errors.isatty():
        inner = _syslog(syslog)
    processors: list[structlog.typing.Processor] = []
    if inner is None:
        inner = StderrLogger(errors)
        processors.append(structlog.processors.TimeStamper(fmt="iso", utc=True, key="_time"))
    level = logging.DEBUG if debug else logging.INFO
    logger = structlog.wrap_logger(
        inner,
        processors=[*processors, _render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    return cast("structlog.typing.FilteringBoundLogger", logger)


def _syslog(path: Path) -> SyslogLogger | None:
    try:
        return SyslogLogger(path)
    except OSError:
        return None


def _render(_logger: Any, level: str, event: MutableMapping[str, Any]) -> str:
    time = event.pop("_time", None)
    line = render(str(event.pop("event")), event)
    return line if time is None else f"{time} {level:<7} {line}"
