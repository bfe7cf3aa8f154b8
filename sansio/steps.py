"""What happens to one request, step by step: what went into the core, and what it made of that.

The core and the layers around it tell each step to a `Trace` as it happens; what a trace does with it (draw a ladder,
keep a transcript, nothing) is its own affair.  Whoever takes the step adds the time.  A step is frozen, and holds bytes,
numbers and names only, so that a transcript can be written, read and compared; what is secret in it is left out of its
`repr`, and can be None in a transcript that keeps no secrets.

| inputs                                                   | outputs                                              |
|----------------------------------------------------------|------------------------------------------------------|
| Datagram (from the kernel), Started, Configured          | Datagram (to the kernel)                             |
| IdentityLoaded, PskLoaded, PsksLookedUp                  | Noted                                                |
| Drew, Encapsulated, Signed, RevocationChecked, Received  | Plaintext, SecretLogged, Sent, Completed, Failed     |
| Interrupted, LocallyFailed                               | Exported                                             |
| Installed, PeerKeyMade, Answered                         | Reported, Closed, Summarized                         |
"""

import datetime as dt
import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from .lifecycle import Deadlines
from .request import HandshakeRequest, InvalidRequest
from .status import Failure
from .tls.parameters import HandshakeCompleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagram:
    """A netlink datagram about this request.

    Attributes:
        outgoing: From the agent to the kernel?
        data: The datagram.
    """

    outgoing: bool
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The kernel handed a request over.

    Attributes:
        request: What it asks for.
        peer_address: The peer's address; None if the connection is gone already.
        wall_clock: The time for which certificates have to be valid.
        deadlines: How long requests may take.
    """

    request: HandshakeRequest | InvalidRequest
    peer_address: str | None
    wall_clock: dt.datetime
    deadlines: Deadlines


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """What the request's role has to authenticate with.

    Attributes:
        trust: The trust anchors as DER; None without a trust store.  Of a large store, a transcript keeps those whose
            names occur in the peer's chain.
        authorities: The names of all of them, as CertificateRequest has them.
        identity: The agent's own chain as DER, the leaf first; None if none is configured.
        names: The DNS names of the identity.
        groups: The key exchange groups; None stands for elliptic curves only, as versions wrote it that had no others.
        key_shares: Those of them for which a client sends a share at once; None likewise.
    """

    trust: tuple[bytes, ...] | None = field(repr=False)
    identity: tuple[bytes, ...] | None = field(repr=False)
    authorities: tuple[bytes, ...] = field(default=(), repr=False)
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    key_shares: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityLoaded:
    """A certificate and its key were read from a keyring, or could not be.

    Attributes:
        certificate: The certificate's serial.
        private_key: The private key's serial.
        chain: The certificate as DER; empty if it could not be used.
        names: Its DNS names.
        failure: Why it could not be used, or None.
    """

    certificate: int
    private_key: int
    chain: tuple[bytes, ...] = field(default=(), repr=False)
    names: tuple[str, ...] = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPsk:
    """A pre-shared key that a keyring has.

    Attributes:
        serial: The key's serial.
        identity: What names it on the wire.
        hash_name: "sha256" or "sha384".
        secret: The key itself; None in a transcript without secrets.
    """

    serial: int
    identity: bytes
    hash_name: str
    secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PskLoaded:
    """A pre-shared key was read from a keyring, or could not be.

    Attributes:
        serial: The key's serial.
        found: The key; None if it could not be used.
        failure: Why it could not be used, or None.
    """

    serial: int
    found: FoundPsk | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PsksLookedUp:
    """The pre-shared keys that a client offers were looked up.

    Attributes:
        identities: What it offers.
        found: Those that there are.
        notes: What was wrong with the others, in sentences.
    """

    identities: tuple[bytes, ...]
    found: tuple[FoundPsk, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drew:
    """The engine drew randomness.

    Attributes:
        size: How many bytes.
        data: The bytes, an ephemeral private key among them; None in a transcript without secrets.
    """

    size: int
    data: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encapsulated:
    """The engine made a secret for the client's ML-KEM key.

    Attributes:
        ciphertext: What the client gets.
        secret: The secret; None in a transcript without secrets.
    """

    ciphertext: bytes = field(repr=False)
    secret: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """Our private key signed the handshake (CertificateVerify)."""

    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationChecked:
    """The peer's certificates were looked up in the revocation lists, which are too large for a transcript.

    Attributes:
        failure: Why the peer is refused; None if nothing speaks against it.
    """

    failure: Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Bytes of the handshake came from the peer; none is the end of file."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Bytes of the handshake went to the peer."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plaintext:
    """What is in a record: before its protection if it goes out, after it if it came in.

    Attributes:
        outgoing: To the peer?
        content_type: RFC 8446, 5.1: 20 change_cipher_spec, 21 alert, 22 handshake.
        data: The record's content; of handshake messages that go out, all that are written at once.
    """

    outgoing: bool
    content_type: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretLogged:
    """A traffic secret, as key log files have it; in a transcript with secrets only.

    Attributes:
        label: The key log's label, such as CLIENT_HANDSHAKE_TRAFFIC_SECRET.
        client_random: The ClientHello's random.
        secret: The secret.
    """

    label: str
    client_random: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The handshake is over, and its keys go into the socket next."""

    result: HandshakeCompleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The handshake is over without keys."""

    failure: Failure


class Interruption(enum.Enum):
    """What ends a request from outside."""

    CANCEL = "the consumer hung up"
    DEADLINE = "its time is over"
    SHUTDOWN = "the agent stops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """Something from outside came; whether it ended the request is the lifecycle's to say.

    Attributes:
        by: What came.
        after: Seconds since ACCEPT.
    """

    by: Interruption
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocallyFailed:
    """Something on this side went wrong."""

    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The keys are ready for the kernel.

    Attributes:
        cipher: The record protection's name in the kernel's terms.
        tx: `struct tls_crypto_info_*` for TLS_TX; None in a transcript without secrets.
        rx: The same for TLS_RX.
    """

    cipher: str
    tx: bytes | None = field(repr=False)
    rx: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The socket took the keys, or did not.

    Attributes:
        cipher: The record protection's name in the kernel's terms.
        behind: What was in the socket behind the handshake, still encrypted; looked at where a ticket does harm.
        refusal: Why the kernel refused the keys, as a sentence; None if it took them.
    """

    cipher: str
    behind: bytes = field(default=b"", repr=False)
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerKeyMade:
    """The peer's certificate became a key.

    Attributes:
        serial: The key's serial; None if the kernel has no such keys.
    """

    serial: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Something odd that is no obstacle, as a sentence."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """DONE goes to the kernel.

    Attributes:
        status: 0, or a positive errno.
        remote_auth: Serials of the keys that hold the peer's identity.
    """

    status: int
    remote_auth: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The kernel answered DONE.

    Attributes:
        error: 0, or a positive errno; None if the answer was lost.
        text: The kernel's extended acknowledgement.
    """

    error: int | None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The descriptor is to be closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summarized:
    """The request is over.

    Attributes:
        fields: The fields of its log line, without what other steps tell (`summary.summarize`).
    """

    fields: dict[str, str | int | float]


Step = (
    Datagram
    | Started
    | Configured
    | IdentityLoaded
    | PskLoaded
    | PsksLookedUp
    | Drew
    | Encapsulated
    | Signed
    | RevocationChecked
    | Received
    | Sent
    | Plaintext
    | SecretLogged
    | Completed
    | Failed
    | Interrupted
    | LocallyFailed
    | Exported
    | Installed
    | PeerKeyMade
    | Noted
    | Reported
    | Answered
    | Closed
    | Summarized
)

Trace = Callable[[Step], None]
"""Takes each step of a request.  It must not block or raise."""


def no_trace(_step: Step) -> None:
    """The trace that is there when nobody looks."""
