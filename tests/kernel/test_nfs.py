"""NFS over TLS works, between the kernel's own client and server."""

import re

import pytest

from tests.kernel.machine import Scenario, is_tlshd
from tests.kernel.recordings import test_every_request_comes_out_of_its_recording

__all__ = ["test_every_request_comes_out_of_its_recording"]  # one more test

SCENARIO = "nfs"
KERNELS = ("uml", "7")  # (User Mode Linux has no keys of the type asymmetric)
pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("what", ["mount", "write", "server has it", "read back", "tls_stat", "umount"])
@pytest.mark.parametrize("connections", [1, 8])
@pytest.mark.parametrize("security", ["tls", "mtls"])
@pytest.mark.parametrize("version", ["4.2", "3"])
def test_nfs_over_tls(scenario: Scenario, version: str, security: str, connections: int, what: str) -> None:
    scenario.passed(f"{version} {security} {connections} {what}")


@pytest.mark.parametrize("connections", [1, 8])
@pytest.mark.parametrize("security", ["tls", "mtls"])
@pytest.mark.parametrize("version", ["4.2", "3"])
def test_the_mount_has_the_security_asked_for(
    scenario: Scenario, version: str, security: str, connections: int
) -> None:
    scenario.passed(f"{version} {security} {connections} is {security}")


def test_a_server_is_known_by_its_address(scenario: Scenario) -> None:
    scenario.passed("by address")


@pytest.mark.parametrize("role", ["client", "server"])
def test_finished_handshakes_leave_nothing_open(scenario: Scenario, role: str) -> None:
    scenario.passed(f"{role} agent leaves nothing open")


def test_the_consumer_is_told_the_key_of_the_peers_certificate(
    scenario: Scenario, request: pytest.FixtureRequest
) -> None:
    if is_tlshd("server"):
        pytest.skip("tlshd does not log what it reports")
    told = re.search(r"remote_auth=(\d+)", scenario.step("4.2 mtls 1 mount").log_of("server"))
    assert told is not None
    on_uml = request.node.callspec.params["scenario"] == "uml"
    assert (told[1] == str(0xFFFFFFFF)) is on_uml
