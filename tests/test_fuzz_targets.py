"""The fuzz targets hold for their seeds, for mutated seeds and for arbitrary bytes, without atheris."""

import pytest
from fuzz.seeds import seeds
from fuzz.targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = seeds()


def test_every_target_has_seeds() -> None:
    assert set(SEEDS) == set(TARGETS)
    assert all(SEEDS.values())


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_for_its_seeds(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_target_holds_for_mutated_seeds(name: str, data: st.DataObject) -> None:
    seed = bytearray(data.draw(st.sampled_from(SEEDS[name])))
    for position in data.draw(st.lists(st.integers(0, len(seed) - 1), min_size=1, max_size=4)):
        seed[position] = data.draw(st.integers(0, 255))
    TARGETS[name](bytes(seed[: data.draw(st.integers(0, len(seed)))]))


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=512))
def test_target_holds_for_arbitrary_bytes(name: str, data: bytes) -> None:
    TARGETS[name](data)
