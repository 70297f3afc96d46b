"""What a container shows of itself: taken apart, judged, and engines and gates that lie about it."""

import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import attrs
import httpx
import pytest
import trio
from conftest import opt_outs

from sandbox.between import EngineBetween, put_between
from sandbox.conftest import IMAGE, docker_settings
from supervisor.errors import HardeningError, SandboxError
from supervisor.measures import Measure
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox import inside as inside_module
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.inside import Verdict, judge, require
from supervisor.sandbox.policy import HardeningPolicy
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.runtimes import Runtime
from supervisor.sandbox.seccomp import load_profile
from supervisor.sandbox.seen import Seen, kernel_has, parse_report
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings

LIMIT = 60.0
LABEL = b"ably-cli-sandbox-profile//&ably-cli-sandbox-session-0123 (enforce)\n"
TRUE = LeaseRequest("test", ("true",), hangup_grace=0)

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
OURS = {kind: f"{kind}:[1]" for kind in NAMESPACES}

STATUS = """Name:\tgate
Uid:\t1000\t1000\t1000\t1000
Gid:\t1000\t1000\t1000\t1000
Groups:\t1000\x20
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t1
"""
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    0                    bytes
Max file size             67108864             67108864             bytes
Max open files            512                  512                  files
Max pending signals       128                  128                  signals
"""
DEVICES = "Inter-|   Receive\n face |bytes\n    lo:       0       0\n"
_FLAGS = "rw,nosuid,nodev,noexec,relatime"
_READ_ONLY = "ro,nosuid,nodev,noexec,relatime"
_NULL = "rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755"
MOUNTS = f"""505 514 0:88 / / ro,relatime - overlay overlay rw,lowerdir=/x
506 505 0:84 / /proc {_FLAGS} - proc proc rw
507 505 0:85 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
508 507 0:86 / /dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666
509 505 0:87 / /sys {_READ_ONLY} - sysfs sysfs ro
510 509 0:89 / /sys/fs/cgroup {_READ_ONLY} - cgroup2 cgroup rw
536 506 0:84 /bus /proc/bus {_READ_ONLY} - proc proc rw
537 506 0:84 /fs /proc/fs {_READ_ONLY} - proc proc rw
539 506 0:84 /sys /proc/sys ro,relatime - proc proc rw
540 506 0:84 /sysrq-trigger /proc/sysrq-trigger {_READ_ONLY} - proc proc rw
541 506 0:85 /null /proc/keys {_NULL}
542 506 0:85 /null /proc/kcore {_NULL}
543 506 0:85 /null /proc/interrupts {_NULL}
544 506 0:98 / /proc/acpi ro,relatime - tmpfs tmpfs ro
545 509 0:99 / /sys/firmware ro,relatime - tmpfs tmpfs ro
591 507 0:94 / /dev/shm {_FLAGS} - tmpfs shm rw,size=1024k
600 505 0:95 / /tmp {_FLAGS} - tmpfs tmpfs rw,size=65536k
601 505 0:96 / /run {_FLAGS} - tmpfs tmpfs rw,size=32768k,mode=755,uid=1000,gid=1000
592 505 254:0 /x/passwd-1 /etc/passwd ro,relatime - ext4 /dev/vda rw
602 505 0:97 / /home/appuser/.ably {_FLAGS} - tmpfs tmpfs rw,size=10240k,mode=700
"""
# Of what is hidden or read-only, the rest is what this kernel has not.
THERE = frozenset(
    {f"/proc/{name}" for name in ("acpi", "bus", "fs", "interrupts", "kcore", "keys", "sys", "sysrq-trigger")}
    | {"/sys/firmware"}
)
GOOD: dict[str, bytes | int] = {
    "/proc/self/status": STATUS.encode(),
    "/proc/self/uid_map": b"         0     100000      65536\n",
    "/proc/self/gid_map": b"         0     100000      65536\n",
    "/proc/self/attr/current": LABEL,
    "/proc/self/limits": LIMITS.encode(),
    "/proc/self/net/dev": DEVICES.encode(),
    "/proc/self/mountinfo": MOUNTS.encode(),
    "/sys/fs/cgroup/memory.max": b"268435456\n",
    "/sys/fs/cgroup/memory.swap.max": b"0\n",
    "/sys/fs/cgroup/pids.max": b"50\n",
    "/sys/fs/cgroup/cpu.max": b"100000 100000\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": -2,
    **{f"/proc/self/ns/{kind}": f"{kind}:[2]".encode() for kind in NAMESPACES},
    "/dev/pts/ptmx": -13,
    "memfd_create": -1,
    "landlock": b"\0\0\0\7",
}


def encode(entries: dict[str, bytes | int]) -> bytes:
    return b"".join(
        name.encode()
        + b"\0"
        + (struct.pack(">i", value) if isinstance(value, int) else struct.pack(">i", len(value)) + value)
        for name, value in entries.items()
    )


def seen(**changes: bytes | int) -> Seen:
    """A good report, changed where told; `status` stands for `/proc/self/status` and so on."""
    entries = dict(GOOD)
    for name, value in changes.items():
        (key,) = (key for key in entries if key.rpartition("/")[2] == name)
        entries[key] = value
    return attrs.evolve(parse_report(encode(entries)), there=THERE)


def mounts(old: str = "", new: str = "", more: str = "") -> dict[str, bytes | int]:
    """The good mounts with something replaced, which must be there, or more of them."""
    assert old in MOUNTS
    return {"mountinfo": (MOUNTS.replace(old, new) + more).encode()}


def without_mount(point: str) -> dict[str, bytes | int]:
    (line,) = (line for line in MOUNTS.splitlines(keepends=True) if line.split()[4] == point)
    return mounts(line)


def outside(view: Seen) -> Seen:
    """The same, as the host sees it: without what only a process itself can find out."""
    ids = {
        name: "\t".join(str(100_000 + int(number)) for number in view.status[name].split())
        for name in ("Uid", "Gid", "Groups")
    }
    return attrs.evolve(view, status={**view.status, **ids}, landlock=None, ptmx=None, memfd=None)


@pytest.fixture(scope="module")
def policy() -> HardeningPolicy:
    profile = load_profile(docker_directory() / "seccomp.json")
    policy = HardeningPolicy.from_settings(Settings(network="none"), IMAGE, profile, Runtime("runc"))
    return attrs.evolve(policy, user_of_its_own=True, session_profile="ably-cli-sandbox-session-0123")


def found(verdict: Verdict) -> str:
    return "\n".join(map(str, verdict.differences))


def test_all_is_well(policy: HardeningPolicy) -> None:
    verdict = judge(policy, seen(), outside(seen()), OURS)
    assert found(verdict) == ""
    both = set(Measure) - {Measure.LANDLOCK, Measure.EGRESS, Measure.ISOLATION}
    assert {measure for measure, views in verdict.verified.items() if views == ("inside", "host")} == both
    assert verdict.verified[Measure.LANDLOCK] == ("inside",)


WHOLE = b"0 0 4294967295\n"
BROKEN: list[tuple[str, dict[str, bytes | int], str]] = [
    ("seccomp off", {"status": STATUS.replace("Seccomp:\t2", "Seccomp:\t0").encode()}, "inside Seccomp"),
    ("no filter", {"status": STATUS.replace("filters:\t1", "filters:\t0").encode()}, "Seccomp_filters"),
    ("the engine's filter", {"memfd_create": -22}, "inside memfd_create"),
    ("a capability", {"status": STATUS.replace("CapBnd:\t00", "CapBnd:\t01").encode()}, "inside CapBnd"),
    ("new privileges", {"status": STATUS.replace("Privs:\t1", "Privs:\t0").encode()}, "inside NoNewPrivs"),
    ("root", {"status": STATUS.replace("Uid:\t1000", "Uid:\t0").encode()}, "inside Uid"),
    ("another group", {"status": STATUS.replace("Gid:\t1000", "Gid:\t4").encode()}, "inside Gid"),
    ("more groups", {"status": STATUS.replace("1000\x20", "1000 27").encode()}, "inside Groups"),
    ("no user namespace", {"uid_map": WHOLE}, "inside uid_map"),
    ("the host's groups", {"gid_map": WHOLE}, "inside gid_map"),
    ("unconfined", {"current": b"unconfined\n"}, "AppArmor label"),
    ("complaining", {"current": b"ably-cli-sandbox-profile (complain)\n"}, "AppArmor label"),
    ("another profile", {"current": b"docker-default (enforce)\n"}, "AppArmor label"),
    ("not stacked", {"current": b"ably-cli-sandbox-profile (enforce)\n"}, "AppArmor label"),
    ("half complaining", {"current": LABEL.replace(b"enforce", b"mixed")}, "AppArmor label"),
    ("for another image", {"current": LABEL.replace(b"0123", b"4567")}, "AppArmor label"),
    ("no Landlock", {"landlock": b"\0\0\0\0"}, "inside Landlock"),
    ("another PTY", {"ptmx": 0}, "/dev/ptmx"),
    ("root writable", {"mountinfo": MOUNTS.replace("/ / ro", "/ / rw").encode()}, "mount /:"),
    ("/proc/sys writable", {"mountinfo": MOUNTS.replace("/sys ro", "/sys rw").encode()}, "mount /proc/sys"),
    ("/proc/sys left out", without_mount("/proc/sys"), 'inside /proc/sys: ["nodev", "noexec"'),
    ("sysrq", without_mount("/proc/sysrq-trigger"), 'inside /proc/sysrq-trigger: ["nodev", "noexec"'),
    ("kcore in sight", without_mount("/proc/kcore"), 'inside /proc/kcore: "proc" instead of "hidden"'),
    ("firmware in sight", without_mount("/sys/firmware"), 'inside /sys/firmware: "sysfs"'),
    (
        "kcore shown",
        mounts(f"85 /null /proc/kcore {_NULL}", f"84 /kcore /proc/kcore {_READ_ONLY} - proc proc rw"),
        'inside /proc/kcore: "proc"',
    ),
    (
        "/proc once more",
        mounts(more=f"9 5 0:84 / /proc {_FLAGS} - proc proc rw\n"),
        'inside /proc/keys: "proc"',
    ),
    ("/proc executable", mounts(f"/proc {_FLAGS}", "/proc rw,nosuid,nodev"), "inside mount /proc:"),
    ("/dev set-user-id", mounts("/dev rw,nosuid", "/dev rw"), "inside mount /dev:"),
    ("/dev/pts", mounts("/dev/pts rw,nosuid,noexec", "/dev/pts rw"), "inside mount /dev/pts:"),
    ("no /dev/pts", without_mount("/dev/pts"), "inside mount /dev/pts: null"),
    ("/sys with devices", mounts(f"/sys {_READ_ONLY}", "/sys ro,nosuid,noexec"), "inside mount /sys:"),
    ("/sys writable", mounts(f"/sys {_READ_ONLY}", f"/sys {_FLAGS}"), "inside mount /sys:"),
    (
        "cgroup",
        mounts(f"cgroup {_READ_ONLY}", f"cgroup {_READ_ONLY.replace('noexec,', '')}"),
        "inside mount /sys/fs/cgroup:",
    ),
    ("something more", {"mountinfo": f"{MOUNTS}9 5 0:9 / /data rw - ext4 /dev/x rw\n".encode()}, "/data"),
    ("over a mount", {"mountinfo": f"{MOUNTS}9 5 0:9 / /tmp rw - ext4 /dev/x rw\n".encode()}, "mount /tmp"),
    ("executable", {"mountinfo": MOUNTS.replace("noexec,", "").encode()}, "mount /run"),
    ("too large", {"mountinfo": MOUNTS.replace("size=10240k", "size=90000k").encode()}, "size of /home"),
    ("files", {"limits": LIMITS.replace("512 ", "1024").encode()}, "Max open files"),
    ("signals", {"limits": LIMITS.replace("128 ", "96365").encode()}, "Max pending signals"),
    ("no name", {"mountinfo": MOUNTS.replace("/etc/passwd", "/x").encode()}, "mount /etc/passwd"),
    ("memory", {"memory.max": b"max\n"}, "cgroup limit memory"),
    ("swap", {"memory.swap.max": b"max\n"}, "cgroup limit swap"),
    ("processes", {"pids.max": b"max\n"}, "cgroup limit pids"),
    ("CPU", {"cpu.max": b"max 100000\n"}, "cgroup limit cpu"),
    ("a network", {"dev": f"{DEVICES}  eth0: 0 0\n".encode()}, "network interfaces"),
    ("somebody else's", {"net": b"net:[3]"}, "inside namespace net"),
]


@pytest.mark.parametrize(
    ("changes", "complaint"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_what_is_broken_is_named(
    policy: HardeningPolicy, changes: dict[str, bytes | int], complaint: str
) -> None:
    assert complaint in found(judge(policy, seen(**changes), outside(seen()), OURS))


@pytest.mark.parametrize(
    ("name", "blamed"),
    [
        ("no filter", {Measure.SECCOMP}),
        ("unconfined", {Measure.APPARMOR}),
        ("no user namespace", {Measure.USERNS}),
        ("another PTY", {Measure.LANDLOCK}),
        ("memory", {Measure.LIMITS}),
        ("somebody else's", {Measure.NAMESPACES}),
    ],
)
def test_what_is_to_blame_is_known_by_its_measure(
    policy: HardeningPolicy, name: str, blamed: set[Measure]
) -> None:
    (changes,) = [row[1] for row in BROKEN if row[0] == name]
    ours = {**OURS, "user": outside(seen()).namespaces["user"]} if blamed == {Measure.USERNS} else OURS
    verdict = judge(policy, seen(**changes), outside(seen()), ours)
    assert verdict.failing == blamed
    with pytest.raises(HardeningError) as caught:
        require(verdict)
    assert caught.value.measures == blamed


@pytest.mark.parametrize(
    "changes",
    [row[1] for row in BROKEN if row[0] not in {"no Landlock", "another PTY", "the engine's filter"}],
    ids=[row[0] for row in BROKEN if row[0] not in {"no Landlock", "another PTY", "the engine's filter"}],
)
def test_a_gate_that_lies_is_caught(policy: HardeningPolicy, changes: dict[str, bytes | int]) -> None:
    """It reports what should be; the host sees what is."""
    host = outside(seen(**changes))
    if {"uid_map", "gid_map"} & changes.keys():
        host = attrs.evolve(host, status=seen().status)
    assert "host " in found(judge(policy, seen(), host, OURS)) or "net" in changes


def test_what_runtimes_do_for_remapped_users(policy: HardeningPolicy) -> None:
    """Devices are the host's, and so what hides is; hierarchies of cgroup v1 are writable, in a tmpfs."""
    device = "rw,nosuid,relatime - devtmpfs udev rw,size=1000000k,mode=755"
    cgroup = f"510 509 0:89 / /sys/fs/cgroup {_READ_ONLY} - cgroup2 cgroup rw\n"
    hierarchies = f"""510 509 0:89 / /sys/fs/cgroup {_FLAGS} - tmpfs tmpfs rw,mode=755
511 510 0:29 /x /sys/fs/cgroup/cpu {_FLAGS} - cgroup cgroup rw,cpu
"""
    text = MOUNTS.replace(f"0:85 /null /proc/keys {_NULL}", f"0:6 /null /proc/keys {device}")
    text = text.replace(cgroup, hierarchies) + f"700 507 0:6 /null /dev/null {device}\n"
    remapped = seen(mountinfo=text.encode(), gid_map=b"0 200000 65536\n")
    host = outside(remapped)
    groups = {"Gid": "\t".join(["201000"] * 4), "Groups": "201000"}
    host = attrs.evolve(host, status={**host.status, **groups})
    assert found(judge(policy, remapped, host, OURS)) == ""
    unmapped = seen(mountinfo=text.encode(), gid_map=WHOLE)
    assert "mount /dev/null" in found(judge(policy, unmapped, None, None))


def test_cgroup_2_is_writable_for_remapped_users_only(policy: HardeningPolicy) -> None:
    """As engines mount it that map users; what the host maps to nobody owns nothing in it."""
    text = MOUNTS.replace(f"/sys/fs/cgroup {_READ_ONLY}", f"/sys/fs/cgroup {_FLAGS}").encode()
    assert text != MOUNTS.encode()
    remapped = seen(mountinfo=text, gid_map=b"0 200000 65536\n")
    assert found(judge(policy, remapped, None, None)) == ""
    unmapped = seen(mountinfo=text, gid_map=WHOLE)
    assert "mount /sys/fs/cgroup" in found(judge(policy, unmapped, None, None))


def test_a_kernel_that_is_not_known_here(policy: HardeningPolicy) -> None:
    """An engine on another host: only what every kernel has must be hidden."""
    for point, told in (("/proc/kcore", False), ("/proc/interrupts", True), ("/proc/sys", True)):
        report = parse_report(encode({**GOOD, "/proc/self/mountinfo": without_mount(point)["mountinfo"]}))
        assert (point in found(judge(policy, report, None, None))) == told


def test_what_this_kernel_has() -> None:
    assert kernel_has(["/proc/sys", "/proc/no-such-file", "/sys"]) == {"/proc/sys", "/sys"}


def test_namespaces_of_the_supervisor(policy: HardeningPolicy) -> None:
    text = found(judge(policy, seen(), outside(seen()), {**OURS, "ipc": "ipc:[2]"}))
    assert text.startswith("host namespace ipc")


def test_what_is_gone_without_is_not_looked_at(policy: HardeningPolicy) -> None:
    bare = seen(current=-22, landlock=b"\0\0\0\0", ptmx=0, uid_map=WHOLE, gid_map=WHOLE)
    host = attrs.evolve(outside(bare), status=bare.status)
    without = frozenset({Measure.APPARMOR, Measure.LANDLOCK, Measure.USERNS})
    assert found(judge(policy, bare, host, OURS)).count("\n") >= 3
    verdict = judge(attrs.evolve(policy, without=without), bare, host, {**OURS, "user": "user:[2]"})
    assert found(verdict) == ""
    assert not without & verdict.verified.keys()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"x\0",
        b"x\0\0\0\0\5abc",
        encode(GOOD)[:-1],
        encode(GOOD) + b"landlock\0\0\0\0\0",
        encode({name: value for name, value in GOOD.items() if name != "landlock"}),
        encode({name: value for name, value in GOOD.items() if name != "/proc/self/status"}),
        encode({**GOOD, "memfd_create": b"x"}),
        encode({name: value for name, value in GOOD.items() if name != "/proc/self/ns/net"}),
        encode({**GOOD, "/proc/self/mountinfo": b"garbage"}),
        encode({**GOOD, "/proc/self/limits": b"head\nMax open files\n"}),
        encode({**GOOD, "/proc/self/uid_map": b"0 x 1"}),
        encode({**GOOD, "/proc/self/status": b"\xff\xfe"}),
        encode({**GOOD, "/proc/self/status": -13}),
        encode({**GOOD, "landlock": b"7"}),
    ],
    ids=range(16),
)
def test_malformed_reports(payload: bytes) -> None:
    with pytest.raises(SandboxError, match="the gate's report"):
        parse_report(payload)


def test_an_older_gate() -> None:
    with pytest.raises(SandboxError, match=r"lacks memfd_create \(its kernel"):
        parse_report(encode({name: value for name, value in GOOD.items() if name != "memfd_create"}))


class LyingEngine(EngineBetween):
    """The real engine, which leaves something out of what it was asked for, and says that it did not."""

    def __init__(self, real: httpx.AsyncBaseTransport) -> None:
        super().__init__(real)
        self.leave_out: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/containers/create"):
            body = json.loads(await request.aread())
            self.asked = body["HostConfig"]
            changed = {**body, "HostConfig": {**body["HostConfig"], **self.leave_out}}
            content = json.dumps(changed).encode()
            headers = {**request.headers, "content-length": str(len(content))}
            request = httpx.Request(
                request.method, request.url, headers=headers, content=content, extensions=request.extensions
            )
        response = await self.real.handle_async_request(request)
        if not self.shows_container(request):
            return response
        body = await self.body_of(response)
        if response.status_code == 200:
            body["HostConfig"] |= {name: self.asked.get(name) for name in [*self.leave_out, "SecurityOpt"]}
        return self.answer(response.status_code, body)


@pytest.fixture
async def lying(hardened: DockerProvider) -> AsyncIterator[LyingEngine]:
    async with put_between(hardened, LyingEngine) as engine:
        yield engine


@pytest.mark.engine
@pytest.mark.parametrize(
    ("left_out", "complaint"),
    [
        ({"CapDrop": None}, "inside CapBnd"),
        ({"SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]}, "inside Seccomp"),
        ({"ReadonlyRootfs": False}, "inside mount /:"),
        ({"PidsLimit": 0}, "inside cgroup limit pids"),
        ({"Memory": 0, "MemorySwap": 0}, "inside cgroup limit memory"),
        ({"NanoCpus": 0}, "inside cgroup limit cpu"),
        ({"Ulimits": None}, "inside Max open files"),
        ({"MaskedPaths": []}, "inside /proc/interrupts: .proc. instead of .hidden"),
        ({"ReadonlyPaths": []}, "inside /proc/sys: .* instead of .read-only"),
        ({"GroupAdd": ["27"]}, "inside Groups: .*27.* instead of"),
        # An engine that remaps users cannot even do it.
        ({"IpcMode": "host"}, "host namespace ipc|could not start"),
        ({"CgroupnsMode": "host"}, "host namespace cgroup"),
        ({"ShmSize": 64 << 20}, "inside size of /dev/shm"),
        ({"Tmpfs": {"/tmp": "rw,exec,size=64m", "/run": "rw", "/home/appuser/.ably": "rw"}}, "mount /tmp"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_an_engine_that_lies_is_caught(
    hardened: DockerProvider, lying: LyingEngine, left_out: dict[str, Any], complaint: str
) -> None:
    lying.leave_out = left_out
    with trio.fail_after(LIMIT):
        with pytest.raises(SandboxError, match=complaint):
            async with hardened.lease(TRUE):
                raise AssertionError
        await hardened.containers.pending.drain(30)


@pytest.mark.engine
async def test_a_filter_of_the_engines_own(request: pytest.FixtureRequest) -> None:
    """It was not given ours and applies what it applies to everybody. Those of older engines refuse Landlock,
    which is gone without here."""
    settings = docker_settings(request, hardening_without=sorted({*opt_outs(), "landlock"}))
    with trio.fail_after(LIMIT):
        async with (
            open_docker_provider(settings, verify=False) as provider,
            put_between(provider, LyingEngine) as engine,
        ):
            engine.leave_out = {"SecurityOpt": ["no-new-privileges:true"]}
            with pytest.raises(SandboxError, match=r"inside memfd_create: .EINVAL. instead of .EPERM"):
                async with provider.lease(TRUE):
                    raise AssertionError
            await provider.containers.pending.drain(30)


def test_what_the_profile_is_known_by(policy: HardeningPolicy) -> None:
    assert "memfd_create" not in policy.seccomp.named


@pytest.mark.engine
async def test_no_new_privileges_left_out(hardened: DockerProvider, lying: LyingEngine) -> None:
    """Landlock needs it too, so the gate cannot even confine itself."""
    profile = next(option for option in hardened.containers.policy.security_options if "seccomp" in option)
    lying.leave_out = {"SecurityOpt": [profile]}
    with trio.fail_after(LIMIT), pytest.raises(SandboxError):
        async with hardened.lease(TRUE):
            raise AssertionError


@pytest.mark.engine
@pytest.mark.parametrize("transport", ["lifeline", "attach"])
async def test_every_lease_is_looked_at(request: pytest.FixtureRequest, transport: str) -> None:
    settings = docker_settings(request, transport=transport)
    with trio.fail_after(LIMIT):
        async with (
            open_docker_provider(settings, verify=False) as provider,
            provider.prepare(60, "test") as sandbox,
        ):
            assert sandbox.verified[Measure.CAPABILITIES] == ("inside", "host")
            assert sandbox.verified[Measure.LANDLOCK] == ("inside",)
    assert set(opt_outs()) & set(map(str, sandbox.verified)) == set()


@pytest.mark.engine
async def test_a_sandbox_that_changed_while_it_waited(
    hardened: DockerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(LIMIT):
        async with hardened.prepare(60, "test") as sandbox:
            with monkeypatch.context() as patch:
                patch.setattr(inside_module, "glance", lambda pid: "CapEff:\t1")
                with pytest.raises(HardeningError, match="changed while it waited"):
                    async with sandbox.claim(TRUE):
                        raise AssertionError
