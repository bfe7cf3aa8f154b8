"""Does a session ticket wait behind the handshake?  A look at bytes that stay where they are.

A server may send NewSessionTickets as soon as the handshake is over, also to a client that wants none.  They are the
kernel's to read, and its NVMe host ends the connection over one (net/tls hands it a record that is no data).
Nothing can be done about that here, but the log can say so.
"""

from typing import Final

from ..ktls import KernelSecrets
from .primitives import SUITES_BY_NAME, RecordKey
from .records import HEADER_LENGTH, MAX_CIPHERTEXT, ContentType, HandshakeType

PEEK_SIZE: Final = HEADER_LENGTH + MAX_CIPHERTEXT
"""How many bytes to look at: the largest record."""

_SUITES: Final = {suite.ktls: suite for suite in SUITES_BY_NAME.values()}


def ticket_waits_untrusted(data: bytes, secrets: KernelSecrets) -> bool:
    """Is the next record a NewSessionTicket (RFC 8446, 4.6.1)?

    Args:
        data: What the socket holds behind the handshake, any bytes; `PEEK_SIZE` of them are enough.
        secrets: The keys that the kernel gets; they are not changed.
    """
    header = data[:HEADER_LENGTH]
    body = data[HEADER_LENGTH : HEADER_LENGTH + int.from_bytes(header[3:])]
    if not header.startswith(bytes([ContentType.APPLICATION_DATA])) or not body:
        return False
    rx = secrets.rx
    key = RecordKey(suite=_SUITES[secrets.cipher], key=rx.key, iv=rx.iv, sequence=rx.sequence)
    content = (key.open_untrusted(body, header) or b"").rstrip(b"\0")
    return content[-1:] == bytes([ContentType.HANDSHAKE]) and content[0] == HandshakeType.NEW_SESSION_TICKET
