"""A transcript: everything that went into the core for one request, and all that came out of it, in one file.

The format (version 1) is JSON Lines in UTF-8.  The first line is the header, every other line is a step with its time:

    {"transcript": 1, "agent": "0.1.0", "recorded": "2026-11-24T15:57:05.123456+00:00", "secrets": false}
    {"at": 0.0, "step": "Datagram", "outgoing": true, "data": "1c00..."}
    {"at": 0.0004, "step": "Started", "request": {"kind": "ClientAnon", "sockfd": 13, ...}, ...}

`step` and `kind` name a record of `steps` and of `request`; the other members are its attributes.  Bytes are
hexadecimal, enumerations are the names of their members, `at` is in seconds since the first step.  A reader refuses
what it does not know: a transcript is evidence, and is read whole or not at all.

What a transcript without secrets lacks is up to `redact`.
"""

import datetime as dt
import enum
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import cattrs
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.strategies import configure_tagged_union, configure_union_passthrough

from ..request import HandshakeRequest, InvalidRequest, ServerX509
from ..steps import (
    Completed,
    Configured,
    Drew,
    Encapsulated,
    Exported,
    FoundPsk,
    Plaintext,
    PskLoaded,
    PsksLookedUp,
    SecretLogged,
    Started,
    Step,
)
from ..tls.records import ContentType, HandshakeType

VERSION: Final = 1

MAX_TRANSCRIPT_BYTES: Final = 4 << 20
"""A handshake of the largest size that the engine takes, in hexadecimal, and the anchors of its peer's chain."""

MAX_STEPS: Final = 4096
"""The largest handshake, in records of 32 bytes; ordinary ones have about fifty steps."""

_TIME_DIGITS: Final = 6  # microseconds
_MAX_SAID: Final = 200
"""Characters of a library's own words about a line."""


class TranscriptError(Exception):
    """A file is no transcript that this version can read; the text is a sentence that says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedStep:
    """A step, and when it was taken.

    Attributes:
        at: Seconds since the first step.
        step: The step.
    """

    at: float
    step: Step


_StepT = TypeVar("_StepT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One recorded request.

    Attributes:
        agent: The version of ktls-agent that recorded it.
        recorded: When its first step was taken, with a time zone.
        secrets: Does it hold keys?
        steps: What happened, in order.
    """

    agent: str
    recorded: dt.datetime
    secrets: bool
    steps: tuple[TimedStep, ...]

    def of_type(self, kind: type[_StepT]) -> list[_StepT]:
        """Return the steps of one kind, in order."""
        return [timed.step for timed in self.steps if isinstance(timed.step, kind)]


# Writing


def encode_transcript(transcript: Transcript) -> bytes:
    """Write a transcript; `decode_transcript_untrusted` reads it again."""
    return b"".join(_lines(transcript))


def _lines(transcript: Transcript) -> Iterator[bytes]:
    header = {
        "transcript": VERSION,
        "agent": transcript.agent,
        "recorded": transcript.recorded.isoformat(),
        "secrets": transcript.secrets,
    }
    yield _line(header)
    for timed in transcript.steps:
        members = _converter.unstructure(timed.step, unstructure_as=Step)
        yield _line({"at": round(timed.at, _TIME_DIGITS), "step": members.pop("step"), **members})


def _line(members: dict[str, Any]) -> bytes:
    return json.dumps(members, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


# Secrets


def redact(steps: Iterable[TimedStep]) -> tuple[TimedStep, ...]:
    """Take the secrets out.

    Pre-shared keys, traffic secrets and the kernel's keys go in any case.  The engine's randomness, which makes the
    ephemeral key and with it everything else, stays where it can do no harm: in a handshake that ended before either
    side could send application data, so that most failures can still be replayed to the byte.
    """
    timed = tuple(steps)
    keep_entropy = not _data_could_flow([step.step for step in timed])
    redacted = (replace(step, step=_redact_step(step.step, keep_entropy=keep_entropy)) for step in timed)
    return tuple(step for step in redacted if not isinstance(step.step, SecretLogged))


def _data_could_flow(steps: list[Step]) -> bool:
    is_server = any(isinstance(step, Started) and isinstance(step.request, ServerX509) for step in steps)
    return any(
        isinstance(step, Completed | PskLoaded | PsksLookedUp) or (is_server and _follows_hello(step))
        for step in steps
    )


def _follows_hello(step: Step) -> bool:
    """Is it what a client says after its ClientHello?  Data may follow at once, whatever the server thinks of it."""
    return (
        isinstance(step, Plaintext)
        and not step.outgoing
        and step.content_type == ContentType.HANDSHAKE
        and step.data[:1] != bytes([HandshakeType.CLIENT_HELLO])
    )


def _redact_step(step: Step, *, keep_entropy: bool) -> Step:
    match step:
        case Drew() if not keep_entropy:
            return replace(step, data=None)
        case Encapsulated() if not keep_entropy:
            return replace(step, secret=None)
        case PskLoaded(found=FoundPsk() as found):
            return replace(step, found=replace(found, secret=None))
        case PsksLookedUp():
            return replace(step, found=tuple(replace(found, secret=None) for found in step.found))
        case Exported():
            return replace(step, tx=None, rx=None)
        case _:
            return step


# Reading


def decode_transcript_untrusted(data: bytes) -> Transcript:
    """Read a transcript.

    Args:
        data: Any bytes.

    Raises:
        TranscriptError: They are not one that this version can read.
    """
    if len(data) > MAX_TRANSCRIPT_BYTES:
        raise TranscriptError(f"It has {len(data)} bytes; a transcript has at most {MAX_TRANSCRIPT_BYTES}.")
    lines = data.removesuffix(b"\n").split(b"\n")
    if len(lines) > 1 + MAX_STEPS:
        raise TranscriptError(f"It has {len(lines)} lines; a transcript has at most {1 + MAX_STEPS}.")
    header = _read_line(lines[0], 1, _read_header)
    steps = tuple(_read_line(line, number, _read_step) for number, line in enumerate(lines[1:], 2))
    return replace(header, steps=steps)


_ReadT = TypeVar("_ReadT")


def _read_line(line: bytes, number: int, read: Callable[[dict[str, Any]], _ReadT]) -> _ReadT:
    try:
        return read(_object(json.loads(line)))
    except TranscriptError:
        raise
    except RecursionError:
        raise TranscriptError(f"Line {number} is nested too deeply.") from None
    except Exception as error:  # the JSON and the converter's hooks raise about anything on wrong members
        raise TranscriptError(f"Line {number} is not part of a transcript: {_said(error)}.") from None


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("it is not a JSON object")
    return value


def _said(error: Exception) -> str:
    text = str(error)[:_MAX_SAID]
    return f"{type(error).__name__} {text}".strip() if not isinstance(error, TypeError) else text


def _read_header(members: dict[str, Any]) -> Transcript:
    version = members.pop("transcript", None)
    if type(version) is not int or version != VERSION:
        raise TranscriptError(
            f"It is no ktls-agent transcript of version {VERSION}: its first line gives {version!a:.20} as the version."
        )
    return _converter.structure({**members, "steps": []}, Transcript)


def _read_step(members: dict[str, Any]) -> TimedStep:
    at = round(_converter.structure(members.pop("at", None), float), _TIME_DIGITS)
    step: Step = _converter.structure(members, Step)  # type: ignore[arg-type]  # a union is no class
    return TimedStep(at=at, step=step)


# What the records' attributes are in JSON


def _exactly(kind: type) -> Callable[[object, object], object]:
    """Take a JSON value of one type as it is, where cattrs would convert others into it."""

    def structure(value: object, _kind: object) -> object:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, not {value!a:.40}")
        return value

    return structure


def _to_float(value: object, _kind: object) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"expected a number, not {value!a:.40}")
    number = float(str(value))
    if not math.isfinite(number):
        raise TypeError(f"expected a number, not {value!a:.40}")
    return number


def _to_bytes(value: object, _kind: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"expected hexadecimal, not {value!a:.40}")
    return bytes.fromhex(value)


def _to_time(value: object, _kind: object) -> dt.datetime:
    time = dt.datetime.fromisoformat(value) if isinstance(value, str) else None
    if time is None or time.tzinfo is None:
        raise TypeError(f"expected a time with its zone, not {value!a:.40}")
    return time


def _to_member(value: object, kind: type[enum.Enum]) -> enum.Enum:
    return kind[str(value)]


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    converter.register_unstructure_hook(bytes, bytes.hex)
    converter.register_unstructure_hook(dt.datetime, dt.datetime.isoformat)
    for named in (enum.Enum, enum.IntEnum):  # (the latter by name as well, or it is taken for an int)
        converter.register_unstructure_hook(named, operator.attrgetter("name"))
        converter.register_structure_hook(named, _to_member)
    for plain in (int, str, bool):
        converter.register_structure_hook(plain, _exactly(plain))
    converter.register_structure_hook(float, _to_float)
    converter.register_structure_hook(bytes, _to_bytes)
    converter.register_structure_hook(dt.datetime, _to_time)
    converter.register_unstructure_hook(  # As versions wrote it that had neither.
        Configured,
        make_dict_unstructure_fn(
            Configured,
            converter,
            groups=override(omit_if_default=True),
            key_shares=override(omit_if_default=True),
        ),
    )
    configure_union_passthrough(str | int | float, converter)
    configure_tagged_union(HandshakeRequest | InvalidRequest, converter, tag_name="kind")
    configure_tagged_union(Step, converter, tag_name="step")
    return converter


_converter: Final = _make_converter()
