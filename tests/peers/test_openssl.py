"""OpenSSL as the peer: Python's ssl, and `openssl s_server` and `s_client` where ssl has no switch for it."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls.credentials import load_identity
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import CIPHER_SUITES, GROUPS, HandshakeCompleted
from ktls_agent.sansio.tls.verify import ServerCertificateVerifier, TrustStore
from tests import pki
from tests.peers.adversary import ClientAdversary, ServerAdversary, after, sends_record
from tests.peers.conftest import GetFiles
from tests.peers.live import (
    Files,
    Program,
    connect,
    dial,
    find_program,
    listening,
    ssl_context,
    ssl_peer,
    waiting,
)
from tests.pki import KeyType
from tests.tls.handshakes import (
    KEY_TYPES,
    client_engine,
    client_identity,
    client_parameters,
    identity,
    mutual_client,
    mutual_server,
    server_engine,
    server_parameters,
    server_verifier,
)

OPENSSL_SUITES = {
    "AES_256_GCM": "TLS_AES_256_GCM_SHA384",
    "CHACHA20_POLY1305": "TLS_CHACHA20_POLY1305_SHA256",
    "AES_128_GCM": "TLS_AES_128_GCM_SHA256",
    "AES_128_CCM": "TLS_AES_128_CCM_SHA256",
}
OPENSSL_GROUPS = {"x25519": "X25519", "secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
LINE = b"a line of data\n"


# Python's ssl


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_client_with_every_key_type(files: GetFiles, key_type: KeyType, mutual: bool) -> None:
    context = ssl_context(files(key_type, "server.test"), server=True, mutual=mutual)
    with ssl_peer(context, server=True) as (sock, problems):
        live = connect(sock, client_engine(mutual_client(key_type) if mutual else client_parameters()))
        assert live.completed.alpn == b"sunrpc"
        live.exchange()
    assert problems == []


@pytest.mark.parametrize("count", [0, 2, 5])
def test_the_tickets_of_a_server_stay_in_the_socket(files: GetFiles, count: int) -> None:
    """OpenSSL 3.0 sends them even to a client that did not offer psk_key_exchange_modes."""
    context = ssl_context(files("p256", "server.test"), server=True)
    context.num_tickets = count
    with ssl_peer(context, server=True) as (sock, problems):
        live = connect(sock, client_engine())
        live.exchange()
        assert live.tickets == count
    assert problems == []


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_server_with_every_key_type(files: GetFiles, key_type: KeyType, mutual: bool) -> None:
    context = ssl_context(files(key_type, "client.test"), server=False, mutual=mutual)
    parameters = mutual_server(key_type) if mutual else server_parameters(key_type)
    with ssl_peer(context, server=False) as (sock, problems):
        live = connect(sock, server_engine(parameters))
        assert live.completed.alpn == b"sunrpc"
        assert live.completed.server_name == "server.test"
        assert (live.completed.peer is not None) is mutual
        live.exchange()
    assert problems == []


def test_application_data_in_the_same_segment_as_a_clients_finished_stays_in_the_socket(
    files: GetFiles,
) -> None:
    context = ssl_context(files("p256", "client.test"), server=False, mutual=True)
    with ssl_peer(context, server=False, greeting=b"at once") as (sock, problems):
        live = connect(sock, server_engine(mutual_server()))
        left = waiting(sock)
        assert left[:1] == b"\x17"
        assert len(left) == 5 + len(b"at once") + 1 + 16
        assert live.receive(7) == b"at once"
        live.exchange()
    assert problems == []


def test_a_client_that_the_server_refuses_is_told_by_the_socket(files: GetFiles) -> None:
    """A TLS 1.3 client is done before the server has judged its certificate: the alert is the consumer's."""
    context = ssl_context(files("p256", "server.test"), server=True, mutual=True)
    with ssl_peer(context, server=True) as (sock, problems):
        live = connect(sock, client_engine())
        assert live.completed
        (record,) = live.records.receive_data_untrusted(sock.recv(65536))
        assert (record.content_type, record.data) == (21, bytes([2, Alert.CERTIFICATE_REQUIRED]))
    assert any("did not return a certificate" in problem for problem in problems), problems


def test_a_server_that_we_refuse_reads_our_alert(files: GetFiles) -> None:
    context = ssl_context(files("p256", "server.test"), server=True)
    parameters = client_parameters(verifier=server_verifier("other.test"))
    with ssl_peer(context, server=True) as (sock, problems):
        assert connect(sock, client_engine(parameters)).failed.failure.cause is Cause.NAME_MISMATCH
    assert len(problems) == 1
    assert "bad certificate" in problems[0].lower().replace("_", " ")


def test_a_client_that_we_refuse_reads_our_alert(files: GetFiles) -> None:
    context = ssl_context(files("p256", "client.test"), server=False)
    with ssl_peer(context, server=False) as (sock, problems):
        live = connect(sock, server_engine(mutual_server()))
        assert live.failed.failure.cause is Cause.NO_PEER_CERTIFICATE
    assert len(problems) == 1
    assert "certificate required" in problems[0].lower().replace("_", " ")


# A peer that sends application data with its last flight, in both roles


class OverSocket:
    """An engine behind a socket pair, read exactly; what an adversary sends arrives in one segment."""

    def __init__(self, engine: TlsEngine) -> None:
        self._engine = engine
        self.ours, self._theirs = socket.socketpair()
        self.data_to_send = engine.data_to_send
        self.next_event = engine.next_event

    def receive_data(self, data: bytes) -> None:
        self._theirs.sendall(data)
        while (wanted := self._engine.bytes_wanted()) and waiting(self.ours):
            self._engine.receive_data(self.ours.recv(wanted))

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()


def test_application_data_in_the_same_segment_as_a_servers_finished_stays_in_the_socket() -> None:
    wire = OverSocket(client_engine())
    peer = ServerAdversary(wire, identity())
    verdict = peer.run(after(peer.script(), "application_keys", sends_record(23, b"at once")))
    left = waiting(wire.ours)
    wire.close()
    assert isinstance(verdict.event, HandshakeCompleted)
    assert left[:5] == b"\x17\x03\x03\x00\x18"
    assert len(left) == 5 + 24


def test_application_data_behind_a_clients_finished_stays_in_the_socket() -> None:
    wire = OverSocket(server_engine(mutual_server()))
    peer = ClientAdversary(wire, client_identity())
    script = after(peer.script(certificate=True), "application_keys", sends_record(23, b"at once"))
    verdict = peer.run(script)
    left = waiting(wire.ours)
    wire.close()
    assert isinstance(verdict.event, HandshakeCompleted)
    assert len(left) == 5 + 24


# openssl s_server


@pytest.fixture(scope="module")
def openssl() -> str:
    return find_program("openssl", "openssl")


@contextmanager
def s_server(openssl: str, files: Files, *options: str) -> Iterator[tuple[Program, int]]:
    command = [openssl, "s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-alpn", "sunrpc"]
    command += ["-cert", str(files.certificate), "-key", str(files.key), "-CAfile", str(files.authority)]
    with Program([*command, *options]) as program:
        yield program, int(program.wait_for(b"ACCEPT ").rpartition(b":")[2])


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_client_with_every_suite(openssl: str, files: GetFiles, suite: str) -> None:
    options = ("-rev", "-ciphersuites", OPENSSL_SUITES[suite])
    with s_server(openssl, files("p256", "server.test"), *options) as (_, port), dial(port) as sock:
        live = connect(sock, client_engine())
        assert live.completed.cipher_suite == suite
        live.send(b"drawer\n")
        assert live.receive(7) == b"reward\n"


@pytest.mark.parametrize("group", GROUPS)
def test_client_with_every_group(openssl: str, files: GetFiles, group: str) -> None:
    options = ("-rev", "-groups", OPENSSL_GROUPS[group])
    with s_server(openssl, files("p256", "server.test"), *options) as (_, port), dial(port) as sock:
        live = connect(sock, client_engine())
        assert live.completed.group == group
        live.send(b"drawer\n")
        assert live.receive(7) == b"reward\n"
        assert live.tickets == 2


def test_client_reads_the_authorities_of_a_certificate_request(openssl: str, files: GetFiles) -> None:
    options = ("-rev", "-Verify", "1", "-verify_return_error")
    with s_server(openssl, files("p256", "server.test"), *options) as (_, port), dial(port) as sock:
        live = connect(sock, client_engine(mutual_client("ed25519")))
        live.send(b"drawer\n")
        assert live.receive(7) == b"reward\n"


# openssl s_client


@contextmanager
def s_client(openssl: str, files: Files, *options: str) -> Iterator[tuple[Program, socket.socket]]:
    with listening() as (server, port):
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-alpn", "sunrpc"]
        command += ["-servername", "server.test", "-verify_hostname", "server.test", "-verify_return_error"]
        with Program([*command, "-CAfile", str(files.authority), *options]) as program:
            sock, _ = server.accept()
            with sock:
                yield program, sock


def assert_data_passes(program: Program, sock: socket.socket, engine: TlsEngine) -> HandshakeCompleted:
    live = connect(sock, engine)
    program.type(LINE)
    assert live.receive(len(LINE)) == LINE
    live.send(b"back to the program\n")
    program.wait_for(b"back to the program")
    return live.completed


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_server_with_every_suite(openssl: str, files: GetFiles, suite: str) -> None:
    options = ("-ciphersuites", OPENSSL_SUITES[suite])
    with s_client(openssl, files("p256", "client.test"), *options) as (program, sock):
        assert assert_data_passes(program, sock, server_engine()).cipher_suite == suite


@pytest.mark.parametrize("group", GROUPS)
def test_server_with_every_group(openssl: str, files: GetFiles, group: str) -> None:
    with s_client(openssl, files("p256", "client.test"), "-groups", OPENSSL_GROUPS[group]) as (program, sock):
        assert assert_data_passes(program, sock, server_engine()).group == group


@pytest.mark.parametrize("group", ["secp384r1", "secp521r1"])
def test_server_asks_for_another_share(openssl: str, files: GetFiles, group: str) -> None:
    groups = f"X25519:{OPENSSL_GROUPS[group]}"
    with s_client(openssl, files("p256", "client.test"), "-groups", groups) as (program, sock):
        engine = server_engine(server_parameters(groups=(group,)))
        assert assert_data_passes(program, sock, engine).group == group


def test_server_names_its_authorities_to_openssl(openssl: str, files: GetFiles) -> None:
    ours = files("p256", "client.test")
    options = ("-cert", str(ours.certificate), "-key", str(ours.key))
    name = pki.common_name("Test Root").public_bytes()
    with s_client(openssl, ours, *options) as (program, sock):
        engine = server_engine(mutual_server(certificate_authorities=(name,)))
        peer = assert_data_passes(program, sock, engine).peer
        assert peer is not None
        assert peer.subject == "CN=client.test"
        program.wait_for(b"Acceptable client certificate CA names")
        assert re.search(rb"CA names\n.*CN ?= ?Test Root", program.output)


# Keys for RSASSA-PSS alone, which `cryptography` can't put into a certificate


@pytest.fixture(scope="module")
def pss_files(openssl: str, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("pss")
    made = Files(certificate=folder / "pss.pem", key=folder / "pss.key", authority=folder / "pss.pem")
    command = [openssl, "req", "-x509", "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes"]
    command += ["-subj", "/CN=server.test", "-days", "10000", "-keyout", str(made.key), "-out"]
    command += [str(made.certificate), "-addext", "subjectAltName=DNS:server.test"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made


def pss_verifier(files: Files) -> ServerCertificateVerifier:
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    now = certificate.not_valid_before_utc + pki.DAY
    return ServerCertificateVerifier(TrustStore([certificate]), name="server.test", now=now)


def test_client_with_a_key_for_pss_alone(openssl: str, pss_files: Files) -> None:
    with s_server(openssl, pss_files, "-rev") as (_, port), dial(port) as sock:
        live = connect(sock, client_engine(client_parameters(verifier=pss_verifier(pss_files))))
        live.send(b"drawer\n")
        assert live.receive(7) == b"reward\n"


def test_server_with_a_key_for_pss_alone(openssl: str, pss_files: Files) -> None:
    who = load_identity(pss_files.certificate.read_bytes(), pss_files.key.read_bytes())
    assert who.key_kind == "rsa-pss"
    with s_client(openssl, pss_files) as (program, sock):
        assert_data_passes(program, sock, server_engine(server_parameters(identities=(who,))))
        # OpenSSL 3.0 names the algorithm, 3.6 the scheme.
        said = program.wait_for(b"Peer signature type:").strip()
        assert said in (b"RSA-PSS", b"rsa_pss_pss_sha256")


def test_programs_that_are_missing_are_told_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install gnutls-bin"):
        find_program("gnutls-cli", "gnutls-bin")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="apt-get install gnutls-bin"):
        find_program("gnutls-cli", "gnutls-bin")


def test_files_hold_what_was_issued(files: GetFiles) -> None:
    one = files("p256", "server.test")
    key = serialization.load_pem_private_key(one.key.read_bytes(), None)
    assert key.public_key() == x509.load_pem_x509_certificate(one.certificate.read_bytes()).public_key()
