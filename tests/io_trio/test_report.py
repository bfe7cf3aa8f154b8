"""The one log line of a request."""

import datetime as dt
from dataclasses import replace

from ktls_agent.io_trio.report import Journal, Started, observe_nothing, summarize
from ktls_agent.sansio.lifecycle import Request
from ktls_agent.sansio.request import ClientPsk, ClientX509, InvalidRequest, ServerX509
from ktls_agent.sansio.status import Cause, failure
from ktls_agent.sansio.tls.parameters import HandshakeCompleted, PeerCertificate

COMPLETED = HandshakeCompleted(
    cipher_suite="AES_256_GCM",
    group="x25519",
    alpn=b"\xffx",
    peer=PeerCertificate(
        chain=(b"",),
        subject="CN=a",
        names=(),
        issuer="CN=b",
        not_after=dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
    ),
    server_name=None,
)


def test_tells_everything_about_a_success() -> None:
    journal = Journal(
        peer_address="192.0.2.1",
        completed=COMPLETED,
        phases={"handshake": 10.0125, "install": 10.0135, "done": 10.014},
        done_status=0,
        remote_auth=(7, 8),
    )
    request = Request(ClientX509(sockfd=3, peername="server.test"), now=10.0)
    assert summarize(request, journal) == {
        "role": "client",
        "auth": "x509",
        "peer": "server.test",
        "address": "192.0.2.1",
        "status": "ok",
        "cipher": "AES_256_GCM",
        "group": "x25519",
        "alpn": "\\xffx",
        "subject": "CN=a",
        "remote_auth": "7 8",
        "handshake_ms": 12.5,
        "install_ms": 1.0,
        "done_ms": 0.5,
        "total_ms": 14.0,
    }


def test_names_the_pre_shared_key_in_printable_text_of_bounded_length() -> None:
    completed = replace(
        COMPLETED, peer=None, alpn=None, group=None, psk_identity=b"NVMe0R01 a\n\xff" + b"b" * 60_000
    )
    journal = Journal(completed=completed, done_status=0, remote_auth=(7,))
    fields = summarize(Request(ClientPsk(sockfd=3, peer_identities=(7,)), now=10.0), journal)
    assert (fields["role"], fields["auth"], fields["remote_auth"]) == ("client", "psk", "7")
    assert str(fields["psk"]).startswith("NVMe0R01 a\\n\\xffbbb")
    assert len(str(fields["psk"])) < 1000
    assert not {"subject", "alpn", "group", "note"} & fields.keys()


def test_tells_why_a_request_failed() -> None:
    request = Request(ServerX509(sockfd=3), now=10.0)
    request.start()
    request.handshake_failed(failure(Cause.UNKNOWN_CA, "Nobody knows it."))
    journal = Journal(done_status=13, notes=["One.", "Two."])
    assert summarize(request, journal) == {
        "role": "server",
        "auth": "x509",
        "status": "EACCES",
        "cause": "unknown_ca",
        "reason": "Nobody knows it.",
        "note": "One. Two.",
        "total_ms": 0.0,
    }


def test_a_client_without_a_certificate_is_named() -> None:
    journal = Journal(completed=replace(COMPLETED, peer=None), done_status=0)
    fields = summarize(Request(ServerX509(sockfd=3), now=10.0), journal)
    assert fields["note"] == "The client presented no certificate; an export with xprtsec=mtls refuses it."
    assert "note" not in summarize(Request(ClientX509(sockfd=3), now=10.0), journal)


def test_an_invalid_request_has_neither_role_nor_peer() -> None:
    request = Request(InvalidRequest(sockfd=3, reason="It is."), now=10.0)
    assert summarize(request, Journal(done_status=4000)) == {
        "role": "unknown",
        "auth": "unknown",
        "status": "4000",
        "cause": "invalid_request",
        "reason": "It is.",
        "total_ms": 0.0,
    }


def test_what_is_not_known_is_left_out() -> None:
    assert summarize(Request(ServerX509(sockfd=3), now=10.0), Journal()) == {
        "role": "server",
        "auth": "x509",
        "total_ms": 0.0,
    }


def test_nobody_has_to_look() -> None:
    observe_nothing(3, 0.0, Started(request=ServerX509(sockfd=3)))
