"""Turns the scheduler's choice into one forward pass of the model."""

import torch
from torch import Tensor

from mixtral.engine.scheduler import ScheduledSequence
from mixtral.model import LanguageModel, RouterTrace, TokenBatch
from mixtral.model.language_model import Cache
from mixtral.model.router_trace import ExpertLoad


class Runner:
    """The model with its KV cache.

    Args:
        model: The model, in evaluation mode.
        cache: Its KV cache.
    """

    def __init__(self, model: LanguageModel, cache: Cache) -> None:
        self._model = model
        self._cache = cache

    def run(
        self,
        scheduled: list[ScheduledSequence],
        *,
        needs_trace: bool,
        expert_load: ExpertLoad | None,
    ) -> tuple[Tensor, RouterTrace | None]:
        """Run the scheduled tokens and return next-token logits, and the routing if asked for.

        Args:
            scheduled: The sequences of the step.
            needs_trace: Whether to return the routing of every token.
            expert_load: Set to the visits of each expert, [L, E], where given.

        Returns:
            [R, V], float32: for each sequence that is ready, the logits after its last token and
            after each of its guesses, and for each that is scored those after the tokens before its
            targets; then the routing of all T tokens.
        """
        batch = self._lay_out(scheduled)
        if not needs_trace:
            return self._model.step(batch, self._cache, expert_load), None
        logits, trace = self._model.traced_step(batch, self._cache)
        if expert_load is not None:
            expert_load[:] = trace.expert_load()
        return logits, trace

    def _lay_out(self, scheduled: list[ScheduledSequence]) -> TokenBatch:
        size = self._cache.block_size
        input_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        context_lens = []
        rows: list[int] = []
        for item in scheduled:
            sequence = item.sequence
            begin = sequence.num_computed_tokens
            end = begin + item.num_new_tokens
            input_ids += sequence.token_slice(begin, end)
            input_ids += item.guess
            end += len(item.guess)
            positions += range(begin, end)
            table = sequence.block_table
            slots += [table[i // size] * size + i % size for i in range(begin, end)]
            starts.append(len(input_ids))
            context_lens.append(end)
            rows += range(len(input_ids) - item.num_logits, len(input_ids))
        device = self._model.device
        return TokenBatch(
            input_ids=torch.tensor(input_ids, device=device),
            positions=torch.tensor(positions, device=device),
            starts=starts,
            context_lens=context_lens,
            block_tables=[item.sequence.block_table for item in scheduled],
            slot_mapping=torch.tensor(slots, device=device),
            logit_rows=rows,
            adapter_ids=[item.sequence.adapter for item in scheduled],
        )
