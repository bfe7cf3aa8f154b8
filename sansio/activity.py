"""What the agent has done since its start, in numbers: fed by what happens, read by `status` and the metrics; no I/O.

Everything is bounded: what is counted apart comes from tables (roles, causes, phases), never from a peer, and of
failures the last few are kept.
"""

import bisect
import datetime as dt
import itertools
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .policy import Credentials
from .summary import Fields
from .tls.certificates import load_certificate_untrusted, name_text

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of durations in seconds: from a key's installation to more than any consumer waits."""

PHASES: Final = ("handshake", "install", "done", "total")
"""The durations that a log line has, each as NAME_ms."""

MAX_FAILURES: Final = 20
"""The last failures that are kept to be shown: a screenful."""

_TOLD_OF_FAILURES: Final = ("role", "auth", "peer", "address", "status", "cause", "reason")


class Histogram:
    """Durations by size.

    Attributes:
        counts: For each of `BUCKETS`, and for all beyond them, how many there were.
        total: The sum of all, in seconds.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """For each bucket, and for all in the end, how many were in it or in a smaller one."""
        return list(itertools.accumulate(self.counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What requests are counted by.

    Attributes:
        role: "client", "server" or "unknown".
        auth: "unauth", "x509", "psk" or "unknown".
        status: What the consumer was told: "ok", or an errno's name; "none" if it was told nothing.
        cause: Why it failed; empty if it did not.
    """

    role: str
    auth: str
    status: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateExpiry:
    """When one of our own certificates ends.

    Attributes:
        role: For which role it is configured.
        subject: Its subject.
        timestamp: When it expires, in seconds since 1970.
    """

    role: str
    subject: str
    timestamp: float


class Activity:
    """See the module's docstring.

    Attributes:
        requests: How many requests ended how.
        in_flight: How many are under way.
        durations: How long each phase took, of `PHASES`.
        accept_lag: How long after a READY was heard the kernel's request was here.
        reloads: How many reloads of the configuration were "ok", and how many "failed".
        failures: The last failures: some fields of their log lines.
    """

    def __init__(self) -> None:
        self.requests: Counter[Outcome] = Counter()
        self.in_flight = 0
        self.durations = {name: Histogram() for name in PHASES}
        self.accept_lag = Histogram()
        self.reloads = Counter({"ok": 0, "failed": 0})
        self.failures: deque[Fields] = deque(maxlen=MAX_FAILURES)

    def request_began(self) -> None:
        """A request was accepted."""
        self.in_flight += 1

    def request_ended(self, fields: Fields) -> None:
        """A request is over.

        Args:
            fields: Its log line's.
        """
        self.in_flight -= 1
        role, auth = str(fields["role"]), str(fields["auth"])
        outcome = Outcome(
            role=role, auth=auth, status=str(fields.get("status", "none")), cause=str(fields.get("cause", ""))
        )
        self.requests[outcome] += 1
        for name, histogram in self.durations.items():
            duration = fields.get(f"{name}_ms")
            if duration is not None:
                histogram.observe(float(duration) / 1000)
        if outcome.cause:
            self.failures.append({name: fields[name] for name in _TOLD_OF_FAILURES if name in fields})

    def accepted_after(self, seconds: float) -> None:
        """A request is here, so long after its READY was heard."""
        self.accept_lag.observe(seconds)

    def reloaded(self, *, ok: bool) -> None:
        """The configuration was read again, or could not be."""
        self.reloads["ok" if ok else "failed"] += 1


def certificate_expiries(credentials: Credentials) -> Iterator[CertificateExpiry]:
    """Tell when the agent's own certificates expire: each role's leaf."""
    for role, own in (("client", credentials.client), ("server", credentials.server)):
        if own.identity is not None:
            leaf = load_certificate_untrusted(own.identity.chain[0])
            yield CertificateExpiry(
                role=role, subject=name_text(leaf.subject), timestamp=leaf.not_valid_after_utc.timestamp()
            )


def status_object(
    activity: Activity, credentials: Credentials, *, version: str, pid: int, uptime: float, dropped: int
) -> dict[str, object]:
    """Make an object of everything, for JSON.

    Args:
        activity: The numbers.
        credentials: Those in use.
        version: The agent's.
        pid: Its process.
        uptime: Seconds since its start.
        dropped: Recordings that were not written.
    """
    return {
        "version": version,
        "pid": pid,
        "uptime_seconds": round(uptime, 1),
        "in_flight": activity.in_flight,
        "requests": [
            {"role": one.role, "auth": one.auth, "status": one.status, "cause": one.cause, "count": count}
            for one, count in activity.requests.most_common()
        ],
        "mean_ms": {name: _mean_ms(histogram) for name, histogram in activity.durations.items()},
        "accept_lag_mean_ms": _mean_ms(activity.accept_lag),
        "certificates": [
            {
                "role": one.role,
                "subject": one.subject,
                "expires": dt.datetime.fromtimestamp(one.timestamp, dt.UTC).isoformat(),
            }
            for one in certificate_expiries(credentials)
        ],
        "reloads": dict(activity.reloads),
        "recordings_dropped": dropped,
        "last_failures": list(activity.failures),
    }


def _mean_ms(histogram: Histogram) -> float | None:
    return round(histogram.total / histogram.count * 1000, 1) if histogram.count else None
