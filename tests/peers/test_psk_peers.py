"""Pre-shared keys with OpenSSL and GnuTLS at the other end, in both roles.

`openssl -psk` and GnuTLS's command-line programs bind every key to SHA-256, whatever its length.  A key for
SHA-384 goes into OpenSSL as a session in a file (`-psk_session`), which is written here; GnuTLS's programs have no
way to take one.
"""

import base64
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from ktls_agent.sansio.status import Alert, Cause
from ktls_agent.sansio.tls.engine import TlsEngine
from ktls_agent.sansio.tls.parameters import (
    CIPHER_SUITES,
    GROUPS,
    ClientPskParameters,
    HandshakeCompleted,
    KeysRequested,
    PreSharedKey,
    ServerPskParameters,
)
from ktls_agent.sansio.tls.primitives import SUITES_BY_NAME
from tests.peers.conftest import GetFiles
from tests.peers.live import (
    PATIENCE,
    Live,
    Program,
    connect,
    dial,
    find_program,
    free_port,
    listening,
    waiting,
)
from tests.peers.test_gnutls import ATTEMPTS, GNUTLS_CIPHERS, GNUTLS_GROUPS, listens
from tests.peers.test_openssl import LINE, OPENSSL_GROUPS, OPENSSL_SUITES

SHA256: Final = PreSharedKey(identity=b"client1", secret=bytes(range(32)), hash_name="sha256")
SHA384: Final = PreSharedKey(identity=b"client1", secret=bytes(range(48)), hash_name="sha384")
OTHER: Final = PreSharedKey(identity=b"nobody knows \x00\xff", secret=b"?" * 32, hash_name="sha256")
KEYS: Final = {"sha256": SHA256, "sha384": SHA384}
SHA256_SUITES: Final = tuple(name for name in CIPHER_SUITES if SUITES_BY_NAME[name].hash_name == "sha256")


def psk_client(*keys: PreSharedKey, allow_psk_ke: bool = False) -> TlsEngine:
    parameters = ClientPskParameters(keys=keys, groups=GROUPS, allow_psk_ke=allow_psk_ke)
    engine = TlsEngine(parameters, entropy=os.urandom)
    engine.start()
    return engine


def serve(
    sock: socket.socket, *known: PreSharedKey, parameters: ServerPskParameters | None = None
) -> tuple[Live, tuple[bytes, ...]]:
    """Our server: up to the pause, in which `known` is provided, then to the end."""
    engine = TlsEngine(parameters or ServerPskParameters(), entropy=os.urandom)
    engine.start()
    requested = connect(sock, engine).event
    assert isinstance(requested, KeysRequested), requested
    engine.provide_keys(known)
    return connect(sock, engine), requested.identities


# Files that hold keys


def der(tag: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([tag, len(content)]) + content


@pytest.fixture(scope="session")
def session_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SHA384's secret as an SSL_SESSION: version, protocol, cipher suite, session id, key."""
    fields = der(2, b"\x01") + der(2, b"\x03\x04") + der(4, b"\x13\x02") + der(4, b"") + der(4, SHA384.secret)
    text = base64.encodebytes(der(0x30, fields)).decode()
    path = tmp_path_factory.mktemp("psk") / "session.pem"
    path.write_text(f"-----BEGIN SSL SESSION PARAMETERS-----\n{text}-----END SSL SESSION PARAMETERS-----\n")
    return path


@pytest.fixture(scope="session")
def password_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("psk") / "passwords"
    path.write_text(f"{SHA256.identity.decode()}:{SHA256.secret.hex()}\n")
    return path


# openssl s_server


@pytest.fixture(scope="module")
def openssl() -> str:
    return find_program("openssl", "openssl")


@contextmanager
def s_server(openssl: str, *options: str) -> Iterator[int]:
    command = [openssl, "s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-nocert", "-rev"]
    with Program([*command, "-psk_identity", SHA256.identity.decode(), *options]) as program:
        yield int(program.wait_for(b"ACCEPT ").rpartition(b":")[2])


def key_options(key: PreSharedKey, session_file: Path) -> tuple[str, str]:
    return ("-psk", key.secret.hex()) if key is SHA256 else ("-psk_session", str(session_file))


def check(live: Live, *, tickets: int) -> HandshakeCompleted:
    """The keys work, and the server's tickets lay unread in the socket."""
    completed = live.completed
    live.send(b"drawer\n")
    assert live.receive(7) == b"reward\n"
    assert live.tickets == tickets
    return completed


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_client_with_every_suite(openssl: str, session_file: Path, suite: str) -> None:
    key = KEYS[SUITES_BY_NAME[suite].hash_name]
    options = (*key_options(key, session_file), "-ciphersuites", OPENSSL_SUITES[suite])
    with s_server(openssl, *options) as port, dial(port) as sock:
        completed = check(connect(sock, psk_client(OTHER, key)), tickets=1)
        assert (completed.cipher_suite, completed.psk_identity) == (suite, key.identity)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("key", [SHA256, SHA384], ids=["sha256", "sha384"])
def test_client_with_every_group(openssl: str, session_file: Path, key: PreSharedKey, group: str) -> None:
    """All but x25519 take a HelloRetryRequest; a key of the other hash is dropped then."""
    options: tuple[str, ...] = (*key_options(key, session_file), "-groups", OPENSSL_GROUPS[group])
    spare = replace(OTHER, hash_name="sha384" if key is SHA256 else "sha256")
    if key is SHA256:
        options = (*options, "-ciphersuites", OPENSSL_SUITES["AES_128_GCM"])
    with s_server(openssl, *options) as port, dial(port) as sock:
        assert check(connect(sock, psk_client(spare, key)), tickets=1).group == group


@pytest.mark.parametrize(("options", "tickets"), [(("-num_tickets", "0"), 0), (("-num_tickets", "4"), 1)])
def test_an_openssl_server_owes_one_ticket_after_a_pre_shared_key(
    openssl: str, options: tuple[str, ...], tickets: int
) -> None:
    with s_server(openssl, "-psk", SHA256.secret.hex(), *options) as port, dial(port) as sock:
        check(connect(sock, psk_client(SHA256)), tickets=tickets)


def test_the_ticket_lies_in_the_socket(openssl: str) -> None:
    with s_server(openssl, "-psk", SHA256.secret.hex()) as port, dial(port) as sock:
        live = connect(sock, psk_client(SHA256))
        assert live.completed
        assert sock.recv(1, socket.MSG_PEEK) == b"\x17"
        assert len(waiting(sock)) > 100


def test_client_without_key_exchange(openssl: str) -> None:
    options = ("-psk", SHA256.secret.hex(), "-allow_no_dhe_kex", "-groups", "X448")
    with s_server(openssl, *options) as port, dial(port) as sock:
        assert check(connect(sock, psk_client(SHA256, allow_psk_ke=True)), tickets=1).group is None


def test_a_server_with_another_key_refuses_us(openssl: str) -> None:
    with s_server(openssl, "-psk", "ff" * 32) as port, dial(port) as sock:
        failed = connect(sock, psk_client(SHA256)).failed.failure
        assert (failed.cause, failed.alert) == (Cause.PEER_ALERT, Alert.ILLEGAL_PARAMETER)


def test_a_server_that_only_has_certificates_refuses_us(openssl: str, files: GetFiles) -> None:
    """Without signature_algorithms it can't go on with a certificate, which we would refuse."""
    ours = files("p256", "server.test")
    command = [openssl, "s_server", "-accept", "127.0.0.1:0", "-tls1_3"]
    with Program([*command, "-cert", str(ours.certificate), "-key", str(ours.key)]) as program:
        port = int(program.wait_for(b"ACCEPT ").rpartition(b":")[2])
        with dial(port) as sock:
            failed = connect(sock, psk_client(SHA256)).failed.failure
            assert (failed.cause, failed.alert) == (Cause.PEER_ALERT, Alert.MISSING_EXTENSION)


# openssl s_client


@contextmanager
def s_client(openssl: str, *options: str) -> Iterator[tuple[Program, socket.socket]]:
    with listening() as (server, port):
        command = [openssl, "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3"]
        with Program([*command, "-psk_identity", SHA256.identity.decode(), *options]) as program:
            sock, _ = server.accept()
            with sock:
                sock.settimeout(PATIENCE)
                yield program, sock


def assert_data_passes(program: Program, live: Live) -> HandshakeCompleted:
    completed = live.completed
    program.type(LINE)
    assert live.receive(len(LINE)) == LINE
    live.send(b"back to the program\n")
    program.wait_for(b"back to the program")
    return completed


@pytest.mark.parametrize("suite", CIPHER_SUITES)
def test_server_with_every_suite(openssl: str, session_file: Path, suite: str) -> None:
    key = KEYS[SUITES_BY_NAME[suite].hash_name]
    options = (*key_options(key, session_file), "-ciphersuites", OPENSSL_SUITES[suite])
    with s_client(openssl, *options) as (program, sock):
        live, requested = serve(sock, key)
        completed = assert_data_passes(program, live)
        assert requested == (key.identity,)
        assert (completed.cipher_suite, completed.psk_identity) == (suite, key.identity)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("key", [SHA256, SHA384], ids=["sha256", "sha384"])
def test_server_with_every_group(openssl: str, session_file: Path, key: PreSharedKey, group: str) -> None:
    """With SHA-256 by way of a HelloRetryRequest; `s_client -psk_session` has lost its key after one (OpenSSL 3.0)."""
    first = "P-256" if group == "x25519" else "X25519"
    offered = (first, OPENSSL_GROUPS[group]) if key is SHA256 else (OPENSSL_GROUPS[group],)
    options = (*key_options(key, session_file), "-groups", ":".join(offered))
    with s_client(openssl, *options) as (program, sock):
        live, _ = serve(sock, key, parameters=ServerPskParameters(groups=(group,)))
        assert assert_data_passes(program, live).group == group


@pytest.mark.parametrize("allowed", [False, True])
def test_openssl_that_also_offers_psk_ke_gets_key_exchange(openssl: str, allowed: bool) -> None:
    with s_client(openssl, "-psk", SHA256.secret.hex(), "-allow_no_dhe_kex") as (program, sock):
        live, _ = serve(sock, SHA256, parameters=ServerPskParameters(allow_psk_ke=allowed))
        assert assert_data_passes(program, live).group == "x25519"


@pytest.mark.parametrize(
    ("known", "cause", "word"),
    [
        ((), Cause.UNKNOWN_PSK, b"unknown psk identity"),
        ((replace(SHA256, secret=b"?"),), Cause.PSK_MISMATCH, b"decrypt error"),
        ((SHA384,), Cause.NO_COMMON_PARAMETERS, b"handshake failure"),
    ],
)
def test_a_client_that_we_refuse_is_told(
    openssl: str, known: tuple[PreSharedKey, ...], cause: Cause, word: bytes
) -> None:
    options = ("-psk", SHA256.secret.hex(), "-ciphersuites", OPENSSL_SUITES["AES_128_GCM"])
    with s_client(openssl, *options) as (program, sock):
        live, _ = serve(sock, *known)
        assert live.failed.failure.cause is cause
        program.wait_for(word)


# GnuTLS


@pytest.fixture(scope="module")
def gnutls_serv() -> str:
    return find_program("gnutls-serv", "gnutls-bin")


@pytest.fixture(scope="module")
def gnutls_cli() -> str:
    return find_program("gnutls-cli", "gnutls-bin")


def priority(
    *, cipher: str = "AES_128_GCM", groups: tuple[str, ...] = (), exchange: str = "+ECDHE-PSK"
) -> str:
    text = f"NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:{exchange}:-CIPHER-ALL:+{GNUTLS_CIPHERS[cipher]}"
    if groups:
        text += ":-GROUP-ALL" + "".join(f":+GROUP-{GNUTLS_GROUPS[group]}" for group in groups)
    return text


@contextmanager
def gnutls_server(program: str, passwords: Path, wanted: str, *options: str) -> Iterator[int]:
    command = [program, "--echo", "--quiet", "--priority", wanted, "--pskpasswd", str(passwords), *options]
    for _ in range(ATTEMPTS):
        port = free_port()
        with Program([*command, "--port", str(port)]) as process:
            if listens(process, port):
                yield port
                return
    pytest.fail("gnutls-serv finds no free port")


@pytest.mark.parametrize("suite", SHA256_SUITES)
def test_gnutls_server_with_every_suite(gnutls_serv: str, password_file: Path, suite: str) -> None:
    with gnutls_server(gnutls_serv, password_file, priority(cipher=suite)) as port, dial(port) as sock:
        live = connect(sock, psk_client(SHA256, OTHER))
        live.exchange()
        assert (live.completed.cipher_suite, live.completed.psk_identity) == (suite, SHA256.identity)


@pytest.mark.parametrize("group", GROUPS)
def test_gnutls_server_with_every_group(gnutls_serv: str, password_file: Path, group: str) -> None:
    wanted = priority(groups=(group,))
    with gnutls_server(gnutls_serv, password_file, wanted) as port, dial(port) as sock:
        live = connect(sock, psk_client(SHA256, SHA384))
        live.exchange()
        assert live.completed.group == group


@pytest.mark.parametrize(("options", "tickets"), [((), 2), (("--noticket",), 0)])
def test_a_gnutls_server_owes_two_tickets_after_a_pre_shared_key(
    gnutls_serv: str, password_file: Path, options: tuple[str, ...], tickets: int
) -> None:
    with gnutls_server(gnutls_serv, password_file, priority(), *options) as port, dial(port) as sock:
        live = connect(sock, psk_client(SHA256))
        live.exchange()
        assert live.tickets == tickets


def test_a_gnutls_server_looks_no_further_than_an_unknown_first_identity(
    gnutls_serv: str, password_file: Path
) -> None:
    """It goes on with a random key, so as not to tell which names it knows: the binder is wrong then."""
    engine = psk_client(replace(OTHER, identity=b"unknown"), SHA256)
    with gnutls_server(gnutls_serv, password_file, priority()) as port, dial(port) as sock:
        assert connect(sock, engine).failed.failure.cause is Cause.PEER_ALERT


@pytest.mark.parametrize("bad", [replace(SHA256, secret=b"?" * 32), SHA384], ids=["wrong key", "other hash"])
def test_a_gnutls_server_refuses_a_wrong_key(
    gnutls_serv: str, password_file: Path, bad: PreSharedKey
) -> None:
    with gnutls_server(gnutls_serv, password_file, priority()) as port, dial(port) as sock:
        assert connect(sock, psk_client(bad)).failed.failure.cause is Cause.PEER_ALERT


@contextmanager
def gnutls_client(program: str, wanted: str) -> Iterator[tuple[Program, socket.socket]]:
    with listening() as (server, port):
        command = [program, "--port", str(port), "127.0.0.1", "--priority", wanted]
        command += ["--pskusername", SHA256.identity.decode(), "--pskkey", SHA256.secret.hex()]
        with Program(command) as process:
            sock, _ = server.accept()
            with sock:
                sock.settimeout(PATIENCE)
                yield process, sock


@pytest.mark.parametrize("suite", SHA256_SUITES)
def test_gnutls_client_with_every_suite(gnutls_cli: str, suite: str) -> None:
    with gnutls_client(gnutls_cli, priority(cipher=suite)) as (process, sock):
        live, requested = serve(sock, SHA256)
        process.wait_for(b"Handshake was completed")
        assert requested == (SHA256.identity,)
        assert assert_data_passes(process, live).cipher_suite == suite


@pytest.mark.parametrize("group", GROUPS)
def test_gnutls_client_with_every_group(gnutls_cli: str, group: str) -> None:
    others = tuple(name for name in GROUPS if name != group)
    with gnutls_client(gnutls_cli, priority(groups=(*others, group))) as (process, sock):
        live, _ = serve(sock, SHA256, parameters=ServerPskParameters(groups=(group,)))
        process.wait_for(b"Handshake was completed")
        assert assert_data_passes(process, live).group == group


@pytest.mark.parametrize("allowed", [False, True])
def test_gnutls_client_without_key_exchange(gnutls_cli: str, allowed: bool) -> None:
    with gnutls_client(gnutls_cli, priority(exchange="+PSK")) as (process, sock):
        live, _ = serve(sock, SHA256, parameters=ServerPskParameters(allow_psk_ke=allowed))
        if allowed:
            process.wait_for(b"Handshake was completed")
            assert assert_data_passes(process, live).group is None
        else:
            assert live.failed.failure.cause is Cause.NO_COMMON_PARAMETERS


def test_a_gnutls_client_with_an_unknown_identity_is_told(gnutls_cli: str) -> None:
    with gnutls_client(gnutls_cli, priority()) as (process, sock):
        live, _ = serve(sock)
        assert live.failed.failure.cause is Cause.UNKNOWN_PSK
        process.wait_for(b"username is missing or not known")
