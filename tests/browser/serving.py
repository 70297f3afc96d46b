"""The real server, started as its users start it: a process of its own, found by the address that it prints.

Also a relay that stands between browser and server and can cut what passes through it.
"""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

START_TIMEOUT = 90.0  # seconds until the server prints its address; a cold engine is slow
END_TIMEOUT = 30.0  # seconds from Ctrl-C to the end of the process
PROMPT = "ready>"


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output: list[str] = []
        self._addresses: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if match := re.search(r"https?://\S+", line):
                self._addresses.put(match[0])
        self._addresses.put(None)

    def next_url(self) -> str:
        """Return the address printed next: with a token that was not used yet, where tokens are needed."""
        url = self._addresses.get(timeout=START_TIMEOUT)
        if url is None:
            self._addresses.put(None)
            raise AssertionError(f"the server ended:\n{''.join(self.output)}")
        return url

    def stop(self) -> None:
        """Press Ctrl-C, and expect an orderly end."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(END_TIMEOUT)
        self._reader.join(END_TIMEOUT)
        text = "".join(self.output)
        assert status == 0, f"exit status {status}:\n{text}"
        assert "Traceback" not in text


@contextmanager
def serving(command: str = "serve", **settings: str) -> Iterator[Server]:
    """Run `terminal-supervisor COMMAND` with bash as the sessions' program while the block runs.

    On leaving, the server is ended as by Ctrl-C, and no process of its sessions may be left on this host.
    """
    mark = f"browser-test-{uuid.uuid4()}"
    environment = {
        **os.environ,
        "SESSION_COMMAND": f"env 'PS1={PROMPT} ' bash --norc -s {mark}",
        "DOCKER_IMAGE_NAME": "terminal-supervisor-workbench:latest",
        "CONTAINER_USER": "1000:1000",
        "RATE_LIMIT_EXEMPT_NETWORKS": "127.0.0.0/8",
        "PYTHONUNBUFFERED": "1",
        **settings,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "--env-file", os.devnull, command, "--port", "0"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = Server(process)
    try:
        yield server
        server.stop()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert processes_with(mark) == []


def processes_with(mark: str) -> list[str]:
    """Return the command lines on this host that contain `mark`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if mark in line:
                found.append(line)
    return found


class Relay:
    """Passes TCP connections on, until told to cut them."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._connect, args=(inner,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connect(self, inner: socket.socket) -> None:
        with inner, socket.create_connection(self._target) as outer:
            with self._lock:
                self._pairs.append((inner, outer))
            back = threading.Thread(target=self._pass, args=(outer, inner), daemon=True)
            back.start()
            self._pass(inner, outer)
            back.join()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(16384):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Cut all connections that there are now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop accepting, and cut."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(END_TIMEOUT)


@contextmanager
def relayed(url: str) -> Iterator[tuple[Relay, str]]:
    """Yield a relay to the server at `url`, and the address that leads through it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    relay = Relay((parts.hostname, parts.port))
    try:
        yield relay, urlunsplit(parts._replace(netloc=f"127.0.0.1:{relay.port}"))
    finally:
        relay.close()
