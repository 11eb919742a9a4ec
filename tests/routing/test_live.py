"""The load of a running server, from the metrics that it exports."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mixtral.config import EngineConfig
from mixtral.engine import Engine
from mixtral.errors import ConfigError
from mixtral.routing import live_layers, parse_expert_tokens, read_metrics
from mixtral.routing.page import live_page
from mixtral.server.metrics import Metrics
from tests.models_for_tests import tiny_model

_TEXT = """# TYPE mixtral_expert_tokens_total counter
mixtral_expert_tokens_total{expert="0",layer="0"} 3.0
mixtral_expert_tokens_total{expert="1",layer="0"} 1.0
mixtral_expert_tokens_total{expert="0",layer="1"} 0.0
mixtral_expert_tokens_total{expert="1",layer="1"} 0.0
"""


@contextmanager
def _server(status: int, body: bytes) -> Iterator[tuple[str, list[str | None]]]:
    """Answer every GET on a free port; give the URL and the keys that were sent."""
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers["Authorization"])
            self.send_response(status if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_metrics_of_our_engine_are_read() -> None:
    config = EngineConfig(num_blocks=8, count_experts=True)
    engine = Engine(tiny_model(), config, max_model_len=64)
    metrics = Metrics()
    metrics.watch_engine(engine.stats)
    assert parse_expert_tokens(metrics.text().decode()) == [[0] * 4, [0] * 4]


def test_loads_follow_from_counts_and_layers_without_any_have_none() -> None:
    first, second = live_layers(parse_expert_tokens(_TEXT))
    assert (first.visits, first.load, first.imbalance) == ([3, 1], [0.75, 0.25], 1.5)
    assert first.load_entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert (second.load, second.imbalance, second.load_entropy) == ([0, 0], None, None)
    page = live_page("<server>", [first, second])
    assert "&lt;server&gt;" in page
    assert "75.0" in page


@pytest.mark.parametrize("suffix", ["", "/", "/metrics"])
def test_a_server_is_read_by_its_address_with_its_key(suffix: str) -> None:
    with _server(200, _TEXT.encode()) as (url, keys):
        assert read_metrics(url + suffix, api_key="k") == _TEXT
    assert keys == ["Bearer k"]


def test_servers_that_refuse_or_are_gone_are_one_line() -> None:
    with _server(401, b"no") as (url, _), pytest.raises(ConfigError, match="--api-key"):
        read_metrics(url)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_metrics(url)
    with pytest.raises(ConfigError, match="must begin with http"):
        read_metrics("file:///etc/passwd")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no mixtral_expert_tokens_total"),
        ("<html>no metrics</html>", "cannot be read|no mixtral_expert"),
        (_TEXT.replace('"1",layer="1"', '"2",layer="1"'), "each must have one"),
        (_TEXT.replace('layer="1"', 'layer="x"'), "cannot be read"),
    ],
)
def test_other_metrics_are_refused(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_expert_tokens(text)
