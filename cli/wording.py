"""How an explanation's facts are worded, for every renderer: groups of names and values."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from ktls_agent.sansio.capture.explanation import CertificateFacts, Explanation

_AUTHS = {
    "unauth": "no certificate of our own",
    "x509": "certificates",
    "psk": "pre-shared keys",
    "unknown": "unknown authentication",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Facts under one title.

    Attributes:
        title: The title.
        facts: Names and values, in order.
        warning: Is there something wrong with them?
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    warning: bool = False


def fact_groups(explanation: Explanation) -> tuple[Group, ...]:
    """Word all facts; what is not known is left out."""
    groups = (
        Group(title="Request", facts=tuple(_request(explanation))),
        Group(title="TLS 1.3", facts=tuple(_tls(explanation))),
        Group(title="Time", facts=tuple(_times(explanation))),
        *(
            Group(title=_certificate_title(facts), facts=tuple(_certificate(facts)), warning=_is_bad(facts))
            for facts in explanation.certificates
        ),
    )
    return tuple(group for group in groups if group.facts)


def _request(explanation: Explanation) -> Iterator[tuple[str, str]]:
    request = explanation.request
    yield "role", f"TLS {request.role}" if request.role != "unknown" else "unknown"
    yield "authenticates with", _AUTHS.get(request.auth, request.auth)
    if request.peer is not None:
        yield "peer", request.peer
    if request.address is not None:
        yield "address", request.address
    if request.timeout is not None:
        yield "consumer waits", f"{request.timeout:g} s"
    if explanation.verdict.status is not None:
        yield "DONE", explanation.verdict.status
    yield "recorded", f"{time_text(request.recorded)}, by ktls-agent {request.agent}"


def _tls(explanation: Explanation) -> Iterator[tuple[str, str]]:
    tls = explanation.tls
    named = {
        "cipher suite": tls.cipher_suite,
        "group": tls.group,
        "ALPN": tls.alpn,
        "server name": tls.server_name,
        "pre-shared key": tls.psk_identity,
    }
    yield from ((name, value) for name, value in named.items() if value is not None)
    if tls.retried:
        yield "round trips", "two: the first key share did not suit the server (HelloRetryRequest)"


def _times(explanation: Explanation) -> Iterator[tuple[str, str]]:
    yield from ((phase.name, f"{phase.ms:.1f} ms") for phase in explanation.phases)


def _certificate_title(facts: CertificateFacts) -> str:
    whose = "The peer's certificate" if facts.presented_by == "peer" else "Our certificate"
    return whose if facts.position == 0 else f"{whose}: {facts.position} above it"


def _is_bad(facts: CertificateFacts) -> bool:
    return facts.defect is not None or facts.in_date is False


def _certificate(facts: CertificateFacts) -> Iterator[tuple[str, str]]:
    if facts.defect is not None:
        yield "defect", facts.defect
    named = {
        "subject": facts.subject,
        "issuer": facts.issuer,
        "names": ", ".join(facts.names) or ("none" if facts.subject is not None else None),
        "valid": _validity(facts),
        "key": facts.key,
        "usages": "any" if facts.usages is None else ", ".join(facts.usages),
        "SHA-256": _grouped(facts.sha256),
    }
    if facts.subject is None:
        named["usages"] = None
    yield from ((name, value) for name, value in named.items() if value is not None)


def _validity(facts: CertificateFacts) -> str | None:
    if facts.not_before is None or facts.not_after is None:
        return None
    outside = "; NOT at the time of this handshake" if facts.in_date is False else ""
    return f"{time_text(facts.not_before)} to {time_text(facts.not_after)}{outside}"


def _grouped(fingerprint: str) -> str:
    return " ".join(fingerprint[start : start + 8] for start in range(0, len(fingerprint), 8))


def time_text(moment: dt.datetime) -> str:
    """Write a time in UTC, to the second."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
