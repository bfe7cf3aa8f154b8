"""Tells what the agent does, over HTTP on a Unix socket: /status as JSON, /metrics for Prometheus.

The socket is the owner's alone (0600).  hypercorn serves it on Trio, in the agent's own event loop; prometheus-client
writes the metrics.  Both come with the extra `metrics`, and are imported where they are wanted.  Whatever goes wrong here
is logged, and ends this service alone.
"""

import json
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import trio

from ktls_agent.sansio.activity import (
    BUCKETS,
    Activity,
    Histogram,
    certificate_expiries,
    status_object,
)
from ktls_agent.sansio.policy import Credentials

from .handler import Log

EXTRA: Final = "This needs the extra `metrics`: pip install 'ktls-agent[metrics]'."
_HTTP_OK, _HTTP_NOT_FOUND = 200, 404


class StatusImpossible(Exception):  # noqa: N818 - a verdict
    """The status can't be served; the text is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSource:
    """Where the numbers come from.

    Attributes:
        activity: What requests did.
        credentials: Returns the credentials in use.
        dropped: Returns how many recordings were not written.
        started: When the agent started, by the clock.
        clock: The monotonic time in seconds.
    """

    activity: Activity
    credentials: Callable[[], Credentials]
    dropped: Callable[[], int]
    started: float
    clock: Callable[[], float] = time.monotonic

    def status(self) -> bytes:
        """Write the status as JSON."""
        told = status_object(
            self.activity,
            self.credentials(),
            version=version("ktls-agent"),
            pid=os.getpid(),
            uptime=self.clock() - self.started,
            dropped=self.dropped(),
        )
        return json.dumps(told).encode()

    def metrics(self) -> bytes:
        """Write the metrics in Prometheus's text format."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - an extra

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self))
        return bytes(generate_latest(registry))


class _Collector:
    """Puts the numbers into prometheus-client's records when they are asked for."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import (  # noqa: PLC0415 - an extra
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        activity = self._source.activity
        requests = CounterMetricFamily(
            "ktls_agent_requests", "Requests that are over.", labels=["role", "auth", "status", "cause"]
        )
        for one, count in activity.requests.items():
            requests.add_metric([one.role, one.auth, one.status, one.cause], count)
        yield requests
        yield GaugeMetricFamily("ktls_agent_in_flight", "Requests under way.", value=activity.in_flight)
        phases = HistogramMetricFamily("ktls_agent_phase_seconds", "Duration by phase.", labels=["phase"])
        for name, histogram in activity.durations.items():
            phases.add_metric([name], _buckets(histogram), histogram.total)
        yield phases
        lag = activity.accept_lag
        yield HistogramMetricFamily(
            "ktls_agent_accept_lag_seconds",
            "From a READY to its request.",
            buckets=_buckets(lag),
            sum_value=lag.total,
        )
        expiry = GaugeMetricFamily(
            "ktls_agent_certificate_expiry_timestamp_seconds",
            "When the agent's own certificates expire.",
            labels=["role", "subject"],
        )
        for certificate in certificate_expiries(self._source.credentials()):
            expiry.add_metric([certificate.role, certificate.subject], certificate.timestamp)
        yield expiry
        reloads = CounterMetricFamily(
            "ktls_agent_reloads", "Reloads of the configuration.", labels=["result"]
        )
        for result, count in activity.reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        yield CounterMetricFamily(
            "ktls_agent_recordings_dropped", "Recordings not written.", value=self._source.dropped()
        )


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, BUCKETS), "+Inf"]
    return list(zip(bounds, map(float, histogram.cumulative()), strict=True))


class StatusServer:
    """Serves a `StatusSource` on a Unix socket."""

    def __init__(self, path: Path, source: StatusSource) -> None:
        """Open the socket, in place of one that a former agent left.

        Args:
            path: Where.
            source: What is served.

        Raises:
            StatusImpossible: The extra is missing, or the socket can't be made there.
        """
        try:
            import hypercorn.trio  # noqa: PLC0415 - an extra
            import prometheus_client  # noqa: PLC0415
        except ImportError as error:
            raise StatusImpossible(f"The status can't be served: {error}. {EXTRA}") from None
        del hypercorn, prometheus_client
        self._path = path
        self._source = source
        try:
            self._socket = _listen(path)
        except OSError as error:
            raise StatusImpossible(f"The status socket {path} can't be made: {error.strerror}.") from None

    async def run(self, log: Log) -> None:
        """Serve until cancelled; the socket is gone then."""
        from hypercorn.config import Config  # noqa: PLC0415 - an extra
        from hypercorn.trio import serve  # noqa: PLC0415

        config = Config()
        config.bind = [f"fd://{self._socket.detach()}"]  # It is the server's to close.
        config.accesslog = config.errorlog = None
        config.graceful_timeout = 0
        try:
            await serve(self._answer, config, shutdown_trigger=trio.sleep_forever, mode="asgi")  # type: ignore[arg-type]
        except Exception as error:  # the agent goes on without it
            reason = f"{type(error).__name__}: {error}"
            log.error("status no longer served", reason=reason)  # noqa: TRY400 - one line, as all
        finally:
            self.close()

    def close(self) -> None:
        """Remove the socket."""
        self._socket.close()
        self._path.unlink(missing_ok=True)

    async def _answer(
        self,
        scope: Mapping[str, Any],
        _receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request: an ASGI application."""
        if scope["type"] != "http":
            # So ASGI's lifespan protocol has it for an application without start and end.
            raise ValueError(f"{scope['type']} is not served")
        status, kind, body = self._page(str(scope["path"]))
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _page(self, path: str) -> tuple[int, bytes, bytes]:
        match path:
            case "/status":
                return _HTTP_OK, b"application/json", self._source.status()
            case "/metrics":
                return _HTTP_OK, b"text/plain; version=0.0.4; charset=utf-8", self._source.metrics()
            case _:
                return _HTTP_NOT_FOUND, b"text/plain", b"There are /status and /metrics.\n"


def _listen(path: Path) -> socket.socket:
    """Make a listening Unix socket that only its owner may connect to."""
    if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock
