"""Each test of this folder runs on a GPU with ``make test-gpu``, on the CPU with test-slow."""

import pytest
import torch


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("cpu", marks=pytest.mark.slow),  # tests these tests; others test the CPU
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("this torch sees no CUDA GPU")
    return name
