"""The loop: schedule, run, sample, note. Token ids in, token ids out."""

from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass
from operator import index

from mixtral.config import EngineConfig
from mixtral.engine.block_manager import BlockManager
from mixtral.engine.runner import Runner
from mixtral.engine.sampler import Sampler, TokenLogprob
from mixtral.engine.sampling_params import SamplingParams
from mixtral.engine.scheduler import Scheduler
from mixtral.engine.sequence import FinishReason, Sequence
from mixtral.errors import ContextLengthExceeded, InvalidRequest
from mixtral.model import LanguageModel


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOutput:
    """One new token of one sequence."""

    sequence_id: int
    """The sequence it belongs to."""
    token_id: int
    """The token."""
    logprob: TokenLogprob | None
    """Its log-probability, where asked for."""
    finish_reason: FinishReason | None
    """Why the sequence ended with this token; None while it goes on."""


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
        self._max_model_len = min(max_model_len, config.num_blocks * config.block_size)
        cache = model.new_cache(num_blocks=config.num_blocks, block_size=config.block_size)
        self._blocks = BlockManager(num_blocks=config.num_blocks, block_size=config.block_size)
        self._scheduler = Scheduler(
            self._blocks,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
        )
        self._runner = Runner(model, cache)
        self._sampler = Sampler()
        self._sequences: dict[int, Sequence] = {}
        self._next_id = 0

    @property
    def has_unfinished(self) -> bool:
        """Whether any sequence runs or waits."""
        return self._scheduler.has_unfinished

    @property
    def num_preemptions(self) -> int:
        """Times that a sequence lost its cache blocks and had to run again."""
        return self._scheduler.num_preemptions

    def add(self, prompt_token_ids: AbstractSequence[int], params: SamplingParams) -> int:
        """Queue a sequence and return its number; ``params.n`` is the caller's to unfold.

        Raises:
            InvalidRequest: The prompt is empty, or a token id is not in the vocabulary.
            ContextLengthExceeded: Prompt and answer do not fit into the context.
        """
        prompt = self.check_prompt(prompt_token_ids)
        self._check_ids("logit_bias", list(params.logit_bias))
        room = self._max_model_len - len(prompt)
        if room < (params.max_tokens or 1):
            wish = "" if params.max_tokens is None else f" and max_tokens is {params.max_tokens}"
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt)} tokens{wish}; together they must be at most "
                f"{self._max_model_len}, the context of this model. Shorten one of them."
            )
        sequence = Sequence(
            sequence_id=self._next_id,
            prompt_token_ids=prompt,
            params=params,
            max_tokens=room if params.max_tokens is None else params.max_tokens,
            eos_token_id=self._model_config.eos_token_id,
        )
        self._next_id += 1
        self._sequences[sequence.sequence_id] = sequence
        self._scheduler.add(sequence)
        return sequence.sequence_id

    def check_prompt(self, token_ids: AbstractSequence[int]) -> list[int]:
        """Check that a prompt has tokens that the model knows, and return them as plain numbers.

        Raises:
            InvalidRequest: It is empty, or a token id is not in the vocabulary.
        """
        if not len(token_ids):
            raise InvalidRequest("the prompt has no tokens; it must have at least one.")
        return self._check_ids("the prompt", token_ids)

    def step(self) -> list[TokenOutput]:
        """Run one step and return the new tokens; none for sequences still in prefill."""
        with self._model.quiet_neighbours():
            return self._step()

    def _step(self) -> list[TokenOutput]:
        scheduled = self._scheduler.schedule()
        if not scheduled:
            return []
        logits = self._runner.run(scheduled)
        ready = [
            row
            for row, item in enumerate(scheduled)
            if item.num_new_tokens == item.sequence.num_uncomputed_tokens
        ]
        sequences = [scheduled[row].sequence for row in ready]
        sampled = self._sampler.sample(logits[ready], sequences) if ready else []
        # Noted only now: a step that an exception or Ctrl-C ended earlier can be run again.
        for item in scheduled:
            item.sequence.num_computed_tokens += item.num_new_tokens
        return [
            self._note(sequence, token_id, logprob)
            for sequence, (token_id, logprob) in zip(sequences, sampled, strict=True)
        ]

    def abort(self, sequence_id: int) -> None:
        """Stop a sequence and free its blocks; nothing happens where it has already ended."""
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            sequence.finish_reason = "abort"
            self._remove(sequence)

    def _note(self, sequence: Sequence, token_id: int, logprob: TokenLogprob | None) -> TokenOutput:
        sequence.append(token_id)
        if sequence.finish_reason is not None:
            self._remove(sequence)
        return TokenOutput(
            sequence_id=sequence.sequence_id,
            token_id=token_id,
            logprob=logprob,
            finish_reason=sequence.finish_reason,
        )

    def _remove(self, sequence: Sequence) -> None:
        self._scheduler.finish(sequence)
        self._sampler.forget(sequence)
        del self._sequences[sequence.sequence_id]

    def _check_ids(self, name: str, token_ids: AbstractSequence[int]) -> list[int]:
        last = self._model_config.vocab_size - 1
        checked = []
        for token_id in token_ids:
            try:
                # Whole numbers of NumPy and torch have an index, floats and texts do not.
                number = -1 if isinstance(token_id, bool) else index(token_id)
            except TypeError:
                number = -1
            if not 0 <= number <= last:
                raise InvalidRequest(
                    f"{name} has the token id {token_id!r}; this model knows the whole numbers "
                    f"from 0 to {last}."
                )
            checked.append(number)
        return checked
