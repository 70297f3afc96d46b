"""AppArmor's profiles: what they say, and what no image can make them say.

What they do is shown where a kernel has AppArmor: `tests/vm`.
"""

import subprocess
from pathlib import Path

import attrs
import pytest
import trio

from sandbox.conftest import docker_settings
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.measures import Measure
from supervisor.sandbox import apparmor_command
from supervisor.sandbox.apparmor import (
    GATE_PROFILE,
    SessionProfile,
    made_for,
    make_session_profile,
    pattern,
    profile_file,
)
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.identity import this_process
from supervisor.sandbox.image import read_image
from supervisor.sandbox.programs import list_programs
from supervisor.settings import Settings

LIMIT = 90.0
PROFILE = SessionProfile(
    image="image:latest sha256:abc",
    read=("/etc", "/home/appuser"),
    run=("/usr", "/bin"),
    execute=("/usr/bin/bash", "/usr/bin/["),
    write=("/tmp", "/run", "/home/appuser/.ably"),
)


def compiled(parser: str, text: str) -> subprocess.CompletedProcess[bytes]:
    """Compile for no kernel in particular, and load nothing."""
    return subprocess.run(
        [
            *(parser, "--skip-kernel-load", "--skip-cache", "--stdout", "--Werror"),
            *("--kernel-features", "/etc/apparmor.d/abi/3.0"),
        ],
        input=text.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )


def rules(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")}


def test_what_a_profile_says() -> None:
    said = rules(str(PROFILE))
    assert f"profile {PROFILE.name} flags=(mediate_deleted) {{" in said
    assert {"/usr/bin/bash mrix,", "/usr/bin/? mrix,", "/usr/** mr,", "/etc/** r,"} <= said
    assert {"/tmp/** rwkl,", "/home/appuser/.ably/** rwkl,"} <= said
    assert {"deny /dev/ptmx mrwklx,", "audit deny mount,", "audit deny ptrace (trace, tracedby),"} <= said
    assert not any("change_profile" in rule or "attr" in rule for rule in said), "it is for ever"
    executing = {rule for rule in said if "x," in rule and "deny" not in rule}
    assert executing == {"/usr/bin/bash mrix,", "/usr/bin/? mrix,"}, "nothing but what is listed"


def test_the_gates_profile_allows_what_sessions_need_and_the_gate_does() -> None:
    other = attrs.evolve(PROFILE, execute=("/usr/bin/node",), write=("/tmp", "/var/config"))
    text = profile_file([PROFILE, other, PROFILE])
    head, gate, first, second = text.split("\nprofile ")
    assert "abi <abi/3.0>," in head
    said = rules(gate)
    allowed = {rule for rule in rules(first) | rules(second) if "deny" not in rule and rule[0] == "/"}
    assert allowed <= said, "under both profiles only what both allow is allowed"
    assert {"change_profile -> &ably-cli-sandbox-session-*,", "/dev/pts/ptmx rw,"} <= said
    assert any(rule.startswith("signal (receive) peer={unconfined") for rule in said)
    assert gate.startswith(GATE_PROFILE)
    assert {first.split()[0], second.split()[0]} == {PROFILE.name, other.name}


def test_its_name_tells_what_it_allows() -> None:
    assert PROFILE.name == attrs.evolve(PROFILE).name
    changes = [
        {"image": "image:latest sha256:def"},
        {"execute": ("/usr/bin/bash",)},
        {"write": ("/tmp",)},
        {"run": ("/usr",)},
        {"read": ("/etc",)},
    ]
    names = {attrs.evolve(PROFILE, **change).name for change in changes}  # type: ignore[arg-type]
    assert len({PROFILE.name, *names}) == 6
    assert all(len(name) == len("ably-cli-sandbox-session-") + 16 for name in names)


@pytest.mark.parametrize(
    "name",
    [
        "/usr/bin/x ix,\n/** rwix,\n#",
        '/usr/bin/" rwx, /** rwx, "',
        "/usr/bin/{a,b}",
        "/usr/bin/*",
        "/usr/bin/[^a]",
        "/usr/bin/@{HOME}",
        "/usr/bin/$both",
        "/usr/bin/#include <abstractions/base>",
        "/usr/bin/back\\slash",
        "/usr/bin/}\nprofile x { /** rwix, }",
        "/usr/bin/\udcff\udcfe",
        "/usr/bin/\N{SNOWMAN}",
        "/usr/bin/,",
        "/usr/bin/a,b",
    ],
)
def test_names_of_files_are_no_rules(name: str, parser: str) -> None:
    hostile = attrs.evolve(PROFILE, execute=(name,), image=name)
    text = profile_file([hostile])
    assert len(rules(text)) == len(rules(profile_file([attrs.evolve(PROFILE, execute=("/usr/bin/x",))])))
    assert pattern(name).count("?") == sum(
        not (chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "/._+%:=~-"))
        for byte in name.encode(errors="surrogateescape")
    )
    done = compiled(parser, text)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 1000


def test_the_parser_takes_a_large_image(parser: str) -> None:
    many = attrs.evolve(PROFILE, execute=tuple(f"/usr/lib/package-{n}/bin/tool-{n % 7}" for n in range(1000)))
    done = compiled(parser, profile_file([PROFILE, many]))
    assert done.returncode == 0, done.stderr


def test_the_parser_would_complain(parser: str) -> None:
    assert compiled(parser, profile_file([PROFILE]).replace("mrix", "mriz")).returncode != 0


def test_the_file_tells_what_it_was_made_for() -> None:
    hostile = attrs.evolve(PROFILE, image="x\n#: []", execute=("/usr/bin/\udcff\N{SNOWMAN}",))
    text = profile_file([PROFILE, hostile])
    assert made_for(text) == (PROFILE, hostile)
    assert profile_file(made_for(text)) == text
    for broken in ("", "#: {", "#: [1]", '#: [{"image": "x", "rights": ["all"]}]', "#: {}{}"):
        with pytest.raises(ValueError):
            made_for(f"{broken}\nprofile x {{ }}\n")


@pytest.mark.engine
async def test_the_programs_of_an_image(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    settings = docker_settings(request, state=tmp_path)
    with trio.fail_after(LIMIT):
        async with Docker(settings.docker_host) as docker:
            image = await read_image(docker, settings, this_process())
            profile = await make_session_profile(docker, settings, image, this_process())
        assert {"/usr/bin/bash", "/usr/bin/ls", "/usr/bin/vim.tiny"} <= set(profile.execute)
        assert "/usr/bin/sh" not in profile.execute, "a link: the kernel asks for what it leads to"
        assert not [each for each in profile.execute if ".so" in each or "terminal-supervisor/gate" in each]
        # The engine need not be asked twice.
        nobody = Docker("unix:///nonexistent")
        async with nobody:
            again = await list_programs(nobody, image, profile.run, this_process(), tmp_path)
        assert again == profile.execute


@pytest.mark.engine
async def test_the_gate_stacks_what_the_policy_says(hardened: DockerProvider) -> None:
    """On a kernel that has no AppArmor, or not this profile, there is no session without it."""
    policy = hardened.containers.policy
    assert "--stack" not in policy.gate_arguments or Measure.APPARMOR not in policy.without
    hardened.containers.policy = attrs.evolve(policy, session_profile="ably-cli-sandbox-session-none")
    assert hardened.containers.policy.gate_arguments[:2] == ["--stack", "ably-cli-sandbox-session-none"]
    with trio.fail_after(LIMIT), pytest.raises(SandboxError):
        async with hardened.prepare(10):
            raise AssertionError


async def test_loading_takes_apparmor_and_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor_command, "kernel_has_apparmor", lambda: False)
    with pytest.raises(ConfigurationError, match="has no AppArmor"):
        await apparmor_command.install_profiles(Settings())
    monkeypatch.setattr(apparmor_command, "kernel_has_apparmor", lambda: True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ConfigurationError, match="needs root"):
        await apparmor_command.install_profiles(Settings())
    with pytest.raises(ConfigurationError, match="needs root"):
        await apparmor_command.remove_profiles()
    with pytest.raises(ConfigurationError, match="needs root"):
        async with apparmor_command.profile_loaded(PROFILE):
            raise AssertionError
