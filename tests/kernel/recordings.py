"""A test for each scenario: what its agents recorded on the real kernel is run again here."""

import pytest

from ktls_agent.sansio.capture.differences import describe_replay
from ktls_agent.sansio.capture.replay import replay
from ktls_agent.sansio.capture.transcript import decode_transcript_untrusted
from tests.kernel.machine import Scenario, is_tlshd


def test_every_request_comes_out_of_its_recording(scenario: Scenario) -> None:
    if is_tlshd("client") and is_tlshd("server"):
        pytest.skip("tlshd records nothing")
    assert scenario.recordings, scenario.output
    for name, data in scenario.recordings.items():
        transcript = decode_transcript_untrusted(data)
        result = replay(transcript)
        assert result.identical, "\n".join([name, *describe_replay(transcript, result)])
        assert result.engine_ran
