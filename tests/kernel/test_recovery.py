"""Agents that are absent, are killed or hang, and peers that give up in mid-handshake."""

import re

import pytest

from tests.kernel.machine import Role, Scenario, is_tlshd
from tests.kernel.recordings import test_every_request_comes_out_of_its_recording

__all__ = ["test_every_request_comes_out_of_its_recording"]  # one more test

SCENARIO = "recovery"
pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("role", ["client", "server"])
def test_the_next_mount_works_after_an_agent_was_killed_in_mid_handshake(
    scenario: Scenario, role: str
) -> None:
    scenario.passed(f"{role} agent in a handshake")
    scenario.passed(f"{role} agent killed")
    scenario.passed(f"mount after the {role} agent's death")


@pytest.mark.parametrize(
    ("role", "peer"),
    [("client", "server"), ("late client", "server"), ("server", "client"), ("late server", "client")],
)
def test_a_peer_that_falls_silent_leaves_nothing_open(scenario: Scenario, role: str, peer: str) -> None:
    scenario.passed(f"{role}: {peer} is silent")
    scenario.passed(f"{role}: over")


def test_a_client_that_hangs_up_in_its_hello_leaves_nothing_open(scenario: Scenario) -> None:
    scenario.passed("server: client hangs up")


@pytest.mark.parametrize(
    ("step", "role", "reason"),
    [
        # The agent's own deadline comes before the kernel's, unless the agent had the request late.
        ("client: over", "client", r"timed.out"),
        ("server: over", "server", r"timed.out"),
        ("late client: over", "client", r"(?i)cancel|gave up"),
        ("late server: over", "server", r"(?i)cancel|gave up"),
        ("server: client hangs up", "server", r"(?i)cancel|gave up|closed"),
    ],
)
def test_the_log_says_why_the_handshake_ended(scenario: Scenario, step: str, role: Role, reason: str) -> None:
    if is_tlshd(role):
        pytest.skip("what tlshd logs is not ours to specify")
    found = scenario.step(step)
    assert re.search(reason, found.log_of(role)), f"the {role} agent's log should match /{reason}/\n{found}"


def test_the_next_mount_works_after_cancelled_handshakes(scenario: Scenario) -> None:
    scenario.passed("mount after the cancelled handshakes")


def test_a_mount_fails_at_once_without_a_client_agent(scenario: Scenario) -> None:
    scenario.passed("no client agent")
    scenario.passed("client agent back")


def test_nothing_is_mounted_without_a_server_agent(scenario: Scenario) -> None:
    scenario.passed("no server agent")
    scenario.passed("server agent back")
