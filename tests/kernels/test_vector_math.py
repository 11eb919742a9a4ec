"""Each of PyTorch's elementwise functions is looked up by one thread, before a step needs it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mixtral.config import ModelConfig
from mixtral.kernels.cpu import load_library
from mixtral.kernels.vector_math import find_vector_math
from mixtral.model import CpuTransformer, TokenBatch, Transformer
from mixtral.random_weights import random_tensors
from tests.models_for_tests import tiny_config

CONFIG = tiny_config(max_position_embeddings=8192)


class Calls(TorchDispatchMode):
    """Notes how many numbers each operation of one tensor was given, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[tuple[str, torch.dtype], list[int]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].device.type == "cpu":
            key = (func.overloadpacket.__name__, args[0].dtype)
            self.sizes.setdefault(key, []).append(args[0].numel())
        return func(*args, **(kwargs or {}))


def cpu_transformer(config: ModelConfig, tensors: Iterable[tuple[str, Tensor]]) -> CpuTransformer:
    if load_library() is None:
        pytest.skip("the C++ library is not built here")
    return CpuTransformer(config, tensors)


@pytest.mark.parametrize("make", [Transformer.from_tensors, cpu_transformer])
def test_a_model_has_each_function_looked_up_with_one_number(make: Callable[..., object]) -> None:
    tensors = list(random_tensors(CONFIG, dtype=torch.bfloat16, seed=0))
    find_vector_math.cache_clear()
    with Calls() as calls:
        make(CONFIG, tensors)
    for name in ("cos", "sin", "exp", "log", "sqrt", "tanh", "erf"):
        for dtype in (torch.float32, torch.float64):
            assert calls.sizes[name, dtype][0] == 1, (name, dtype)


def test_the_first_cosine_of_a_process_is_that_of_one_number() -> None:
    find_vector_math.cache_clear()
    with Calls() as calls:
        model = Transformer.from_tensors(
            CONFIG, random_tensors(CONFIG, dtype=torch.float32, seed=0)
        )
        model(TokenBatch.from_sequences([[3] * 5000]))
    assert calls.sizes["cos", torch.float32] == [1, 5000 * 8]  # the rotary embedding, K / 2 each


def test_functions_are_looked_up_once() -> None:
    find_vector_math()
    with Calls() as calls:
        find_vector_math()
    assert not calls.sizes
