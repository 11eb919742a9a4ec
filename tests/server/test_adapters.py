"""Adapters over HTTP: a name each, chosen per request; what is wrong with one is said at once."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mixtral import LLM, AsyncLLM, SamplingParams
from mixtral.checkpoint.peft import write_adapter
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError, InvalidRequest
from mixtral.model_source import find_model
from mixtral.server.keys import KeyRing
from mixtral.server.service import Service
from mixtral.server.settings import ServerSettings
from mixtral.server.sources import Sources
from tests.adapters_for_tests import random_adapter
from tests.server.engine_for_tests import chat as chat_body
from tests.server.engine_for_tests import client_of, events_of, get, make_service, post

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Who are you?"}]
GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
FIELDS: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    config = find_model("random:nano", layers=2).config
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("json", "poems")):
        write_adapter(root / name, random_adapter(config, seed=seed), config)
    return {name: str(root / name) for name in ("json", "poems")}


@pytest.fixture(scope="module")
def llm(folders: dict[str, str]) -> LLM:
    return LLM("random:nano", layers=2, device="cpu", max_model_len=256, adapters=folders)


def served(
    llm: LLM, folders: dict[str, str], test: Callable[[httpx.AsyncClient], Awaitable[Any]]
) -> Any:
    """Run a test against a server of this model and its adapters."""

    async def main() -> Any:
        settings = ServerSettings(adapters=folders)
        service = Service(
            llm=AsyncLLM(llm),
            model_name="nano",
            aliases=settings.aliases_for("nano"),
            embedder=None,
            settings=settings,
            keys=KeyRing(),
            created=0,
            adapters=settings.adapters,
        )
        try:
            async with asyncio.timeout(60), client_of(service) as client:
                return await test(client)
        finally:
            await service.llm.close()

    return asyncio.run(main())


def fake_service(**settings: Any) -> Service:
    """A server with two adapters whose model is not asked."""
    service = make_service(**settings)
    adapters = {"json": "/adapters/json-v2", "poems": "/adapters/poems"}
    return Service(
        **{name: getattr(service, name) for name in Service.__slots__ if name != "adapters"},
        adapters=adapters,
    )


def test_each_name_asked_at_once_gives_its_own_answer(llm: LLM, folders: dict[str, str]) -> None:
    names = [None, "json", "poems", "json"]
    expected = [llm.chat(MESSAGES, GREEDY, adapter=name).text for name in names]

    async def ask(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        bodies = [{**FIELDS, "model": name or "nano", "messages": MESSAGES} for name in names]
        answers = await asyncio.gather(*(client.post(CHAT, json=body) for body in bodies))
        return [answer.json() for answer in answers]

    answers = served(llm, folders, ask)
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == expected
    assert [answer["model"] for answer in answers] == ["nano", "json", "poems", "json"]
    assert len(set(expected)) == 3


def test_every_generating_path_and_a_stream_take_the_name(
    llm: LLM, folders: dict[str, str]
) -> None:
    whole = llm.generate("Once upon", GREEDY, adapter="json")[0].text
    middle = llm.requests.fim("def f(", "return", GREEDY, adapter="json")
    expected_middle = llm.answer([middle])[0].text

    async def ask(client: httpx.AsyncClient) -> None:
        body = {**FIELDS, "model": "json", "prompt": "Once upon"}
        answer = await client.post("/v1/completions", json=body)
        assert answer.json()["choices"][0]["text"] == whole
        stream = await client.post("/v1/completions", json={**body, "stream": True})
        pieces = [json.loads(event) for event in events_of(stream)[:-1]]
        assert "".join(p["choices"][0]["text"] for p in pieces) == whole
        fim = {**FIELDS, "model": "json", "prompt": "def f(", "suffix": "return"}
        answer = await client.post("/v1/fim/completions", json=fim)
        assert answer.json()["choices"][0]["message"]["content"] == expected_middle
        answer = await client.post("/v1/tokenize", json={"model": "json", "text": "Hello"})
        assert answer.status_code == 200

    served(llm, folders, ask)


def test_python_streams_and_logits_take_the_name(llm: LLM) -> None:
    text = llm.chat(MESSAGES, GREEDY, adapter="poems").text
    pieces = llm.stream_chat(MESSAGES, GREEDY, adapter="poems")
    assert "".join(piece.text for piece in pieces) == text
    ids = llm.tokenizer.encode("Once upon")
    answer = llm.generate([ids], GREEDY, adapter="poems")[0]
    assert int(llm.logits(ids, adapter="poems")[-1].argmax()) == answer.token_ids[0]
    assert "".join(p.text for p in llm.stream(ids, GREEDY, adapter="poems")) == answer.text
    with pytest.raises(InvalidRequest, match="adapter is 'prose'; this model has json, poems"):
        llm.generate("Once", adapter="prose")


def test_models_lists_the_base_and_its_adapters() -> None:
    cards = {card["id"]: card for card in get(fake_service(), "/v1/models").json()["data"]}
    base, adapter = cards["mixtral-test"], cards["json"]
    assert (base["root"], base["parent"], base["type"]) == ("mixtral-test", None, "base")
    assert (
        adapter["root"] == "json-v2"
    )  # the name of the folder; where it lies is nobody's business
    assert adapter["parent"] == "mixtral-test"
    assert adapter["type"] == "fine-tuned"
    assert adapter["aliases"] == []
    assert adapter["max_context_length"] == base["max_context_length"]
    assert get(fake_service(), "/v1/models/poems").json()["id"] == "poems"


def test_unknown_name_is_refused_as_before_and_the_adapters_are_among_the_known() -> None:
    response = post(fake_service(), CHAT, chat_body(model="prose"))
    assert response.status_code == 400
    assert response.json()["code"] == "1500"
    assert "json, poems" in response.json()["message"]


def test_document_names_the_adapters() -> None:
    schemas = get(fake_service(), "/openapi.json").json()["components"]["schemas"]
    assert {"json", "poems"} <= set(schemas["ChatCompletionRequest"]["properties"]["model"]["enum"])


@pytest.mark.parametrize("name", ["nano", "mistral-small", "house-model"])
def test_adapter_with_a_name_of_the_model_is_refused(name: str) -> None:
    settings = ServerSettings(adapters={name: "some/folder"}, aliases={"house-model": "nano"})
    with pytest.raises(ConfigError, match=rf"{name} is a name of the model itself"):
        settings.check_adapter_names("nano")
    ServerSettings(adapters={"other": "some/folder"}).check_adapter_names("nano")


def settings_from(*texts: str) -> ServerSettings:
    given = {"adapters": list(texts)}
    return Sources(given=given, environ={}, file=None, model_types={}).settings()


def test_options_of_adapters_are_read_in_order() -> None:
    settings = settings_from("b=adapters/b", "a=C:=x")
    assert list(settings.adapters.items()) == [("b", "adapters/b"), ("a", "C:=x")]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("adapters/a",), "NAME=FOLDER"),
        (("=adapters/a",), "NAME=FOLDER"),
        (("a=x", "a=y"), "a=x and a=y; give one of them"),
        (("a b=x",), "a model name has"),
    ],
)
def test_wrong_options_of_adapters_are_one_clear_line(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        settings_from(*texts)
    assert "\n" not in str(caught.value)


def load_with(folder: Path | str) -> None:
    LLM("random:nano", layers=2, device="cpu", max_model_len=64, adapters={"json": folder})


def test_wrong_folders_are_one_clear_line_at_the_start(tmp_path: Path) -> None:
    config: ModelConfig = find_model("random:nano", layers=2).config
    other = config.replace(hidden_size=128, num_hidden_layers=1)
    write_adapter(tmp_path / "other", random_adapter(other), other)
    (tmp_path / "empty").mkdir()
    for folder, kind, message in (
        (tmp_path / "none", ConfigError, "adapter json is in .*none, which is no folder"),
        (tmp_path / "empty", CheckpointError, "adapter json: .*adapter_config.json"),
        (tmp_path / "other", CheckpointError, "adapter json: .*another model"),
    ):
        with pytest.raises(kind, match=message) as caught:
            load_with(folder)
        assert "\n" not in str(caught.value)
