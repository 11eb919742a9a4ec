"""Run a model over whole sequences, step by step, and see what its routers and its head say.

A step has at most 512 tokens, so that the logits over the vocabulary take 67 MB and not gigabytes;
the keys and values of a sequence stay in a cache of its own between its steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError, UnsupportedError
from mixtral.model import LanguageModel, RouterTrace, TokenBatch, Transformer
from mixtral.model.adapter import Adapter
from mixtral.model.router_trace import RouterRecorder

_STEP_TOKENS = 512
_BLOCK_SIZE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one step of a sequence gave."""

    begin: int
    """Position of its first token."""
    trace: RouterTrace
    """Routing of its tokens; places that a layer leaves free are -1 in ``expert_ids``."""
    logits: Tensor | None
    """Logits after each token, [T, V], float32, on the model's device; None: not asked for."""


class RoutedModel:
    """A model with routers, and the adapter that it runs with.

    Args:
        model: A mixture of experts; its adapters are replaced by ``adapter``.
        name: What it is called.
        adapter: LoRA adapter of every token; None runs the model as it is.

    Raises:
        UnsupportedError: The model is dense.
        CheckpointError: The adapter is for another model.
    """

    def __init__(self, model: LanguageModel, name: str, *, adapter: Adapter | None = None) -> None:
        if model.config.is_dense:
            raise UnsupportedError(
                f"{name} is dense; it has no router to report on. Name a mixture of experts, such "
                "as nano."
            )
        model.set_adapters([] if adapter is None else [adapter])
        self.model = model
        self.name = name
        self.adapter = adapter

    @property
    def config(self) -> ModelConfig:
        """Geometry of the model."""
        return self.model.config

    def steps(
        self, token_ids: Sequence[int], *, needs_logits: bool, step_tokens: int = _STEP_TOKENS
    ) -> Iterator[Step]:
        """Run one sequence and yield its steps in order.

        Args:
            token_ids: T ids; nothing is added to them.
            needs_logits: Whether to run the output head for every token.
            step_tokens: Most tokens of a step.

        Raises:
            ConfigError: There is no token, one is not in the vocabulary, or there are more than
                the context holds.
        """
        check_sequence(token_ids, self.config)
        cache = self._new_cache(len(token_ids))
        for begin in range(0, len(token_ids), step_tokens):
            piece = token_ids[begin : begin + step_tokens]
            batch = self._batch(piece, begin, cache, needs_logits=needs_logits)
            with self.model.quiet_neighbours():
                logits, trace = _traced_step(self.model, batch, cache)
            yield Step(begin=begin, trace=trace, logits=logits if needs_logits else None)

    def route(self, token_ids: Sequence[int]) -> RouterTrace:
        """Return the routing of one whole sequence, on the CPU."""
        return joined([step.trace for step in self.steps(token_ids, needs_logits=False)])

    def _new_cache(self, tokens: int) -> Any:
        blocks = -(-tokens // _BLOCK_SIZE)
        return self.model.new_cache(num_blocks=blocks, block_size=_BLOCK_SIZE)

    def _batch(
        self, piece: Sequence[int], begin: int, cache: Any, *, needs_logits: bool
    ) -> TokenBatch:
        device = self.model.device
        end = begin + len(piece)
        # The blocks lie in order, so a token's slot is its position.
        positions = torch.arange(begin, end, device=device)
        return TokenBatch(
            input_ids=torch.tensor(piece, dtype=torch.int64, device=device),
            positions=positions,
            starts=(0, len(piece)),
            context_lens=(end,),
            block_tables=(range(-(-end // _BLOCK_SIZE)),),
            slot_mapping=positions,
            logit_rows=range(len(piece)) if needs_logits else (len(piece) - 1,),
            adapter_ids=(None if self.adapter is None else 0,),
        )


def joined(traces: Sequence[RouterTrace]) -> RouterTrace:
    """Return the routing of consecutive steps as that of one sequence, on the CPU."""
    return RouterTrace(
        expert_ids=torch.cat([trace.expert_ids.cpu() for trace in traces]),
        routing_weights=torch.cat([trace.routing_weights.cpu() for trace in traces]),
        router_logits=torch.cat([trace.router_logits.cpu() for trace in traces]),
    )


def check_sequence(token_ids: Sequence[int], config: ModelConfig) -> None:
    """Check that a model can run a sequence.

    Raises:
        ConfigError: It is empty, too long, or holds an id that is not in the vocabulary.
    """
    longest = config.max_position_embeddings
    if not 1 <= len(token_ids) <= longest:
        raise ConfigError(
            f"a sequence has {len(token_ids)} tokens; it must have from 1 to {longest}, the "
            "context of the model. Cut the text into pieces."
        )
    lowest, highest = min(token_ids), max(token_ids)
    if lowest < 0 or highest >= config.vocab_size:
        raise ConfigError(
            f"a sequence has token ids from {lowest} to {highest}; they must be from 0 to "
            f"{config.vocab_size - 1}. Use the tokenizer of this model."
        )


class _RaggedRecorder(RouterRecorder):
    """Collects layers that use different numbers of experts, the narrow ones filled with -1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def add(self, expert_ids: Tensor, routing_weights: Tensor, router_logits: Tensor) -> None:
        """Note one layer: [T, A], [T, A] and [T, E], with A up to the width."""
        free = (0, self._width - expert_ids.shape[1])
        super().add(
            functional.pad(expert_ids, free, value=-1),
            functional.pad(routing_weights, free),
            router_logits,
        )


def _traced_step(model: LanguageModel, batch: TokenBatch, cache: Any) -> tuple[Tensor, RouterTrace]:
    if not isinstance(model, Transformer):
        return model.traced_step(batch, cache)
    with torch.inference_mode():
        recorder = _RaggedRecorder(model.config.num_experts_per_tok)
        hidden = cast(Tensor, model(batch, cache, recorder))
        rows = torch.tensor(batch.wanted_rows, device=hidden.device)
        return model.logits(hidden.index_select(0, rows)), recorder.trace()
