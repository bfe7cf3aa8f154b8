"""Log lines: one event, one line, whatever a peer puts into it."""

import io
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.io_trio.log import MAX_VALUE, make_logger, printable, render


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "event"),
        ({"role": "client", "ms": 1.5}, "event role=client ms=1.5"),
        ({"reason": "two words"}, 'event reason="two words"'),
        ({"reason": 'a "quoted" word'}, 'event reason="a \\"quoted\\" word"'),
        ({"subject": "CN=x"}, 'event subject="CN=x"'),
        ({"empty": ""}, 'event empty=""'),
        ({"peer": "a\nb\x1b[31m\x7f\u2028\x85"}, "event peer=a\\x0ab\\x1b[31m\\x7f\\u2028\\x85"),
        ({"peer": "\udcff"}, "event peer=\\udcff"),
        ({"long": "x" * (MAX_VALUE + 1)}, f"event long={'x' * MAX_VALUE}..."),
    ],
)
def test_renders_an_event_and_its_fields(fields: dict[str, object], line: str) -> None:
    assert render("event", fields) == line


@given(st.text())
def test_any_value_stays_on_its_line(text: str) -> None:
    assert len(printable(text).splitlines()) <= 1
    assert printable(text).encode().decode() == printable(text)  # no lone surrogates


def test_a_stderr_line_has_time_and_level() -> None:
    stream = io.StringIO()
    log = make_logger(to_stderr=True, debug=False, stream=stream)
    log.warning("handshake failed", role="client", reason="100% of it")
    log.debug("not shown")
    time, _, rest = stream.getvalue().partition(" ")
    assert time.endswith("Z")
    assert rest == 'warning handshake failed role=client reason="100% of it"\n'


def test_debugging_lines_are_shown_if_wanted() -> None:
    stream = io.StringIO()
    make_logger(to_stderr=True, debug=True, stream=stream).debug("details", x=1)
    assert stream.getvalue().endswith(" debug   details x=1\n")


def test_a_terminal_is_logged_to() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    make_logger(to_stderr=False, debug=False, stream=stream, syslog=Path("/nonexistent")).info("hello")
    assert stream.getvalue().endswith(" info    hello\n")


def test_stderr_is_logged_to_where_no_syslog_listens(tmp_path: Path) -> None:
    stream = io.StringIO()
    make_logger(to_stderr=False, debug=False, stream=stream, syslog=tmp_path / "absent").info("hello")
    assert stream.getvalue().endswith(" info    hello\n")


def test_syslog_gets_the_line_with_its_priority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        stream = io.StringIO()
        log = make_logger(to_stderr=False, debug=True, stream=stream, syslog=path)
        log.debug("a")
        log.info("b", reason="50% off")
        log.warning("c")
        log.error("d")
        received = [syslog.recv(1000) for _ in range(4)]
    # Syslog is gone now: a line goes to stderr, without a traceback.
    log.info("e")
    log._logger.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    assert capsys.readouterr().err == "e\n"
    assert received == [
        b"<31>ktls-agent: a\0",
        b'<30>ktls-agent: b reason="50% off"\0',
        b"<28>ktls-agent: c\0",
        b"<27>ktls-agent: d\0",
    ]
    assert stream.getvalue() == ""
