"""Perplexity in its three definitions, against loops that spell them out."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from mixtral import LLM
from mixtral.cli import perplexity as command
from mixtral.errors import ConfigError
from mixtral.eval.perplexity import (
    Window,
    half_windows,
    measure_perplexity,
    strided_windows,
)
from mixtral.eval.token_scores import TokenScorer

TEXT = "The sea was grey, and the boats stayed in. Nobody asked why, for they all knew it. " * 12


@pytest.fixture(scope="module")
def llm() -> LLM:
    # 16 tokens in a step: texts run in many chunks.
    return LLM(
        "random:nano",
        layers=1,
        dtype="float32",
        device="cpu",
        max_model_len=512,
        max_num_batched_tokens=16,
    )


@pytest.fixture(scope="module")
def ids(llm: LLM) -> list[int]:
    return llm.tokenizer.encode(TEXT)[:90]


def losses(llm: LLM, token_ids: Sequence[int]) -> Tensor:
    """Return -log p of every token but the first, from the logits of one pass."""
    log_probs = llm.logits(token_ids).double().log_softmax(dim=-1)
    return -log_probs[:-1].gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0]


@pytest.mark.parametrize("first", [1, 2, 15, 16, 17, 89])
def test_scores_are_those_of_one_pass_over_the_whole_text(
    llm: LLM, ids: list[int], first: int
) -> None:
    scores = TokenScorer.of(llm)(ids, first)
    assert torch.allclose(-scores, losses(llm, ids)[first - 1 :], atol=1e-5)


def test_logits_of_a_long_text_never_lie_in_memory_together(
    llm: LLM, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, rows = llm._model.step, []

    def listen(*arguments: object) -> Tensor:
        logits = step(*arguments)  # type: ignore[arg-type]
        rows.append(len(logits))
        return logits

    monkeypatch.setattr(llm._model, "step", listen)
    TokenScorer.of(llm)([*ids[:1], *reversed(ids)], 60)  # other tokens: nothing is cached
    assert max(rows) <= 16
    assert sum(rows) == 91 - 60


def test_text_as_long_as_the_context_is_scored_to_its_end(llm: LLM, ids: list[int]) -> None:
    longest = (ids * 6)[: llm.max_model_len]
    assert len(TokenScorer.of(llm)(longest, 1)) == llm.max_model_len - 1


def llama_cpp(llm: LLM, tokens: list[int], n_ctx: int) -> tuple[float, float]:
    """Spell out ``perplexity`` of tools/perplexity/perplexity.cpp, line by line."""
    first = n_ctx // 2
    nll = nll2 = 0.0
    count = 0
    for i in range(len(tokens) // n_ctx):
        chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
        chunk[0] = llm.tokenizer.bos_id
        logits = llm.logits(chunk).double()
        for j in range(n_ctx - 1 - first):
            row = logits[first + j]
            loss = math.log(sum(math.exp(x) for x in (row - row.max()).tolist())) + float(
                row.max() - row[chunk[first + j + 1]]
            )
            nll, nll2, count = nll + loss, nll2 + loss * loss, count + 1
    nll, nll2 = nll / count, nll2 / count
    return math.exp(nll), math.sqrt((nll2 - nll * nll) / (count - 1)) * math.exp(nll)


@pytest.mark.parametrize("context", [9, 16])
def test_windows_are_llama_cpps(llm: LLM, ids: list[int], context: int) -> None:
    tokens = ids[:40]
    expected, error = llama_cpp(llm, tokens, context)
    windows = half_windows(tokens, context=context, bos_id=llm.tokenizer.bos_id)
    found = measure_perplexity(TokenScorer.of(llm), [("a", windows)], definition="windows")
    assert found.perplexity == pytest.approx(expected, rel=1e-5)
    assert found.error == pytest.approx(error, rel=1e-4)
    assert found.num_tokens == len(tokens) // context * (context - context // 2 - 1)


@pytest.mark.parametrize(("context", "stride"), [(32, 16), (32, 31), (33, 7), (200, 50)])
def test_strided_windows_are_those_of_the_guide(
    llm: LLM, ids: list[int], context: int, stride: int
) -> None:
    total, count, previous_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):  # the loop of the guide
        end = min(begin + context, len(ids))
        target_length = end - previous_end
        labelled = losses(llm, ids[begin:end])[-target_length:]
        total, count = total + float(labelled.sum()), count + len(labelled)
        previous_end = end
        if end == len(ids):
            break
    windows = strided_windows(ids, context=context, stride=stride)
    found = measure_perplexity(TokenScorer.of(llm), [("a", windows)], definition="strided")
    assert found.num_tokens == count == len(ids) - 1
    assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-5)


def test_one_pass_scores_every_token_after_the_first(llm: LLM, ids: list[int]) -> None:
    window = Window(token_ids=ids, first=1)
    found = measure_perplexity(TokenScorer.of(llm), [("a", [window])], definition="whole")
    assert found.mean_loss == pytest.approx(float(losses(llm, ids).mean()), rel=1e-5)


def test_model_that_guesses_evenly_has_the_perplexity_of_its_vocabulary() -> None:
    def guess(token_ids: Sequence[int], first: int) -> Tensor:
        return torch.full((len(token_ids) - first,), -math.log(500), dtype=torch.float64)

    documents = [(name, half_windows(range(100), context=16, bos_id=1)) for name in "ab"]
    found = measure_perplexity(guess, documents, definition="windows")
    assert found.perplexity == pytest.approx(500)
    assert found.error == pytest.approx(0, abs=0.01)
    assert [document.num_windows for document in found.documents] == [6, 6]


def call(*arguments: object) -> Result:
    fixed = ["--model", "random:nano", "--layers", 1, "--device", "cpu", "--dtype", "float32"]
    return CliRunner().invoke(command.app, [str(each) for each in (*fixed, *arguments)])


def test_command_drops_one_line_end_as_llama_cpp_does(tmp_path: Path, llm: LLM) -> None:
    found = []
    for name, end in (("a.raw", ""), ("b.raw", "\n")):
        (tmp_path / name).write_text(TEXT + end)
        result = call("--text", tmp_path / name, "--context", 16, "--json")
        assert result.exit_code == 0, result.exception
        found.append(json.loads(result.stdout))
    windows = half_windows(llm.tokenizer.encode(TEXT), context=16, bos_id=llm.tokenizer.bos_id)
    expected = measure_perplexity(TokenScorer.of(llm), [("a", windows)], definition="windows")
    assert found[0]["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
    assert found[0]["perplexity"] == found[1]["perplexity"]
    assert found[0]["settings"]["texts_sha256"] != found[1]["settings"]["texts_sha256"]


def test_command_says_which_documents_are_too_short(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in (TEXT, "Too short.")]
    (tmp_path / "two.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    result = call("--text", tmp_path, "--context", "64", "--stride", "32", "--out", out)
    assert result.exit_code == 0, result.exception
    assert result.stdout == (out / "report.md").read_text()
    assert json.loads((out / "results.json").read_text())["definition"] == "strided"
    result = call("--text", tmp_path, "--context", "64", "--out", out)
    assert "left out: 1 of 2" in result.stderr
    assert "| too short |" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "3"], "context is '3'"),
        (["--context", "1k,2k"], "it must be one number"),
        (["--context", 64, "--stride", 64], "stride is 64; it must be less than the context, 64"),
        (["--whole", "--stride", 8], "exclude each other"),
        (["--by-context", "64", "--whole"], "exclude each other"),
        (["--context", 1024, "--max-model-len", 512], "up to 1024 tokens, and the context"),
        (["--context", 512], "none of the 1 texts is as long as a window"),
        (["--whole", "--max-model-len", 64], "the context of this model is 64"),
        (["--by-context", "32,400", "--scored", 8], "the longest context is 400"),
        (["--by-context", "64,128"], "scored is 256; it must be at least 1 and less"),
        (["--by-context", "64", "--windows", 1, "--scored", 8], "windows is 1"),
        (["--out", __file__], "which is a file"),
    ],
)
def test_command_refuses_what_cannot_work_in_one_line(
    tmp_path: Path, arguments: list[object], message: str
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    error = call("--text", tmp_path / "text.txt", *arguments).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)
    assert "\n" not in str(error)
