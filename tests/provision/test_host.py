import os
from pathlib import Path

import pytest
import trio

from supervisor.errors import ConfigurationError
from supervisor.provision import host
from supervisor.provision.host import CommandError, Need, require, run


async def test_output_comes_back_and_line_by_line() -> None:
    lines: list[str] = []
    with trio.fail_after(10):
        output = await run(
            ["sh", "-c", "echo one; echo two >&2; printf three"], timeout=5, on_line=lines.append
        )
    assert output == "one\ntwo\nthree"
    assert lines == ["one", "two", "three"]


async def test_a_failure_has_the_last_lines() -> None:
    with trio.fail_after(10), pytest.raises(CommandError, match=r"status 3\)(.|\n)*line 40$") as caught:
        await run(["sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 3"], timeout=5)
    assert "line 10\n" not in str(caught.value)


async def test_a_command_that_hangs_is_killed() -> None:
    with trio.fail_after(10), pytest.raises(CommandError, match=r"did not end within 0\.2 s(.|\n)*waiting"):
        await run(["sh", "-c", "echo waiting; exec sleep 100"], timeout=0.2)


async def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match="no-such-program-here: no such program"):
        await run(["no-such-program-here"], timeout=5)


async def test_nothing_is_installed_when_nothing_is_missing() -> None:
    def fail(text: str) -> None:
        raise AssertionError(text)

    assert await require([Need("sh", ("dash",), "a shell"), Need("nope|env", ("x",), "either")], fail) == []


async def test_everything_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "can_install", lambda: False)
    needs = [
        Need("sh", ("dash",), "a shell"),
        Need("no-such-engine", ("docker.io", "common"), "the engine"),
        Need("no-such-browser|nor-this", ("chromium", "common"), "the browser"),
    ]
    with pytest.raises(ConfigurationError) as caught:
        await require(needs, print)
    text = str(caught.value)
    assert "no-such-engine: the engine" in text
    assert "no-such-browser: the browser" in text
    assert text.endswith("sudo apt-get install docker.io common chromium")
    assert "a shell" not in text


async def test_what_root_lacks_is_installed_in_one_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    async def install(packages: list[str], progress: object) -> None:
        asked.append(packages)
        for name in ("tool-one", "tool-two"):
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)

    monkeypatch.setattr(host, "SEARCH_PATH", f"{tmp_path}{os.pathsep}/bin")
    monkeypatch.setattr(host, "can_install", lambda: True)
    monkeypatch.setattr(host, "apt_install", install)
    needs = [Need("tool-one", ("one",), ""), Need("tool-two", ("two", "one"), "")]
    assert await require(needs, print) == ["one", "two"]
    assert asked == [["one", "two"]]
    with pytest.raises(ConfigurationError, match="installed, and still not there: tool-three"):
        await require([Need("tool-three", ("three",), "third")], print)


def test_services_are_kept_from_starting_only_where_nobody_supervises_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(host, "_POLICY", policy)
    systemd = Path("/run/systemd/system").exists()
    assert host.forbid_service_starts() is not systemd
    if not systemd:
        assert policy.read_text().endswith("exit 101\n")
        assert host.forbid_service_starts(), "one that an interrupted set-up left is taken over"
        policy.write_text("#!/bin/sh\nexit 0\n")
        assert not host.forbid_service_starts(), "somebody else's is left alone"
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"
