"""How an RPC connection is turned into a TLS connection (RFC 9289, 4.1): the call that asks, the reply that offers.

A client sends a NULL call whose credential has the flavor AUTH_TLS.  A server that has TLS answers with the verifier
"STARTTLS", and the next byte of the client's is a ClientHello.  Whether the procedure itself succeeded does not matter:
a server without that version of the program still has TLS.
"""

import struct
from typing import Final

NFS_PROGRAM: Final = 100003
NFS_VERSION: Final = 4
AUTH_NONE: Final = 0
AUTH_TLS: Final = 7
STARTTLS: Final = b"STARTTLS"

MARK_LENGTH: Final = 4
"""Bytes of the record mark in front of a message (RFC 5531, 11)."""

MAX_REPLY: Final = 432
"""Bytes of a NULL call's reply: its verifier has up to 400 (RFC 5531, 8.2), the rest at most 32."""

_RPC_VERSION: Final = 2
_CALL, _REPLY = 0, 1
_ACCEPTED: Final = 0
_LAST_FRAGMENT: Final = 1 << 31
_CALL_BODY: Final = struct.Struct(">10I")
_REPLY_HEAD: Final = struct.Struct(">3I")
_VERIFIER_HEAD: Final = struct.Struct(">2I")


class RpcTlsError(Exception):
    """What a server answered is no reply to the call; the text is a sentence."""


def encode_starttls_call(xid: int) -> bytes:
    """Make the call that asks for TLS, with its record mark.

    Args:
        xid: Its number, which the reply repeats.
    """
    body = _CALL_BODY.pack(xid, _CALL, _RPC_VERSION, NFS_PROGRAM, NFS_VERSION, 0, AUTH_TLS, 0, AUTH_NONE, 0)
    return _mark(len(body)) + body


def _mark(length: int) -> bytes:
    return (_LAST_FRAGMENT | length).to_bytes(MARK_LENGTH)


def encode_starttls_reply(call: bytes, verifier: bytes = STARTTLS) -> bytes:
    """Make the successful reply to a call, with its record mark: what a server does, for tests.

    Args:
        call: The call, without its record mark.
        verifier: What the reply offers.
    """
    padding = bytes(-len(verifier) % 4)
    head = call[:4] + struct.pack(">4I", _REPLY, _ACCEPTED, AUTH_NONE, len(verifier))
    body = head + verifier + padding + struct.pack(">I", 0)
    return _mark(len(body)) + body


def reply_length_untrusted(mark: bytes) -> int:
    """Return how many bytes of reply follow a record mark.

    Args:
        mark: `MARK_LENGTH` bytes that the server sent.

    Raises:
        RpcTlsError: They are not the mark of a single fragment as long as a reply to a NULL call.
    """
    if len(mark) != MARK_LENGTH:
        raise RpcTlsError("The server closed the connection instead of an RPC reply.")
    word = int.from_bytes(mark)
    length = word & ~_LAST_FRAGMENT
    if not word & _LAST_FRAGMENT or not _REPLY_HEAD.size <= length <= MAX_REPLY:
        raise RpcTlsError(f"The server does not speak RPC: it answered {mark.hex()}.")
    return length


def offers_tls_untrusted(reply: bytes, xid: int) -> bool:
    """Does a reply offer TLS?

    Args:
        reply: Without its record mark.
        xid: The call's.

    Returns:
        False for a server that refuses the flavor, or has another verifier.

    Raises:
        RpcTlsError: It is no reply to that call.
    """
    if len(reply) < _REPLY_HEAD.size:
        raise RpcTlsError(f"The server's RPC reply has {len(reply)} bytes only.")
    its_xid, kind, status = _REPLY_HEAD.unpack_from(reply)
    if (its_xid, kind) != (xid, _REPLY):
        raise RpcTlsError("The server's RPC message is no reply to the call.")
    if status != _ACCEPTED:
        return False  # Denied: AUTH_ERROR is what a server without RFC 9289 says.
    return _verifier_untrusted(reply) == STARTTLS


def _verifier_untrusted(reply: bytes) -> bytes:
    at = _REPLY_HEAD.size + _VERIFIER_HEAD.size
    if len(reply) < at:
        raise RpcTlsError("The server's RPC reply ends within its verifier.")
    flavor, length = _VERIFIER_HEAD.unpack_from(reply, _REPLY_HEAD.size)
    if length > len(reply) - at:
        raise RpcTlsError("The server's RPC reply ends within its verifier.")
    return reply[at : at + length] if flavor == AUTH_NONE else b""
