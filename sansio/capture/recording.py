"""Keeps the steps of one request, as a `Trace`, and makes a transcript of them when it is over."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cryptography import x509

from ..steps import Configured, Plaintext, Step, Summarized
from ..tls.certificates import quiet
from ..tls.records import ContentType
from .transcript import MAX_STEPS, TimedStep, Transcript, redact

MAX_RECORDED_BYTES: Final = 1 << 20
"""Of one request in memory: twice what the engine takes in a handshake, as bytes and as plaintext."""

MAX_WHOLE_STORE_BYTES: Final = 64 << 10
"""A trust store of this size is kept whole: some fifty authorities.  Of a system's bundle only what matters is."""


class Recording:
    """See the module's docstring.

    Args:
        clock: Returns the monotonic time in seconds.
        now: The wall-clock time of the start, with a time zone.

    Attributes:
        over: Has the request ended?
        overflowed: Was it more than is kept?  Then there is no transcript.
    """

    def __init__(self, *, clock: Callable[[], float], now: dt.datetime) -> None:
        self.over = False
        self.overflowed = False
        self._clock = clock
        self._started = clock()
        self._now = now
        self._bytes = 0
        self._steps: list[TimedStep] = []

    def __call__(self, step: Step) -> None:
        """Keep a step."""
        self.over = self.over or isinstance(step, Summarized)
        self._bytes += len(getattr(step, "data", None) or b"")
        if len(self._steps) >= MAX_STEPS or self._bytes > MAX_RECORDED_BYTES:
            self.overflowed = True
            self._steps.clear()
        if not self.overflowed:
            self._steps.append(TimedStep(at=round(self._clock() - self._started, 6), step=step))

    @property
    def succeeded(self) -> bool:
        """Did the request end with keys in the kernel and nothing to complain of?"""
        summary = self.summary
        return summary.get("status") == "ok" and "done_error" not in summary

    @property
    def summary(self) -> dict[str, str | int | float]:
        """The fields of the request's log line; empty before its end."""
        last = self._steps[-1].step if self._steps else None
        return last.fields if isinstance(last, Summarized) else {}

    def transcript(self, *, agent: str, secrets: bool) -> Transcript:
        """Make the transcript.

        Args:
            agent: The version of ktls-agent.
            secrets: Keep keys?
        """
        steps = _with_relevant_trust(self._steps)
        return Transcript(
            agent=agent,
            recorded=self._now,
            secrets=secrets,
            steps=steps if secrets else redact(steps),
        )


def _with_relevant_trust(steps: list[TimedStep]) -> tuple[TimedStep, ...]:
    return tuple(
        replace(timed, step=_trim(timed.step, steps)) if isinstance(timed.step, Configured) else timed
        for timed in steps
    )


def _trim(configured: Configured, steps: list[TimedStep]) -> Configured:
    """Of a large store, keep the anchors that the peer's chain can lead to."""
    anchors = configured.trust or ()
    if sum(map(len, anchors)) <= MAX_WHOLE_STORE_BYTES:
        return configured
    said = b"".join(_said_by_peer(timed.step) for timed in steps)
    relevant = tuple(anchor for anchor in anchors if _name_of(anchor) in said)
    return replace(configured, trust=relevant or anchors[:1])


def _said_by_peer(step: Step) -> bytes:
    match step:
        case Plaintext(outgoing=False, content_type=ContentType.HANDSHAKE, data=data):
            return data
        case _:
            return b""


def _name_of(anchor: bytes) -> bytes:
    """Its subject as DER, which is how a chain that leads to it names it."""
    with quiet():
        return x509.load_der_x509_certificate(anchor).subject.public_bytes()
