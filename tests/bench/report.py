"""Shows the figures: as tables, as JSON, and as a plot where pygal is installed (the extra `bench`)."""

import json
import platform
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.backends.openssl import backend

from tests.bench.measure import Comparison, median_cost
from tests.bench.parts import Part

TARGETS: Final[Mapping[str, float]] = {
    "X25519, ECDSA P-256": 0.6,
    "X25519, RSA-2048": 0.6,
    "X25519, ECDSA P-256, mutual": 0.7,
    "X25519, PSK": 0.45,
}
"""The ratios that are aimed at."""


def versions() -> dict[str, str]:
    """What was measured with."""
    return {
        "python": platform.python_version(),
        "ssl": ssl.OPENSSL_VERSION,
        "cryptography": backend.openssl_version_text(),
    }


def handshake_table(comparisons: Iterable[Comparison]) -> str:
    """Both ends' CPU time of one handshake in microseconds, handshakes per CPU second, and the ratio."""
    rows = [("handshake", "ours, client+server", "per s", "ssl, client+server", "per s", "ratio", "target")]
    for comparison in comparisons:
        ours, theirs = median_cost(comparison.ours), median_cost(comparison.ssl)
        target = TARGETS.get(comparison.name)
        rows.append(
            (
                comparison.name,
                f"{ours.client * 1e6:.0f} + {ours.server * 1e6:.0f} us",
                f"{1 / ours.both:.0f}",
                f"{theirs.client * 1e6:.0f} + {theirs.server * 1e6:.0f} us",
                f"{1 / theirs.both:.0f}",
                f"{comparison.ratio():.2f}",
                "" if target is None else f"{target:.2f}",
            )
        )
    return table(rows)


def parts_table(parts: Sequence[Part], handshake: float) -> str:
    """The other parts' CPU time, and their share of a handshake of both ends, in seconds."""
    rows = [("part of a request", "us", "of a handshake")]
    rows += [(part.name, f"{part.seconds * 1e6:.1f}", f"{part.seconds / handshake:.1%}") for part in parts]
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they have to be, the first one to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_json(comparisons: Iterable[Comparison], parts: Iterable[Part], instructions: Mapping[str, int]) -> str:
    """All figures, with each round of the comparisons."""
    document = {
        "versions": versions(),
        "handshakes": [
            {
                "name": comparison.name,
                "ratio": comparison.ratio(),
                "target": TARGETS.get(comparison.name),
                "ours": [[cost.client, cost.server] for cost in comparison.ours],
                "ssl": [[cost.client, cost.server] for cost in comparison.ssl],
            }
            for comparison in comparisons
        ],
        "parts": {part.name: part.seconds for part in parts},
        "instructions": dict(instructions),
    }
    return json.dumps(document, indent=1)


def draw(comparisons: Sequence[Comparison], path: Path) -> bool:
    """Write the plot; False without pygal."""
    try:
        import pygal
    except ImportError:
        return False
    chart = pygal.HorizontalBar(
        title="Handshakes per CPU second, both ends in one process",
        js=(),
        print_values=True,
        value_formatter=lambda value: f"{value:.0f}",
        width=900,
        height=90 + 70 * len(comparisons),
        legend_at_bottom=True,
    )
    shown = list(reversed(comparisons))  # it draws from the bottom
    chart.x_labels = [comparison.name for comparison in shown]
    chart.add("Python's ssl", [1 / median_cost(comparison.ssl).both for comparison in shown])
    chart.add("ktls-agent", [1 / median_cost(comparison.ours).both for comparison in shown])
    chart.render_to_file(str(path))
    return True
