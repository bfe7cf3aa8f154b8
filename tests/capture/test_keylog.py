"""Key logs: what is taken from them, and what is passed over."""

from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.capture.keylog import (
    CLIENT_HANDSHAKE,
    LABELS,
    MAX_KEYLOG_BYTES,
    KeyLog,
    merge_keylogs,
    parse_keylog_untrusted,
)

RANDOM = bytes(range(32))


def line(label: str = CLIENT_HANDSHAKE, random: bytes = RANDOM, secret: bytes = b"s" * 32) -> bytes:
    return f"{label} {random.hex()} {secret.hex()}\n".encode()


def test_every_secret_that_opens_messages_is_taken() -> None:
    log = parse_keylog_untrusted(b"".join(line(label, secret=label.encode()) for label in LABELS))
    assert {label: log.secret(RANDOM, label) for label in LABELS} == {
        label: label.encode() for label in LABELS
    }
    assert log.secret(bytes(32), CLIENT_HANDSHAKE) is None
    assert log.unreadable == 0


def test_comments_empty_lines_and_other_secrets_are_passed_over() -> None:
    text = b"# a comment\n\n" + line("EXPORTER_SECRET") + b"  \r\n" + line()
    log = parse_keylog_untrusted(text)
    assert list(log.secrets) == [(RANDOM, CLIENT_HANDSHAKE)]
    assert log.unreadable == 0


def test_what_is_no_part_of_a_key_log_is_counted() -> None:
    wrong = [
        b"RSA Session-ID:00 Master-Key:00\n",
        line(random=b"short"),
        line(secret=b"") + b"\n",
        b"\xff" + line(),
        line()[:-1] + b"0\n",
        line()[:40],
    ]
    log = parse_keylog_untrusted(b"".join(wrong[:5]) + wrong[5])
    assert (log.secrets, log.unreadable) == ({}, 6)


def test_the_last_of_several_counts() -> None:
    assert (
        parse_keylog_untrusted(line() + line(secret=b"t" * 32)).secret(RANDOM, CLIENT_HANDSHAKE) == b"t" * 32
    )


def test_a_log_is_cut_at_its_bound() -> None:
    assert parse_keylog_untrusted(b"#" * MAX_KEYLOG_BYTES + b"\n" + line()).secrets == {}


def test_logs_are_put_together() -> None:
    first, second = (
        parse_keylog_untrusted(line() + b"?\n"),
        parse_keylog_untrusted(line(random=bytes(32)) + b"?\n"),
    )
    merged = merge_keylogs([first, second])
    assert merged == KeyLog(secrets=first.secrets | second.secrets, unreadable=2)


def test_secrets_are_not_shown() -> None:
    assert "s" * 32 not in repr(parse_keylog_untrusted(line()))
    assert (b"s" * 32).hex() not in repr(parse_keylog_untrusted(line()))


@given(st.binary(max_size=300))
def test_any_bytes_are_read(text: bytes) -> None:
    assert parse_keylog_untrusted(text).secrets == {}
