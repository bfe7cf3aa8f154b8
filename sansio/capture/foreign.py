"""Requests and handshakes that others made, brought together.

`foreign_netlink` finds the requests in a capture of netlink, `foreign_tls` the handshakes in one of TCP.  The kernel's
requests name a descriptor, and no address.  So a request and a handshake belong together if both were under way at
one time and if the server's name, where both have one, is the same; a client says its ClientHello only after ACCEPT.
Of several handshakes that fit, the one that began first goes to the request that was accepted first; `fitting`
tells how many there were.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..request import InvalidRequest
from .foreign_netlink import NetlinkRequest
from .foreign_records import ForeignHandshake

CLOCK_SLACK: Final = 0.002
"""Seconds by which the times of two captures on one machine may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRequest:
    """A request and its handshake.

    Attributes:
        netlink: What kernel and agent said.
        handshake: The handshake that was made for it; None if the capture has none that fits.
        fitting: How many handshakes fit in time and name: with more than one, this one is the likeliest.
    """

    netlink: NetlinkRequest
    handshake: ForeignHandshake | None
    fitting: int


def correlate(
    requests: Iterable[NetlinkRequest], handshakes: Iterable[ForeignHandshake]
) -> tuple[ForeignRequest, ...]:
    """Find the handshake of each request.

    Args:
        requests: Those of one capture or several.  A client's request and a server's may get the same handshake.
        handshakes: All that were captured.
    """
    ordered = sorted(handshakes, key=lambda handshake: handshake.began)
    free = {True: list(ordered), False: list(ordered)}
    found = []
    for request in sorted(requests, key=lambda request: request.accepted):
        is_client = request.is_client
        fitting = [] if is_client is None else [one for one in free[is_client] if _fits(request, one)]
        chosen = fitting[0] if fitting else None
        if is_client is not None and chosen is not None:
            free[is_client].remove(chosen)
        found.append(ForeignRequest(netlink=request, handshake=chosen, fitting=len(fitting)))
    return tuple(found)


def _fits(request: NetlinkRequest, handshake: ForeignHandshake) -> bool:
    known_from = handshake.began if request.is_client else handshake.ended
    if known_from < request.accepted - CLOCK_SLACK:
        return False
    if request.done is not None and handshake.began > request.done + CLOCK_SLACK:
        return False
    name = None if isinstance(request.request, InvalidRequest) else request.request.peername
    return not (name and handshake.server_name) or name.lower() == handshake.server_name.lower()
