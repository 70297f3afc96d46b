"""Opens the provider that the settings name: the one door through which the rest of the program gets at
sandboxes.

Opening verifies (engine, image, network, isolation, a self-test), so that what is wrong shows at start and
not in front of a user. It takes two to three seconds with provider `docker`.
"""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.measures import Measure, SecurityStatus, parse_opt_outs
from supervisor.observability.log import get_logger
from supervisor.observability.metrics import engine_called
from supervisor.provision.compiler import docker_directory
from supervisor.reaping.directories import held_directory
from supervisor.reaping.guard import Guard, keep_guard
from supervisor.reaping.liveness import Liveness
from supervisor.reaping.pending import PendingRemovals
from supervisor.reaping.reconciler import Reconciler
from supervisor.sandbox.containers import HardenedContainers, Site
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.identity import Identity, this_process
from supervisor.sandbox.image import ImageFacts, read_image
from supervisor.sandbox.isolation import prove_isolation
from supervisor.sandbox.lifeline import runtime_directory
from supervisor.sandbox.local import open_local_provider
from supervisor.sandbox.network import NO_NETWORK, ensure_network
from supervisor.sandbox.policy import HardeningPolicy
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.seccomp import load_profile
from supervisor.sandbox.security import as_required, require_measures, security_status
from supervisor.sandbox.terminal import SandboxProvider
from supervisor.sandbox.verify import EngineFacts, missing_measures, own_programs, read_engine, self_test
from supervisor.settings import Settings

_log = get_logger("sandbox")

DRAIN_TIME: Final = 15.0
"""Seconds for removals that are still due when the provider is closed."""


@asynccontextmanager
async def open_provider(settings: Settings) -> AsyncGenerator[SandboxProvider]:
    """Open the provider of `settings`, verified and ready.

    Resource handling: all leases must have ended before it is left.

    Raises:
        ConfigurationError: this host, the engine, the image or the network is not as it must be; all that is
            wrong is named.
    """
    if settings.provider == "local":
        async with open_local_provider(settings) as local:
            yield local
    else:
        async with open_docker_provider(settings) as docker, _reaping(docker, settings):
            if not settings.warm_pool_size:
                yield docker
                return
            async with trio.open_nursery() as nursery:
                pool = WarmPool(
                    docker, settings.warm_pool_size, settings.warm_pool_max_age, settings.max_duration
                )
                nursery.start_soon(pool.run)
                yield pool
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def _reaping(provider: DockerProvider, settings: Settings) -> AsyncGenerator[None]:
    """Remove what dead supervisors left, now and every so often."""
    site = provider.containers.site
    reconciler = Reconciler(site.docker, site.identity, provider.containers.pending.names)
    provider.reconciler = reconciler
    async with trio.open_nursery() as nursery:
        await reconciler.reconcile()
        nursery.start_soon(reconciler.run, settings.reconcile_interval)
        yield
        nursery.cancel_scope.cancel()


@contextmanager
def _watched(guard: Guard, pending: PendingRemovals) -> Generator[None]:
    """Let the guard go at the end; with a farewell, when nothing is left for it."""
    try:
        yield
        if not pending.names():
            guard.farewell()
    finally:
        guard.close()


@asynccontextmanager
async def open_docker_provider(settings: Settings, *, verify: bool = True) -> AsyncGenerator[DockerProvider]:
    """Open provider `docker`. See `open_provider`.

    Args:
        settings: `docker_host` empty means the address that the Docker CLI would use.
        verify: prove isolation and run the self-test. For tests that do so themselves, or many times.
    """
    try:
        docker = Docker(settings.docker_host or None)
    except (ValueError, DockerError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error
    docker.api.on_call = engine_called
    identity = this_process()
    pending = PendingRemovals(docker.containers.container)
    failure: ConfigurationError | None = None
    # All of this before the first container: others would take that for left over, and it needs its guard.
    with Liveness(identity.instance), ExitStack() as stack:
        async with docker, trio.open_nursery() as nursery:
            try:
                sockets = _socket_directory(stack, settings, identity)
                guard = Guard(docker.docker_host, identity.instance, sockets)
                stack.enter_context(_watched(guard, pending))
                await nursery.start(keep_guard, guard)
                engine = await read_engine(docker, settings)
                missing = missing_measures(engine, settings)
                provider = await _verified(
                    docker, identity, settings, nursery, pending, sockets, engine, missing
                )
                if verify:
                    await _prove(provider, settings, missing)
            except ConfigurationError as error:  # kept out of the nursery, which would wrap it
                failure = error
            else:
                nursery.start_soon(pending.run)
                try:
                    yield provider
                finally:
                    with trio.CancelScope(shield=True):  # `drain` has a deadline
                        if left := await pending.drain(DRAIN_TIME):
                            _log.warning("containers could not be removed", containers=left)
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _socket_directory(stack: ExitStack, settings: Settings, identity: Identity) -> Path | None:
    if settings.transport != "lifeline":
        return None
    parent = runtime_directory()
    try:
        return stack.enter_context(held_directory(parent, identity.instance))
    except OSError as error:
        raise ConfigurationError(f"cannot make a directory for lifeline sockets: {error}") from error


async def _verified(
    docker: Docker,
    identity: Identity,
    settings: Settings,
    nursery: trio.Nursery,
    pending: PendingRemovals,
    sockets: Path | None,
    engine: EngineFacts,
    missing: Mapping[Measure, str],
) -> DockerProvider:
    problems = require_measures(missing, parse_opt_outs(settings.hardening_without))
    image: ImageFacts | None = None
    try:
        seccomp = load_profile(docker_directory() / "seccomp.json")
    except ConfigurationError as error:
        problems.append(str(error))
        seccomp = None
    try:
        programs = await own_programs(settings, engine)
    except ConfigurationError as error:
        problems.append(str(error))
        programs = {}
    try:
        image = await read_image(docker, settings, identity)
        if not (settings.command or image.command):
            problems.append(f"image {settings.image} has no command: set SESSION_COMMAND")
    except (ConfigurationError, DockerError) as error:
        problems.append(str(error))
    try:
        await ensure_network(docker, settings)
    except (ConfigurationError, DockerError) as error:
        problems.append(str(error))
    if problems or image is None or seccomp is None:
        raise ConfigurationError("provider docker cannot start:\n" + "\n".join(problems))
    site = Site(
        docker=docker,
        identity=identity,
        transport=settings.transport,
        programs=programs,
        sockets=sockets,
        socket_uid=None if engine.remapped else image.uid,
        start_timeout=settings.start_timeout,
    )
    policy = HardeningPolicy.from_settings(settings, image, seccomp, engine.runtime)
    policy = attrs.evolve(policy, auto_remove=engine.auto_remove)
    containers = HardenedContainers(site, policy, pending)
    return DockerProvider(containers, settings.command or image.command, nursery)


async def _prove(provider: DockerProvider, settings: Settings, missing: Mapping[Measure, str]) -> None:
    """Have sandboxes show that they are what they should be, and note it in the provider."""
    policy = provider.containers.policy
    seen: dict[Measure, tuple[str, ...]] = {}
    await self_test(provider)
    if settings.network == NO_NETWORK:
        seen[Measure.ISOLATION] = seen[Measure.EGRESS] = ("engine",)
    elif Measure.ISOLATION not in policy.without:
        try:
            await prove_isolation(provider.containers)
        except (DockerError, SandboxError) as error:
            raise ConfigurationError(f"isolation of the network {settings.network}: {error}") from error
        seen[Measure.ISOLATION] = ("packets",)
    if Measure.USERNS not in missing:
        seen[Measure.USERNS] = ("engine",)
    provider.security = status = security_status(policy, missing, seen)
    if status.failing:
        raise ConfigurationError(
            "nothing has shown that these measures hold: "
            + ", ".join(str(each.measure) for each in status.failing)
        )
    _log.info("hardening", holds=[str(each.measure) for each in status.measures if each.holds])
    if status.without:
        _log.warning("sessions go without measures of hardening", without=list(status.without))


async def survey(settings: Settings) -> SecurityStatus:
    """Return how each measure stands on this host, the missing ones included.

    Raises:
        ConfigurationError: sandboxes cannot be started at all, or are not what was asked for.
    """
    try:
        async with Docker(settings.docker_host or None) as docker:
            missing = missing_measures(await read_engine(docker, settings), settings)
    except (ValueError, DockerError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error
    without = parse_opt_outs(settings.hardening_without) | missing.keys()
    wider = attrs.evolve(settings, hardening_without=tuple(sorted(without)))
    async with open_docker_provider(wider) as provider:
        return as_required(provider.security, settings)
