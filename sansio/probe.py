"""What `ktls-agent probe` asks of a server, what it concludes from the answers, and how it tells it; no I/O.

The handshake is the agent's own, with the credentials of this machine; only the verifier is wrapped, so that a chain
that is refused is shown all the same.
"""

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, cast

from cryptography import x509

from .findings import days_left, fingerprint
from .ktls import KernelSecrets
from .policy import Credentials, RequestRefused, choose_parameters, make_psk_untrusted
from .request import ClientAnon, ClientX509
from .status import Alert, Cause, Failure, failure
from .summary import TLS_VERSION
from .tls.certificates import (
    MAX_NAMES,
    UNREADABLE,
    alternative_names,
    general_name_text,
    load_certificate_untrusted,
    name_text,
)
from .tls.diagnosis import MAX_CHAIN_LENGTH
from .tls.parameters import (
    CertificateRejected,
    ClientParameters,
    ClientPskParameters,
    HandshakeCompleted,
    Parameters,
    PeerCertificate,
    PeerVerifier,
    PreSharedKey,
)
from .tls.primitives import SUITES_BY_NAME, RecordKey
from .tls.psk import shown_identity
from .tls.records import HEADER_LENGTH, ContentType, HandshakeType

MAX_BEHIND: Final = 64 << 10
"""Bytes behind the handshake that are looked at: tickets and an alert have a few hundred."""

UNKNOWN_KEY: Final = PreSharedKey(
    identity=b"NVMe0R01 nqn.2014-08.org.nvmexpress:ktls-agent-probe nqn.2014-08.org.nvmexpress:ktls-agent-probe",
    secret=bytes(32),
    hash_name="sha256",
)
"""What is offered to a server whose keys we don't have: no server knows it, and whoever does is not to be trusted."""

_SUITES: Final = {suite.ktls: suite for suite in SUITES_BY_NAME.values()}

_NO_TLS: Final = frozenset(
    {Cause.PROTOCOL_VIOLATION, Cause.END_OF_FILE, Cause.CONNECTION_LOST, Cause.TIMED_OUT, Cause.INTERNAL}
)
"""Causes that say nothing about what the server thinks of us, or we of it."""


class Mode(enum.Enum):
    """What the server speaks."""

    NFS = "nfs"
    NVME = "nvme"
    TLS = "tls"


PORTS: Final[Mapping[Mode, int]] = {Mode.NFS: 2049, Mode.NVME: 4420, Mode.TLS: 443}
"""The usual port of each (IANA)."""

_MODES_BY_PORT: Final = {2049: Mode.NFS, 20049: Mode.NFS, 4420: Mode.NVME, 8009: Mode.NVME}


class TargetError(Exception):
    """What is to be probed can't be understood; the text is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is probed.

    Attributes:
        host: Its name or address.
        port: Its TCP port.
        mode: What it speaks.
    """

    host: str
    port: int
    mode: Mode


@dataclass(slots=True, kw_only=True)
class Report:
    """What a probe found; it grows as far as the probe gets.

    Attributes:
        target: What was probed.
        address: The server's address; None if it can't be reached.
        starttls: Does the server offer TLS in RPC?  None where that was not asked.
        completed: The handshake's result; None before its success.
        failure: Why the connection is not as it has to be; None if it is.
        chain: The DER certificates that the server sent, whatever was thought of them.
        tickets: How many session tickets came behind the handshake.
        phases: How long each phase took, in seconds.
    """

    target: Target
    address: str | None = None
    starttls: bool | None = None
    completed: HandshakeCompleted | None = None
    failure: Failure | None = None
    chain: tuple[bytes, ...] = ()
    tickets: int = 0
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if this machine accepts the server and the server us, 1 if not, 2 if no TLS server is there."""
        if self.failure is None:
            return 0
        return 2 if self.failure.cause in _NO_TLS else 1


def parse_target(text: str, mode: Mode | None) -> Target:
    """Read HOST or HOST:PORT; an IPv6 address with a port stands in brackets.

    Args:
        text: What was typed.
        mode: What the server speaks; None goes by the port, and is NFS without one.

    Raises:
        TargetError: It is neither.
    """
    host, port = _split(text)
    if not host:
        raise TargetError("The host is missing: HOST or HOST:PORT is expected.")
    if port is None:
        chosen = mode or Mode.NFS
        return Target(host=host, port=PORTS[chosen], mode=chosen)
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise TargetError(f"The port {port!a} is not a number from 1 to 65535.")
    return Target(host=host, port=int(port), mode=mode or _MODES_BY_PORT.get(int(port), Mode.TLS))


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":") or None
    if text.count(":") != 1:
        return text, None  # A name, or a bare IPv6 address.
    host, _, port = text.partition(":")
    return host, port


class RecordingVerifier:
    """Keeps a chain before it is judged; a `PeerVerifier`.

    Attributes:
        chain: The DER certificates of the peer; empty before they came.
    """

    def __init__(self, judge: PeerVerifier | Failure) -> None:
        """Judge as `judge` does, or refuse every chain for that failure."""
        self._judge = judge
        self.chain: tuple[bytes, ...] = ()

    def verify_untrusted(self, chain: Sequence[bytes]) -> tuple[PeerCertificate, x509.Certificate]:
        """See `PeerVerifier`.

        Raises:
            CertificateRejected: The chain is not accepted.
        """
        self.chain = tuple(chain[:MAX_CHAIN_LENGTH])
        if isinstance(self._judge, Failure):
            raise CertificateRejected(self._judge)
        return self._judge.verify_untrusted(chain)


def make_psk(identity: str, text: str) -> PreSharedKey:
    """Make a pre-shared key of what was typed.

    Args:
        identity: What names it on the wire.
        text: The key in hexadecimal, as `keyctl print` shows it.

    Raises:
        TargetError: They can't be used.
    """
    try:
        secret = bytes.fromhex(text.strip().removeprefix(":hex:"))
    except ValueError:
        raise TargetError(
            "The pre-shared key is not in hexadecimal, as `keyctl print SERIAL` shows it."
        ) from None
    try:
        return replace(make_psk_untrusted(0, identity.encode(), secret), serial=None)
    except (RequestRefused, ValueError) as error:
        raise TargetError(f"The pre-shared key can't be used: {error}") from None


def probe_parameters(
    target: Target, credentials: Credentials, psk: PreSharedKey | None, *, address: str, now: dt.datetime
) -> tuple[Parameters, RecordingVerifier]:
    """Decide what the handshake is to do, as the agent does for a consumer.

    Args:
        target: What is probed.
        credentials: What this machine has.
        psk: The pre-shared key to offer; None offers an unknown one, where keys are what the server wants.
        address: The server's address.
        now: The time for certificates.

    Returns:
        The parameters, and who keeps the server's chain.
    """
    if psk is not None or target.mode is Mode.NVME:
        key = UNKNOWN_KEY if psk is None else psk
        nobody = failure(Cause.INTERNAL, "A handshake with pre-shared keys has no certificate.")
        return ClientPskParameters(keys=(key,)), RecordingVerifier(nobody)
    chosen = _with_certificates(target, credentials, address, now)
    if isinstance(chosen, Failure):
        verifier = RecordingVerifier(chosen)
        return ClientParameters(verifier=verifier, server_name=target.host), verifier
    verifier = RecordingVerifier(chosen.verifier)
    alpn = chosen.alpn if target.mode is Mode.NFS else ()
    return replace(chosen, verifier=verifier, alpn=alpn), verifier


def _with_certificates(
    target: Target, credentials: Credentials, address: str, now: dt.datetime
) -> ClientParameters | Failure:
    asked = ClientAnon if credentials.client.identity is None else ClientX509
    try:
        chosen = choose_parameters(
            asked(sockfd=-1, peername=target.host),
            credentials,
            load_keys=_no_keyring,
            load_psk=_no_keyring,
            note=lambda _: None,
            peer_address=address,
            now=now,
        )
    except RequestRefused as refused:
        return refused.failure
    return cast("ClientParameters", chosen)  # A client with certificates was asked for.


def _no_keyring(wanted: object) -> NoReturn:
    raise AssertionError(f"the request names no key, not {wanted}")


# Behind the handshake


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What a server said behind its handshake.

    Attributes:
        tickets: How many NewSessionTicket messages.
        alert: The alert with which it ended the connection; None if it did not.
    """

    tickets: int
    alert: Alert | int | None


def look_behind_untrusted(data: bytes, secrets: KernelSecrets) -> Behind:
    """Read what came behind the handshake, as far as it can be read.

    A server judges the client's certificate after its own Finished, so that is where it says no.

    Args:
        data: Any bytes.
        secrets: The connection's keys; they are not changed.
    """
    rx = secrets.rx
    key = RecordKey(suite=_SUITES[secrets.cipher], key=rx.key, iv=rx.iv, sequence=rx.sequence)
    tickets, alert = 0, None
    while len(data) > HEADER_LENGTH and alert is None:
        header, rest = data[:HEADER_LENGTH], data[HEADER_LENGTH:]
        length = int.from_bytes(header[3:])
        content = (key.open_untrusted(rest[:length], header) or b"").rstrip(b"\0")
        if not content:
            break
        tickets += _tickets_untrusted(content)
        alert = _alert_untrusted(content)
        data = rest[length:]
    return Behind(tickets=tickets, alert=alert)


def _tickets_untrusted(content: bytes) -> int:
    """Count the tickets in a record; one that goes on in the next record counts where it begins."""
    messages, found = content[:-1], 0
    if content[-1] != ContentType.HANDSHAKE:
        return 0
    while messages:
        found += messages[0] == HandshakeType.NEW_SESSION_TICKET
        messages = messages[4 + int.from_bytes(messages[1:4]) :]
    return found


def _alert_untrusted(content: bytes) -> Alert | int | None:
    if content[-1] != ContentType.ALERT or len(content) != 3 or content[1] == Alert.CLOSE_NOTIFY:
        return None
    try:
        return Alert(content[1])
    except ValueError:
        return content[1]


def refusal_behind(behind: Behind) -> Failure | None:
    """Say why a server did not accept us after all; None if it did."""
    if behind.alert is None:
        return None
    name = behind.alert.name.lower() if isinstance(behind.alert, Alert) else str(behind.alert)
    return failure(
        Cause.PEER_ALERT,
        f"The server ended the connection after the handshake with the alert {name}: it did not accept this machine's "
        "certificate, or the lack of one. See its log, and [authenticate.client] here.",
    )


def refused_without_key(failed: Failure) -> Failure:
    """Say what it means that a server refused `UNKNOWN_KEY`; another failure stays as it is."""
    if failed.cause is not Cause.PEER_ALERT:
        return failed
    reason = (
        f"The server speaks TLS and wants a pre-shared key that it knows: {failed.reason}. Offer one with --psk-identity and "
        "--psk-file."
    )
    return replace(failed, reason=reason)


# Telling


Value = str | int | float | bool | None | list[str]
"""What a report tells under one name."""


def report_object(report: Report, now: dt.datetime) -> dict[str, object]:
    """Make an object of a report, for JSON.

    Args:
        report: The report.
        now: The time from which days are counted.
    """
    failed = report.failure
    return {
        "host": report.target.host,
        "port": report.target.port,
        "mode": report.target.mode.value,
        "address": report.address,
        "reachable": report.address is not None,
        "starttls": report.starttls,
        **_handshake(report.completed),
        "session_tickets": report.tickets,
        "certificates": [describe_certificate(der, now) for der in report.chain],
        "accepted": failed is None,
        "cause": None if failed is None else failed.cause.name.lower(),
        "reason": None if failed is None else failed.reason,
        "exit_code": report.exit_code,
        "milliseconds": {name: round(seconds * 1000, 1) for name, seconds in report.phases.items()},
    }


def _handshake(completed: HandshakeCompleted | None) -> dict[str, Value]:
    if completed is None:
        return dict.fromkeys(("version", "cipher", "group", "alpn", "psk"))
    return {
        "version": TLS_VERSION,
        "cipher": completed.cipher_suite,
        "group": completed.group,
        "alpn": None if completed.alpn is None else completed.alpn.decode(errors="backslashreplace"),
        "psk": None if completed.psk_identity is None else shown_identity(completed.psk_identity),
    }


def describe_certificate(der: bytes, now: dt.datetime) -> dict[str, Value]:
    """Describe a certificate that a server sent, whatever is in it.

    Args:
        der: The certificate.
        now: The time from which days are counted.
    """
    try:
        certificate = load_certificate_untrusted(der)
        return _described(certificate, now)
    except UNREADABLE as error:
        return {"problem": f"It can't be read: {type(error).__name__}."}


def _described(certificate: x509.Certificate, now: dt.datetime) -> dict[str, Value]:
    names = [general_name_text(name) for name in alternative_names(certificate)[:MAX_NAMES]]
    return {
        "subject": name_text(certificate.subject),
        "issuer": name_text(certificate.issuer),
        "names": [*names],
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "days_left": days_left(certificate, now),
        "key": _key(certificate),
        "purposes": _purposes(certificate),
        "sha256": fingerprint(certificate),
    }


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    kind = type(key).__name__.removesuffix("PublicKey").strip("_")
    size = getattr(key, "key_size", None)
    return kind if size is None else f"{kind} {size}"


def _purposes(certificate: x509.Certificate) -> list[str] | None:
    """Name the extended key usages; None without the extension, which is any."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    dotted = [str(usage.dotted_string) for usage in list(usages)[:MAX_NAMES]]
    return [_PURPOSES.get(oid, oid) for oid in dotted]


_PURPOSES: Final = {
    "1.3.6.1.5.5.7.3.1": "serverAuth",
    "1.3.6.1.5.5.7.3.2": "clientAuth",
    "1.3.6.1.5.5.7.3.33": "id-kp-rpcTLSClient",
    "1.3.6.1.5.5.7.3.34": "id-kp-rpcTLSServer",
    "2.5.29.37.0": "anyExtendedKeyUsage",
}
