"""`ktls-agent run`: the agent with everything real around it.

Reads the configuration, links the keyrings, opens netlink, and serves until SIGTERM or SIGINT, which drain; a second
one cuts the rest short.  SIGHUP and SIGUSR1 read the configuration again, and keep the old one if the new one
can't be used.
"""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from ktls_agent.sansio.activity import Activity
from ktls_agent.sansio.config import DebugConfiguration
from ktls_agent.sansio.policy import Credentials
from ktls_agent.sansio.steps import Trace

from .agent import Agent, AgentError
from .credentials import (
    ConfigurationUnusable,
    CredentialStore,
    find_configuration,
    load_credentials,
)
from .debugging import DebugTrace
from .handler import Log, Services, no_trace_for, wall_clock
from .keyring import KernelKeyring, KeyringLinks
from .ktls import KernelKeyInstaller
from .log import LogFormat, make_logger
from .netlink import KernelSocket
from .notify import Notifier
from .recorder import WRITE_SECONDS, Recorder, RecordingImpossible, RecordingOptions
from .status import StatusImpossible, StatusServer, StatusSource
from .workers import RELOAD_SIGNALS, STOP_SIGNALS, Relay, Supervisor

_MAX_MESSAGE: Final = 4096  # PIPE_BUF: so much is written at once or not at all


def run_workers(
    configuration_file: Path | None,
    *,
    to_stderr: bool,
    log_format: LogFormat = "text",
    record: RecordingOptions | None = None,
    status_socket: Path | None = None,
    allow_readable_keys: bool = False,
    count: int,
) -> int:
    """Serve until told to stop, in several processes if there are to be more than one.

    Args:
        configuration_file: As for `run_service`.
        to_stderr: As for `run_service`.
        log_format: As for `run_service`.
        record: As for `run_service`.
        status_socket: As for `run_service`; it tells of one process, so there can be no other.
        allow_readable_keys: As for `run_service`.
        count: How many processes serve; beside them one looks after them.

    Returns:
        The exit code for the process.

    Raises:
        AgentError: The agent can't start, or can't go on.
    """
    work = partial(
        run_service,
        configuration_file,
        to_stderr=to_stderr,
        log_format=log_format,
        record=record,
        status_socket=status_socket,
        allow_readable_keys=allow_readable_keys,
    )
    if count == 1:
        work()
        return os.EX_OK
    told, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    address = os.environ.get("NOTIFY_SOCKET")
    supervisor = Supervisor(
        partial(_work, work, tell),
        count=count,
        log=make_logger(to_stderr=to_stderr, debug=False, log_format=log_format),
        relay=Relay(address) if address else None,
    )
    code = supervisor.run()
    if code:
        # Each worker has said the same; one line is enough.
        raise AgentError(os.read(told, _MAX_MESSAGE).decode().partition("\0")[0], exit_code=code)
    return code


def _work(work: Callable[[], None], tell: int) -> int:
    """Do a worker's work; hand the reason over why it can't be done."""
    try:
        work()
    except AgentError as error:
        os.write(tell, f"{error}\0".encode()[:_MAX_MESSAGE])
        return error.exit_code
    return os.EX_OK


def run_service(
    configuration_file: Path | None,
    *,
    to_stderr: bool,
    log_format: LogFormat = "text",
    record: RecordingOptions | None = None,
    status_socket: Path | None = None,
    allow_readable_keys: bool = False,
) -> None:
    """Serve until told to stop.

    Args:
        configuration_file: Instead of tlshd's usual places.
        to_stderr: Log to stderr instead of syslog.
        log_format: How a log line is written.
        record: What to record of the requests; None records nothing.
        status_socket: Where to tell what the agent does; None tells nothing.
        allow_readable_keys: Take private keys that others than the agent's user may read.

    Raises:
        AgentError: The agent can't start, or can't go on.
    """
    path = find_configuration(configuration_file)
    try:
        store = CredentialStore(lambda: load_credentials(path, allow_readable_keys=allow_readable_keys))
    except ConfigurationUnusable as error:
        raise AgentError(str(error), exit_code=os.EX_CONFIG) from error
    configuration = store.current.configuration
    levels = configuration.debug
    log = make_logger(
        to_stderr=to_stderr,
        debug=max(levels.loglevel, levels.tls, levels.nl) > 0,
        log_format=log_format,
        journal=os.environ.get("JOURNAL_STREAM"),
    )
    log.info("starting", pid=os.getpid(), configuration=str(path or "none; defaults"))
    keyring = KernelKeyring()
    keyrings = KeyringLinks(keyring, configuration.keyrings)
    _tell_warnings(store.current, keyrings.link(), log)
    recorder = None if record is None else _make_recorder(record, log)
    services = Services(
        credentials=lambda: store.current,
        installer=KernelKeyInstaller(),
        keyring=keyring,
        link_keyrings=keyrings.link,
        log=log,
        trace_for=debugging(levels, log, no_trace_for if recorder is None else recorder.trace_for),
    )
    source = StatusSource(
        activity=services.activity,
        credentials=lambda: store.current,
        dropped=lambda: 0 if recorder is None else recorder.dropped,
        started=time.monotonic(),
    )
    status = None if status_socket is None else _make_status(status_socket, source)
    agent = Agent(services, open_socket=KernelSocket)
    notifier = Notifier.from_environment(os.environ)
    trio.run(partial(serve, agent, store, log, recorder, status=status, notifier=notifier))


def debugging(
    levels: DebugConfiguration, log: Log, trace_for: Callable[[int], Trace]
) -> Callable[[int], Trace]:
    """Log the steps of requests, if [debug] asks for it.

    Args:
        levels: What [debug] says.
        log: Where the lines go.
        trace_for: Makes the trace of a request that is told the steps in any case.
    """
    if max(levels.tls, levels.nl) <= 0:
        return trace_for
    return lambda sockfd: DebugTrace(log=log, levels=levels, sockfd=sockfd, then=trace_for(sockfd))


def _make_recorder(options: RecordingOptions, log: Log) -> Recorder:
    try:
        recorder = Recorder(options, log=log, wall_clock=wall_clock)
    except RecordingImpossible as error:
        raise AgentError(str(error), exit_code=os.EX_CANTCREAT) from None
    if options.secrets:
        log.warning(
            "recording secrets",
            directory=str(options.directory),
            warning="Whoever reads these files can read the recorded connections, and use their pre-shared keys.",
        )
    return recorder


def _make_status(path: Path, source: StatusSource) -> StatusServer:
    try:
        return StatusServer(path, source)
    except StatusImpossible as error:
        raise AgentError(str(error), exit_code=os.EX_CANTCREAT) from None


async def serve(
    agent: Agent,
    store: CredentialStore,
    log: Log,
    recorder: Recorder | None = None,
    *,
    status: StatusServer | None = None,
    notifier: Notifier | None = None,
) -> None:
    """Run an agent under this process's signals, its recorder, what tells its status and what tells systemd.

    Raises:
        AgentError: The agent can't start, or can't go on.
    """
    tell = Notifier() if notifier is None else notifier
    with trio.open_signal_receiver(*STOP_SIGNALS, *RELOAD_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, agent, store, log, tell)
            nursery.start_soon(tell.keep_awake)
            if status is not None:
                nursery.start_soon(status.run, log)
            failed = await _run_recorded(agent, log, recorder, tell)
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    log.info("stopped", pid=os.getpid())


async def _run_recorded(
    agent: Agent, log: Log, recorder: Recorder | None, tell: Notifier
) -> AgentError | None:
    """Run the agent, then let the recorder finish; why the agent could not go on, if so."""
    failed: AgentError | None = None
    async with trio.open_nursery() as nursery:
        if recorder is not None:
            nursery.start_soon(recorder.run)
        try:
            await agent.run(on_ready=partial(_tell_ready, log, tell))
        except AgentError as error:
            failed = error
        if recorder is not None:
            recorder.stop()
        nursery.cancel_scope.deadline = trio.current_time() + WRITE_SECONDS
    return failed


def _tell_ready(log: Log, tell: Notifier) -> None:
    log.info("ready", pid=os.getpid())
    tell.ready()


async def _obey(
    signals: AsyncIterator[int], agent: Agent, store: CredentialStore, log: Log, tell: Notifier
) -> None:
    async for number in signals:
        if number in STOP_SIGNALS:
            log.info("stopping", signal=signal.Signals(number).name)
            tell.stopping()
            agent.stop()
        else:
            tell.reloading()
            _reload(store, log, agent.activity)
            tell.ready()


def _reload(store: CredentialStore, log: Log, activity: Activity) -> None:
    problem = _problem_of(store.reload)
    activity.reloaded(ok=problem is None)
    if problem is not None:
        log.error("configuration not reloaded, the former one stays in use", reason=problem)
        return
    log.info("configuration reloaded")
    _tell_warnings(store.current, [], log)


def _problem_of(load: Callable[[], None]) -> str | None:
    try:
        load()
    except ConfigurationUnusable as error:
        return str(error)
    return None


def _tell_warnings(credentials: Credentials, problems: list[str], log: Log) -> None:
    for sentence in (*credentials.warnings, *problems):
        log.warning("configuration", warning=sentence)
