"""Which handshake was made for which request."""

import pytest

from ktls_agent.sansio.capture.foreign import CLOCK_SLACK, ForeignRequest, correlate
from ktls_agent.sansio.capture.foreign_netlink import NetlinkRequest
from ktls_agent.sansio.capture.foreign_records import Flow, ForeignHandshake, Outcome
from ktls_agent.sansio.request import ClientAnon, InvalidRequest, ServerX509


def client(accepted: float, done: float | None, *, name: str | None = None) -> NetlinkRequest:
    request = ClientAnon(sockfd=4, peername=name)
    return NetlinkRequest(process=1, request=request, ready=None, accepted=accepted, done=done)


def server(accepted: float, done: float | None) -> NetlinkRequest:
    return NetlinkRequest(process=2, request=ServerX509(sockfd=4), ready=None, accepted=accepted, done=done)


def handshake(began: float, ended: float, *, name: str | None = None) -> ForeignHandshake:
    return ForeignHandshake(
        client="c", server="s", began=began, ended=ended, outcome=Outcome.COMPLETED, server_name=name
    )


@pytest.mark.parametrize(
    ("request_", "candidate", "fits"),
    [
        (client(10, 12), handshake(10.5, 11), True),
        (client(10, 12), handshake(9, 11), False),  # a client speaks after ACCEPT
        (client(10, 12), handshake(10 - CLOCK_SLACK / 2, 11), True),
        (server(10, 12), handshake(9, 11), True),  # a server may be spoken to before
        (server(10, 12), handshake(9, 9.5), False),
        (client(10, 12), handshake(12.5, 13), False),
        (client(10, 12), handshake(11, 40), True),  # refused by the server after DONE
        (client(10, None), handshake(100, 101), True),
        (client(10, 12, name="server.test"), handshake(11, 12, name="SERVER.test"), True),
        (client(10, 12, name="server.test"), handshake(11, 12, name="other.test"), False),
        (client(10, 12, name="192.0.2.1"), handshake(11, 12), True),
        (client(10, 12), handshake(11, 12, name="other.test"), True),
    ],
)
def test_what_fits(request_: NetlinkRequest, candidate: ForeignHandshake, fits: bool) -> None:
    expected = ForeignRequest(netlink=request_, handshake=candidate if fits else None, fitting=int(fits))
    assert correlate([request_], [candidate]) == (expected,)


def test_both_sides_have_the_same_handshake() -> None:
    found = correlate([client(10, 12), server(10.1, 12)], [handshake(11, 11.5)])
    assert [one.handshake for one in found] == [handshake(11, 11.5)] * 2


def test_of_several_the_first_goes_to_the_first() -> None:
    first, second = handshake(11, 12), handshake(11.1, 12)
    found = correlate([client(10.1, 13), client(10, 13)], [second, first])
    assert [(one.netlink.accepted, one.handshake, one.fitting) for one in found] == [
        (10, first, 2),
        (10.1, second, 1),
    ]


def test_an_invalid_request_has_none() -> None:
    invalid = NetlinkRequest(
        process=1, request=InvalidRequest(sockfd=4, reason="?"), ready=None, accepted=10, done=12
    )
    assert correlate([invalid], [handshake(11, 12)])[0].handshake is None


def test_the_time_of_a_byte() -> None:
    flow = Flow(data=b"abcdef", times=((2, 1.0), (6, 2.0)))
    assert [flow.time_of(offset) for offset in (0, 1, 2, 5, 6, 100)] == [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert Flow().time_of(0) == 0.0
