"""What `ktls-agent check` says about which facts."""

import datetime as dt
import errno
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.findings import (
    CAP_NET_ADMIN,
    Finding,
    Level,
    Listener,
    MachineFacts,
    days_left,
    exit_code,
    fingerprint,
    group_of,
    has_capability,
    is_initial_namespace,
    judge_credentials,
    judge_machine,
    mode_finding,
    sockets_in_group,
    trial_secrets,
)
from ktls_agent.sansio.ktls import LAYOUTS, TLS_TX, KtlsCipher, pack_crypto_info
from ktls_agent.sansio.netlink.events import FamilyResolved, KernelError
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.testing.simulated_kernel import FAMILY
from tests.io_trio.house import authority, full_credentials, server_certificate, trust
from tests.pki import NOW, Authority, Issued

AGENT = Listener(inode="7", process="ktls-agent (7)")
GOOD = MachineFacts(
    release="7.0",
    family=FAMILY,
    listeners=(AGENT,),
    net_admin=True,
    initial_namespace=True,
    refusals=dict.fromkeys(LAYOUTS),
    keyrings=frozenset({".nfs"}),
)


def refused(error: int, text: str = "") -> KernelError:
    return KernelError(sequence=1, command="resolve", error=error, text=text)


def test_a_machine_where_all_is_well() -> None:
    findings = judge_machine(GOOD)
    assert {finding.level for finding in findings} == {Level.OK}
    assert exit_code(findings) == 0
    assert [finding.subject for finding in findings] == [
        "kernel",
        "agent",
        "privileges",
        "kernel TLS",
        "keyrings",
    ]


@pytest.mark.parametrize(
    ("facts", "level", "subject", "text"),
    [
        ({"family": refused(errno.ENOENT)}, Level.ERROR, "kernel", "Linux 7.0 has no handshake service"),
        ({"family": refused(errno.EPERM)}, Level.ERROR, "kernel", "can't be looked up: EPERM."),
        ({"family": refused(5000, "odd")}, Level.ERROR, "kernel", "can't be looked up: odd."),
        ({"listeners": None}, Level.WARNING, "agent", "can't be seen"),
        ({"listeners": ()}, Level.WARNING, "agent", "No agent listens"),
        (
            {"listeners": (AGENT, Listener(inode="8"))},
            Level.WARNING,
            "agent",
            "a process that can't be seen, ktls-agent (7)",
        ),
        ({"net_admin": False}, Level.WARNING, "privileges", "lacks CAP_NET_ADMIN"),
        ({"initial_namespace": False}, Level.ERROR, "privileges", "user namespace of its own"),
        ({"refusals": dict.fromkeys(LAYOUTS, "No ULP.")}, Level.ERROR, "kernel TLS", "No ULP."),
        ({"refusals": {}}, Level.ERROR, "kernel TLS", "No cipher could be tried."),
        (
            {"refusals": {KtlsCipher.AES_GCM_256: None, KtlsCipher.CHACHA20_POLY1305: "No ChaCha."}},
            Level.WARNING,
            "kernel TLS",
            "No ChaCha.",
        ),
        ({"keyrings": None}, Level.WARNING, "keyrings", "has no keyrings"),
        ({"keyrings": frozenset({".nfs"})}, Level.WARNING, "keyrings", "'mine' does not exist"),
    ],
)
def test_a_machine_where_something_is_wrong(
    facts: dict[str, Any], level: Level, subject: str, text: str
) -> None:
    findings = judge_machine(
        replace(GOOD, **facts), ["mine", ".nfs"] if facts == {"keyrings": frozenset({".nfs"})} else []
    )
    (bad,) = [finding for finding in findings if finding.level is not Level.OK]
    assert (bad.level, bad.subject) == (level, subject)
    assert text in bad.text
    assert bad.advice.endswith(".")
    assert exit_code(findings) == {Level.WARNING: 1, Level.ERROR: 2}[level]


def test_two_sockets_of_one_agent_are_one() -> None:
    listeners = (AGENT, replace(AGENT, inode="8"))
    assert exit_code(judge_machine(replace(GOOD, listeners=listeners))) == 0


def test_without_privilege_the_module_may_only_not_be_loaded() -> None:
    facts = replace(GOOD, net_admin=False, refusals=dict.fromkeys(LAYOUTS, "No ULP."))
    assert "run the check as root" in judge_machine(facts)[3].advice


def test_the_group_is_the_familys() -> None:
    assert group_of(FAMILY) in FAMILY.groups.values()
    assert group_of(refused(errno.ENOENT)) is None


# What /proc says


@pytest.mark.parametrize(
    ("status", "has"),
    [
        ("CapPrm:\t0\nCapEff:\t0000000000001000\nCapBnd:\t0\n", True),
        ("CapEff:\t000001ffffffffff\n", True),
        ("CapEff:\t0000000000000fff\nCapBnd:\t1000\n", False),
        ("CapEff:\tzz\n", False),
        ("", False),
    ],
)
def test_reads_capabilities(status: str, has: bool) -> None:
    assert has_capability(status, CAP_NET_ADMIN) is has


@pytest.mark.parametrize(
    ("uid_map", "initial"), [("         0          0 4294967295\n", True), ("0 1000 1\n", False), ("", False)]
)
def test_reads_the_user_namespace(uid_map: str, initial: bool) -> None:
    assert is_initial_namespace(uid_map) is initial


TABLE = """\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 16  4242       00000010 0        0        0     2        0        101
0000000000000000 16  4243       00000008 0        0        0     2        0        102
0000000000000000 0   4244       00000010 0        0        0     2        0        103
0000000000000000 16  4245       zz       0        0        0     2        0        104
0000000000000000 16  4246       00000030 0        0        0     2        0        105
short
"""


def test_finds_the_sockets_of_a_group() -> None:
    assert sockets_in_group(TABLE, 5) == ("101", "105")
    assert sockets_in_group(TABLE, 4) == ("102",)
    assert sockets_in_group(TABLE, 32) == ()
    assert sockets_in_group(TABLE, 33) is None
    assert sockets_in_group(TABLE, 0) is None
    assert sockets_in_group("", 5) == ()


@given(st.text(), st.integers(1, 32))
def test_reads_any_table(table: str, group: int) -> None:
    assert sockets_in_group("head\n" + table, group) is not None


@pytest.mark.parametrize("cipher", LAYOUTS)
def test_keys_to_try_a_cipher_with_fit_it(cipher: KtlsCipher) -> None:
    assert len(pack_crypto_info(trial_secrets(cipher), TLS_TX)) == LAYOUTS[cipher].size


# Certificates


def findings_of(issued: Issued, role: str = "server", now: dt.datetime = NOW) -> list[Finding]:
    own = RoleCredentials(trust=trust(), identity=issued.identity())
    other = RoleCredentials(trust=trust())
    client, server = (own, other) if role == "client" else (other, own)
    credentials = Credentials(client=client, server=server)
    return [item for item in judge_credentials(credentials, now) if item.subject == f"{role}'s certificate"]


def only_bad(findings: list[Finding]) -> Finding:
    (bad,) = [finding for finding in findings if finding.level is not Level.OK]
    return bad


def test_good_certificates_are_well() -> None:
    findings = judge_credentials(full_credentials(), NOW)
    assert exit_code(findings) == 0
    texts = [finding.text for finding in findings if finding.subject == "server's certificate"]
    assert texts[0] == "CN=server.test, issued by CN=Test Root; its key fits; names: DNS:server.test."
    assert "expires on" in texts[1]
    assert texts[2] == "Its chain is complete, and good for this role by our own trust store."


def test_without_certificates_it_is_told_what_does_not_work() -> None:
    nothing = Credentials(client=RoleCredentials(trust=trust()), server=RoleCredentials(trust=trust()))
    findings = judge_credentials(nothing, NOW)
    assert exit_code(findings) == 0
    assert "mtls don't" in findings[1].text
    assert "can't serve" in findings[3].text


def test_a_missing_trust_store_is_a_warning_for_each_use() -> None:
    own = RoleCredentials(identity=server_certificate().identity())
    findings = judge_credentials(Credentials(server=own, warnings=("It is odd.",)), NOW)
    assert [(item.level, item.subject) for item in findings if item.level is not Level.OK] == [
        (Level.WARNING, "configuration"),
        (Level.WARNING, "client's trust store"),
        (Level.WARNING, "server's trust store"),
        (Level.WARNING, "server's certificate"),
    ]


@pytest.mark.parametrize(("days", "level"), [(30, Level.OK), (29, Level.WARNING), (0, Level.WARNING)])
def test_a_certificate_that_ends_soon_is_a_warning(days: int, level: Level) -> None:
    now = server_certificate().certificate.not_valid_after_utc - dt.timedelta(days=days, hours=1)
    found = findings_of(server_certificate(), now=now)[1]
    assert found.level is level
    assert found.text.endswith(f"in {days} days.")


def test_an_expired_certificate_is_an_error() -> None:
    end = server_certificate().certificate.not_valid_after_utc
    assert days_left(server_certificate().certificate, end + dt.timedelta(seconds=1)) == -1
    described, expired, refused_ = findings_of(server_certificate(), now=end + dt.timedelta(seconds=1))
    assert described.level is Level.OK
    assert expired.level is refused_.level is Level.ERROR
    assert "expired on" in expired.text
    assert "expired on" in refused_.text


def test_an_unknown_authority_is_a_warning_since_peers_may_know_it() -> None:
    bad = only_bad(findings_of(Authority("Stranger").issue(("server.test",))))
    assert bad.level is Level.WARNING
    assert "intermediate" in bad.advice
    assert "[authenticate.server]" in bad.advice


def test_a_missing_intermediate_is_found() -> None:
    below = authority().subordinate().issue(("server.test",))
    assert exit_code(findings_of(below)) == 0
    assert "intermediate" in only_bad(findings_of(replace(below, chain=below.chain[:1]))).advice


@pytest.mark.parametrize(
    ("role", "wrong"),
    [("server", ExtendedKeyUsageOID.CLIENT_AUTH), ("client", ExtendedKeyUsageOID.SERVER_AUTH)],
)
def test_a_wrong_purpose_is_an_error(role: str, wrong: x509.ObjectIdentifier) -> None:
    issued = authority().issue(("server.test",), extensions=[(x509.ExtendedKeyUsage([wrong]), False)])
    bad = only_bad(findings_of(issued, role))
    assert bad.level is Level.ERROR
    assert "By our own trust store a peer refuses it. " in bad.text


@pytest.mark.parametrize("names", [("*.server.test",), ("a.test", "b.test")])
def test_a_name_of_any_kind_is_its_own(names: tuple[str, ...]) -> None:
    assert exit_code(findings_of(authority().issue(names))) == 0


def test_an_address_is_a_name() -> None:
    assert exit_code(findings_of(authority().issue((), ips=("192.0.2.1",)))) == 0


def test_a_fingerprint_is_written_as_openssl_does() -> None:
    shown = fingerprint(server_certificate().certificate)
    assert len(shown) == 95
    assert shown == shown.upper()
    assert shown.count(":") == 31


@pytest.mark.parametrize(("mode", "bad"), [(0o644, False), (0o600, False), (0o664, True), (0o646, True)])
def test_files_that_others_may_change_are_errors(mode: int, bad: bool) -> None:
    found = mode_finding("/etc/x", mode)
    assert (found is not None) is bad
    if found is not None:
        assert found.level is Level.ERROR
        assert f"{mode:04o}" in found.text


def test_the_family_of_the_simulated_kernel_is_one() -> None:
    assert isinstance(FAMILY, FamilyResolved)
