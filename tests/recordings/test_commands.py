"""`recordings` and `play`: what people see of recordings, and that playing one does nothing else."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.admin.recordings import find_recordings, play, print_recordings, read_recording
from supervisor.admin.safe_output import RESTORE
from supervisor.errors import ConfigurationError
from supervisor.protocol.asciicast import EventEncoder, Header, header_line
from supervisor.reaping.recordings import create_part, part_of
from supervisor.settings import Settings

NAME = "20260101T000000Z-0123456789abcdef.cast"


def content(*events: tuple[float, str, str], title: str = "session 0123456789abcdef, local") -> bytes:
    encoder = EventEncoder()
    lines = [line for when, code, data in events for line in encoder.encode(when, code, data.encode())]  # type: ignore[arg-type]
    return header_line(Header(80, 24, 1767225600, title)) + b"".join(lines)


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "supervisor", "--env-file", "/dev/null", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_finished_ones_those_being_written_and_those_left_behind(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content((1.0, "o", "hi"), (125.0, "m", "session ended: idle")))
    alive, left = tmp_path / f"3{NAME}", tmp_path / f"4{NAME}"
    descriptor = create_part(alive)
    os.write(descriptor, content((2.0, "o", "hi"))[:-1])
    part_of(left).write_bytes(content((3.0, "o", "hi")))
    for other in ("5" + NAME, "unrelated"):
        (tmp_path / other).write_text("no recording")
    found = [(each.file, each.seconds, each.state, each.ended) for each in find_recordings(tmp_path)]
    assert found == [
        (NAME, 125.0, "finished", "session ended: idle"),
        (f"3{NAME}.part", 0.0, "being written", None),
        (f"4{NAME}.part", 3.0, "left behind", None),
    ]
    os.close(descriptor)


def test_they_are_listed(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(
        content((1.0, "o", "hi"), (125.0, "m", "session ended: idle"), title="\x1b]0;evil\x07 [red]")
    )
    listed = command("recordings", RECORDING_DIRECTORY=str(tmp_path))
    assert listed.returncode == 0
    assert b"\x1b" not in listed.stdout
    for shown in (NAME, "2m", "session ended: idle", "?]0;evil? [red]"):
        assert shown in listed.stdout.decode()
    [one] = json.loads(command("recordings", "--json", RECORDING_DIRECTORY=str(tmp_path)).stdout)[
        "recordings"
    ]
    assert one == {
        "file": NAME,
        "title": "\x1b]0;evil\x07 [red]",
        "started": 1767225600,
        "seconds": 125.0,
        "bytes": (tmp_path / NAME).stat().st_size,
        "state": "finished",
        "ended": "session ended: idle",
    }


def test_where_nothing_can_be_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="RECORDING_DIRECTORY is not set"):
        print_recordings(Settings(), as_json=False)
    with pytest.raises(ConfigurationError, match="No such file"):
        print_recordings(Settings(recording_directory=tmp_path / "none"), as_json=False)


def test_one_is_played_into_a_file(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(
        content(
            (0.1, "o", "one\r\n"),
            (0.2, "i", "secret"),
            (0.2, "r", "90x30"),
            (0.2, "o", "\x1b]52;c;ZXZpbA==\x07\x1b[6n\x1b[?1000h\x1b[31mtwo"),
            (9.0, "m", "7 bytes were left out\x1b[6n"),
        )
    )
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "play", str(tmp_path / NAME), "--idle-limit", "0.1"],
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    shown = (tmp_path / "out").read_bytes()
    assert shown == b"one\r\n\x1b[31mtwo\r\n[7 bytes were left out?[6n]\r\n" + RESTORE


async def test_its_pace(autojump_clock: object, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import trio

    (tmp_path / NAME).write_bytes(content((1.0, "o", "a"), (61.0, "o", "b"), (62.0, "o", "c")))
    for speed, limit, seconds in ((1.0, 1e9, 62.0), (2.0, 1e9, 31.0), (1.0, 5.0, 7.0), (4.0, 2.0, 1.0)):
        began = trio.current_time()
        await play(tmp_path / NAME, speed=speed, idle_limit=limit)
        assert trio.current_time() - began == pytest.approx(seconds)
        assert capfd.readouterr().out.startswith("abc")


def test_on_a_terminal_it_ends_with_ctrl_c_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """What is typed meanwhile, or answered by the terminal, does not reach the shell that comes after."""
    (tmp_path / NAME).write_bytes(content((0.0, "o", "\x1b[?1049hwait"), (1000.0, "o", "never")))
    pid, terminal = pty.fork()
    if not pid:
        played = f"{sys.executable} -m supervisor --env-file /dev/null play {tmp_path / NAME}"
        os.execvp("sh", ["sh", "-c", f"trap : INT; {played}; echo st''atus $?; cat"])
    said = b""
    while b"wait" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, b"junk\r\x03")
    while b"status 0" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, b"\x04")
    while piece := _read(terminal):
        said += piece
    os.waitpid(pid, 0)
    os.close(terminal)
    assert RESTORE in said
    assert b"junk" not in said
    assert b"Traceback" not in said
    assert b"recorded at 80x24; this terminal has" in said


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: nobody has the other end any more
        return b""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"no recording\n", "no JSON"),
        (b'{"version": 1, "width": 80, "height": 24}\n', "no asciicast of version 2"),
        (content((1.0, "o", "a")) + b"[1]\n", "line 3: no event"),
        (content() + b"[1.0, " + b" " * (1 << 20) + b'"o", "a"]\n', "line 2: longer than"),
    ],
)
def test_what_is_no_recording(tmp_path: Path, text: bytes, problem: str) -> None:
    (tmp_path / "file").write_bytes(text)
    done = command("play", str(tmp_path / "file"))
    assert done.returncode == 78
    assert re.search(problem, done.stderr.decode())
    assert b"Traceback" not in done.stderr


def test_one_that_is_being_written_ends_at_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content((1.0, "o", "a"), (2.0, "o", "b"))[:-3])
    header, events = read_recording(tmp_path / "file")
    assert (header.width, [event.data for event in events]) == (80, ["a"])
    for arguments in (["--speed", "0"], ["--idle-limit", "nan"]):
        assert command("play", str(tmp_path / "file"), *arguments).returncode == 2
