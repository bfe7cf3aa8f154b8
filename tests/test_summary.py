"""The one log line of a request."""

import datetime as dt
from dataclasses import replace

import pytest

from ktls_agent.sansio.lifecycle import Deadlines, SendDone
from ktls_agent.sansio.request import (
    ClientAnon,
    ClientPsk,
    ClientX509,
    HandshakeRequest,
    InvalidRequest,
    ServerPsk,
    ServerX509,
)
from ktls_agent.sansio.session import Session
from ktls_agent.sansio.status import Cause, failure
from ktls_agent.sansio.summary import MAX_NAMES_TOLD, log_fields, summarize
from ktls_agent.sansio.tls.parameters import HandshakeCompleted, PeerCertificate
from tests.io_trio.house import full_credentials
from tests.pki import NOW
from tests.test_session import NoKeys, stage

PEER = PeerCertificate(
    chain=(b"",),
    subject="CN=a",
    names=(),
    issuer="CN=b",
    not_after=dt.datetime(2030, 1, 1, tzinfo=dt.UTC),
)
COMPLETED = HandshakeCompleted(
    cipher_suite="AES_256_GCM",
    group="x25519",
    alpn=b"\xffx",
    peer=PEER,
    server_name=None,
)


def session(
    request: HandshakeRequest | InvalidRequest,
    *,
    completed: HandshakeCompleted | None = None,
    status: int | None = None,
    remote_auth: tuple[int, ...] = (),
    notes: tuple[str, ...] = (),
) -> Session:
    """A session that has got so far."""
    made = Session(request, keys=NoKeys(), entropy=bytes, now=10.0, deadlines=Deadlines())
    made.completed = completed
    made.notes.extend(notes)
    if status is not None:
        made.report = SendDone(sockfd=request.sockfd, status=status, remote_auth=remote_auth)
    return made


def test_tells_everything_about_a_success() -> None:
    over = session(
        ClientX509(sockfd=3, peername="server.test"), completed=COMPLETED, status=0, remote_auth=(7, 8)
    )
    over.peer_address = "192.0.2.1"
    assert summarize(over, {"handshake": 10.0125, "install": 10.0135, "done": 10.014}) == {
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
    over = session(ClientPsk(sockfd=3, peer_identities=(7,)), completed=completed, status=0, remote_auth=(7,))
    fields = summarize(over, {})
    assert (fields["role"], fields["auth"], fields["remote_auth"]) == ("client", "psk", "7")
    assert str(fields["psk"]).startswith("NVMe0R01 a\\n\\xffbbb")
    assert len(str(fields["psk"])) < 1000
    assert not {"subject", "alpn", "group", "note"} & fields.keys()


def test_tells_why_a_request_failed() -> None:
    over = session(ServerX509(sockfd=3), status=13, notes=("One.", "Two."))
    over.request.start()
    over.request.handshake_failed(failure(Cause.UNKNOWN_CA, "Nobody knows it."))
    assert summarize(over, {}) == {
        "role": "server",
        "auth": "x509",
        "status": "EACCES",
        "cause": "unknown_ca",
        "reason": "Nobody knows it.",
        "note": "One. Two.",
        "total_ms": 0.0,
    }


def test_a_client_without_a_certificate_is_named() -> None:
    completed = replace(COMPLETED, peer=None)
    fields = summarize(session(ServerX509(sockfd=3), completed=completed, status=0), {})
    assert fields["note"] == "The client presented no certificate; an export with xprtsec=mtls refuses it."
    assert "note" not in summarize(session(ClientX509(sockfd=3), completed=completed, status=0), {})


def test_an_invalid_request_has_neither_role_nor_peer() -> None:
    assert summarize(session(InvalidRequest(sockfd=3, reason="It is."), status=4000), {}) == {
        "role": "unknown",
        "auth": "unknown",
        "status": "4000",
        "cause": "invalid_request",
        "reason": "It is.",
        "total_ms": 0.0,
    }


def test_what_is_not_known_is_left_out() -> None:
    assert summarize(session(ServerX509(sockfd=3)), {}) == {
        "role": "server",
        "auth": "x509",
        "total_ms": 0.0,
    }


def test_the_log_line_tells_more_of_a_success() -> None:
    done = stage("server").session
    done.completed = replace(
        COMPLETED, server_name="server.test", peer=replace(PEER, names=("DNS:a", "DNS:b"))
    )
    fields = log_fields(done, {})
    assert {name: fields[name] for name in ("version", "names", "sni")} == {
        "version": "TLS 1.3",
        "names": "DNS:a, DNS:b",
        "sni": "server.test",
    }
    assert fields.items() >= summarize(done, {}).items()


def test_of_many_names_the_log_line_tells_a_few() -> None:
    over = session(
        ServerX509(sockfd=3), completed=replace(COMPLETED, peer=replace(PEER, names=("DNS:a",) * 60))
    )
    assert log_fields(over, {})["names"] == f"{'DNS:a, ' * MAX_NAMES_TOLD}".rstrip(", ") + " and 52 more"


@pytest.mark.parametrize(
    ("request_", "subject"),
    [
        (ServerX509(sockfd=3), "CN=server.test"),
        (ClientX509(sockfd=3, peername="server.test"), "CN=client.test"),
    ],
)
def test_the_log_line_names_the_own_certificate(request_: HandshakeRequest, subject: str) -> None:
    made = session(request_)
    made.start(full_credentials(), peer_address="192.0.2.1", wall_clock=NOW)
    assert log_fields(made, {})["identity"] == subject


@pytest.mark.parametrize("request_", [ClientAnon(sockfd=3, peername="server.test"), ServerPsk(sockfd=3)])
def test_a_handshake_without_an_own_certificate_names_none(request_: HandshakeRequest) -> None:
    made = session(request_)
    made.start(full_credentials(), peer_address="192.0.2.1", wall_clock=NOW)
    assert not {"identity", "version", "names", "sni"} & log_fields(made, {}).keys()
