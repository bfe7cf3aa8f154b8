"""Running transcripts through the core again."""

from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.capture.differences import describe_replay
from ktls_agent.sansio.capture.replay import Cut, byte_by_byte, cut_at, replay, whole
from ktls_agent.sansio.capture.transcript import TimedStep, Transcript, encode_transcript
from ktls_agent.sansio.policy import HYBRID
from ktls_agent.sansio.status import Cause
from ktls_agent.sansio.steps import (
    Answered,
    Closed,
    Configured,
    Datagram,
    Drew,
    Encapsulated,
    Exported,
    Noted,
    PeerKeyMade,
    Plaintext,
    Received,
    Reported,
    RevocationChecked,
    Sent,
    Signed,
    Started,
    Step,
    Summarized,
)
from tests.capture.recorded import PLAYS, transcript

CUTS = {"as recorded": None, "whole": whole, "byte by byte": byte_by_byte, "cut": cut_at(1, 5, 100, 101, 500)}


@pytest.mark.parametrize("kind", PLAYS)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_everything_comes_out_as_it_was_recorded(kind: str, cut: Cut | None) -> None:
    result = replay(transcript(kind), cut=cut)
    assert result.identical
    assert result.engine_ran
    if cut is None:
        assert result.compared == len(transcript(kind).steps)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("client finds nothing revoked", None),
        ("client finds the server revoked", Cause.CERTIFICATE_REVOKED),
        ("server finds the client revoked", Cause.CERTIFICATE_REVOKED),
    ],
)
def test_what_the_revocation_lists_said_is_recorded_and_not_the_lists(kind: str, cause: Cause | None) -> None:
    (checked,) = transcript(kind).of_type(RevocationChecked)
    assert (None if checked.failure is None else checked.failure.cause) is cause
    without = [timed for timed in transcript(kind).steps if not isinstance(timed.step, RevocationChecked)]
    assert replay(replace(transcript(kind), steps=tuple(without))).identical is (cause is None)


def test_an_encapsulation_is_recorded_as_a_secret() -> None:
    (made,) = transcript("server with ML-KEM").of_type(Encapsulated)
    assert made.secret is not None
    kept = transcript("server with ML-KEM", secrets=False)
    (redacted,) = kept.of_type(Encapsulated)
    assert redacted == replace(made, secret=None)
    assert not replay(kept).engine_ran
    assert transcript("server without ML-KEM").of_type(Encapsulated) == []


def test_groups_are_recorded_where_they_are_not_the_classical_ones() -> None:
    (now,) = transcript("server with ML-KEM").of_type(Configured)
    assert (now.groups, now.key_shares) == (HYBRID.groups, HYBRID.key_shares)
    (then,) = transcript("server without ML-KEM").of_type(Configured)
    assert (then.groups, then.key_shares) == (None, None)
    written = encode_transcript(transcript("server without ML-KEM"))
    assert b"groups" not in written


@given(kind=st.sampled_from(list(PLAYS)), places=st.lists(st.integers(1, 2000), max_size=8))
def test_how_the_peers_bytes_are_cut_changes_nothing(kind: str, places: list[int]) -> None:
    assert replay(transcript(kind), cut=cut_at(*places)).identical


@pytest.mark.parametrize(
    ("kind", "computed"),
    [("client", False), ("target", False), ("client refuses", True), ("cancelled", True)],
)
def test_without_secrets_it_computes_what_it_can(kind: str, computed: bool) -> None:
    made = transcript(kind, secrets=False)
    result = replay(made)
    assert result.identical
    assert result.engine_ran is computed
    (line,) = describe_replay(made, result)
    assert line.startswith(f"identical in all {result.compared} steps, as recorded by version 0.1.0")
    assert line.endswith("secrets are left out") is not computed


@pytest.mark.parametrize(
    ("data", "places", "pieces"),
    [
        (b"abcd", (), [b"abcd"]),
        (b"abcd", (2,), [b"ab", b"cd"]),
        (b"abcd", (3, 1, 3), [b"a", b"bc", b"d"]),
        (b"abcd", (0, 4, 9), [b"abcd"]),
    ],
)
def test_cuts_inside(data: bytes, places: tuple[int, ...], pieces: list[bytes]) -> None:
    assert list(cut_at(*places)(data)) == pieces


# What differs is found


def with_step(made: Transcript, number: int, *steps: Step) -> Transcript:
    """Put steps in the place of one."""
    timed = [TimedStep(at=0.0, step=step) for step in steps]
    return replace(made, steps=(*made.steps[:number], *timed, *made.steps[number + 1 :]))


def first(made: Transcript, kind: type[Step]) -> tuple[int, Step]:
    return next((n, timed.step) for n, timed in enumerate(made.steps) if isinstance(timed.step, kind))


def flipped(step: Any) -> Step:
    """The same step with one bit of its bytes, or its number, changed."""
    for name in ("data", "secret", "signature", "tx"):
        value = getattr(step, name, None)
        if value:
            return cast("Step", replace(step, **{name: value[:-1] + bytes([value[-1] ^ 1])}))
    for name in ("status", "error", "serial"):
        if hasattr(step, name):
            return cast("Step", replace(step, **{name: (getattr(step, name) or 0) + 1}))
    raise AssertionError(step)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("client", Datagram),
        ("client", Drew),
        ("client", Sent),
        ("client", Received),
        ("client", Plaintext),
        ("client", Exported),
        ("client", PeerKeyMade),
        ("client", Reported),
        ("server", Signed),
        ("client", Answered),
    ],
)
def test_one_bit_makes_a_difference(kind: str, step: type[Step]) -> None:
    number, found = first(transcript(kind), step)
    changed = with_step(transcript(kind), number, flipped(found))
    result = replay(changed)
    assert not result.identical
    assert result.difference is not None
    assert result.compared == result.difference.number - 1 < len(changed.steps)


@pytest.mark.parametrize("kind", PLAYS)
def test_a_step_less_or_more_makes_a_difference(kind: str) -> None:
    made = transcript(kind)
    for number, timed in enumerate(made.steps):
        # The request is known from the datagram or from Started, and the summary is not the session's.
        # And whether the consumer hung up before the bytes were out is nobody's to know.
        unknown = (Started, Datagram, Summarized, *([Sent] if kind == "cancelled" else []))
        if not isinstance(timed.step, unknown):
            # (revocation lists that have nothing to say are as none)
            silent = timed.step == RevocationChecked(failure=None)
            assert replay(with_step(made, number)).identical is silent, timed.step
            assert not replay(with_step(made, number, timed.step, timed.step)).identical, timed.step


def test_a_note_of_the_callers_is_put_in_again() -> None:
    number, closed = first(transcript("client"), Closed)
    noted = with_step(transcript("client"), number, closed, Noted(text="The keyring 5 stays linked."))
    at, summary = first(noted, Summarized)
    assert isinstance(summary, Summarized)
    fields_ = {**summary.fields, "note": "The keyring 5 stays linked."}
    # (the fields are compared as a mapping, so that their order does not matter)
    assert replay(with_step(noted, at, Summarized(fields=fields_))).identical
    assert not replay(noted).identical


@given(st.data())
def test_a_transcript_that_anybody_wrote_is_no_traceback(data: st.DataObject) -> None:
    kinds = st.sampled_from(list(PLAYS))
    steps = [
        step
        for _ in range(2)
        for step in transcript(data.draw(kinds), secrets=data.draw(st.booleans())).steps
    ]
    drawn = data.draw(st.lists(st.sampled_from(steps), max_size=40))
    made = replace(transcript("client"), steps=tuple(drawn))
    result = replay(made, cut=data.draw(st.sampled_from(list(CUTS.values()))))
    assert describe_replay(made, result)


def test_an_empty_transcript_says_why_nothing_came_of_it() -> None:
    made = replace(transcript("client"), steps=(TimedStep(at=0.0, step=Closed()),))
    assert describe_replay(made, replay(made)) == [
        "differs at step 1:",
        "  recorded: Closed()",
        "  replayed: nothing more",
        "  then the core could not go on: ValueError: not enough values to unpack (expected 2, got 0)",
    ]


# What is said of a difference


def test_says_which_attribute_differs() -> None:
    number, _ = first(transcript("client refuses"), Reported)
    changed = with_step(transcript("client refuses"), number, Reported(status=5, remote_auth=()))
    assert describe_replay(changed, replay(changed)) == [
        f"differs at step {number + 1}:",
        "  Reported.status",
        "    recorded: 5",
        "    replayed: 13",
    ]


def test_says_which_byte_differs() -> None:
    number, found = first(transcript("client"), Sent)
    assert isinstance(found, Sent)
    data = found.data[:50] + bytes([found.data[50] ^ 0xFF]) + found.data[51:]
    changed = with_step(transcript("client"), number, Sent(data=data))
    assert describe_replay(changed, replay(changed)) == [
        f"differs at step {number + 1}:",
        "  Sent.data, byte 50",
        f"    recorded: ... {data[46:70].hex(' ')} ... ({len(data)} bytes)",
        f"    replayed: ... {found.data[46:70].hex(' ')} ... ({len(data)} bytes)",
    ]


def test_says_where_one_ends_before_the_other() -> None:
    number, found = first(transcript("client"), Sent)
    assert isinstance(found, Sent)
    changed = with_step(transcript("client"), number, Sent(data=found.data[:10]))
    shown = describe_replay(changed, replay(changed))
    assert shown[1] == "  Sent.data, byte 10"
    assert shown[2] == f"    recorded: ... {found.data[6:10].hex(' ')} (10 bytes)"
