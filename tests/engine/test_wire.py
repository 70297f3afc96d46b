import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.engine.wire import MAX_HEAD, ResponseParser, chunk, request_head

HEAD = b"HTTP/1.1 200 OK\r\n"


def parse(data: bytes, method: bytes = b"GET", pieces: list[int] | None = None) -> tuple[int, bytes]:
    """Parse a whole response that comes in pieces of the given sizes."""
    parser = ResponseParser()
    position = 0

    def more() -> None:
        nonlocal position
        size = pieces.pop(0) if pieces else len(data) - position
        parser.receive(data[position : position + size])
        position += size

    while (head := parser.head(method)) is None:
        more()
    body = b""
    while (piece := parser.body()) != b"":
        if piece is None:
            more()
        else:
            body += piece
    assert parser.complete
    return head.status, body


BODY = st.binary(max_size=300)
LENGTH = BODY.map(lambda body: (HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body, body))
CHUNKS = st.lists(st.binary(min_size=1, max_size=80), max_size=6).map(
    lambda parts: (
        HEAD
        + b"transfer-encoding: Chunked\r\n\r\n"
        + b"".join(chunk(part) for part in parts)
        + b"0\r\nX: y\r\n\r\n",
        b"".join(parts),
    )
)
CLOSE = BODY.map(lambda body: (HEAD + b"Content-Type: text/plain\r\n\r\n" + body, body))


@given(st.one_of(LENGTH, CHUNKS, CLOSE), st.lists(st.integers(1, 40), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_cut_of_a_response_gives_what_h11_gives(message: tuple[bytes, bytes], cuts: list[int]) -> None:
    data, body = message
    assert parse(data, pieces=list(cuts)) == (200, body)
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    event = connection.next_event()
    assert isinstance(event, h11.Response)
    theirs = b""
    while isinstance(event := connection.next_event(), h11.Data):
        theirs += event.data
    assert theirs == body


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_garbage_is_an_error_or_waits_for_more(data: bytes) -> None:
    parser = ResponseParser()
    parser.receive(data)
    try:
        head = parser.head()
        while head is not None and parser.body():
            pass
    except ValueError:
        return
    assert head is None or head.status >= 101


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200\x00 OK\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 300,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MAX_HEAD // 6),
        b"",
    ],
)
def test_malformed_or_truncated_is_an_error(data: bytes) -> None:
    parser = ResponseParser()
    parser.receive(data)
    parser.receive(b"")

    def parse_to_the_end() -> None:
        while parser.head() is None or parser.body() != b"":
            pass

    with pytest.raises(ValueError):
        parse_to_the_end()


def test_one_connection_carries_several_responses() -> None:
    parser = ResponseParser()
    parser.receive(HEAD + b"Content-Length: 2\r\n\r\nab")
    assert parser.head() is not None
    assert parser.body() == b"ab"
    assert parser.reusable
    parser.next_response()
    parser.receive(b"HTTP/1.1 204 No Content\r\n\r\n")
    head = parser.head()
    assert head is not None
    assert head.status == 204
    assert parser.body() == b""
    assert parser.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"Content-Length: 0\r\n\r\nstray",
    ],
)
def test_not_reusable(data: bytes) -> None:
    parser = ResponseParser()
    parser.receive(data)
    assert parser.head() is not None
    assert parser.body() == b""
    assert not parser.reusable
    with pytest.raises(RuntimeError):
        parser.next_response()


def test_answers_to_head_requests_and_informational_ones() -> None:
    assert parse(HEAD + b"Content-Length: 10\r\n\r\n", b"HEAD") == (200, b"")
    assert parse(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx") == (200, b"x")


def test_what_comes_with_a_101_belongs_to_the_new_protocol() -> None:
    parser = ResponseParser()
    parser.receive(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n\x01\x02")
    head = parser.head()
    assert head is not None
    assert head.status == 101
    assert parser.body() == b""
    assert not parser.reusable
    assert parser.trailing() == b"\x01\x02"


@pytest.mark.parametrize("target", [b"/a b", b"/a\r\nX: y", "/ä".encode(), b"/\0"])
def test_a_request_cannot_be_split(target: bytes) -> None:
    with pytest.raises(ValueError):
        request_head(b"GET", target, [(b"Host", b"x")])
    with pytest.raises(ValueError):
        request_head(b"GET", b"/", [(b"Host", b"x\r\nY: z")])
