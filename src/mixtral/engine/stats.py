"""What the engine did, in numbers, for metrics and benchmarks."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """One step."""

    num_sequences: int
    """Sequences that ran."""
    num_tokens: int
    """Tokens that ran, guesses included."""
    num_prefill_tokens: int
    """Those of them that belong to prompts, or to answers that were preempted."""
    num_output_tokens: int = 0
    """New tokens of answers."""
    step_s: float
    """Time of the whole step, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """State of the engine at one moment, and its counters since the start."""

    num_running: int
    """Sequences that hold cache blocks."""
    num_waiting: int
    """Sequences that wait for a place."""
    num_blocks: int
    """Blocks of the KV cache."""
    num_used_blocks: int
    """Blocks with at least one owner."""
    num_cached_blocks: int
    """Blocks without an owner whose contents may serve again."""
    prefix_query_tokens: int
    """Prompt tokens looked up in the prefix cache."""
    prefix_hit_tokens: int
    """Prompt tokens found there."""
    num_preemptions: int
    """Times that a sequence lost its blocks and had to run again."""
    num_guessed_tokens: int
    """Tokens guessed by prompt lookup."""
    num_right_guesses: int
    """Guessed tokens that were kept."""
    num_prompt_tokens: int
    """Tokens of the prompts accepted so far."""
    num_output_tokens: int
    """Tokens generated so far."""
    expert_load: list[list[int]]
    """Token visits per expert, L lists of E; empty where they are not counted."""
