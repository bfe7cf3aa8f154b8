"""The benchmark: `make bench`, or `make bench ARGS="--quick --instructions"`.

It prints what it measures, and writes `build/bench/bench.json` and, with the extra `bench`, `build/bench/handshakes.svg`.
Nothing is asserted: what is fast enough is for people to say.
"""

import argparse
from pathlib import Path

from tests.bench.ends import cases
from tests.bench.gnutls import benchmark as benchmark_gnutls
from tests.bench.instructions import COUNTED, find_counter, instructions_of
from tests.bench.measure import Comparison, compare, median_cost
from tests.bench.parts import parts
from tests.bench.report import as_json, draw, handshake_table, parts_table, table, versions


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: a look, not a measurement")
    parser.add_argument("--instructions", action="store_true", help="count instructions, too: takes minutes")
    parser.add_argument(
        "--gnutls", action="store_true", help="run GnuTLS's own benchmark, too: half a minute"
    )
    parser.add_argument("--output", type=Path, default=Path("build/bench"), help="where the files go")
    return parser.parse_args(given)


def count_instructions() -> dict[str, int]:
    """The instructions of each case's handshake; empty if nothing here can count."""
    counter = find_counter()
    if counter is None:
        print("no instructions counted: neither perf nor valgrind works here")
        return {}
    counted = {name: instructions_of(counter, name) for name in COUNTED}
    rows = [(f"instructions, by {counter.name}", "millions")]
    print(table([*rows, *((name, f"{count / 1e6:.2f}") for name, count in counted.items())]), end="\n\n")
    return counted


def main(given: list[str] | None = None) -> None:
    options = arguments(given)
    rounds, handshakes = (3, 5) if options.quick else (31, 20)
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"medians of {rounds} rounds of {handshakes} handshakes, CPU time, ours and ssl's in turn\n")
    comparisons: list[Comparison] = [compare(case, rounds=rounds, handshakes=handshakes) for case in cases()]
    print(handshake_table(comparisons), end="\n\n")
    measured = parts(rounds=rounds, times=handshakes)
    print(parts_table(measured, median_cost(comparisons[0].ours).both), end="\n\n")
    if options.gnutls:
        print(benchmark_gnutls(), end="\n\n")
    counted = count_instructions() if options.instructions else {}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bench.json").write_text(as_json(comparisons, measured, counted) + "\n")
    drawn = draw(comparisons, options.output / "handshakes.svg")
    print(f"written: {options.output}/bench.json" + (", handshakes.svg" if drawn else " (no plot: no pygal)"))


if __name__ == "__main__":
    main()
