"""Runtimes: which kind one is, what goes with it, and what stands behind one with a kernel of its own."""

import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from sandbox.conftest import IMAGE
from sandbox.test_inside import GOOD, NAMESPACES, encode, found
from sandbox.test_measures import BARE, WELL
from supervisor.errors import ConfigurationError, HardeningError, SandboxError
from supervisor.measures import Measure
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox.inside import Verdict, judge, judge_behind, judged
from supervisor.sandbox.isolation import _judge as judge_isolation
from supervisor.sandbox.policy import HardeningPolicy
from supervisor.sandbox.runtimes import GVISOR, KATA, ORDINARY, choose, find_ordinary, read_runtimes
from supervisor.sandbox.seccomp import load_profile
from supervisor.sandbox.security import opt_out_lines, security_status, table
from supervisor.sandbox.seen import Mount, Seen, own_kernel, parse_report
from supervisor.sandbox.sentry import Behind
from supervisor.sandbox.verify import missing_measures
from supervisor.settings import Settings
from supervisor.settings.load import load_settings

INFO = {
    "DefaultRuntime": "runc",
    "Runtimes": {
        "runc": {"path": "runc"},
        "crun": {"path": "/usr/bin/crun", "runtimeArgs": []},
        "runsc": {"path": "/usr/bin/runsc", "runtimeArgs": ["--platform=ptrace", "-oci-seccomp=true"]},
        "safe": {"path": "/opt/bin/runsc-wrapper", "runtimeArgs": None},
        "shim": {"runtimeType": "io.containerd.runsc.v1"},
        "kata-qemu": {"runtimeType": "io.containerd.kata-qemu.v2"},
    },
}
RUNTIMES = read_runtimes(INFO)
ATTACHED = Settings(transport="attach", pids_limit=512, network="none")

# What gVisor of 2022 reports, where it differs from Linux.
STATUS = """Name:\tgate
Uid:\t1000\t1000\t1000\t1000
Gid:\t1000\t1000\t1000\t1000
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
Seccomp:\t2
"""
GVISOR_MOUNTS = """8 8 0:8 / / ro  - 9p none ro,trans=fd,cache=fscache
9 8 0:6 / /dev rw  - tmpfs none rw,mode=0755
10 8 0:9 / /sys ro,noexec  - sysfs none ro,dentry_cache_limit=1000
11 8 0:10 / /proc rw,noexec  - proc none rw,dentry_cache_limit=1000
12 9 0:13 / /dev/pts rw,noexec  - devpts none rw
13 9 0:14 / /dev/shm rw,noexec  - tmpfs none rw,mode=1777,size=1048576
14 8 0:15 / /etc/passwd ro  - 9p none ro,trans=fd,cache=remote_revalidating
15 8 0:18 / /tmp rw,noexec  - tmpfs none rw,mode=1777,size=67108864
16 8 0:19 / /run rw,noexec  - tmpfs none rw,mode=0755,size=33554432
17 8 0:20 / /home/appuser/.ably rw,noexec  - tmpfs none rw,mode=0700,size=10485760
"""
MISSING = -2
REPORT: dict[str, bytes | int] = {
    **GOOD,
    "/proc/version": b"Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016\n",
    "/proc/self/status": STATUS.encode(),
    "/proc/self/uid_map": b"         0          0 4294967295\n",
    "/proc/self/attr/current": MISSING,
    "/proc/self/limits": MISSING,
    "/proc/self/mountinfo": GVISOR_MOUNTS.encode(),
    **{name: MISSING for name in GOOD if name.startswith("/sys/fs/cgroup/")},
    **{f"/proc/self/ns/{kind}": MISSING for kind in ("cgroup", "ipc", "mnt", "uts")},
    "/dev/pts/ptmx": 0,
    "memfd_create": -22,
    "limit core": bytes(16),
    "limit fsize": (67108864).to_bytes(8, "big") * 2,
    "limit nofile": (512).to_bytes(8, "big") * 2,
    "limit sigpending": (128).to_bytes(8, "big") * 2,
    "no-new-privs": b"\0\0\0\1",
    "landlock": bytes(4),
}
OURS = {kind: f"{kind}:[1]" for kind in NAMESPACES}
FILTERED = {"Seccomp": "2", "NoNewPrivs": "1"}
SENTRY = Seen(
    status={**FILTERED, "Uid": "65534\t65534\t65534\t65534", "CapEff": "0000000000240000"},
    uid_map=((65534, 65534, 1),),
    gid_map=((65534, 65534, 1),),
    label="",
    limits={},
    interfaces=frozenset({"lo"}),
    mounts=(Mount("/", "/", "tmpfs", frozenset({"ro", "relatime"}), frozenset({"rw"})),),
    cgroup={
        "memory": "268435456",
        "swap": "268435456",
        "pids": "512",
        "cpu": "100000",
        "cpu period": "100000",
    },
    namespaces={**{kind: f"{kind}:[2]" for kind in NAMESPACES}, "pid": "pid:[1]", "cgroup": "cgroup:[1]"},
)
BEHIND = Behind(SENTRY, (FILTERED, FILTERED), OURS)


def policy_of(runtime: str, *without: Measure) -> HardeningPolicy:
    profile = load_profile(docker_directory() / "seccomp.json")
    policy = HardeningPolicy.from_settings(ATTACHED, IMAGE, profile, RUNTIMES[runtime])
    return attrs.evolve(policy, user_of_its_own=True, without=frozenset(without))


def verdict_on(
    policy: HardeningPolicy, behind: Behind = BEHIND, changes: Mapping[str, bytes | int] | None = None
) -> Verdict:
    seen = parse_report(encode({**REPORT, **(changes or {})}), policy.runtime.kind.unlisted)
    return judge_behind(policy, behind, judge(policy, seen, None, None))


def test_kinds_are_told_by_names() -> None:
    kinds = {name: runtime.kind for name, runtime in RUNTIMES.items()}
    assert kinds == {
        "runc": ORDINARY,
        "crun": ORDINARY,
        "runsc": GVISOR,
        "safe": GVISOR,
        "shim": GVISOR,
        "kata-qemu": KATA,
    }
    assert RUNTIMES["shim"].arguments is None, "the engine does not tell"


def test_a_runtime_is_chosen() -> None:
    assert choose(Settings(), RUNTIMES, "runc", local=True).name == "runc"
    assert choose(attrs.evolve(ATTACHED, runtime="runsc"), RUNTIMES, "runc", local=True).name == "runsc"
    with pytest.raises(ConfigurationError, match="SANDBOX_TRANSPORT=attach"):
        choose(Settings(), RUNTIMES, "runsc", local=True)  # the engine's default, too


@pytest.mark.parametrize(
    ("changes", "local", "told"),
    [
        (
            {"runtime": "nope"},
            True,
            r"CONTAINER_RUNTIME=nope: .* crun, kata-qemu, runc, runsc, safe, shim\. ",
        ),
        ({"runtime": "runsc", "transport": "lifeline"}, True, "gVisor.*: set SANDBOX_TRANSPORT=attach"),
        ({"runtime": "kata-qemu", "transport": "lifeline"}, True, "Kata.*: set SANDBOX_TRANSPORT=attach"),
        ({"runtime": "runsc", "pids_limit": 50}, True, "CONTAINER_PIDS_LIMIT=50: .* set 256 or more"),
        ({"runtime": "runsc"}, False, "containers are elsewhere"),
        (
            {"runtime": "runsc", "pids_limit": 50, "transport": "lifeline"},
            False,
            "SANDBOX_TRANSPORT.*elsewhere.*CONTAINER_PIDS_LIMIT",
        ),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], local: bool, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        choose(attrs.evolve(ATTACHED, **changes), RUNTIMES, "runc", local=local)


def test_names_of_runtimes() -> None:
    with pytest.raises(ConfigurationError, match="CONTAINER_RUNTIME"):
        load_settings({"CONTAINER_RUNTIME": "a/b"})
    assert load_settings({"CONTAINER_RUNTIME": "io.containerd.runsc.v1"}).runtime == "io.containerd.runsc.v1"


def test_an_argument_that_is_lacking() -> None:
    assert RUNTIMES["runsc"].lacks_argument(Measure.SECCOMP) == ""
    assert RUNTIMES["safe"].lacks_argument(Measure.SECCOMP) == "--oci-seccomp"
    assert RUNTIMES["shim"].lacks_argument(Measure.SECCOMP) == "", "the first container will tell"
    assert RUNTIMES["runc"].lacks_argument(Measure.SECCOMP) == ""


def test_what_is_missing_depends_on_the_runtime() -> None:
    engine = attrs.evolve(BARE, seccomp=True)
    assert missing_measures(engine, RUNTIMES["runc"]).keys() >= {Measure.APPARMOR, Measure.USERNS}
    assert missing_measures(engine, RUNTIMES["runsc"]) == {}
    assert missing_measures(WELL, RUNTIMES["safe"]).keys() == {Measure.SECCOMP}
    assert missing_measures(engine, RUNTIMES["kata-qemu"]).keys() == {Measure.APPARMOR, Measure.USERNS}
    assert missing_measures(BARE, RUNTIMES["runsc"]).keys() == {Measure.SECCOMP}


def test_what_is_covered_is_not_asked_for() -> None:
    policy = policy_of("runsc")
    assert policy.covered.keys() == {Measure.APPARMOR, Measure.LANDLOCK, Measure.USERNS}
    assert policy.gate_arguments == []
    assert not any("apparmor" in option for option in policy.security_options)
    assert policy.to_create_config(["/gate"], labels={})["HostConfig"]["Runtime"] == "runsc"
    assert policy_of("runc").covered == {}
    assert policy_of("runsc", Measure.APPARMOR).covered.keys() == {Measure.LANDLOCK, Measure.USERNS}
    witness = policy.as_witness(RUNTIMES["runc"])
    assert (witness.covered, witness.without) == ({}, frozenset(policy.covered))


def test_the_profile_as_gvisor_reads_it() -> None:
    ordinary, own = (
        json.loads(policy_of(runtime).security_options[1].removeprefix("seccomp="))
        for runtime in ("runc", "runsc")
    )
    (times,) = (rule for rule in own["syscalls"] if "pselect6" in rule["names"])
    assert "pselect" in times["names"]
    (clone3,) = (rule for rule in own["syscalls"] if "clone3" in rule["names"])
    assert clone3 == {"names": ["clone3"], "action": "SCMP_ACT_TRACE"}
    changed = [new for old, new in zip(ordinary["syscalls"], own["syscalls"], strict=True) if old != new]
    assert changed == [times, clone3]


def test_gvisor_as_it_should_be() -> None:
    verdict = verdict_on(policy_of("runsc"))
    assert found(verdict) == ""
    assert verdict.verified == {
        Measure.SECCOMP: ("inside", "host"),
        Measure.APPARMOR: ("host",),
        Measure.LANDLOCK: ("host",),
        Measure.USERNS: ("host",),
        Measure.SESSION_UID: ("inside",),
        Measure.CAPABILITIES: ("inside",),
        Measure.NO_NEW_PRIVILEGES: ("inside",),
        Measure.READ_ONLY: ("inside",),
        Measure.TMPFS: ("inside",),
        Measure.LIMITS: ("inside", "host"),
        Measure.NAMESPACES: ("inside", "host"),
    }


def _sentry(**changes: Any) -> Behind:
    return attrs.evolve(BEHIND, sentry=attrs.evolve(SENTRY, **changes))


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        (attrs.evolve(BEHIND, processes=()), "gVisor for apparmor: processes"),
        (attrs.evolve(BEHIND, processes=(FILTERED, {**FILTERED, "Seccomp": "0"})), "for seccomp: Seccomp"),
        (attrs.evolve(BEHIND, processes=({"Seccomp": "2"},)), "for landlock: NoNewPrivs"),
        (_sentry(mounts=()), "for apparmor: mount /"),
        (
            _sentry(mounts=(attrs.evolve(SENTRY.mounts[0], options=frozenset({"rw"})),)),
            "for landlock: mount /",
        ),
        (_sentry(mounts=(attrs.evolve(SENTRY.mounts[0], kind="overlay"),)), "for landlock: mount /"),
        (_sentry(status={**SENTRY.status, "Uid": "0\t0\t0\t0"}), "for userns: Uid"),
        (_sentry(namespaces={**SENTRY.namespaces, "user": "user:[1]"}), "for userns: namespace user"),
        (_sentry(namespaces={**SENTRY.namespaces, "net": "net:[1]"}), "for namespaces: namespace net"),
        (_sentry(namespaces={}), "for namespaces: namespace mnt"),
        (_sentry(cgroup={}), "for limits: cgroup limits"),
        (_sentry(cgroup={**SENTRY.cgroup, "memory": "1"}), "for limits: cgroup limit memory"),
    ],
)
def test_what_is_not_as_it_should_be_behind_gvisor(behind: Behind, told: str) -> None:
    policy = policy_of("runsc")
    assert told in found(verdict_on(policy, behind))
    (measure,) = (measure for measure in Measure if f"for {measure}:" in told)
    assert (
        measure not in verdict_on(policy, behind).verified or "inside" in verdict_on(policy).verified[measure]
    )
    if measure in policy.covered:
        gone = attrs.evolve(policy, without=frozenset(policy.covered) | {Measure.SECCOMP})
        assert found(verdict_on(gone, behind)) == "", "gone without by name, it is not looked at"


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"/proc/self/status": STATUS.replace("Seccomp:\t2", "Seccomp:\t0").encode()}, "inside Seccomp"),
        ({"/proc/self/status": STATUS.replace("CapBnd:\t00", "CapBnd:\t01").encode()}, "inside CapBnd"),
        ({"no-new-privs": bytes(4)}, "inside no-new-privs"),
        ({"limit nofile": (1024).to_bytes(8, "big") * 2}, "inside Max open files"),
        ({"limit sigpending": (1024).to_bytes(8, "big") * 2}, "inside Max pending signals"),
        ({"limit core": b"\xff" * 16}, "inside Max core file size"),
        ({"/proc/self/mountinfo": GVISOR_MOUNTS.replace("/ / ro", "/ / rw").encode()}, "inside mount /"),
        (
            {"/proc/self/mountinfo": GVISOR_MOUNTS.replace("/tmp rw,noexec", "/tmp rw").encode()},
            "inside mount /tmp",
        ),
        (
            {"/proc/self/mountinfo": GVISOR_MOUNTS.replace("size=10485760", "size=1").encode()},
            "inside size of /home",
        ),
        ({"/proc/self/net/dev": b"a\nb\n lo: 0\n eth0: 0\n"}, "network interfaces"),
    ],
)
def test_what_gvisor_shows_inside_is_judged(entries: dict[str, bytes | int], told: str) -> None:
    assert told in found(verdict_on(policy_of("runsc"), changes=entries))


def test_what_gvisor_lacks_is_not_forgiven_elsewhere() -> None:
    """An ordinary container that shows as little as gVisor's does is refused."""
    with pytest.raises(SandboxError, match=r"lacks limits, ns/cgroup.*4\.4\.0"):
        parse_report(encode(REPORT))
    listed = parse_report(
        encode({**REPORT, **{name: GOOD[name] for name in GOOD if "/ns/" in name}}), {"limits"}
    )
    text = found(judge(policy_of("runc"), listed, None, None))
    for part in ("CapAmb", "NoNewPrivs", "inside /proc/sys:", "cgroup limits", "mount /tmp", "Landlock"):
        assert part in text


@pytest.mark.parametrize(
    ("runtime", "kernel", "told"),
    [
        ("runsc", None, "said to be gVisor.*run on this host's kernel"),
        ("runc", "Linux version 4.4.0", r"a kernel of their own \(Linux version 4\.4\.0.*runsc for gVisor"),
        ("kata-qemu", None, "said to be Kata"),
    ],
)
def test_a_kind_must_be_borne_out(runtime: str, kernel: str | None, told: str) -> None:
    entries = {**GOOD, "/proc/version": (kernel or own_kernel()).encode()}
    with pytest.raises(HardeningError, match=told):
        judged(policy_of(runtime), encode(entries), None, local=True)


def test_kata_is_taken_at_its_word_where_this_host_shows_nothing() -> None:
    entries = {**GOOD, "/proc/version": b"Linux version 5.15 (guest)", "/sys/fs/cgroup/pids.max": b"512\n"}
    policy = policy_of("kata-qemu", Measure.APPARMOR, Measure.USERNS)
    verified = judged(policy, encode(entries), None, local=True).verified
    assert verified[Measure.LANDLOCK] == ("inside",)
    with pytest.raises(HardeningError, match="inside Landlock"):
        judged(policy, encode({**entries, "landlock": bytes(4)}), None, local=True)


def test_covered_is_neither_in_force_nor_gone_without() -> None:
    verified = verdict_on(policy_of("runsc")).verified
    everywhere = {**verified, Measure.EGRESS: ("engine",), Measure.ISOLATION: ("engine",)}
    status = security_status(policy_of("runsc"), {}, everywhere)
    assert status.initialized
    assert status.without == ()
    (landlock,) = (each for each in status.measures if each.measure is Measure.LANDLOCK)
    assert (landlock.required, landlock.applied, landlock.covered, landlock.holds) == (
        True,
        False,
        True,
        False,
    )
    assert "covered  host" in table(status)
    shown = status.as_json()["measures"]
    assert shown["landlock"] == {
        "required": True,
        "applied": False,
        "covered": True,
        "verified": ["host"],
        "how": GVISOR.covered[Measure.LANDLOCK],
    }
    assert not shown["seccomp"]["covered"]
    assert "landlock" not in opt_out_lines(status)[-1]
    # Nothing has shown what should stand in its place.
    del everywhere[Measure.LANDLOCK]
    unseen = security_status(policy_of("runsc"), {}, everywhere)
    assert [each.measure for each in unseen.failing] == [Measure.LANDLOCK]


def test_a_proof_of_isolation_needs_an_ordinary_container() -> None:
    assert find_ordinary(RUNTIMES, "crun").name == "crun"
    assert find_ordinary(RUNTIMES, "runsc").name in {"runc", "crun"}
    with pytest.raises(ConfigurationError, match="add runc"):
        find_ordinary({"runsc": RUNTIMES["runsc"]}, "runsc")


def test_a_proof_of_isolation_with_a_witness() -> None:
    own = policy_of("runsc")
    policies = [own, own, own.as_witness(RUNTIMES["runc"])]
    itself, link = 3, 4
    good = {(source, target): 0 for source in range(3) for target in range(3)}
    good |= {(each, each): itself for each in range(3)} | {(2, 0): link, (2, 1): link}
    judge_isolation("net", policies, good)
    for pair, status, told in (
        ((0, 1), 1, "reach each other"),
        ((1, 2), 2, "reach each other"),
        ((2, 1), 0, "nothing proved"),
        ((0, 0), 1, "does not reach itself"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            judge_isolation("net", policies, {**good, pair: status})
