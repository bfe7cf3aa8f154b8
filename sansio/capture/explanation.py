"""What there is to say about a recorded request: the records that `explain` makes and every renderer draws.

`encode_explanation` writes them as JSON.  Its keys are the attributes below, and stay: a later version adds keys and
takes none away.  Times of certificates and of the recording are ISO 8601.
"""

import datetime as dt
import json
from dataclasses import dataclass
from typing import Final, Literal

import cattrs

from .messages import Detail

Party = Literal["kernel", "agent", "peer"]
Tone = Literal["plain", "good", "odd", "bad"]

WHY: Final = "why"
"""The name of the detail that says why something failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How the request ended.

    Attributes:
        outcome: "done"; "failed"; or "unfinished" if the recording ends before the request does.
        headline: One sentence that says it.
        cause: The name of the failure's `Cause` in lower case; None without a failure.
        status: What DONE told the kernel: "ok" or an errno's name; None if there was no DONE.
        reason: The failure's facts, in a sentence; None without a failure.
        remedy: What to do about it; None where there is nothing to do.
    """

    outcome: Literal["done", "failed", "unfinished"]
    headline: str
    cause: str | None = None
    status: str | None = None
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What was asked for, and when.

    Attributes:
        role: "client", "server", or "unknown".
        auth: "unauth", "x509", "psk", or "unknown".
        peer: The peer's name as the consumer knows it.
        address: The peer's address.
        timeout: Seconds that the consumer waits; None if it did not say.
        recorded: When it was.
        agent: The version of ktls-agent that recorded it.
    """

    role: str
    auth: str
    peer: str | None
    address: str | None
    timeout: float | None
    recorded: dt.datetime
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFacts:
    """What was negotiated, as far as it came to that; None where it did not.

    Attributes:
        cipher_suite: The suite's name.
        group: The key exchange group.
        alpn: The protocol.
        server_name: SNI.
        psk_identity: The pre-shared key that was used.
        retried: Was there a HelloRetryRequest?
    """

    cipher_suite: str | None
    group: str | None
    alpn: str | None
    server_name: str | None
    psk_identity: str | None
    retried: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """How long one phase took.

    Attributes:
        name: "handshake", "install", "done", or "total".
        ms: Milliseconds.
    """

    name: str
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """A certificate that was presented.

    Attributes:
        presented_by: "peer" or "agent".
        position: 0 is the leaf, 1 what is above it, and so on.
        sha256: The fingerprint, in hexadecimal.
        subject: RFC 4514; None for it and all that follows if the certificate can't be read.
        issuer: RFC 4514.
        names: The subject alternative names, as "DNS:host".
        not_before: When its validity begins.
        not_after: When its validity ends.
        in_date: Was it valid at the time of the handshake?
        key: The kind and size of its key.
        usages: The extended key usages; None if it has no such extension.
        defect: Why it can't be read; None if it can.
    """

    presented_by: Party
    position: int
    sha256: str
    subject: str | None = None
    issuer: str | None = None
    names: tuple[str, ...] = ()
    not_before: dt.datetime | None = None
    not_after: dt.datetime | None = None
    in_date: bool | None = None
    key: str | None = None
    usages: tuple[str, ...] | None = None
    defect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the ladder.

    Attributes:
        at: Seconds since the first step.
        source: Who speaks.
        target: Who is spoken to; the agent itself where it remarks something.
        label: What is said.
        size: Bytes of the message; None where that says nothing.
        tone: "good" and "bad" decide the request, "odd" is worth a look.
        details: What matters in it.
        defect: What is malformed about it; None if nothing is.
    """

    at: float
    source: Party
    target: Party
    label: str
    size: int | None = None
    tone: Tone = "plain"
    details: tuple[Detail, ...] = ()
    defect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A recorded request, explained.

    Attributes:
        verdict: How it ended.
        request: What was asked for.
        tls: What was negotiated.
        phases: How long it took.
        certificates: What was presented, the peer's first.
        notes: What is odd beside the outcome, in sentences.
        ladder: What happened, in order.
    """

    verdict: Verdict
    request: RequestFacts
    tls: TlsFacts
    phases: tuple[Phase, ...]
    certificates: tuple[CertificateFacts, ...]
    notes: tuple[str, ...]
    ladder: tuple[Row, ...]


def encode_explanation(explanation: Explanation) -> str:
    """Write an explanation as JSON, over several lines."""
    return json.dumps(_converter.unstructure(explanation), indent=2, ensure_ascii=True)


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_unstructure_hook(dt.datetime, dt.datetime.isoformat)
    return converter


_converter: Final = _make_converter()
