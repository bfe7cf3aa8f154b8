"""Mutators change well-formed inputs into ones that are mostly well-formed again, and the same way each time."""

import random
from collections.abc import Callable

import pytest
from fuzz import decoders, engine_seeds, sessions, world
from fuzz.mutators import (
    ATTRIBUTES,
    DATAGRAM,
    DER,
    HEADED_PAIRS,
    TLS,
    Grammar,
    Mutator,
    Node,
    Scramble,
    lines,
    steps,
)
from fuzz.peers import records
from fuzz.targets import TARGETS
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.netlink.codec import (
    NetlinkDecodeError,
    split_attributes_untrusted,
    split_genl_untrusted,
    split_messages_untrusted,
)
from ktls_agent.sansio.netlink.spec import NlmsgType
from tests.peers.messages import Reader

GRAMMARS: dict[str, Grammar] = {
    "tls": TLS,
    "der": DER,
    "attributes": ATTRIBUTES,
    "datagram": DATAGRAM,
    "steps": steps(DATAGRAM),
    "pairs": HEADED_PAIRS,
    "lines": lines,
}
MUTATED = {name: target for name, target in TARGETS.items() if target.mutator is not None}
LIMIT = 8192


def scrambling(seed: int) -> Scramble:
    """What stands for libFuzzer's own mutations: a byte changed, put in or taken out."""
    chance = random.Random(seed)

    def scramble(data: bytes, limit: int) -> bytes:
        changed = bytearray(data)
        at = chance.randrange(len(changed) + 1)
        changed[at : at + chance.randrange(2)] = chance.randbytes(chance.randrange(2))
        return bytes(changed[:limit])

    return scramble


def mutations(grammar: Grammar, seed: bytes, count: int = 300) -> list[bytes]:
    return [Mutator(grammar).mutate(seed, LIMIT, number, scrambling(number)) for number in range(count)]


# Well-formed


def records_fit(data: bytes) -> bool:
    """Records fill the input, and messages fill the handshake records, with lengths that are right."""
    found = list(records(data))
    if sum(5 + len(fragment) for _, _, fragment in found) != len(data):
        return False
    if not all(messages_fit(fragment) for kind, _, fragment in found if kind == 22):
        return False
    lengths = [int.from_bytes(data[at + 3 : at + 5]) for at in starts(found)]
    return lengths == [len(fragment) for _, _, fragment in found]


def starts(found: list[tuple[int, int, bytes]]) -> list[int]:
    at, offsets = 0, []
    for _, _, fragment in found:
        offsets.append(at)
        at += 5 + len(fragment)
    return offsets


def messages_fit(fragment: bytes) -> bool:
    reader = Reader(fragment)
    try:
        while not reader.done:
            reader.number(1)
            reader.vector(3)
    except AssertionError:
        return False
    return True


def datagram_fits(data: bytes) -> bool:
    try:
        for message in split_messages_untrusted(data):
            if message.message_type != NlmsgType.ERROR:
                list(split_attributes_untrusted(split_genl_untrusted(message.payload)[1]))
    except NetlinkDecodeError:
        return False
    return True


def attributes_fit(data: bytes) -> bool:
    try:
        list(split_attributes_untrusted(data))
    except NetlinkDecodeError:
        return False
    return True


def der_fits(data: bytes) -> bool:
    """Values fill the input, and values the constructed ones."""
    while data:
        start = 2 + (data[1] & 0x7F if len(data) > 1 and data[1] & 0x80 else 0)
        size = int.from_bytes(data[2:start]) if start > 2 else int.from_bytes(data[1:2])
        content, rest = data[start : start + size], data[start + size :]
        if len(data) < start or len(content) < size or (data[0] & 0x20 and not der_fits(content)):
            return False
        data = rest
    return True


@pytest.mark.parametrize(
    ("grammar", "seeds", "fits", "share"),
    [
        (TLS, engine_seeds.of_servers, records_fit, 0.7),
        (TLS, engine_seeds.of_clients, records_fit, 0.7),
        (DATAGRAM, sessions.to_agent, datagram_fits, 0.7),
        (ATTRIBUTES, decoders.chains, attributes_fit, 0.7),
        (DER, lambda: [world.LEAF, world.INTERMEDIATE], der_fits, 0.7),
    ],
    ids=["servers", "clients", "datagrams", "attributes", "certificates"],
)
def test_what_is_mutated_is_mostly_well_formed(
    grammar: Grammar, seeds: Callable[[], list[bytes]], fits: Callable[[bytes], bool], share: float
) -> None:
    fitting = [seed for seed in seeds() if fits(seed)]
    assert len(fitting) >= 2
    changed = [mutation for seed in fitting for mutation in mutations(grammar, seed)]
    assert share < sum(map(fits, changed)) / len(changed) < 1


@pytest.mark.parametrize("name", MUTATED)
def test_mutations_are_many_and_the_same_for_the_same_seed(name: str) -> None:
    mutator = MUTATED[name].mutator
    assert mutator is not None
    seed = MUTATED[name].seeds()[0]
    first, second = (
        [mutator.mutate(seed, LIMIT, number, scrambling(number)) for number in range(100)] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 30


# Any bytes


@pytest.mark.parametrize("name", GRAMMARS)
@given(data=st.binary(max_size=300), seed=st.integers(0, 2**32 - 1), limit=st.integers(1, 400))
def test_any_bytes_are_mutated_within_the_limit(name: str, data: bytes, seed: int, limit: int) -> None:
    mutator = Mutator(GRAMMARS[name])
    assert len(mutator.mutate(data, limit, seed, scrambling(seed))) <= limit
    assert len(mutator.cross(data, data[::-1], limit, seed)) <= limit


@pytest.mark.parametrize("name", ["tls", "steps", "pairs", "lines"])
@given(data=st.binary(max_size=300))
def test_a_tree_that_is_not_changed_is_written_as_it_was(name: str, data: bytes) -> None:
    grammar = steps() if name == "steps" else GRAMMARS[name]
    assert Node(children=grammar(data)).write() == data


@pytest.mark.parametrize(
    ("grammar", "seeds"),
    [
        (DER, [world.LEAF, *world.CLIENT.chain]),
        (ATTRIBUTES, decoders.chains()),
        (DATAGRAM, sessions.to_agent()),
    ],
    ids=["der", "attributes", "datagram"],
)
def test_a_tree_of_a_real_message_is_written_as_it_was(grammar: Grammar, seeds: list[bytes]) -> None:
    for seed in seeds:
        tree = grammar(seed)
        assert Node(children=tree).write() == seed
        assert any(node.children for node in tree) or grammar is ATTRIBUTES


@pytest.mark.parametrize(
    ("grammar", "bomb"),
    [
        (DER, b"".join(b"\x30\x82" + (4 * (999 - depth)).to_bytes(2) for depth in range(1000))),
        (ATTRIBUTES, b"".join((4 * (1000 - depth)).to_bytes(2, "little") + b"\1\0" for depth in range(1000))),
    ],
    ids=["der", "attributes"],
)
def test_a_nest_of_any_depth_is_cut(grammar: Grammar, bomb: bytes) -> None:
    assert Node(children=grammar(bomb)).write() == bomb


# Crossing


def test_a_crossing_takes_pieces_of_the_other() -> None:
    one, other = engine_seeds.of_servers()[:2]
    crossed = {Mutator(TLS).cross(one, other, LIMIT, seed) for seed in range(50)}
    assert len(crossed) > 20
    assert sum(map(records_fit, crossed)) > 0.7 * len(crossed)
    assert Mutator(TLS).cross(one, other, 20, 1) == one[:20]
