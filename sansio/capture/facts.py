"""Facts of a transcript beside its ladder: what was asked, negotiated and presented, and how it ended."""

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from ..request import InvalidRequest
from ..status import OUTCOMES, Cause, Failure
from ..steps import Answered, Completed, Failed, LocallyFailed, Noted, Reported, Started, Summarized
from ..summary import ROLES, Fields, status_name
from ..tls.certificates import (
    MAX_NAMES,
    UNREADABLE,
    alternative_names,
    general_name_text,
    load_certificate_untrusted,
    name_text,
    printable,
)
from ..tls.diagnosis import ID_KP_RPC_TLS_CLIENT, ID_KP_RPC_TLS_SERVER, MAX_REASON
from ..tls.parameters import HandshakeCompleted
from ..tls.psk import shown_identity
from .explanation import CertificateFacts, Party, Phase, RequestFacts, TlsFacts, Verdict
from .messages import Dissection
from .transcript import Transcript

MAX_CERTIFICATES: Final = 16
"""Certificates of one message that are told about: chains have two to four."""

_USAGES: Final[Mapping[x509.ObjectIdentifier, str]] = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
    ID_KP_RPC_TLS_CLIENT: "id-kp-rpcTLSClient",
    ID_KP_RPC_TLS_SERVER: "id-kp-rpcTLSServer",
}

_StepT = TypeVar("_StepT")


def _last(transcript: Transcript, kind: type[_StepT]) -> _StepT | None:
    return next(reversed(transcript.of_type(kind)), None)


def summary_of(transcript: Transcript) -> Fields:
    """The fields of the request's log line; none if the recording ends before it."""
    summarized = _last(transcript, Summarized)
    return {} if summarized is None else summarized.fields


# How it ended


def failure_of(transcript: Transcript) -> Failure | None:
    """Why the request failed, as far as the transcript says so.

    The log line knows it in any case; a transcript without one may have the step that failed.
    """
    summary = summary_of(transcript)
    cause = Cause.__members__.get(str(summary.get("cause")).upper())
    if cause is not None:
        return Failure(cause=cause, reason=str(summary.get("reason", "")))
    failures = [step.failure for step in transcript.of_type(Failed)]
    failures += [step.failure for step in transcript.of_type(LocallyFailed)]
    return next(iter(failures), None)


def verdict_of(transcript: Transcript) -> Verdict:
    """Say how the request ended, and what to do about it."""
    failed, reported = failure_of(transcript), _last(transcript, Reported)
    status = None if reported is None else status_name(reported.status)
    if failed is not None:
        return _failed(failed, status)
    if reported is None:
        return Verdict(outcome="unfinished", headline="The recording ends before the request does.")
    if reported.status:
        headline = f"The handshake failed: the kernel was told {status}."
        return Verdict(outcome="failed", headline=headline, status=status)
    return _succeeded(transcript)


def _failed(failed: Failure, status: str | None) -> Verdict:
    return Verdict(
        outcome="failed",
        headline=f"The handshake failed: {failed.cause.value}.",
        cause=failed.cause.name.lower(),
        status=status,
        reason=sentence(failed.reason),
        remedy=OUTCOMES[failed.cause].remedy,
    )


def sentence(text: str) -> str:
    """Make a reason a sentence that is fit to print; the engine's are phrases."""
    shown = printable(text, MAX_REASON)
    return shown[:1].upper() + shown[1:] + ("" if shown.endswith((".", "…")) else ".")


def _succeeded(transcript: Transcript) -> Verdict:
    completed, answered = _last(transcript, Completed), _last(transcript, Answered)
    headline = "The handshake succeeded."
    if completed is not None:
        headline = f"The handshake succeeded: {_result_text(completed.result)}."
    if answered is None or answered.error == 0:
        return Verdict(outcome="done", headline=headline, status="ok")
    error = "no answer" if answered.error is None else status_name(answered.error)
    return Verdict(
        outcome="done",
        headline=f"The handshake succeeded, but its consumer may not know: the kernel gave DONE {error}.",
        status="ok",
        reason=sentence(answered.text) if answered.text else None,
        remedy="Repeat the mount or the connection; the consumer has probably given up in the meantime.",
    )


def _result_text(result: HandshakeCompleted) -> str:
    if result.psk_identity is not None:
        peer = "both sides have the same pre-shared key"
    elif result.peer is not None:
        peer = f"the peer is {printable(result.peer.subject)}"
    else:
        peer = "the peer presented no certificate"
    return f"{result.cipher_suite} with {result.group or 'no key exchange'}; {peer}"


def notes_of(transcript: Transcript) -> tuple[str, ...]:
    """What was odd, in sentences: as the log line has it, or as it came."""
    note = summary_of(transcript).get("note")
    notes = [str(note)] if note else [noted.text for noted in transcript.of_type(Noted)]
    return tuple(printable(text, MAX_REASON) for text in notes)


# What was asked, and what came of it


def request_facts(transcript: Transcript) -> RequestFacts:
    """What the kernel asked for; of a transcript without a request, what its log line says."""
    started, summary = _last(transcript, Started), summary_of(transcript)
    asked = None if started is None else started.request
    role, auth = ("unknown", "unknown") if asked is None else ROLES[type(asked)]
    named = None if asked is None or isinstance(asked, InvalidRequest) else asked
    address = summary.get("address") if started is None else started.peer_address
    return RequestFacts(
        role=role,
        auth=auth,
        peer=None if named is None or named.peername is None else printable(named.peername),
        address=None if address is None else printable(str(address)),
        timeout=None if named is None else named.timeout,
        recorded=transcript.recorded,
        agent=printable(transcript.agent),
    )


def tls_facts(transcript: Transcript, messages: Iterable[Dissection]) -> TlsFacts:
    """What was negotiated: as the handshake's result has it, or else as far as its messages came.

    Args:
        transcript: The transcript.
        messages: Its handshake messages, in order.
    """
    seen = tuple(messages)
    retried = any(message.name == "HelloRetryRequest" for message in seen)
    completed = _last(transcript, Completed)
    if completed is None:
        share = _value(seen, "ServerHello", "key share")
        return TlsFacts(
            cipher_suite=_value(seen, "ServerHello", "suite"),
            group=None if share is None else share.partition(" ")[0],
            alpn=_value(seen, "EncryptedExtensions", "ALPN"),
            server_name=_value(seen, "ClientHello", "server name"),
            psk_identity=None,
            retried=retried,
        )
    result = completed.result
    return TlsFacts(
        cipher_suite=printable(result.cipher_suite),
        group=None if result.group is None else printable(result.group),
        alpn=None if result.alpn is None else printable(result.alpn.decode("utf-8", "backslashreplace")),
        server_name=None if result.server_name is None else printable(result.server_name),
        psk_identity=None if result.psk_identity is None else shown_identity(result.psk_identity),
        retried=retried,
    )


def _value(messages: Iterable[Dissection], message: str, name: str) -> str | None:
    found = (detail for seen in messages if seen.name == message for detail in seen.details)
    return next((detail.values[0] for detail in found if detail.name == name and detail.values), None)


def phases_of(transcript: Transcript) -> tuple[Phase, ...]:
    """How long each phase took: as the log line has it, or else the whole."""
    fields = [(name, value) for name, value in summary_of(transcript).items() if name.endswith("_ms")]
    phases = tuple(
        Phase(name=printable(name.removesuffix("_ms")), ms=float(value))
        for name, value in fields
        if isinstance(value, int | float)
    )
    if phases or not transcript.steps:
        return phases
    return (Phase(name="total", ms=round(transcript.steps[-1].at * 1000, 1)),)


# Certificates


def certificate_facts_untrusted(
    chain: Iterable[bytes], presented_by: Party, now: dt.datetime | None
) -> Iterator[CertificateFacts]:
    """Tell what is in certificates, the first `MAX_CERTIFICATES` of them.

    Args:
        chain: DER, the leaf first; any bytes.
        presented_by: By whom.
        now: The time of the handshake.
    """
    for position, der in zip(range(MAX_CERTIFICATES), chain, strict=False):
        fingerprint = hashlib.sha256(der).hexdigest()
        try:
            certificate = load_certificate_untrusted(der)
            yield _facts(certificate, presented_by, position, fingerprint, now)
        except UNREADABLE as error:
            yield CertificateFacts(
                presented_by=presented_by,
                position=position,
                sha256=fingerprint,
                defect=f"It can't be read: {printable(str(error))}.",
            )


def _facts(
    certificate: x509.Certificate,
    presented_by: Party,
    position: int,
    fingerprint: str,
    now: dt.datetime | None,
) -> CertificateFacts:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return CertificateFacts(
        presented_by=presented_by,
        position=position,
        sha256=fingerprint,
        subject=name_text(certificate.subject),
        issuer=name_text(certificate.issuer),
        names=tuple(general_name_text(name) for name in alternative_names(certificate)[:MAX_NAMES]),
        not_before=begins,
        not_after=ends,
        in_date=None if now is None else begins <= now <= ends,
        key=_key_text(certificate),
        usages=_usages(certificate),
    )


def _key_text(certificate: x509.Certificate) -> str:
    match certificate.public_key():
        case rsa.RSAPublicKey(key_size=bits):
            return f"RSA, {bits} bits"
        case ec.EllipticCurvePublicKey(curve=curve):
            return f"ECDSA, {curve.name}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PublicKey():
            return "Ed448"
        case other:
            return type(other).__name__.removesuffix("PublicKey").lstrip("_")


def _usages(certificate: x509.Certificate) -> tuple[str, ...] | None:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return tuple(map(_usage, usages))[:MAX_NAMES]


def _usage(usage: x509.ObjectIdentifier) -> str:
    name = _USAGES.get(usage)
    return usage.dotted_string if name is None else name
