"""An explanation as text for a terminal: the verdict, the facts, and the ladder with what matters in each message."""

import textwrap
from collections.abc import Iterator
from typing import Final

from ktls_agent.sansio.capture.explanation import Explanation
from ktls_agent.sansio.capture.ladder_text import WIDTH, draw_ladder, row_rung

from .wording import Group, fact_groups

_NAME: Final = 22
"""Columns for a fact's name."""


def render_text(explanation: Explanation) -> str:
    """Draw an explanation; the lines have at most `WIDTH` columns."""
    return "".join(f"{line.rstrip()}\n" for line in _lines(explanation))


def _lines(explanation: Explanation) -> Iterator[str]:
    verdict = explanation.verdict
    yield from _wrap(" ".join(filter(None, (verdict.headline, verdict.remedy))))
    if verdict.reason is not None:
        yield from _wrap(f"Reason: {verdict.reason}")
    for note in explanation.notes:
        yield from _wrap(f"Note: {note}")
    for group in fact_groups(explanation):
        yield ""
        yield from _group(group)
    yield ""
    yield from draw_ladder(row_rung(row) for row in explanation.ladder)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _group(group: Group) -> Iterator[str]:
    yield f"{group.title}{' (!)' if group.warning else ''}"
    for name, value in group.facts:
        yield from textwrap.wrap(
            value,
            WIDTH,
            initial_indent=f"  {name:<{_NAME - 2}}",
            subsequent_indent=" " * _NAME,
            break_on_hyphens=False,
        )
