"""The agent under test serves a tlshd client, and the reverse, in two network name spaces."""

import pytest

from tests.kernel.machine import Scenario
from tests.kernel.recordings import test_every_request_comes_out_of_its_recording

__all__ = ["test_every_request_comes_out_of_its_recording"]  # one more test

SCENARIO = "interop"
pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("what", ["mount", "write", "server has it", "read back", "tls_stat", "umount"])
@pytest.mark.parametrize("kind", ["tls", "mtls", "NFS 3"])
@pytest.mark.parametrize("tested", ["client", "server"])
def test_works_with_tlshd_on_the_other_side(scenario: Scenario, tested: str, kind: str, what: str) -> None:
    scenario.passed(f"tested {tested} {kind} {what}")
