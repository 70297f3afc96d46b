"""The allow list in the image: an odd file allows nothing, and the shell says why it does not start."""

import os
from pathlib import Path

import attrs
import pytest

from supervisor.provision.compiler import compile_static, docker_directory
from supervisor.provision.shell import COMMANDS_FILE

from .driver import Shell

NAMES = "a name is not 1 to 64 letters, digits, '_', '.', '+' and '-' (the last three not first)"


@attrs.frozen
class Built:
    """A shell that reads its list from `file`."""

    binary: Path
    file: Path


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The path is compiled in, so the sources get another one: there is no option by which a user could."""
    directory = tmp_path_factory.mktemp("allow")
    built = Built(directory / "shell", directory / "commands")
    for source in (docker_directory() / "shell").glob("*.[ch]"):
        text = source.read_text()
        if source.name == "commands.h":
            assert f'"{COMMANDS_FILE}"' in text
            text = text.replace(COMMANDS_FILE, str(built.file))
        (directory / source.name).write_text(text)
    compile_static(sorted(directory.glob("*.[ch]")), built.binary, freestanding=False)
    return built


@pytest.fixture
def built(_built: Built) -> Built:
    """The same, with no file there."""
    if _built.file.is_dir():
        _built.file.rmdir()
    _built.file.unlink(missing_ok=True)
    return _built


def allowed(binary: Path) -> list[str]:
    """Start the shell; return what its help lists, without its own commands."""
    with Shell(binary) as shell:
        names = [line.split()[0] for line in shell.run("help").splitlines() if line.startswith("  ")]
        return [name for name in names if name not in {"clear", "exit", "help"}]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"ably\n", ["ably"]),
        (b"printf\nably\n", ["ably", "printf"]),
        (b"ably", ["ably"]),
        (b"ably\r\nprintf\r\n", ["ably", "printf"]),
        (b"  ably  \n\tprintf\t\n", ["ably", "printf"]),
        (b"# all\nably # the CLI\n\n#printf\n", ["ably"]),
        (b"ably\nably\nexit\nhelp\n", ["ably"]),
        (b"", []),
        (b"# nothing\n\n   \n", []),
    ],
)
def test_files_that_are_understood(built: Built, content: bytes, names: list[str]) -> None:
    built.file.write_bytes(content)
    assert allowed(built.binary) == names


def test_without_a_file_there_is_ably(built: Built) -> None:
    assert allowed(built.binary) == ["ably"]


def test_an_option_takes_the_place_of_the_file(built: Built) -> None:
    built.file.write_bytes(b"../../bin/sh\n")
    with Shell(built.binary, ["--allow", "printf"]) as shell:
        assert shell.run("printf fine") == "fine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ably\n/bin/sh\n", NAMES),
        (b"ably\n../sh\n", NAMES),
        (b"..\n", NAMES),
        (b".\n", NAMES),
        (b"ably printf\n", NAMES),
        (b"ably,printf\n", NAMES),
        (b"ably;sh\n", NAMES),
        (b"ably\0\n", NAMES),
        (b"\0", NAMES),
        (b"ably\n\0sh\n", NAMES),
        (b"-c\n", NAMES),
        (b"*\n", NAMES),
        (b"\xef\xbb\xbfably\n", NAMES),
        (b"n\xe4me\n", NAMES),
        (b"a\x0bb\n", NAMES),
        (b"x" * 65 + b"\n", NAMES),
        (b"".join(b"n%d\n" % number for number in range(257)), "more than 256 names"),
        (b"#" * 16385, "is larger than 16384 bytes"),
        (b"ably\n" * 10_000, "is larger than 16384 bytes"),
    ],
)
def test_files_that_are_not_understood(built: Built, content: bytes, message: str) -> None:
    built.file.write_bytes(content)
    refused(built, message)


def refused(built: Built, message: str) -> None:
    with Shell(built.binary, columns=200, emulated=False) as shell:
        shell.wait_for_output(f"restricted-shell: {built.file}: {message}\r\n".encode())
        assert shell.wait_for_exit() == 2


def test_a_directory_in_its_place(built: Built) -> None:
    built.file.mkdir()
    refused(built, "is not a regular file")


def test_a_fifo_in_its_place_does_not_block(built: Built) -> None:
    os.mkfifo(built.file)
    refused(built, "is not a regular file")


def test_a_device_in_its_place(built: Built) -> None:
    built.file.symlink_to("/dev/zero")
    refused(built, "is not a regular file")


def test_a_link_in_a_circle_in_its_place(built: Built) -> None:
    built.file.symlink_to(built.file)
    refused(built, "cannot be read")


def test_a_link_to_nothing_is_no_file(built: Built) -> None:
    built.file.symlink_to("/nonexistent/commands")
    assert allowed(built.binary) == ["ably"]
