"""The RPC call that asks for TLS, and its reply (RFC 9289, 4.1; RFC 5531)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.rpc_tls import (
    MARK_LENGTH,
    MAX_REPLY,
    RpcTlsError,
    encode_starttls_call,
    encode_starttls_reply,
    offers_tls_untrusted,
    reply_length_untrusted,
)
from tests.kernel.testbed.guest import rpc_tls as reference

XID = 0x01020304
CALL = encode_starttls_call(XID)[MARK_LENGTH:]


def test_the_call_is_as_the_document_has_it() -> None:
    assert encode_starttls_call(XID) == bytes.fromhex(
        "80000028 01020304 00000000 00000002 000186a3 00000004 00000000 00000007 00000000 00000000 00000000"
    )
    assert encode_starttls_call(XID) == reference.null_call(XID, reference.AUTH_TLS)


def test_the_reply_is_as_the_document_has_it() -> None:
    reply = encode_starttls_reply(CALL)
    assert reply == bytes.fromhex(
        "80000020 01020304 00000001 00000000 00000000 00000008 5354415254544c53 00000000"
    )
    assert reply == reference.starttls_reply(CALL)


@given(st.integers(0, 0xFFFFFFFF), st.binary(max_size=400))
def test_a_reply_offers_tls_by_its_verifier(xid: int, verifier: bytes) -> None:
    reply = encode_starttls_reply(xid.to_bytes(4), verifier)
    mark, body = reply[:MARK_LENGTH], reply[MARK_LENGTH:]
    assert reply_length_untrusted(mark) == len(body)
    assert offers_tls_untrusted(body, xid) is (verifier == b"STARTTLS")


def reply(xid: int = XID, kind: int = 1, status: int = 0, flavor: int = 0, length: int = 8) -> bytes:
    return struct.pack(">5I", xid, kind, status, flavor, length) + b"STARTTLS" + bytes(4)


@pytest.mark.parametrize(
    ("body", "offers"),
    [
        (reply(), True),
        (reply(status=1), False),  # MSG_DENIED
        (reply(flavor=1), False),
        (reply(length=7), False),
        (reply() + b"\0\0\0\2", True),  # whatever became of the procedure
        (reply()[:28], True),
    ],
)
def test_what_offers_tls(body: bytes, offers: bool) -> None:
    assert offers_tls_untrusted(body, XID) is offers


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "0 bytes only"),
        (reply()[:11], "11 bytes only"),
        (reply()[:19], "ends within its verifier"),
        (reply(length=13), "ends within its verifier"),
        (reply(length=0xFFFFFFFF), "ends within its verifier"),
        (reply(xid=1), "no reply to the call"),
        (reply(kind=0), "no reply to the call"),
    ],
)
def test_what_is_no_reply(body: bytes, said: str) -> None:
    with pytest.raises(RpcTlsError, match=said):
        offers_tls_untrusted(body, XID)


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (b"", "closed the connection"),
        (b"\x80\0\0", "closed the connection"),
        (b"HTTP", "does not speak RPC: it answered 48545450"),
        (b"\x00\0\0\x20", "does not speak RPC"),
        (b"\x80\0\0\x0b", "does not speak RPC"),
        ((1 << 31 | MAX_REPLY + 1).to_bytes(4), "does not speak RPC"),
    ],
)
def test_what_is_no_record_of_a_reply(mark: bytes, said: str) -> None:
    with pytest.raises(RpcTlsError, match=said):
        reply_length_untrusted(mark)


def test_the_longest_reply_is_taken() -> None:
    assert reply_length_untrusted((1 << 31 | MAX_REPLY).to_bytes(4)) == MAX_REPLY
