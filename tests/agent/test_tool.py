"""Arguments of tools that have a JSON schema and no function."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from mixtral.agent.short_schema import short_schema
from mixtral.agent.tool import checked_by_schema


def test_schema_is_not_fetched_from_an_address() -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "integer"}')

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        reference = {"$ref": f"http://127.0.0.1:{server.server_address[1]}/integer.json"}
        # Not what jsonschema raises: that is a class of its own without a public name.
        with pytest.raises(Exception, match="Unresolvable"):
            checked_by_schema({"a": 1}, {"type": "object", "properties": {"a": reference}})
        server.shutdown()
        thread.join()
    assert asked == []


def test_references_inside_a_schema_are_followed() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/number"}},
        "$defs": {"number": {"type": "integer"}},
    }
    assert checked_by_schema({"a": 1}, schema) == {"a": 1}


@pytest.mark.parametrize("keyword", ["dependencies", "dependentRequired", "dependentSchemas"])
def test_argument_named_title_keeps_what_depends_on_it(keyword: str) -> None:
    schema = {"title": "Book", keyword: {"title": ["author"]}}
    assert short_schema(schema) == {keyword: {"title": ["author"]}}
