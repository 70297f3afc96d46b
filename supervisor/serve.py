"""The root of everything: provider, sessions, gateway, and the order in which they go.

Read it from the top: what is opened last is closed first. The gateway's connections end before the sessions,
the sessions before the provider; leaving any of these scopes, by any path, gives back what it holds.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import Final

import attrs
import trio

from supervisor import __version__
from supervisor.admin.listener import administered
from supervisor.admin.view import View
from supervisor.admission.host_limits import require_capacity, watch_host
from supervisor.admission.token import OneTimeTokens
from supervisor.gateway.house import AdmissionHook, House
from supervisor.gateway.pages import Pages
from supervisor.gateway.server import Gateway
from supervisor.handover.giving import Giver
from supervisor.handover.taking import Successor, succeeding
from supervisor.observability import traces
from supervisor.observability.audit import audit
from supervisor.observability.log import get_logger
from supervisor.observability.service import Service
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.handing import AdoptedSandbox, HandingProvider
from supervisor.sandbox.providers import handing, measuring, open_provider
from supervisor.sandbox.terminal import SandboxProvider
from supervisor.session.monitor import ResourceMonitor
from supervisor.session.record import Records
from supervisor.session.recorder import open_recorder
from supervisor.session.recording import HandedRecording
from supervisor.session.registry import SessionRegistry, SessionWatcher
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.webhooks import Webhooks, webhooks

log = get_logger(__name__)

EXIT_HANDED_OVER: Final = 0
"""Exit status of a process whose sessions go on in another one."""


@attrs.frozen
class Supervisor:
    """A running supervisor, as `running` yields it."""

    settings: Settings
    provider: SandboxProvider
    registry: SessionRegistry
    gateway: Gateway
    tokens: OneTimeTokens
    monitor: ResourceMonitor
    hooks: Webhooks | None

    @property
    def view(self) -> View:
        """What its operator sees."""
        return View(self.settings, self.provider, self.registry, self.gateway, self.monitor)

    @property
    def url(self) -> str:
        """Where the page is; with a token that works once, where one is needed."""
        if not self.gateway.house.needs_token:
            return self.gateway.url
        return f"{self.gateway.url}?token={self.tokens.mint()}"

    async def stop(self) -> None:
        """End all sessions, tell everybody, and return when they have heard it or the grace is over."""
        self.registry.close(EndReason.SHUTDOWN)
        self.gateway.stop_listening()
        with trio.move_on_after(self.settings.shutdown_grace):
            await self.gateway.drain(EndReason.SHUTDOWN)


def session_records(provider: SandboxProvider) -> Records:
    """Return the records of the sessions of `provider`, in its instance's own directory if it has one."""
    facts = {
        "provider": provider.name,
        "hardening_verified": provider.security.initialized,
        "hardening_without": list(provider.security.without),
    }
    if inner := handing(provider):
        return Records(inner.estate.directory, lambda: inner.estate.shared, facts)
    return Records(facts=facts)


@asynccontextmanager
async def running(
    settings: Settings,
    provider: SandboxProvider,
    pages: Pages | None = None,
    successor: Successor | None = None,
    *,
    admit: AdmissionHook | None = None,
    watchers: Iterable[SessionWatcher] = (),
) -> AsyncGenerator[Supervisor]:
    """Serve with `provider` while the block runs.

    Args:
        settings, provider: from `load_settings` and `open_provider`.
        pages: those of this package unless given.
        admit: asked before each new session; see `AdmissionHook`.
        successor: this process's part in a hand-over, whose sessions it takes.
        watchers: told of each session's start and end.

    Resource handling: on leaving, sessions are ended and their sandboxes given back before this returns.

    Raises:
        HandoverError: the process that has the sessions goes on (within an exception group).
    """
    pages = pages or Pages()
    async with (
        traces.tracing(settings.traces, __version__),
        webhooks(settings) as hooks,
        open_recorder(settings) as recorder,
        trio.open_nursery() as sessions,
    ):
        registry = SessionRegistry(settings, provider, sessions, recorder)
        records = session_records(provider)
        registry.watchers += [records, *watchers, *([hooks] if hooks else [])]
        monitor = ResourceMonitor(settings, registry, measuring(provider), records)
        tokens = OneTimeTokens(settings.access_token)
        house = House(settings, provider, registry, tokens, admit)
        gateway = Gateway(house, pages, successor.detach_listening() if successor else ())
        if successor is not None:
            await take_over(successor, provider, registry, house, hooks)
        async with trio.open_nursery() as connections:
            await connections.start(gateway.run)
            if settings.monitoring:
                connections.start_soon(monitor.run)
            try:
                yield Supervisor(settings, provider, registry, gateway, tokens, monitor, hooks)
            finally:
                registry.close(EndReason.SHUTDOWN)
                connections.cancel_scope.cancel()


async def take_over(
    successor: Successor,
    provider: SandboxProvider,
    registry: SessionRegistry,
    house: House,
    hooks: Webhooks | None,
) -> None:
    """Get the sessions of the process that runs, and become the server: see docs/lifecycle.md.

    Raises:
        HandoverError: that process goes on; nothing of it was touched.
    """
    state = await successor.receive()
    able = handing(provider)
    if state is None or able is None:
        return
    with ExitStack() as unless_taken:
        adopted: list[tuple[Session, AdoptedSandbox, HandedRecording | None]] = []
        for each in state.sessions:
            sandbox = able.adopting(each.snapshot.id, each.sandbox)
            unless_taken.callback(sandbox.close)
            if each.recording:
                unless_taken.callback(each.recording.close)
            session = Session.restore(each.snapshot, house.settings_of(each.snapshot.profile))
            adopted.append((session, sandbox, each.recording))
        await successor.take()
        unless_taken.pop_all()
    # No checkpoint from here on until each session is a task of its own, which nothing can lose any more.
    house.use_keys(state.keys)
    house.door.remember(state.door)
    if hooks is not None:
        hooks.go_on_with(state.events)
    able.inherit(state.names)
    for session, sandbox, recording in adopted:
        registry.adopt(session, sandbox, recording)


async def serve(settings: Settings, announce: Callable[[str], None], *, takeover: bool = False) -> list[str]:
    """Run until SIGINT or SIGTERM; `announce` gets the page's address, again after each use of its token.

    The first signal ends gracefully, a second one at once; either way every sandbox is given back. SIGHUP
    starts a successor, which takes over, as one that is started by hand does; this process ends then without
    returning from here.

    Args:
        settings, announce: see above.
        takeover: take over the server that runs at the port.

    Returns:
        The names of containers that could not be removed.

    Raises:
        ConfigurationError: this host, the engine or a setting is not as it must be (within an exception
            group).
        HandoverError: there was nothing to take over, or the server that runs goes on (likewise).
    """
    require_capacity(settings)
    # Of a process at a terminal, a hang-up says that the terminal has gone.
    ending = {signal.SIGINT, signal.SIGTERM} | ({signal.SIGHUP} if os.isatty(0) else set[signal.Signals]())
    started, stop = trio.Event(), trio.Event()
    service = Service.of_this_process()

    async def heed(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        log.info("stopping", signal=signal.Signals(await anext(signals)).name)
        if started.is_set():
            stop.set()
            await anext(signals)
            log.info("stopping at once")
        scope.cancel()

    async def retire(successor: int) -> None:
        service.tell(MAINPID=str(successor))
        await traces.flush()
        sys.stdout.flush()
        # Nothing is this process's own any more: whatever it cleaned up would be the successor's.
        os._exit(EXIT_HANDED_OVER)

    able: HandingProvider | None = None
    with (
        trio.open_signal_receiver(*ending) as signals,
        trio.open_signal_receiver(*({signal.SIGHUP} - ending)) as reloads,
    ):
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
            nursery.start_soon(heed, signals, nursery.cancel_scope)
            nursery.start_soon(watch_host)
            successor = await stack.enter_async_context(succeeding(settings)) if takeover else None
            estate = successor.estate if successor else None
            provider = await stack.enter_async_context(open_provider(settings, estate))
            able = handing(provider)
            supervisor = await stack.enter_async_context(running(settings, provider, successor=successor))
            if successor is not None:
                await successor.wait_alone()
            await stack.enter_async_context(administered(supervisor.view))

            def announce_url() -> None:
                announce(supervisor.url)

            supervisor.gateway.house.on_redeemed = announce_url
            async with trio.open_nursery() as duties:
                if able is not None:
                    giver = Giver(
                        settings, able, supervisor.registry, supervisor.gateway, retire, supervisor.hooks
                    )
                    meeting_point = successor.detach_meeting_point() if successor else None
                    await duties.start(giver.run, meeting_point)
                duties.start_soon(service.keep_alive)
                duties.start_soon(renew_on_signal, reloads, service, supervisor.gateway)
                announce_url()
                started.set()
                audit_start(provider)
                service.ready(f"serving at {supervisor.gateway.url}")
                await stop.wait()
                duties.cancel_scope.cancel()
            service.tell(STOPPING="1", STATUS="ending sessions")
            await supervisor.stop()
            await stack.aclose()
            nursery.cancel_scope.cancel()
    return list(able.names()) if able else []


def audit_start(provider: SandboxProvider) -> None:
    """Note what runs, and with what hardening."""
    without = list(provider.security.without)
    audit(
        "supervisor started",
        "warning" if without else "info",
        version=__version__,
        provider=provider.name,
        hardening_verified=provider.security.initialized,
        hardening_without=without,
    )


async def renew_on_signal(reloads: AsyncIterator[int], service: Service, gateway: Gateway) -> None:
    """At each SIGHUP start this very command again, with new code and settings, to take over.

    Error handling: whatever becomes of that process, this one goes on until it has been taken over.
    """
    async for _ in reloads:
        command = [*sys.orig_argv, "--takeover", "--port", str(gateway.house.port)]
        log.info("starting a successor")
        service.reloading()
        try:
            # Not one of Trio's own: it must outlive this process.
            process = await trio.to_thread.run_sync(partial(subprocess.Popen, command))
        except OSError as error:  # no memory, or the program is no longer where it was
            log.error("no successor could be started; this process goes on", problem=str(error))
        else:
            status = await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
            log.error("the successor did not take over; this process goes on", status=status)
        service.ready(f"serving at {gateway.url}; the last reload failed")
