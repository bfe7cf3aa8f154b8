"""An explanation as one HTML page without scripts or anything from outside: readable on a phone, in print and in the dark.

The ladder is a list: each row is a strip of SVG, with the three uprights and its arrow, below a text that wraps as
the width wants; so strips fit any width, and pages break between them.  A row's details unfold on a tap, and are
open where something went wrong and in print.  A table says the same without any drawing.

The page is built as a tree of elements, which escapes every text: names come from peers.
"""

import itertools
import re
from collections.abc import Iterator
from importlib import resources
from typing import Final
from xml.etree.ElementTree import Element, tostring

from ktls_agent.sansio.capture.explanation import WHY, Explanation, Row, Verdict

from .wording import Group, fact_groups, time_text

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""Should a text ever get out of its element, the browser still loads and runs nothing."""

_PARTIES: Final = ("kernel", "agent", "peer")
_X: Final = {"kernel": "0%", "agent": "50%", "peer": "100%"}
_MARKS: Final = {"plain": "", "good": "✓ ", "odd": "! ", "bad": "✕ "}
_TONES: Final = {"done": "good", "failed": "bad", "unfinished": "odd"}
_HUMPS: Final = re.compile("(?<=[a-z])(?=[A-Z])|(?<=_)")
_Child = Element | str | None


def render_page(explanation: Explanation) -> str:
    """Write the page."""
    page = _element("html", _head(explanation), _body(explanation), lang="en")
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _element(tag: str, *children: _Child, **attributes: str) -> Element:
    """Make an element; None is no child, and an attribute's underscores are hyphens, none at its end."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    made = Element(tag, named)
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif child is not None and len(made):
            made[-1].tail = (made[-1].tail or "") + child
        elif child is not None:
            made.text = (made.text or "") + child
    return made


def _head(explanation: Explanation) -> Element:
    style = resources.files("ktls_agent.cli").joinpath("page.css").read_text(encoding="utf-8")
    return _element(
        "head",
        _element("meta", charset="utf-8"),
        _element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        _element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _element("meta", name="color-scheme", content="light dark"),
        _element("title", explanation.verdict.headline),
        _element("style", style),
    )


def _body(explanation: Explanation) -> Element:
    return _element(
        "body",
        _element(
            "main",
            _verdict(explanation),
            _ladder(explanation.ladder),
            _facts(explanation),
            _table(explanation.ladder),
        ),
    )


def _verdict(explanation: Explanation) -> Element:
    verdict = explanation.verdict
    return _element(
        "header",
        _first_line(verdict),
        None if verdict.reason is None else _element("p", verdict.reason, class_="reason"),
        *(_element("p", f"Note: {note}", class_="note") for note in explanation.notes),
        _element("p", _about(explanation), class_="about"),
        class_=_TONES[verdict.outcome],
    )


def _first_line(verdict: Verdict) -> Element:
    mark = _element("span", _MARKS[_TONES[verdict.outcome]], class_="mark", aria_hidden="true")
    remedy = None if verdict.remedy is None else _element("span", f" {verdict.remedy}", class_="remedy")
    return _element("h1", mark, verdict.headline, remedy)


def _about(explanation: Explanation) -> str:
    request = explanation.request
    total = next((f"{phase.ms:.1f} ms" for phase in explanation.phases if phase.name == "total"), None)
    parts = (
        f"TLS {request.role}" if request.role != "unknown" else None,
        request.peer,
        request.address,
        time_text(request.recorded),
        total,
    )
    return " · ".join(part for part in parts if part is not None)


# The ladder


def _ladder(rows: tuple[Row, ...]) -> Element:
    names = (_element("span", name) for name in _PARTIES)
    return _element(
        "section",
        _element("h2", "What was said"),
        _element("p", "Times in milliseconds. Tap a row for what matters in it.", class_="hint"),
        _element(
            "div",
            _element("div", _element("div", *names, class_="names"), class_="parties", aria_hidden="true"),
            _element("ol", *map(_row, rows), class_="ladder"),
            class_="drawing",
        ),
    )


def _row(row: Row) -> Element:
    facts = _details(row)
    strip = (_element("span", _time(row), class_="time"), _lanes(row))
    if not facts:
        return _element("li", _element("div", *strip, class_="strip"), class_=row.tone)
    unfolded = {"open": ""} if _matters(row) else {}
    details = _element(
        "details", _element("summary", *strip, class_="strip"), _definitions(facts), **unfolded
    )
    return _element("li", details, class_=row.tone)


def _time(row: Row) -> str:
    """Milliseconds, with a decimal where there is room for it."""
    ms = row.at * 1000
    return f"{ms:.1f}" if ms < 1000 else f"{ms:.0f}"


def _matters(row: Row) -> bool:
    """Does it say what went wrong, or what is odd?"""
    says_why = any(detail.name == WHY for detail in row.details)
    return says_why or row.tone == "odd" or row.defect is not None


def _lanes(row: Row) -> Element:
    size = None if row.size is None else _element("span", f" {row.size} B", class_="size")
    label = _element("span", _MARKS[row.tone], *_breakable(row.label), size, class_="label")
    preview = " · ".join(", ".join(detail.values) for detail in row.details)
    text = _element(
        "span",
        label,
        _element("span", preview, class_="preview", aria_hidden="true") if preview else None,
        class_=f"text {_lane(row)}",
    )
    return _element("span", _strip(row), text, class_="lanes")


def _breakable(label: str) -> Iterator[_Child]:
    """Let a long name go over to the next line at its humps and underscores."""
    first, *others = _HUMPS.split(label)
    yield first
    for part in others:
        yield _element("wbr")
        yield part


def _lane(row: Row) -> str:
    if row.source == row.target:
        return "remark"
    return "with-kernel" if "kernel" in (row.source, row.target) else "with-peer"


def _strip(row: Row) -> Element:
    """The uprights, and the arrow at the strip's foot: all widths are shares of the whole."""
    uprights = (_element("line", class_="upright", x1=x, x2=x, y1="0", y2="100%") for x in _X.values())
    if row.source == row.target:
        return _element("svg", _element("title", "agent:"), *uprights, role="img")
    direction = 1 if _PARTIES.index(row.target) > _PARTIES.index(row.source) else -1
    head = _element("path", d=f"M{-9 * direction},-13 L0,-8 L{-9 * direction},-3")
    arrow = _element(
        "svg",
        _element("line", x1=_X[row.source], x2=_X[row.target], y1="-8", y2="-8"),
        _element("svg", head, x=_X[row.target], y="0", overflow="visible"),
        class_="arrow",
        x="0",
        y="100%",
        width="100%",
        overflow="visible",
    )
    title = _element("title", f"{row.source} to {row.target}:")
    return _element("svg", title, *uprights, arrow, role="img")


def _details(row: Row) -> list[tuple[str, str]]:
    facts = [(detail.name, ", ".join(detail.values)) for detail in row.details]
    return facts if row.defect is None else [("defect", row.defect), *facts]


def _definitions(facts: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Element:
    pairs = ((_element("dt", name), _element("dd", value)) for name, value in facts)
    return _element("dl", *itertools.chain.from_iterable(pairs))


# Facts, and the table


def _facts(explanation: Explanation) -> Element:
    return _element(
        "section",
        _element("h2", "Facts"),
        _element("div", *map(_group, fact_groups(explanation)), class_="facts"),
    )


def _group(group: Group) -> Element:
    title = _element("h3", "✕ " if group.warning else None, group.title)
    return _element("section", title, _definitions(group.facts), class_="bad" if group.warning else "plain")


def _table(rows: tuple[Row, ...]) -> Element:
    heads = ("ms", "from", "to", "what", "details")
    return _element(
        "details",
        _element("summary", "The same as a table"),
        _element(
            "table",
            _element("thead", _element("tr", *(_element("th", head, scope="col") for head in heads))),
            _element("tbody", *map(_table_row, rows)),
        ),
        class_="table",
    )


def _table_row(row: Row) -> Element:
    return _element("tr", *(_element("td", cell) for cell in _cells(row)))


def _cells(row: Row) -> Iterator[str]:
    yield _time(row)
    yield row.source
    yield row.target
    yield row.label if row.size is None else f"{row.label} ({row.size} B)"
    yield "; ".join(f"{name}: {value}" for name, value in _details(row))
