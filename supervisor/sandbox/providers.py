"""Opens the provider that the settings name: the one door through which the rest of the program gets at
sandboxes.

Opening verifies (engine, image, network, isolation, a self-test), so that what is wrong shows at start and
not in front of a user. It takes two to three seconds with provider `docker`.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Final

import attrs
import trio

from supervisor.egress.watch import EgressWatch, start_watch
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError, HardeningError, MeasureError, SandboxError
from supervisor.measures import Measure, parse_opt_outs
from supervisor.observability.log import get_logger
from supervisor.observability.metrics import engine_called
from supervisor.profiles import read_profiles
from supervisor.provision.compiler import docker_directory
from supervisor.reaping.engine_health import EngineHealth
from supervisor.reaping.estate import Estate, new_estate
from supervisor.reaping.guard import Guard, keep_guard
from supervisor.reaping.notices import EngineNotices
from supervisor.reaping.pending import PendingRemovals
from supervisor.reaping.reconciler import Reconciler
from supervisor.sandbox.apparmor_kernel import ProfilesWatch
from supervisor.sandbox.budget import SessionsGroup, sessions_group
from supervisor.sandbox.containers import HardenedContainers, Site
from supervisor.sandbox.counting import warn_if_uncounted
from supervisor.sandbox.denials import report_denials
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.egress import egress_plan, prove_egress, report_events
from supervisor.sandbox.files import mounted_file
from supervisor.sandbox.handing import HandingProvider
from supervisor.sandbox.image import image_need
from supervisor.sandbox.isolation_watch import IsolationWatch
from supervisor.sandbox.lifeline import runtime_directory
from supervisor.sandbox.local import LocalProvider, open_local_provider
from supervisor.sandbox.network import NO_NETWORK, ensure_network, network_need
from supervisor.sandbox.policy import HardeningPolicy
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.runtimes import find_ordinary
from supervisor.sandbox.seccomp import NO_PROFILE, RESTORE, staged_profile
from supervisor.sandbox.security import needless, require_measures, security_status, tell
from supervisor.sandbox.surroundings import Surroundings, look_around
from supervisor.sandbox.terminal import SandboxProvider
from supervisor.sandbox.verify import EngineFacts, own_programs, read_engine, self_test
from supervisor.settings import Settings

_log = get_logger("sandbox")

KERNEL_MEMORY: Final = "kernel memory has no limit of its own: it is covered by the memory limit"
"""Engines on cgroup v1 accept a limit of it and do not enforce it; cgroup v2 has none."""
NEEDLESS: Final = "{} could be had here now: take it out of HARDENING_WITHOUT, and run `check` again"
"""Of an opt-out."""
DRAIN_TIME: Final = 15.0
"""Seconds for removals that are still due when the provider is closed."""


@asynccontextmanager
async def open_provider(settings: Settings, estate: Estate | None = None) -> AsyncGenerator[SandboxProvider]:
    """Open the provider of `settings`, verified and ready.

    Args:
        settings: see there.
        estate: whose containers it makes; a new one's unless given.

    Resource handling: all leases must have ended before it is left.

    Raises:
        ConfigurationError: this host, the engine, the image or the network is not as it must be; all that is
            wrong is named.
    """
    if settings.provider == "local":
        with _own_estate(estate) as own:
            async with open_local_provider(settings, own) as local:
                yield local
    else:
        async with open_docker_provider(settings, estate) as docker, _reaping(docker, settings):
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


def measuring(provider: SandboxProvider) -> DockerProvider | None:
    """Return what of `provider` can measure sandboxes; None where nothing can."""
    inner = provider.provider if isinstance(provider, WarmPool) else provider
    return inner if isinstance(inner, DockerProvider) else None


def handing(provider: SandboxProvider) -> HandingProvider | None:
    """Return what of `provider` can hand sandboxes over to another process; None where nothing can."""
    inner = provider.provider if isinstance(provider, WarmPool) else provider
    return inner if isinstance(inner, DockerProvider | LocalProvider) else None


@asynccontextmanager
async def _reaping(provider: DockerProvider, settings: Settings) -> AsyncGenerator[None]:
    """Remove what dead supervisors left, now and every so often."""
    site = provider.containers.site
    reconciler = Reconciler(
        site.docker, site.identity, provider.containers.pending.names, lambda: provider.estate.shared
    )
    provider.reconciler = reconciler
    async with trio.open_nursery() as nursery:
        await reconciler.reconcile()
        nursery.start_soon(reconciler.run, settings.reconcile_interval)
        yield
        nursery.cancel_scope.cancel()


@contextmanager
def _watched(guard: Guard, clean: Callable[[], bool]) -> Generator[None]:
    """Let the guard go at the end; with a farewell, when nothing is left for it."""
    try:
        yield
        if clean():
            guard.farewell()
    finally:
        guard.close()


def _longest_life(settings: Settings) -> float:
    """Return the seconds that a container may wait and then serve a session, graces and margins left out."""
    kinds = (settings, *read_profiles(settings).values())
    return settings.warm_pool_max_age + max(kind.max_duration for kind in kinds)


@asynccontextmanager
async def open_docker_provider(
    settings: Settings,
    estate: Estate | None = None,
    *,
    verify: bool = True,
    found: Surroundings | None = None,
) -> AsyncGenerator[DockerProvider]:
    """Open provider `docker`. See `open_provider`.

    Args:
        settings: `docker_host` empty means the address that the Docker CLI would use.
        estate: see there.
        verify: prove isolation and run the self-test. For tests that do so themselves, or many times.
        found: what the caller has found already by looking around.
    """
    try:
        docker = Docker(settings.docker_host or None)
    except (ValueError, DockerError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error
    docker.api.on_call = engine_called
    health = EngineHealth(docker)
    pending = PendingRemovals(docker.containers.container, health.patience)
    health.on_return.append(pending.hurry)
    if docker.docker_host.startswith("unix:"):  # elsewhere it may have been the network
        health.on_restart.append(pending.trust_restarted_engine)
    failure: ConfigurationError | None = None
    asked = False  # for any container

    def clean() -> bool:
        # A start that failed may have left the container by which it looks into the image.
        return not pending.names() and not own.shared and (failure is None or not asked)

    # All of this before the first container: others would take that for left over, and it needs its guard.
    with _own_estate(estate) as own:
        async with AsyncExitStack() as stack, docker, trio.open_nursery() as nursery:
            try:
                guard = own.new_guard(docker.docker_host, _longest_life(settings), settings.audit_log)
                stack.enter_context(_watched(guard, clean))
                await nursery.start(keep_guard, guard, lambda: own.shared)
                engine = await read_engine(docker, settings)
                asked = True
                if found is None:
                    found = await look_around(docker, engine, settings, own.identity)
                group = await stack.enter_async_context(
                    sessions_group(settings, engine.cgroup_driver, own.identity, lambda: own.shared)
                )
                nursery.start_soon(health.run)
                provider = await _verified(
                    docker, own, settings, nursery, pending, health, engine, found, stack, group
                )
                await _filter_egress(docker, provider, settings, nursery)
                for name, changed in read_profiles(settings).items():
                    try:
                        there = await look_around(docker, engine, changed, own.identity)
                        special = await _verified(
                            docker, own, changed, nursery, pending, health, engine, there, stack, group
                        )
                        await _filter_egress(docker, special, changed, nursery, provider.egress)
                        if verify:
                            await _prove(special, changed, there.missing)
                    except MeasureError as error:
                        raise MeasureError(f"profile {name}: {error}", error.measures) from error
                    except ConfigurationError as error:
                        raise ConfigurationError(f"profile {name}: {error}") from error
                    provider.add_profile(name, special)
                if verify:
                    await _prove(provider, settings, found.missing)
                # From here on: our own proofs are no news.
                for each in {made.egress for made in (provider, *provider.profiles.values()) if made.egress}:
                    report_events(each, provider.session_at)
            except ConfigurationError as error:  # kept out of the nursery, which would wrap it
                failure = error
            else:
                for made in (provider, *provider.profiles.values()):
                    if made.isolation is not None:
                        nursery.start_soon(made.isolation.run)
                    if made.confinement is not None:
                        nursery.start_soon(made.confinement.run)
                nursery.start_soon(pending.run)
                nursery.start_soon(provider.containers.site.notices.run)
                if engine.local:
                    nursery.start_soon(report_denials, provider.session_of)
                try:
                    yield provider
                finally:
                    with trio.CancelScope(shield=True):  # `drain` has a deadline
                        if left := await pending.drain(DRAIN_TIME):
                            _log.warning("containers could not be removed", containers=left)
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextmanager
def _own_estate(given: Estate | None) -> Generator[Estate]:
    """Yield `given`, which is the caller's, or a new one."""
    if given is not None:
        yield given
        return
    parent = runtime_directory()
    with ExitStack() as stack:
        try:
            estate = stack.enter_context(new_estate(parent))
        except OSError as error:
            raise ConfigurationError(f"cannot make a directory for lifeline sockets: {error}") from error
        yield estate


async def _filter_egress(
    docker: Docker,
    provider: DockerProvider,
    settings: Settings,
    nursery: trio.Nursery,
    kept: EgressWatch | None = None,
) -> None:
    """Have the network's egress kept, unless the policy goes without, and hear of it as long as `nursery` is
    open.
    """
    if Measure.EGRESS in provider.containers.policy.without or not provider.network.bridge:
        return
    engine_socket = docker.docker_host.removeprefix("unix://")
    plan = egress_plan(settings, provider.network, engine_socket)
    # One plan for each network: whoever wants another one is told that it is kept otherwise.
    try:
        provider.egress = kept if kept and kept.plan == plan else await start_watch(plan, nursery)
    except ConfigurationError as error:
        raise MeasureError(str(error), {Measure.EGRESS}) from error


async def _verified(
    docker: Docker,
    estate: Estate,
    settings: Settings,
    nursery: trio.Nursery,
    pending: PendingRemovals,
    health: EngineHealth,
    engine: EngineFacts,
    found: Surroundings,
    stack: AsyncExitStack,
    group: SessionsGroup | None,
) -> DockerProvider:
    without = parse_opt_outs(settings.hardening_without)
    problems = require_measures(found.missing, without)
    runtime = engine.runtime_for(settings)
    seccomp = None if Measure.SECCOMP not in without else NO_PROFILE
    if seccomp is None:
        source = docker_directory() / "seccomp.json"
        try:
            seccomp = stack.enter_context(staged_profile(source, estate.directory, engine.machine))
        except ConfigurationError as error:
            problems += [str(error), RESTORE]
    try:
        programs = await own_programs(settings, engine)
    except ConfigurationError as error:
        problems.append(str(error))
        programs = {}
    problems += found.problems
    try:
        network = await ensure_network(docker, settings)
    except (ConfigurationError, DockerError) as error:
        problems.append(str(error))
        network = None
    image = found.image
    if problems or image is None or seccomp is None or network is None:
        raise ConfigurationError("provider docker cannot start:\n" + "\n".join(problems))
    site = Site(
        docker=docker,
        identity=estate.identity,
        transport=settings.transport,
        programs=programs,
        sockets=estate.directory,
        first_uid=engine.first_uid,
        start_timeout=settings.start_timeout,
        network_id=network.id,
        health=health,
        notices=EngineNotices(docker, health, estate.identity.instance),
    )
    health.needs += [image_need(docker, image), network_need(docker, network)]
    policy = HardeningPolicy.from_settings(settings, image, seccomp, runtime)
    resolver = "" if Measure.EGRESS in policy.without else network.gateway
    policy = attrs.evolve(
        policy,
        auto_remove=engine.auto_remove,
        resolver=resolver,
        cgroup=group.parent if group else "",
        session_profile=found.session_profile,
    )
    witness = None
    if runtime.kind.sentry and network.bridge:
        witness = policy.as_witness(find_ordinary(engine.runtimes, engine.runtime))
    if runtime.kind.sentry and resolver:
        text = f"nameserver {resolver}\noptions ndots:0\n"
        mount = stack.enter_context(mounted_file(estate.directory, text, "/etc/resolv.conf"))
        policy = attrs.evolve(policy, mounts=(mount,))
    containers = HardenedContainers(site, policy, pending, witness)
    command = settings.command or image.command
    warn_if_uncounted(settings, command)
    provider = DockerProvider(containers, command, nursery, estate, network)
    provider.group = group
    provider.confinement = ProfilesWatch(found.profiles) if found.profiles else None
    return provider


async def _prove(provider: DockerProvider, settings: Settings, missing: Mapping[Measure, str]) -> None:
    """Have sandboxes show that they are what they should be, and note it in the provider.

    Raises:
        MeasureError: they do not.
    """
    policy = provider.containers.policy
    seen = dict(await self_test(provider))
    if provider.group is not None:
        try:
            provider.group.require_limits()
        except HardeningError as error:
            raise MeasureError(str(error), {Measure.LIMITS}) from error
    if settings.network == NO_NETWORK:
        seen[Measure.ISOLATION] = seen[Measure.EGRESS] = ("engine",)
    elif Measure.ISOLATION not in policy.without:
        provider.isolation = IsolationWatch(
            provider.containers, provider.network.bridge, settings.reconcile_interval
        )
        try:
            await provider.isolation.prove()
        except ConfigurationError as error:
            raise MeasureError(str(error), {Measure.ISOLATION}) from error
        except (DockerError, SandboxError) as error:
            text = f"isolation of the network {settings.network}: {error}"
            raise MeasureError(text, {Measure.ISOLATION}) from error
        seen[Measure.ISOLATION] = ("packets",)
    if provider.egress is not None:
        try:
            await prove_egress(provider.containers, provider.egress)
        except ConfigurationError as error:
            raise MeasureError(str(error), {Measure.EGRESS}) from error
        except (DockerError, SandboxError) as error:
            text = f"egress of the network {settings.network}: {error}"
            raise MeasureError(text, {Measure.EGRESS}) from error
        seen[Measure.EGRESS] = ("packets",)
    could_be_had = needless(policy.without, missing)
    notes = [KERNEL_MEMORY, *(NEEDLESS.format(each) for each in could_be_had)]
    provider.proved = status = security_status(policy, missing, seen, notes)
    if failing := [each.measure for each in status.failing]:
        raise MeasureError(
            f"nothing has shown that these measures hold: {', '.join(map(str, failing))}", failing
        )
    tell(status, policy.runtime.kind.title, could_be_had)
