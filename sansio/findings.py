"""What `ktls-agent check` says about a machine: facts in, findings out; no I/O.

A finding says what was found, and unless all is well what to do about it.  The facts of the kernel are in
`MachineFacts`; `judge_machine` judges those, `judge_credentials` what the configuration names.  The agent's own
certificates are judged by the verifiers that judge a peer's: what they refuse here, a peer refuses too.
"""

import datetime as dt
import enum
import errno
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from .ktls import IV_SIZE, LAYOUTS, TLS_1_3_VERSION, KernelSecrets, KtlsCipher, TrafficKey
from .netlink.events import FamilyResolved, KernelError
from .netlink.spec import MulticastGroup
from .policy import Credentials, RoleCredentials
from .status import Cause
from .tls.certificates import (
    MAX_NAMES,
    alternative_names,
    general_name_text,
    load_certificate_untrusted,
    name_text,
)
from .tls.parameters import CertificateRejected, PeerVerifier
from .tls.truststore import TrustStore
from .tls.verify import ClientCertificateVerifier, ServerCertificateVerifier

DAYS_LEFT: Final = 30
"""Below it a certificate is to be renewed: more than a month's holiday, less than what short-lived ones are made for."""

CAP_NET_ADMIN: Final = 12  # include/uapi/linux/capability.h

VISIBLE_GROUPS: Final = 32
"""/proc/net/netlink shows the members of the first 32 multicast groups only."""

_GENERIC_NETLINK: Final = "16"
_CAPABILITIES: Final = re.compile(r"^CapEff:\s*([0-9a-fA-F]{1,16})$", re.MULTILINE)
_WHOLE_MAP: Final = ["0", "0", "4294967295"]
_SECONDS_A_DAY: Final = 86400


class Level(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


_EXIT_CODES: Final = {Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: How bad it is.
        subject: What it is about, in a word or two: "kernel", "server's certificate".
        text: What was found, in sentences.
        advice: What to do about it, in sentences; empty if nothing is to be done.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A socket in the handshake family's multicast group.

    Attributes:
        inode: The socket's inode, by which /proc/PID/fd names it.
        process: The name and number of its process; empty if they are not known.
    """

    inode: str
    process: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What was found out about the kernel and this process.

    Attributes:
        release: The kernel's release.
        family: The answer to the look-up of the handshake family.
        listeners: Who listens for requests; None if that can't be seen.
        net_admin: Does this process have CAP_NET_ADMIN?
        initial_namespace: Is it in the initial user namespace?
        refusals: For each cipher why the kernel did not take its keys; None if it did.
        keyrings: Which of the keyrings that are linked at the start exist; None if the kernel has no list of keys.
    """

    release: str
    family: FamilyResolved | KernelError
    listeners: tuple[Listener, ...] | None
    net_admin: bool
    initial_namespace: bool
    refusals: Mapping[KtlsCipher, str | None]
    keyrings: frozenset[str] | None


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 if all is well, 1 if there is a warning, 2 if there is an error."""
    return max((_EXIT_CODES[finding.level] for finding in findings), default=0)


# What /proc says


def has_capability(status: str, capability: int) -> bool:
    """Does the text of a /proc/PID/status have a capability among the effective ones?"""
    found = _CAPABILITIES.search(status)
    return found is not None and bool(int(found[1], 16) >> capability & 1)


def is_initial_namespace(uid_map: str) -> bool:
    """Is the text of a /proc/PID/uid_map the initial user namespace's, which maps every user to itself?"""
    return uid_map.split() == _WHOLE_MAP


def sockets_in_group(table: str, group: int) -> tuple[str, ...] | None:
    """Find the generic netlink sockets in a multicast group.

    Args:
        table: The text of /proc/net/netlink: sk, Eth, Pid, Groups (hexadecimal), six more of which the last is the inode.
        group: The group's number, from 1.

    Returns:
        Their inodes; None for a group that the table does not show.
    """
    if not 1 <= group <= VISIBLE_GROUPS:
        return None
    rows = (line.split() for line in table.splitlines()[1:])
    return tuple(
        row[9]
        for row in rows
        if len(row) >= 10 and row[1] == _GENERIC_NETLINK and _number(row[3]) >> (group - 1) & 1
    )


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def trial_secrets(cipher: KtlsCipher) -> KernelSecrets:
    """Make keys that protect nothing, to see whether the kernel takes a cipher's."""
    key = TrafficKey(key=bytes(LAYOUTS[cipher].key), iv=bytes(IV_SIZE), sequence=0)
    return KernelSecrets(version=TLS_1_3_VERSION, cipher=cipher, tx=key, rx=key)


# The machine


def judge_machine(facts: MachineFacts, keyrings: Sequence[str] = ()) -> list[Finding]:
    """Judge the kernel and this process's place in it.

    Args:
        facts: What was found out.
        keyrings: The configured keyrings.
    """
    return [
        _family(facts),
        *_listeners(facts),
        _privilege(facts),
        *_ciphers(facts),
        *_keyrings(facts, keyrings),
    ]


def _family(facts: MachineFacts) -> Finding:
    match facts.family:
        case FamilyResolved():
            return _ok("kernel", f"Linux {facts.release} has the handshake service.")
        case KernelError(error=errno.ENOENT):
            return _error(
                "kernel",
                f"Linux {facts.release} has no handshake service (generic netlink family handshake).",
                "Use Linux 6.4 or newer with CONFIG_NET_HANDSHAKE, which comes with CONFIG_SUNRPC (NFS) or NVMe/TCP; "
                "distributions' own kernels have it.",
            )
        case KernelError(error=error, text=text):
            said = text or errno.errorcode.get(error, str(error))
            return _error(
                "kernel",
                f"The handshake service can't be looked up: {said}.",
                "Run the check outside of a sandbox that keeps netlink away.",
            )
        case _:
            assert_never(facts.family)


def _listeners(facts: MachineFacts) -> Iterator[Finding]:
    if isinstance(facts.family, KernelError):
        return
    if facts.listeners is None:
        yield _warning(
            "agent",
            "Whether an agent listens can't be seen in /proc/net/netlink.",
            "Look at its service: systemctl status ktls-agent.",
        )
    elif not facts.listeners:
        yield _warning(
            "agent",
            "No agent listens for handshake requests: mounts and connections with TLS fail.",
            "Start one: systemctl start ktls-agent.",
        )
    else:
        yield _told_listeners(facts.listeners)


def _told_listeners(listeners: Sequence[Listener]) -> Finding:
    processes = sorted({listener.process or "a process that can't be seen" for listener in listeners})
    text = f"For handshake requests listens: {', '.join(processes)}."
    if len(processes) == 1:
        return _ok("agent", text)
    return _warning(
        "agent",
        f"{text} The kernel gives each request to whichever is first.",
        "Stop all but one, unless they are meant as workers: systemctl disable --now tlshd.",
    )


def _privilege(facts: MachineFacts) -> Finding:
    if not facts.net_admin:
        return _warning(
            "privileges",
            "This process lacks CAP_NET_ADMIN: as it is here, an agent could not accept requests.",
            "Run agent and check as root, or give them that capability.",
        )
    if not facts.initial_namespace:
        return _error(
            "privileges",
            "This process is in a user namespace of its own, whose CAP_NET_ADMIN does not count.",
            "Run the agent in the initial user namespace: on the host, or in a container without user namespaces.",
        )
    return _ok("privileges", "CAP_NET_ADMIN in the initial user namespace.")


def _ciphers(facts: MachineFacts) -> Iterator[Finding]:
    taken = [cipher.name for cipher, refusal in facts.refusals.items() if refusal is None]
    refusals = {cipher.name: refusal for cipher, refusal in facts.refusals.items() if refusal is not None}
    if taken:
        yield _ok("kernel TLS", f"The kernel takes the keys of {', '.join(taken)}.")
        for name, refusal in refusals.items():
            yield _warning(
                "kernel TLS",
                refusal,
                f"Handshakes that choose {name} fail: load its module, or let the peers prefer another cipher.",
            )
        return
    unprivileged = (
        "" if facts.net_admin else " As root the module is loaded by itself: run the check as root."
    )
    yield _error(
        "kernel TLS",
        next(iter(refusals.values()), "No cipher could be tried."),
        f"Use a kernel with CONFIG_TLS, and load its module: modprobe tls.{unprivileged}",
    )


def _keyrings(facts: MachineFacts, configured: Sequence[str]) -> Iterator[Finding]:
    if facts.keyrings is None:
        yield _warning(
            "keyrings",
            "The kernel has no keyrings, or hides them (/proc/keys).",
            "NVMe/TCP and keys for a mount need them: use a kernel with CONFIG_KEYS.",
        )
        return
    for name in configured:
        if name not in facts.keyrings:
            yield _warning(
                "keyrings",
                f"The configured keyring {name!a} does not exist, or is not visible to this user.",
                "Create it before the agent starts, or take it out of `keyrings` in [authenticate].",
            )
    there = ", ".join(sorted(facts.keyrings)) or "none yet; .nfs and .nvme come with their modules"
    yield _ok("keyrings", f"There are: {there}.")


# The configuration


def judge_credentials(credentials: Credentials, now: dt.datetime) -> list[Finding]:
    """Judge what a configuration names.

    Args:
        credentials: What was loaded.
        now: The time for certificates, with a time zone.
    """
    findings = [
        _warning("configuration", text, "Correct the configuration, or the file that it names.")
        for text in credentials.warnings
    ]
    for role in (_Role("client", credentials.client, now), _Role("server", credentials.server, now)):
        findings.extend(role.findings())
    return findings


class _Role:
    """One role's trust store and certificate."""

    def __init__(self, name: str, own: RoleCredentials, now: dt.datetime) -> None:
        self.name = name
        self.own = own
        self.now = now
        self.group = f"[authenticate.{name}]"
        self.subject = f"{name}'s certificate"

    def findings(self) -> Iterator[Finding]:
        yield self.trust()
        identity = self.own.identity
        if identity is None:
            yield self.no_certificate()
            return
        chain = [load_certificate_untrusted(der) for der in identity.chain]
        yield _ok(self.subject, _described(chain[0]))
        yield self.days_left(chain)
        yield self.accepted(identity.chain, chain[0])

    def trust(self) -> Finding:
        subject = f"{self.name}'s trust store"
        if self.own.trust is None:
            return _warning(
                subject,
                "There is no trust store: no peer's certificate is accepted.",
                f"Set x509.truststore in {self.group}, or install the system's (ca-certificates).",
            )
        return _ok(subject, f"{len(self.own.trust.certificates)} trusted certificates.")

    def no_certificate(self) -> Finding:
        if self.name == "client":
            return _ok(
                self.subject, "None is configured: mounts with xprtsec=tls work, those with mtls don't."
            )
        return _ok(self.subject, "None is configured: this machine can't serve NFS over TLS.")

    def days_left(self, chain: Sequence[x509.Certificate]) -> Finding:
        first = min(chain, key=lambda certificate: certificate.not_valid_after_utc)
        days = days_left(first, self.now)
        what = f"{name_text(first.subject)} expires on {first.not_valid_after_utc:%Y-%m-%d}, in {days} days."
        advice = "Renew it, then reload: systemctl reload ktls-agent."
        if days < 0:
            text = f"{name_text(first.subject)} expired on {first.not_valid_after_utc:%Y-%m-%d}."
            return _error(self.subject, text, advice)
        return _ok(self.subject, what) if days >= DAYS_LEFT else _warning(self.subject, what, advice)

    def accepted(self, chain: Sequence[bytes], leaf: x509.Certificate) -> Finding:
        if self.own.trust is None:
            advice = self.trust().advice
            return _warning(self.subject, "Its chain can't be checked without a trust store.", advice)
        try:
            self.verifier(self.own.trust, leaf).verify_untrusted(chain)
        except CertificateRejected as rejected:
            return self.refused(rejected)
        return _ok(self.subject, "Its chain is complete, and good for this role by our own trust store.")

    def verifier(self, trust: TrustStore, leaf: x509.Certificate) -> PeerVerifier:
        """Judge as a peer does that has our trust store, and knows us by the first name."""
        if self.name == "client":
            return ClientCertificateVerifier(trust, now=self.now)
        names = [
            str(name.value)
            for name in alternative_names(leaf)
            if isinstance(name, x509.DNSName | x509.IPAddress)
        ]
        # A wildcard is no name that anybody has.
        name = next(iter(names), "localhost").replace("*", "any", 1)
        return ServerCertificateVerifier(trust, name=name, now=self.now)

    def refused(self, rejected: CertificateRejected) -> Finding:
        failed = rejected.failure
        text = f"By our own trust store a peer refuses it. {failed.reason}"
        if failed.cause is Cause.UNKNOWN_CA:
            advice = (
                f"Put the missing intermediate certificates behind the {self.name}'s own in x509.certificate; if the chain is "
                f"complete, peers need its authority, which x509.truststore of {self.group} lacks."
            )
            return _warning(self.subject, text, advice)
        return _error(self.subject, text, "Have a certificate issued that is right for this role.")


def days_left(certificate: x509.Certificate, now: dt.datetime) -> int:
    """How many whole days a certificate is valid from now on; negative once it has expired."""
    return int((certificate.not_valid_after_utc - now).total_seconds() // _SECONDS_A_DAY)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return a certificate's SHA-256 fingerprint, as OpenSSL writes it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _described(leaf: x509.Certificate) -> str:
    names = [general_name_text(name) for name in alternative_names(leaf)[:MAX_NAMES]]
    told = ", ".join(names) or "none"
    return f"{name_text(leaf.subject)}, issued by {name_text(leaf.issuer)}; its key fits; names: {told}."


def _ok(subject: str, text: str) -> Finding:
    return Finding(level=Level.OK, subject=subject, text=text)


def _warning(subject: str, text: str, advice: str) -> Finding:
    return Finding(level=Level.WARNING, subject=subject, text=text, advice=advice)


def _error(subject: str, text: str, advice: str) -> Finding:
    return Finding(level=Level.ERROR, subject=subject, text=text, advice=advice)


def group_of(family: FamilyResolved | KernelError) -> int | None:
    """Return the number of the group that agents listen in; None without the family."""
    return family.groups[MulticastGroup.TLSHD] if isinstance(family, FamilyResolved) else None


def mode_finding(path: str, mode: int) -> Finding | None:
    """Judge the permissions of a configuration file or of a file that it names.

    Args:
        path: The file.
        mode: Its permissions.

    Returns:
        A finding if others than its owner may write to it.
    """
    if not mode & 0o022:
        return None
    return _error("files", f"{path} has mode {mode:04o}: other users may change it.", f"chmod go-w {path}")


def unusable(text: str) -> Finding:
    """Make the finding of a configuration that can't be used.

    Args:
        text: A sentence that says why.
    """
    return _error("configuration", text, "Correct it; until then the agent does not start.")


def configuration_found(path: str | None) -> Finding:
    """Make the finding of a configuration that could be read.

    Args:
        path: The file; None where there is none.
    """
    if path is None:
        return _ok("configuration", "There is none in the usual places: the defaults are used.")
    return _ok("configuration", f"{path} can be used.")
