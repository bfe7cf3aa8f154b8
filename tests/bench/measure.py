"""Measures by CPU time, and compares side by side: a round of one, a round of the other, and so on.

The machine may be busy with something else: CPU time leaves that out but for its effect on caches, both sides of a
comparison meet it alike, and the median leaves out what is left.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.ends import Case, End, Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU seconds of one handshake, in a round of many."""

    client: float
    server: float

    @property
    def both(self) -> float:
        return self.client + self.server


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One case's rounds.

    Attributes:
        name: The case.
        ours: Our cost in each round.
        ssl: That of `ssl` in the same rounds.
    """

    name: str
    ours: tuple[Cost, ...]
    ssl: tuple[Cost, ...]

    def ratio(self) -> float:
        """Our handshakes per CPU second over those of `ssl`: the median of the rounds' ratios."""
        return statistics.median(
            theirs.both / own.both for own, theirs in zip(self.ours, self.ssl, strict=True)
        )


def shake_hands(pair: Pair, cost: list[float]) -> None:
    """One handshake; adds the CPU time of the client and of the server to `cost`."""
    clock = time.process_time
    begun = clock()
    client = pair.client()
    flight = client.step(b"")
    between = clock()
    cost[0] += between - begun
    server = pair.server()
    ends: tuple[End, End] = (server, client)
    turn = 0
    while flight:
        flight = ends[turn].step(flight)
        now = clock()
        cost[1 - turn] += now - between
        turn, between = 1 - turn, now
    client.check()
    server.check()


def one_round(pair: Pair, handshakes: int) -> Cost:
    """The mean cost of so many handshakes."""
    cost = [0.0, 0.0]
    gc.collect()
    for _ in range(handshakes):
        shake_hands(pair, cost)
    return Cost(client=cost[0] / handshakes, server=cost[1] / handshakes)


def compare(case: Case, *, rounds: int, handshakes: int) -> Comparison:
    """Measure ours and `ssl` in turn."""
    one_round(case.ours, 2)  # caches fill, modules load
    one_round(case.ssl, 2)
    ours: list[Cost] = []
    theirs: list[Cost] = []
    for _ in range(rounds):
        ours.append(one_round(case.ours, handshakes))
        theirs.append(one_round(case.ssl, handshakes))
    return Comparison(name=case.name, ours=tuple(ours), ssl=tuple(theirs))


def median_cost(costs: Sequence[Cost]) -> Cost:
    """The medians of both ends."""
    return Cost(
        client=statistics.median(cost.client for cost in costs),
        server=statistics.median(cost.server for cost in costs),
    )


def time_of(action: Callable[[], object], *, rounds: int, times: int) -> float:
    """The median over the rounds of an action's CPU seconds."""
    action()
    results: list[float] = []
    for _ in range(rounds):
        begun = time.process_time()
        for _ in range(times):
            action()
        results.append((time.process_time() - begun) / times)
    return statistics.median(results)
