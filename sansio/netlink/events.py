"""What the kernel said: the records that `GenlClient.receive_datagram_untrusted` returns."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSerials:
    """One CERTIFICATE attribute of an ACCEPT reply: key serials, None where the attribute is missing.

    A serial of 0 (TLS_NO_CERT, TLS_NO_PRIVKEY) means that the consumer named no key.
    """

    certificate: int | None
    private_key: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptReply:
    """An ACCEPT reply as decoded: well-formed, but not yet judged (see `ktls_agent.sansio.request`).

    Attributes:
        sockfd: The descriptor that the kernel installed in this process.
        message_type: HandshakeMessageType's number, whatever its value.
        timeout_ms: Milliseconds the consumer waits; None if it did not say.
        auth_mode: HandshakeAuth's number, whatever its value.
        peer_identities: Key serials, in the kernel's order.
        certificates: Key serials of certificates and their private keys.
        peername: The peer's name; bytes that are not UTF-8 are kept as surrogates.
        keyring: A keyring's serial, which the kernel linked into the process keyring.
        unknown: (type, payload) of attributes that this version does not know.
        defect: The first attribute that was malformed, in words; None if all were well-formed.
    """

    sockfd: int | None = None
    message_type: int | None = None
    timeout_ms: int | None = None
    auth_mode: int | None = None
    peer_identities: tuple[int, ...] = ()
    certificates: tuple[CertificateSerials, ...] = ()
    peername: str | None = None
    keyring: int | None = None
    unknown: tuple[tuple[int, bytes], ...] = ()
    defect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyResolved:
    """CTRL_CMD_GETFAMILY was answered: the family's id and its multicast groups by name."""

    family_id: int
    version: int
    groups: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """READY: a request waits in the kernel.  It is said once for each request, and can be lost."""

    handler_class: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """ACCEPT was answered with a request."""

    sequence: int
    reply: AcceptReply


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingPending:
    """ACCEPT was answered with EAGAIN: no request waits."""

    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneAnswered:
    """DONE was answered.

    Attributes:
        sequence: The sequence number of the DONE.
        sockfd: The descriptor that the DONE was about.
        error: 0, or a positive errno: the kernel's; EBADMSG if its answer was malformed; ENOBUFS if it was lost.
        text: The kernel's extended acknowledgement, or an empty string.
    """

    sequence: int
    sockfd: int
    error: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelError:
    """The kernel answered anything else with an error.

    Attributes:
        sequence: The sequence number of what it answers.
        command: What it answers, in words: "resolve", "accept".
        error: A positive errno: the kernel's; EBADMSG if its answer was malformed; ENOBUFS if it was lost; 0 when
            the kernel acknowledged what should have had an answer.
        text: The kernel's extended acknowledgement, or an empty string.
    """

    sequence: int
    command: str
    error: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationsLost:
    """Notifications may have been lost (ENOBUFS, NLMSG_OVERRUN): ACCEPT until nothing is pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedMessage:
    """A message was malformed and belongs to no request that waits for an answer.

    It may have been a READY: as after NotificationsLost, ACCEPT until nothing is pending.

    Attributes:
        reason: A sentence for the log.
    """

    reason: str


NetlinkEvent = (
    FamilyResolved
    | Ready
    | Accepted
    | NothingPending
    | DoneAnswered
    | KernelError
    | NotificationsLost
    | MalformedMessage
)
