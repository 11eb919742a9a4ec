"""How the load generator reads HTTP, event streams and addresses."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtral.bench.serve_http import BrokenResponse, ConnectionPool, ResponseReader, Target
from mixtral.bench.serve_stream import BadAnswer, StreamReader
from mixtral.errors import ConfigError


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "\r\n"]).encode()


CHUNKED = head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
SIZED = head("content-length: 11") + b"hello world"


@given(cuts=st.lists(st.integers(0, len(CHUNKED)), max_size=8), is_chunked=st.booleans())
def test_a_response_in_any_pieces_is_the_same_body(cuts: list[int], is_chunked: bool) -> None:
    data = CHUNKED if is_chunked else SIZED
    reader = ResponseReader()
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places)]
    assert b"".join(reader.feed(piece) for piece in pieces) == b"hello world"
    assert reader.is_complete
    assert reader.keeps_alive
    assert reader.status == 200


def test_a_body_without_length_ends_with_the_connection() -> None:
    reader = ResponseReader()
    assert reader.feed(head("Content-Type: text/plain") + b"hello") == b"hello"
    assert not reader.is_complete
    reader.end()
    assert reader.is_complete
    assert not reader.keeps_alive


def test_interim_answers_are_passed_over() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED) == b"hello world"
    assert reader.status == 200


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 OK\r\n\r\n", head("Transfer-Encoding: chunked") + b"x\r\n"],
)
def test_what_is_no_http_is_a_broken_response(data: bytes) -> None:
    with pytest.raises(BrokenResponse):
        ResponseReader().feed(data)


@pytest.mark.parametrize("length", [0, 10, len(SIZED) - 1])
def test_a_connection_that_closes_early_is_a_broken_response(length: int) -> None:
    reader = ResponseReader()
    reader.feed(SIZED[:length])
    with pytest.raises(BrokenResponse, match="closed the connection"):
        reader.end()


class Listener:
    """Keeps the status of an answer."""

    status = 0

    def on_head(self, status: int, content_type: str) -> None:
        self.status = status

    def on_body(self, data: bytes, now_s: float) -> None:
        assert data == b"hello world"


def test_a_connection_that_closed_while_idle_is_replaced() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SIZED)  # which says nothing of the end that follows
        writer.close()

    async def send_twice() -> list[int]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            pool = ConnectionPool(Target(host=host, port=port, path=""))
            readers = [Listener(), Listener()]
            for reader in readers:
                await pool.send(b"GET / HTTP/1.1\r\n\r\n", reader)
                await asyncio.sleep(0.05)
            await pool.close()
        return [reader.status for reader in readers]

    assert asyncio.run(send_twice()) == [200, 200]


def read_stream(*events: tuple[float, str]) -> StreamReader:
    reader = StreamReader()
    reader.on_head(200, "text/event-stream")
    for now_s, payload in events:
        reader.on_body(f"data: {payload}\n\n".encode(), now_s)
    return reader


TEXT = '{"choices": [{"text": " a"}]}'


def test_first_token_is_the_first_event_with_text() -> None:
    role = '{"choices": [{"delta": {"role": "assistant", "content": ""}}]}'
    text = '{"choices": [{"delta": {"content": "a"}}]}'
    end = '{"choices": [{"delta": {}, "finish_reason": "length"}]}'
    usage = '{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}'
    events = [(1.0, role), (2.0, text), (3.0, text), (5.0, text), (5.5, end), (6.0, usage)]
    answer = read_stream(*events, (6.5, "[DONE]")).answer()
    assert (answer.first_s, answer.last_s, answer.end_s) == (2.0, 5.5, 6.5)
    assert answer.gaps_s == [1.0, 2.0, 0.5]
    assert (answer.num_tokens, answer.num_prompt_tokens) == (3, 7)
    assert answer.finish_reason == "length"


def test_without_usage_an_event_with_text_is_a_token() -> None:
    end = '{"choices": [{"text": "", "finish_reason": "length"}]}'
    answer = read_stream((1.0, TEXT), (2.0, TEXT), (3.0, end), (3.0, "[DONE]")).answer()
    assert answer.num_tokens == 2
    assert not answer.has_usage


def test_tokens_without_text_still_make_an_answer() -> None:
    silent = '{"choices": [{"text": ""}]}'
    end = (
        '{"choices": [{"text": "", "finish_reason": "length"}], "usage": {"completion_tokens": 2}}'
    )
    answer = read_stream((1.0, silent), (2.0, silent), (3.0, end), (3.5, "[DONE]")).answer()
    assert (answer.first_s, answer.last_s, answer.num_tokens) == (1.0, 3.0, 2)


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([], "no events"),
        ([TEXT], "ended before its last event"),
        (['{"error": {"message": "out of\\nblocks"}}', "[DONE]"], "out of\nblocks"),
        (['{"usage": {"completion_tokens": 2}}', "[DONE]"], "without a choice"),
        (["[1]", "nonsense", '{"choices": [3], "usage": 7}', "[DONE]"], "without a choice"),
    ],
)
def test_a_stream_that_is_not_whole_is_a_bad_answer(events: list[str], message: str) -> None:
    with pytest.raises(BadAnswer, match=message):
        read_stream(*((1.0, event) for event in events)).answer()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://h:99999",
        "http://h:0/v1",
        "http://a..b:8000/v1",
        f"http://{'a' * 64}:8000/v1",
        "http://:password@h/v1",
        "http://h/v1?x=1",
        "h h",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="must be the address of a server"):
        Target.parse(url)


def test_addresses_keep_their_parts() -> None:
    target = Target.parse("https://[::1]:8443/v1/")
    assert (target.host, target.port, target.is_tls) == ("::1", 8443, True)
    assert target.url == "https://[::1]:8443/v1"
    assert Target.parse("http://example.com/v1").port == 80
