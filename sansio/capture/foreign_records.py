"""What a capture that others made holds (TCP streams, put together, and netlink datagrams), and what is found in it.

`ktls_agent.io_trio.captures` makes the first of files, `foreign_tls` and `foreign_netlink` look into them.
Times are seconds since 1970.
"""

import enum
from bisect import bisect_left
from dataclasses import dataclass, field

from ..ktls import KernelSecrets


class FlowEnd(enum.Enum):
    """How a direction of a connection ended in the capture."""

    OPEN = "the capture ended"
    FIN = "the connection was closed"
    RST = "the connection was reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One direction of a TCP connection.

    Attributes:
        data: Its bytes from the first on, as far as they are there without a gap.
        times: For each segment that brought some of them, in order: the offset behind it, and its time.
        lost: Are there more bytes, behind a gap or a bound?
        end: How it ended.
    """

    data: bytes = field(default=b"", repr=False)
    times: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    lost: bool = False
    end: FlowEnd = FlowEnd.OPEN

    def time_of(self, offset: int) -> float:
        """When the byte at an offset was there; of one behind the end: when the last was, or 0 without any."""
        if not self.times:
            return 0.0
        index = bisect_left(self.times, (offset + 1, 0.0))
        return self.times[min(index, len(self.times) - 1)][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpStream:
    """One TCP connection.

    Attributes:
        client: Who opened it, as "address:port".
        server: The other end.
        to_server: What the client sent.
        to_client: What the server sent.
    """

    client: str
    server: str
    to_server: Flow
    to_client: Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class NetlinkDatagram:
    """A generic-netlink datagram.

    Attributes:
        at: When it was captured.
        data: The datagram.
    """

    at: float
    data: bytes = field(repr=False)


class Outcome(enum.Enum):
    """How a foreign handshake ended, as far as the capture tells."""

    COMPLETED = "completed"
    REFUSED = "refused"
    BROKEN_OFF = "broken off"
    UNKNOWN = "not known: what follows the hellos is encrypted"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentAlert:
    """An alert that ended a handshake.

    Attributes:
        sender: "client" or "server".
        name: Its name in RFC 8446, 6, or its number.
    """

    sender: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentedCertificate:
    """A leaf certificate that one side presented; whether it is to be trusted was not looked at.

    Attributes:
        chain: The DER certificates as they were sent, the leaf first.
        subject: The leaf's subject, RFC 4514.
        issuer: The leaf's issuer, RFC 4514.
        not_after: When the leaf expires, ISO 8601, UTC.
    """

    chain: tuple[bytes, ...] = field(repr=False)
    subject: str
    issuer: str
    not_after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignHandshake:
    """A handshake in a capture that others made.

    Attributes:
        client: The client, as "address:port".
        server: The server.
        began: When its ClientHello was there, seconds since 1970.
        ended: When the last byte that belongs to it was there.
        outcome: How it ended.
        alert: The alert that ended it, or None.
        client_random: The ClientHello's random; b"" if it could not be parsed.
        server_name: The SNI, or None.
        alpn_offered: The protocols that the client offers.
        alpn: The protocol that the server chose, or None.
        cipher_suite: The suite's name or code point; None if no server chose one.
        group: The same for the key exchange's group; None also after psk_ke.
        retried: Was there a HelloRetryRequest?
        psk_identities: The identities that the client offers.
        psk_identity: The one that the server chose, or None.
        server_certificate: What the server presented, or None.
        client_certificate: The same of the client.
        tickets: How many NewSessionTickets the server sent, as far as they could be read.
        records: Protected records behind the handshake, of client and server.
        client_keys: What the kernel gets on the client's side; None without the secrets.  The client's kernel takes
            everything behind the server's Finished.
        server_keys: The same on the server's side, whose agent has sent the tickets that come first.
        checked: What was checked and is right.
        unchecked: What could not be checked, and why.
        findings: What is wrong.
    """

    client: str
    server: str
    began: float
    ended: float
    outcome: Outcome
    alert: SentAlert | None = None
    client_random: bytes = b""
    server_name: str | None = None
    alpn_offered: tuple[bytes, ...] = ()
    alpn: bytes | None = None
    cipher_suite: str | None = None
    group: str | None = None
    retried: bool = False
    psk_identities: tuple[bytes, ...] = ()
    psk_identity: bytes | None = None
    server_certificate: PresentedCertificate | None = None
    client_certificate: PresentedCertificate | None = None
    tickets: int = 0
    records: tuple[int, int] = (0, 0)
    client_keys: KernelSecrets | None = field(default=None, repr=False)
    server_keys: KernelSecrets | None = field(default=None, repr=False)
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
