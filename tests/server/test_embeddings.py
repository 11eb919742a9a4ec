"""/v1/embeddings, with an embedder whose vectors the test knows."""

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mixtral.embed import Embeddings
from mixtral.errors import InvalidRequest, QueueFull
from tests.server.engine_for_tests import make_service, post

PATH = "/v1/embeddings"
ROW = [0.6, 0.8, 0.0, 0.0]


@dataclass
class FakeEmbedder:
    """Stands for ``AsyncEmbedder`` and for the ``Embedder`` in it."""

    name: str = "all-MiniLM-L6-v2"
    max_tokens: int = 256
    is_loaded: bool = True
    error: Exception | None = None
    seen: list[Any] = field(default_factory=list)

    async def embedder(self) -> "FakeEmbedder":
        return self

    async def embed(self, inputs: Any, *, dimension: int | None = None) -> Embeddings:
        if self.error is not None:
            raise self.error
        self.seen.append((list(inputs), dimension))
        return Embeddings(
            vectors=np.array([ROW[:dimension] for _ in inputs], dtype=np.float32),
            num_tokens=[3] * len(inputs),
            is_cut=[len(text) > 100 for text in inputs],
        )


def ask(embedder: FakeEmbedder | None = None, **fields: Any) -> Any:
    service = make_service(embedder=embedder or FakeEmbedder())
    return post(service, PATH, {"model": "mistral-embed", "input": "x", **fields})


def test_answer_has_all_keys_that_old_and_new_clients_need() -> None:
    body = ask(input=["a", "b"]).json()
    assert body["object"] == "list"
    assert body["id"].startswith("embd-")
    assert body["model"] == "mistral-embed"
    assert [row["index"] for row in body["data"]] == [0, 1]
    assert body["data"][0]["object"] == "embedding"
    assert body["data"][0]["embedding"] == pytest.approx(ROW)
    assert body["usage"] == {"prompt_tokens": 6, "completion_tokens": 0, "total_tokens": 6}
    assert body["dimension"] == 4
    assert body["embedding_model"] == "all-MiniLM-L6-v2"
    assert not {"warning", "truncated"} & set(body)


def test_base64_is_little_endian_float32() -> None:
    text = ask(encoding_format="base64").json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(text), dtype="<f4").tolist() == pytest.approx(ROW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
def test_every_form_of_input_is_read(value: Any, expected: list[Any]) -> None:
    embedder = FakeEmbedder()
    assert ask(embedder, input=value).status_code == 200
    assert embedder.seen == [(expected, None)]


@pytest.mark.parametrize("name", ["output_dimension", "dimensions"])
def test_both_names_of_the_dimension_are_one_setting(name: str) -> None:
    embedder = FakeEmbedder()
    assert ask(embedder, **{name: 2}).json()["dimension"] == 2
    assert embedder.seen == [(["x"], 2)]


def test_inputs_that_were_cut_are_named() -> None:
    body = ask(input=["short", "long " * 50]).json()
    assert body["truncated"] == [1]
    assert "256 tokens" in body["warning"]


@pytest.mark.parametrize(
    ("fields", "status", "told"),
    [
        ({"output_dtype": "int8"}, 400, 'output_dtype is "int8", which is not supported'),
        ({"encoding_format": "hex"}, 400, 'encoding_format is "hex"'),
        ({"output_dimension": 0}, 400, "output_dimension is 0"),
        ({"output_dimension": 2, "dimensions": 3}, 400, "two names"),
        ({"input": []}, 400, "input"),
        ({"input": [1, "a"]}, 422, "input"),
        ({"inputs": "x"}, 422, "unknown field inputs"),
        ({"model": "nope"}, 400, "Invalid model: nope"),
        ({"model": "mixtral-test"}, 400, "Invalid model"),
    ],
)
def test_wrong_requests_are_refused(fields: dict[str, Any], status: int, told: str) -> None:
    response = ask(**fields)
    assert response.status_code == status, response.text
    assert told in response.json()["message"]


@pytest.mark.parametrize(
    ("error", "status"), [(InvalidRequest("no."), 400), (QueueFull("full."), 429)]
)
def test_errors_of_the_embedder_have_their_status(error: Exception, status: int) -> None:
    assert ask(FakeEmbedder(error=error)).status_code == status


def test_without_an_embedder_the_answer_says_how_to_get_one() -> None:
    response = post(make_service(), PATH, {"model": "mistral-embed", "input": "x"})
    assert response.status_code == 400
    assert "pip install 'mixtral[embed]'" in response.json()["message"]
