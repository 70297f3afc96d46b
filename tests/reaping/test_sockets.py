"""Names of sockets: those that nobody listens at go, all others stay."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from supervisor.reaping.sockets import dead_sockets, remove_dead_socket, remove_dead_sockets


def test_sockets_of_the_dead_are_removed_and_no_others(tmp_path: Path) -> None:
    names = ("dead", "fresh", "alive", ".dead.123")
    with ExitStack() as stack:
        for name in names:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.fspath(tmp_path / name))
            if name == "alive":
                listener.listen()
            if name != "fresh":
                os.utime(tmp_path / name, (0, 0))
        (tmp_path / "file").touch()
        os.utime(tmp_path / "file", (0, 0))
        assert dead_sockets(tmp_path) == [tmp_path / ".dead.123", tmp_path / "dead"]
        assert len(list(tmp_path.iterdir())) == 5, "to find is not to remove"
        for name in ("fresh", "alive", "file", "none"):
            assert not remove_dead_socket(tmp_path / name)
        remove_dead_sockets(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"fresh", "alive", "file"}
