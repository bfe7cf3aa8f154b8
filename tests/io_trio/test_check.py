"""The check, on this machine and on a simulated one."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.io_trio import check as check_module
from ktls_agent.io_trio.check import Surroundings, check_machine
from ktls_agent.io_trio.credentials import load_credentials
from ktls_agent.io_trio.ktls import KeysRefused
from ktls_agent.io_trio.simulation.machine import Machine
from ktls_agent.sansio.findings import Finding, Level, exit_code
from ktls_agent.sansio.netlink.spec import MulticastGroup
from ktls_agent.sansio.testing.simulated_kernel import FAMILY
from tests.io_trio.house import authority, client_certificate, server_certificate
from tests.pki import NOW

GROUP = FAMILY.groups[MulticastGroup.TLSHD]


class Takes:
    """A kernel that takes all keys, or none."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.refusal = refusal
        self.ciphers: list[str] = []

    def install(self, sock: Any, secrets: Any) -> None:
        self.ciphers.append(secrets.cipher.name)
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc in which an agent listens."""
    folder = tmp_path / "proc"
    for name in ("self", "net", "7/fd", "8/fd"):
        (folder / name).mkdir(parents=True)
    (folder / "self/status").write_text("CapEff:\t000001ffffffffff\n")
    (folder / "self/uid_map").write_text("0 0 4294967295\n")
    (folder / "net/netlink").write_text(
        f"sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode\n0 16 7 {1 << (GROUP - 1):08x} 0 0 0 2 0 4711\n"
    )
    (folder / "keys").write_text("00000001 I--Q--- 1 perm 1f030000 0 0 keyring .nfs: empty\n")
    (folder / "7/comm").write_text("ktls-agent\n")
    (folder / "7/fd/3").symlink_to("socket:[4711]")
    (folder / "7/fd/4").symlink_to("socket:[1]")
    (folder / "8/fd/3").write_text("no link")
    return folder


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_bytes(authority().pem())
    lines = []
    for role, issued in (("client", client_certificate()), ("server", server_certificate())):
        (tmp_path / f"{role}.pem").write_bytes(issued.certificate_pem())
        (tmp_path / f"{role}.key").write_bytes(issued.private_key_pem())
        (tmp_path / f"{role}.key").chmod(0o600)
        lines += [f"[authenticate.{role}]", f"x509.truststore={tmp_path}/ca.pem"]
        lines += [f"x509.certificate={tmp_path}/{role}.pem", f"x509.private_key={tmp_path}/{role}.key"]
    path = tmp_path / "tlshd.conf"
    path.write_text("\n".join(lines))
    return path


def surroundings(proc: Path, machine: Machine | None = None, **other: Any) -> Surroundings:
    opened = machine or Machine()
    fields = {"open_socket": opened.open_socket, "installer": Takes(), "proc": proc, "now": lambda: NOW}
    return Surroundings(**{**fields, **other})


def bad(findings: list[Finding]) -> list[tuple[Level, str]]:
    return [(finding.level, finding.subject) for finding in findings if finding.level is not Level.OK]


def test_a_machine_where_all_is_well(proc: Path, configuration: Path) -> None:
    machine, takes = Machine(), Takes()
    findings = check_machine(configuration, surroundings(proc, machine, installer=takes))
    assert bad(findings) == []
    assert exit_code(findings) == 0
    assert findings[1].text == "For handshake requests listens: ktls-agent (7)."
    assert takes.ciphers == ["AES_GCM_128", "AES_GCM_256", "AES_CCM_128", "CHACHA20_POLY1305"]
    assert machine.sockets == []


def test_what_is_wrong_is_found(proc: Path, configuration: Path) -> None:
    (proc / "self/status").unlink()
    (proc / "net/netlink").unlink()
    (proc / "keys").unlink()
    (configuration.parent / "ca.pem").chmod(0o666)
    (configuration.parent / "server.key").chmod(0o640)
    checked = surroundings(proc, installer=Takes(KeysRefused("No ULP.")))
    assert bad(check_machine(configuration, checked)) == [
        (Level.WARNING, "agent"),
        (Level.WARNING, "privileges"),
        (Level.ERROR, "kernel TLS"),
        (Level.WARNING, "keyrings"),
        (Level.ERROR, "configuration"),
    ]


def test_a_kernel_without_the_family(proc: Path) -> None:
    findings = check_machine(None, surroundings(proc, Machine(family_present=False)))
    assert findings[0].level is Level.ERROR
    assert "agent" not in {finding.subject for finding in findings}


def test_a_group_that_is_not_shown(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "group_of", lambda _: 40)
    assert (Level.WARNING, "agent") in bad(check_machine(None, surroundings(proc)))


def test_a_machine_without_netlink(proc: Path) -> None:
    def refuse() -> Any:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    findings = check_machine(None, surroundings(proc, open_socket=refuse))
    assert findings[0].text == "The handshake service can't be looked up: EPERM."


def test_a_machine_without_loopback(proc: Path) -> None:
    takes = Takes(OSError(errno.ENETDOWN, "Network is down"))
    findings = check_machine(None, surroundings(proc, installer=takes))
    assert (Level.ERROR, "kernel TLS") in bad(findings)
    assert any("loopback" in finding.text for finding in findings)


def test_a_configuration_that_can_not_be_used_does_not_end_the_check(proc: Path, tmp_path: Path) -> None:
    findings = check_machine(tmp_path / "absent", surroundings(proc))
    assert bad(findings) == [(Level.ERROR, "configuration")]
    assert "No such file" in findings[-1].text


def test_a_configured_keyring_that_is_missing(proc: Path, tmp_path: Path) -> None:
    path = tmp_path / "tlshd.conf"
    path.write_text("[authenticate]\nkeyrings=mine\n")
    checked = surroundings(proc)
    assert (Level.WARNING, "keyrings") in bad(check_machine(path, checked))


def test_a_file_that_went_away_is_not_looked_at(proc: Path, configuration: Path) -> None:
    def load(path: Path | None) -> Any:
        credentials = load_credentials(path)
        (configuration.parent / "ca.pem").unlink()
        return credentials

    assert bad(check_machine(configuration, surroundings(proc, load=load))) == []


def test_this_machine_can_be_checked(tmp_path: Path) -> None:
    path = tmp_path / "tlshd.conf"
    path.touch()
    subjects = {finding.subject for finding in check_machine(path)}
    assert {"kernel", "privileges", "kernel TLS", "keyrings", "configuration"} <= subjects
