"""Hardening as a provider's watches know it now, not as it was at start."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from supervisor.egress.rules import Plan
from supervisor.egress.watch import EgressWatch
from supervisor.errors import ConfigurationError
from supervisor.measures import Measure, MeasureStatus, SecurityStatus
from supervisor.sandbox import apparmor_kernel, isolation_watch
from supervisor.sandbox.apparmor_kernel import LoadedProfile, ProfilesWatch
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.isolation_watch import Grounds, IsolationWatch
from supervisor.sandbox.pool import WarmPool

PROVED = SecurityStatus(
    True, tuple(MeasureStatus(each, True, True, ("engine",), "as asked") for each in Measure)
)
PLAN = Plan(network="n", bridge="br-1", gateway="10.0.0.1", domains=(), ports=(443,))
PROFILE = LoadedProfile("enforce", "sha256", "abc")


@pytest.fixture
def provider() -> DockerProvider:
    made: Any = None
    provider = DockerProvider(made, ("sh",), made, made, made)
    provider.proved = PROVED
    return provider


def holds(provider: DockerProvider, measure: Measure) -> tuple[bool, bool, bool]:
    """Return whether it holds, the network is ready, and sessions may start."""
    status = WarmPool(provider, 1, 600.0, 600.0).security
    return status.holds(measure), bool(status.as_json()["networkReady"]), provider.closed is None


def test_without_watches_all_is_as_it_was_proved(provider: DockerProvider) -> None:
    assert provider.security == PROVED


def test_egress(provider: DockerProvider) -> None:
    provider.egress = watch = EgressWatch(PLAN, starts=False)
    assert holds(provider, Measure.EGRESS) == (False, False, False), "there is no keeper yet"
    for problem, well in ((None, True), ("the resolver is down", False), (None, True)):
        watch._heed({"problem": problem})
        assert holds(provider, Measure.EGRESS) == (well, well, well)
        assert provider.security.holds(Measure.ISOLATION)


async def test_isolation(provider: DockerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    rules: list[tuple[str, ...]] = [("rule",)]
    isolated = True

    async def look(_bridge: str) -> Grounds:
        return Grounds("1", rules[-1])

    async def prove(_containers: object) -> None:
        if not isolated:
            raise ConfigurationError("they reach each other")

    monkeypatch.setattr(isolation_watch, "look_at_grounds", look)
    monkeypatch.setattr(isolation_watch, "prove_isolation", prove)
    provider.isolation = watch = IsolationWatch(None, "br-1", 60.0)  # type: ignore[arg-type]
    await watch.prove()
    assert holds(provider, Measure.ISOLATION) == (True, True, True)
    rules.append(())
    isolated = False
    await watch.look()
    assert holds(provider, Measure.ISOLATION) == (False, False, False)
    (failing,) = provider.security.failing
    assert failing.how == "they reach each other"
    isolated = True
    await watch.look()
    assert holds(provider, Measure.ISOLATION) == (True, True, True)


def test_apparmor(provider: DockerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {"profile": PROFILE}
    show: Callable[[object], object] = lambda _names: loaded  # noqa: E731 - it is what changes
    monkeypatch.setattr(apparmor_kernel, "loaded_profiles", show)
    provider.confinement = ProfilesWatch({"profile": PROFILE})
    assert holds(provider, Measure.APPARMOR) == (True, True, True)
    loaded["profile"] = attrs.evolve(PROFILE, mode="complain")
    assert holds(provider, Measure.APPARMOR) == (False, True, False)
    loaded["profile"] = PROFILE
    assert holds(provider, Measure.APPARMOR) == (True, True, True)


def test_what_is_gone_without_is_not_lost(provider: DockerProvider) -> None:
    opened = MeasureStatus(Measure.EGRESS, False, False, (), "gone without")
    provider.proved = SecurityStatus(True, (opened,), ("egress",))
    provider.egress = EgressWatch(PLAN, starts=False)
    assert provider.security.measures == (opened,)
