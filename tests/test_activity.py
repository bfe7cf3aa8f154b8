"""What the agent has done, in numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.sansio.activity import (
    BUCKETS,
    MAX_FAILURES,
    Activity,
    Histogram,
    Outcome,
    certificate_expiries,
    status_object,
)
from ktls_agent.sansio.policy import Credentials
from ktls_agent.sansio.summary import Fields
from tests.io_trio.house import full_credentials, server_certificate

DONE: Fields = {"role": "server", "auth": "x509", "status": "ok", "handshake_ms": 12.5, "total_ms": 14.0}
FAILED: Fields = {
    "role": "client",
    "auth": "psk",
    "peer": "storage.test",
    "status": "EACCES",
    "cause": "unknown_psk",
    "reason": "It knows none.",
    "total_ms": 1.0,
}


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_each_once(durations: list[float]) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.observe(seconds)
    cumulative = histogram.cumulative()
    assert histogram.count == cumulative[-1] == len(durations)
    assert histogram.total == pytest.approx(sum(durations))
    assert cumulative[:-1] == [sum(seconds <= bound for seconds in durations) for bound in BUCKETS]


def test_requests_are_counted_by_their_outcome() -> None:
    activity = Activity()
    for fields in (DONE, FAILED, DONE):
        activity.request_began()
        assert activity.in_flight == 1
        activity.request_ended(fields)
    assert activity.in_flight == 0
    assert activity.requests == {
        Outcome(role="server", auth="x509", status="ok", cause=""): 2,
        Outcome(role="client", auth="psk", status="EACCES", cause="unknown_psk"): 1,
    }
    assert {name: histogram.count for name, histogram in activity.durations.items()} == {
        "handshake": 2,
        "install": 0,
        "done": 0,
        "total": 3,
    }
    assert [failed["peer"] for failed in activity.failures] == ["storage.test"]
    assert "total_ms" not in activity.failures[0]


def test_a_request_that_was_not_answered_has_no_status() -> None:
    activity = Activity()
    activity.request_ended({"role": "unknown", "auth": "unknown"})
    assert list(activity.requests) == [Outcome(role="unknown", auth="unknown", status="none", cause="")]


def test_the_last_failures_are_kept() -> None:
    activity = Activity()
    for number in range(MAX_FAILURES + 5):
        activity.request_ended({**FAILED, "peer": str(number)})
    assert [failed["peer"] for failed in activity.failures] == [
        str(number) for number in range(5, MAX_FAILURES + 5)
    ]


def test_certificates_tell_their_end() -> None:
    _, server = certificate_expiries(full_credentials())
    assert (server.role, server.subject) == ("server", "CN=server.test")
    assert server.timestamp == server_certificate().certificate.not_valid_after_utc.timestamp()
    assert list(certificate_expiries(Credentials())) == []


def test_the_status_tells_everything() -> None:
    activity = Activity()
    activity.request_began()
    activity.request_ended(FAILED)
    activity.accepted_after(0.002)
    activity.reloaded(ok=True)
    activity.reloaded(ok=False)
    told = status_object(activity, full_credentials(), version="1", pid=7, uptime=1.25, dropped=3)
    assert told | {"certificates": None, "last_failures": None} == {
        "version": "1",
        "pid": 7,
        "uptime_seconds": 1.2,
        "in_flight": 0,
        "requests": [
            {"role": "client", "auth": "psk", "status": "EACCES", "cause": "unknown_psk", "count": 1}
        ],
        "mean_ms": {"handshake": None, "install": None, "done": None, "total": 1.0},
        "accept_lag_mean_ms": 2.0,
        "certificates": None,
        "reloads": {"ok": 1, "failed": 1},
        "recordings_dropped": 3,
        "last_failures": None,
    }
