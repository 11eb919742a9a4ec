"""The loop: schedule, run, sample, note. Token ids in, token ids out."""

import time
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from mixtral.config import EngineConfig
from mixtral.engine.block_manager import BlockManager
from mixtral.engine.constraint import Constraint
from mixtral.engine.expert_counter import ExpertCounter
from mixtral.engine.prompt_check import check_ids, check_prompt
from mixtral.engine.prompt_lookup import PromptLookup
from mixtral.engine.runner import Runner
from mixtral.engine.sampler import Sample, Sampler, TokenLogprob
from mixtral.engine.sampling_params import SamplingParams
from mixtral.engine.scheduler import ScheduledSequence, Scheduler
from mixtral.engine.scoring import TokenScore, score_tokens
from mixtral.engine.sequence import FinishReason, Sequence
from mixtral.engine.stats import EngineStats, StepReport
from mixtral.errors import ContextLengthExceeded, EngineError, InvalidRequest
from mixtral.model import LanguageModel
from mixtral.outputs import TokenRoute


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOutput:
    """One new token of one sequence."""

    sequence_id: int
    """The sequence it belongs to."""
    token_id: int
    """The token; -1 where the sequence ended with an error, or was scored."""
    logprob: TokenLogprob | None = None
    """Its log-probability, where asked for."""
    finish_reason: FinishReason | None = None
    """Why the sequence ended with this token; None while it goes on."""
    routing: list[TokenRoute] = field(default_factory=list)
    """Experts of the tokens that ran since the last output, where asked for."""
    error: EngineError | None = None
    """Why this one sequence could not go on."""
    scores: tuple[TokenScore, ...] = ()
    """Log-probabilities of its targets, where it was scored."""


class Engine:
    """Runs any number of sequences together over one model.

    Args:
        model: The model, in evaluation mode.
        config: Sizes of cache and steps.
        max_model_len: Longest context in tokens, prompt and answer together.
    """

    def __init__(self, model: LanguageModel, config: EngineConfig, *, max_model_len: int) -> None:
        self._model = model
        self._model_config = model.config
        self._config = config
        self.max_model_len = min(max_model_len, config.num_blocks * config.block_size)
        """Longest context in tokens that the model and the cache allow."""
        cache = model.new_cache(num_blocks=config.num_blocks, block_size=config.block_size)
        self._blocks = BlockManager(
            num_blocks=config.num_blocks,
            block_size=config.block_size,
            enable_prefix_cache=config.enable_prefix_cache,
        )
        self._scheduler = Scheduler(
            self._blocks,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_speculative_seqs=config.max_speculative_seqs,
        )
        self._runner = Runner(model, cache)
        self._sampler = Sampler()
        self._experts = ExpertCounter(model.config, counts_all=config.count_experts)
        self._sequences: dict[int, Sequence] = {}
        self._next_id = 0
        self._num_prompt_tokens = self._num_output_tokens = 0
        self._num_guessed = self._num_right = 0
        self.last_step: StepReport | None = None
        """The newest step that ran anything."""

    @property
    def has_unfinished(self) -> bool:
        """Whether any sequence runs or waits."""
        return self._scheduler.has_unfinished

    @property
    def num_preemptions(self) -> int:
        """Times that a sequence lost its cache blocks and had to run again."""
        return self._scheduler.num_preemptions

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a place."""
        return self._scheduler.num_waiting

    def add(
        self,
        prompt_token_ids: AbstractSequence[int],
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        leader_id: int | None = None,
        needs_routing: bool = False,
        priority: int = 0,
        owner: str = "",
        adapter: int | None = None,
    ) -> int:
        """Queue a sequence and return its number; ``params.n`` is the caller's to unfold.

        Args:
            prompt_token_ids: Its prompt.
            params: How to choose tokens and when to stop.
            constraint: What the answer must look like.
            leader_id: An earlier sequence of the same prompt, whose blocks this one shares.
            needs_routing: Whether to report the experts of each token; its prompt then runs whole.
            priority: Larger runs first, and may take the place of smaller.
            owner: Owners of one priority share the engine evenly.
            adapter: Place of its adapter among those of the model; None runs the model as it is.

        Raises:
            InvalidRequest: The prompt is empty, or a token id is not in the vocabulary.
            ContextLengthExceeded: Prompt and answer do not fit into the context.
        """
        prompt, max_tokens = self.check(prompt_token_ids, params)
        num_guesses = self._config.num_speculative_tokens
        sequence = Sequence(
            sequence_id=self._next_id,
            prompt_token_ids=prompt,
            params=params,
            max_tokens=max_tokens,
            eos_token_id=self._model_config.eos_token_id,
            priority=priority,
            owner=owner,
            constraint=constraint,
            leader=None if leader_id is None else self._sequences.get(leader_id),
            needs_routing=needs_routing,
            adapter=adapter,
            lookup=PromptLookup(prompt, num_guesses)
            if num_guesses and not (needs_routing or constraint)
            else None,
        )
        if constraint is not None:
            constraint.prepare(max_tokens)
        self._queue(sequence)
        return sequence.sequence_id

    def add_scored(
        self,
        prompt_token_ids: AbstractSequence[int],
        target_ids: AbstractSequence[int],
        *,
        leader_id: int | None = None,
        adapter: int | None = None,
    ) -> int:
        """Queue tokens to be scored and return the number of their sequence; nothing is generated.

        Target i is scored by what the model expects after token ``len(prompt) - len(targets) + i``;
        so a prompt of ``a b c`` with the targets ``c d`` gives log p(c | a b) and log p(d | a b c).
        All arrive in one output when the prompt has run. The tokens before may come from the cache.

        Args:
            prompt_token_ids: At least as many tokens as there are targets.
            target_ids: Tokens that are scored, at least one.
            leader_id: An earlier sequence to wait for, because its blocks will serve this one.
            adapter: Place of its adapter among those of the model; None runs the model as it is.

        Raises:
            InvalidRequest: There are no targets, more than tokens, or an id is not in the
                vocabulary.
            ContextLengthExceeded: The prompt does not fit into the context.
        """
        prompt = self.check_prompt(prompt_token_ids)
        targets = check_ids("the targets", target_ids, self._model_config.vocab_size)
        if not 1 <= len(targets) <= len(prompt):
            raise InvalidRequest(
                f"there are {len(targets)} targets; there must be from 1 to {len(prompt)}, the "
                "tokens of the prompt."
            )
        if len(prompt) > self.max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens; it must have at most {self.max_model_len}, "
                "the context of this model. Shorten it."
            )
        sequence = Sequence(
            sequence_id=self._next_id,
            prompt_token_ids=prompt,
            params=SamplingParams(),
            max_tokens=0,
            eos_token_id=self._model_config.eos_token_id,
            leader=None if leader_id is None else self._sequences.get(leader_id),
            adapter=adapter,
            target_ids=tuple(targets),
        )
        self._queue(sequence)
        return sequence.sequence_id

    def check(
        self, prompt_token_ids: AbstractSequence[int], params: SamplingParams
    ) -> tuple[list[int], int]:
        """Check a request and return its prompt as plain numbers and its longest answer.

        Safe to call from any thread.

        Raises:
            InvalidRequest: The prompt is empty, or a token id is not in the vocabulary.
            ContextLengthExceeded: Prompt and answer do not fit into the context.
        """
        prompt = self.check_prompt(prompt_token_ids)
        check_ids("logit_bias", list(params.logit_bias), self._model_config.vocab_size)
        room = self.max_model_len - len(prompt)
        if room < (params.max_tokens or 1):
            wish = "" if params.max_tokens is None else f" and max_tokens is {params.max_tokens}"
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens{wish}; together they must be at most "
                f"{self.max_model_len}, the context of this model. Shorten one of them."
            )
        return prompt, room if params.max_tokens is None else params.max_tokens

    def check_prompt(self, token_ids: AbstractSequence[int]) -> list[int]:
        """Check that a prompt has tokens that the model knows, and return them as plain numbers.

        Raises:
            InvalidRequest: It is empty, or a token id is not in the vocabulary.
        """
        return check_prompt(token_ids, self._model_config.vocab_size)

    def step(self) -> list[TokenOutput]:
        """Run one step and return the new tokens; none for sequences still in prefill."""
        with self._model.quiet_neighbours():
            return self._step()

    def _step(self) -> list[TokenOutput]:
        begin = time.perf_counter()
        scheduled = self._scheduler.schedule()
        if not scheduled:
            return []
        logits, trace = self._runner.run(
            scheduled,
            needs_trace=self._experts.needs_trace(scheduled),
            expert_load=self._experts.step_load,
        )
        counts = [item.num_logits for item in scheduled]
        spans = zip(scheduled, np.cumsum([0, *counts]).tolist(), counts, strict=False)
        asked = [(item, row, row + count) for item, row, count in spans if count]
        drawn = [span for span in asked if not span[0].sequence.target_ids]
        samples: list[Sample | EngineError] = []
        if drawn:
            rows = [row for _, row, _ in drawn]
            samples = self._sampler.sample(logits[rows], [item.sequence for item, _, _ in drawn])
        scored = [
            (item.sequence, _score(item, logits[row:end]))
            for item, row, end in asked
            if item.sequence.target_ids
        ]
        # Noted only now: a step that an exception or Ctrl-C ended earlier can be run again.
        self._experts.note(scheduled, trace)
        is_drawn = {item.sequence.sequence_id for item, _, _ in drawn}
        for item in scheduled:
            item.sequence.num_computed_tokens += item.num_new_tokens
            if item.sequence.sequence_id not in is_drawn:
                self._blocks.note_computed(item.sequence)
        outputs: list[TokenOutput] = []
        for (item, row, end), sample in zip(drawn, samples, strict=True):
            outputs += self._note(item, sample, logits[row + 1 : end])
        for sequence, scores in scored:
            outputs += self._note_scores(sequence, scores)
        num_tokens = sum(item.num_new_tokens + len(item.guess) for item in scheduled)
        self.last_step = StepReport(
            num_sequences=len(scheduled),
            num_tokens=num_tokens,
            num_prefill_tokens=sum(i.num_new_tokens for i in scheduled if i.num_new_tokens > 1),
            num_output_tokens=sum(output.token_id >= 0 for output in outputs),
            step_s=time.perf_counter() - begin,
        )
        return outputs

    def abort(self, sequence_id: int) -> None:
        """Stop a sequence and free its blocks; nothing happens where it has already ended."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            sequence.finish_reason = "abort"
            self._remove(sequence)

    def stats(self) -> EngineStats:
        """Return the state of the engine; numbers of one moment, readable from any thread."""
        free, cached = self._blocks.num_free_blocks, self._blocks.num_cached_blocks
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            num_blocks=self._blocks.num_blocks,
            num_used_blocks=self._blocks.num_blocks - free,
            num_cached_blocks=cached,
            prefix_query_tokens=self._blocks.counts.num_queries,
            prefix_hit_tokens=self._blocks.counts.num_hits,
            num_preemptions=self._scheduler.num_preemptions,
            num_guessed_tokens=self._num_guessed,
            num_right_guesses=self._num_right,
            num_prompt_tokens=self._num_prompt_tokens,
            num_output_tokens=self._num_output_tokens,
            expert_load=self._experts.load(),
        )

    def _queue(self, sequence: Sequence) -> None:
        self._next_id += 1
        self._num_prompt_tokens += len(sequence.prompt_token_ids)
        self._sequences[sequence.sequence_id] = sequence
        self._scheduler.add(sequence)

    def _note_scores(self, sequence: Sequence, scores: dict[int, TokenScore]) -> list[TokenOutput]:
        """Keep the scores of a step; the output comes when all targets are scored."""
        # By place: a preempted sequence comes by the same places again.
        sequence.scores.update(scores)
        if sequence.num_uncomputed_tokens:
            return []
        sequence.finish_reason = "length"
        self._remove(sequence)
        output = TokenOutput(
            sequence_id=sequence.sequence_id,
            token_id=-1,
            finish_reason="length",
            scores=tuple(sequence.scores[place] for place in range(len(sequence.target_ids))),
        )
        return [output]

    def _note(
        self, item: ScheduledSequence, sample: Sample | EngineError, guess_logits: Tensor
    ) -> list[TokenOutput]:
        """Add the new token, and those behind it as far as the guesses were right."""
        sequence = item.sequence
        outputs = [self._note_one(sequence, sample)]
        num_right = 0
        for place, guessed in enumerate(item.guess):
            if sequence.finish_reason is not None or outputs[-1].token_id != guessed:
                break
            num_right += 1
            sequence.num_computed_tokens += 1
            follower = self._sampler.sample(guess_logits[place : place + 1], [sequence])[0]
            outputs.append(self._note_one(sequence, follower))
        if item.guess and sequence.lookup is not None:
            self._num_guessed += len(item.guess)
            self._num_right += num_right
            sequence.lookup.note(len(item.guess), num_right)
        if sequence.finish_reason is None:
            self._blocks.note_computed(sequence)
        else:
            self._remove(sequence)
        return outputs

    def _note_one(self, sequence: Sequence, sample: Sample | EngineError) -> TokenOutput:
        if isinstance(sample, EngineError):
            sequence.finish_reason = "error"
            return TokenOutput(
                sequence_id=sequence.sequence_id, token_id=-1, finish_reason="error", error=sample
            )
        token_id, logprob = sample
        sequence.append(token_id)
        self._scheduler.charge_output(sequence)
        self._num_output_tokens += 1
        return TokenOutput(
            sequence_id=sequence.sequence_id,
            token_id=token_id,
            logprob=logprob,
            finish_reason=sequence.finish_reason,
            routing=self._experts.take(sequence),
        )

    def _remove(self, sequence: Sequence) -> None:
        # What it computed may serve the next request, so its blocks are named before they go.
        self._blocks.note_computed(sequence)
        self._scheduler.finish(sequence)
        self._sampler.forget(sequence)
        self._experts.forget(sequence)
        del self._sequences[sequence.sequence_id]


def _score(item: ScheduledSequence, logits: Tensor) -> dict[int, TokenScore]:
    """Score the targets that a step reached, by place among the targets of the sequence."""
    sequence = item.sequence
    end = sequence.num_computed_tokens + item.num_new_tokens - sequence.num_shareable_tokens
    targets = sequence.target_ids[end - len(logits) : end]
    return dict(enumerate(score_tokens(logits, targets), start=end - len(logits)))
