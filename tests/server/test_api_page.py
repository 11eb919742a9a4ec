"""docs/api.md names every field, path and metric that there is."""

import re
from pathlib import Path

from tests.server.engine_for_tests import get, make_service

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
REQUESTS = (
    "ChatCompletionRequest",
    "CompletionRequest",
    "FIMCompletionRequest",
    "EmbeddingRequest",
    "TokenizeRequest",
    "DetokenizeRequest",
    "RouteRequest",
)


def test_every_field_of_every_request_is_on_the_page() -> None:
    schemas = get(make_service(), "/openapi.json").json()["components"]["schemas"]
    fields = {field for name in REQUESTS for field in schemas[name]["properties"]}
    assert sorted(field for field in fields if f"`{field}`" not in PAGE) == []


def test_every_path_is_on_the_page() -> None:
    paths = get(make_service(), "/openapi.json").json()["paths"]
    assert [path for path in paths if path.replace("model_id", "id") not in PAGE] == []


def test_every_metric_is_on_the_page_and_no_other() -> None:
    text = get(make_service(), "/metrics").text
    served = {
        name if kind != "counter" or name.endswith("_total") else name + "_total"
        for name, kind in re.findall(r"^# TYPE (mixtral_\w+) (\w+)$", text, re.MULTILINE)
        if not name.endswith("_created")
    }
    assert set(re.findall(r"`(mixtral_\w+)", PAGE)) == served
