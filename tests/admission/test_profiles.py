"""Profiles: settings by name, from a file of the operator's."""

from pathlib import Path

import pytest

from supervisor.errors import ConfigurationError
from supervisor.profiles import read_profiles
from supervisor.settings import Settings
from supervisor.settings.knob import MIB


def settings(path: Path, text: str) -> Settings:
    file = path / "profiles.toml"
    file.write_text(text)
    return Settings(profiles=file, pids_limit=77)


def test_a_profile_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    text = """
        [python]
        DOCKER_IMAGE_NAME = "python:1"
        SESSION_COMMAND = "python3 -q"
        CONTAINER_MEMORY_LIMIT = "512m"
        CONTAINER_CPU_LIMIT = 0.5
        MAX_SESSION_DURATION_MS = 60000
        ALLOWED_COMMANDS = ["ls", "cat"]
        [plain]
    """
    profiles = read_profiles(settings(tmp_path, text))
    python, plain = profiles["python"], profiles["plain"]
    assert (python.image, python.command, python.memory_limit) == ("python:1", ("python3", "-q"), 512 * MIB)
    assert (python.cpu_limit, python.max_duration, python.allowed_commands) == (0.5, 60, ("ls", "cat"))
    assert python.pids_limit == plain.pids_limit == 77
    assert plain.image == Settings().image
    assert read_profiles(Settings()) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a]\nHOST = '0.0.0.0'", "HOST: no setting of a session"),
        ("[a]\nTERMINAL_SERVER_SIGNING_SECRET = 'x'", "no setting of a session"),
        ("[a]\nCONTAINER_PIDS_LIMIT = 1", "must be 4 to 32768"),
        ("[a]\nCONTAINER_MEMORY_LIMIT = 'much'", "must be a size"),
        ("[a]\nCONTAINER_PIDS_LIMIT = { x = 1 }", "must be text, a number or a list"),
        ("[A]\nCONTAINER_PIDS_LIMIT = 5", "lower-case"),
        ("a = 1", "a table of settings"),
        ("[a", "PROFILES_FILE"),
        ("\n".join(f"[p{n}]" for n in range(65)), "65 profiles"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        read_profiles(settings(tmp_path, text))


def test_all_that_is_wrong_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_profiles(settings(tmp_path, "[a]\nHOST = 'x'\nCONTAINER_PIDS_LIMIT = 'x'\n[B]\n"))
    assert all(part in str(caught.value) for part in ("[a] HOST", "CONTAINER_PIDS_LIMIT='x'", "[B]"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_profiles(Settings(profiles=tmp_path / "missing"))
