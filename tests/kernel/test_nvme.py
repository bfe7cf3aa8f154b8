"""NVMe/TCP over TLS with pre-shared keys: host and target, with an agent each ("client" and "server")."""

import re
from dataclasses import dataclass

import pytest

from tests.kernel.machine import Role, Scenario, is_tlshd
from tests.kernel.recordings import test_every_request_comes_out_of_its_recording

__all__ = ["test_every_request_comes_out_of_its_recording"]  # one more test

SCENARIO = "nvme"
KERNELS = ("7", "6.12")  # (6.12 does not tell the agent which keyring is meant)
pytestmark = [pytest.mark.kernel, pytest.mark.nvme]

USE = ("write", "target has it", "read back", "tls_stat", "disconnect")


@pytest.mark.parametrize("what", ["connect", *USE])
@pytest.mark.parametrize("key", ["sha256", "sha384"])
def test_works_with_a_key(scenario: Scenario, key: str, what: str) -> None:
    scenario.passed(f"{key} {what}")


@pytest.mark.parametrize("what", ["connect", "noticed", "reconnect", *USE])
def test_connects_again_after_the_targets_reset(scenario: Scenario, what: str) -> None:
    scenario.passed(f"reset {what}")


def test_one_agent_serves_host_and_target(scenario: Scenario) -> None:
    scenario.passed("one agent connect")


@pytest.mark.parametrize("what", ["connect", "key", *USE])
def test_works_with_a_key_that_authentication_made(
    scenario: Scenario, request: pytest.FixtureRequest, what: str
) -> None:
    if request.node.callspec.params["scenario"] == "6.12":
        pytest.skip("Linux 6.12 has no secure concatenation; nvme-cli then connects in clear")
    scenario.passed(f"concat {what}")


@pytest.mark.parametrize("what", ["connect", *USE])
@pytest.mark.parametrize("key", ["sha256", "sha384"])
@pytest.mark.parametrize("tested", ["host", "target"])
def test_works_with_tlshd_on_the_other_side(
    scenario: Scenario, request: pytest.FixtureRequest, tested: str, key: str, what: str
) -> None:
    old_tlshd = request.node.callspec.params["scenario"] == "6.12"
    if old_tlshd and key == "sha384" and not scenario.step(f"tested {tested} {key} connect").ok:
        pytest.xfail(
            "tlshd 1.0 takes ChaCha20, a suite of SHA-256, for a SHA-384 key; as a host, tlshd 1.4 can not connect to it either"
        )
    scenario.passed(f"tested {tested} {key} {what}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A connection that must fail; the role whose agent has the reason to refuse it, and what its log must say."""

    step: str
    role: Role
    reason: str

    def __str__(self) -> str:
        return self.step


REFUSALS = [
    Refusal("wrong key", "server", r"(?i)binder"),
    Refusal(
        "key unknown to the target", "server", r"(?i)unknown.*identity|identity.*unknown|no .*key|not found"
    ),
    Refusal("key expired on the target", "server", r"(?i)expired"),
    Refusal("key expired on the host", "client", r"(?i)expired"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_refuses(scenario: Scenario, refusal: Refusal) -> None:
    scenario.passed(refusal.step)


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_the_log_names_the_reason(scenario: Scenario, refusal: Refusal) -> None:
    if is_tlshd(refusal.role):
        pytest.skip("what tlshd logs is not ours to specify")
    step = scenario.step(refusal.step)
    assert re.search(refusal.reason, step.log_of(refusal.role)), (
        f"the {refusal.role} agent's log should match /{refusal.reason}/\n{step}"
    )


@pytest.mark.parametrize("step", ["no key", "no TLS on a TLS port", "another host's NQN"])
def test_the_kernel_refuses(scenario: Scenario, step: str) -> None:
    scenario.passed(step)


@pytest.mark.parametrize("step", ["the host's own copy", "the right key again"])
def test_accepts_the_right_key_among_refusals(scenario: Scenario, step: str) -> None:
    scenario.passed(step)


@pytest.mark.parametrize("side", ["host", "target"])
def test_nothing_connects_without_an_agent(scenario: Scenario, side: str) -> None:
    scenario.passed(f"no {side} agent")
