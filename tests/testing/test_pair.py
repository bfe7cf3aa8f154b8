"""Two engines on virtual time: what a link does to a handshake, and what it leaves alone."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_agent.sansio.status import Alert, Cause, failure
from ktls_agent.sansio.testing.entropy import SeededEntropy
from ktls_agent.sansio.testing.pair import (
    MAX_STREAM,
    PERFECT_LINK,
    ConnectionPair,
    Endpoint,
    Link,
    Pipe,
    StreamTooLong,
    VirtualClock,
    earliest,
)
from ktls_agent.sansio.testing.records import Record, RecordError
from ktls_agent.sansio.tls.engine import LocalProtocolError
from ktls_agent.sansio.tls.parameters import (
    ClientPskParameters,
    HandshakeCompleted,
    PreSharedKey,
    ServerPskParameters,
)
from tests.tls.handshakes import client_parameters, mutual_client, mutual_server, server_parameters

KEY = PreSharedKey(identity=b"host", secret=bytes(32), hash_name="sha256")
DATA = Record(content_type=23, data=b"data")
PLAIN_ALERT = bytes([21, 3, 3, 0, 2, 2, Alert.INTERNAL_ERROR])


def make(to_server: Link = PERFECT_LINK, to_client: Link = PERFECT_LINK) -> ConnectionPair:
    return ConnectionPair(client_parameters(), server_parameters(), to_server=to_server, to_client=to_client)


def shaken(to_server: Link = PERFECT_LINK, to_client: Link = PERFECT_LINK) -> ConnectionPair:
    pair = make(to_server, to_client)
    pair.run()
    return pair


def observed(pair: ConnectionPair) -> tuple[object, ...]:
    events = pair.client.completed, pair.server.completed
    return pair.client.sent, pair.server.sent, events, pair.client.secrets, pair.server.secrets


def pipe(link: Link = PERFECT_LINK) -> tuple[Pipe, VirtualClock]:
    clock = VirtualClock()
    return Pipe(clock, link), clock


def reads(source: Pipe) -> list[bytes]:
    """All that can be read now, in the pieces that reads give; an end of file is an empty one."""
    pieces = []
    while (piece := source.read()) is not None:
        pieces.append(piece)
        if not piece:
            break
    return pieces


# A pipe


def test_what_is_written_is_read_in_order() -> None:
    there, _ = pipe()
    assert there.read() is None
    there.write(b"one")
    there.write(b" two")
    assert there.read(5) == b"one t"
    assert there.unread == b"wo"
    assert there.read() == b"wo"
    assert there.read() is None


def test_a_byte_arrives_after_the_latency_and_not_before() -> None:
    there, clock = pipe(Link(latency=0.5))
    there.write(b"first")
    clock.now = 0.25
    there.write(b"second")
    assert (there.read(), there.unread, there.next_arrival()) == (None, b"firstsecond", 0.5)
    clock.now = 0.5
    assert (there.read(), there.next_arrival()) == (b"first", 0.75)
    clock.now = 0.75
    assert (there.read(), there.next_arrival()) == (b"second", None)


@pytest.mark.parametrize(
    ("link", "pieces"),
    [
        (Link(chunks=(1,)), [b"a", b"b", b"c", b"d", b"e", b"f"]),
        (Link(chunks=(1, 3)), [b"a", b"bcd", b"e", b"f"]),
        (Link(split_at=(4, 2)), [b"ab", b"cd", b"ef"]),
        (Link(split_at=(0, 6, 9)), [b"abcdef"]),
        (Link(chunks=(4,), split_at=(3,)), [b"abc", b"d", b"ef"]),
    ],
)
def test_no_read_reaches_across_a_cut(link: Link, pieces: list[bytes]) -> None:
    there, _ = pipe(link)
    there.write(b"ab")
    there.write(b"cdef")
    assert reads(there) == pieces


def test_a_chunk_may_take_several_reads_and_several_writes() -> None:
    there, _ = pipe(Link(chunks=(3,)))
    there.write(b"a")
    assert there.read() == b"a"
    there.write(b"bcde")
    assert there.read(1) == b"b"
    assert reads(there) == [b"c", b"de"]


def test_what_is_written_behind_the_close_is_lost() -> None:
    there, clock = pipe(Link(latency=1.0))
    there.write(b"sent")
    there.close()
    there.write(b"lost")
    assert (there.read(), there.next_arrival()) == (None, 1.0)
    clock.now = 1.0
    assert reads(there) == [b"sent", b""]
    there.close()
    assert there.next_arrival() is None


def test_the_end_of_file_is_under_way_as_bytes_are() -> None:
    there, clock = pipe(Link(latency=1.0))
    there.close()
    assert (there.read(), there.next_arrival()) == (None, 1.0)
    clock.now = 1.0
    assert (there.read(), there.next_arrival()) == (b"", None)


@pytest.mark.parametrize(
    ("offset", "read"), [(0, [b""]), (3, [b"abc", b""]), (6, [b"abcdef", b""]), (7, [b"abcdef"])]
)
def test_a_link_may_end_at_any_offset(offset: int, read: list[bytes]) -> None:
    there, _ = pipe(Link(end_of_file_at=offset))
    there.write(b"ab")
    there.write(b"cdef")
    assert b"".join(reads(there)) == b"".join(read)
    assert (there.read() == b"") == (read[-1] == b"")


@pytest.mark.parametrize(
    ("insert", "read"),
    [
        ({0: b"<"}, b"<abcdef"),
        ({2: b"-", 6: b">"}, b"ab-cdef>"),
        ({3: b"-", 5: b"+"}, b"abc-de+f"),
        ({7: b"never"}, b"abcdef"),
    ],
)
def test_bytes_are_inserted_where_the_sender_has_come_to(insert: dict[int, bytes], read: bytes) -> None:
    there, _ = pipe(Link(insert=insert))
    there.write(b"ab")
    there.write(b"cdef")
    assert there.unread == read


def test_an_inserted_prefix_waits_for_nobody() -> None:
    there, _ = pipe(Link(insert={0: b"GET"}))
    assert there.read() == b"GET"


def test_a_pipe_carries_only_so_much() -> None:
    there, _ = pipe()
    there.write(bytes(MAX_STREAM))
    there.read()
    with pytest.raises(StreamTooLong, match="1048576 bytes at most"):
        there.write(b"x")


@pytest.mark.parametrize(
    ("settings_", "sentence"),
    [({"latency": -1.0}, "can't arrive 1.0 s before it is sent"), ({"chunks": (3, 0)}, r"of \(3, 0\)")],
)
def test_a_link_that_can_not_be_is_refused(settings_: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Link(**settings_)  # type: ignore[arg-type]


@given(
    writes=st.lists(st.binary(max_size=30), max_size=6),
    chunks=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    splits=st.lists(st.integers(0, 200), max_size=5).map(tuple),
    limits=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_however_it_is_cut_and_read_the_stream_is_the_same(
    writes: list[bytes], chunks: tuple[int, ...], splits: tuple[int, ...], limits: list[int]
) -> None:
    there, _ = pipe(Link(chunks=chunks, split_at=splits))
    received = b""
    sizes = itertools.cycle(limits)
    for data in writes:
        there.write(data)
        while (piece := there.read(next(sizes))) is not None:
            cuts = [*splits, *itertools.accumulate(itertools.islice(itertools.cycle(chunks), 200))]
            assert not [cut for cut in cuts if len(received) < cut < len(received + piece)]
            received += piece
    assert received == b"".join(writes)


# A handshake


def test_both_ends_complete_and_have_the_same_keys() -> None:
    pair = shaken()
    assert pair.client.completed.cipher_suite == pair.server.completed.cipher_suite
    assert (pair.client.secrets.tx, pair.client.secrets.rx) == (
        pair.server.secrets.rx,
        pair.server.secrets.tx,
    )
    assert pair.client.secrets is pair.client.secrets
    with pytest.raises(LocalProtocolError, match="extracted"):
        pair.client.engine.extract_secrets()


def test_nothing_moves_before_run() -> None:
    pair = make()
    assert (pair.client.sent, pair.client.event, pair.server.event) == (b"", None, None)


@pytest.mark.parametrize(("there", "back"), [(0.0, 0.0), (1.0, 0.0), (0.25, 0.5)])
def test_a_handshake_takes_one_round_trip_and_a_half(there: float, back: float) -> None:
    pair = shaken(Link(latency=there), Link(latency=back))
    assert pair.client.ended_at == there + back
    assert pair.server.ended_at == pair.clock.now == there + back + there


def test_time_can_be_stopped_on_the_way() -> None:
    pair = make(Link(latency=1.0))
    pair.run(until=0.75)
    assert (pair.clock.now, pair.server.sent) == (0.75, b"")
    pair.run(until=1.0)
    assert pair.server.sent
    assert pair.server.event is None
    pair.run(until=0.5)
    assert pair.clock.now == 1.0
    pair.run(until=60.0)
    assert pair.server.completed
    assert (pair.server.ended_at, pair.clock.now) == (2.0, 60.0)


def links() -> st.SearchStrategy[Link]:
    return st.builds(
        Link,
        latency=st.floats(0, 100),
        chunks=st.lists(st.integers(1, 700), max_size=6).map(tuple),
        split_at=st.lists(st.integers(0, 2500), max_size=6).map(tuple),
    )


@settings(max_examples=40)
@given(to_server=links(), to_client=links(), exact=st.booleans())
def test_no_latency_and_no_cut_changes_what_is_said(to_server: Link, to_client: Link, *, exact: bool) -> None:
    ideal = ConnectionPair(mutual_client(), mutual_server())
    ideal.run()
    pair = ConnectionPair(
        mutual_client(), mutual_server(), to_server=to_server, to_client=to_client, exact_reads=exact
    )
    pair.run()
    assert observed(pair) == observed(ideal)


def test_another_seed_says_other_things() -> None:
    one, other = (ConnectionPair(client_parameters(), server_parameters(), seed=seed) for seed in (b"", b"1"))
    one.run()
    other.run()
    assert len(one.client.sent) == len(other.client.sent)
    assert one.client.sent != other.client.sent
    assert one.server.secrets != other.server.secrets


# What follows the handshake


def test_nothing_behind_the_handshake_is_read() -> None:
    pair = make(Link(latency=1.0))
    pair.run(until=1.0)
    pair.client.send(b"data")
    sent = pair.to_server.unread
    pair.run()
    assert pair.server.completed
    assert pair.server.incoming.unread
    assert sent.endswith(pair.server.incoming.unread)
    assert pair.server.engine.trailing_data() == b""
    assert pair.server.receive() == [DATA]


def test_who_reads_all_that_is_there_reads_beyond_the_handshake() -> None:
    pair = ConnectionPair(
        client_parameters(), server_parameters(), to_server=Link(latency=1.0), exact_reads=False
    )
    pair.run(until=1.0)
    pair.client.send(b"data")
    pair.run()
    assert pair.server.incoming.unread == b""
    assert pair.server.engine.trailing_data()


def test_data_goes_both_ways_under_the_keys() -> None:
    pair = shaken(Link(chunks=(1,)), Link(latency=0.5))
    pair.client.send(b"data")
    pair.server.send(b"data")
    assert pair.server.receive() == [DATA]
    assert pair.client.receive() == []
    pair.run()
    assert pair.client.receive() == [DATA]
    pair.client.send(b"data")
    assert pair.server.receive() == [DATA]


def test_foreign_bytes_do_not_fit_the_keys() -> None:
    pair = shaken()
    pair.to_server.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(RecordError):
        pair.server.receive()


def test_an_end_may_be_closed_after_its_data() -> None:
    pair = shaken()
    pair.client.send(b"data")
    pair.client.close()
    assert pair.server.receive() == [DATA]
    assert pair.server.incoming.read() == b""


# What goes wrong


@settings(max_examples=40)
@given(offset=st.integers(0, 1200), chunks=st.sampled_from([(), (1,)]))
def test_a_connection_that_breaks_ends_the_handshake_at_both_ends(
    offset: int, chunks: tuple[int, ...]
) -> None:
    pair = shaken(to_client=Link(end_of_file_at=offset, chunks=chunks))
    if offset < len(shaken().server.sent):
        assert pair.client.failure.cause is Cause.END_OF_FILE
        assert pair.server.failure.cause is Cause.END_OF_FILE
    else:
        assert pair.client.completed
        assert pair.server.completed


def test_inserted_bytes_are_the_peers_for_the_engine() -> None:
    pair = shaken(to_client=Link(insert={0: PLAIN_ALERT}))
    assert pair.client.failure.cause is Cause.PEER_ALERT
    assert pair.client.failure.alert is Alert.INTERNAL_ERROR


def test_a_record_that_never_ends_leaves_both_sides_waiting() -> None:
    pair = shaken(to_client=Link(insert={0: b"\x16\x03\x03\x40\x00"}))
    assert (pair.client.event, pair.server.event) == (None, None)
    with pytest.raises(AssertionError, match="did not complete: it is still under way"):
        _ = pair.client.secrets
    with pytest.raises(AssertionError, match="did not fail: it is still under way"):
        _ = pair.client.failure


def test_asking_for_the_wrong_ending_shows_the_right_one() -> None:
    with pytest.raises(AssertionError, match=r"did not fail: HandshakeCompleted\("):
        _ = shaken().client.failure
    with pytest.raises(AssertionError, match=r"did not complete: HandshakeFailed\(.*END_OF_FILE"):
        shaken(to_client=Link(end_of_file_at=0)).client.send(b"data")


def test_a_side_can_give_up_with_an_alert() -> None:
    pair = make(to_client=Link(latency=1.0))
    pair.run(until=0.5)
    pair.client.abort(failure(Cause.TIMED_OUT, "too slow"))
    pair.run()
    assert pair.client.failure.cause is Cause.TIMED_OUT
    assert pair.server.failure.cause is Cause.PEER_ALERT
    assert pair.server.failure.alert is Alert.USER_CANCELED


def test_a_side_can_give_up_without_an_alert() -> None:
    pair = make()
    pair.client.abort(failure(Cause.CANCELLED, "nobody waits"))
    pair.run()
    assert pair.server.failure.cause is Cause.END_OF_FILE


# An end of its own


def endpoint() -> tuple[Endpoint, Pipe]:
    clock = VirtualClock()
    outgoing = Pipe(clock, PERFECT_LINK)
    return Endpoint(clock, incoming=Pipe(clock, PERFECT_LINK), outgoing=outgoing), outgoing


def test_an_end_without_a_handshake_does_nothing() -> None:
    end, _ = endpoint()
    assert not end.pump()
    with pytest.raises(AssertionError, match="no handshake was started"):
        _ = end.engine


@pytest.mark.parametrize(
    ("cause", "sent"), [(Cause.INTERNAL, PLAIN_ALERT), (Cause.CANCELLED, b"")], ids=["alert", "no alert"]
)
def test_an_end_can_give_up_before_its_handshake(cause: Cause, sent: bytes) -> None:
    end, outgoing = endpoint()
    end.abort(failure(cause, "no"))
    assert b"".join(reads(outgoing)) == sent
    assert outgoing.read() == b""


# Pre-shared keys


def test_a_servers_keys_are_looked_up_in_the_mapping() -> None:
    other = PreSharedKey(identity=b"other", secret=b"x", hash_name="sha256")
    pair = ConnectionPair(
        ClientPskParameters(keys=(other, KEY)), ServerPskParameters(), psks={KEY.identity: KEY}
    )
    pair.run()
    assert pair.server.keys_requested == (b"other", b"host")
    assert isinstance(pair.server.event, HandshakeCompleted)
    assert pair.client.completed.psk_identity == b"host"


def test_a_server_without_the_key_refuses() -> None:
    pair = ConnectionPair(ClientPskParameters(keys=(KEY,)), ServerPskParameters())
    pair.run()
    assert pair.server.failure.cause is Cause.UNKNOWN_PSK
    assert pair.client.failure.alert is Alert.UNKNOWN_PSK_IDENTITY


# The small things


def test_seeded_entropy_repeats_for_its_seed_alone() -> None:
    one, again, other = SeededEntropy(b"seed"), SeededEntropy(b"seed"), SeededEntropy(b"other")
    first = one(32)
    assert (first, one(7)) == (again(32), again(7))
    assert first != other(32)
    assert one(32) != first
    assert len(one(0)) == 0


def test_the_earliest_of_no_times_is_none() -> None:
    assert earliest() is earliest(None, None) is None
    assert earliest(2.0, None, 1.0) == 1.0
