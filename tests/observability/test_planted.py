"""Secrets planted wherever a client or an operator can put one, and looked for in all that the program tells:
log, audit log, metrics, status, sessions, settings, error messages, session records."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from gateway.harness import ClosedError, V1Client, Wire, jwt, signed

from supervisor.protocol.v1 import SUBPROTOCOL

SIGNING = "planted-signing-secret-4711"
ADMIN = "planted-operators-token-4711"
API_KEY = "plantd.keyid0:plantedApiKeySecret4711"
VALUE = "planted-environment-value-4711"
TYPED = "planted-keystrokes-4711"
JWT = jwt({"exp": 4102444800, "planted": 4711})
PLANTED = (SIGNING, ADMIN, API_KEY, API_KEY.partition(":")[2], VALUE, TYPED, JWT, JWT.split(".")[1])


@attrs.define
class Running:
    port: int
    admin: httpx.AsyncClient
    said: bytearray


@asynccontextmanager
async def program(directory: Path) -> AsyncGenerator[Running]:
    environment = {
        "TERMINAL_SERVER_SIGNING_SECRET": SIGNING,
        "ADMIN_TOKEN": ADMIN,
        "ADMIN_LISTEN": f"unix:{directory}/admin.sock",
        "SECURITY_AUDIT_LOG": str(directory / "audit.log"),
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "json",
        "SESSION_COMMAND": "sh",
        "RESOURCE_MONITORING_INTERVAL_MS": "100",
    }
    command = [sys.executable, "-m", "supervisor", "--env-file", "/nonexistent", "demo", "--port", "0"]
    process = await trio.lowlevel.open_process(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout
    said = bytearray()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            assert process.stdout
            async for data in process.stdout:
                said.extend(data)

        nursery.start_soon(listen)
        try:
            while not (found := re.search(rb"Open http://127\.0\.0\.1:(\d+)/", said)):
                await trio.sleep(0.02)
            transport = httpx.AsyncHTTPTransport(uds=f"{directory}/admin.sock")
            async with httpx.AsyncClient(transport=transport, base_url="http://admin") as admin:
                yield Running(int(found[1]), admin, said)
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
    with trio.fail_after(60):
        async with program(tmp_path) as running:
            told = await everything(running)
        told.append(running.said.decode("utf-8", "replace"))
    told.append((tmp_path / "audit.log").read_text())
    assert "session ended" in told[-1]
    assert len(running.said) > 1000, "the log is there to be searched"
    for secret in PLANTED:
        for text in told:
            assert secret not in text, f"{secret}: {text[max(0, text.find(secret) - 300) :][:400]}"


async def everything(running: Running) -> list[str]:
    """Use the program, rightly and wrongly; return what its operator is shown."""
    environment = {"ABLY_API_KEY": VALUE, "LANG": VALUE, "MY_PASSWORD": VALUE}
    config = signed(API_KEY, secret=SIGNING, accessToken=JWT)
    good = await client(running.port)
    await good.auth(**config, environmentVariables=environment)
    await good.wire.send(f"echo {TYPED}\r".encode())
    while TYPED.encode() not in good.output:
        await good.next()
    wrong = {**config, "signature": "0" * 64, "environmentVariables": environment}
    await refused(running.port, json.dumps({"type": "auth", **wrong}))
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
    told: list[str] = []
    right = {"Authorization": f"Bearer {ADMIN}"}
    for path in ("/health", "/ready", "/metrics", "/stats", "/sessions", "/reconcile", f"/{VALUE}"):
        answer = await running.admin.get(path, headers=right)
        told.append(answer.text)
    assert '"state": "ready"' in told[4]
    wrong_token = {"Authorization": f"Bearer {API_KEY}"}
    told.append((await running.admin.get(f"/sessions/{VALUE}/output", headers=wrong_token)).text)
    told.append((await running.admin.delete("/sessions/none", headers=right)).text)
    await good.wire.stream.aclose()  # goes without a word
    return told


def test_no_secret_is_told_by_the_command_or_in_error_messages(tmp_path: Path) -> None:
    planted = {
        "TERMINAL_SERVER_SIGNING_SECRET": SIGNING,
        "ADMIN_TOKEN": ADMIN,
        "LOCAL_ACCESS_TOKEN": "planted",  # too short, which is an error
    }
    for extra in ({}, {"LOCAL_ACCESS_TOKEN": "planted-access-token-4711"}):
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "--env-file", "/nonexistent", "settings"],
            env={**os.environ, **planted, **extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == (0 if extra else 78)
        assert "planted" not in done.stdout + done.stderr
