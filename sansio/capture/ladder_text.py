"""Draws a ladder as text: kernel, agent and peer as three uprights, an arrow for each message, times in milliseconds.

    draw_ladder([Rung(at=0.0, side="kernel", text="ACCEPT", inward=False)])

Details of a message stand below its arrow, between the same two uprights.
"""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from .explanation import Row

SPAN: Final = 43
"""Columns between two uprights."""

WIDTH: Final = 2 * SPAN + 12
"""Columns of a line."""

Side = Literal["kernel", "peer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """An arrow beside the agent, or a remark.

    Attributes:
        at: Seconds since the ladder's first step.
        side: Between the agent and whom.
        text: The label; it is cut if it is too long for the arrow.
        inward: Does it go towards the agent?  None for a remark, without an arrow.
        details: Paragraphs below it, which are wrapped.
    """

    at: float
    side: Side
    text: str
    inward: bool | None
    details: tuple[str, ...] = ()


def draw_ladder(rungs: Iterable[Rung]) -> list[str]:
    """Draw rungs in their order; each string is a line."""
    head = f"{'ms':>7}  kernel{'agent':>{SPAN - 2}}{'peer':>{SPAN}}"
    return [head, *(line for rung in rungs for line in _draw(rung))]


def row_rung(row: Row) -> Rung:
    """Make a rung of an explanation's row."""
    size = "" if row.size is None else f" ({row.size} B)"
    remark = row.source == row.target
    details = [f"{detail.name}: {', '.join(detail.values)}" for detail in row.details]
    if row.defect is not None:
        details.append(f"defect: {row.defect}")
    return Rung(
        at=row.at,
        side="kernel" if "kernel" in (row.source, row.target) else "peer",
        text=f"{row.label}{size}",
        inward=None if remark else row.target == "agent",
        details=tuple(details),
    )


def _draw(rung: Rung) -> Iterator[str]:
    yield _between(f"{rung.at * 1000:7.1f}", rung, _arrow(rung))
    for detail in rung.details:
        for line in textwrap.wrap(detail, SPAN - 6, subsequent_indent="  ", break_on_hyphens=False):
            yield _between(" " * 7, rung, f"    {line}".ljust(SPAN))


def _between(time: str, rung: Rung, text: str) -> str:
    kernel, peer = (text, " " * SPAN) if rung.side == "kernel" else (" " * SPAN, text)
    return f"{time}  |{kernel}|{peer}|"


def _arrow(rung: Rung) -> str:
    text = rung.text if len(rung.text) <= SPAN - 5 else f"{rung.text[: SPAN - 8]}..."
    if rung.inward is None:
        return f"   [{text}]".ljust(SPAN)
    dashes = "-" * (SPAN - len(text) - 5)
    to_the_right = rung.inward == (rung.side == "kernel")
    return f"-- {text} {dashes}>" if to_the_right else f"<- {text} {dashes}-"
