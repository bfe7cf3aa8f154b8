"""A transcript explained: how it ended and what to do, the facts, and the ladder."""

import datetime as dt
import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import x25519
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.capture.explain import explain
from ktls_agent.sansio.capture.explanation import (
    WHY,
    CertificateFacts,
    Explanation,
    Phase,
    Row,
    encode_explanation,
)
from ktls_agent.sansio.capture.facts import MAX_CERTIFICATES, certificate_facts_untrusted
from ktls_agent.sansio.capture.messages import detail
from ktls_agent.sansio.capture.transcript import TimedStep, Transcript, decode_transcript_untrusted
from ktls_agent.sansio.lifecycle import Deadlines
from ktls_agent.sansio.request import (
    CertificateKeys,
    ClientAnon,
    ClientPsk,
    ClientX509,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from ktls_agent.sansio.status import OUTCOMES, Alert, Cause, failure
from ktls_agent.sansio.steps import (
    Answered,
    Closed,
    Completed,
    Configured,
    Failed,
    FoundPsk,
    Installed,
    Interrupted,
    Interruption,
    LocallyFailed,
    Noted,
    PeerKeyMade,
    Plaintext,
    PsksLookedUp,
    Received,
    Reported,
    Sent,
    Started,
    Step,
    Summarized,
)
from ktls_agent.sansio.tls.parameters import (
    ClientPskParameters,
    HandshakeCompleted,
    ServerParameters,
    ServerPskParameters,
)
from tests import pki
from tests.capture import recorded
from tests.capture.transcripts import (
    Keys,
    credentials,
    engine_peer,
    of_steps,
    psk,
    record,
    script,
    started,
)
from tests.tls.handshakes import (
    authority,
    client_engine,
    client_identity,
    identity,
    mutual_client,
    mutual_server,
    server_engine,
    server_parameters,
)

CAPTURES = sorted((Path(__file__).parents[1] / "captures").glob("*.transcript"))
DEFECTS = {
    "cancel-while-handshaking-client": ["it was not sent"],
    "server-client-hangs-up": ["777 bytes of 1559 are there"],
    "time-out-server": ["777 bytes of 1559 are there"],
}
"""The captures of requests that ended in the middle of a message."""
CLIENT = ClientAnon(sockfd=13, peername="server.test", timeout=10.0)


def arrows(explanation: Explanation) -> list[str]:
    return [f"{row.source} -> {row.target}: {row.label}" for row in explanation.ladder]


def row(explanation: Explanation, label: str) -> Row:
    (found,) = (row for row in explanation.ladder if row.label == label)
    return found


def values(explanation: Explanation, label: str) -> dict[str, tuple[str, ...]]:
    return {item.name: item.values for item in row(explanation, label).details}


def expired() -> Transcript:
    day = pki.DAY
    old = authority().issue(("server.test",), not_before=pki.NOW - 40 * day, not_after=pki.NOW - 3 * day)
    return record(CLIENT, engine_peer(server_engine(ServerParameters(identities=(old.identity(),)))))


# Whole requests


def test_a_client_that_succeeds() -> None:
    explanation = explain(record(CLIENT, engine_peer(server_engine())))
    assert arrows(explanation) == [
        "agent -> kernel: ACCEPT",
        "kernel -> agent: request (CLIENTHELLO, UNAUTH)",
        "agent -> agent: configuration",
        "agent -> peer: ClientHello",
        "peer -> agent: ServerHello",
        "peer -> agent: ChangeCipherSpec",
        "peer -> agent: EncryptedExtensions",
        "peer -> agent: Certificate",
        "peer -> agent: CertificateVerify",
        "peer -> agent: Finished",
        "agent -> peer: ChangeCipherSpec",
        "agent -> peer: Finished",
        "agent -> agent: keys agreed: AES_256_GCM, x25519",
        "agent -> kernel: TLS_TX, TLS_RX: AES_GCM_256",
        "agent -> kernel: peer key 0x1000",
        "agent -> kernel: DONE ok",
        "kernel -> agent: acknowledged",
        "agent -> kernel: close fd 13",
    ]
    verdict, request, tls = explanation.verdict, explanation.request, explanation.tls
    assert (verdict.outcome, verdict.status, verdict.cause, verdict.remedy) == ("done", "ok", None, None)
    assert verdict.headline == "The handshake succeeded: AES_256_GCM with x25519; the peer is CN=server.test."
    assert (request.role, request.auth, request.peer, request.address) == (
        "client",
        "unauth",
        "server.test",
        "192.0.2.7",
    )
    assert request.timeout == 10.0
    assert (tls.cipher_suite, tls.group, tls.alpn, tls.server_name, tls.psk_identity, tls.retried) == (
        "AES_256_GCM",
        "x25519",
        "sunrpc",
        "server.test",
        None,
        False,
    )
    assert [phase.name for phase in explanation.phases] == ["handshake", "done", "total"]
    assert {row.tone for row in explanation.ladder} == {"plain", "good"}
    assert values(explanation, "configuration") == {"trusts": ("CN=Test Root",)}
    times = [row.at for row in explanation.ladder]
    assert times == sorted(times)


def test_a_certificate_that_has_expired() -> None:
    explanation = explain(expired())
    verdict = explanation.verdict
    assert verdict.outcome == "failed"
    assert verdict.headline == "The handshake failed: the peer's certificate is outside its validity period."
    assert verdict.cause == "certificate_expired"
    assert verdict.status == "EACCES"
    assert verdict.reason is not None
    assert "expired on 2026-05-29 12:00 UTC" in verdict.reason
    assert verdict.remedy == OUTCOMES[Cause.CERTIFICATE_EXPIRED].remedy
    assert arrows(explanation)[-6:] == [
        "agent -> peer: ChangeCipherSpec",
        "agent -> peer: alert certificate_expired",
        "agent -> agent: certificate expired",
        "agent -> kernel: DONE EACCES",
        "kernel -> agent: acknowledged",
        "agent -> kernel: close fd 13",
    ]
    assert [row.label for row in explanation.ladder if row.tone == "bad"] == [
        "alert certificate_expired",
        "certificate expired",
        "DONE EACCES",
    ]
    assert values(explanation, "certificate expired") == {WHY: (verdict.reason,)}
    # What there was of TLS is known from its messages.
    assert (explanation.tls.cipher_suite, explanation.tls.group, explanation.tls.alpn) == (
        "AES_256_GCM",
        "x25519",
        "sunrpc",
    )
    assert explanation.tls.server_name == "server.test"
    (certificate,) = explanation.certificates
    assert certificate.in_date is False


def test_a_mutual_handshake_with_a_retry() -> None:
    peer = server_engine(mutual_server("rsa2048", groups=("secp384r1",)))
    explanation = explain(record(ClientX509(sockfd=4, peername="server.test"), engine_peer(peer)))
    assert explanation.tls.retried
    assert explanation.tls.group == "secp384r1"
    assert [row.label for row in explanation.ladder if row.target == "peer"] == [
        "ClientHello",
        "ChangeCipherSpec",
        "ClientHello",
        "Certificate",
        "CertificateVerify",
        "Finished",
    ]
    assert values(explanation, "HelloRetryRequest")["group wanted"] == ("secp384r1",)
    assert [(facts.presented_by, facts.subject) for facts in explanation.certificates] == [
        ("peer", "CN=server.test"),
        ("agent", "CN=client.test"),
    ]
    assert values(explanation, "configuration") == {
        "trusts": ("CN=Test Root",),
        "identity": ("CN=client.test",),
    }


def test_a_server_and_a_client_without_a_certificate() -> None:
    explanation = explain(record(ServerX509(sockfd=4), engine_peer(client_engine())))
    assert explanation.request.role == "server"
    assert explanation.verdict.headline.endswith("; the peer presented no certificate.")
    assert explanation.notes == (
        "The client presented no certificate; an export with xprtsec=mtls refuses it.",
    )


def test_a_client_with_pre_shared_keys() -> None:
    keys = psk(b"unknown there", 0x2000), psk(b"known\n", 0x2001)
    request = ClientPsk(sockfd=4, peer_identities=(0x2000, 0x2001))
    peer = engine_peer(started(ServerPskParameters()), keys[1])
    explanation = explain(record(request, peer, keys=Keys(*keys)))
    assert explanation.verdict.headline.endswith("; both sides have the same pre-shared key.")
    assert explanation.tls.psk_identity == "known\\n"
    assert values(explanation, "pre-shared key 0x2001") == {"identity": ("known\\n",)}
    hello = values(explanation, "ClientHello")
    assert hello["PSK identities"] == ("unknown there", "known\\n", "(2 binders)")
    assert values(explanation, "ServerHello")["PSK chosen"] == ("number 2 of those offered",)
    assert values(explanation, "DONE ok")["REMOTE_AUTH"] == ("key 0x2001",)
    assert "configuration" not in [row.label for row in explanation.ladder]


def test_a_server_with_pre_shared_keys() -> None:
    key = psk()
    peer = engine_peer(started(ClientPskParameters(keys=(key,))))
    explanation = explain(record(ServerPsk(sockfd=4), peer, keys=Keys(key)))
    found = values(explanation, "1 of 1 pre-shared keys known")
    assert found == {"key 0x2000": ("NVMe0R01 nqn.host nqn.subsystem",)}
    assert explanation.verdict.outcome == "done"


def test_a_server_that_knows_no_key() -> None:
    peer = engine_peer(started(ClientPskParameters(keys=(psk(),))))
    explanation = explain(record(ServerPsk(sockfd=4), peer))
    assert explanation.verdict.cause == "unknown_psk"
    assert row(explanation, "0 of 1 pre-shared keys known").tone == "bad"
    assert row(explanation, "alert unknown_psk_identity").target == "peer"


@pytest.mark.parametrize("kind", recorded.PLAYS)
@pytest.mark.parametrize("secrets", [True, False])
def test_every_recorded_request_is_explained(kind: str, secrets: bool) -> None:
    transcript = recorded.transcript(kind, secrets=secrets)
    explanation = explain(transcript)
    (summarized,) = transcript.of_type(Summarized)
    assert explanation.verdict.status == summarized.fields["status"]
    assert explanation.verdict.cause == summarized.fields.get("cause")
    assert [row.label for row in explanation.ladder].count("ACCEPT") == 1
    assert [row for row in explanation.ladder if row.defect is not None] == []


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_every_golden_capture_is_explained(path: Path) -> None:
    transcript = decode_transcript_untrusted(path.read_bytes())
    explanation = explain(transcript)
    (reported,) = transcript.of_type(Reported)
    assert explanation.verdict.outcome == ("failed" if reported.status else "done")
    assert (explanation.verdict.remedy is None) == (reported.status == 0)
    assert [row.label for row in explanation.ladder].count(f"DONE {explanation.verdict.status}") == 1
    defects = [row.defect for row in explanation.ladder if row.defect is not None]
    assert defects == DEFECTS.get(path.stem, [])


@pytest.mark.parametrize("kind", recorded.PLAYS)
def test_secrets_add_nothing_to_an_explanation(kind: str) -> None:
    assert explain(recorded.transcript(kind, secrets=True)) == explain(
        recorded.transcript(kind, secrets=False)
    )


# Failures


def test_what_the_peer_says_that_is_not_tls_is_shown_before_the_alert() -> None:
    explanation = explain(record(CLIENT, script(b"HTTP/1.1 400 Bad Request\r\n\r\n")))
    assert explanation.verdict.reason == "Not a TLS record: it begins with byte 72."
    labels = [row.label for row in explanation.ladder]
    assert labels[3:7] == [
        "ClientHello",
        "no TLS record",
        "alert unexpected_message",
        "protocol violation",
    ]
    assert values(explanation, "no TLS record") == {"begins": ("48 54 54 50 2f", "HTTP/")}
    assert row(explanation, "no TLS record").size == 5


def test_half_a_message_is_shown_as_that() -> None:
    explanation = explain(record(CLIENT, script(b"\x16\x03\x03\x00\x06\x02\x00\x00\x50\x03\x03")))
    found = row(explanation, "ServerHello")
    assert found.defect == "only 6 of its 84 bytes are there"
    assert found.tone == "bad"
    labels = [row.label for row in explanation.ladder]
    assert labels.index("ServerHello") < labels.index("end of file")


def test_an_alert_that_is_made_without_an_engine_is_shown() -> None:
    explanation = explain(record(ServerX509(sockfd=4), script(), own=credentials(own=False)))
    assert explanation.verdict.cause == "no_credentials"
    assert row(explanation, "alert handshake_failure").source == "agent"
    # The policy refused it, which is no step: the row comes from the log line.
    assert values(explanation, "no credentials") == {WHY: (explanation.verdict.reason,)}


def test_an_alert_of_the_peer_is_shown() -> None:
    peer = client_engine(mutual_client())
    explanation = explain(
        record(ServerX509(sockfd=4), script(peer.data_to_send(), b"\x15\x03\x03\x00\x02\x02\x30"))
    )
    assert row(explanation, "alert unknown_ca").source == "peer"
    assert explanation.verdict.cause == "peer_alert"
    assert explanation.verdict.remedy == OUTCOMES[Cause.PEER_ALERT].remedy


@pytest.mark.parametrize(
    ("by", "arrow", "cause"),
    [
        (Interruption.CANCEL, "kernel -> agent: the consumer hung up", "cancelled"),
        (Interruption.DEADLINE, "agent -> agent: its time is over", "timed_out"),
        (Interruption.SHUTDOWN, "agent -> agent: the agent stops", "shutdown"),
    ],
)
def test_what_ends_a_request_from_outside(by: Interruption, arrow: str, cause: str) -> None:
    explanation = explain(record(CLIENT, script(), interruption=(1, by)))
    assert arrow in arrows(explanation)
    assert explanation.verdict.cause == cause
    assert row(explanation, cause.replace("_", " ")).tone == "bad"


def test_keys_that_the_kernel_refuses() -> None:
    explanation = explain(record(CLIENT, engine_peer(server_engine()), refusal="The kernel has no TLS."))
    assert explanation.verdict.cause == "ktls_refused"
    assert row(explanation, "TLS_TX, TLS_RX: AES_GCM_256").tone == "bad"
    assert values(explanation, "TLS_TX, TLS_RX: AES_GCM_256") == {WHY: ("The kernel has no TLS.",)}


def test_keys_of_a_request_that_can_not_be_read() -> None:
    pair = CertificateKeys(certificate=404, private_key=405)
    explanation = explain(record(ClientX509(sockfd=4, certificates=(pair,)), script()))
    assert explanation.verdict.cause == "key_unreadable"
    assert values(explanation, "certificate 0x194") == {WHY: ("There is no key 404.",)}


def test_keys_of_a_request() -> None:
    pair = CertificateKeys(certificate=0x40, private_key=0x41)
    request = ClientX509(sockfd=4, peername="server.test", certificates=(pair,))
    keys = Keys(identities={0x40: client_identity()})
    explanation = explain(record(request, engine_peer(server_engine(mutual_server())), keys=keys))
    assert values(explanation, "certificate 0x40") == {"subject": ("CN=client.test",)}


def test_a_pre_shared_key_that_can_not_be_read() -> None:
    explanation = explain(record(ClientPsk(sockfd=4, peer_identities=(9,)), script()))
    assert explanation.verdict.cause == "psk_unavailable"
    assert row(explanation, "pre-shared key 0x9").tone == "bad"


def test_a_request_that_is_not_valid() -> None:
    explanation = explain(
        record(InvalidRequest(sockfd=4, reason="The request has no MESSAGE_TYPE."), script())
    )
    assert (explanation.request.role, explanation.request.auth) == ("unknown", "unknown")
    assert explanation.verdict.cause == "invalid_request"
    assert explanation.verdict.status == "EINVAL"


@pytest.mark.parametrize(
    ("error", "said", "label"),
    [(None, "no answer", "no answer to DONE"), (errno.EBADF, "EBADF", "refused: EBADF")],
)
def test_a_success_of_which_the_kernel_does_not_hear(error: int | None, said: str, label: str) -> None:
    explanation = explain(record(CLIENT, engine_peer(server_engine()), done_error=error))
    assert explanation.verdict.outcome == "done"
    assert explanation.verdict.headline == (
        f"The handshake succeeded, but its consumer may not know: the kernel gave DONE {said}."
    )
    assert explanation.verdict.remedy is not None
    assert row(explanation, label).tone == "bad"


def test_what_waits_behind_the_handshake_is_counted() -> None:
    explanation = explain(record(CLIENT, engine_peer(server_engine()), behind=bytes(99)))
    assert values(explanation, "TLS_TX, TLS_RX: AES_GCM_256") == {"behind the handshake": ("99 bytes",)}


def test_a_kernel_without_keys_for_certificates() -> None:
    explanation = explain(record(CLIENT, engine_peer(server_engine()), keys=Keys(peer_key=None)))
    assert row(explanation, "no peer key").target == "kernel"


# Transcripts that lack something


def test_without_datagrams_the_kernel_is_drawn_from_what_the_session_said() -> None:
    explanation = explain(record(CLIENT, engine_peer(server_engine()), datagrams=False))
    lanes = [arrow for arrow in arrows(explanation) if "kernel" in arrow]
    assert lanes == [
        "kernel -> agent: request (client, unauth)",
        "agent -> kernel: TLS_TX, TLS_RX: AES_GCM_256",
        "agent -> kernel: peer key 0x1000",
        "agent -> kernel: DONE ok",
        "kernel -> agent: acknowledged",
        "agent -> kernel: close fd 13",
    ]
    assert values(explanation, "request (client, unauth)") == {"PEERNAME": ("server.test",)}
    assert values(explanation, "DONE ok") == {"REMOTE_AUTH": ("key 0x1000",)}


def test_without_datagrams_a_refusal_is_drawn_too() -> None:
    request = InvalidRequest(sockfd=4, reason="The request has no MESSAGE_TYPE.")
    explanation = explain(record(request, script(), datagrams=False, done_error=errno.EBADF))
    assert arrows(explanation)[0] == "kernel -> agent: request (unknown, unknown)"
    assert row(explanation, "DONE EINVAL").tone == "bad"
    assert row(explanation, "refused: EBADF").tone == "bad"


def test_a_request_that_ends_before_done_is_sent_has_it_drawn() -> None:
    transcript = record(CLIENT, engine_peer(server_engine()))
    reported = next(at for at, timed in enumerate(transcript.steps) if isinstance(timed.step, Reported))
    hung_up = TimedStep(at=1.0, step=Interrupted(by=Interruption.CANCEL, after=1.0))
    explanation = explain(replace(transcript, steps=(*transcript.steps[: reported + 1], hung_up)))
    assert arrows(explanation)[-2:] == ["agent -> kernel: DONE ok", "kernel -> agent: the consumer hung up"]
    # It changes nothing any more.
    assert explanation.ladder[-1].tone == "odd"
    assert explanation.verdict.outcome == "done"


def test_an_empty_transcript_is_unfinished() -> None:
    explanation = explain(of_steps())
    assert explanation.verdict.outcome == "unfinished"
    assert explanation.verdict.headline == "The recording ends before the request does."
    assert (explanation.ladder, explanation.phases, explanation.certificates) == ((), (), ())
    assert explanation.request.role == "unknown"


def cut(transcript: Transcript, kind: type) -> Transcript:
    """What there is before the first step of a kind."""
    end = next(number for number, timed in enumerate(transcript.steps) if isinstance(timed.step, kind))
    return replace(transcript, steps=transcript.steps[:end])


def test_what_was_written_and_never_sent_is_marked() -> None:
    explanation = explain(cut(record(CLIENT, script()), Sent))
    assert explanation.verdict.outcome == "unfinished"
    assert row(explanation, "ClientHello").defect == "it was not sent"
    assert row(explanation, "ClientHello").tone == "odd"


def test_without_a_log_line_the_failed_step_tells() -> None:
    explanation = explain(cut(expired(), Summarized))
    assert explanation.verdict.cause == "certificate_expired"
    assert explanation.phases == (Phase(name="total", ms=5.8),)
    assert explanation.request.address == "192.0.2.7"


def local(text: str) -> LocallyFailed:
    return LocallyFailed(failure=failure(Cause.NO_MEMORY, text))


@pytest.mark.parametrize(
    ("steps", "outcome", "headline"),
    [
        ((local("no memory"),), "failed", "The handshake failed: out of memory or descriptors."),
        ((Reported(status=5, remote_auth=()),), "failed", "The handshake failed: the kernel was told EIO."),
        ((Reported(status=0, remote_auth=()),), "done", "The handshake succeeded."),
        ((Summarized(fields={"cause": "unheard_of"}),), "unfinished", "The recording ends before the request does."),
        ((Summarized(fields={"cause": "shutdown", "reason": "x\x1b"}),), "failed", "The handshake failed: the agent is stopping."),
    ],
)  # fmt: skip
def test_verdicts_of_transcripts_that_are_made_up(
    steps: tuple[Step, ...], outcome: str, headline: str
) -> None:
    verdict = explain(of_steps(*steps)).verdict
    assert (verdict.outcome, verdict.headline) == (outcome, headline)


def test_a_reason_becomes_a_sentence_that_is_safe_to_print() -> None:
    fields: dict[str, str | int | float] = {"cause": "shutdown", "reason": "it\x1b[31m stopped"}
    assert explain(of_steps(Summarized(fields=fields))).verdict.reason == "It\\x1b[31m stopped."
    assert explain(of_steps(local("y" * 5000))).verdict.reason == "Y" + "y" * 1998 + "…"


def test_what_the_log_line_says_is_taken_where_no_step_does() -> None:
    fields: dict[str, str | int | float] = {"address": "192.0.2.9", "note": "odd\n", "a_ms": 1, "b_ms": "no"}
    explanation = explain(of_steps(Summarized(fields=fields)))
    assert explanation.request.address == "192.0.2.9"
    assert explanation.notes == ("odd\\n",)
    assert explanation.phases == (Phase(name="a", ms=1.0),)


def test_a_note_is_a_row_and_a_note() -> None:
    explanation = explain(of_steps(Noted(text="something is odd")))
    assert explanation.notes == ("something is odd",)
    assert row(explanation, "note").tone == "odd"


def test_notes_about_keys_are_in_their_row() -> None:
    found = FoundPsk(serial=7, identity=b"key", hash_name="sha256", secret=None)
    explanation = explain(
        of_steps(PsksLookedUp(identities=(b"key", b"b"), found=(found,), notes=("b is bad",)))
    )
    assert values(explanation, "1 of 2 pre-shared keys known") == {"key 0x7": ("key",), WHY: ("b is bad",)}


def test_a_handshake_without_key_exchange() -> None:
    result = HandshakeCompleted(
        cipher_suite="AES_128_GCM", group=None, alpn=None, peer=None, server_name=None, psk_identity=b"k"
    )
    explanation = explain(of_steps(Completed(result=result), Reported(status=0, remote_auth=())))
    assert "AES_128_GCM with no key exchange" in explanation.verdict.headline
    assert explanation.ladder[0].label == "keys agreed: AES_128_GCM"
    assert explanation.tls.group is None


def test_rows_of_steps_that_are_made_up() -> None:
    asked = Started(
        request=ClientAnon(sockfd=3), peer_address=None, wall_clock=pki.NOW, deadlines=Deadlines()
    )
    explanation = explain(
        of_steps(
            Closed(),
            PeerKeyMade(serial=None),
            asked,
            Configured(trust=None, identity=None),
            Installed(cipher="X\x1b"),
            Answered(error=0),
            Answered(error=None),
            Received(data=b""),
        )
    )
    assert arrows(explanation) == [
        "agent -> kernel: close",
        "agent -> kernel: no peer key",
        "kernel -> agent: request (client, unauth)",
        "agent -> kernel: TLS_TX, TLS_RX: X\\x1b",
        "kernel -> agent: acknowledged",
        "agent -> agent: no answer to DONE",
        "peer -> agent: end of file",
    ]


# Certificates


def facts(der: bytes, now: dt.datetime | None = pki.NOW) -> CertificateFacts:
    (found,) = certificate_facts_untrusted([der], "peer", now)
    return found


def test_the_facts_of_a_certificate() -> None:
    issued = authority().issue(
        ("a.test", "b.test"), ips=("192.0.2.1",), eku=(pki.SERVER_AUTH, pki.RPC_TLS_SERVER, x509.ObjectIdentifier("1.2.3"))
    )  # fmt: skip
    found = facts(issued.chain[0])
    assert found == CertificateFacts(
        presented_by="peer",
        position=0,
        sha256=found.sha256,
        subject="CN=a.test",
        issuer="CN=Test Root",
        names=("DNS:a.test", "DNS:b.test", "IP:192.0.2.1"),
        not_before=pki.NOW - 30 * pki.DAY,
        not_after=pki.NOW + 365 * pki.DAY,
        in_date=True,
        key="ECDSA, secp256r1",
        usages=("serverAuth", "id-kp-rpcTLSServer", "1.2.3"),
    )
    assert bytes.fromhex(found.sha256) == issued.certificate.fingerprint(hashes.SHA256())


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: authority().issue(key_type="rsa2048"), "RSA, 2048 bits"),
        (lambda: authority().issue(key_type="ed25519"), "Ed25519"),
        (lambda: authority().issue(key_type="ed448"), "Ed448"),
    ],
)
def test_kinds_of_keys(make: Callable[[], pki.Issued], key: str) -> None:
    assert facts(make().chain[0]).key == key


def test_a_key_of_another_kind_is_named() -> None:
    public = x25519.X25519PrivateKey.generate().public_key()
    der = authority().issue(public_key=public).chain[0]  # type: ignore[arg-type]
    assert facts(der).key == "X25519"


def test_a_certificate_without_names_and_usages() -> None:
    found = facts(authority().issue(("x",), eku=(), omit=(x509.SubjectAlternativeName,)).chain[0])
    assert (found.names, found.usages) == ((), None)


def test_without_a_time_nothing_is_said_about_dates() -> None:
    assert facts(authority().der(), None).in_date is None


def test_what_is_no_certificate_has_a_fingerprint_and_a_defect() -> None:
    found = facts(b"junk")
    assert found.subject is None
    assert len(found.sha256) == 64
    assert found.defect is not None
    assert found.defect.startswith("It can't be read: ")


def test_only_so_many_certificates_are_told_about() -> None:
    assert len(list(certificate_facts_untrusted([b""] * 100, "peer", None))) == MAX_CERTIFICATES


def test_an_intermediate_certificate_has_its_place() -> None:
    issued = authority().subordinate().issue(("server.test",))
    peer = server_engine(server_parameters(identities=(issued.identity(),)))
    explanation = explain(record(CLIENT, engine_peer(peer)))
    assert [(item.position, item.subject) for item in explanation.certificates] == [
        (0, "CN=server.test"),
        (1, "CN=Test Intermediate"),
    ]


# JSON


def test_json_has_the_records_attributes_as_keys() -> None:
    explanation = explain(expired())
    decoded = json.loads(encode_explanation(explanation))
    assert list(decoded) == ["verdict", "request", "tls", "phases", "certificates", "notes", "ladder"]
    assert decoded["verdict"]["cause"] == "certificate_expired"
    assert decoded["request"]["recorded"] == "2026-06-01T12:00:00+00:00"
    assert decoded["certificates"][0]["not_after"] == "2026-05-29T12:00:00+00:00"
    assert decoded["ladder"][0] == {
        "at": 0.0,
        "source": "agent",
        "target": "kernel",
        "label": "ACCEPT",
        "size": None,
        "tone": "plain",
        "details": [{"name": "HANDLER_CLASS", "values": ["TLSHD"]}],
        "defect": None,
    }


# Anything

STEPS = st.one_of(
    st.builds(Plaintext, outgoing=st.booleans(), content_type=st.sampled_from([20, 21, 22, 23, 99]), data=st.binary(max_size=60)),
    st.builds(Received, data=st.binary(max_size=20)),
    st.builds(Sent, data=st.binary(max_size=20)),
    st.builds(Noted, text=st.text(max_size=10)),
    st.builds(Installed, cipher=st.text(max_size=5), refusal=st.none() | st.text(max_size=5)),
    st.builds(Reported, status=st.integers(0, 4095), remote_auth=st.just(())),
    st.builds(Answered, error=st.none() | st.integers(0, 4095), text=st.text(max_size=5)),
    st.builds(Failed, failure=st.builds(failure, st.sampled_from(Cause), st.text(max_size=5))),
    st.builds(Summarized, fields=st.dictionaries(st.text(max_size=5) | st.just("x_ms"), st.text(max_size=5) | st.integers())),
)  # fmt: skip


@given(st.lists(STEPS, max_size=12))
def test_any_steps_are_explained_in_printable_text(steps: list[Step]) -> None:
    explanation = explain(of_steps(*steps))
    assert json.loads(encode_explanation(explanation))["verdict"]["headline"].isprintable()
    for found in explanation.ladder:
        texts = [found.label, found.defect or "", *(text for item in found.details for text in item.values)]
        assert all(text.isprintable() for text in texts)


def test_the_alert_in_a_failure_is_not_needed() -> None:
    failed = Failed(failure=replace(failure(Cause.END_OF_FILE, "gone"), alert=Alert.INTERNAL_ERROR))
    assert explain(of_steps(failed)).ladder[0].details == (detail(WHY, ["Gone."]),)


def test_times_are_those_of_the_steps() -> None:
    steps = (TimedStep(at=1.5, step=Received(data=b"x")), TimedStep(at=2.5, step=Received(data=b"")))
    explanation = explain(replace(of_steps(), steps=steps))
    assert [(found.label, found.at) for found in explanation.ladder] == [
        ("no TLS record", 2.5),
        ("end of file", 2.5),
    ]


def test_an_identity_from_the_configuration_is_named() -> None:
    asked = Started(
        request=ServerX509(sockfd=3), peer_address=None, wall_clock=pki.NOW, deadlines=Deadlines()
    )
    explanation = explain(of_steps(asked, Configured(trust=None, identity=identity().chain)))
    assert values(explanation, "configuration") == {"identity": ("CN=server.test",)}
