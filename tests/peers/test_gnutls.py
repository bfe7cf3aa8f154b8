"""GnuTLS as the peer: `gnutls-serv` and `gnutls-cli`, of Debian's gnutls-bin."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ktls_agent.sansio.status import Cause
from ktls_agent.sansio.tls.parameters import CIPHER_SUITES, GROUPS, HandshakeCompleted
from tests.peers.conftest import GetFiles
from tests.peers.live import Files, Live, Program, connect, dial, find_program, free_port, listening
from tests.pki import KeyType
from tests.tls.handshakes import (
    KEY_TYPES,
    client_engine,
    client_parameters,
    mutual_client,
    mutual_server,
    server_engine,
    server_parameters,
    server_verifier,
    trust,
)

GNUTLS_CIPHERS = {
    "AES_256_GCM": "AES-256-GCM",
    "CHACHA20_POLY1305": "CHACHA20-POLY1305",
    "AES_128_GCM": "AES-128-GCM",
    "AES_128_CCM": "AES-128-CCM",
}
GNUTLS_GROUPS = {
    "x25519": "X25519",
    "secp256r1": "SECP256R1",
    "secp384r1": "SECP384R1",
    "secp521r1": "SECP521R1",
}
LINE = b"a line of data\n"
ATTEMPTS = 5
"""How often a port is chosen anew, since another program may take it before gnutls-serv does."""


def priority(*, cipher: str | None = None, groups: tuple[str, ...] = ()) -> str:
    text = "NORMAL:-VERS-ALL:+VERS-TLS1.3"
    if cipher is not None:
        text += f":-CIPHER-ALL:+{GNUTLS_CIPHERS[cipher]}"
    if groups:
        text += ":-GROUP-ALL" + "".join(f":+GROUP-{GNUTLS_GROUPS[group]}" for group in groups)
    return text


# gnutls-serv


@pytest.fixture(scope="module")
def gnutls_serv() -> str:
    return find_program("gnutls-serv", "gnutls-bin")


@contextmanager
def serving(program: str, files: Files, wanted: str, *options: str) -> Iterator[int]:
    command = [program, "--echo", "--quiet", "--alpn", "sunrpc", "--priority", wanted]
    command += ["--x509certfile", str(files.certificate), "--x509keyfile", str(files.key)]
    command += ["--x509cafile", str(files.authority), *options]
    for _ in range(ATTEMPTS):
        port = free_port()
        with Program([*command, "--port", str(port)]) as process:
            if listens(process, port):
                yield port
                return
    pytest.fail("gnutls-serv finds no free port")


def listens(process: Program, port: int) -> bool:
    """Wait until it listens; False if it has ended instead, because the port was taken."""
    process.wait_for(b"port ")
    return f"port {port}...done" in process.output.decode()


def check(live: Live) -> HandshakeCompleted:
    """Exchange data, with the tickets before it, that the kernel would find in the socket."""
    live.exchange()
    return live.completed


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_client_with_every_key_type(
    gnutls_serv: str, files: GetFiles, key_type: KeyType, mutual: bool
) -> None:
    options = ("--require-client-cert", "--verify-client-cert") if mutual else ("--disable-client-cert",)
    with (
        serving(gnutls_serv, files(key_type, "server.test"), priority(), *options) as port,
        dial(port) as sock,
    ):
        engine = client_engine(mutual_client(key_type) if mutual else client_parameters())
        assert check(connect(sock, engine)).alpn == b"sunrpc"


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_client_with_every_suite(gnutls_serv: str, files: GetFiles, suite: str) -> None:
    with (
        serving(gnutls_serv, files("p256", "server.test"), priority(cipher=suite)) as port,
        dial(port) as sock,
    ):
        assert check(connect(sock, client_engine())).cipher_suite == suite


@pytest.mark.parametrize("group", GROUPS)
def test_client_with_every_group(gnutls_serv: str, files: GetFiles, group: str) -> None:
    with (
        serving(gnutls_serv, files("p256", "server.test"), priority(groups=(group,))) as port,
        dial(port) as sock,
    ):
        assert check(connect(sock, client_engine())).group == group


@pytest.mark.parametrize(("options", "tickets"), [((), 2), (("--noticket",), 0)])
def test_the_tickets_of_a_server_stay_in_the_socket(
    gnutls_serv: str, files: GetFiles, options: tuple[str, ...], tickets: int
) -> None:
    """GnuTLS 3.7 sends them even to a client that did not offer psk_key_exchange_modes."""
    ours = files("p256", "server.test")
    with serving(gnutls_serv, ours, priority(), *options) as port, dial(port) as sock:
        live = connect(sock, client_engine())
        live.exchange()
        assert live.tickets == tickets


def test_a_server_that_we_refuse_is_told(gnutls_serv: str, files: GetFiles) -> None:
    with serving(gnutls_serv, files("p256", "server.test"), priority()) as port, dial(port) as sock:
        parameters = client_parameters(verifier=server_verifier("other.test"))
        assert connect(sock, client_engine(parameters)).failed.failure.cause is Cause.NAME_MISMATCH


# gnutls-cli


@pytest.fixture(scope="module")
def gnutls_cli() -> str:
    return find_program("gnutls-cli", "gnutls-bin")


@contextmanager
def dialling(
    program: str, files: Files, wanted: str, *options: str
) -> Iterator[tuple[Program, socket.socket]]:
    with listening() as (server, port):
        command = [program, "--port", str(port), "127.0.0.1", "--priority", wanted, "--alpn", "sunrpc"]
        command += ["--sni-hostname", "server.test", "--verify-hostname", "server.test"]
        command += ["--x509cafile", str(files.authority), *options]
        with Program(command) as process:
            sock, _ = server.accept()
            with sock:
                yield process, sock


def assert_data_passes(process: Program, live: Live) -> HandshakeCompleted:
    process.wait_for(b"Handshake was completed")
    process.type(LINE)
    assert live.receive(len(LINE)) == LINE
    live.send(b"back to the program\n")
    process.wait_for(b"back to the program")
    return live.completed


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_server_with_every_key_type(
    gnutls_cli: str, files: GetFiles, key_type: KeyType, mutual: bool
) -> None:
    ours = files(key_type, "client.test")
    options = ("--x509certfile", str(ours.certificate), "--x509keyfile", str(ours.key)) if mutual else ()
    authorities = trust().subjects
    parameters = (
        mutual_server(key_type, certificate_authorities=authorities)
        if mutual
        else server_parameters(key_type)
    )
    with dialling(gnutls_cli, ours, priority(), *options) as (process, sock):
        completed = assert_data_passes(process, connect(sock, server_engine(parameters)))
        assert completed.alpn == b"sunrpc"
        assert (completed.peer is not None) is mutual


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_server_with_every_suite(gnutls_cli: str, files: GetFiles, suite: str) -> None:
    with dialling(gnutls_cli, files("p256", "client.test"), priority(cipher=suite)) as (process, sock):
        assert assert_data_passes(process, connect(sock, server_engine())).cipher_suite == suite


@pytest.mark.parametrize("group", GROUPS)
def test_server_with_every_group(gnutls_cli: str, files: GetFiles, group: str) -> None:
    wanted = priority(groups=(group,))
    with dialling(gnutls_cli, files("p256", "client.test"), wanted) as (process, sock):
        assert assert_data_passes(process, connect(sock, server_engine())).group == group


@pytest.mark.parametrize("group", ["secp384r1", "secp521r1"])
def test_server_asks_for_another_share(gnutls_cli: str, files: GetFiles, group: str) -> None:
    wanted = priority(groups=("x25519", "secp256r1", group))
    with dialling(gnutls_cli, files("p256", "client.test"), wanted) as (process, sock):
        engine = server_engine(server_parameters(groups=(group,)))
        assert assert_data_passes(process, connect(sock, engine)).group == group


def test_a_client_without_a_certificate_is_told(gnutls_cli: str, files: GetFiles) -> None:
    with dialling(gnutls_cli, files("p256", "client.test"), priority()) as (process, sock):
        live = connect(sock, server_engine(mutual_server()))
        assert live.failed.failure.cause is Cause.NO_PEER_CERTIFICATE
        process.wait_for(b"Certificate is required")
