"""What a target is: a function of bytes, where fuzzing it starts, and how its inputs are changed."""

from collections.abc import Callable
from dataclasses import dataclass

from .mutators import Mutator


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One fuzz target.

    Attributes:
        run: Takes any bytes, and raises if an invariant is broken.  The same bytes always do the same.
        seeds: Makes the inputs from which fuzzing starts: what real counterparts say.
        mutator: Changes an input so that it stays well-formed most of the time; None leaves it to libFuzzer.
        weight: How much of the time it gets, beside the others.
        max_length: The longest input, in bytes.
        edges_only: Whether the corpus is minimised by the edges that inputs reach, and not also by how often: for
            inputs that take milliseconds.
        keep: How many inputs of the minimised corpus are committed, at most: `make test` runs all.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    mutator: Mutator | None = None
    weight: int = 1
    max_length: int = 4096
    edges_only: bool = False
    keep: int = 200

    @property
    def name(self) -> str:
        """The function's name."""
        return self.run.__name__
