"""Says in words how a replay went, and where it first differs from its transcript."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from ..steps import Step
from .replay import Difference, Replay
from .transcript import Transcript

SHOWN_BYTES: Final = 24
"""Bytes that are shown of two that differ, from a little before the first that does."""

_BEFORE: Final = 4


def describe_replay(transcript: Transcript, replay: Replay) -> list[str]:
    """Say how it went, in lines."""
    if replay.difference is not None:
        return list(_describe(replay.difference))
    withheld = (
        "" if replay.engine_ran else "; the handshake itself was not computed, as its secrets are left out"
    )
    return [f"identical in all {replay.compared} steps, as recorded by version {transcript.agent}{withheld}"]


def _describe(difference: Difference) -> Iterator[str]:
    yield f"differs at step {difference.number}:"
    yield from _compare(difference.recorded, difference.replayed)
    if difference.stopped is not None:
        yield f"  then the core could not go on: {difference.stopped}"


def _compare(recorded: Step | None, replayed: Step | None) -> Iterator[str]:
    if recorded is None or replayed is None or type(recorded) is not type(replayed):
        yield f"  recorded: {_named(recorded)}"
        yield f"  replayed: {_named(replayed)}"
        return
    for attribute in fields(recorded):
        before, now = (getattr(step, attribute.name) for step in (recorded, replayed))
        if before != now:
            at = _first_difference(before, now)
            yield f"  {type(recorded).__name__}.{attribute.name}{'' if at is None else f', byte {at}'}"
            yield f"    recorded: {_shown(before, at)}"
            yield f"    replayed: {_shown(now, at)}"


def _named(step: Step | None) -> str:
    return "nothing more" if step is None else repr(step)


def _first_difference(before: object, now: object) -> int | None:
    if not isinstance(before, bytes) or not isinstance(now, bytes):
        return None
    pairs = enumerate(zip(before, now, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(before), len(now)))


def _shown(value: object, at: int | None) -> str:
    if not isinstance(value, bytes) or at is None:
        return repr(value)
    start = max(0, at - _BEFORE)
    piece = value[start : start + SHOWN_BYTES].hex(" ")
    return f"{'... ' if start else ''}{piece}{' ...' if start + SHOWN_BYTES < len(value) else ''} ({len(value)} bytes)"
