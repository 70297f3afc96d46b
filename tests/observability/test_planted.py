"""Secrets planted wherever a client or an operator can put one, and looked for in all that the program tells:
log, audit log, metrics, status, sessions, settings, error messages, session records, recordings, webhooks,
traces, what a server hands over to the next one, and all that this one tells in its turn."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from gateway.harness import ClosedError, V1Client, Wire, jwt, signed
from recordings.cast import only

from supervisor.handover.taking import succeeding
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.settings import Settings

SIGNING = "planted-signing-secret-4711"
ADMIN = "planted-operators-token-4711"
API_KEY = "plantd.keyid0:plantedApiKeySecret4711"
VALUE = "planted-environment-value-4711"
TYPED = "planted-keystrokes-4711"
HOOK = "planted-webhook-secret-4711"
PATH = "planted-webhook-path-4711"
JWT = jwt({"exp": 4102444800, "planted": 4711})
PLANTED = (
    SIGNING,
    ADMIN,
    API_KEY,
    API_KEY.partition(":")[2],
    VALUE,
    TYPED,
    JWT,
    JWT.split(".")[1],
    HOOK,
    PATH,
)
PROFILES = """
[small]
MAX_SESSION_DURATION_MS = 600000
"""


@attrs.define
class Running:
    port: int
    admin: httpx.AsyncClient
    environment: dict[str, str]
    process: trio.Process


class Receiver(BaseHTTPRequestHandler):
    """Takes webhooks, the first one not before the second attempt, and traces."""

    told: bytearray

    def do_POST(self) -> None:
        """Note all of it but the line that the sender's own address is in."""
        first = not self.told
        self.told += str(self.headers).encode() + self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(503 if first else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiver() -> Iterator[tuple[str, bytearray]]:
    """Yield the address of one, and what it was sent."""
    told = bytearray()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Receiver,), {"told": told}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@asynccontextmanager
async def program(
    directory: Path, said: bytearray, *, hooks: str, traces: str, takes_over: int = 0
) -> AsyncGenerator[Running]:
    """Run it; what it says is added to `said`. `takes_over` is the port of the one whose place it takes."""
    (directory / "profiles.toml").write_text(PROFILES)
    environment = {
        "TERMINAL_SERVER_SIGNING_SECRET": SIGNING,
        "ADMIN_TOKEN": ADMIN,
        "ADMIN_LISTEN": f"unix:{directory}/admin.sock",
        "SECURITY_AUDIT_LOG": str(directory / "audit.log"),
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "json",
        "DOCKER_HOST": "",  # what `state_for_a_successor` has
        "SESSION_COMMAND": "sh",
        "RESOURCE_MONITORING_INTERVAL_MS": "100",
        "PROFILES_FILE": str(directory / "profiles.toml"),
        "WEBHOOK_URL": f"{hooks}/{PATH}",
        "WEBHOOK_SECRET": HOOK,
        "OTEL_EXPORTER_OTLP_ENDPOINT": traces,
        "RECORDING_DIRECTORY": str(directory / "recordings"),
        "RECORDING_MIN_FREE": "0",
    }
    command = [sys.executable, "-m", "supervisor", "--env-file", "/nonexistent", "demo"]
    command += ["--port", str(takes_over), *(["--takeover"] if takes_over else [])]
    process = await trio.lowlevel.open_process(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout
    before = len(said)
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            assert process.stdout
            async for data in process.stdout:
                said.extend(data)

        nursery.start_soon(listen)
        try:
            while not (found := re.search(rb"Open http://127\.0\.0\.1:(\d+)/", said[before:])):
                await trio.sleep(0.02)
            transport = httpx.AsyncHTTPTransport(uds=f"{directory}/admin.sock")
            async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin:
                yield Running(int(found[1]), admin, environment, process)
            process.terminate()
            await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def client(port: int, target: str = "/") -> V1Client:
    wire = Wire(await trio.open_tcp_stream("127.0.0.1", port))
    await wire.upgrade(SUBPROTOCOL, target=target, host=f"127.0.0.1:{port}")
    return V1Client(wire)


async def refused(port: int, *frames: str | bytes) -> None:
    """Send what cannot be understood or accepted, with secrets in it, and see it refused."""
    peer = await client(port, f"/?token={VALUE}")
    with pytest.raises(ClosedError), trio.fail_after(15):
        for frame in frames:
            await peer.wire.send(frame)
        while True:
            await peer.next()
    await peer.wire.stream.aclose()


async def test_no_secret_is_told_anywhere(tmp_path: Path) -> None:
    said = bytearray()
    with trio.fail_after(120), receiver() as (hooks, hooked), receiver() as (traces, traced):
        async with program(tmp_path, said, hooks=hooks, traces=traces) as running:
            told = await everything(running)
            handed = await state_for_a_successor(running.port)
            assert TYPED in handed, "a session's output goes over, and is nobody else's"
            told.append(handed.replace(TYPED, ""))
            async with program(
                tmp_path, said, hooks=hooks, traces=traces, takes_over=running.port
            ) as successor:
                await running.process.wait()
                told += await shown(successor)
    told += [bytes(each).decode("utf-8", "replace") for each in (said, hooked, traced)]
    told.append((tmp_path / "audit.log").read_text())
    for text, expected in (
        (told[-1], "session ended"),
        (told[-2], "session start"),
        (told[-3], "session.ended"),
        (told[-4], "a webhook event was not taken"),
        (told[-4], "take-over"),
    ):
        assert expected in text, "it is there to be searched"
    recording = only(tmp_path / "recordings")
    header, output = recording.read_text().split("\n", 1)
    assert f"echo {TYPED}" in output, "that is on the screen"
    told += [recording.name, header, output.replace(TYPED, "")]
    for secret in PLANTED:
        for text in told:
            assert secret not in text, f"{secret}: {text[max(0, text.find(secret) - 300) :][:400]}"


async def state_for_a_successor(port: int) -> str:
    """What a server hands over, told to one that then goes away."""
    async with succeeding(Settings(provider="local", port=port)) as successor:
        assert successor
        state = await successor.receive()
        assert state
        assert len(state.sessions) == 1
        for each in state.sessions:
            os.close(each.sandbox.connection)
            os.close(each.sandbox.pty)
            assert each.recording
            each.recording.close()
        return str(attrs.asdict(state))


async def everything(running: Running) -> list[str]:
    """Use the program, rightly and wrongly; return what its operator is shown."""
    environment = {"ABLY_API_KEY": VALUE, "LANG": VALUE, "TERM": VALUE, "MY_PASSWORD": VALUE}
    config = signed(API_KEY, secret=SIGNING, accessToken=JWT, profile="small")
    good = await client(running.port)
    await good.auth(**config, environmentVariables=environment)
    await good.wire.send(f"echo {TYPED}\r".encode())
    while TYPED.encode() not in good.output:
        await good.next()
    wrong = {**config, "signature": "0" * 64, "environmentVariables": environment}
    await refused(running.port, json.dumps({"type": "auth", **wrong}))
    no_profile = signed(API_KEY, secret=SIGNING, accessToken=JWT, profile=VALUE)
    await refused(running.port, json.dumps({"type": "auth", **no_profile}))
    await refused(running.port, json.dumps({"type": "auth", "apiKey": API_KEY, "accessToken": JWT}))
    await refused(running.port, json.dumps({"type": API_KEY}))
    await refused(running.port, "{" + API_KEY)
    await refused(running.port, json.dumps({"type": "auth", **config, "offset": API_KEY, VALUE: JWT}))
    await refused(running.port, API_KEY.encode())
    for head in (f"Authorization: Bearer {JWT}", f"Cookie: a={VALUE}", API_KEY):
        stream = await trio.open_tcp_stream("127.0.0.1", running.port)
        await stream.send_all(
            f"GET /{VALUE}?token={JWT} HTTP/1.1\r\nHost: {VALUE}\r\n{head}\r\n\r\n".encode()
        )
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        await stream.aclose()
    told = await shown(running)
    await good.wire.stream.aclose()  # goes without a word
    return told


async def shown(running: Running) -> list[str]:
    """What an operator is shown, by the listener and by the command."""
    told: list[str] = []
    right = {"Authorization": f"Bearer {ADMIN}"}
    for path in ("/health", "/ready", "/metrics", "/stats", "/sessions", "/reconcile", f"/{VALUE}"):
        answer = await running.admin.get(path, headers=right)
        told.append(answer.text)
    assert '"state": "ready"' in told[4]
    wrong_token = {"Authorization": f"Bearer {API_KEY}"}
    told.append((await running.admin.get(f"/sessions/{VALUE}/output", headers=wrong_token)).text)
    told.append((await running.admin.delete("/sessions/none", headers=right)).text)
    command = [sys.executable, "-m", "supervisor", "--env-file", "/nonexistent", "sessions"]
    for options in ([], ["--json"]):
        done = await trio.run_process(
            [*command, *options], env={**os.environ, **running.environment}, capture_stdout=True
        )
        assert b"ready" in done.stdout
        told.append(done.stdout.decode())
    return told


def settings_command(directory: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Return the exit status of `settings`, and all that it says."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "--env-file", str(directory / "env"), *options, "settings"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("wrong", [(), ("LOCAL_ACCESS_TOKEN", "FURTHER_SIGNING_SECRETS", "ADMIN_TOKEN")])
@pytest.mark.parametrize("where", ["environment", "file", "config"])
def test_no_secret_is_told_by_the_command_or_in_error_messages(
    tmp_path: Path, where: str, wrong: tuple[str, ...]
) -> None:
    planted = {
        "TERMINAL_SERVER_SIGNING_SECRET": SIGNING,
        "FURTHER_SIGNING_SECRETS": "planted-older-secret-4711,planted-oldest-secret-4711",
        "ADMIN_TOKEN": ADMIN,
        "LOCAL_ACCESS_TOKEN": "planted-access-token-4711",
        "WEBHOOK_SECRET": HOOK,
    }
    planted |= dict.fromkeys(wrong, "planted")  # too short
    match where:
        case "environment":
            status, told = settings_command(tmp_path, **planted)
        case "file":
            lines = [f"{name}={value}" for name, value in planted.items()]
            (tmp_path / "env").write_text("\n".join(lines))
            status, told = settings_command(tmp_path)
        case _:
            lines = [f'{name} = "{value}"' for name, value in planted.items()]
            (tmp_path / "config.toml").write_text("\n".join(lines))
            status, told = settings_command(tmp_path, "--config", str(tmp_path / "config.toml"))
    assert status == (78 if wrong else 0), told
    assert all(name in told for name in wrong or planted)
    assert "planted" not in told


@pytest.mark.parametrize(
    "profiles",
    [
        '[small]\nADMIN_TOKEN = "planted-4711"',
        "[small]\nADMIN_TOKEN = planted-4711",
        'ADMIN_TOKEN = "planted-4711"',
    ],
)
def test_no_secret_that_strayed_into_the_profiles_is_told(tmp_path: Path, profiles: str) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text(profiles)
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "--env-file", "/nonexistent", "demo", "--port", "0"],
        env={**os.environ, "PROFILES_FILE": str(file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert str(file) in done.stderr
    assert "planted" not in done.stdout + done.stderr
