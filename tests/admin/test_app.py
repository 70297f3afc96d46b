import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from admin.stage import stage
from supervisor.protocol.closing import EndReason

TOKEN = "operators-token-of-no-value"


async def test_an_idle_supervisor() -> None:
    async with stage() as s:
        assert await s.json("/health") == {"status": "ok"}
        assert await s.json("/ready") == {"status": "ready"}
        assert await s.json("/sessions") == {"sessions": []}
        stats = await s.json("/stats")
        assert (stats["provider"], stats["sessions"]["open"]) == ("memory", 0)
        numbers = await s.metrics()
        assert numbers['sessions{kind="local",state="ready"}'] == 0
        assert numbers["connections"] == 0


async def test_metrics_are_what_prometheus_reads_and_no_name_is_there_twice() -> None:
    async with stage() as s:
        await s.session()
        answer = await s.operator.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    names = [family.name for family in families]
    assert sorted(names) == sorted(set(names))
    assert all(family.documentation.endswith(".") for family in families if "process_" not in family.name)


async def test_a_session_is_seen_from_its_start_to_its_end() -> None:
    async with stage() as s:
        before = await s.metrics()
        session, terminal = await s.session()
        await terminal.print(b"x" * 1000)
        await trio.testing.wait_all_tasks_blocked()
        (told,) = (await s.json("/sessions"))["sessions"]
        assert told["id"] == session.label
        assert (told["state"], told["output_bytes"], told["container"]) == ("ready", 1000, None)
        during = await s.metrics()
        assert during['sessions{kind="local",state="ready"}'] == 1
        assert during["output_bytes_total"] == 1000
        terminal.exit(0)
        while len(s.supervisor.registry):
            await trio.lowlevel.checkpoint()
        after = await s.metrics()
        assert after["output_bytes_total"] == 1000
        name = 'sessions_ended_total{reason="user_exit"}'
        assert after[name] - before.get(name, 0) == 1
        assert after["sessions_started_total"] - before["sessions_started_total"] == 1


async def test_commands_are_seen_during_a_session_and_counted_after_it() -> None:
    async with stage(command_rate=5) as s:
        before = await s.metrics()
        await s.session()
        (told,) = (await s.json("/sessions"))["sessions"]
        assert told["commands"] is None, "nobody counts them"
        s.provider.counted = True
        _, terminal = await s.session()
        terminal.start_commands(7)
        await trio.testing.wait_all_tasks_blocked()
        _, told = (await s.json("/sessions"))["sessions"]
        assert told["commands"] == 7
        during = await s.metrics()
        assert during["commands_total"] == 7
        assert during["keys_held_total"] - before["keys_held_total"] == 1
        terminal.exit(0)
        while len(s.supervisor.registry) > 1:
            await trio.lowlevel.checkpoint()
        assert (await s.metrics())["commands_total"] == 7


async def test_the_echo_is_measured_once_per_key() -> None:
    async with stage() as s:
        before = await s.metrics()
        session, terminal = await s.session()
        await session.type(b"x", is_activity=True)
        await trio.testing.wait_all_tasks_blocked()
        await terminal.print(b"x")
        await terminal.print(b"more")
        await trio.testing.wait_all_tasks_blocked()
        after = await s.metrics()
        assert after["echo_seconds_count"] - before["echo_seconds_count"] == 1
        assert after['echo_seconds_bucket{le="1"}'] - before['echo_seconds_bucket{le="1"}'] == 1


async def test_the_operator_ends_a_session() -> None:
    async with stage() as s:
        session, _ = await s.session()
        answer = await s.operator.delete(f"/sessions/{session.label}")
        assert answer.status_code == 202
        while len(s.supervisor.registry):
            await trio.lowlevel.checkpoint()
        assert session.ended is not None
        assert session.ended.reason is EndReason.ENDED
        assert (await s.operator.delete(f"/sessions/{session.label}")).status_code == 404


async def test_the_session_id_is_shown_nowhere() -> None:
    async with stage() as s:
        session, _ = await s.session()
        for path in ("/metrics", "/stats", "/sessions", "/reconcile"):
            assert session.id not in (await s.operator.get(path)).text


async def test_the_operator_watches_and_types_nothing() -> None:
    async with stage() as s:
        session, terminal = await s.session()
        await terminal.print(b"before")
        await trio.testing.wait_all_tasks_blocked()

        async def end() -> None:
            while not session.statistics().viewers:
                await trio.lowlevel.checkpoint()
            await terminal.print(b" after")
            terminal.exit(0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            answer = await s.operator.get(f"/sessions/{session.label}/output")
        assert answer.content == b"before after"
        assert terminal.typed == b""


async def test_ready_tells_a_full_house() -> None:
    async with stage(max_sessions=1) as s:
        await s.session()
        assert (await s.operator.get("/ready")).status_code == 503
        assert (await s.operator.get("/health")).status_code == 200


async def test_a_token_opens_everything_but_health_and_ready() -> None:
    async with stage(admin_token=TOKEN) as s:
        for path in ("/health", "/ready"):
            assert (await s.operator.get(path)).is_success
        for path in ("/metrics", "/stats", "/sessions", "/sessions/x/output", "/reconcile", "/other"):
            assert (await s.operator.get(path)).status_code == 401
        wrong = {"Authorization": f"Bearer {TOKEN[:-1]}"}
        assert (await s.operator.get("/metrics", headers=wrong)).status_code == 401
        twice = [("Authorization", f"Bearer {TOKEN}")] * 2
        assert (await s.operator.get("/metrics", headers=twice)).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert (await s.operator.get("/metrics", headers=right)).is_success


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/metrics", 405),
        ("DELETE", "/sessions", 405),
        ("DELETE", "/sessions/none", 404),
        ("GET", "/sessions/none/output", 404),
        ("GET", "/nothing", 404),
        ("HEAD", "/health", 200),
    ],
)
async def test_other_requests(method: str, path: str, status: int) -> None:
    async with stage() as s:
        assert (await s.operator.request(method, path)).status_code == status
