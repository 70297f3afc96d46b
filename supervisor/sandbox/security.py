"""What hardening there is, measure by measure: by what was asked for, what was missing, what was seen."""

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from supervisor.errors import ConfigurationError
from supervisor.measures import OPTIONAL, Measure, MeasureStatus, SecurityStatus, parse_opt_outs
from supervisor.observability.log import get_logger
from supervisor.sandbox.apparmor import GATE_PROFILE
from supervisor.sandbox.landlock import kernel_version
from supervisor.sandbox.network import NO_NETWORK
from supervisor.sandbox.policy import HardeningPolicy
from supervisor.settings import Settings
from supervisor.settings.knob import MIB

_log = get_logger("sandbox")

GONE_WITHOUT: Final = "gone without (HARDENING_WITHOUT)"
NOT_SEEN: Final = "not seen, as no sandbox starts"

# What the engine's answer is compared for with every container.
_SHOWN_BY_ENGINE: Final = frozenset(
    {
        Measure.SECCOMP,
        Measure.APPARMOR,
        Measure.CAPABILITIES,
        Measure.NO_NEW_PRIVILEGES,
        Measure.READ_ONLY,
        Measure.TMPFS,
        Measure.LIMITS,
        Measure.NAMESPACES,
    }
)


def require_measures(missing: Mapping[Measure, str], without: Iterable[Measure]) -> list[str]:
    """Return one complaint per measure that is required and cannot be had, and how to go without them all."""
    required = {measure: why for measure, why in missing.items() if measure not in without}
    problems = [f"measure {measure} ({measure.sentence}): {why}" for measure, why in required.items()]
    if required:
        names = ",".join(sorted({*without, *required}))
        problems.append(f"to go without what this host cannot have, knowingly: HARDENING_WITHOUT={names}")
    return problems


def needless(without: Iterable[Measure], missing: Mapping[Measure, str]) -> list[Measure]:
    """Return the measures that are gone `without` although nothing says that this host cannot have them.
    Whether a network isolates only packets can tell.
    """
    return [each for each in OPTIONAL if each in without and each not in (*missing, Measure.ISOLATION)]


def security_status(
    policy: HardeningPolicy,
    missing: Mapping[Measure, str],
    seen: Mapping[Measure, tuple[str, ...]],
    notes: Iterable[str] = (),
) -> SecurityStatus:
    """Return how things stand once sandboxes have been started.

    Args:
        policy: what was asked for.
        missing: what cannot be had here, and why.
        seen: by what else than the engine each measure was seen to hold.
        notes: for operators.
    """
    measures = [_status(measure, policy, missing, seen.get(measure, ())) for measure in Measure]
    digest = "" if Measure.SECCOMP in policy.without else policy.seccomp.digest
    status = SecurityStatus(
        False, tuple(measures), tuple(sorted(map(str, policy.without))), digest, tuple(notes)
    )
    return attrs.evolve(status, initialized=not status.failing)


def _status(
    measure: Measure, policy: HardeningPolicy, missing: Mapping[Measure, str], seen: tuple[str, ...]
) -> MeasureStatus:
    required = measure not in policy.without
    if measure in missing:
        return MeasureStatus(measure, required, False, (), missing[measure])
    if not required:
        return MeasureStatus(measure, False, False, (), GONE_WITHOUT)
    if measure in policy.covered:
        return MeasureStatus(measure, True, False, seen, policy.covered[measure], covered=True)
    verified = (("engine",) if measure in _SHOWN_BY_ENGINE else ()) + seen
    return MeasureStatus(measure, True, True, verified, _asked(measure, policy))


def _asked(measure: Measure, policy: HardeningPolicy) -> str:
    network = "network none" if policy.network == NO_NETWORK else f"network {policy.network}"
    return {
        Measure.SECCOMP: f"profile {policy.seccomp.digest[:16]}, {len(policy.seccomp.allowed)} calls allowed",
        Measure.APPARMOR: f"profiles {GATE_PROFILE} and {policy.session_profile}, enforced",
        Measure.USERNS: "userns-remap of the engine",
        Measure.LANDLOCK: f"version {kernel_version()}, {len(policy.gate_arguments) // 2} rules",
        Measure.SESSION_UID: "a random number each, by the image's name",
        Measure.EGRESS: network,
        Measure.ISOLATION: network,
        Measure.CAPABILITIES: "all dropped",
        Measure.NO_NEW_PRIVILEGES: "no-new-privileges",
        Measure.READ_ONLY: "read-only root, mounts and /proc paths",
        Measure.TMPFS: f"noexec, nosuid, nodev: {', '.join(policy.tmpfs)}",
        Measure.LIMITS: f"{policy.memory // MIB} MB, {policy.nano_cpus / 1e9:g} CPU, {policy.pids} processes",
        Measure.NAMESPACES: "private",
    }[measure]


def as_required(status: SecurityStatus, settings: Settings, missing: Mapping[Measure, str]) -> SecurityStatus:
    """Return `status` with what `settings` require, where it was found out without what was `missing`."""
    without = parse_opt_outs(settings.hardening_without)
    measures = tuple(
        attrs.evolve(each, required=each.measure not in without, how=missing.get(each.measure, each.how))
        for each in status.measures
    )
    status = attrs.evolve(status, measures=measures, without=tuple(sorted(map(str, without))))
    return attrs.evolve(status, initialized=not status.failing)


def unseen(settings: Settings, missing: Mapping[Measure, str], problem: str) -> SecurityStatus:
    """Return how things stand where no sandbox starts, so that nothing could show what holds.

    Args:
        settings: say what is required.
        missing: what is known not to hold, or not to be had here, and why.
        problem: why none starts.
    """
    without = parse_opt_outs(settings.hardening_without)
    measures = tuple(
        MeasureStatus(each, each not in without, False, (), missing.get(each, NOT_SEEN)) for each in Measure
    )
    return SecurityStatus(False, measures, tuple(sorted(map(str, without))), obstacles=(problem,))


def tell(status: SecurityStatus, kind: str, could_be_had: Iterable[Measure]) -> None:
    """Put into the log what holds, what the kernel of a runtime of that `kind` covers, and what is gone
    without.
    """
    _log.info("hardening", holds=[str(each.measure) for each in status.measures if each.holds])
    if covered := [str(each.measure) for each in status.measures if each.covered]:
        _log.info("measures in whose place a kernel of its own stands", kind=kind, measures=covered)
    if status.without:
        _log.warning(
            "sessions go without measures of hardening",
            without=list(status.without),
            could_be_had=[str(each) for each in could_be_had],
        )


def table(status: SecurityStatus) -> str:
    """Return the measures as a table for people."""
    rows = [("measure", "required", "applied", "verified by", "how")]
    rows += [
        (
            str(each.measure),
            "yes" if each.required else "no",
            "yes" if each.applied else "covered" if each.covered else "NO" if each.required else "no",
            ", ".join(each.verified) or "-",
            " ".join(each.how.split()),
        )
        for each in status.measures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"note: {note}" for note in status.notes]
    return "\n".join([*lines, *(f"no session starts: {obstacle}" for obstacle in status.obstacles)])


def opt_out_lines(status: SecurityStatus) -> list[str]:
    """Return the lines of a file of settings that opt out of what is required and cannot be had, with
    reasons.

    Raises:
        ConfigurationError: something fails that cannot be gone without, or going without would not help.
    """
    if status.obstacles:
        raise ConfigurationError(
            "no session starts here, whatever is gone without:\n  " + "\n  ".join(status.obstacles)
        )
    stuck = [each for each in status.failing if each.measure not in OPTIONAL]
    if stuck:
        raise ConfigurationError(
            "these measures fail and cannot be gone without:\n  "
            + "\n  ".join(f"{each.measure}: {each.how}" for each in stuck)
        )
    names = [*status.without, *(str(each.measure) for each in status.failing)]
    return [
        "# What of the hardening this host could not have when `terminal-supervisor check` looked, and why.",
        "# Take a name out of the list as soon as it can; `check` says how things stand.",
        *(f"#   {each.measure}: {' '.join(each.how.split())}" for each in status.failing),
        f"HARDENING_WITHOUT={','.join(names)}",
    ]
