"""Who is timed: anything that can run prompts greedily and say how long each step took.

``MixtralContender`` is this project's engine: scheduler, block cache, sampler and all, exactly what
a request goes through. A peer offers the same three things (``peer``).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mixtral.config import EngineConfig, ModelConfig
from mixtral.engine import Engine, SamplingParams
from mixtral.model import LanguageModel

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


class Contender(Protocol):
    """An engine under test; both sides of a comparison look like this."""

    @property
    def name(self) -> str:
        """What the results call it."""

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
        max_batch: Most prompts in a run.
        max_tokens: Most tokens of one sequence, prompt and answer together.
    """

    def __init__(self, model: LanguageModel, *, max_batch: int, max_tokens: int) -> None:
        self._model = model
        blocks_per_sequence = -(-max_tokens // _BLOCK_SIZE)
        self._engine = Engine(
            model,
            EngineConfig(
                num_blocks=max_batch * blocks_per_sequence,
                block_size=_BLOCK_SIZE,
                max_num_seqs=max_batch,
                max_num_batched_tokens=max_batch * max_tokens,
            ),
            max_model_len=max_tokens,
        )

    @property
    def name(self) -> str:
        """What the results call it."""
        return "mixtral"

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


def count_experts_per_step(
    model: LanguageModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Count the experts that the steps of a greedy run read, from the routers themselves.

    The whole sequences run once more, untimed, with a recorder. In a step the batch reads each
    expert that one of its tokens chose once: with 8 sequences and 2 of 8 experts per token that
    is about 7 per layer, not 16 and not 8.

    Args:
        model: The model that answered.
        prompts: S prompts of equal length.
        answers: The S answers; the last token of each was never run.

    Returns:
        Distinct experts of all layers together: in the prefill step, and the mean over the decode
        steps (0 where there were none).
    """
    num_layers, num_prompt = model.config.num_hidden_layers, len(prompts[0])
    num_decode_steps = len(answers[0]) - 1
    if model.config.is_dense:
        return float(num_layers), float(num_layers if num_decode_steps else 0)
    sequences = [[*p, *a[:-1]] for p, a in zip(prompts, answers, strict=True)]
    chosen = torch.stack([model.route(ids).expert_ids.cpu() for ids in sequences])  # [S, T, L, A]
    decode_counts = [
        _count_distinct(chosen[:, num_prompt + step]) for step in range(num_decode_steps)
    ]
    mean = sum(decode_counts) / len(decode_counts) if decode_counts else 0.0
    return float(_count_distinct(chosen[:, :num_prompt].flatten(0, 1))), mean


def count_weight_bytes(config: ModelConfig, num_experts: float, element_bytes: int) -> int:
    """Return the bytes of the weights that one step reads.

    Attention, norms, routers and output head are read whole, each expert that some token chose
    once; the few rows of the embedding are left out.

    Args:
        config: Geometry.
        num_experts: Distinct experts of all layers together.
        element_bytes: Bytes of one weight.
    """
    all_experts = config.num_hidden_layers * config.num_experts
    dense = config.num_parameters - all_experts * config.num_expert_parameters
    if not config.tie_word_embeddings:
        dense -= config.vocab_size * config.hidden_size
    return round((dense + num_experts * config.num_expert_parameters) * element_bytes)


def count_operations(
    config: ModelConfig, *, batch: int, new_tokens: int, context_tokens: int
) -> int:
    """Return the operations of one step, a multiply-add counted as two.

    Args:
        config: Geometry.
        batch: S, sequences.
        new_tokens: Tokens that each runs in the step; the head runs on the last of them only.
        context_tokens: Tokens that each has seen after the step.
    """
    head = config.vocab_size * config.hidden_size
    embeddings = head if config.tie_word_embeddings else 2 * head
    per_token = config.num_active_parameters - embeddings
    # New token i sees itself and all before it: the sum of an arithmetic series.
    pairs = new_tokens * (2 * context_tokens - new_tokens + 1) // 2
    attention = 2 * pairs * config.num_attention_heads * config.head_dim
    layers = config.num_hidden_layers
    return 2 * batch * (new_tokens * per_token + head + layers * attention)


def _count_distinct(expert_ids: Tensor) -> int:
    """Sum over layers of the distinct experts in [T, L, A]."""
    return sum(len(layer.unique()) for layer in expert_ids.unbind(1))
