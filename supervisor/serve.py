"""The root of everything: provider, sessions, gateway, and the order in which they go.

Read it from the top: what is opened last is closed first. The gateway's connections end before the sessions,
the sessions before the provider; leaving any of these scopes, by any path, gives back what it holds.
"""

import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from supervisor.admin.listener import administered
from supervisor.admin.view import View
from supervisor.admission.host_limits import require_capacity, watch_host
from supervisor.admission.token import OneTimeTokens
from supervisor.gateway.house import House
from supervisor.gateway.pages import Pages
from supervisor.gateway.server import Gateway
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.providers import handing, measuring, open_provider
from supervisor.sandbox.terminal import SandboxProvider
from supervisor.session.monitor import ResourceMonitor
from supervisor.session.record import Records
from supervisor.session.registry import SessionRegistry
from supervisor.settings import Settings

log = get_logger(__name__)


@attrs.frozen
class Supervisor:
    """A running supervisor, as `running` yields it."""

    settings: Settings
    provider: SandboxProvider
    registry: SessionRegistry
    gateway: Gateway
    tokens: OneTimeTokens
    monitor: ResourceMonitor

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
    settings: Settings, provider: SandboxProvider, pages: Pages | None = None
) -> AsyncGenerator[Supervisor]:
    """Serve with `provider` while the block runs; `pages` are those of this package unless given.

    Resource handling: on leaving, sessions are ended and their sandboxes given back before this returns.
    """
    pages = pages or Pages()
    async with trio.open_nursery() as sessions:
        registry = SessionRegistry(settings, provider, sessions)
        records = session_records(provider)
        registry.watchers.append(records)
        monitor = ResourceMonitor(settings, registry, measuring(provider), records)
        tokens = OneTimeTokens(settings.access_token)
        gateway = Gateway(House(settings, provider, registry, tokens), pages)
        async with trio.open_nursery() as connections:
            await connections.start(gateway.run)
            if settings.monitoring:
                connections.start_soon(monitor.run)
            try:
                yield Supervisor(settings, provider, registry, gateway, tokens, monitor)
            finally:
                registry.close(EndReason.SHUTDOWN)
                connections.cancel_scope.cancel()


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run until SIGINT or SIGTERM; `announce` gets the page's address, again after each use of its token.

    The first signal ends gracefully, a second one at once; either way every sandbox is given back.

    Raises:
        ConfigurationError: this host, the engine or a setting is not as it must be (within an exception
            group).
    """
    require_capacity(settings)
    started, stop = trio.Event(), trio.Event()

    async def heed(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        log.info("stopping", signal=signal.Signals(await anext(signals)).name)
        if started.is_set():
            stop.set()
            await anext(signals)
            log.info("stopping at once")
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed, signals, nursery.cancel_scope)
            nursery.start_soon(watch_host)
            async with (
                open_provider(settings) as provider,
                running(settings, provider) as supervisor,
                administered(supervisor.view),
            ):

                def announce_url() -> None:
                    announce(supervisor.url)

                supervisor.gateway.house.on_redeemed = announce_url
                announce_url()
                started.set()
                await stop.wait()
                await supervisor.stop()
            nursery.cancel_scope.cancel()
