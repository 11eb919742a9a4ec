"""What a step reads: the bytes of a model's weights as an engine holds them, and in which format.

Attention, norms, router and output head are read whole by every step, each expert that a token
chose is read once, and of the embedding only a few rows, which are not counted. The sizes are those
of the tensors that are really there, whichever engine they belong to; its names tell them apart.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

from mixtral.config import ModelConfig

_EXPERT = re.compile(r"\.experts\.|_exps\.")
_EMBEDDING = re.compile(r"(model\.embed_tokens|token_embd)\.weight")
_HEAD = re.compile(r"lm_head\.(weight|packed)|output\.weight")

_PEAKS: dict[str, Literal["int8", "bf16"]] = {
    **dict.fromkeys(("int8", "int4", "int3", "q8_0", "q4_0"), "int8"),
    **dict.fromkeys(("bfloat16", "bf16"), "bf16"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StepWeights:
    """The weights of one engine, as far as a step reads them."""

    format: str
    """A dtype, a recipe of ours, or one of GGUF's formats."""
    shared_bytes: int
    """What every step reads."""
    expert_bytes: float
    """One expert of one layer."""

    @classmethod
    def of(cls, config: ModelConfig, sizes: Iterable[tuple[str, int]], *, format_name: str) -> Self:
        """Add up stored tensors.

        Args:
            config: Geometry.
            sizes: Names and bytes; our names, those of Hugging Face or those of GGUF.
            format_name: What the results call it.
        """
        stored = dict(sizes)
        experts = sum(size for name, size in stored.items() if _EXPERT.search(name))
        # A tied head is the embedding, which is then read whole.
        has_head = any(_HEAD.fullmatch(name) for name in stored)
        unread = sum(size for name, size in stored.items() if _EMBEDDING.fullmatch(name))
        return cls(
            format=format_name,
            shared_bytes=sum(stored.values()) - experts - (unread if has_head else 0),
            expert_bytes=experts / (config.num_hidden_layers * config.num_experts),
        )

    @property
    def peak(self) -> Literal["int8", "bf16"] | None:
        """Which ceiling limits the arithmetic; None where none is measured."""
        return peak_of(self.format)

    def step_bytes(self, num_experts: float) -> int:
        """Return the bytes that a step reads.

        Args:
            num_experts: Distinct experts of all layers together.
        """
        return round(self.shared_bytes + num_experts * self.expert_bytes)


def peak_of(format_name: str) -> Literal["int8", "bf16"] | None:
    """Return which ceiling limits products with weights of a format; None where none is measured.

    >>> peak_of("int4"), peak_of("bf16"), peak_of("float32")
    ('int8', 'bf16', None)
    """
    return _PEAKS.get(format_name)
