"""What an operator, the log and the page are told of hardening: what is gone without, and what is lost while
the supervisor runs.
"""

import attrs
import structlog.testing
from gateway.harness import TOKEN
from gateway.harness import stage as gateway_stage

from admin.stage import stage
from supervisor.measures import Measure, MeasureStatus, SecurityStatus
from supervisor.observability.audit import configure_audit
from supervisor.sandbox.security import GONE_WITHOUT, tell
from supervisor.serve import audit_start
from supervisor.testing.memory import MemoryProvider

ALL_HOLD = SecurityStatus(
    True, tuple(MeasureStatus(each, True, True, ("engine",), "as asked") for each in Measure)
)
OPENED = "the rules are gone"


def without(*measures: Measure) -> SecurityStatus:
    """Return a status in which all holds but those, knowingly."""
    return attrs.evolve(
        ALL_HOLD,
        measures=tuple(
            MeasureStatus(each.measure, False, False, (), GONE_WITHOUT) if each.measure in measures else each
            for each in ALL_HOLD.measures
        ),
        without=tuple(sorted(map(str, measures))),
    )


async def test_opt_outs_are_told() -> None:
    async with stage() as s:
        s.provider.security = without(Measure.APPARMOR, Measure.EGRESS)
        told = (await s.json("/stats"))["security"]
        assert told["without"] == ["apparmor", "egress"]
        assert (told["appArmorEnabled"], told["seccompEnabled"]) == (False, True)
        assert told["measures"]["egress"]["required"] is False
        assert told["networkReady"] is True, "isolation is required, and holds"
        numbers = await s.metrics()
        assert numbers['security_measure{measure="apparmor",required="false"}'] == 0
        assert numbers['security_measure{measure="isolation",required="true"}'] == 1
        assert numbers["security_initialized"] == 1


async def test_what_is_lost_is_told_and_that_it_is_back() -> None:
    async with stage() as s:
        s.provider.security = ALL_HOLD
        assert (await s.json("/stats"))["security"]["networkReady"] is True
        s.provider.security = ALL_HOLD.with_lost({Measure.EGRESS: OPENED})
        told = (await s.json("/stats"))["security"]
        assert (told["networkReady"], told["initialized"]) == (False, True)
        assert (told["measures"]["egress"]["verified"], told["measures"]["egress"]["how"]) == ([], OPENED)
        numbers = await s.metrics()
        assert numbers['security_measure{measure="egress",required="true"}'] == 0
        assert numbers['security_measure{measure="isolation",required="true"}'] == 1
        s.provider.security = ALL_HOLD
        assert (await s.json("/stats"))["security"]["networkReady"] is True
        assert (await s.metrics())['security_measure{measure="egress",required="true"}'] == 1


def test_what_makes_the_network_ready() -> None:
    """What is required of it, now; never where nothing isolates."""
    both = without(Measure.EGRESS, Measure.ISOLATION)
    assert both.network_ready
    assert both.with_lost({Measure.EGRESS: OPENED}) == both, "what is gone without cannot be lost"
    assert not without(Measure.EGRESS).with_lost({Measure.ISOLATION: OPENED}).network_ready
    assert ALL_HOLD.with_lost({Measure.APPARMOR: OPENED}).network_ready
    assert not attrs.evolve(ALL_HOLD, initialized=False).network_ready
    assert not SecurityStatus(initialized=True).network_ready


def test_the_log_and_the_audit_log_at_start() -> None:
    provider = MemoryProvider()
    provider.security = without(Measure.USERNS, Measure.EGRESS)
    configure_audit("true")
    with structlog.testing.capture_logs() as logs:
        tell(provider.security, "runc", [Measure.USERNS])
        audit_start(provider)
    holds, gone, started = logs
    assert "isolation" in holds["holds"]
    assert not {"egress", "userns"} & set(holds["holds"])
    assert (gone["log_level"], gone["without"], gone["could_be_had"]) == (
        "warning",
        ["egress", "userns"],
        ["userns"],
    )
    assert (started["event"], started["log_level"]) == ("supervisor started", "warning")
    assert (started["hardening_verified"], started["hardening_without"]) == (True, ["egress", "userns"])


async def test_the_page_says_what_does_not_hold() -> None:
    provider = MemoryProvider()
    provider.security = without(Measure.USERNS).with_lost({Measure.ISOLATION: OPENED})
    async with gateway_stage(provider=provider) as s:
        notice = str((await s.v1(token=TOKEN)).hello["notice"])
        provider.security = ALL_HOLD
        assert (await s.v1(token=TOKEN)).hello["notice"] is None
    assert "without these measures of hardening: userns." in notice
    assert "do not hold at the moment: isolation." in notice
    assert OPENED not in notice, "the reason is the operator's"
