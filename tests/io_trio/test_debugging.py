"""What [debug] tls and nl add to the log."""

import pytest

from ktls_agent.io_trio.debugging import DebugTrace
from ktls_agent.io_trio.handler import no_trace_for
from ktls_agent.io_trio.log import render
from ktls_agent.io_trio.service import debugging
from ktls_agent.sansio.config import DebugConfiguration
from ktls_agent.sansio.steps import (
    Drew,
    Encapsulated,
    Exported,
    SecretLogged,
    Step,
)
from tests.capture.recorded import KEY, PLAYS, transcript
from tests.io_trio.house import Log


def told(kind: str, **levels: int) -> list[str]:
    """The lines of a recorded request."""
    log, then = Log(), list[Step]()
    trace = DebugTrace(log=log, levels=DebugConfiguration(**levels), sockfd=13, then=then.append)
    steps = [timed.step for timed in transcript(kind).steps]
    for step in steps:
        trace(step)
    assert then == steps
    assert {level for level, _, _ in log.lines} <= {"debug"}
    return [render(event, fields) for _, event, fields in log.lines]


def has(lines: list[str], *words: str) -> bool:
    return any(all(word in line for word in words) for line in lines)


def test_without_a_level_nothing_is_told() -> None:
    assert told("client") == []
    assert debugging(DebugConfiguration(loglevel=1), Log(), no_trace_for) is no_trace_for
    assert isinstance(debugging(DebugConfiguration(nl=1), Log(), no_trace_for)(3), DebugTrace)


def test_nl_tells_the_exchanges_with_the_kernel() -> None:
    lines = told("client", nl=1)
    assert all(line.startswith("netlink fd=13 step=") for line in lines)
    assert has(lines, "step=Datagram", 'way="from kernel"', "bytes=")
    assert has(lines, "step=Started", "role=client", "auth=unauth", "server.test")
    assert has(lines, "step=Reported", "status=0")
    assert has(lines, "step=Answered", "error=0")
    assert not has(lines, "data=")
    assert has(told("client", nl=2), "step=Datagram", "data=")


def test_tls_tells_what_a_handshake_had_and_what_came_of_it() -> None:
    lines = told("server", tls=1)
    assert has(lines, "step=Configured", "anchors=1", "server.test", "x25519mlkem768")
    assert has(lines, "step=Completed", "cipher=AES_256_GCM", "group=")
    assert not has(lines, "step=Plaintext")
    messages = told("server", tls=2)
    assert has(messages, "step=Plaintext", 'way="from peer"', "says=ClientHello")
    assert has(messages, 'way="to peer"', "says=ServerHello")
    assert has(messages, 'says="content type 20"')
    refused = told("client finds the server revoked", tls=2)
    assert has(refused, "step=RevocationChecked", "was revoked by its issuer")
    assert has(refused, "step=Failed", "cause=certificate_revoked", "alert=certificate_revoked")
    assert has(refused, 'way="to peer"', "says=alert")
    assert has(told("client finds nothing revoked", tls=1), "step=RevocationChecked", "problem=None")
    assert has(told("target", tls=1), "step=PsksLookedUp", "known=1")
    assert has(told("host", tls=1), "step=PskLoaded", "problem=None")
    assert has(told("unreadable keys", tls=1), "step=IdentityLoaded", "certificate=404", "404")


@pytest.mark.parametrize("kind", PLAYS)
def test_no_secret_is_told(kind: str) -> None:
    lines = "\n".join(told(kind, tls=9, nl=9))
    secrets = [KEY.secret]
    for timed in transcript(kind).steps:
        match timed.step:
            case Drew(data=bytes(data)) | SecretLogged(secret=data) | Encapsulated(secret=bytes(data)):
                secrets.append(data)
            case Exported(tx=bytes(tx), rx=bytes(rx)):
                secrets.extend((tx, rx))
    # (the randoms of the hellos are drawn, too, but are not told either)
    assert not [secret for secret in secrets if secret.hex() in lines or repr(secret)[2:-1] in lines]
