"""Handshakes of others: what is checked, what is derived, and what is found to be wrong."""

import contextlib
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.sansio.capture import keylog
from ktls_agent.sansio.capture.foreign_records import (
    Flow,
    FlowEnd,
    ForeignHandshake,
    Outcome,
    SentAlert,
    TcpStream,
)
from ktls_agent.sansio.capture.foreign_tls import MAX_FINDINGS, examine_stream
from ktls_agent.sansio.capture.keylog import KeyLog, parse_keylog_untrusted
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import HandshakeCompleted
from tests.capture.forge import ALERT, DATA, HANDSHAKE, Content, Forged, cut
from tests.capture.openssl import Overheard, Peers
from tests.capture.streams import BEGAN, CLIENT, PREAMBLE, SERVER, overheard_stream, stream_of, with_data
from tests.peers import messages
from tests.tls.handshakes import Counter, client_parameters, issued
from tests.tls.test_primitives import Replayed, section

NO_LOG = KeyLog()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openssl")


@pytest.fixture(scope="module")
def heard(folder: Path) -> Overheard:
    return Peers.make(folder).talk()


@pytest.fixture(scope="module")
def mutual(folder: Path) -> Overheard:
    peers = Peers.make(folder, client=issued("rsa2048", "client.test"))
    peers.server.verify_mode = ssl.CERT_REQUIRED
    return peers.talk()


def examined(heard: Overheard, log: KeyLog | None = None, **changes: bytes) -> ForeignHandshake:
    stream = with_data(overheard_stream(heard), **changes)
    found = examine_stream(stream, parse_keylog_untrusted(heard.keylog) if log is None else log)
    assert found is not None
    return found


def without(heard: Overheard, *labels: bytes) -> KeyLog:
    lines = [line for line in heard.keylog.splitlines() if line.split()[0] not in labels]
    return parse_keylog_untrusted(b"\n".join(lines))


# Good handshakes


def test_a_handshake_is_checked_to_its_end(heard: Overheard) -> None:
    found = examined(heard)
    assert found.outcome is Outcome.COMPLETED
    assert (found.client, found.server) == (CLIENT, SERVER)
    assert (found.cipher_suite, found.group, found.retried) == ("AES_256_GCM", "x25519", False)
    assert (found.server_name, found.alpn, found.psk_identity) == ("server.test", None, None)
    assert found.server_certificate is not None
    assert found.server_certificate.subject == "CN=server.test"
    assert found.server_certificate.chain[0] == issued().chain[0]
    assert found.client_certificate is None
    assert found.tickets == 2
    assert found.records == (1, 3)
    assert found.findings == ()
    assert found.checked == (
        "The hellos agree: version, suite, key share and session id.",
        "The server's CertificateVerify is valid (ecdsa_secp256r1_sha256).",
        "The server's Finished is right for the messages before it.",
        "The client's Finished is right for the messages before it.",
        "The client's records behind the handshake open (1).",
        "The server's records behind the handshake open (3).",
    )
    assert found.unchecked == ("Whether the certificates are to be trusted: that takes trust anchors.",)


def test_its_times_are_those_of_its_first_and_last_message(heard: Overheard) -> None:
    found = examined(heard)
    assert (found.began, found.ended) == (BEGAN, BEGAN + 0.002)


def test_a_client_certificate_is_checked_as_well(mutual: Overheard) -> None:
    found = examined(mutual)
    assert found.outcome is Outcome.COMPLETED
    assert found.client_certificate is not None
    assert found.client_certificate.subject == "CN=client.test"
    assert "The client's CertificateVerify is valid (rsa_pss_rsae_sha256)." in found.checked
    assert found.findings == ()


@pytest.mark.parametrize("key_type", ["ed25519", "ed448", "p384", "p521", "rsa3072"])
def test_every_kind_of_certificate(key_type: Any, folder: Path) -> None:
    found = examined(Peers.make(folder, server=issued(key_type)).talk())
    assert found.outcome is Outcome.COMPLETED
    assert any("server's CertificateVerify is valid" in sentence for sentence in found.checked)


def test_a_client_that_presents_none_where_it_may(folder: Path) -> None:
    peers = Peers.make(folder)
    peers.server.verify_mode = ssl.CERT_OPTIONAL
    found = examined(peers.talk())
    assert (found.outcome, found.client_certificate, found.findings) == (Outcome.COMPLETED, None, ())


def test_alpn(folder: Path) -> None:
    peers = Peers.make(folder)
    for context in (peers.client, peers.server):
        context.set_alpn_protocols(["other", "sunrpc"])
    found = examined(peers.talk())
    assert (found.alpn_offered, found.alpn) == ((b"other", b"sunrpc"), b"other")


def test_a_hello_retry_request(folder: Path) -> None:
    peers = Peers.make(folder)
    peers.server.set_ecdh_curve("secp521r1")
    found = examined(peers.talk())
    assert (found.outcome, found.group, found.retried) == (Outcome.COMPLETED, "secp521r1", True)
    assert found.findings == ()


def test_a_resumption_goes_by_pre_shared_key(folder: Path) -> None:
    peers = Peers.make(folder)
    first = peers.talk()
    found = examined(peers.talk(session=first.session))
    assert found.outcome is Outcome.COMPLETED
    assert found.server_certificate is None
    assert found.psk_identities == (found.psk_identity,)
    assert found.psk_identity
    assert found.findings == ()
    assert found.unchecked == ("The pre-shared key's binder: that takes the key itself.",)


def test_tls_may_begin_behind_rpc(heard: Overheard) -> None:
    found = examine_stream(overheard_stream(heard, PREAMBLE), parse_keylog_untrusted(heard.keylog))
    assert found is not None
    assert found.outcome is Outcome.COMPLETED
    assert (found.began, found.ended) == (BEGAN + 0.002, BEGAN + 0.004)


def test_the_ends_may_be_captured_the_wrong_way_round(heard: Overheard) -> None:
    stream = overheard_stream(heard)
    turned = TcpStream(client=SERVER, server=CLIENT, to_server=stream.to_client, to_client=stream.to_server)
    assert examine_stream(turned, NO_LOG) == examine_stream(stream, NO_LOG)


def test_the_keys_are_those_that_an_agent_gives_to_the_kernel(folder: Path) -> None:
    peers = Peers.make(folder)
    engine = TlsEngine(client_parameters(), entropy=Counter())
    heard, wire_in, wire_out = Overheard(), ssl.MemoryBIO(), ssl.MemoryBIO()
    server = peers.server.wrap_bio(wire_in, wire_out, server_side=True)
    engine.start()
    event = None
    while event is None:
        said = _turn(engine, server, wire_in, wire_out, heard)
        while said and event is None:
            wanted = engine.bytes_wanted()
            engine.receive_data(said[:wanted])
            said, event = said[wanted:], engine.next_event()
    assert isinstance(event, HandshakeCompleted)
    _turn(engine, server, wire_in, wire_out, heard)
    found = examined(heard, parse_keylog_untrusted(peers.log.read_bytes()))
    assert found.outcome is Outcome.COMPLETED
    secrets = found.client_keys
    assert secrets == engine.extract_secrets()
    assert secrets is not None
    assert found.server_keys == replace(secrets, tx=replace(secrets.rx, sequence=2), rx=secrets.tx), (
        "the server's agent has sent two tickets"
    )


def _turn(
    engine: TlsEngine,
    server: ssl.SSLObject,
    wire_in: ssl.MemoryBIO,
    wire_out: ssl.MemoryBIO,
    heard: Overheard,
) -> bytes:
    """Carry what the engine says to the server, and return what that answers."""
    if said := engine.data_to_send():
        heard.turns.append((True, said))
        wire_in.write(said)
    with contextlib.suppress(ssl.SSLWantReadError):
        server.do_handshake()
    if said := wire_out.read():
        heard.turns.append((False, said))
    return said


# Handshakes that were refused or broken off


def test_a_client_that_refuses_the_server(folder: Path) -> None:
    peers = Peers.make(folder, server=issued("p256", "other.test"))
    found = examined(peers.talk())
    assert (found.outcome, found.alert) == (
        Outcome.REFUSED,
        SentAlert(sender="client", name="bad_certificate"),
    )
    assert found.findings == ()
    assert found.client_keys is None


def test_a_server_that_refuses_the_client(folder: Path) -> None:
    peers = Peers.make(folder)
    peers.server.verify_mode = ssl.CERT_REQUIRED
    found = examined(peers.talk())
    assert (found.outcome, found.alert) == (
        Outcome.REFUSED,
        SentAlert(sender="server", name="certificate_required"),
    )
    assert "The client's Finished is right for the messages before it." in found.checked
    assert found.findings == ()


def test_a_server_that_refuses_the_hello(folder: Path) -> None:
    peers = Peers.make(folder)
    peers.server.maximum_version = ssl.TLSVersion.TLSv1_2
    peers.client.minimum_version = ssl.TLSVersion.TLSv1_3
    found = examined(peers.talk())
    assert (found.outcome, found.alert) == (
        Outcome.REFUSED,
        SentAlert(sender="server", name="protocol_version"),
    )
    assert (found.cipher_suite, found.checked) == (None, ())


def test_the_alert_of_a_client_while_the_server_speaks(heard: Overheard) -> None:
    hello = heard.turns[0][1]
    found = examined(
        heard, client=hello + bytes.fromhex("15030300020250"), server=heard.said_by(client=False)[:200]
    )
    assert (found.outcome, found.alert) == (
        Outcome.REFUSED,
        SentAlert(sender="client", name="internal_error"),
    )


def test_an_alert_in_clear_is_seen_without_secrets(heard: Overheard) -> None:
    client = heard.turns[0][1] + bytes.fromhex("15030300020277")
    found = examined(heard, NO_LOG, client=client)
    assert (found.outcome, found.alert) == (Outcome.REFUSED, SentAlert(sender="client", name="alert 119"))


@pytest.mark.parametrize(
    ("end", "lost", "why"),
    [
        (FlowEnd.OPEN, False, "the capture ended"),
        (FlowEnd.FIN, False, "the connection was closed"),
        (FlowEnd.RST, False, "the connection was reset"),
        (FlowEnd.FIN, True, "the capture lacks bytes"),
    ],
)
def test_what_is_missing_is_said_with_the_reason(
    end: FlowEnd, lost: bool, why: str, heard: Overheard
) -> None:
    stream = overheard_stream(heard)
    silent = replace(stream, to_client=Flow(end=end, lost=lost))
    found = examine_stream(silent, NO_LOG)
    assert found is not None
    assert found.outcome is Outcome.BROKEN_OFF
    assert found.unchecked == (f"The server's ServerHello and all that is due then: {why}.",)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95])
def test_a_handshake_that_was_cut_off_is_checked_as_far_as_it_goes(share: float, heard: Overheard) -> None:
    server = heard.turns[1][1]
    found = examined(heard, client=heard.turns[0][1], server=server[: int(len(server) * share)])
    assert (found.outcome, found.findings) == (Outcome.BROKEN_OFF, ())


# Without secrets


def test_without_secrets_the_hellos_are_checked(heard: Overheard) -> None:
    found = examined(heard, NO_LOG)
    assert found.outcome is Outcome.UNKNOWN
    assert (found.cipher_suite, found.server_name, found.server_certificate) == (
        "AES_256_GCM",
        "server.test",
        None,
    )
    assert found.checked == ("The hellos agree: version, suite, key share and session id.",)
    assert found.unchecked == (
        "All behind the hellos: there is no key log with this connection's handshake secrets.",
    )
    assert found.records == (2, 7)
    assert found.findings == ()


def test_without_the_application_secrets_the_handshake_is_checked(heard: Overheard) -> None:
    found = examined(heard, without(heard, b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"))
    assert found.outcome is Outcome.COMPLETED
    assert found.client_keys is None
    assert found.unchecked[:2] == (
        "The client's records behind the handshake: their secret is not known.",
        "The server's records behind the handshake: their secret is not known.",
    )


def test_where_nothing_follows_no_application_secret_is_missed(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server_data, forged.client_data = [], []
    log = without(heard, b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0")
    found = examine_stream(forged.stream(), log)
    assert found is not None
    assert (found.outcome, len(found.unchecked)) == (Outcome.COMPLETED, 1)


@pytest.mark.parametrize("label", [b"CLIENT_HANDSHAKE_TRAFFIC_SECRET", b"SERVER_HANDSHAKE_TRAFFIC_SECRET"])
def test_one_handshake_secret_alone_is_not_enough(label: bytes, heard: Overheard) -> None:
    assert examined(heard, without(heard, label)).outcome is Outcome.UNKNOWN


def test_a_secret_of_another_hash_is_wrong(heard: Overheard) -> None:
    log = KeyLog(
        secrets={key: secret[:32] for key, secret in parse_keylog_untrusted(heard.keylog).secrets.items()}
    )
    found = examined(heard, log)
    assert found.outcome is Outcome.UNKNOWN
    assert found.findings[0] == (
        "The key log's CLIENT_HANDSHAKE_TRAFFIC_SECRET has 32 bytes, which AES_256_GCM does not go with."
    )


# What is wrong


def _with_secret(heard: Overheard, label: str, secret: bytes) -> KeyLog:
    log = parse_keylog_untrusted(heard.keylog)
    return KeyLog(secrets={key: secret if key[1] == label else old for key, old in log.secrets.items()})


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("SERVER_HANDSHAKE_TRAFFIC_SECRET", "The server breaks TLS: record that does not decrypt."),
        ("CLIENT_HANDSHAKE_TRAFFIC_SECRET", "The client breaks TLS: record that does not decrypt."),
        ("CLIENT_TRAFFIC_SECRET_0", "Record 0 of the client behind the handshake does not open."),
        ("SERVER_TRAFFIC_SECRET_0", "Record 0 of the server behind the handshake does not open."),
    ],
)
def test_a_secret_that_does_not_belong_to_it(label: str, sentence: str, heard: Overheard) -> None:
    found = examined(heard, _with_secret(heard, label, bytes(48)))
    assert found.findings == (sentence,)


def _flip(data: bytes, where: int) -> bytes:
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


def test_a_changed_byte_is_found(heard: Overheard) -> None:
    server = heard.said_by(client=False)
    assert examined(heard, server=_flip(server, 300)).findings == (
        "The server breaks TLS: record that does not decrypt.",
    )


# What no TLS library says: handshakes forged under their own secrets

WRONG_FINISHED = "The server's Finished is wrong for the messages before it."
NO_SIGNATURE = "The server's CertificateVerify is not a signature of this handshake by its certificate."


def judged(forged: Forged) -> ForeignHandshake:
    found = examine_stream(forged.stream(), forged.log)
    assert found is not None
    return found


def test_the_forger_changes_nothing_by_itself(heard: Overheard) -> None:
    found = judged(Forged.of(heard))
    assert (found.outcome, found.findings) == (Outcome.COMPLETED, ())


@pytest.mark.parametrize("side", ["server", "client"])
def test_a_wrong_finished(side: str, heard: Overheard) -> None:
    forged = Forged.of(heard)
    flight = getattr(forged, side)
    flight[-1] = flight[-1][:-1] + bytes([flight[-1][-1] ^ 1])
    assert f"The {side}'s Finished is wrong for the messages before it." in judged(forged).findings


def test_a_wrong_signature(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server[2] = messages.certificate_verify(0x0403, b"no signature")
    assert judged(forged).findings[:2] == (NO_SIGNATURE, WRONG_FINISHED)


def test_a_signature_by_a_scheme_of_another_key(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server[2] = messages.certificate_verify(0x0804, b"no signature")
    forged.finish()
    assert judged(forged).findings[0] == NO_SIGNATURE


@pytest.mark.parametrize(
    ("scheme", "known"),
    [(0x0808, True), (0x0201, False)],
)
def test_a_scheme_that_was_not_offered(scheme: int, known: bool, heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server[2] = messages.certificate_verify(scheme, b"no signature")
    kept = [one for one in forged.client_hello.extensions if one[0] != messages.Type.SIGNATURE_ALGORITHMS]
    forged.client_hello.extensions = [*kept, messages.signature_algorithms(0x0403)]
    forged.finish()
    found = judged(forged)
    assert found.findings[0] == f"The server signs with scheme 0x{scheme:04x}, which was not offered."
    assert (NO_SIGNATURE in found.findings) is known
    unknown = f"The server's CertificateVerify: scheme 0x{scheme:04x} is unknown here."
    assert (unknown in found.unchecked) is not known


def test_a_certificate_that_can_not_be_read(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server[1] = messages.certificate([b"no certificate"])
    forged.finish()
    found = judged(forged)
    assert found.findings[0].startswith("The server's certificate can't be read: ")
    assert found.server_certificate is None


def test_a_certificate_whose_key_is_not_used(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server[1] = messages.certificate(issued("rsa1024").chain)
    forged.finish()
    found = judged(forged)
    assert found.unchecked[0].startswith(
        "The server's CertificateVerify: the certificate has an RSA key of 1024 bits"
    )
    assert found.server_certificate is not None


def test_a_server_without_a_certificate(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server[1] = messages.certificate([])
    assert judged(forged).findings == ("The server breaks TLS: the server's Certificate is empty.",)


def test_a_message_in_the_wrong_place(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server[1:3] = []
    assert judged(forged).findings == (
        "The server breaks TLS: Finished came where CertificateRequest or Certificate was due.",
    )


def test_a_message_that_straddles_a_change_of_keys(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server.append(b"\x04")
    assert judged(forged).findings == ("The server breaks TLS: Finished is not the last in its record.",)


def test_a_protocol_that_was_not_offered(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server[0] = messages.encrypted_extensions([messages.alpn(b"other")])
    forged.finish()
    assert judged(forged).findings[0] == "The server chose the ALPN protocol b'other', which was not offered."


def test_early_data_that_the_server_takes_is_not_followed(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.client_hello.extensions.append((messages.Type.EARLY_DATA, b""))
    forged.server[0] = messages.encrypted_extensions([(messages.Type.EARLY_DATA, b"")])
    found = judged(forged)
    assert found.unchecked == (
        "All behind EncryptedExtensions: the server took early data, which is not followed.",
    )
    assert found.findings == ()


Extensions = list[tuple[int, bytes]]


def _replace(number: int, content: bytes | None) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        kept = [one for one in forged.server_hello.extensions if one[0] != number]
        added: Extensions = [] if content is None else [(number, content)]
        forged.server_hello.extensions = kept + added

    return change


def _set(**changes: Any) -> Callable[[Forged], None]:
    def change(forged: Forged) -> None:
        for name, value in changes.items():
            setattr(forged.server_hello, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_replace(43, None), "it does not choose TLS 1.3"),
        (_replace(43, b"\x03\x03"), "it does not choose TLS 1.3"),
        (_replace(43, b"\x03"), "a handshake message ends within one of its fields"),
        (_set(session_id=b"other"), "ServerHello does not echo the session id"),
        (_set(cipher_suite=0x1304), "cipher suite 0x1304 was not offered"),
        (_set(trailer=b"more"), "bytes are left over behind ServerHello"),
        (_replace(51, None), "ServerHello has neither key share nor pre-shared key"),
        (_replace(51, b"\x00\x17" + bytes(6)), "the group secp256r1 was not offered"),
        (_replace(51, b"\x12\x34" + bytes(6)), "the group 0x1234 was not offered"),
        (_replace(41, b"\x00\x00"), "the server chose a pre-shared key that was not offered"),
    ],
)
def test_a_server_hello_that_does_not_answer_the_client(
    change: Callable[[Forged], None], reason: str, heard: Overheard
) -> None:
    forged = Forged.of(heard)
    change(forged)
    found = judged(forged)
    assert found.findings == (f"The server breaks TLS: {reason}.",)
    assert (found.outcome, found.checked, found.psk_identity) == (Outcome.BROKEN_OFF, (), None)


def test_a_suite_that_is_not_known_here(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.client_hello.cipher_suites.append(0x1305)
    forged.server_hello.cipher_suite = 0x1305
    found = judged(forged)
    assert found.unchecked == ("All behind the hellos: the cipher suite 0x1305 is unknown here.",)
    assert found.findings == ()


def test_a_second_hello_retry_request(folder: Path) -> None:
    peers = Peers.make(folder)
    peers.server.set_ecdh_curve("secp521r1")
    heard = peers.talk()
    client, server = cut(heard.said_by(client=True)), cut(heard.said_by(client=False))
    (hello, *_, second) = [record for record in client if record[5] == 1]
    found = examined(heard, client=hello + second, server=server[0] + server[0])
    assert found.findings == ("The server breaks TLS: ServerHello does not go with its HelloRetryRequest.",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ((HANDSHAKE, messages.message(1, b"")), "The server sent ClientHello behind the handshake."),
        ((99, b"?"), "The server sent a record of type 99 behind the handshake."),
        ((0, b""), "Record 0 of the server behind the handshake does not open."),
    ],
)
def test_what_has_no_place_behind_the_handshake(content: Content, sentence: str, heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server_data = [content]
    assert judged(forged).findings == (sentence,)


def test_bytes_behind_the_last_record_are_left_alone(heard: Overheard) -> None:
    whole = heard.said_by(client=False)
    for rest in (
        b"\x17\x03\x03",
        b"\x17\x03\x03\x00\x10short",
        b"\x00" * 9,
        b"\x17\x03\x03\xff\xff" + bytes(70_000),
    ):
        assert examined(heard, server=whole + rest) == examined(heard)


def test_a_client_hello_may_lack_extensions(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.client_hello.extensions = []
    found = judged(forged)
    assert (found.server_name, found.alpn_offered) == (None, ())
    assert found.findings == ("The server breaks TLS: the group x25519 was not offered.",)


def test_an_extension_twice(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.client_hello.extensions *= 2
    assert judged(forged).findings == ("The client breaks TLS: a message has extension 0 twice.",)


def test_a_server_name_of_another_kind(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.client_hello.extensions[0] = messages.server_name(b"?", 7)
    assert judged(forged).server_name is None


def test_a_client_sends_no_tickets(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.client_data = [(HANDSHAKE, messages.message(4, b""))]
    found = judged(forged)
    assert (found.findings, found.tickets) == (("The client sent NewSessionTicket behind the handshake.",), 0)


def test_findings_are_bounded(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server_data = [(99, b"?")] * 100
    assert len(judged(forged).findings) == MAX_FINDINGS


def test_tickets_may_share_records_and_straddle_them(heard: Overheard) -> None:
    ticket = messages.message(4, bytes(20))
    forged = Forged.of(heard)
    forged.server_data = [
        (HANDSHAKE, ticket + ticket[:3]),
        (HANDSHAKE, ticket[3:]),
        (DATA, b"pong"),
        (HANDSHAKE, ticket),
    ]
    found = judged(forged)
    assert (found.tickets, found.findings) == (3, ())
    assert found.server_keys is not None
    assert found.server_keys.tx.sequence == 2


def test_what_follows_a_key_update_is_not_followed(heard: Overheard) -> None:
    forged = Forged.of(heard)
    forged.server_data = [
        (DATA, b"pong"),
        (HANDSHAKE, messages.message(24, b"\0")),
        (DATA, b"under the old keys"),
    ]
    found = judged(forged)
    assert "The server's records behind its KeyUpdate: they are not followed." in found.unchecked
    assert (found.records[1], found.findings) == (2, ())


@pytest.mark.parametrize(
    ("contents", "alert"),
    [
        ([(ALERT, b"\1\0")], None),
        ([(ALERT, b"\2\x2a")], SentAlert(sender="server", name="bad_certificate")),
        ([(ALERT, b"\2\x2a"), (ALERT, b"\2\x28")], SentAlert(sender="server", name="bad_certificate")),
        ([(DATA, b"pong"), (ALERT, b"\2\x14")], None),
    ],
    ids=["close_notify", "fatal", "the first counts", "behind data"],
)
def test_alerts_behind_the_handshake(
    contents: list[Content], alert: SentAlert | None, heard: Overheard
) -> None:
    forged = Forged.of(heard)
    forged.server_data = contents
    found = judged(forged)
    assert (found.alert, found.findings) == (alert, ())
    assert found.outcome is (Outcome.COMPLETED if alert is None else Outcome.REFUSED)


# RFC 8448: the published handshakes, with secrets made of the published private keys


@pytest.mark.parametrize(
    ("name", "private_at", "records"),
    [
        ("Simple_1RTT_Handshake", 32, (2, 3)),
        ("HelloRetryRequest_Handshake", 64, (1, 1)),
        ("Client_Authentication_Handshake", 32, (1, 1)),
        ("Middlebox_Compatibility_Mode", 64, (1, 1)),
    ],
)
def test_rfc_8448(shared_data: Path, name: str, private_at: int, records: tuple[int, int]) -> None:
    trace = section(shared_data, name)
    replayed = Replayed(trace, private_at=private_at)
    secrets = {keylog.CLIENT_HANDSHAKE: replayed.client, keylog.SERVER_HANDSHAKE: replayed.server}
    replayed.server_flight()
    replayed.schedule.mix(None)
    secrets[keylog.CLIENT_APPLICATION] = replayed.schedule.traffic_secret(
        b"c ap traffic", replayed.transcript
    )
    secrets[keylog.SERVER_APPLICATION] = replayed.schedule.traffic_secret(
        b"s ap traffic", replayed.transcript
    )
    random = trace["Record_ClientHello_1"][11:43]
    turns = [(name.startswith("Record_Client"), trace[name]) for name in _RECORDS if name in trace]
    found = examine_stream(
        stream_of(turns), KeyLog(secrets={(random, label): secret for label, secret in secrets.items()})
    )
    assert found is not None
    assert (found.outcome, found.findings) == (Outcome.COMPLETED, ())
    assert (found.records, found.tickets) == (records, int(name == "Simple_1RTT_Handshake"))
    assert found.retried == (name == "HelloRetryRequest_Handshake")
    # The servers' keys are RSA of 1024 bits, which the engine does not use; the client's is P-256.
    assert "an RSA key of 1024 bits" in found.unchecked[0]
    signed = sum("CertificateVerify is valid" in sentence for sentence in found.checked)
    assert signed == int(name == "Client_Authentication_Handshake")


_RECORDS = (
    "Record_ClientHello_1",
    "Record_HelloRetryRequest",
    "Record_ClientHello_2",
    "Record_ServerHello",
    "Record_ServerHandshakeMessages",
    "Record_ClientFinished",
    "Record_NewSessionTicket",
    "Record_Client_AppData",
    "Record_Server_AppData",
    "Record_Client_CloseNotify",
    "Record_Server_CloseNotify",
)


# Any bytes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1",
        b"\x80",
        b"\x80\0\0\x04ab",
        b"\x16\x03",
        b"\x16\x03\x01\0\x04\x02\0\0\0",
        b"\xff" * 40,
    ],
)
def test_a_stream_without_tls_is_none_of_ours(data: bytes) -> None:
    assert examine_stream(stream_of([(True, data), (False, data)]), NO_LOG) is None


@pytest.mark.parametrize("size", [3, 5, 6, 20, 200])
def test_a_hello_that_was_cut_off_is_a_handshake(size: int, heard: Overheard) -> None:
    found = examined(heard, client=heard.turns[0][1][:size], server=b"")
    assert (found.outcome, found.client_random) == (Outcome.BROKEN_OFF, b"")


@given(client=st.binary(max_size=200), server=st.binary(max_size=200), hello=st.booleans())
def test_any_bytes_are_told_about(client: bytes, server: bytes, hello: bool) -> None:
    start = b"\x16\x03\x01" if hello else b""
    found = examine_stream(stream_of([(True, start + client), (False, server)]), NO_LOG)
    assert found is None or found.outcome is not Outcome.COMPLETED


@settings(max_examples=200)
@given(data=st.data())
def test_a_mutation_is_never_taken_for_the_handshake(data: st.DataObject, heard: Overheard) -> None:
    by_client = data.draw(st.booleans())
    said = heard.said_by(client=by_client)
    where = data.draw(st.integers(0, len(said) - 1))
    changed = said[:where] + data.draw(st.binary(min_size=1, max_size=3)) + said[where + 1 :]
    stream = with_data(overheard_stream(heard), **{"client" if by_client else "server": changed})
    found = examine_stream(stream, parse_keylog_untrusted(heard.keylog))
    good = examined(heard)
    assert (
        found is None
        or found == good
        or found.findings
        or found.unchecked != good.unchecked
        or found.checked != good.checked
    )
