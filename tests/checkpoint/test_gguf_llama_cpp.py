"""llama.cpp loads the files that we write and gives the same greedy tokens on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixtral.checkpoint import open_checkpoint
from mixtral.checkpoint.gguf import GgufQuantization, open_gguf, write_gguf
from mixtral.model import TokenBatch, Transformer
from mixtral.model_source import NANO_FOLDER
from mixtral.tokenizer import Tokenizer, load_tokenizer
from tests.models_for_tests import tiny_model

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

QUESTIONS = (
    "What is a mixture of experts?",
    "What is 2 + 3?",
    "Tell me a story about a fox.",
    "What is the capital of France?",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("v3")


@contextmanager
def llama(path: Path) -> Iterator[Any]:
    """Open a file in llama.cpp, with a float32 KV cache."""
    model = llama_cpp.Llama(
        str(path),
        n_ctx=256,
        logits_all=True,
        n_threads=1,
        n_threads_batch=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    try:
        yield model
    finally:
        model.close()


def greedy(model: Any, token_ids: list[int], count: int) -> tuple[list[int], Tensor]:
    """Return llama.cpp's greedy tokens, and its logits after each token of the prompt."""
    model.reset()
    model.eval(token_ids)
    logits = torch.tensor(model.scores[: len(token_ids)])
    found: list[int] = []
    while len(found) < count:
        found.append(int(model.scores[model.n_tokens - 1].argmax()))
        if found[-1] == 2:
            break
        model.eval(found[-1:])
    return found, logits


def our_model(path: Path) -> Transformer:
    checkpoint = open_gguf(path)
    config = checkpoint.config.replace(dtype="float32")
    tensors = checkpoint.tensors(dtype=torch.float32)
    return Transformer.from_tensors(config, tensors, torch.device("cpu"))


@torch.inference_mode()
def our_logits(model: Transformer, token_ids: list[int]) -> Tensor:
    batch = TokenBatch.from_sequences([token_ids], torch.device("cpu"))
    return model.logits(model(batch))


@pytest.mark.parametrize("quantization", ["f16", "bf16", "q8_0", "q4_0"])
def test_nano_answers_the_same_in_llama_cpp(
    quantization: GgufQuantization, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path, nano = tmp_path / "nano.gguf", open_checkpoint(NANO_FOLDER)
    write_gguf(path, nano.config, nano.tensors(), quantization=quantization, tokenizer_version="v3")
    ours = our_model(path)
    with llama(path) as theirs:
        for question in QUESTIONS:
            prompt = tokenizer.encode_chat([{"role": "user", "content": question}])
            answer, _ = greedy(theirs, prompt, 32)
            # Our greedy tokens are these if each is the best one after those before it.
            logits = our_logits(ours, prompt + answer)[len(prompt) - 1 : -1]
            assert logits.argmax(-1).tolist() == answer, question


@pytest.mark.parametrize(
    ("quantization", "tolerance"),
    # llama.cpp rounds the activations to the type of the weights, in Q8_0 and Q4_0 to 8 bits.
    [("f16", 0.003), ("bf16", 0.02), ("q8_0", 0.04), ("q4_0", 0.05)],
)
@pytest.mark.parametrize("changes", [{}, {"num_local_experts": 0, "num_experts_per_tok": 0}])
def test_random_model_without_tokenizer_has_the_same_logits_in_llama_cpp(
    quantization: GgufQuantization,
    tolerance: float,
    changes: dict[str, int],
    tmp_path: Path,
) -> None:
    model, path = tiny_model(seed=3, **changes), tmp_path / "tiny.gguf"
    weights = model.named_parameters()
    write_gguf(path, model.config, weights, quantization=quantization, tokenizer_version=None)
    prompt = [1, 5, 200, 17, 300, 411]
    with llama(path) as theirs:
        answer, logits = greedy(theirs, prompt, 8)
    ours = our_logits(our_model(path), prompt + answer)
    difference = (ours[: len(prompt)] - logits).norm() / logits.norm()
    assert float(difference) < tolerance
    if quantization == "f16":
        assert ours[len(prompt) - 1 : -1].argmax(-1).tolist() == answer


def test_llama_cpp_tokenizes_with_our_vocabulary_as_we_do(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path, nano = tmp_path / "nano.gguf", open_checkpoint(NANO_FOLDER)
    write_gguf(path, nano.config, nano.tensors(), quantization="q4_0", tokenizer_version="v3")
    texts = (
        "Hello world",
        " two  spaces\n\tand a tab",
        "h\u00e9 \u68a6 \U0001f40c",
        "[INST] 1 [/INST]",
    )
    with llama(path) as theirs:
        for text in texts:
            assert theirs.tokenize(text.encode(), add_bos=True) == tokenizer.encode(text), text
        assert (theirs.token_bos(), theirs.token_eos()) == (1, 2)
