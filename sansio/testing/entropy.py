"""Randomness that is the same in each run."""

import hashlib
from typing import Final

_COUNTER_LENGTH: Final = 8


class SeededEntropy:
    """An `Entropy` for tests alone: the same seed gives the same bytes, so a failing test fails again.

    Each draw is SHAKE256 of the seed and of the number of the draw.
    """

    def __init__(self, seed: bytes = b"") -> None:
        self._seed = seed
        self._draws = 0

    def __call__(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        self._draws += 1
        return hashlib.shake_256(self._seed + self._draws.to_bytes(_COUNTER_LENGTH)).digest(count)
