"""What a probe asks and concludes, without I/O."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ktls_agent.sansio import probe as probe_module
from ktls_agent.sansio.ktls import KernelSecrets, TrafficKey
from ktls_agent.sansio.policy import Credentials, RoleCredentials
from ktls_agent.sansio.probe import (
    UNKNOWN_KEY,
    Behind,
    Mode,
    RecordingVerifier,
    Report,
    Target,
    TargetError,
    describe_certificate,
    look_behind_untrusted,
    make_psk,
    parse_target,
    probe_parameters,
    refusal_behind,
    refused_without_key,
    report_object,
)
from ktls_agent.sansio.status import Alert, Cause, failure
from ktls_agent.sansio.tls.diagnosis import ID_KP_RPC_TLS_SERVER, MAX_CHAIN_LENGTH
from ktls_agent.sansio.tls.parameters import (
    CertificateRejected,
    ClientParameters,
    ClientPskParameters,
    HandshakeCompleted,
)
from ktls_agent.sansio.tls.primitives import SUITES_BY_NAME, TAG_LENGTH, RecordKey
from tests.io_trio.house import authority, client_certificate, server_certificate, trust
from tests.pki import NOW

NFS = Target(host="server.test", port=2049, mode=Mode.NFS)
NVME = replace(NFS, mode=Mode.NVME)
TLS = replace(NFS, mode=Mode.TLS)


@pytest.mark.parametrize(
    ("text", "mode", "target"),
    [
        ("nfs.example", None, ("nfs.example", 2049, Mode.NFS)),
        ("nfs.example", Mode.TLS, ("nfs.example", 443, Mode.TLS)),
        ("nfs.example", Mode.NVME, ("nfs.example", 4420, Mode.NVME)),
        ("nfs.example:4420", None, ("nfs.example", 4420, Mode.NVME)),
        ("nfs.example:4420", Mode.TLS, ("nfs.example", 4420, Mode.TLS)),
        ("nfs.example:8443", None, ("nfs.example", 8443, Mode.TLS)),
        ("2001:db8::1", None, ("2001:db8::1", 2049, Mode.NFS)),
        ("[2001:db8::1]", None, ("2001:db8::1", 2049, Mode.NFS)),
        ("[2001:db8::1]:4420", None, ("2001:db8::1", 4420, Mode.NVME)),
    ],
)
def test_reads_what_is_to_be_probed(text: str, mode: Mode | None, target: tuple[str, int, Mode]) -> None:
    read = parse_target(text, mode)
    assert (read.host, read.port, read.mode) == target


@pytest.mark.parametrize("text", ["", ":2049", "a:", "a:0", "a:65536", "a:x", "a:-1", "a:²", "[]:1", "[a]:x"])
def test_what_is_no_target_is_refused(text: str) -> None:
    if text == "a:":
        with pytest.raises(TargetError, match="port ''"):
            parse_target(text, None)
    else:
        with pytest.raises(TargetError):
            parse_target(text, None)


# The handshake


def parameters(target: Target, credentials: Credentials, **more: Any) -> tuple[Any, RecordingVerifier]:
    return probe_parameters(target, credentials, more.get("psk"), address="192.0.2.1", now=NOW)


CREDENTIALS = Credentials(client=RoleCredentials(trust=trust(), identity=client_certificate().identity()))
CHAIN = server_certificate().chain


@pytest.mark.parametrize(("target", "alpn"), [(NFS, (b"sunrpc",)), (TLS, ())])
def test_the_handshake_is_the_agents(target: Target, alpn: tuple[bytes, ...]) -> None:
    chosen, verifier = parameters(target, CREDENTIALS)
    assert isinstance(chosen, ClientParameters)
    assert (chosen.server_name, chosen.alpn, chosen.identity) == (
        "server.test",
        alpn,
        CREDENTIALS.client.identity,
    )
    assert chosen.verifier is verifier
    assert verifier.verify_untrusted(CHAIN)[0].subject == "CN=server.test"
    assert verifier.chain == CHAIN


def test_no_keyring_is_asked() -> None:
    with pytest.raises(AssertionError, match="names no key"):
        probe_module._no_keyring(1)


def test_without_a_certificate_none_is_presented() -> None:
    chosen, _ = parameters(NFS, Credentials(client=RoleCredentials(trust=trust())))
    assert chosen.identity is None


def test_without_a_trust_store_the_chain_is_kept_and_refused() -> None:
    chosen, verifier = parameters(NFS, Credentials())
    assert chosen.verifier is verifier
    with pytest.raises(CertificateRejected) as caught:
        verifier.verify_untrusted(CHAIN)
    assert caught.value.failure.cause is Cause.NO_TRUST_ANCHORS
    assert verifier.chain == CHAIN


def test_of_an_endless_chain_a_part_is_kept() -> None:
    verifier = parameters(NFS, CREDENTIALS)[1]
    with pytest.raises(CertificateRejected):
        verifier.verify_untrusted(CHAIN * 100)
    assert len(verifier.chain) == MAX_CHAIN_LENGTH


def test_a_pre_shared_key_is_offered_where_there_is_one() -> None:
    key = make_psk("NVMe0R01 host sub", "00" * 32)
    for target, psk, offered in ((NVME, None, UNKNOWN_KEY), (NVME, key, key), (TLS, key, key)):
        chosen, verifier = parameters(target, CREDENTIALS, psk=psk)
        assert chosen == ClientPskParameters(keys=(offered,))
        assert verifier.chain == ()


def test_a_key_is_read_as_keyctl_prints_it() -> None:
    key = make_psk("NVMe0R02 host sub", f":hex:{'ab' * 48}\n")
    assert (key.identity, key.secret, key.hash_name, key.serial) == (
        b"NVMe0R02 host sub",
        b"\xab" * 48,
        "sha384",
        None,
    )


@pytest.mark.parametrize(
    ("identity", "text"), [("a", "xyz"), ("NVMe0R02 host sub", "00" * 32), ("", "00"), ("a", "")]
)
def test_a_key_that_can_not_be_used_is_refused(identity: str, text: str) -> None:
    with pytest.raises(TargetError, match="pre-shared key"):
        make_psk(identity, text)


def test_a_refusal_of_the_unknown_key_tells_what_to_do() -> None:
    told = refused_without_key(failure(Cause.PEER_ALERT, "unknown_psk_identity"))
    assert "--psk-identity" in told.reason
    other = failure(Cause.END_OF_FILE, "It is gone.")
    assert refused_without_key(other) is other


# Behind the handshake

SUITE = SUITES_BY_NAME["AES_128_GCM"]
KEY = TrafficKey(key=bytes(16), iv=bytes(12), sequence=0)
SECRETS = KernelSecrets(version=0x0304, cipher=SUITE.ktls, tx=KEY, rx=KEY)
TICKET = b"\x04\0\0\2ab"


def records(*contents: bytes) -> bytes:
    key = RecordKey(suite=SUITE, key=KEY.key, iv=KEY.iv)
    said = b""
    for content in contents:
        header = b"\x17\x03\x03" + (len(content) + TAG_LENGTH).to_bytes(2)
        said += header + key.seal(content, header)
    return said


@pytest.mark.parametrize(
    ("data", "tickets", "alert"),
    [
        (b"", 0, None),
        (records(TICKET + b"\x16"), 1, None),
        (records(TICKET * 2 + b"\x16\0\0", TICKET + b"\x16"), 3, None),
        (records(b"\x18\0\0\1x\x16"), 0, None),
        (records(b"\4\x17"), 0, None),
        (records(TICKET + b"\x16", b"\2\x74\x15"), 1, Alert.CERTIFICATE_REQUIRED),
        (records(b"\2\xfe\x15"), 0, 0xFE),
        (records(b"\1\0\x15", TICKET + b"\x16"), 1, None),
        (records(b"\2\x74\x15", TICKET + b"\x16"), 0, Alert.CERTIFICATE_REQUIRED),
        (records(b"\2\x15"), 0, None),
        (records(TICKET + b"\x16")[:-1], 0, None),
        (records(b"\0\0"), 0, None),
        (bytes(100), 0, None),
    ],
)
def test_reads_behind_the_handshake(data: bytes, tickets: int, alert: Alert | int | None) -> None:
    assert look_behind_untrusted(data, SECRETS) == Behind(tickets=tickets, alert=alert)


def test_a_refusal_behind_the_handshake_is_one() -> None:
    assert refusal_behind(Behind(tickets=1, alert=None)) is None
    for alert, name in ((Alert.CERTIFICATE_REQUIRED, "certificate_required"), (254, "254")):
        refused = refusal_behind(Behind(tickets=0, alert=alert))
        assert refused is not None
        assert refused.cause is Cause.PEER_ALERT
        assert f"the alert {name}:" in refused.reason


# Telling


@pytest.mark.parametrize(
    ("cause", "code"),
    [(None, 0), (Cause.UNKNOWN_CA, 1), (Cause.PEER_ALERT, 1), (Cause.END_OF_FILE, 2), (Cause.TIMED_OUT, 2)],
)
def test_the_exit_code_tells_refusal_from_absence(cause: Cause | None, code: int) -> None:
    report = Report(target=NFS, failure=None if cause is None else failure(cause, "It is so."))
    assert report.exit_code == code
    assert report_object(report, NOW)["accepted"] is (code == 0)


def test_a_report_tells_everything() -> None:
    completed = HandshakeCompleted(
        cipher_suite="AES_256_GCM",
        group="x25519",
        alpn=b"\xff",
        peer=None,
        server_name=None,
        psk_identity=b"\n",
    )
    report = Report(
        target=NFS,
        address="192.0.2.1",
        starttls=True,
        completed=completed,
        chain=CHAIN,
        tickets=2,
        phases={"connect": 0.00125},
    )
    told = report_object(report, NOW)
    assert told | {"certificates": ()} == {
        "host": "server.test",
        "port": 2049,
        "mode": "nfs",
        "address": "192.0.2.1",
        "reachable": True,
        "starttls": True,
        "version": "TLS 1.3",
        "cipher": "AES_256_GCM",
        "group": "x25519",
        "alpn": "\\xff",
        "psk": "\\n",
        "session_tickets": 2,
        "certificates": (),
        "accepted": True,
        "cause": None,
        "reason": None,
        "exit_code": 0,
        "milliseconds": {"connect": 1.2},
    }


def test_describes_certificates() -> None:
    described = describe_certificate(CHAIN[0], NOW)
    assert described["subject"] == "CN=server.test"
    assert described["issuer"] == "CN=Test Root"
    assert described["names"] == ["DNS:server.test"]
    assert described["key"] == "EC 256"
    end = server_certificate().certificate.not_valid_after_utc
    assert described["not_after"] == end.isoformat()
    assert described["days_left"] == (end - NOW) // dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("usages", "told"),
    [
        ([ExtendedKeyUsageOID.SERVER_AUTH, ID_KP_RPC_TLS_SERVER], ["serverAuth", "id-kp-rpcTLSServer"]),
        ([x509.ObjectIdentifier("1.2.3")], ["1.2.3"]),
        (None, None),
    ],
)
def test_names_purposes(usages: list[x509.ObjectIdentifier] | None, told: list[str] | None) -> None:
    if usages is None:
        issued = authority().issue(("a.test",), omit=[x509.ExtendedKeyUsage])
    else:
        issued = authority().issue(("a.test",), extensions=[(x509.ExtendedKeyUsage(usages), False)])
    assert describe_certificate(issued.chain[0], NOW)["purposes"] == told


def test_a_key_without_a_size_is_named() -> None:
    issued = authority().issue(("a.test",), key_type="ed25519")
    assert describe_certificate(issued.chain[0], NOW)["key"] == "Ed25519"


def test_what_is_no_certificate_is_told() -> None:
    assert describe_certificate(b"x", NOW) == {"problem": "It can't be read: ValueError."}
