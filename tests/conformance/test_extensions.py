"""Extensions (RFC 8446, 4.2): where each may stand, what answers only what was offered, none twice, unknown ones ignored."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from ktls_agent.sansio.status import Alert
from tests.conformance.situations import (
    SITUATIONS,
    Situation,
    anonymous_peer,
    client_peer,
    each,
    judged,
    psk_client_peer,
    refused,
    server_peer,
)
from tests.peers import messages
from tests.peers.adversary import Adversary, Protection
from tests.peers.messages import HELLO_RETRY_RANDOM, Extension, MessageType, ServerHello, Type, vector

GREASE: Final = tuple(0x0A0A + 0x1010 * step for step in range(16))  # RFC 8701
UNKNOWN: Final = (*GREASE, 2, 100, 0x7777, 0xFE00, 0xFFFF)

CH, SH, HRR, EE, CT, CR = "CH", "SH", "HRR", "EE", "CT", "CR"
WHERE: Final[dict[int, set[str]]] = {
    Type.SERVER_NAME: {CH, EE},
    Type.MAX_FRAGMENT_LENGTH: {CH, EE},
    Type.STATUS_REQUEST: {CH, CR, CT},
    Type.SUPPORTED_GROUPS: {CH, EE},
    Type.SIGNATURE_ALGORITHMS: {CH, CR},
    14: {CH, EE},  # use_srtp
    Type.HEARTBEAT: {CH, EE},
    Type.ALPN: {CH, EE},
    Type.CERTIFICATE_TIMESTAMP: {CH, CR, CT},
    Type.CLIENT_CERTIFICATE_TYPE: {CH, EE},
    20: {CH, EE},  # server_certificate_type
    Type.PADDING: {CH},
    Type.COMPRESS_CERTIFICATE: {CH, CR},  # RFC 8879
    Type.RECORD_SIZE_LIMIT: {CH, EE},  # RFC 8449
    Type.PRE_SHARED_KEY: {CH, SH},
    Type.EARLY_DATA: {CH, EE},
    Type.SUPPORTED_VERSIONS: {CH, SH, HRR},
    Type.COOKIE: {CH, HRR},
    Type.PSK_KEY_EXCHANGE_MODES: {CH},
    Type.CERTIFICATE_AUTHORITIES: {CH, CR},
    Type.OID_FILTERS: {CR},
    Type.POST_HANDSHAKE_AUTH: {CH},
    Type.SIGNATURE_ALGORITHMS_CERT: {CH, CR},
    Type.KEY_SHARE: {CH, SH, HRR},
    # Those of TLS 1.2 have no place in anything of TLS 1.3 but a ClientHello.
    Type.EC_POINT_FORMATS: {CH},
    Type.EXTENDED_MASTER_SECRET: {CH},
    Type.SESSION_TICKET: {CH},
    Type.RENEGOTIATION_INFO: {CH},
}
"""RFC 8446, 4.2's table, with RFC 8449 and 8879."""

CONTENTS: Final[dict[str, dict[int, bytes]]] = {
    CH: {
        Type.SIGNATURE_ALGORITHMS: b"\0\2\4\3",
        Type.MAX_FRAGMENT_LENGTH: b"\x01",
        Type.STATUS_REQUEST: b"\x01\0\0\0\0",
        14: b"\0\2\0\1\0",
        Type.HEARTBEAT: b"\x01",
        Type.ALPN: messages.alpn(b"sunrpc")[1],
        Type.CLIENT_CERTIFICATE_TYPE: b"\x01\0",
        20: b"\x01\0",
        Type.PADDING: bytes(7),
        Type.COMPRESS_CERTIFICATE: b"\x02\0\1",
        Type.RECORD_SIZE_LIMIT: b"\x40\x01",
        Type.COOKIE: b"\0\1c",
        Type.PSK_KEY_EXCHANGE_MODES: b"\1\1",
        Type.CERTIFICATE_AUTHORITIES: b"\0\5\0\3\x30\x01\x31",
        Type.OID_FILTERS: b"\0\0",
        Type.SIGNATURE_ALGORITHMS_CERT: b"\0\2\4\3",
        Type.EC_POINT_FORMATS: b"\1\0",
        Type.RENEGOTIATION_INFO: b"\0",
    },
    SH: {
        Type.PRE_SHARED_KEY: b"\0\0",
        Type.ALPN: messages.alpn(b"sunrpc")[1],
        Type.RENEGOTIATION_INFO: b"\0",
        Type.EC_POINT_FORMATS: b"\1\0",
        Type.HEARTBEAT: b"\x01",
        Type.RECORD_SIZE_LIMIT: b"\x40\x01",
    },
}
CONTENTS[EE] = CONTENTS[SH] | {
    Type.SUPPORTED_GROUPS: b"\0\2\0\x1d",
    Type.MAX_FRAGMENT_LENGTH: b"\x01",
    Type.KEY_SHARE: b"\0\x1d\0\x01x",
    Type.SUPPORTED_VERSIONS: b"\3\4",
    Type.CLIENT_CERTIFICATE_TYPE: b"\0",
    20: b"\0",
}
CONTENTS[HRR] = CONTENTS[SH] | {Type.COOKIE: b"\0\1c"}
CONTENTS[CR] = CONTENTS[CH] | {
    Type.STATUS_REQUEST: b"",
    Type.SIGNATURE_ALGORITHMS: b"\0\2\4\3",
    Type.SUPPORTED_GROUPS: b"\0\2\0\x1d",
    Type.SUPPORTED_VERSIONS: b"\3\4",
    Type.PRE_SHARED_KEY: b"\0\0",
}
CONTENTS[CT] = {Type.STATUS_REQUEST: b"\x01\0\0\1x", Type.CERTIFICATE_TIMESTAMP: b"\0\3\0\1x"}


def content(message: str, kind: int) -> bytes:
    """A content in which a parser would find nothing wrong."""
    return CONTENTS[message].get(kind, b"")


# What a client under test is answered with


def answered_with(message: str, *extra: Extension, replace: bool = False) -> tuple[Any, Any]:
    """A server that puts extensions into one of its messages."""
    peer: Any = server_peer(group="secp384r1")

    def added(known: list[Extension]) -> list[Extension]:
        kinds = {kind for kind, _ in extra} if replace else set()
        return [item for item in known if item[0] not in kinds] + list(extra)

    def change(hello: ServerHello) -> None:
        if message == (HRR if hello.random == HELLO_RETRY_RANDOM else SH):
            hello.extensions = added(hello.extensions)

    peer.change_hello = change
    if message == EE:
        peer.extensions = added(peer.extensions)
    if message == CR:
        peer.request_extensions = added(peer.request_extensions)
    if message == CT:
        peer.alter[MessageType.CERTIFICATE] = lambda _: messages.certificate(peer.chain, extensions=extra)
    return peer, judged(peer, peer.script(client_certificate=True, hello_retry=True))


def keys_of(message: str) -> Protection:
    return Protection.NONE if message in (CH, SH, HRR) else Protection.HANDSHAKE


@pytest.mark.parametrize("message", [SH, HRR, EE, CT, CR])
@pytest.mark.parametrize("kind", sorted(WHERE))
def test_each_extension_in_each_message_of_a_server(message: str, kind: int) -> None:
    """4.2: known but misplaced is illegal_parameter; in its place but not offered is unsupported_extension."""
    peer, verdict = answered_with(message, (kind, content(message, kind)), replace=True)
    offered = {number for number, _ in server_peer().client_hello.extensions} | {Type.COOKIE}
    if message not in WHERE[kind]:
        refused(peer, verdict, Alert.ILLEGAL_PARAMETER, keys_of(message))
    elif message == CR:
        assert verdict.completed, "a CertificateRequest is no answer: what is not known there is ignored"
    elif kind not in offered:
        refused(peer, verdict, Alert.UNSUPPORTED_EXTENSION, keys_of(message))


@pytest.mark.parametrize("message", [SH, HRR, EE, CT])
@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_answer_to_what_nobody_asked(message: str, kind: int) -> None:
    peer, verdict = answered_with(message, (kind, b""))
    refused(peer, verdict, Alert.UNSUPPORTED_EXTENSION, keys_of(message))


@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_extensions_of_a_certificate_request_are_ignored(kind: int) -> None:
    peer, verdict = answered_with(CR, (kind, b"anything"))
    assert verdict.completed
    assert MessageType.CERTIFICATE_VERIFY in peer.received


@pytest.mark.parametrize(
    ("message", "extensions"),
    [
        (SH, [(Type.SUPPORTED_VERSIONS, b"\3\4")]),
        (SH, [(Type.KEY_SHARE, messages.key_share_entry(24, b"\4" * 97))]),
        (HRR, [(Type.SUPPORTED_VERSIONS, b"\3\4")]),
        (HRR, [(Type.KEY_SHARE, b"\0\x18")]),
        (HRR, [(Type.COOKIE, b"\0\1c"), (Type.COOKIE, b"\0\1c")]),
        (EE, [messages.alpn(b"sunrpc"), messages.alpn(b"sunrpc")]),
        (EE, [(Type.SERVER_NAME, b""), (Type.SERVER_NAME, b"")]),
        (EE, [messages.supported_groups(29)] * 2),
        (CR, [messages.signature_algorithms(0x0403)]),
        (CR, [(0x7777, b""), (0x7777, b"")]),
        (CT, [(Type.STATUS_REQUEST, b"\x01\0\0\1x")] * 2),
        (CT, [(0x7777, b"")] * 2),
    ],
)
def test_an_extension_twice_in_a_message_of_a_server(message: str, extensions: list[Extension]) -> None:
    peer, verdict = answered_with(message, *extensions)
    refused(peer, verdict, Alert.ILLEGAL_PARAMETER, keys_of(message))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_order_of_a_servers_extensions_does_not_matter(order: int) -> None:
    """4.2: extensions MAY appear in any order."""
    peer: Any = server_peer(group="secp384r1")

    def turn(hello: ServerHello) -> None:
        if hello.random == HELLO_RETRY_RANDOM:
            hello.extensions.append((Type.COOKIE, b"\0\6cookie"))
        hello.extensions = hello.extensions[order:] + hello.extensions[:order]

    peer.change_hello = turn
    extensions = [messages.alpn(b"sunrpc"), (Type.SERVER_NAME, b""), messages.supported_groups(29, 0x2A2A)]
    peer.extensions = extensions[order:] + extensions[:order]
    peer.request_extensions = [(0x7777, b"x"), *peer.request_extensions, (Type.STATUS_REQUEST, b"")]
    assert peer.run(peer.script(client_certificate=True, hello_retry=True)).completed


# What a server under test receives


@pytest.mark.parametrize("make", [anonymous_peer, client_peer, psk_client_peer])
@pytest.mark.parametrize("kind", sorted(WHERE))
def test_each_extension_in_a_client_hello(make: Callable[..., Any], kind: int) -> None:
    peer = make()
    if kind in dict(peer.hello.extensions) or kind in (Type.PRE_SHARED_KEY, Type.EARLY_DATA):
        return  # they have tests of their own
    peer.hello.extensions.insert(0, (kind, content(CH, kind)))
    verdict = judged(peer, peer.script(certificate=True) if make is client_peer else peer.script())
    if CH in WHERE[kind]:
        assert verdict.completed
    else:
        refused(peer, verdict, Alert.ILLEGAL_PARAMETER, Protection.NONE)


@pytest.mark.parametrize("make", [anonymous_peer, psk_client_peer])
@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_extensions_of_a_client_hello_are_ignored(make: Callable[..., Any], kind: int) -> None:
    peer = make()
    peer.hello.extensions.insert(1, (kind, b"anything"))
    assert peer.run(peer.script()).completed


@pytest.mark.parametrize("position", range(5))
def test_an_extension_twice_in_a_client_hello(position: int) -> None:
    peer = anonymous_peer()
    peer.hello.extensions.append(peer.hello.extensions[position])
    refused(peer, judged(peer, peer.script()), Alert.ILLEGAL_PARAMETER, Protection.NONE)


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("retried", [False, True])
def test_the_order_of_a_clients_extensions_does_not_matter(order: int, retried: bool) -> None:
    peer = anonymous_peer(share_sent=not retried)
    peer.hello.extensions.append((Type.SIGNATURE_ALGORITHMS_CERT, b"\0\2\4\3"))
    peer.hello.extensions = peer.hello.extensions[order:] + peer.hello.extensions[:order]
    assert peer.run(peer.script(hello_retry=retried)).completed


@pytest.mark.parametrize("count", [10, 1000, 16000])
def test_a_great_many_extensions(count: int) -> None:
    peer = anonymous_peer()
    free = [kind for kind in range(0x1000, 0x1000 + count + 100) if kind not in WHERE and kind != 13172]
    peer.hello.extensions += [(kind, b"") for kind in free[:count]]
    assert peer.run(peer.script()).completed


@pytest.mark.parametrize("kind", [*sorted(WHERE), *UNKNOWN])
def test_no_extension_of_a_clients_certificate_was_asked_for(kind: int) -> None:
    peer = client_peer()
    data = messages.certificate(peer.chain, extensions=[(kind, content(CT, kind))])
    peer.alter[MessageType.CERTIFICATE] = lambda _: data
    known = kind in WHERE and CT not in WHERE[kind]
    alert = Alert.ILLEGAL_PARAMETER if known else Alert.UNSUPPORTED_EXTENSION
    refused(peer, peer.run(peer.script(certificate=True)), alert, Protection.APPLICATION)


# GREASE (RFC 8701) in every list


def greased(peer: Any) -> None:
    """Put a value of RFC 8701 first and last into every list of a ClientHello."""
    hello, first, last = peer.hello, GREASE[3], GREASE[12]
    known = dict(hello.extensions)
    share = messages.read_client_shares(hello)
    hello.cipher_suites = [first, *hello.cipher_suites, last]
    peer.set_extension(*messages.client_versions(first, 0x0304, last))
    group = messages.read_numbers(known[Type.SUPPORTED_GROUPS][2:])
    peer.set_extension(*messages.supported_groups(first, *group, last))
    peer.set_extension(*messages.client_shares((first, b"\0"), *share.items(), (last, b"x" * 40)))
    if Type.SIGNATURE_ALGORITHMS in known:
        schemes = messages.read_numbers(known[Type.SIGNATURE_ALGORITHMS][2:])
        peer.set_extension(*messages.signature_algorithms(first, *schemes, last))
    peer.set_extension(Type.PSK_KEY_EXCHANGE_MODES, vector(b"\x0b\x01\x2a", 1))
    peer.set_extension(*messages.alpn(b"\x0a\x0a", b"sunrpc", b"\x1a\x1a"))
    hello.extensions = [(GREASE[0], b""), *hello.extensions, (GREASE[15], b"\0")]


@each([item for item in SITUATIONS if item.role == "server" and not item.retried])
def test_grease_in_a_client_hello(situation: Situation) -> None:
    peer = situation.peer()
    greased(peer)
    assert peer.run(situation.script(peer)).completed


def test_grease_in_a_client_hello_that_is_asked_for_another_share() -> None:
    peer = anonymous_peer(share_sent=False)
    greased(peer)
    assert peer.run(peer.script(hello_retry=True)).completed


def test_grease_in_a_certificate_request() -> None:
    schemes = messages.signature_algorithms(GREASE[1], 0x0403, GREASE[2])
    certificates = (Type.SIGNATURE_ALGORITHMS_CERT, messages.signature_algorithms(GREASE[1], 0x0403)[1])
    peer, verdict = answered_with(CR, schemes, certificates, (GREASE[5], b"\0"), replace=True)
    assert verdict.completed
    assert MessageType.CERTIFICATE_VERIFY in peer.received


@pytest.mark.parametrize("value", GREASE)
def test_grease_that_a_server_chooses_was_not_offered(value: int) -> None:
    """RFC 8701, 3: a client that never sent such a value refuses it as any other."""
    for field in ("cipher_suite", "key_share", "version"):
        peer: Any = server_peer()

        def change(hello: ServerHello, field: str = field) -> None:
            if field == "cipher_suite":
                hello.cipher_suite = value
            else:
                kind = Type.KEY_SHARE if field == "key_share" else Type.SUPPORTED_VERSIONS
                body = messages.key_share_entry(value, b"x") if field == "key_share" else value.to_bytes(2)
                hello.extensions = [item for item in hello.extensions if item[0] != kind] + [(kind, body)]

        peer.change_hello = change
        refused(peer, judged(peer, peer.script()), Alert.ILLEGAL_PARAMETER, Protection.NONE)


def test_a_client_offers_no_more_than_it_can_do() -> None:
    """9.2, and RFC 8449, 8879: neither record_size_limit nor compress_certificate nor early_data."""
    peer: Adversary = server_peer()
    offered = {kind for kind, _ in getattr(peer, "client_hello").extensions}  # noqa: B009
    assert not offered & {Type.RECORD_SIZE_LIMIT, Type.COMPRESS_CERTIFICATE, Type.EARLY_DATA, Type.COOKIE}
    assert {Type.SUPPORTED_VERSIONS, Type.SUPPORTED_GROUPS, Type.KEY_SHARE} <= offered
