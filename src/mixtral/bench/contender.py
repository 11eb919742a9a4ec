"""Who is timed: anything that can run prompts greedily and say how long each step took.

``MixtralContender`` is this project's engine: scheduler, block cache, sampler and all, exactly what
a request goes through. A peer offers the same things (``peer``, ``llama_cpp``).
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mixtral.bench.weights import StepWeights
from mixtral.config import EngineConfig
from mixtral.engine import Engine, SamplingParams
from mixtral.loading import unpacked_tensors
from mixtral.model import CpuTransformer, LanguageModel, Transformer

_BLOCK_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedRun:
    """One greedy run of a batch of prompts."""

    prefill_s: float
    """Seconds of the one step that ran the prompts and chose each first token."""
    decode_s: list[float]
    """Seconds of each further step."""
    token_ids: list[list[int]]
    """New tokens of each prompt, one more than there are decode steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How much an engine must be able to hold."""

    sequences: int
    """Most prompts in a run."""
    tokens: int
    """Most tokens of one sequence, prompt and answer together."""
    slots: int
    """Most tokens of all sequences of a run."""


class Contender(Protocol):
    """An engine under test; all sides of a comparison look like this."""

    @property
    def name(self) -> str:
        """What the results call it."""

    @property
    def weights(self) -> StepWeights:
        """What its steps read."""

    def describe(self) -> Mapping[str, str]:
        """Return its version and what it chose, for the report."""

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Return next-token logits after each token, [T, V], float32, on the CPU."""

    def run(self, prompts: Sequence[Sequence[int]], num_decode_steps: int) -> TimedRun:
        """Run prompts of equal length in one step, then decode greedily, timing each step.

        A step ends when its tokens are Python integers.
        """


class MixtralContender:
    """The engine of this project.

    Args:
        model: The model, in evaluation mode.
        room: What it must hold.
        format_name: What the results call its weights.
    """

    def __init__(self, model: LanguageModel, room: Room, *, format_name: str) -> None:
        self._model = model
        sizes = ((name, tensor.nbytes) for name, tensor in stored_tensors(model))
        self._weights = StepWeights.of(model.config, sizes, format_name=format_name)
        # Each sequence may leave its last block partly empty.
        num_blocks = -(-room.slots // _BLOCK_SIZE) + room.sequences
        self._engine = Engine(
            model,
            EngineConfig(
                num_blocks=num_blocks,
                block_size=_BLOCK_SIZE,
                max_num_seqs=room.sequences,
                max_num_batched_tokens=room.slots,
                enable_prefix_cache=False,  # repeated runs would find their own prompts
            ),
            max_model_len=room.tokens,
        )

    @property
    def name(self) -> str:
        """What the results call it."""
        return "mixtral"

    @property
    def weights(self) -> StepWeights:
        """What its steps read."""
        return self._weights

    def describe(self) -> Mapping[str, str]:
        """Return nothing: the commit is in the report."""
        return {}

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Return next-token logits after each token, [T, V], float32, on the CPU."""
        return self._model.whole_logits(token_ids).cpu()

    def run(self, prompts: Sequence[Sequence[int]], num_decode_steps: int) -> TimedRun:
        """Run prompts in one step, then decode greedily, timing each step."""
        params = SamplingParams(temperature=0.0, max_tokens=num_decode_steps + 1, ignore_eos=True)
        answers: dict[int, list[int]] = {self._engine.add(p, params): [] for p in prompts}
        seconds = []
        for _ in range(num_decode_steps + 1):
            begin = time.perf_counter()
            outputs = self._engine.step()
            seconds.append(time.perf_counter() - begin)
            for output in outputs:
                answers[output.sequence_id].append(output.token_id)
        return TimedRun(
            prefill_s=seconds[0], decode_s=seconds[1:], token_ids=list(answers.values())
        )


def stored_tensors(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a model as it holds them, ``NAME.packed`` among them."""
    if isinstance(model, CpuTransformer):
        yield from model.tensors.items()
    elif isinstance(model, Transformer):
        yield from ((name, parameter.data) for name, parameter in model.named_parameters())


def is_packed(model: LanguageModel) -> bool:
    """Whether a model holds low-bit weights."""
    return any(name.endswith(".packed") for name, _ in stored_tensors(model))


def plain_tensors(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a model, packed ones as bfloat16, one at a time."""
    stored = stored_tensors(model)
    return unpacked_tensors(stored, model.config) if is_packed(model) else stored


def random_prompts(
    num_prompts: int, num_tokens: int, *, vocab_size: int, seed: int
) -> list[list[int]]:
    """Return random prompts; they differ from each other, as the routing of real ones does."""
    generator = random.Random(seed)
    return [
        [generator.randrange(vocab_size) for _ in range(num_tokens)] for _ in range(num_prompts)
    ]
