"""What was recorded once still comes out of today's core: see tests/captures/README.md."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.cli.foreign import describe_foreign
from ktls_agent.sansio.capture.differences import describe_replay
from ktls_agent.sansio.capture.pcapng import encode_pcapng
from ktls_agent.sansio.capture.replay import Cut, byte_by_byte, cut_at, replay, whole
from ktls_agent.sansio.capture.transcript import (
    Transcript,
    decode_transcript_untrusted,
    encode_transcript,
)
from tests.captures.make import KERNEL, LIVE

FOLDER = Path(__file__).parents[1] / "captures"
CAPTURES = {
    path.stem: decode_transcript_untrusted(path.read_bytes()) for path in sorted(FOLDER.glob("*.transcript"))
}


def check(transcript: Transcript, cut: Cut | None) -> None:
    result = replay(transcript, cut=cut)
    assert result.identical, "\n".join(describe_replay(transcript, result))
    assert result.engine_ran


@pytest.mark.parametrize("cut", [None, whole, byte_by_byte], ids=["as recorded", "whole", "byte by byte"])
@pytest.mark.parametrize("name", CAPTURES)
def test_comes_out_as_it_was_recorded(name: str, cut: Cut | None) -> None:
    check(CAPTURES[name], cut)


@settings(max_examples=40)
@given(name=st.sampled_from(list(CAPTURES)), places=st.lists(st.integers(1, 3000), max_size=12))
def test_comes_out_as_it_was_recorded_however_it_is_cut(name: str, places: list[int]) -> None:
    check(CAPTURES[name], cut_at(*places))


def test_is_written_as_it_was_read() -> None:
    for path in FOLDER.glob("*.transcript"):
        assert encode_transcript(CAPTURES[path.stem]) == path.read_bytes(), path.name


def test_its_pcapng_is_made_as_it_was() -> None:
    for path in FOLDER.glob("*.transcript"):
        assert encode_pcapng(CAPTURES[path.stem]) == path.with_suffix(".pcapng").read_bytes(), path.name


@pytest.mark.parametrize("name", [name for name in CAPTURES if "while" not in name])
def test_its_pcapng_checks_out_as_a_foreign_capture_does(name: str) -> None:
    """What was sent, decrypted with the secrets in the file, is right in the eyes of who did not take part."""
    lines: list[str] = []
    path = FOLDER / f"{name}.pcapng"
    assert describe_foreign([path], [], write=lines.append, complain=lines.append) == 0, "\n".join(lines)


def test_there_is_one_of_everything_that_can_be_recorded() -> None:
    assert {*KERNEL, *LIVE} <= CAPTURES.keys()
