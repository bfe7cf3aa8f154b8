"""`ktls-agent run`: the agent with everything real around it.

Reads the configuration, links the keyrings, opens netlink, and serves until SIGTERM or SIGINT, which drain; a second
one cuts the rest short.  SIGHUP and SIGUSR1 read the configuration again, and keep the old one if the new one
can't be used.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

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
from .log import make_logger
from .netlink import KernelSocket
from .recorder import WRITE_SECONDS, Recorder, RecordingImpossible, RecordingOptions

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1)


def run_service(
    configuration_file: Path | None,
    *,
    to_stderr: bool,
    record: RecordingOptions | None = None,
    allow_readable_keys: bool = False,
) -> None:
    """Serve until told to stop.

    Args:
        configuration_file: Instead of tlshd's usual places.
        to_stderr: Log to stderr instead of syslog.
        record: What to record of the requests; None records nothing.
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
    log = make_logger(to_stderr=to_stderr, debug=max(levels.loglevel, levels.tls, levels.nl) > 0)
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
    trio.run(serve, Agent(services, open_socket=KernelSocket), store, log, recorder)


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


async def serve(agent: Agent, store: CredentialStore, log: Log, recorder: Recorder | None = None) -> None:
    """Run an agent under this process's signals, and its recorder.

    Raises:
        AgentError: The agent can't start, or can't go on.
    """
    with trio.open_signal_receiver(*STOP_SIGNALS, *RELOAD_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, agent.stop, store, log)
            failed = await _run_recorded(agent, log, recorder)
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    log.info("stopped")


async def _run_recorded(agent: Agent, log: Log, recorder: Recorder | None) -> AgentError | None:
    """Run the agent, then let the recorder finish; why the agent could not go on, if so."""
    failed: AgentError | None = None
    async with trio.open_nursery() as nursery:
        if recorder is not None:
            nursery.start_soon(recorder.run)
        try:
            await agent.run(on_ready=partial(log.info, "ready"))
        except AgentError as error:
            failed = error
        if recorder is not None:
            recorder.stop()
        nursery.cancel_scope.deadline = trio.current_time() + WRITE_SECONDS
    return failed


async def _obey(
    signals: AsyncIterator[int], stop: Callable[[], None], store: CredentialStore, log: Log
) -> None:
    async for number in signals:
        if number in STOP_SIGNALS:
            log.info("stopping", signal=signal.Signals(number).name)
            stop()
        else:
            _reload(store, log)


def _reload(store: CredentialStore, log: Log) -> None:
    problem = _problem_of(store.reload)
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
