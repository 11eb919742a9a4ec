"""What ``/v1/status`` answers, for the OpenAPI document and the tests."""

from typing import Literal

from mixtral.server.schemas_answers import AnswerFields


class ServerStatus(AnswerFields):
    """The server at one moment."""

    object: Literal["server.status"]
    """What it is."""
    version: str
    """Of the package."""
    is_ready: bool
    """Whether the engine answers; false once it has stopped."""
    uptime_s: float
    """Seconds since the server started."""
    model: str
    """First name of the model."""
    adapters: list[str]
    """Names of its adapters."""
    format: str
    """How its experts are stored: float32, bfloat16, float16, int8, int4 or int3."""
    max_model_len: int
    """Tokens of prompt and answer together."""
    num_layers: int
    """L, layers of the model."""
    num_experts: int
    """E, experts of each layer; 0 for a dense model."""
    num_experts_per_tok: int
    """A, experts that a token visits in each layer."""
    running_requests: int
    """Answers being made."""
    waiting_requests: int
    """Answers that wait for their turn."""
    window_s: float
    """Seconds over which the next two are taken."""
    input_tokens_per_s: float
    """Tokens of prompts that were computed, not found in the cache."""
    output_tokens_per_s: float
    """Tokens of answers."""
    num_waits: int
    """Newest generations, 100 at most, that the next two are of."""
    ttft_p50_s: float | None
    """Time to the first token that half of them did not exceed; null before the first."""
    ttft_p90_s: float | None
    """And nine in ten."""
    num_input_tokens: int
    """Tokens of all prompts since the start."""
    num_output_tokens: int
    """Tokens of all answers since the start."""
    kv_blocks: int
    """Blocks of the KV cache."""
    kv_used_blocks: int
    """Blocks in use by running answers."""
    kv_cached_blocks: int
    """Free blocks that hold a known prefix."""
    kv_use_ratio: float
    """Share of the blocks in use."""
    prefix_cache_hit_ratio: float | None
    """Share of prompt tokens found in the prefix cache; null before the first look."""
    memory_bytes: int | None
    """Memory of the process (resident set); null where the system does not tell."""
    expert_tokens: list[list[int]] | None
    """[L, E], tokens that each expert computed since the start; null where they are not counted."""
