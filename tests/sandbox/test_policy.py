"""The policy as a value: what it asks for, word by word, and that no difference goes unnoticed."""

import copy
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from supervisor.errors import ConfigurationError
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox.identity import LABEL_DEADLINE, LABEL_PRODUCT, this_process
from supervisor.sandbox.image import ImageFacts, facts_of, find_user
from supervisor.sandbox.policy import Difference, HardeningPolicy, Mount
from supervisor.sandbox.runtimes import Runtime
from supervisor.sandbox.seccomp import load_profile
from supervisor.settings import Settings
from supervisor.settings.knob import MIB

IMAGE = ImageFacts(
    id="sha256:abc",
    name="image:latest",
    user="appuser",
    uid=1000,
    gid=1000,
    home="/home/appuser",
    path="/usr/bin:/bin",
    other_environment=("LANG=C.UTF-8",),
    command=("shell",),
    labels={"from": "the image"},
    exposed_ports=("80/tcp",),
)
MOUNTS = [Mount("/host/gate", "/gate")]
LABELS = {LABEL_PRODUCT: "session"}


@pytest.fixture(scope="module")
def policy() -> HardeningPolicy:
    return HardeningPolicy.from_settings(
        Settings(hardening_without=("apparmor",)),
        IMAGE,
        load_profile(docker_directory() / "seccomp.json"),
        Runtime("runc"),
    )


@pytest.fixture
def created(policy: HardeningPolicy) -> dict[str, Any]:
    return policy.to_create_config(["/gate", "/socket"], labels=LABELS, mounts=MOUNTS)


def obedient_engine(created: dict[str, Any]) -> dict[str, Any]:
    """What an engine answers that did all that it was asked to, in the ways of engine 20.10."""
    created = copy.deepcopy(created)
    host = created.pop("HostConfig")
    nothing: dict[str, Any] = {
        "Binds": None,
        "CapAdd": None,
        "Devices": None,
        "DeviceRequests": None,
        "PortBindings": {},
        "VolumesFrom": None,
        "ConsoleSize": [0, 0],
        "ExtraHosts": None,
        "GroupAdd": None,
        "Links": None,
        "Isolation": "",
        "KernelMemory": 0,
        "OomScoreAdj": 0,
        "PublishAllPorts": False,
        "UsernsMode": "",
        "UTSMode": "",
        "CgroupParent": "",
        "Sysctls": None,
        "MemorySwappiness": None,
        "ContainerIDFile": "",
    }
    return {
        "Image": "sha256:abc",
        "Path": "/gate",
        "Args": ["/socket"],
        "State": {"Pid": 1234},
        "AppArmorProfile": "",
        "Config": {
            **created,
            "Cmd": None,
            "Env": [*created["Env"], "LANG=C.UTF-8"],
            "Labels": {"from": "the image", **created["Labels"]},
            "ExposedPorts": {"80/tcp": {}},
            "Volumes": None,
            "OnBuild": None,
        },
        "HostConfig": {**nothing, **host},
        "Mounts": [{"Type": "bind", "Source": "/host/gate", "Destination": "/gate", "RW": False, "Mode": ""}],
        "NetworkSettings": {"Networks": {"ably_cli_restricted": {"IPAddress": "10.0.0.2"}}},
    }


def test_every_measure_is_asked_for(created: dict[str, Any]) -> None:
    host = created["HostConfig"]
    assert created["User"] == "1000:1000"
    assert created["Env"] == ["PATH=/usr/bin:/bin"]
    assert created["Hostname"] == "sandbox"
    assert created["StopSignal"] == "SIGTERM"
    assert created["Healthcheck"] == {"Test": ["NONE"]}
    assert (created["Tty"], created["OpenStdin"]) == (False, False)
    assert host["ReadonlyRootfs"] is True
    base = "rw,noexec,nosuid,nodev"
    assert host["Tmpfs"] == {
        "/tmp": f"{base},size={64 * MIB},mode=1777",
        "/run": f"{base},size={32 * MIB},mode=0755,uid=1000,gid=1000",
        "/home/appuser/.ably": f"{base},size={10 * MIB},mode=0700,uid=1000,gid=1000",
    }
    assert host["Memory"] == host["MemorySwap"] == 256 * MIB
    assert host["OomKillDisable"] is False
    assert host["NanoCpus"] == 1_000_000_000
    assert host["PidsLimit"] == 50
    assert {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]} == {
        "core": (0, 0),
        "fsize": (64 * MIB, 64 * MIB),
        "nofile": (512, 512),
        "sigpending": (128, 128),
    }
    assert set(host["CapDrop"]) == {
        "ALL",
        "DAC_OVERRIDE",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SYS_ADMIN",
        "SYS_MODULE",
        "SYS_PTRACE",
    }
    assert host["SecurityOpt"][0] == "no-new-privileges:true"
    assert host["SecurityOpt"][1].startswith('seccomp={"defaultAction":"SCMP_ACT_ERRNO"')
    assert (host["IpcMode"], host["PidMode"], host["CgroupnsMode"]) == ("private", "", "private")
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert host["AutoRemove"] is True
    assert host["LogConfig"] == {"Type": "none", "Config": {}}
    assert host["NetworkMode"] == "ably_cli_restricted"
    assert host["Privileged"] is False
    assert host["Mounts"] == [
        {
            "Type": "bind",
            "Source": "/host/gate",
            "Target": "/gate",
            "ReadOnly": True,
            "BindOptions": {"Propagation": "rprivate"},
        }
    ]


def test_the_settings_are_heeded() -> None:
    settings = Settings(
        memory_limit=100 * MIB,
        cpu_limit=0.5,
        pids_limit=20,
        tmpfs_size=MIB,
        config_size=200 * MIB,
        config_directory="/data",
        network="other",
    )
    profile = load_profile(docker_directory() / "seccomp.json")
    policy = HardeningPolicy.from_settings(settings, IMAGE, profile, Runtime("runsc"))
    host = policy.to_create_config(["/gate"], labels={}, tty=True)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (100 * MIB, 500_000_000, 20)
    assert "size=209715200" in host["Tmpfs"]["/data"]
    assert (host["NetworkMode"], host["Runtime"]) == ("other", "runsc")
    assert policy.ulimits["fsize"] == 200 * MIB


def test_obedience_is_no_difference(policy: HardeningPolicy, created: dict[str, Any]) -> None:
    assert policy.compare(created, obedient_engine(created)) == []


def test_other_spellings_are_no_difference(policy: HardeningPolicy, created: dict[str, Any]) -> None:
    answer = obedient_engine(created)
    host = answer["HostConfig"]
    host["CapDrop"] = [f"CAP_{name}" for name in reversed(host["CapDrop"])]
    host["SecurityOpt"] = host["SecurityOpt"][::-1]
    host["OomKillDisable"] = None
    host["Ulimits"] = host["Ulimits"][::-1]
    host["Binds"] = []
    assert policy.compare(created, answer) == []


def _changed(value: Any) -> Any:
    """Return something else of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, dict):
        return {**value, "other": "thing"}
    return [*value, "other"] if not value or isinstance(value[0], str) else value[1:]


def test_no_field_can_differ_unnoticed(policy: HardeningPolicy, created: dict[str, Any]) -> None:
    host_keys = created["HostConfig"].keys()
    for section, keys in (("HostConfig", host_keys), ("Config", created.keys() - {"HostConfig"})):
        for key in keys:
            answer = obedient_engine(created)
            asked = created["HostConfig"] if section == "HostConfig" else created
            answer[section][key] = _changed(
                asked[key] if answer[section][key] is None else answer[section][key]
            )
            assert [each.field for each in policy.compare(created, answer)] == [f"{section}.{key}"]
            del answer[section][key]
            missing = policy.compare(created, answer)
            assert bool(missing) == bool(asked[key]), key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Privileged", True),
        ("CapAdd", ["SYS_ADMIN"]),
        ("Devices", [{"PathOnHost": "/dev/kvm"}]),
        ("DeviceCgroupRules", ["a *:* rwm"]),
        ("Binds", ["/:/host"]),
        ("VolumesFrom", ["other"]),
        ("PortBindings", {"80/tcp": [{"HostPort": "80"}]}),
        ("PublishAllPorts", True),
        ("UsernsMode", "host"),
        ("UTSMode", "host"),
        ("PidMode", "host"),
        ("IpcMode", "host"),
        ("CgroupnsMode", "host"),
        ("NetworkMode", "host"),
        ("CgroupParent", "/other"),
        ("GroupAdd", ["0"]),
        ("ExtraHosts", ["a:1.2.3.4"]),
        ("Sysctls", {"net.ipv4.ip_forward": "1"}),
        ("OomKillDisable", True),
        ("OomScoreAdj", -1000),
        ("PidsLimit", 0),
        ("MemorySwap", -1),
        ("SecurityOpt", ["seccomp=unconfined"]),
        ("ConsoleSize", [24, 80]),
        ("AnOptionOfTomorrow", "on"),
    ],
)
def test_what_was_not_asked_for_is_a_difference(
    policy: HardeningPolicy, created: dict[str, Any], key: str, value: object
) -> None:
    answer = obedient_engine(created)
    answer["HostConfig"][key] = value
    (difference,) = policy.compare(created, answer)
    assert difference.field == f"HostConfig.{key}"


def _volume(answer: dict[str, Any]) -> None:
    answer["Mounts"].append({"Type": "volume", "Source": "/var/lib/x", "Destination": "/data", "RW": True})


def _writable(answer: dict[str, Any]) -> None:
    answer["Mounts"][0]["RW"] = True


def _other_network(answer: dict[str, Any]) -> None:
    answer["NetworkSettings"]["Networks"]["bridge"] = {}


def _other_image(answer: dict[str, Any]) -> None:
    answer["Image"] = "sha256:def"


def _other_program(answer: dict[str, Any]) -> None:
    answer["Path"] = "/bin/sh"


def _unconfined(answer: dict[str, Any]) -> None:
    answer["AppArmorProfile"] = "unconfined"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_volume, "Mounts"),
        (_writable, "Mounts"),
        (_other_network, "Networks"),
        (_other_image, "Image"),
        (_other_program, "Command"),
        (_unconfined, "AppArmorProfile"),
    ],
)
def test_what_the_container_became_is_compared(
    policy: HardeningPolicy, created: dict[str, Any], change: Callable[[dict[str, Any]], None], field: str
) -> None:
    answer = obedient_engine(created)
    change(answer)
    assert [each.field for each in policy.compare(created, answer)] == [field]


def test_a_warning_is_a_difference(policy: HardeningPolicy, created: dict[str, Any]) -> None:
    warning = "Your kernel does not support swap limit capabilities"
    (difference,) = policy.compare(created, obedient_engine(created), [warning])
    assert difference.field == "Warnings"
    assert warning in str(difference)


def test_an_empty_answer_differs_in_everything(policy: HardeningPolicy, created: dict[str, Any]) -> None:
    fields = {each.field for each in policy.compare(created, {})}
    assert {"HostConfig.ReadonlyRootfs", "HostConfig.CapDrop", "Config.User", "Image", "Networks"} <= fields


def test_differences_are_shown_briefly() -> None:
    assert str(Difference("a.b", True, False)) == "a.b: false instead of true"
    assert len(str(Difference("a", "x" * 20_000, "y"))) < 200


def test_nobody_can_change_a_policy(policy: HardeningPolicy) -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy.memory = 0  # type: ignore[misc]


PASSWD = "root:x:0:0:root:/root:/bin/sh\nappuser:x:1001:1002::/home/appuser:/bin/sh\nbroken\n7:x:7:7:::\n"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("appuser", ("appuser", 1001, 1002, "/home/appuser")),
        ("1001", ("appuser", 1001, 1002, "/home/appuser")),
        ("appuser:50", ("appuser", 1001, 50, "/home/appuser")),
        ("1500:1600", ("1500", 1500, 1600, "/default")),
        ("1500", ("1500", 1500, 1500, "/default")),
    ],
)
def test_users_that_can_be_had(wanted: str, found: tuple[str, int, int, str]) -> None:
    assert find_user(wanted, PASSWD, "/default") == found


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ("", "names no user"),
        ("root", "never run as root"),
        ("0", "never run as root"),
        ("0:1000", "never run as root"),
        ("1000:0", "never run as root"),
        ("nosuch", "no such user"),
        ("appuser:staff", "must be a number"),
        ("99999999999", "too large"),
    ],
)
def test_users_that_cannot(wanted: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        find_user(wanted, PASSWD, "/default")


def test_what_an_image_declares() -> None:
    config = {
        "User": "appuser",
        "Env": ["LANG=C", "PATH=/opt/bin:/bin", "LD_PRELOAD=/evil.so"],
        "Entrypoint": ["/entry"],
        "Cmd": ["-x"],
        "Labels": None,
    }
    facts = facts_of("image", "sha256:1", config, PASSWD, Settings())
    assert (facts.uid, facts.gid, facts.home) == (1001, 1002, "/home/appuser")
    assert facts.path == "/opt/bin:/bin"
    assert facts.command == ("/entry", "-x")
    assert set(facts.other_environment) == {"LANG=C", "LD_PRELOAD=/evil.so"}


def test_all_that_is_wrong_with_an_image_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        facts_of("image", "sha256:1", {"Volumes": {"/data": {}, "/more": {}}}, "", Settings())
    assert all(
        part in str(caught.value) for part in ("image image", "VOLUME /data", "VOLUME /more", "names no user")
    )


def test_every_process_is_another_instance_of_the_same_machine() -> None:
    one, other = this_process(), this_process()
    assert one.instance != other.instance
    assert (one.machine, one.boot) == (other.machine, other.boot)
    assert len(one.machine) == 32


def test_labels_and_names() -> None:
    identity = this_process()
    labels = identity.labels("session", 100)
    assert labels[LABEL_PRODUCT] == "session"
    assert abs(int(labels[LABEL_DEADLINE]) - time.time() - 100) < 5
    names = {identity.new_name() for _ in range(100)}
    assert len(names) == 100
