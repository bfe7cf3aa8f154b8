"""The defects of tlslite-ng that the engine works around, by the numbers of the project's notes on it.

Each test plays the same adversary against the engine and, where that is feasible, against stock tlslite-ng: it shows
what would happen without the workaround.  Alerts are read on the wire, decrypted under the keys that they came with.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.testing.records import Record
from ktls_agent.sansio.tls.credentials import CredentialError, load_identity
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import HandshakeCompleted, HandshakeFailed, Identity
from ktls_agent.sansio.tls.primitives import GROUPS_BY_NAME
from tests import pki
from tests.peers import messages
from tests.peers.adversary import (
    HANDSHAKE,
    Adversary,
    ClientAdversary,
    Protection,
    ServerAdversary,
    Step,
    Verdict,
    after,
    before,
    does,
    instead,
    sends,
    sends_alert,
    signed_content,
    without,
)
from tests.peers.messages import MessageType, Type, vector
from tests.tls.handshakes import (
    authority,
    client_engine,
    client_identity,
    client_parameters,
    client_verifier,
    identity,
    issued,
    mutual_client,
    mutual_server,
    server_engine,
    server_parameters,
    shake_hands,
)
from tests.tls.stock import StockEngine, stock_client, stock_server

Script = Callable[[Adversary], Sequence[Step]]


def against_client(
    script: Callable[[ServerAdversary], Sequence[Step]],
    engine: TlsEngine | StockEngine | None = None,
    who: Identity | None = None,
    **changes: Any,
) -> tuple[ServerAdversary, Verdict]:
    peer = ServerAdversary(engine or client_engine(), who or identity(), **changes)
    return peer, peer.run(script(peer))


def against_server(
    script: Callable[[ClientAdversary], Sequence[Step]],
    engine: TlsEngine | StockEngine | None = None,
    who: Identity | None = None,
    **changes: Any,
) -> tuple[ClientAdversary, Verdict]:
    peer = ClientAdversary(engine or server_engine(), who, **changes)
    return peer, peer.run(script(peer))


def assert_refused(
    verdict: Verdict, alert: Alert, protection: Protection, cause: Cause = Cause.PROTOCOL_VIOLATION
) -> None:
    assert isinstance(verdict.event, HandshakeFailed), verdict
    assert verdict.event.failure.cause is cause, verdict.reason
    assert (verdict.alert, verdict.protection) == (alert, protection), verdict.reason
    assert verdict.level == 2


# 1 and 2: compressed certificates


def compressed(peer: Adversary, chain: Sequence[bytes]) -> None:
    """Send the Certificate message in RFC 8879's compressed form."""
    body = messages.certificate(chain)[4:]
    inner = b"\x00\x01" + len(body).to_bytes(3) + vector(zlib.compress(body), 3)
    peer.message(messages.message(MessageType.COMPRESSED_CERTIFICATE, inner))


def test_01_server_refuses_a_compressed_certificate() -> None:
    """A server with certificate_compression_receive=[] still accepts one under reqCert."""

    def script(peer: ClientAdversary) -> list[Step]:
        return instead(
            peer.script(certificate=True), "certificate", does(lambda p: compressed(p, peer.chain))
        )

    _, stock = against_server(script, stock_server(issued(), reqCert=True), client_identity())
    assert stock.completed
    _, ours = against_server(script, server_engine(mutual_server()), client_identity())
    assert_refused(ours, Alert.UNEXPECTED_MESSAGE, Protection.APPLICATION)


def test_01_client_refuses_a_compressed_certificate() -> None:
    """A small message inflates to gigabytes: it is refused by its type, before its body is there."""

    def script(peer: ServerAdversary) -> list[Step]:
        return instead(peer.script(), "certificate", does(lambda p: p.record(HANDSHAKE, b"\x19\x00")))

    _, ours = against_client(script)
    assert_refused(ours, Alert.UNEXPECTED_MESSAGE, Protection.HANDSHAKE)


def request_extensions(engine: TlsEngine | StockEngine) -> dict[int, bytes]:
    peer, verdict = against_server(lambda p: p.script(certificate=True), engine, client_identity())
    assert verdict.completed
    return dict(messages.read_certificate_request(peer.received[MessageType.CERTIFICATE_REQUEST])[1])


def test_02_certificate_request_has_no_empty_compress_certificate() -> None:
    """`[]` + reqCert emits an empty compress_certificate extension (illegal, RFC 8879)."""
    assert Type.COMPRESS_CERTIFICATE in request_extensions(stock_server(issued(), reqCert=True))
    assert Type.COMPRESS_CERTIFICATE not in request_extensions(server_engine(mutual_server()))


# 3: signature schemes


def pkcs1_signature(peer: Adversary) -> None:
    """An RSASSA-PKCS1-v1_5 signature, as TLS 1.2 had them."""
    key = identity("rsa2048").private_key
    assert isinstance(key, rsa.RSAPrivateKey)
    content = signed_content(peer.role, peer.transcript, peer.schedule.suite.hash_name)
    signature = key.sign(content, padding.PKCS1v15(), hashes.SHA256())
    peer.message(messages.certificate_verify(0x0401, signature))


def test_03_client_refuses_a_scheme_that_tls_13_does_not_have() -> None:
    """A 1.3 client accepts a CertificateVerify scheme it never offered, even rsa_pkcs1_sha256."""

    def script(peer: ServerAdversary) -> list[Step]:
        return instead(peer.script(), "certificate_verify", does(pkcs1_signature))

    _, stock = against_client(script, stock_client(), identity("rsa2048"))
    assert stock.completed
    _, ours = against_client(script, who=identity("rsa2048"))
    assert_refused(ours, Alert.ILLEGAL_PARAMETER, Protection.HANDSHAKE)


def test_03_server_refuses_a_scheme_that_tls_13_does_not_have() -> None:
    def script(peer: ClientAdversary) -> list[Step]:
        return instead(peer.script(certificate=True), "certificate_verify", does(pkcs1_signature))

    _, ours = against_server(script, server_engine(mutual_server()), client_identity("rsa2048"))
    assert_refused(ours, Alert.ILLEGAL_PARAMETER, Protection.APPLICATION)


@pytest.mark.parametrize(
    ("key_type", "scheme"),
    [
        *(("p256", 0x0503), ("p384", 0x0403), ("p256", 0x0804), ("rsa2048", 0x0809)),
        *(("ed25519", 0x0808), ("p256", 0x0203), ("p256", 0xFFFF), ("ed448", 0x0403)),
    ],
)
def test_03_a_scheme_has_to_fit_the_key(key_type: pki.KeyType, scheme: int) -> None:
    peer = ServerAdversary(client_engine(), identity(key_type))
    peer.scheme = scheme
    assert_refused(peer.run(peer.script()), Alert.ILLEGAL_PARAMETER, Protection.HANDSHAKE)


# 4 and 5: ALPN


@pytest.mark.parametrize(
    ("offered", "chosen", "alert"),
    [
        ((b"sunrpc",), (b"h2",), Alert.ILLEGAL_PARAMETER),
        ((b"sunrpc",), (b"sunrp",), Alert.ILLEGAL_PARAMETER),
        ((), (b"sunrpc",), Alert.UNSUPPORTED_EXTENSION),
        ((b"sunrpc",), (), Alert.DECODE_ERROR),
        ((b"sunrpc",), (b"",), Alert.DECODE_ERROR),
        ((b"sunrpc",), (b"sunrpc", b"sunrpc"), Alert.DECODE_ERROR),
    ],
)
def test_04_client_refuses_a_protocol_that_it_did_not_offer(
    offered: tuple[bytes, ...], chosen: tuple[bytes, ...], alert: Alert
) -> None:
    """A 1.3 client accepts ALPN it never offered."""
    peer = ServerAdversary(client_engine(client_parameters(alpn=offered)), identity())
    peer.extensions = [messages.alpn(*chosen)]
    assert_refused(peer.run(peer.script()), alert, Protection.HANDSHAKE)


def test_04_stock_accepts_a_protocol_that_it_did_not_offer() -> None:
    peer = ServerAdversary(stock_client(alpn=[bytearray(b"sunrpc")]), identity())
    peer.extensions = [messages.alpn(b"h2")]
    assert peer.run(peer.script()).completed


def offers_alpn(*protocols: bytes) -> Callable[[ClientAdversary], Sequence[Step]]:
    def script(peer: ClientAdversary) -> Sequence[Step]:
        peer.set_extension(*messages.alpn(*protocols))
        return peer.script()

    return script


def test_05_server_without_protocols_of_its_own_takes_any_client() -> None:
    """A 1.3 server without `alpn=` raises TypeError when the client offers ALPN."""
    stock = stock_server(issued())
    against_server(offers_alpn(b"sunrpc"), stock)
    assert isinstance(stock.error, TypeError)
    assert isinstance(stock_server(issued(), alpn=[]).error, ValueError)

    _, ours = against_server(offers_alpn(b"sunrpc"), server_engine(server_parameters(alpn=())))
    assert isinstance(ours.event, HandshakeCompleted)
    assert ours.event.alpn is None


def test_05_server_refuses_a_client_of_another_protocol() -> None:
    """A mismatch is silently ignored."""
    _, stock = against_server(offers_alpn(b"h2"), stock_server(issued(), alpn=[bytearray(b"sunrpc")]))
    assert stock.completed
    _, ours = against_server(offers_alpn(b"h2"))
    assert_refused(ours, Alert.NO_APPLICATION_PROTOCOL, Protection.NONE)


# 6 and 7: client certificates


def test_06_certificate_request_names_the_authorities() -> None:
    """`reqCAs` is ignored in 1.3: append extension 47 (certificate_authorities) to CertificateRequest."""
    name = authority().subject.public_bytes()
    stock = request_extensions(stock_server(issued(), reqCert=True, reqCAs=[bytearray(name)]))
    assert Type.CERTIFICATE_AUTHORITIES not in stock
    ours = request_extensions(server_engine(mutual_server(certificate_authorities=(name,))))
    assert ours[Type.CERTIFICATE_AUTHORITIES] == vector(vector(name, 2), 2)


def test_07_a_missing_client_certificate_is_refused() -> None:
    """A missing client certificate is accepted silently."""

    def script(peer: ClientAdversary) -> list[Step]:
        return peer.script(certificate=True)

    _, stock = against_server(script, stock_server(issued(), reqCert=True))
    assert stock.completed
    _, ours = against_server(script, server_engine(mutual_server()))
    assert_refused(ours, Alert.CERTIFICATE_REQUIRED, Protection.APPLICATION, Cause.NO_PEER_CERTIFICATE)


def test_07_a_small_client_key_is_refused() -> None:
    """`minKeySize` isn't applied to 1.3 client certificates."""
    small = authority().issue(("client.test",), key_type="rsa1024").identity()

    def script(peer: ClientAdversary) -> list[Step]:
        return peer.script(certificate=True)

    _, stock = against_server(script, stock_server(issued(), reqCert=True), small)
    assert stock.completed
    _, ours = against_server(script, server_engine(mutual_server()), small)
    assert_refused(ours, Alert.BAD_CERTIFICATE, Protection.APPLICATION, Cause.BAD_CERTIFICATE)


# 8 and 15: pre-shared keys, which the engine does not offer


def selecting(*extensions: messages.Extension) -> Callable[[messages.ServerHello], None]:
    def change(hello: messages.ServerHello) -> None:
        hello.extensions = [hello.extensions[0], *extensions]

    return change


def test_08_client_refuses_a_psk_that_it_did_not_offer() -> None:
    """A PSK client accepts psk_ke when only psk_dhe_ke was offered: here nothing was offered."""
    peer = ServerAdversary(client_engine(), identity())
    peer.change_hello = lambda hello: hello.extensions.append((Type.PRE_SHARED_KEY, b"\0\0"))
    assert_refused(peer.run(peer.script()), Alert.UNSUPPORTED_EXTENSION, Protection.NONE)

    peer = ServerAdversary(client_engine(), identity())
    peer.change_hello = selecting((Type.PRE_SHARED_KEY, b"\0\0"))
    assert_refused(peer.run(peer.script()), Alert.UNSUPPORTED_EXTENSION, Protection.NONE)


def test_08_client_refuses_a_server_without_a_key_share() -> None:
    peer = ServerAdversary(client_engine(), identity())
    peer.change_hello = selecting()
    assert_refused(peer.run(peer.script()), Alert.MISSING_EXTENSION, Protection.NONE)


def test_08_client_refuses_a_server_without_a_certificate() -> None:
    for script in (
        lambda peer: without(peer.script(), "certificate", "certificate_verify"),
        lambda peer: without(peer.script(), "certificate_verify"),
        lambda peer: without(peer.script(), "certificate"),
    ):
        _, ours = against_client(script)
        assert_refused(ours, Alert.UNEXPECTED_MESSAGE, Protection.HANDSHAKE)


def offers_psk(*modes: int) -> Callable[[ClientAdversary], Sequence[Step]]:
    def script(peer: ClientAdversary) -> Sequence[Step]:
        peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, vector(bytes(modes), 1))
        peer.hello.extensions.append(messages.psk_offer([b"ticket"], [bytes(32)]))
        return peer.script()

    return script


@pytest.mark.parametrize("modes", [(1,), (0, 1), (1, 0), (7, 1)])
def test_15_server_ignores_the_offer_of_a_psk(modes: tuple[int, ...]) -> None:
    """Wrong binder -> illegal_parameter; unknown identity -> handshake_failure."""
    peer, verdict = against_server(offers_psk(*modes))
    assert verdict.completed
    assert Type.PRE_SHARED_KEY not in dict(peer.server_hello.extensions)
    assert MessageType.CERTIFICATE in peer.received


def test_15_the_default_shares_cost_no_hello_retry_request() -> None:
    """`keyShares=[]` with psk_ke costs a HelloRetryRequest: offer one share."""
    for group in ("x25519", "secp256r1"):
        pair = shake_hands(server=server_parameters(groups=(group,)))
        assert pair.client.sent.count(b"\x16\x03") == 1, "one ClientHello"


# 9: bounds before authentication


@pytest.mark.parametrize("length", [0xFFFFFF, 0x100000])
def test_09_a_giant_message_is_refused_by_its_header(length: int) -> None:
    """A handshake message up to 16 MiB is buffered before authentication."""
    header = b"\x16\x03\x01\x40\x00\x01" + length.to_bytes(3) + bytes(2**14 - 4)
    more = b"\x16\x03\x01\x40\x00" + bytes(2**14)
    stock, ours = stock_server(issued()), server_engine()
    for engine in (stock, ours):
        engine.receive_data(header)
        for _ in range(20):
            engine.receive_data(more)
    assert stock.next_event() is None
    assert ours.data_to_send() == bytes([21, 3, 3, 0, 2, 2, Alert.ILLEGAL_PARAMETER])


def test_09_sslv2_framing_is_refused_by_its_first_byte() -> None:
    """SSLv2 framing is accepted: reject by first byte."""
    stock, ours = stock_server(issued()), server_engine()
    for engine in (stock, ours):
        engine.receive_data(b"\x80")
    assert stock.next_event() is None
    assert ours.data_to_send() == bytes([21, 3, 3, 0, 2, 2, Alert.UNEXPECTED_MESSAGE])


# 10: the cost of a stranger's key


def test_10_a_giant_rsa_key_is_refused_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pure-Python modular exponentiation with attacker-sized RSA: 8 s at 16 kbit."""
    giant = rsa.RSAPublicNumbers(65537, (1 << 16383) + 1).public_key()
    chain = authority().issue(key_type="rsa2048", public_key=giant).chain
    used: list[object] = []
    monkeypatch.setattr(
        "ktls_agent.sansio.tls.adapters.signature_is_valid", lambda *arguments: used.append(arguments)
    )
    peer = ServerAdversary(client_engine(), identity("rsa2048"))
    peer.chain = chain
    verdict = peer.run(peer.script())
    assert_refused(verdict, Alert.BAD_CERTIFICATE, Protection.HANDSHAKE, Cause.BAD_CERTIFICATE)
    assert "16384" in verdict.reason
    assert used == []


# 11: exact records


def test_11_no_more_than_a_record_is_asked_for() -> None:
    """The stock read path asks for max(4096, n) bytes and swallows what follows the handshake."""
    stock = stock_client()
    assert stock.asked == [4096]
    ours = client_engine()
    assert ours.bytes_wanted() == 5
    ours.receive_data(b"\x16\x03\x03\x00\x50")
    assert ours.bytes_wanted() == 0x50


# 12: exceptions on bad input


def wrong_finished(peer: Adversary) -> Sequence[Step]:
    peer.alter[MessageType.FINISHED] = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    assert isinstance(peer, ClientAdversary | ServerAdversary)
    return peer.script()


def no_share(peer: ServerAdversary) -> Sequence[Step]:
    peer.change_hello = selecting()
    return peer.script()


@pytest.mark.parametrize(
    ("script", "error", "alert", "protection"),
    [
        (wrong_finished, "TLSDecryptionFailed", Alert.DECRYPT_ERROR, Protection.HANDSHAKE),
        (no_share, "TLSIllegalParameterException", Alert.MISSING_EXTENSION, Protection.NONE),
    ],
)
def test_12_every_refusal_of_a_client_has_an_alert(
    script: Callable[[ServerAdversary], Sequence[Step]], error: str, alert: Alert, protection: Protection
) -> None:
    """TLSDecryptionFailed and TLSIllegalParameterException without any alert sent."""
    _, stock = against_client(script, engine := stock_client())
    assert type(engine.error).__name__ == error
    assert stock.alert is None
    _, ours = against_client(script)
    assert_refused(ours, alert, protection)


def test_12_a_wrong_finished_of_a_client_has_an_alert() -> None:
    _, ours = against_server(wrong_finished)
    assert_refused(ours, Alert.DECRYPT_ERROR, Protection.APPLICATION)


@pytest.mark.parametrize("role", ["client", "server"])
def test_12_a_wrong_signature_has_an_alert(role: str) -> None:
    verify = MessageType.CERTIFICATE_VERIFY
    peer: Adversary
    if role == "client":
        peer = ServerAdversary(client_engine(), identity())
        script = peer.script()
        protection = Protection.HANDSHAKE
    else:
        peer = ClientAdversary(server_engine(mutual_server()), client_identity())
        script = peer.script(certificate=True)
        protection = Protection.APPLICATION
    peer.alter[verify] = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    assert_refused(peer.run(script), Alert.DECRYPT_ERROR, protection)


@pytest.mark.parametrize("cut", [1, 2, 5, 20, 40])
def test_12_truncated_messages_are_decode_errors(cut: int) -> None:
    """Non-alert exceptions escape on bad input (KeyError, IndexError, TypeError, AttributeError, ...)."""

    def shorter(data: bytes) -> bytes:
        return data[:1] + (len(data) - 4 - cut).to_bytes(3) + data[4:-cut]

    for kind in (MessageType.SERVER_HELLO, MessageType.CERTIFICATE, MessageType.CERTIFICATE_VERIFY):
        peer = ServerAdversary(client_engine(), identity())
        peer.alter[kind] = shorter
        verdict = peer.run(peer.script())
        assert verdict.alert in (Alert.DECODE_ERROR, Alert.MISSING_EXTENSION), verdict
    client = ClientAdversary(server_engine())
    client.alter[MessageType.CLIENT_HELLO] = shorter
    assert_refused(client.run(client.script()), Alert.DECODE_ERROR, Protection.NONE)


# 13: server_name


def test_13_names_that_tlslite_refuses_are_sent() -> None:
    """`serverName=''` sends a malformed SNI (use None); IP literals and underscores raise ValueError."""
    assert isinstance(stock_client(serverName="nfs_server.test").error, ValueError)
    peer = ServerAdversary(client_engine(client_parameters(server_name="nfs_server.test")), identity())
    assert dict(peer.client_hello.extensions)[Type.SERVER_NAME].endswith(b"nfs_server.test")

    peer = ServerAdversary(client_engine(client_parameters(server_name=None)), identity())
    assert Type.SERVER_NAME not in dict(peer.client_hello.extensions)


@pytest.mark.parametrize("name", [b"nfs_server.test", b"192.0.2.1", b"unknown.test"])
def test_13_a_name_that_is_not_ours_is_no_reason_for_an_alert(name: bytes) -> None:
    """The `sni=` argument sends a warning alert that kills a 1.3 handshake."""
    peer = ClientAdversary(server_engine())
    peer.set_extension(*messages.server_name(name))
    verdict = peer.run(peer.script())
    assert verdict.completed
    assert verdict.alert is None


def test_13_stock_sends_a_warning_about_the_name() -> None:
    _, verdict = against_server(lambda peer: peer.script(), stock_server(issued(), sni="other.test"))
    assert (verdict.alert, verdict.level) == (Alert.UNRECOGNIZED_NAME, 1)


# 14: extensions that nothing needs


def test_14_nothing_is_offered_that_the_kernel_can_not_do() -> None:
    """psk_key_exchange_modes is always sent; with a client certificate post_handshake_auth is advertised."""
    unwanted = {Type.PSK_KEY_EXCHANGE_MODES, Type.POST_HANDSHAKE_AUTH}
    stock = ServerAdversary(stock_client(issued(name="client.test")), identity())
    assert unwanted <= set(dict(stock.client_hello.extensions))
    ours = ServerAdversary(client_engine(mutual_client()), identity())
    assert not unwanted & set(dict(ours.client_hello.extensions))


# 16: the client is done first


def test_16_the_consumer_sees_a_late_rejection_not_the_agent() -> None:
    """A 1.3 client completes before the server has rejected its certificate."""
    wanted = mutual_server(verifier=client_verifier())
    stranger = pki.Authority("Stranger").issue(("client.test",)).identity()
    pair = shake_hands(client_parameters(identity=stranger), wanted)
    assert pair.server.failure.cause is Cause.UNKNOWN_CA
    assert pair.client.completed
    assert pair.client.secrets.rx.sequence == 0
    assert pair.client.receive() == [Record(content_type=21, data=bytes([2, Alert.UNKNOWN_CA]))]


# 17: keys are loaded by cryptography


def test_17_a_brainpool_key_is_refused_in_a_sentence() -> None:
    """PKCS#8 brainpool keys don't load: load keys with `cryptography`."""
    brainpool = authority().issue(("server.test",), key_type="brainpoolP256r1")
    assert stock_server_error(brainpool) is not None
    with pytest.raises(CredentialError, match="brainpoolP256r1"):
        load_identity(brainpool.certificate_pem(), brainpool.private_key_pem())


def stock_server_error(credentials: pki.Issued) -> Exception | None:
    return stock_server(credentials).error


# 18: a client among adversaries


def test_18_alerts_before_the_servers_finished_are_protected() -> None:
    """Alerts between ServerHello and the server's Finished go out unprotected."""

    def script(peer: ServerAdversary) -> list[Step]:
        return instead(peer.script(), "encrypted_extensions", sends(b"\x08\x00\x00\x00"))

    _, stock = against_client(script, stock_client())
    assert stock.protection is Protection.NONE
    _, ours = against_client(script)
    assert_refused(ours, Alert.DECODE_ERROR, Protection.HANDSHAKE)


def test_18_change_cipher_spec_comes_before_an_encrypted_certificate() -> None:
    """No ChangeCipherSpec before an encrypted client Certificate."""
    for engine, expected in (
        (stock_client(issued(name="client.test")), 23),
        (client_engine(mutual_client()), 20),
    ):
        peer, verdict = against_client(lambda p: p.script(client_certificate=True), engine)
        assert verdict.completed
        assert [kind for kind, _ in peer.records][1] == expected
        assert [kind for kind, _ in peer.records].count(20) == 1


def test_18_alerts_of_a_client_follow_a_change_cipher_spec() -> None:
    peer = ServerAdversary(client_engine(), identity())
    peer.extensions = [messages.alpn(b"h2")]
    assert peer.run(peer.script()).alert is Alert.ILLEGAL_PARAMETER
    assert [kind for kind, _ in peer.records] == [22, 20, 23]


def test_18_a_second_hello_retry_request_is_refused() -> None:
    """A second HelloRetryRequest raises AttributeError."""

    def script(peer: ServerAdversary) -> list[Step]:
        retry = peer.script(hello_retry=True)
        return [retry[0], *retry]

    _, stock = against_client(script, engine := stock_client(), group="secp384r1")
    assert not stock.completed
    assert isinstance(engine.error, AttributeError)
    _, ours = against_client(script, group="secp384r1")
    assert_refused(ours, Alert.UNEXPECTED_MESSAGE, Protection.NONE)


def straddling(peer: ServerAdversary) -> None:
    """ServerHello and the beginning of EncryptedExtensions in one plaintext record."""
    peer.coalesce = True
    peer.server_hello()
    peer.encrypted_extensions()
    data = peer.take_waiting()
    peer.coalesce = False
    peer.record(HANDSHAKE, data[:-3])
    peer.handshake_keys()
    peer.record(HANDSHAKE, data[-3:])


def test_18_handshake_data_that_straddles_a_change_of_keys_is_refused() -> None:
    """Wrongly accepted: handshake data that straddles a key change."""

    def script(peer: ServerAdversary) -> list[Step]:
        rest = without(peer.script(), "change_cipher_spec", "handshake_keys", "encrypted_extensions")
        return instead(rest, "server_hello", does(straddling))

    _, stock = against_client(script, stock_client())
    assert stock.completed
    _, ours = against_client(script)
    assert_refused(ours, Alert.UNEXPECTED_MESSAGE, Protection.NONE)


def split_by_change_cipher_spec(peer: ServerAdversary) -> None:
    peer.coalesce = True
    peer.encrypted_extensions()
    data = peer.take_waiting()
    peer.coalesce = False
    peer.record(HANDSHAKE, data[:3])
    peer.change_cipher_spec()
    peer.record(HANDSHAKE, data[3:])


def test_18_fragments_across_a_change_cipher_spec_are_refused() -> None:
    """Wrongly accepted: fragments across a ChangeCipherSpec."""

    def script(peer: ServerAdversary) -> list[Step]:
        return instead(peer.script(), "encrypted_extensions", does(split_by_change_cipher_spec))

    _, stock = against_client(script, stock_client())
    assert stock.completed
    _, ours = against_client(script)
    assert_refused(ours, Alert.UNEXPECTED_MESSAGE, Protection.HANDSHAKE)


GROUPS_EXTENSION = messages.supported_groups(29)


@pytest.mark.parametrize(
    ("extensions", "alert", "stock_accepts"),
    [
        ([GROUPS_EXTENSION, GROUPS_EXTENSION], Alert.ILLEGAL_PARAMETER, True),
        ([(0x7A7A, b"")], Alert.UNSUPPORTED_EXTENSION, True),
        ([(Type.MAX_FRAGMENT_LENGTH, b"\x01")], Alert.UNSUPPORTED_EXTENSION, True),
        ([(Type.EARLY_DATA, b"")], Alert.UNSUPPORTED_EXTENSION, True),
        ([(Type.KEY_SHARE, b"\x00\x00")], Alert.ILLEGAL_PARAMETER, True),
        ([(Type.SIGNATURE_ALGORITHMS, b"\x00\x02\x04\x03")], Alert.ILLEGAL_PARAMETER, True),
        ([(Type.SERVER_NAME, b"\x00\x00")], Alert.DECODE_ERROR, False),
    ],
)
def test_18_encrypted_extensions_that_are_refused(
    extensions: list[messages.Extension], alert: Alert, stock_accepts: bool
) -> None:
    """Wrongly accepted: duplicate, unknown or unsolicited extensions."""
    peer = ServerAdversary(client_engine(), identity())
    peer.extensions = extensions
    assert_refused(peer.run(peer.script()), alert, Protection.HANDSHAKE)
    stock = ServerAdversary(stock_client(), identity())
    stock.extensions = extensions
    if stock_accepts:
        assert stock.run(stock.script()).completed


@pytest.mark.parametrize(
    ("extension", "alert"),
    [
        ((0x7A7A, b""), Alert.UNSUPPORTED_EXTENSION),
        ((Type.SUPPORTED_VERSIONS, b"\x03\x04"), Alert.ILLEGAL_PARAMETER),
        ((Type.ALPN, b"\x00\x07\x06sunrpc"), Alert.ILLEGAL_PARAMETER),
        ((Type.COOKIE, b"\x00\x01c"), Alert.ILLEGAL_PARAMETER),
    ],
)
def test_18_server_hello_extensions_that_are_refused(extension: messages.Extension, alert: Alert) -> None:
    peer = ServerAdversary(client_engine(), identity())
    peer.change_hello = lambda hello: hello.extensions.append(extension)
    assert_refused(peer.run(peer.script()), alert, Protection.NONE)


@pytest.mark.parametrize(
    ("extension", "alert"),
    [
        ((0x7A7A, b""), Alert.UNSUPPORTED_EXTENSION),
        ((Type.STATUS_REQUEST, b"\x01\x00\x00\x01o"), Alert.UNSUPPORTED_EXTENSION),
        ((Type.CERTIFICATE_TIMESTAMP, b"\x00\x00"), Alert.UNSUPPORTED_EXTENSION),
        ((Type.KEY_SHARE, b""), Alert.ILLEGAL_PARAMETER),
    ],
)
@pytest.mark.parametrize("role", ["client", "server"])
def test_18_certificate_extensions_that_are_refused(
    role: str, extension: messages.Extension, alert: Alert
) -> None:
    def certificate(peer: Adversary) -> None:
        chain = identity().chain if role == "client" else client_identity().chain
        peer.message(messages.certificate(chain, extensions=[extension]))

    if role == "client":
        _, verdict = against_client(lambda peer: instead(peer.script(), "certificate", does(certificate)))
        assert_refused(verdict, alert, Protection.HANDSHAKE)
    else:
        _, verdict = against_server(
            lambda peer: instead(peer.script(certificate=True), "certificate", does(certificate)),
            server_engine(mutual_server()),
            client_identity(),
        )
        assert_refused(verdict, alert, Protection.APPLICATION)


def test_18_a_certificate_that_must_not_sign_is_refused() -> None:
    """Wrongly accepted: a certificate whose keyUsage forbids signing."""
    leaf = authority().issue(
        key_label="no signatures", extensions=[(pki.key_usage("key_encipherment"), True)]
    )
    _, stock = against_client(lambda peer: peer.script(), stock_client(), leaf.identity())
    assert stock.completed
    _, ours = against_client(lambda peer: peer.script(), who=leaf.identity())
    assert isinstance(ours.event, HandshakeFailed)
    assert ours.protection is Protection.HANDSHAKE
    assert ours.alert in (Alert.BAD_CERTIFICATE, Alert.UNSUPPORTED_CERTIFICATE)
    assert "digitalSignature" in ours.reason


def test_18_change_cipher_spec_records_have_an_end() -> None:
    """Wrongly accepted: endless ChangeCipherSpec or KeyUpdate records."""

    def script(peer: ServerAdversary) -> list[Step]:
        many = [does(lambda p: p.change_cipher_spec()) for _ in range(500)]
        return before(peer.script(), "encrypted_extensions", *many)

    _, stock = against_client(script, stock_client())
    assert stock.completed
    _, ours = against_client(script)
    assert_refused(ours, Alert.UNEXPECTED_MESSAGE, Protection.HANDSHAKE)


@pytest.mark.parametrize("step", ["encrypted_extensions", "certificate", "certificate_verify", "finished"])
@pytest.mark.parametrize(
    "kind",
    [MessageType.KEY_UPDATE, MessageType.NEW_SESSION_TICKET, MessageType.HELLO_REQUEST, 99],
)
def test_18_messages_of_another_time_are_refused(step: str, kind: int) -> None:
    _, ours = against_client(
        lambda peer: before(peer.script(), step, sends(messages.message(kind, b"\0"), in_transcript=True))
    )
    assert_refused(ours, Alert.UNEXPECTED_MESSAGE, Protection.HANDSHAKE)


def test_18_an_alert_from_the_server_under_its_keys_is_heard() -> None:
    _, ours = against_client(
        lambda peer: after(peer.script(), "encrypted_extensions", sends_alert(Alert.INTERNAL_ERROR))
    )
    assert isinstance(ours.event, HandshakeFailed)
    assert ours.event.failure.cause is Cause.PEER_ALERT
    assert ours.alert is None


# 19: server_name again


@pytest.mark.parametrize(
    ("content", "alert"),
    [
        (b"\x00\x00", Alert.DECODE_ERROR),
        (b"", Alert.DECODE_ERROR),
        (b"\x00\x03\x00\x00\x00", Alert.DECODE_ERROR),
        (messages.server_name(b"\xff.test")[1], Alert.ILLEGAL_PARAMETER),
        (b"\x00\x08\x00\x00\x01a\x00\x00\x01b", Alert.ILLEGAL_PARAMETER),
    ],
)
def test_19_a_malformed_server_name_is_refused(content: bytes, alert: Alert) -> None:
    """An SNI extension with an empty list raises IndexError: one hostile packet, one traceback."""
    peer = ClientAdversary(server_engine())
    peer.set_extension(Type.SERVER_NAME, content)
    assert_refused(peer.run(peer.script()), alert, Protection.NONE)


def test_19_a_name_of_an_unknown_type_is_no_name() -> None:
    content = messages.server_name(b"server.test", name_type=1)

    def script(peer: ClientAdversary) -> Sequence[Step]:
        peer.set_extension(*content)
        return peer.script()

    against_server(script, stock := stock_server(issued()))
    assert isinstance(stock.error, IndexError)
    _, ours = against_server(script)
    assert isinstance(ours.event, HandshakeCompleted)
    assert ours.event.server_name is None


# 20: ECDH


@pytest.mark.parametrize(
    ("name", "curve", "size"),
    [("secp256r1", ec.SECP256R1(), 32), ("secp384r1", ec.SECP384R1(), 48), ("secp521r1", ec.SECP521R1(), 66)],
)
def test_20_a_shared_secret_keeps_its_leading_zeros(name: str, curve: ec.EllipticCurve, size: int) -> None:
    """python-ecdsa's ECDH with an integer private key is wrong on some P-384/P-521 inputs."""
    group = GROUPS_BY_NAME[name]
    multiples = (ec.derive_private_key(scalar, curve).public_key() for scalar in range(2, 5000))
    public = next(key for key in multiples if key.public_numbers().x < 1 << 8 * (size - 1))
    private = group.generate(lambda _: (1).to_bytes(size))
    share = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    shared = group.exchange_untrusted(private, share)
    assert shared == public.public_numbers().x.to_bytes(size)
    assert shared[0] == 0
