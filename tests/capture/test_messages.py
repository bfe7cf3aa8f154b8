"""Recorded handshake messages and records, taken apart for people; malformed ones as far as they make sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.capture.messages import (
    MAX_LISTED,
    Detail,
    Dissection,
    MessageStream,
    alert_name,
    detail,
    dissect_bytes_untrusted,
    dissect_message_untrusted,
    dissect_record_untrusted,
    distinguished_name_untrusted,
    subject_untrusted,
)
from ktls_agent.sansio.status import Alert
from ktls_agent.sansio.tls.extensions import HELLO_RETRY_RANDOM
from ktls_agent.sansio.tls.records import ContentType, RecordWriter, plain_alert
from tests import pki
from tests.peers import messages as m
from tests.peers.messages import Type
from tests.tls.handshakes import authority, client_engine, issued

RANDOM = bytes(32)


def shown(message: bytes) -> dict[str, tuple[str, ...]]:
    """What a message that is well-formed holds."""
    found = dissect_message_untrusted(message)
    assert found.defect is None
    return {found.name: found.values for found in found.details}


def client_hello(
    *extensions: m.Extension, suites: tuple[int, ...] = (0x1301,), trailer: bytes = b""
) -> bytes:
    return m.ClientHello(
        random=RANDOM, cipher_suites=list(suites), extensions=list(extensions), trailer=trailer
    ).write()


def server_hello(*extensions: m.Extension, random: bytes = RANDOM) -> bytes:
    return m.ServerHello(random=random, cipher_suite=0x1302, extensions=list(extensions)).write()


# Messages


def test_a_client_hello_of_our_own() -> None:
    hello = client_engine().data_to_send()[5:]
    found = shown(hello)
    assert found["suites"] == ("AES_256_GCM", "AES_128_GCM", "CHACHA20_POLY1305", "AES_128_CCM")
    assert found["versions"] == ("TLS 1.3",)
    assert found["server name"] == ("server.test",)
    assert found["ALPN"] == ("sunrpc",)
    assert found["groups"] == ("x25519", "secp256r1", "secp384r1", "secp521r1")
    assert found["key shares"] == ("x25519 (32 bytes)", "secp256r1 (65 bytes)")
    assert list(found)[-1] == "signature schemes"  # the longest list hides nothing
    assert "rsa_pkcs1_sha256" in found["signature schemes"]


@pytest.mark.parametrize(
    ("extension", "name", "values"),
    [
        (m.server_name(b"nfs.example"), "server name", ("nfs.example",)),
        (m.server_name(b"x", name_type=7), "server name", ("type 7: x",)),
        (m.server_name(b"\x1b[31m\xff\n"), "server name", ("\\x1b[31m\\xff\\n",)),
        (m.alpn(b"sunrpc", b"h2"), "ALPN", ("sunrpc", "h2")),
        (m.client_versions(0x0304, 0x0303, 0x7A7A, 0x7F1C), "versions", ("TLS 1.3", "TLS 1.2", "GREASE", "0x7f1c")),
        (m.supported_groups(29, 0x11EC, 0x0A0B), "groups", ("x25519", "X25519MLKEM768", "0x0a0b")),
        (m.signature_algorithms(0x0403, 0x0201), "signature schemes", ("ecdsa_secp256r1_sha256", "rsa_pkcs1_sha1")),
        (m.client_shares((29, bytes(32)), (0x5A5A, b"\0")), "key shares", ("x25519 (32 bytes)", "GREASE (1 byte)")),
        (m.client_shares(), "key shares", ()),
        ((Type.COOKIE, m.vector(bytes(9), 2)), "cookie", ("9 bytes",)),
        ((Type.PSK_KEY_EXCHANGE_MODES, b"\x02\x00\x01"), "PSK modes", ("psk_ke", "psk_dhe_ke")),
        (m.psk_offer([b"one"], [bytes(32)]), "PSK identities", ("one", "(1 binder)")),
        (m.psk_offer([b"a", b"\0"], [bytes(32)] * 2), "PSK identities", ("a", "\\x00", "(2 binders)")),
        ((Type.CERTIFICATE_AUTHORITIES, m.vector(m.vector(b"\x30\x00", 2), 2)), "certificate authorities", ("(no name)",)),
        ((Type.EARLY_DATA, b""), "also", ("early_data",)),
        ((0xFEED, b"anything"), "also", ("0xfeed",)),
    ],
)  # fmt: skip
def test_what_a_client_hello_offers(extension: m.Extension, name: str, values: tuple[str, ...]) -> None:
    assert shown(client_hello(extension))[name] == values


def test_suites_have_names_or_numbers() -> None:
    hello = client_hello(suites=(0x1302, 0x00FF, 0xC02F, 0x2A2A))
    assert shown(hello)["suites"] == ("AES_256_GCM", "EMPTY_RENEGOTIATION_INFO_SCSV", "0xc02f", "GREASE")


def test_a_server_hello() -> None:
    hello = server_hello(
        (Type.SUPPORTED_VERSIONS, b"\x03\x04"),
        (Type.KEY_SHARE, m.key_share_entry(23, bytes(65))),
        (Type.PRE_SHARED_KEY, b"\x00\x01"),
    )
    assert shown(hello) == {
        "suite": ("AES_256_GCM",),
        "version": ("TLS 1.3",),
        "key share": ("secp256r1 (65 bytes)",),
        "PSK chosen": ("number 2 of those offered",),
    }
    assert dissect_message_untrusted(hello).name == "ServerHello"


def test_a_hello_retry_request_is_told_from_a_server_hello() -> None:
    retry = server_hello(
        (Type.KEY_SHARE, b"\x00\x18"), (Type.COOKIE, b"\x00\x01x"), random=HELLO_RETRY_RANDOM
    )
    assert dissect_message_untrusted(retry).name == "HelloRetryRequest"
    assert shown(retry) == {"suite": ("AES_256_GCM",), "group wanted": ("secp384r1",), "cookie": ("1 byte",)}


@pytest.mark.parametrize(
    ("message", "details"),
    [
        (m.encrypted_extensions(), {}),
        (
            m.encrypted_extensions([(Type.SERVER_NAME, b""), m.alpn(b"sunrpc"), m.supported_groups(23)]),
            {"server name": ("was used",), "ALPN": ("sunrpc",), "groups": ("secp256r1",)},
        ),
        (
            m.certificate_request([m.signature_algorithms(0x0807)], context=b"x"),
            {"signature schemes": ("ed25519",)},
        ),
        (m.certificate_verify(0x0804, bytes(256)), {"scheme": ("rsa_pss_rsae_sha256",), "signature": ("256 bytes",)}),
        (m.certificate([]), {"certificates": ("none",)}),
        (m.message(20, bytes(48)), {"verify data": ("48 bytes",)}),
        (m.message(24, b"\1"), {"update requested": ("yes",)}),
        (
            m.message(4, bytes(3) + b"\x3c" + bytes(4) + b"\0" + m.vector(bytes(64), 2) + m.extension_block([(42, bytes(4))])),
            {"lifetime": ("60 s",), "ticket": ("64 bytes",), "also": ("early_data",)},
        ),
        (m.message(99, b"abc"), {"content": ("3 bytes",)}),
    ],
)  # fmt: skip
def test_the_other_messages(message: bytes, details: dict[str, tuple[str, ...]]) -> None:
    assert shown(message) == details


def test_a_certificate_message_gives_the_chain_and_its_subjects() -> None:
    chain = (*issued().chain, authority().der(), b"junk")
    found = dissect_message_untrusted(m.certificate(chain))
    assert found.certificates == chain
    assert found.details == (
        Detail(name="certificates", values=("CN=server.test", "CN=Test Root", "unreadable (4 bytes)")),
    )


def test_certificate_authorities_are_named() -> None:
    subjects = [pki.common_name("First").public_bytes(), authority().subject.public_bytes(), b"\x30\x05junk"]
    content = m.vector(b"".join(m.vector(name, 2) for name in subjects), 2)
    found = shown(m.certificate_request([(Type.CERTIFICATE_AUTHORITIES, content)]))
    assert found["certificate authorities"] == ("CN=First", "CN=Test Root", "unreadable (6 bytes)")


@pytest.mark.parametrize("length", [1, 60, 100, 124, 200, 250, 300])
def test_names_of_any_length_are_read(length: int) -> None:
    # cryptography bounds a CN, but not an O
    from cryptography import x509

    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "x" * length, _validate=False)])
    text = distinguished_name_untrusted(name.public_bytes())
    assert text.startswith("O=x")
    assert len(text) == min(length + 2, 256)


# What is malformed


@pytest.mark.parametrize(
    ("message", "defect"),
    [
        (b"", "it ends within its header, after 0 bytes"),
        (b"\x01\x00", "it ends within its header, after 2 bytes"),
        (b"\x14\x00\x00\x30" + bytes(8), "only 12 of its 52 bytes are there"),
        (m.message(24, b"\1\1"), "KeyUpdate has 1 byte too many"),
        (m.message(1, bytes(33)), "ClientHello ends 1 byte too early"),
        (client_hello((Type.SUPPORTED_GROUPS, b"\x00\x03\x00\x1d\x00")), "the list of groups ends 1 byte too early"),
        (client_hello((Type.SUPPORTED_GROUPS, b"\x00\x02\x00\x1dxx")), "supported_groups has 2 bytes too many"),
        (client_hello(trailer=b"tail"), "ClientHello has 4 bytes too many"),
        (m.encrypted_extensions([(Type.SERVER_NAME, b"x")]), "server_name has 1 byte too many"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_told(message: bytes, defect: str) -> None:
    assert dissect_message_untrusted(message).defect == defect


def test_what_came_before_the_defect_is_shown() -> None:
    hello = client_hello(m.alpn(b"sunrpc"), (Type.KEY_SHARE, b"\x00\xff"), m.server_name(b"later"))
    found = dissect_message_untrusted(hello)
    assert found.defect == "key_share ends 255 bytes too early"
    assert [item.name for item in found.details] == ["suites", "ALPN"]


def test_long_lists_are_cut() -> None:
    values = shown(client_hello(suites=tuple(range(0x1301, 0x1301 + MAX_LISTED + 5))))["suites"]
    assert len(values) == MAX_LISTED + 1
    assert values[-1] == "and 5 more"
    assert detail("x", [str(number) for number in range(MAX_LISTED)]).values[-1] == str(MAX_LISTED - 1)


def test_many_key_identities_are_cut() -> None:
    values = shown(client_hello(m.psk_offer([b"key"] * 50, [bytes(32)] * 50)))["PSK identities"]
    assert values[MAX_LISTED:] == ("and 18 more", "(50 binders)")


# Streams


MESSAGES = [
    client_hello(m.alpn(b"sunrpc")),
    m.message(20, bytes(48)),
    m.message(8, b"\0\0"),
    m.message(24, b""),
]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_messages_are_put_together_however_records_cut_them(size: int) -> None:
    stream, whole = MessageStream(), b"".join(MESSAGES)
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert [message for piece in pieces for message in stream.feed_untrusted(piece)] == MESSAGES
    assert stream.take_rest() == b""


def test_the_beginning_of_a_message_is_left() -> None:
    stream = MessageStream()
    assert stream.feed_untrusted(MESSAGES[1] + b"\x01\x00\x01\x00abc") == [MESSAGES[1]]
    assert stream.take_rest() == b"\x01\x00\x01\x00abc"
    assert stream.take_rest() == b""


# Records


@pytest.mark.parametrize(
    ("content_type", "data", "found"),
    [
        (21, b"\x02\x2d", Dissection(name="alert certificate_expired", bad=True, details=(detail("level", ["fatal"]),))),
        (21, b"\x01\x5a", Dissection(name="alert user_canceled", bad=True, details=(detail("level", ["warning"]),))),
        (21, b"\x07\xfe", Dissection(name="alert 254", bad=True, details=(detail("level", ["level 7"]),))),
        (21, b"\x02", Dissection(name="alert", bad=True, defect="an alert has two bytes, not 1")),
        (20, b"\x01", Dissection(name="ChangeCipherSpec")),
        (20, b"\x02", Dissection(name="ChangeCipherSpec", defect="its content is 02, not 01")),
        (20, b"", Dissection(name="ChangeCipherSpec", defect="its content is empty, not 01")),
        (23, b"abc", Dissection(name="application data", details=(detail("content", ["3 bytes"]),))),
        (99, b"a", Dissection(name="record of type 99", details=(detail("content", ["1 byte"]),))),
    ],
)  # fmt: skip
def test_records_without_handshake_messages(content_type: int, data: bytes, found: Dissection) -> None:
    assert dissect_record_untrusted(content_type, data) == found


def test_every_alert_has_its_name() -> None:
    assert [alert_name(alert) for alert in Alert] == [alert.name.lower() for alert in Alert]


def record_of(content_type: int, data: bytes) -> bytes:
    writer = RecordWriter(is_client=False)
    writer.write(content_type, data)
    return writer.take()


@pytest.mark.parametrize(
    ("data", "name", "defect"),
    [
        (plain_alert(Alert.INTERNAL_ERROR), "alert internal_error", None),
        (b"HTTP/1.1 400 Bad Request\r\n", "no TLS record", None),
        (b"\x16\x03", "no TLS record", None),
        (record_of(ContentType.APPLICATION_DATA, bytes(30)), "application data record, not read", None),
        (
            record_of(ContentType.HANDSHAKE, bytes(30))[:-9],
            "handshake record, not read",
            "21 bytes of 30 are there",
        ),
    ],
)
def test_bytes_that_nobody_read(data: bytes, name: str, defect: str | None) -> None:
    found = dissect_bytes_untrusted(data)
    assert (found.name, found.defect, found.bad) == (name, defect, True)


def test_bytes_that_nobody_read_are_shown_in_part() -> None:
    (begins,) = dissect_bytes_untrusted(b"HTTP/1.1\r\n" + bytes(100)).details
    assert begins == Detail(
        name="begins",
        values=("48 54 54 50 2f 31 2e 31 0d 0a 00 00 00 00 00 00", r"HTTP/1.1\r\n" + r"\x00" * 6),
    )


# Any bytes


@given(st.binary(max_size=300), st.integers(0, 255))
def test_no_bytes_make_it_raise(data: bytes, number: int) -> None:
    for found in (
        dissect_message_untrusted(data),
        dissect_message_untrusted(m.message(number, data)),
        dissect_record_untrusted(number, data),
        dissect_bytes_untrusted(data),
    ):
        texts = [
            found.name,
            found.defect or "",
            *(text for item in found.details for text in (item.name, *item.values)),
        ]
        assert all(text.isprintable() for text in texts)
    assert distinguished_name_untrusted(data).isprintable()
    assert subject_untrusted(data).isprintable()


WELL_FORMED = [
    client_hello(m.server_name(b"x"), m.psk_offer([b"i"], [bytes(32)]), m.client_shares((29, bytes(32)))),
    server_hello((Type.KEY_SHARE, m.key_share_entry(23, bytes(65)))),
    m.certificate(issued().chain),
    m.certificate_request([(Type.CERTIFICATE_AUTHORITIES, m.vector(m.vector(authority().subject.public_bytes(), 2), 2))]),
]  # fmt: skip


@given(st.sampled_from(WELL_FORMED), st.data())
def test_no_changed_message_makes_it_raise(message: bytes, data: st.DataObject) -> None:
    changed = bytearray(message)
    at = data.draw(st.integers(0, len(message) - 1))
    changed[at] = data.draw(st.integers(0, 255))
    found = dissect_message_untrusted(bytes(changed[: data.draw(st.integers(0, len(message)))]))
    assert all(text.isprintable() for item in found.details for text in item.values)
