"""What programs with a full screen print, recorded once, for `output-ansi` to replay.

The recording (`screens.bin`, plain ASCII) was made by `python -m benchmarks.recording` as root, with 80
columns and 24 lines: htop, top, and vim that scrolls this file with colours. They ran in a namespace of
processes of their own, so that nothing of the host is in it but its load.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

RECORDING = Path(__file__).with_name("screens.bin")
LIMIT = 100_000  # bytes, all programs together
KEY_EVERY = 0.4  # seconds
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin",
    "TERM": "xterm-256color",
    "LANG": "C",
    "HOME": "/nonexistent",
}
PROGRAMS: tuple[tuple[str, bytes], ...] = (
    ("for i in 1 2 3 4 5 6; do sleep 99 & done; yes >/dev/null & exec htop -d 4", b"jjjPtjjMtjjPIjjq"),
    ("for i in 1 2 3 4 5 6; do sleep 99 & done; yes >/dev/null & exec top -d 0.5", b"zxM P 1 c q"),
    (
        f"exec vim -u NONE -c 'syntax on' -c 'set number ruler' {Path(__file__).name}",
        b"\4\4\4\25\25jjjjjjGggwwww\6\6:q\r",
    ),
)


def record(program: str, keys: bytes) -> bytes:
    """Return what the program prints while it gets a key from time to time."""
    # In a namespace of processes of its own, that ends with the program.
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", program]
    pid, master = pty.fork()
    if not pid:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.chdir(RECORDING.parent)
        os.execvpe(command[0], command, ENVIRONMENT)
    got, typed, due = b"", 0, time.monotonic() + 1.0
    with suppress(OSError):  # the end
        while True:
            if select.select([master], [], [], max(0.0, due - time.monotonic()))[0]:
                got += os.read(master, 65536)
            if time.monotonic() >= due:
                if typed > len(keys) + 5:
                    break
                os.write(master, keys[typed : typed + 1])
                typed, due = typed + 1, time.monotonic() + KEY_EVERY
    os.kill(pid, signal.SIGKILL)
    os.close(master)
    os.waitpid(pid, 0)
    return got


def main() -> None:
    """Record everything anew."""
    recorded = b"".join(record(*each) for each in PROGRAMS)
    if not recorded.isascii() or len(recorded) > LIMIT:
        sys.exit(f"{len(recorded)} bytes, ASCII: {recorded.isascii()}; wanted are at most {LIMIT}, all ASCII")
    RECORDING.write_bytes(recorded)
    print(f"{len(recorded)} bytes in {RECORDING}")


if __name__ == "__main__":
    main()
