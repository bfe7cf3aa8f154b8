"""Mutators that keep lengths right: an input is parsed into a tree, the tree is changed, and written again.

libFuzzer's own mutations put a wrong length somewhere and stop at the first check.  Here a *grammar* cuts an input into
`Node`s, each of which knows how to frame its content (TLS vectors, netlink attributes, DER); edits drop, repeat,
reorder, move, split, merge and change nodes; writing computes every length anew.  What does not fit the grammar
stays a leaf of plain bytes, so every input has a tree.  One change in `_WILD` is libFuzzer's own, over all bytes:
wrong lengths are worth trying too.

The same data and seed give the same result, as long as `scramble`, which changes plain bytes, does so.
"""

import copy
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

_WILD: Final = 8

Scramble = Callable[[bytes, int], bytes]
"""Changes bytes, up to a length: libFuzzer's Mutate."""

Frame = Callable[[bytes, bytes], bytes]
"""Puts a head (a type, a tag) and a content together, with the length that the content has."""


def plain(head: bytes, content: bytes) -> bytes:
    """No length at all."""
    return head + content


@functools.cache
def prefixed(width: int) -> Frame:
    """A TLS vector: a big-endian length of `width` bytes before the content."""

    def frame(head: bytes, content: bytes) -> bytes:
        return head + min(len(content), (1 << 8 * width) - 1).to_bytes(width) + content

    return frame


@functools.cache
def aligned(width: int) -> Frame:
    """Netlink: a length of `width` bytes, in host order, that counts itself and the head; padded to 4 bytes."""

    def frame(head: bytes, content: bytes) -> bytes:
        length = width + len(head) + len(content)
        clipped = min(length, (1 << 8 * width) - 1)
        return clipped.to_bytes(width, "little") + head + content + bytes(-length % 4)

    return frame


def der(head: bytes, content: bytes) -> bytes:
    """A DER value: tag, length in the shortest form, content."""
    size = len(content)
    if size < 0x80:
        return head + bytes([size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return head + bytes([0x80 | len(length)]) + length + content


@dataclass(slots=True, kw_only=True)
class Node:
    """A piece of an input: `body`, or `children` in its place."""

    frame: Frame = plain
    head: bytes = b""
    body: bytes = b""
    children: list["Node"] | None = None

    def write(self) -> bytes:
        """The bytes of the piece, all lengths right."""
        return self.frame(self.head, self.content())

    def content(self) -> bytes:
        """What is inside the frame."""
        return self.body if self.children is None else b"".join(child.write() for child in self.children)


# Grammars


class MisfitError(ValueError):
    """The bytes are not what the grammar has here."""


Part = Callable[[bytes], tuple[Node, bytes]]
"""Cuts one node off the start of the bytes, or raises MisfitError."""

Grammar = Callable[[bytes], list[Node]]
"""Cuts all of the bytes into nodes, or raises MisfitError."""


def _node(frame: Frame, head: bytes, content: bytes, inner: Grammar | None) -> Node:
    try:
        children = inner(content) if inner is not None and content else None
    except MisfitError:
        children = None
    return Node(frame=frame, head=head, body=content, children=children)


def fixed(count: int) -> Part:
    """So many bytes."""

    def parse(data: bytes) -> tuple[Node, bytes]:
        if len(data) < count:
            raise MisfitError
        return Node(body=data[:count]), data[count:]

    return parse


def vector(width: int, inner: Grammar | None = None, *, head: int = 0) -> Part:
    """A TLS vector behind `head` bytes."""

    def parse(data: bytes) -> tuple[Node, bytes]:
        start = head + width
        end = start + int.from_bytes(data[head:start])
        if len(data) < max(start, end):
            raise MisfitError
        return _node(prefixed(width), data[:head], data[start:end], inner), data[end:]

    return parse


def netlink(width: int, inner: Callable[[bytes], Grammar | None], *, head: int) -> Part:
    """A netlink message or attribute, whose head may decide what is inside."""

    def parse(data: bytes) -> tuple[Node, bytes]:
        start = width + head
        length = int.from_bytes(data[:width], "little")
        if not start <= length <= len(data):
            raise MisfitError
        kind = data[width:start]
        return _node(aligned(width), kind, data[start:length], inner(kind)), data[(length + 3) & ~3 :]

    return parse


def sequence(*parts: Part, rest: Grammar | None = None) -> Grammar:
    """These parts, and then nothing or the rest."""

    def parse(data: bytes) -> list[Node]:
        nodes = []
        for part in parts:
            node, data = part(data)
            nodes.append(node)
        if rest is not None:
            return nodes + rest(data)
        if data:
            raise MisfitError
        return nodes

    return parse


def many(*parts: Part) -> Grammar:
    """These parts over and over."""

    def parse(data: bytes) -> list[Node]:
        nodes: list[Node] = []
        while data:
            node, data = parts[len(nodes) % len(parts)](data)
            nodes.append(node)
        return nodes

    return parse


def lenient(part: Part) -> Grammar:
    """A part over and over; what is left when it fits no more is a leaf."""

    def parse(data: bytes) -> list[Node]:
        nodes = []
        try:
            while data:
                node, data = part(data)
                nodes.append(node)
        except MisfitError:
            nodes.append(Node(body=data))
        return nodes

    return parse


def first(*grammars: Grammar) -> Grammar:
    """The first grammar that fits."""

    def parse(data: bytes) -> list[Node]:
        for grammar in grammars:
            try:
                return grammar(data)
            except MisfitError:
                continue
        raise MisfitError

    return parse


# DER (X.690)

_OCTET_STRING, _BIT_STRING, _CONSTRUCTED, _LONG_TAG = 4, 3, 0x20, 0x1F

_MAX_DEPTH: Final = 12
"""A certificate nests seven deep; an input could nest as deep as Python's stack."""


@functools.cache
def _value(depth: int) -> Part:
    def parse(data: bytes) -> tuple[Node, bytes]:
        if len(data) < 2 or data[0] & _LONG_TAG == _LONG_TAG:
            raise MisfitError
        size, start = data[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start])
        if len(data) < start + size:
            raise MisfitError
        content = data[start : start + size]
        return _node(der, data[:1], content, _inside(data[0], depth)), data[start + size :]

    return parse


def _inside(tag: int, depth: int) -> Grammar | None:
    if depth == _MAX_DEPTH:
        return None
    values = many(_value(depth + 1))
    if tag & _CONSTRUCTED or tag == _OCTET_STRING:  # an extension's value is DER in an OCTET STRING
        return values
    return sequence(fixed(1), rest=values) if tag == _BIT_STRING else None


DER: Final = lenient(_value(0))
"""A certificate."""


# TLS (RFC 8446, 4 and 5.1)

_NUMBERS: Final = many(fixed(2))
_CONTENT: Final = first(
    sequence(vector(2, many(vector(2), fixed(4))), vector(2, many(vector(1)))),  # pre_shared_key
    sequence(vector(2, many(vector(2, head=2)))),  # key_share
    sequence(vector(2, many(vector(2, head=1)))),  # server_name
    sequence(vector(2, many(vector(1)))),  # ALPN
    sequence(vector(2, _NUMBERS)),  # supported_groups, signature_algorithms
    sequence(vector(1, _NUMBERS)),  # supported_versions
    sequence(vector(1)),  # psk_key_exchange_modes
    sequence(vector(2, head=2)),  # a server's key_share
)
_EXTENSIONS: Final = vector(2, many(vector(2, _CONTENT, head=2)))
_HELLO: Final = (fixed(2), fixed(32), vector(1))
_BODIES: Final[dict[int, Grammar]] = {
    1: sequence(*_HELLO, vector(2, _NUMBERS), vector(1), _EXTENSIONS),
    2: sequence(*_HELLO, fixed(2), fixed(1), _EXTENSIONS),
    8: sequence(_EXTENSIONS),
    11: sequence(vector(1), vector(3, many(vector(3, DER), _EXTENSIONS))),
    13: sequence(vector(1), _EXTENSIONS),
    15: sequence(fixed(2), vector(2)),
}


def _message(data: bytes) -> tuple[Node, bytes]:
    return vector(3, _BODIES.get(data[0]) if data else None, head=1)(data)


def _record(data: bytes) -> tuple[Node, bytes]:
    return vector(2, many(_message) if data[:1] == b"\x16" else None, head=3)(data)


MESSAGES: Final = lenient(_message)
"""Handshake messages without records."""

TLS: Final = lenient(_record)
"""Records: plaintext handshake messages are cut down to extensions and certificates."""


# Netlink

_NLMSG_ERROR: Final = b"\x02\0"


@functools.cache
def _attribute(depth: int) -> Part:
    def inner(_: bytes) -> Grammar | None:
        return many(_attribute(depth + 1)) if depth < _MAX_DEPTH else None

    return netlink(2, inner, head=2)


ATTRIBUTES: Final = lenient(_attribute(0))
"""A chain of attributes, with what looks like a nest in them."""


def _payload(head: bytes) -> Grammar:
    # Either the error and the header it answers, or genlmsghdr.
    return sequence(fixed(20 if head.startswith(_NLMSG_ERROR) else 4), rest=ATTRIBUTES)


DATAGRAM: Final = lenient(netlink(4, _payload, head=12))
"""Messages, down to nested attributes."""


# Steps and lines


def steps(inner: Grammar | None = None) -> Grammar:
    """Each a byte that says what to do, and a vector."""
    return lenient(vector(2, inner, head=1))


_PAIRS: Final = lenient(fixed(2))
HEADED_PAIRS: Final = first(sequence(fixed(1), rest=_PAIRS), _PAIRS)
"""A byte, and then steps of two bytes."""


def lines(data: bytes) -> list[Node]:
    """Text; a line is cut at its equals sign."""
    nodes = []
    for line in data.splitlines(keepends=True):
        name, equals, value = line.partition(b"=")
        nodes.append(Node(children=[Node(body=name), Node(body=equals), Node(body=value)]))
    return nodes


# Edits


@dataclass(slots=True, kw_only=True)
class _Edit:
    """A tree that is being changed."""

    root: Node
    chance: random.Random
    scramble: Scramble
    donors: list[Node] = field(default_factory=list)

    def lists(self) -> Iterator[list[Node]]:
        """All lists of siblings."""
        waiting = [self.root]
        while waiting:
            children = waiting.pop().children
            if children:
                yield children
                waiting += children

    def siblings(self) -> list[Node]:
        """One list of siblings, as likely a short one as a long one."""
        found = list(self.lists())
        return self.chance.choice(found) if found else []

    def pick(self, wanted: Callable[[Node], bool]) -> Node | None:
        found = [node for nodes in self.lists() for node in nodes if wanted(node)]
        return self.chance.choice(found) if found else None


def _drop(edit: _Edit) -> None:
    if nodes := edit.siblings():
        del nodes[edit.chance.randrange(len(nodes))]


def _repeat(edit: _Edit) -> None:
    if nodes := edit.siblings():
        nodes.insert(edit.chance.randrange(len(nodes) + 1), copy.deepcopy(edit.chance.choice(nodes)))


def _swap(edit: _Edit) -> None:
    if nodes := edit.siblings():
        one, two = edit.chance.randrange(len(nodes)), edit.chance.randrange(len(nodes))
        nodes[one], nodes[two] = nodes[two], nodes[one]


def _transplant(edit: _Edit) -> None:
    """Put a node beside, or in the place of, another that has the same frame."""
    nodes = edit.siblings()
    if not nodes:
        return
    at = edit.chance.randrange(len(nodes))
    donors = edit.donors or [node for found in edit.lists() for node in found]
    fitting = [node for node in donors if node.frame is nodes[at].frame]
    if fitting:
        nodes[at : at + edit.chance.randrange(2)] = [copy.deepcopy(edit.chance.choice(fitting))]


def _change_head(edit: _Edit) -> None:
    """Another type: of a node like it, or any."""
    node = edit.pick(lambda node: bool(node.head))
    if node is None:
        return
    other = edit.pick(lambda other: other.frame is node.frame and len(other.head) == len(node.head))
    if other is not None and edit.chance.randrange(2):
        node.head = other.head
        return
    head = bytearray(node.head)
    head[edit.chance.randrange(len(head))] = edit.chance.choice((0, 1, 2, 4, 15, 20, 23, 41, 42, 43, 51, 255))
    node.head = bytes(head)


def _change_leaf(edit: _Edit) -> None:
    if node := edit.pick(lambda node: node.children is None):
        node.body = edit.scramble(node.body, len(node.body) + 8)


def _set_number(edit: _Edit) -> None:
    """Zeros, ones, or a small number, as long as it was."""
    if node := edit.pick(lambda node: node.children is None and bool(node.body)):
        count = len(node.body)
        small = edit.chance.randrange(16)
        node.body = edit.chance.choice(
            (bytes(count), b"\xff" * count, small.to_bytes(count), small.to_bytes(count, "little"))
        )


def _empty(edit: _Edit) -> None:
    if node := edit.pick(lambda node: bool(node.body or node.children)):
        node.body, node.children = b"", None


def _split(edit: _Edit) -> None:
    """Cut a framed node in two: a record becomes two records."""
    nodes = edit.siblings()
    framed = [at for at, node in enumerate(nodes) if node.frame is not plain]
    if not framed:
        return
    at = edit.chance.choice(framed)
    node = nodes[at]
    content = node.content()
    cut = edit.chance.randrange(len(content) + 1)
    halves = [Node(frame=node.frame, head=node.head, body=half) for half in (content[:cut], content[cut:])]
    nodes[at : at + 1] = halves


def _merge(edit: _Edit) -> None:
    """Put a node and the next into one frame: two records become one."""
    nodes = edit.siblings()
    pairs = [at for at in range(len(nodes) - 1) if nodes[at].frame is nodes[at + 1].frame is not plain]
    if not pairs:
        return
    at = edit.chance.choice(pairs)
    one, two = nodes[at : at + 2]
    nodes[at : at + 2] = [Node(frame=one.frame, head=one.head, body=one.content() + two.content())]


_EDITS: Final[Sequence[Callable[[_Edit], None]]] = (
    _drop,
    _repeat,
    _swap,
    _transplant,
    _change_head,
    _change_leaf,
    _change_leaf,
    _change_leaf,
    _set_number,
    _empty,
    _split,
    _merge,
)


class Mutator:
    """Changes inputs of one grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar

    def mutate(self, data: bytes, limit: int, seed: int, scramble: Scramble) -> bytes:
        """A changed input of at most `limit` bytes."""
        chance = random.Random(seed)  # noqa: S311 - nothing secret
        if chance.randrange(_WILD) == 0:
            return scramble(data, limit)
        edit = _Edit(root=Node(children=self._grammar(data)), chance=chance, scramble=scramble)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            chance.choice(_EDITS)(edit)
        changed = edit.root.write()
        return changed if 0 < len(changed) <= limit else scramble(data, limit)

    def cross(self, data: bytes, other: bytes, limit: int, seed: int) -> bytes:
        """The first input, with a few nodes of the other; the first alone where that is too long."""
        chance = random.Random(seed)  # noqa: S311 - nothing secret
        donor = _Edit(root=Node(children=self._grammar(other)), chance=chance, scramble=_unchanged)
        edit = _Edit(
            root=Node(children=self._grammar(data)),
            chance=chance,
            scramble=_unchanged,
            donors=[node for nodes in donor.lists() for node in nodes],
        )
        for _ in range(chance.randint(1, 3)):
            _transplant(edit)
        changed = edit.root.write()
        return changed if len(changed) <= limit else data[:limit]


def _unchanged(data: bytes, limit: int) -> bytes:
    return data[:limit]
