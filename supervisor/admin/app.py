"""The operator's side as an ASGI application: health, metrics, sessions, reconciliation.

Whoever may connect is the operator: the listener is a unix socket of this user, or a loopback port with a
token. With `ADMIN_TOKEN` every path but `/health` and `/ready` asks for `Authorization: Bearer`.
"""

import hmac
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Final

import attrs
import trio
from prometheus_client import CONTENT_TYPE_LATEST

from supervisor.admin.collector import exposition
from supervisor.admin.view import View
from supervisor.engine import DockerError
from supervisor.observability.audit import audit, audit_limited
from supervisor.session.attachment import Ended, Output

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

WATCH_WINDOW: Final = 64 * 1024
"""Bytes of output under way to an operator who watches."""


@attrs.frozen
class Answer:
    """What is sent back: a whole body, or one that comes bit by bit."""

    status: HTTPStatus
    body: bytes | AsyncGenerator[bytes] = b""
    content_type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class AdminApp:
    """Answers one request at a time per connection; state is the supervisor's own."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._token = view.settings.admin_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification, version 3."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        path = scope["path"]
        if path not in {"/health", "/ready"} and not self._may(scope):
            audit_limited("operator's token missing or wrong", "warning", "", trio.current_time())
            answer = _problem(HTTPStatus.UNAUTHORIZED, "This needs ADMIN_TOKEN as a bearer token.")
            answer = attrs.evolve(answer, headers=((b"www-authenticate", b"Bearer"),))
        else:
            answer = await self._route(method, path, scope["query_string"])
        headers = [(b"content-type", answer.content_type.encode()), (b"cache-control", b"no-store")]
        headers += answer.headers
        if isinstance(answer.body, bytes):
            headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status.value, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
        elif isinstance(answer.body, bytes):
            await send({"type": "http.response.body", "body": answer.body})
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                async with aclosing(answer.body) as pieces:
                    async for piece in pieces:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body"})
                nursery.cancel_scope.cancel()

    def _may(self, scope: Scope) -> bool:
        if not self._token:
            return True
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(shown) == 1 and hmac.compare_digest(shown[0], b"Bearer " + self._token.encode())

    async def _route(self, method: str, path: str, query: bytes) -> Answer:
        match method, path.split("/")[1:]:
            case "GET", ["health"]:
                return _json({"status": "ok"})
            case "GET", ["ready"]:
                return self._ready()
            case "GET", ["metrics"]:
                return Answer(HTTPStatus.OK, exposition(self._view), CONTENT_TYPE_LATEST)
            case "GET", ["stats"]:
                return _json(self._view.statistics())
            case "GET", ["sessions"]:
                return _json({"sessions": list(self._view.sessions())})
            case "GET", ["sessions", digest, "output"]:
                return self._watch(digest)
            case "DELETE", ["sessions", digest]:
                return self._end(digest)
            case (("GET" | "POST"), ["reconcile"]):
                return await self._reconcile(dry_run=method == "GET" or query == b"dry_run=true")
            case _, ["health" | "ready" | "metrics" | "stats" | "sessions" | "reconcile", *_]:
                return _problem(HTTPStatus.METHOD_NOT_ALLOWED, "That cannot be done with this path.")
            case _:
                return _problem(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _ready(self) -> Answer:
        if self._view.gateway.house.closing:
            return _json({"status": "closing"}, HTTPStatus.SERVICE_UNAVAILABLE)
        if len(self._view.registry) >= self._view.settings.max_sessions:
            return _json({"status": "full"}, HTTPStatus.SERVICE_UNAVAILABLE)
        if problem := self._view.provider.unavailable or self._view.registry.recorder.unavailable:
            return _json({"status": "unavailable", "problem": problem}, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json({"status": "ready"})

    def _end(self, digest: str) -> Answer:
        if not self._view.end(digest):
            return _problem(HTTPStatus.NOT_FOUND, "There is no such session.")
        audit("session ended by the operator", "warning", session=digest)
        return _json({"ended": digest}, HTTPStatus.ACCEPTED)

    def _watch(self, digest: str) -> Answer:
        session = self._view.find(digest)
        if session is None:
            return _problem(HTTPStatus.NOT_FOUND, "There is no such session.")
        audit("session watched by the operator", "warning", session=digest)

        async def output() -> AsyncGenerator[bytes]:
            attachment = session.attach(
                offset=session.scrollback.start, window=WATCH_WINDOW, role="viewer", acknowledges=False
            )
            try:
                while not isinstance(event := await attachment.next_event(WATCH_WINDOW), Ended):
                    if isinstance(event, Output):
                        yield event.data
            finally:
                session.detach(attachment)

        return Answer(HTTPStatus.OK, output(), "application/octet-stream")

    async def _reconcile(self, *, dry_run: bool) -> Answer:
        reconciler = self._view.reconciler
        if reconciler is None:
            return _json({"findings": []})
        try:
            findings = await (reconciler.find() if dry_run else reconciler.reconcile())
        except DockerError as error:
            return _problem(HTTPStatus.BAD_GATEWAY, f"The engine does not answer: {error}")
        told = [
            {
                "what": each.what,
                "container": each.container[:12],
                "name": each.name,
                "verdict": each.verdict.value,
                "removes": each.verdict.removes,
                "removed": each.removed,
            }
            for each in findings
        ]
        return _json({"dry_run": dry_run, "findings": told})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel an answer that nobody waits for any more."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return Answer(status, json.dumps(value).encode() + b"\n")


def _problem(status: HTTPStatus, message: str) -> Answer:
    return _json({"error": message}, status)
