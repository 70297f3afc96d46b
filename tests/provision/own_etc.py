"""An /etc of its own for a program in a mount namespace of its own: there set-up may make users."""

import subprocess
from pathlib import Path

from supervisor.provision.remapping import USER


def have_own_etc(directory: Path) -> None:
    """Mount a copy of /etc, in `directory`, on /etc, without the user that set-up makes. Both go with the
    mount namespace and `directory`.
    """
    copy = directory / "etc"
    subprocess.run(["cp", "-a", "/etc", str(copy)], check=True, timeout=60)
    subprocess.run(["mount", "--bind", str(copy), "/etc"], check=True, timeout=10)
    # Not by userdel(8): it refuses while containers run, whose users are the user's.
    for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid"):
        if (file := copy / name).exists():
            lines = file.read_text().splitlines(keepends=True)
            file.write_text("".join(line for line in lines if not line.startswith(f"{USER}:")))
