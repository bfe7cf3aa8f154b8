"""Whom the agent accepts and whom it refuses; and that the refusing agent's log says why."""

import re
from dataclasses import dataclass

import pytest

from tests.kernel.machine import Role, Scenario, is_tlshd
from tests.kernel.recordings import test_every_request_comes_out_of_its_recording

__all__ = ["test_every_request_comes_out_of_its_recording"]  # one more test

SCENARIO = "certificates"
pytestmark = pytest.mark.kernel


@dataclass(frozen=True, slots=True)
class Refusal:
    """A mount that must fail; the role whose agent has the reason to refuse it, and what its log must say."""

    step: str
    role: Role
    reason: str
    tlshd_accepts: bool = False

    def __str__(self) -> str:
        return self.step


REFUSALS = [
    Refusal("another host's name", "client", r"\balias\.test\b"),
    Refusal("server-expired", "client", r"expired"),
    Refusal("server-future", "client", r"not (yet )?valid"),
    Refusal("server-name", "client", r"\bother\.test\b"),
    Refusal("server-otherca", "client", r"not in the trust store|unknown|not trusted"),
    Refusal("server-eku-client", "client", r"(?i)extended key usage", tlshd_accepts=True),
    Refusal("server-eku-code", "client", r"(?i)extended key usage", tlshd_accepts=True),
    Refusal("client-expired", "server", r"expired"),
    Refusal("client-otherca", "server", r"not in the trust store|unknown|not trusted"),
    Refusal("client-eku-code", "server", r"(?i)extended key usage", tlshd_accepts=True),
    Refusal("no client certificate", "client", "client has no certificate"),
    # The agent only reports that there was none: it is nfsd that then refuses.
    Refusal("xprtsec=tls on an mtls export", "server", "presented no certificate"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_refuses(scenario: Scenario, refusal: Refusal) -> None:
    step = scenario.step(refusal.step)
    if refusal.tlshd_accepts and is_tlshd(refusal.role) and not step.ok:
        pytest.xfail("tlshd does not look at extended key usages")
    scenario.passed(refusal.step)


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_the_log_names_the_reason(scenario: Scenario, refusal: Refusal) -> None:
    if is_tlshd(refusal.role):
        pytest.skip("what tlshd logs is not ours to specify")
    step = scenario.step(refusal.step)
    assert re.search(refusal.reason, step.log_of(refusal.role)), (
        f"the {refusal.role} agent's log should match /{refusal.reason}/\n{step}"
    )


def test_nfsd_refuses_a_mount_without_tls(scenario: Scenario) -> None:
    scenario.passed("no TLS on a TLS export")


@pytest.mark.parametrize("certificate", ["server-rsa", "server-rpc", "client-rsa", "client-rpc"])
def test_accepts(scenario: Scenario, certificate: str) -> None:
    scenario.passed(certificate)


def test_accepts_the_right_certificates_after_all_that(scenario: Scenario) -> None:
    scenario.passed("the right ones again")
