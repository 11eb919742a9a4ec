"""One answer in the making: its tokens, its blocks, and how far it has come."""

from dataclasses import dataclass, field
from typing import Literal

from mixtral.engine.constraint import Constraint
from mixtral.engine.prompt_lookup import PromptLookup
from mixtral.engine.sampling_params import SamplingParams
from mixtral.engine.scoring import TokenScore

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(kw_only=True, slots=True, eq=False)
class Sequence:
    """Tokens of one answer and their place in the KV cache."""

    sequence_id: int
    """Number of the sequence in its engine; a smaller one came earlier."""
    prompt_token_ids: list[int]
    """What the user sent; never changes."""
    params: SamplingParams
    """How to choose tokens and when to stop."""
    max_tokens: int
    """Longest answer, after fitting it to the context."""
    eos_token_id: int
    """Token that ends the answer."""
    priority: int = 0
    """Larger runs first."""
    owner: str = ""
    """Whose it is; owners of one priority share the engine evenly."""
    constraint: Constraint | None = None
    """What its text must look like; None lets it say anything."""
    leader: "Sequence | None" = None
    """Sequence of the same prompt that runs it first; this one then shares its blocks."""
    needs_routing: bool = False
    """Whether the experts of each token are wanted; all its tokens are then run for it."""
    adapter: int | None = None
    """Place of its adapter among those of the model; None runs the model as it is."""
    target_ids: tuple[int, ...] = ()
    """Tokens to score by the logits of its last tokens; it then generates nothing."""
    scores: dict[int, TokenScore] = field(default_factory=dict)
    """Scores of the targets so far, by place among them."""
    lookup: PromptLookup | None = None
    """Guesses the next tokens; None where the engine does not speculate."""
    output_token_ids: list[int] = field(default_factory=list)
    """Tokens generated so far."""
    block_table: list[int] = field(default_factory=list)
    """Cache blocks in order."""
    content_ids: list[int] = field(default_factory=list)
    """Prefix-cache names of the leading full blocks, see ``BlockManager``."""
    num_computed_tokens: int = 0
    """Leading tokens whose keys and values are in the cache."""
    num_routed_tokens: int = 0
    """Leading tokens whose experts were reported."""
    was_charged: bool = False
    """Whether its prompt was added to its owner's account."""
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

    @property
    def num_shareable_tokens(self) -> int:
        """Leading tokens whose own logits nobody asks for, so that another's blocks will do."""
        return self.num_tokens - max(1, len(self.target_ids))

    @property
    def num_remaining_tokens(self) -> int:
        """Tokens that the answer may still have."""
        return self.max_tokens - len(self.output_token_ids)

    @property
    def is_decoding(self) -> bool:
        """Whether only its newest token has to run."""
        return bool(self.output_token_ids) and self.num_uncomputed_tokens == 1

    @property
    def rank(self) -> tuple[int, int]:
        """Order in which sequences are served: by priority, then by age."""
        return (-self.priority, self.sequence_id)

    def token_slice(self, begin: int, end: int) -> list[int]:
        """Return tokens ``begin`` to ``end`` of prompt and answer laid end to end."""
        num_prompt = len(self.prompt_token_ids)
        if begin >= num_prompt:
            return self.output_token_ids[begin - num_prompt : end - num_prompt]
        if end <= num_prompt:
            return self.prompt_token_ids[begin:end]
        return self.prompt_token_ids[begin:] + self.output_token_ids[: end - num_prompt]

    def append(self, token_id: int) -> None:
        """Add a generated token and note whether it ends the answer."""
        self.output_token_ids.append(token_id)
        if self.lookup is not None:
            self.lookup.append(token_id)
        is_end = token_id == self.eos_token_id and not self.params.ignore_eos
        if self.constraint is not None and not is_end:
            self.constraint.accept(token_id)
            is_end = self.constraint.is_complete
        if is_end:
            was_cut = self.constraint is not None and self.constraint.was_shortened
            self.finish_reason = "length" if was_cut else "stop"
        elif self.num_remaining_tokens <= 0:
            self.finish_reason = "length"
        elif self.constraint is not None:
            self.constraint.prepare(self.num_remaining_tokens)
