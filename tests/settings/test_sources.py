import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from supervisor.cli import main
from supervisor.errors import ConfigurationError
from supervisor.settings import Settings
from supervisor.settings.knob import allowed, written
from supervisor.settings.load import load_settings
from supervisor.settings.sources import load_effective

FIELDS = {field.metadata["env"]: field for field in attrs.fields(Settings)}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / ".env", tmp_path / "config.toml"


def test_who_wins(files: tuple[Path, Path]) -> None:
    env_file, config = files
    env_file.write_text("MAX_SESSIONS=3\nWARM_POOL_SIZE=3\nPORT=3\n")
    config.write_text("max_sessions = 4\nwarm_pool_size = 4\nport = 4\nmax_connections = 4\n")
    found = load_effective({"MAX_SESSIONS": "2", "PORT": "2"}, env_file, config, port=1)
    settings = found.settings
    assert (settings.port, settings.max_sessions, settings.warm_pool_size, settings.max_connections) == (
        1,
        2,
        3,
        4,
    )
    origins = [found.origins[name] for name in ("port", "max_sessions", "warm_pool_size", "max_connections")]
    assert origins == ["command line", "environment", str(env_file), str(config)]
    assert found.origins["host"] == "default"


def test_types_of_toml(files: tuple[Path, Path]) -> None:
    env_file, config = files
    config.write_text(
        'container_memory_limit = "512m"\ncontainer_cpu_limit = 0.5\ninsecure_plain_ws = true\n'
        'allowed_origins = ["https://a.example", "https://b.example"]\n'
        'session_command = ["sh", "-c", "a b"]\n'
        "auth_timeout_ms = 5000\n"
    )
    settings = load_effective({}, env_file, config).settings
    assert settings.memory_limit == 512 << 20
    assert settings.cpu_limit == 0.5
    assert settings.insecure_plain_ws
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.command == ("sh", "-c", "a b")
    assert settings.auth_timeout == 5


def test_everything_that_is_wrong_is_told_at_once(files: tuple[Path, Path]) -> None:
    env_file, config = files
    env_file.write_text("MAX_SESION=3\nSOMEBODY_ELSES=1\n")
    config.write_text('port = 70000\nprot = 1\ncontainer_pids_limit = {a = 1}\nallowed_hosts = ["a,b"]\n')
    environment = {"AUTH_TIMEOUT_MS": "5", "MAX_CONNECTIONS": "many", "CONTROL_MESSAGE_FORMAT": "odd"}
    with pytest.raises(ConfigurationError) as caught:
        load_effective(environment, env_file, config)
    text = str(caught.value)
    for expected in (
        "MAX_SESION: there is no such setting; MAX_SESSIONS is meant?",
        "prot: there is no such setting; port is meant?",
        "container_pids_limit: must be",
        "allowed_hosts: must be",
        "PORT=70000: must be 0 to 65535",
        "AUTH_TIMEOUT_MS=5: must be 100 to 120000",
        "MAX_CONNECTIONS='many'",
        "CONTROL_MESSAGE_FORMAT=odd: must be one of auto, prefixed, plain",
    ):
        assert expected in text
    assert "SOMEBODY_ELSES" not in text
    assert text.count("bad settings") == 1


@pytest.mark.parametrize("content", ["port = ", "\xff"])
def test_a_file_that_is_no_toml(files: tuple[Path, Path], content: str) -> None:
    files[1].write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError, match="--config"):
        load_effective({}, *files)


def test_a_file_that_is_not_there(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_effective({}, *files)


@pytest.mark.parametrize("name", FIELDS)
def test_what_is_written_means_the_value(name: str) -> None:
    field: Any = FIELDS[name]
    assert load_settings({name: written(field, field.default)}) == Settings()
    assert allowed(field) == "" or "to" in allowed(field) or "of" in allowed(field) or "or" in allowed(field)


def test_the_command_names_sources_and_masks_secrets(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file, config = files
    config.write_text('warm_pool_size = 0\nadmin_token = "planted-operators-token"\n')
    monkeypatch.setenv("PORT", "8081")
    assert main(["--env-file", str(env_file), "--config", str(config), "settings"]) == 0
    printed = capsys.readouterr().out
    assert "PORT=8081  # environment" in printed
    assert f"WARM_POOL_SIZE=0  # {config}" in printed
    assert f"ADMIN_TOKEN=(set)  # {config}" in printed
    assert "planted" not in printed
    assert "AUTH_TIMEOUT_MS=10000  # default" in printed


def test_the_command_fails_with_all_problems(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files[1].write_text("port = -1\nnothing = 1\n")
    assert main(["--env-file", str(files[0]), "--config", str(files[1]), "settings"]) == 78
    printed = capsys.readouterr().err
    assert "PORT=-1" in printed
    assert "nothing" in printed


def test_who_stops_reading_gets_no_traceback() -> None:
    """As `head` does."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "supervisor", "--env-file", "/dev/null", "settings"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
