"""The benchmark runs, and what it shows is what it measured; how fast anything is, is not asserted."""

import json
import shutil
from pathlib import Path

import pytest

from tests.bench import instructions
from tests.bench.__main__ import main
from tests.bench.ends import Case, cases
from tests.bench.measure import Comparison, Cost, one_round
from tests.bench.report import TARGETS, as_json, handshake_table, table


def test_measures_and_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    written = json.loads((tmp_path / "bench.json").read_text())
    names = [case.name for case in cases()]
    assert [entry["name"] for entry in written["handshakes"]] == names
    assert all(name in shown for name in (*names, *written["parts"]))
    assert set(TARGETS) <= set(names)
    assert "<svg" in (tmp_path / "handshakes.svg").read_text()


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_each_end_of_both_has_its_cost(case: Case) -> None:
    for pair in (case.ours, case.ssl):
        cost = one_round(pair, 1)
        assert min(cost.client, cost.server) > 0


def comparison(ours: float, theirs: float) -> Comparison:
    half = Cost(client=ours / 2, server=ours / 2), Cost(client=theirs / 2, server=theirs / 2)
    return Comparison(name="X25519, PSK", ours=(half[0],), ssl=(half[1],))


def test_a_ratio_below_one_is_slower_than_ssl() -> None:
    assert comparison(2e-3, 1e-3).ratio() == pytest.approx(0.5)
    assert "0.50" in handshake_table([comparison(2e-3, 1e-3)])
    assert json.loads(as_json([comparison(2e-3, 1e-3)], (), {"a": 5}))["instructions"] == {"a": 5}


def test_columns_line_up() -> None:
    assert table([("a", "b"), ("long", "12")]) == "a      b\nlong  12"


def test_counts_nothing_where_nothing_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert instructions.find_counter() is None
