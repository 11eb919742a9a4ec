"""One answer in the making: its tokens, its blocks, and how far it has come."""

from dataclasses import dataclass, field
from typing import Literal

from mixtral.engine.sampling_params import SamplingParams

FinishReason = Literal["stop", "length", "abort"]


@dataclass(kw_only=True, slots=True, eq=False)
class Sequence:
    """Tokens of one answer and their place in the KV cache."""

    sequence_id: int
    """Number of the sequence in its engine."""
    prompt_token_ids: list[int]
    """What the user sent; never changes."""
    params: SamplingParams
    """How to choose tokens and when to stop."""
    max_tokens: int
    """Longest answer, after fitting it to the context."""
    eos_token_id: int
    """Token that ends the answer."""
    output_token_ids: list[int] = field(default_factory=list)
    """Tokens generated so far."""
    block_table: list[int] = field(default_factory=list)
    """Cache blocks in order."""
    num_computed_tokens: int = 0
    """Leading tokens whose keys and values are in the cache."""
    finish_reason: FinishReason | None = None
    """Why it ended; None while it runs."""

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer together."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that the next forward passes must still run; 1 while decoding."""
        return self.num_tokens - self.num_computed_tokens

    def token_slice(self, begin: int, end: int) -> list[int]:
        """Return tokens ``begin`` to ``end`` of prompt and answer laid end to end."""
        num_prompt = len(self.prompt_token_ids)
        if begin >= num_prompt:
            return self.output_token_ids[begin - num_prompt : end - num_prompt]
        return (self.prompt_token_ids + self.output_token_ids)[begin:end]

    def append(self, token_id: int) -> None:
        """Add a generated token and note whether it ends the answer."""
        self.output_token_ids.append(token_id)
        if token_id == self.eos_token_id and not self.params.ignore_eos:
            self.finish_reason = "stop"
        elif len(self.output_token_ids) >= self.max_tokens:
            self.finish_reason = "length"
