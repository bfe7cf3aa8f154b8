"""Who computes next: one engine at a time, the one whose deadline is nearest.

A step of a handshake takes about a millisecond, and Trio runs every task that can run before it looks at sockets again.
So tasks take turns for it: between two steps the acceptor comes in, however many handshakes are waiting.  Of those that
wait, the one that has the least time left goes first: under a storm the requests that were accepted first are finished
rather than all of them half done.
"""

import heapq
import itertools
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Turn:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._taken = False
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, trio.Event]] = []  # bounded by the requests under way

    @asynccontextmanager
    async def taken(self, deadline: float | None) -> AsyncIterator[None]:
        """Wait for the turn, and have it for the body.

        Args:
            deadline: When the request's time is over, in Trio's time; None is never.
        """
        if self._taken:
            await self._wait(math.inf if deadline is None else deadline)
        self._taken = True
        try:
            await (
                trio.lowlevel.checkpoint()
            )  # With the turn, so that no two go without a look at sockets between.
            yield
        finally:
            self._hand_on()

    async def _wait(self, deadline: float) -> None:
        mine = (deadline, next(self._numbers), trio.Event())
        heapq.heappush(self._waiting, mine)
        try:
            await mine[2].wait()
        except trio.Cancelled:
            # (a turn that was given is always taken: Trio does not cancel a wait that is over)
            self._waiting.remove(mine)
            heapq.heapify(self._waiting)
            raise

    def _hand_on(self) -> None:
        """Give the turn to who has the least time left; it stays taken for the one that it is given to."""
        if self._waiting:
            heapq.heappop(self._waiting)[2].set()
        else:
            self._taken = False
