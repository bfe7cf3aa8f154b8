"""Load on nfsd's TLS: RPC-with-TLS clients in user space, many at a time (RFC 9289), standard library only.

Each connection: TCP; RPC NULL with AUTH_TLS, answered by STARTTLS; TLS 1.3 with ALPN "sunrpc" (the server's side
of which is the kernel's agent's work); RPC NULL through TLS, whose reply is checked; close.

Run as `python3 -m guest.load_nfsd` in /testbed; it prints a table, and with --json leaves the figures in a file.
"""

import argparse
import asyncio
import collections
import json
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from .rpc_tls import AUTH_NONE, AUTH_TLS, null_call, record_length, reply_verifier

COLUMNS = (
    "concurrency",
    "ok",
    "failed",
    "per_s",
    "p50",
    "p95",
    "p99",
    "agent_cpu",
    "cpu_ms_each",
    "rss_mib",
    "processes",
)


async def receive_reply(reader: asyncio.StreamReader, xid: int) -> bytes:
    """Receive the reply to a call, and return its verifier."""
    length = record_length(await reader.readexactly(4))
    return reply_verifier(await reader.readexactly(length), xid)


async def connect_once(options: argparse.Namespace, context: ssl.SSLContext, xid: int) -> float:
    """Do one connection with two calls; return the seconds it took.

    Raises:
        ValueError: the server does not offer TLS, or answers something else.
    """
    start = time.monotonic()
    reader, writer = await asyncio.open_connection(options.host, options.port)
    try:
        writer.write(null_call(xid, AUTH_TLS))
        if await receive_reply(reader, xid) != b"STARTTLS":
            raise ValueError("no STARTTLS")
        await writer.start_tls(context, server_hostname=options.name, ssl_handshake_timeout=options.timeout)
        writer.write(null_call(xid + 1, AUTH_NONE))
        await receive_reply(reader, xid + 1)
        return time.monotonic() - start
    finally:
        writer.transport.abort()


class Agent:
    """CPU time and memory of the processes in the agent's cgroup."""

    def __init__(self, cgroup: str) -> None:
        self.cgroup = Path(cgroup)
        self.peak_rss_kib = 0
        self.peak_processes = 0

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used so far, with its children's."""
        return int((self.cgroup / "cpu.stat").read_text().split()[1]) / 1e6

    def sample(self) -> None:
        """Note the memory and the number of its processes."""
        sizes = []
        for pid in (self.cgroup / "cgroup.procs").read_text().split():
            try:
                sizes.append(int(Path("/proc", pid, "statm").read_text().split()[1]) * 4)
            except OSError:
                continue  # it has ended
        self.peak_rss_kib = max(self.peak_rss_kib, sum(sizes))
        self.peak_processes = max(self.peak_processes, len(sizes))

    async def watch(self) -> None:
        """Sample ten times a second, until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(0.1)


def percentile(values: list[float], fraction: float) -> float:
    """Return a percentile of seconds in ms; 0 if there are none."""
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * fraction))], 1) if ordered else 0.0


async def measure(options: argparse.Namespace, context: ssl.SSLContext, concurrency: int) -> dict[str, Any]:
    """Make options.total connections, that many at a time, and return the figures."""
    todo = iter(range(options.total))
    good: list[float] = []
    bad: collections.Counter[str] = collections.Counter()

    async def worker() -> None:
        for i in todo:
            try:
                good.append(
                    await asyncio.wait_for(connect_once(options, context, 2 * i + 1), options.timeout)
                )
            except (OSError, ValueError, EOFError, TimeoutError) as error:
                bad[f"{type(error).__name__}: {error}"[:80]] += 1

    agent = Agent(options.cgroup)
    watch = asyncio.create_task(agent.watch())
    cpu, start = agent.cpu_seconds(), time.monotonic()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds, cpu = time.monotonic() - start, agent.cpu_seconds() - cpu
    watch.cancel()
    return {
        "concurrency": concurrency,
        "ok": len(good),
        "failed": sum(bad.values()),
        "per_s": round(len(good) / seconds, 1),
        **{f"p{n}": percentile(good, n / 100) for n in (50, 95, 99)},
        "agent_cpu": round(cpu, 2),
        "cpu_ms_each": round(1000 * cpu / max(1, len(good)), 2),
        "rss_mib": round(agent.peak_rss_kib / 1024, 1),
        "processes": agent.peak_processes,
        "errors": dict(bad),
    }


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="10.9.0.1")
    parser.add_argument("--port", type=int, default=2049)
    parser.add_argument(
        "--name", default="server.test", help="the server's name, for SNI and its certificate"
    )
    parser.add_argument("--total", type=int, default=300, help="connections at each level")
    parser.add_argument("--levels", default="1,8,32,128", help="how many at a time")
    parser.add_argument("--ca", default="/pki/ca.pem")
    parser.add_argument("--cert", help="the client's certificate, with --key")
    parser.add_argument("--key")
    parser.add_argument(
        "--cgroup", default="/sys/fs/cgroup/agent-server", help="of the agent that is measured"
    )
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for one connection")
    return parser.parse_args()


async def main() -> None:
    """Measure each level and print its row."""
    options = parse_arguments()
    context = ssl.create_default_context(cafile=options.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["sunrpc"])
    if options.cert:
        context.load_cert_chain(options.cert, options.key)
    sys.stdout.write(" ".join(f"{column:>11}" for column in COLUMNS) + "\n")
    rows = []
    for concurrency in map(int, options.levels.split(",")):
        row = await measure(options, context, concurrency)
        rows.append(row)
        sys.stdout.write(" ".join(f"{row[column]:>11}" for column in COLUMNS) + "\n")
        sys.stdout.writelines(f"#   {count} x {error}\n" for error, count in row["errors"].items())
        sys.stdout.flush()
        await asyncio.sleep(1)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
