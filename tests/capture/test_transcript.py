"""The transcript's file format."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.capture.transcript import (
    MAX_STEPS,
    MAX_TRANSCRIPT_BYTES,
    TranscriptError,
    decode_transcript_untrusted,
    encode_transcript,
)
from ktls_agent.sansio.steps import Drew, Exported, SecretLogged, Sent
from tests.capture.recorded import KEY, PLAYS, transcript
from tests.pki import NOW


@pytest.mark.parametrize("kind", PLAYS)
@pytest.mark.parametrize("secrets", [True, False])
def test_what_is_written_is_read_again(kind: str, secrets: bool) -> None:
    made = transcript(kind, secrets=secrets)
    assert decode_transcript_untrusted(encode_transcript(made)) == made


def test_is_json_lines_with_a_header() -> None:
    header, first, *_ = map(json.loads, encode_transcript(transcript("client")).splitlines())
    assert header == {"transcript": 1, "agent": "0.1.0", "recorded": NOW.isoformat(), "secrets": True}
    assert list(first) == ["at", "step", "outgoing", "data"]
    assert first["step"] == "Datagram"
    assert bytes.fromhex(first["data"]) == transcript("client").steps[0].step.data  # type: ignore[union-attr]


def lines_of(kind: str = "client") -> list[dict[str, Any]]:
    return [json.loads(line) for line in encode_transcript(transcript(kind)).splitlines()]


def joined(lines: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, lines)).encode()


def changed(number: int, **members: Any) -> bytes:
    lines = lines_of()
    lines[number] |= members
    return joined(lines)


STARTED = next(number for number, line in enumerate(lines_of()) if line.get("step") == "Started")
DREW = next(number for number, line in enumerate(lines_of()) if line.get("step") == "Drew")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Line 1 is not part of a transcript: JSONDecodeError"),
        (b"\xff", "Line 1 is not part of a transcript: UnicodeDecodeError"),
        (b"[]", "Line 1 is not part of a transcript: it is not a JSON object."),
        (b"{}", "It is no ktls-agent transcript of version 1: its first line gives None as the version."),
        (changed(0, transcript=2), "gives 2 as the version."),
        (changed(0, transcript=True), "gives True as the version."),
        (changed(0, more=1), "Line 1"),
        (changed(0, secrets=0), "Line 1 is not part of a transcript: expected bool, not 0."),
        (
            changed(0, recorded="2026-11-24T00:00:00"),
            "Line 1 is not part of a transcript: expected a time with",
        ),
        (changed(0, recorded=5), "expected a time with its zone, not 5."),
        (b"[" * 100_000, "Line 1 is nested too deeply."),
        (changed(1, at=None), "Line 2 is not part of a transcript: expected a number, not None."),
        (changed(1, at=True), "expected a number, not True."),
        (changed(1, at=float("nan")), "expected a number, not nan."),
        (changed(1, step="Nonsense"), "Line 2 is not part of a transcript: KeyError 'Nonsense'."),
        (changed(1, more=1), "Line 2"),
        (changed(1, data=5), "expected hexadecimal, not 5."),
        (changed(1, data="0g"), "Line 2 is not part of a transcript: ValueError"),
        (changed(DREW, size="1"), "expected int, not '1'."),
        (changed(DREW, size=True), "expected int, not True."),
        (changed(STARTED, request={"kind": "ClientAnon"}), f"Line {STARTED + 1}"),
        (changed(STARTED, request={"kind": "Nobody", "sockfd": 3}), "KeyError 'Nobody'"),
        (joined([lines_of()[0], *lines_of()[1:2] * (MAX_STEPS + 1)]), f"It has {MAX_STEPS + 2} lines"),
        (b" " * (MAX_TRANSCRIPT_BYTES + 1), f"It has {MAX_TRANSCRIPT_BYTES + 1} bytes"),
    ],
)
def test_says_which_line_is_wrong(data: bytes, said: str) -> None:
    with pytest.raises(TranscriptError) as caught:
        decode_transcript_untrusted(data)
    assert said in str(caught.value)


def test_times_are_microseconds() -> None:
    assert decode_transcript_untrusted(changed(1, at=0.12345678)).steps[0].at == 0.123457


@given(st.data())
def test_only_its_own_error_escapes(data: st.DataObject) -> None:
    good = encode_transcript(transcript(data.draw(st.sampled_from(list(PLAYS)))))
    start, end = sorted(data.draw(st.tuples(*(st.integers(0, len(good)),) * 2)))
    try:
        decoded = decode_transcript_untrusted(good[:start] + data.draw(st.binary(max_size=8)) + good[end:])
    except TranscriptError:
        return
    assert decode_transcript_untrusted(encode_transcript(decoded)) == decoded


# Secrets


def test_a_transcript_with_secrets_has_what_a_key_log_has() -> None:
    labels = [step.label for step in transcript("server").of_type(SecretLogged)]
    assert labels == [
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
    ]


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("client", False),
        ("server", False),
        ("host", False),
        ("target", False),
        ("keys of the request", False),
        # A client whose certificate is refused has finished: it may have sent data by then.
        ("server refuses", False),
        ("client refuses", True),
        ("cancelled", True),
    ],
)
def test_randomness_is_kept_where_no_application_data_can_be_read_with_it(kind: str, kept: bool) -> None:
    draws = transcript(kind, secrets=False).of_type(Drew)
    assert draws
    assert [draw.data is not None for draw in draws] == [kept] * len(draws)


def secrets_of(kind: str) -> list[bytes]:
    """Every secret of a request but the ephemeral key."""
    made = transcript(kind)
    keys = [key for step in made.of_type(Exported) for key in (step.tx, step.rx) if key is not None]
    return [*keys, *(step.secret for step in made.of_type(SecretLogged)), KEY.secret]


def ephemeral_keys_of(kind: str) -> list[bytes]:
    """The randomness that did not go out as it is."""
    made = transcript(kind)
    said = b"".join(step.data for step in made.of_type(Sent))
    return [draw.data for draw in made.of_type(Drew) if draw.data is not None and draw.data not in said]


@pytest.mark.parametrize("kind", PLAYS)
def test_without_secrets_no_key_is_in_the_file(kind: str) -> None:
    written = encode_transcript(transcript(kind, secrets=False)).decode()
    assert not [secret for secret in secrets_of(kind) if secret.hex() in written]
    kept = [secret for secret in ephemeral_keys_of(kind) if secret.hex() in written]
    assert bool(kept) is (kind in {"client refuses", "client finds the server revoked", "cancelled"})


def test_no_secret_is_in_what_a_step_says_of_itself() -> None:
    for kind in PLAYS:
        shown = "".join(map(repr, transcript(kind).steps))
        for step in transcript(kind).of_type(SecretLogged):
            assert repr(step.secret) not in shown
        assert repr(KEY.secret) not in shown


# Bounds


def test_the_longest_transcript_is_read() -> None:
    full = replace(transcript("client"), steps=transcript("client").steps[:1] * MAX_STEPS)
    assert decode_transcript_untrusted(encode_transcript(full)) == full
