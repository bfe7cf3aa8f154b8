"""ServerHello, HelloRetryRequest and EncryptedExtensions (RFC 8446, 4.1.3, 4.1.4, 4.2, 4.3.1), against a client."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from ktls_agent.sansio.status import Alert
from tests.conformance.situations import judged, refused, server_peer
from tests.conformance.test_client_hello import LOW_ORDER, P256, P256_POINT, P384, P521, X25519
from tests.peers import messages
from tests.peers.adversary import Protection, ServerAdversary, after
from tests.peers.messages import HELLO_RETRY_RANDOM, ServerHello, Type
from tests.peers.psk import SHA256, offering, psk_server

Change = Callable[[ServerHello], None]


def fields(**values: Any) -> Change:
    def change(hello: ServerHello) -> None:
        for name, value in values.items():
            setattr(hello, name, value)

    return change


def extension(kind: int, content: bytes | None) -> Change:
    def change(hello: ServerHello) -> None:
        kept = [item for item in hello.extensions if item[0] != kind]
        hello.extensions = kept if content is None else [*kept, (kind, content)]

    return change


def share(group: int, point: bytes) -> Change:
    return extension(Type.KEY_SHARE, messages.key_share_entry(group, point))


REFUSED: Final[dict[str, tuple[Change, Alert]]] = {
    "SSL 3.0": (fields(version=0x0300), Alert.PROTOCOL_VERSION),
    "version zero": (fields(version=0), Alert.PROTOCOL_VERSION),
    "TLS 1.0 as legacy_version": (fields(version=0x0301), Alert.ILLEGAL_PARAMETER),
    "TLS 1.1 as legacy_version": (fields(version=0x0302), Alert.ILLEGAL_PARAMETER),
    "TLS 1.3 as legacy_version": (fields(version=0x0304), Alert.ILLEGAL_PARAMETER),
    "TLS 1.2 alone": (extension(Type.SUPPORTED_VERSIONS, None), Alert.PROTOCOL_VERSION),
    "no extensions": (fields(extensions=[]), Alert.PROTOCOL_VERSION),
    "TLS 1.2 selected": (extension(Type.SUPPORTED_VERSIONS, b"\3\3"), Alert.ILLEGAL_PARAMETER),
    "SSL 3.0 selected": (extension(Type.SUPPORTED_VERSIONS, b"\3\0"), Alert.ILLEGAL_PARAMETER),
    "a draft selected": (extension(Type.SUPPORTED_VERSIONS, b"\x7f\x1c"), Alert.ILLEGAL_PARAMETER),
    "a list of versions": (extension(Type.SUPPORTED_VERSIONS, b"\2\3\4"), Alert.DECODE_ERROR),
    "half a version": (extension(Type.SUPPORTED_VERSIONS, b"\3"), Alert.DECODE_ERROR),
    "session id left out": (fields(session_id=b""), Alert.ILLEGAL_PARAMETER),
    "another session id": (fields(session_id=bytes(32)), Alert.ILLEGAL_PARAMETER),
    "session id of 33 bytes": (fields(session_id=bytes(33)), Alert.DECODE_ERROR),
    "an unknown suite": (fields(cipher_suite=0x13FF), Alert.ILLEGAL_PARAMETER),
    "a suite that was not offered": (fields(cipher_suite=0x1305), Alert.ILLEGAL_PARAMETER),
    "a suite of TLS 1.2": (fields(cipher_suite=0xC02F), Alert.ILLEGAL_PARAMETER),
    "a signalling suite": (fields(cipher_suite=0x00FF), Alert.ILLEGAL_PARAMETER),
    "compression": (fields(compression=1), Alert.ILLEGAL_PARAMETER),
    "bytes behind it": (fields(trailer=b"\0"), Alert.DECODE_ERROR),
    "no key_share": (extension(Type.KEY_SHARE, None), Alert.MISSING_EXTENSION),
    "key_share of nothing": (extension(Type.KEY_SHARE, b""), Alert.DECODE_ERROR),
    "key_share of a retry": (extension(Type.KEY_SHARE, b"\0\x1d"), Alert.DECODE_ERROR),
    "key_share with more": (
        extension(Type.KEY_SHARE, messages.key_share_entry(X25519, b"x" * 32) + b"\0"),
        Alert.DECODE_ERROR,
    ),
    "no point": (share(X25519, b""), Alert.DECODE_ERROR),
    "an unknown group": (share(0x6399, b"x"), Alert.ILLEGAL_PARAMETER),
    "FFDHE": (share(0x100, bytes(256)), Alert.ILLEGAL_PARAMETER),
    "a group without a share": (share(P384, b"\4" + bytes(96)), Alert.ILLEGAL_PARAMETER),
    "a group without a share, P-521": (share(P521, b"\4" + bytes(132)), Alert.ILLEGAL_PARAMETER),
    "a short point": (share(X25519, b"x" * 31), Alert.ILLEGAL_PARAMETER),
    "a long point": (share(X25519, b"x" * 33), Alert.ILLEGAL_PARAMETER),
    "point at infinity": (share(P256, b"\0"), Alert.ILLEGAL_PARAMETER),
    "zero point": (share(P256, P256_POINT), Alert.ILLEGAL_PARAMETER),
    "point not on the curve": (share(P256, b"\4" + b"\1" * 64), Alert.ILLEGAL_PARAMETER),
    "compressed point": (share(P256, b"\2" + b"\1" * 32), Alert.ILLEGAL_PARAMETER),
    "hybrid point": (share(P256, b"\6" + b"\1" * 64), Alert.ILLEGAL_PARAMETER),
    **{
        f"low order {n}": (share(X25519, point), Alert.ILLEGAL_PARAMETER) for n, point in enumerate(LOW_ORDER)
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_server_hellos_that_are_refused(case: str) -> None:
    change, alert = REFUSED[case]
    peer = server_peer()
    peer.change_hello = change
    refused(peer, judged(peer, peer.script()), alert, Protection.NONE)


@pytest.mark.parametrize("sentinel", [b"DOWNGRD\x01", b"DOWNGRD\x00"])
def test_a_downgrade_sentinel(sentinel: bytes) -> None:
    """4.1.3: with an older version it is an attack; with TLS 1.3 it is a random like any other."""
    peer = server_peer()
    peer.change_hello = fields(random=bytes(24) + sentinel, extensions=[])
    refused(peer, judged(peer, peer.script()), Alert.ILLEGAL_PARAMETER, Protection.NONE)

    peer = server_peer()
    peer.change_hello = fields(random=bytes(24) + sentinel)
    assert judged(peer, peer.script()).completed


@pytest.mark.parametrize("random", [bytes(32), b"\xff" * 32])
def test_any_random_will_do(random: bytes) -> None:
    peer = server_peer()
    peer.change_hello = fields(random=random)
    assert judged(peer, peer.script()).completed


# HelloRetryRequest


def asked(change: Change, *, where: str = "retry", group: str = "secp384r1") -> Any:
    peer = server_peer(group=group)

    def edit(hello: ServerHello) -> None:
        if (hello.random == HELLO_RETRY_RANDOM) == (where == "retry"):
            change(hello)

    peer.change_hello = edit
    return peer, judged(peer, peer.script(hello_retry=True))


RETRIES: Final[dict[str, tuple[Change, Alert]]] = {
    "SSL 3.0": (fields(version=0x0300), Alert.PROTOCOL_VERSION),
    "another legacy_version": (fields(version=0x0304), Alert.ILLEGAL_PARAMETER),
    "no version": (extension(Type.SUPPORTED_VERSIONS, None), Alert.PROTOCOL_VERSION),
    "TLS 1.2": (extension(Type.SUPPORTED_VERSIONS, b"\3\3"), Alert.ILLEGAL_PARAMETER),
    "another session id": (fields(session_id=b"x"), Alert.ILLEGAL_PARAMETER),
    "a suite that was not offered": (fields(cipher_suite=0x1305), Alert.ILLEGAL_PARAMETER),
    "compression": (fields(compression=1), Alert.ILLEGAL_PARAMETER),
    "nothing to change": (extension(Type.KEY_SHARE, None), Alert.ILLEGAL_PARAMETER),
    "a group whose share was sent": (extension(Type.KEY_SHARE, b"\0\x1d"), Alert.ILLEGAL_PARAMETER),
    "the other group whose share was sent": (extension(Type.KEY_SHARE, b"\0\x17"), Alert.ILLEGAL_PARAMETER),
    "a group that was not offered": (extension(Type.KEY_SHARE, b"\1\0"), Alert.ILLEGAL_PARAMETER),
    "key_share of nothing": (extension(Type.KEY_SHARE, b""), Alert.DECODE_ERROR),
    "key_share of a ServerHello": (share(P384, b"\4" + bytes(96)), Alert.DECODE_ERROR),
    "cookie of nothing": (extension(Type.COOKIE, b""), Alert.DECODE_ERROR),
    "empty cookie": (extension(Type.COOKIE, b"\0\0"), Alert.DECODE_ERROR),
    "cookie cut short": (extension(Type.COOKIE, b"\0\5cook"), Alert.DECODE_ERROR),
    "cookie with more": (extension(Type.COOKIE, b"\0\3cook"), Alert.DECODE_ERROR),
    "bytes behind it": (fields(trailer=b"\0"), Alert.DECODE_ERROR),
}


@pytest.mark.parametrize("case", RETRIES)
def test_hello_retry_requests_that_are_refused(case: str) -> None:
    change, alert = RETRIES[case]
    peer, verdict = asked(change)
    refused(peer, verdict, alert, Protection.NONE)


BEHIND_A_RETRY: Final[dict[str, tuple[Change, Alert]]] = {
    "another suite": (fields(cipher_suite=0x1302), Alert.ILLEGAL_PARAMETER),
    "another group": (share(X25519, b"x" * 32), Alert.ILLEGAL_PARAMETER),
    "TLS 1.2": (extension(Type.SUPPORTED_VERSIONS, None), Alert.PROTOCOL_VERSION),
    "another session id": (fields(session_id=b""), Alert.ILLEGAL_PARAMETER),
    "a cookie": (extension(Type.COOKIE, b"\0\1c"), Alert.ILLEGAL_PARAMETER),
}


@pytest.mark.parametrize("case", BEHIND_A_RETRY)
def test_server_hellos_that_don_t_keep_to_the_retry(case: str) -> None:
    change, alert = BEHIND_A_RETRY[case]
    peer, verdict = asked(change, where="hello")
    refused(peer, verdict, alert, Protection.NONE)


def test_a_second_hello_retry_request() -> None:
    peer = server_peer(group="secp384r1")
    again = next(step for step in peer.script(hello_retry=True) if step.name == "hello_retry_request")
    script = after(peer.script(hello_retry=True), "hello_retry_request", again)
    refused(peer, judged(peer, script), Alert.UNEXPECTED_MESSAGE, Protection.NONE)


@pytest.mark.parametrize("cookie", [b"c", bytes(32), b"x" * 60000])
@pytest.mark.parametrize("group", ["secp384r1", "secp521r1"])
def test_a_cookie_is_echoed_and_the_share_made_anew(cookie: bytes, group: str) -> None:
    content = len(cookie).to_bytes(2) + cookie
    peer, verdict = asked(extension(Type.COOKIE, content), group=group)
    assert verdict.completed
    assert dict(peer.client_hello.extensions)[Type.COOKIE] == content
    assert list(messages.read_client_shares(peer.client_hello)) == [peer.group]


def test_a_retry_for_a_cookie_alone() -> None:
    peer = server_peer()
    peer.hello_retry_extensions = [(Type.COOKIE, b"\0\1c")]
    assert judged(peer, peer.script(hello_retry=True)).completed
    assert dict(peer.client_hello.extensions)[Type.COOKIE] == b"\0\1c"


# EncryptedExtensions


ENCRYPTED: Final[dict[str, tuple[list[messages.Extension], Alert]]] = {
    "a name in server_name": ([messages.server_name(b"server.test")], Alert.DECODE_ERROR),
    "another protocol": ([messages.alpn(b"h2")], Alert.ILLEGAL_PARAMETER),
    "no protocol": ([messages.alpn()], Alert.DECODE_ERROR),
    "an empty protocol": ([messages.alpn(b"")], Alert.DECODE_ERROR),
    "two protocols": ([messages.alpn(b"sunrpc", b"sunrpc")], Alert.DECODE_ERROR),
    "ALPN of nothing": ([(Type.ALPN, b"")], Alert.DECODE_ERROR),
    "record_size_limit": ([(Type.RECORD_SIZE_LIMIT, b"\x40\0")], Alert.UNSUPPORTED_EXTENSION),
    "early_data": ([(Type.EARLY_DATA, b"")], Alert.UNSUPPORTED_EXTENSION),
    "heartbeat": ([(Type.HEARTBEAT, b"\1")], Alert.UNSUPPORTED_EXTENSION),
    "key_share": ([(Type.KEY_SHARE, b"\0\x1d\0\1x")], Alert.ILLEGAL_PARAMETER),
    "compress_certificate": ([(Type.COMPRESS_CERTIFICATE, b"\2\0\1")], Alert.ILLEGAL_PARAMETER),
}


@pytest.mark.parametrize("case", ENCRYPTED)
def test_encrypted_extensions_that_are_refused(case: str) -> None:
    extensions, alert = ENCRYPTED[case]
    peer = server_peer()
    peer.extensions = extensions
    refused(peer, judged(peer, peer.script()), alert, Protection.HANDSHAKE)


def test_a_server_that_chooses_no_protocol_is_taken() -> None:
    """RFC 7301, 3.1: the server MAY leave ALPN out."""
    peer = server_peer()
    peer.extensions = [(Type.SERVER_NAME, b""), messages.supported_groups(P521, X25519)]
    assert judged(peer, peer.script()).completed


# Pre-shared keys


CHOICES: Final[dict[str, tuple[Change, Alert]]] = {
    "a key that was not offered": (extension(Type.PRE_SHARED_KEY, b"\0\1"), Alert.ILLEGAL_PARAMETER),
    "the last index": (extension(Type.PRE_SHARED_KEY, b"\xff\xff"), Alert.ILLEGAL_PARAMETER),
    "no index": (extension(Type.PRE_SHARED_KEY, b""), Alert.DECODE_ERROR),
    "half an index": (extension(Type.PRE_SHARED_KEY, b"\0"), Alert.DECODE_ERROR),
    "more than an index": (extension(Type.PRE_SHARED_KEY, b"\0\0\0"), Alert.DECODE_ERROR),
    "psk_ke, not offered": (extension(Type.KEY_SHARE, None), Alert.ILLEGAL_PARAMETER),
    "no key": (extension(Type.PRE_SHARED_KEY, None), Alert.HANDSHAKE_FAILURE),
    "a suite of another hash": (fields(cipher_suite=0x1302), Alert.ILLEGAL_PARAMETER),
    "a low order share": (share(X25519, bytes(32)), Alert.ILLEGAL_PARAMETER),
}


@pytest.mark.parametrize("case", CHOICES)
def test_choices_of_a_key_that_are_refused(case: str) -> None:
    change, alert = CHOICES[case]
    peer: ServerAdversary = psk_server(offering(SHA256))
    peer.change_hello = change
    refused(peer, judged(peer, peer.script()), alert, Protection.NONE)
