"""Memory and time of a training run, by arithmetic, before anything is loaded.

Memory of one device is the sum of what is there at the worst moment, the end of a forward pass:

    weights      in ``dtype``; a frozen low-bit base as it lies on disk
    masters      float32 weights that AdamW steps: copies of others, an adapter, or the shards
    gradients    float32
    moments      AdamW's two, float32
    activations  what the backward pass needs of the forward pass: the tensors that autograd keeps
    scratch      what the backward pass of one layer's experts works with
    output head  logits of a chunk of tokens and the head's gradient; T x V logits never exist
    gathered     with several devices, the layers that FSDP has whole for the moment
    saved copy   on a CPU: masters and moments, copied to be written in the background
    reserve      the process, CUDA's context, buffers of communication

With W devices masters, gradients and moments are split evenly (FSDP2, see ``parallel.py``) and so
are trained weights and an unpacked frozen base; a low-bit base is whole on every device, but for
experts that ``expert_parallel`` splits.

Time is arithmetic operations over what a device does in practice: peak * MFU. A multiply-add is
two operations, so a token costs 2 N forward and 4 N backward with N weights at work. Frozen
weights have no gradient of their own, 2 N less; activation checkpointing runs the layers twice,
2 N more (arXiv:2204.02311, appendix B); a reference that scores the token is another 2 N.
Attention adds 6 L H K per token and position it sees.

Worked example, full training of 8x7B on 8 devices: 46.7e9 weights take 4 (master) + 4 (gradient)
+ 8 (moments) bytes each, 747 GB, 93.4 GB per device: more than 80 GB before any activation.

Letters as in docs/architecture.md, and W devices. Plain numbers in and out: no torch here.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mixtral.config import BYTES_PER_ELEMENT, DType, ModelConfig
from mixtral.errors import ConfigError
from mixtral.quantization import find_recipe, matrix_bytes
from mixtral.validation import require_int, require_positive_number

# Rows of logits at once, ``losses.py``.
_HEAD_ROWS = 1024
# Tensors of width F in the backward pass of ``kernels/moe_training.py``.
_SCRATCH_ROWS = 6
# Two layers are gathered at a time: the one at work and the next one.
_GATHERED_LAYERS = 2
_MOST_DEVICES = 1024
# Of tokens, steps or devices; so that no product of two is too large for a float.
_MOST = 10**12


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInput:
    """What decides memory and time of a run.

    Raises:
        ConfigError: A field is outside its allowed values, or two do not go together.
    """

    config: ModelConfig
    """The model."""
    adapter_parameters: int = 0
    """Weights of a LoRA adapter, which alone are trained; 0 trains all weights."""
    quantization: str = ""
    """Low-bit format of the frozen base: int8, int4, int3; empty keeps ``dtype``."""
    dtype: DType = "bfloat16"
    """Precision of forward and backward."""
    tokens_per_step: int = 65536
    """Tokens of an optimizer step, all devices together."""
    micro_batch_tokens: int = 4096
    """Tokens of one forward and backward pass on one device."""
    max_seq_len: int = 4096
    """Tokens of a sequence."""
    num_steps: int = 1000
    """Optimizer steps of the run."""
    reference_passes: float = 0.0
    """Forward passes of the reference of preference training for each token that is trained."""
    activation_checkpointing: bool = False
    """Whether layers are run again in the backward pass."""
    num_devices: int = 1
    """W."""
    is_cpu: bool = False
    """Whether the device is a CPU, whose memory also has the copy of the state that is being
    written; that of a GPU goes to the memory of its machine."""
    expert_parallel: int = 1
    """Devices that split the experts of a layer between them; divides W and E."""
    device_memory_gb: float = 80.0
    """Memory of a device, in 10^9 bytes."""
    reserve_gb: float = 3.0
    """What a device holds beside the model: CUDA's context, NCCL's buffers, fragments."""
    tflops: float = 990.0
    """Peak of a device in ``dtype``, 10^12 operations per second; 990 is an H100 in bfloat16."""
    mfu: float = 0.4
    """Model FLOPs use: share of the peak that the run reaches; an assumption, 0.3 to 0.5 is usual
    for dense matrices, less for small experts, small batches and low-bit bases."""

    def __post_init__(self) -> None:
        """Check every field, then the fields against each other."""
        for name in (
            "tokens_per_step",
            "micro_batch_tokens",
            "max_seq_len",
            "num_steps",
            "num_devices",
            "expert_parallel",
        ):
            require_int(name, getattr(self, name), low=1, high=_MOST)
        if not 0 <= self.reference_passes <= _MOST:
            raise ConfigError(
                f"reference_passes is {self.reference_passes}; it must be from 0 to {_MOST}."
            )
        if self.dtype not in ("bfloat16", "float32"):
            raise ConfigError(f"dtype is {self.dtype!r}; it must be bfloat16 or float32.")
        require_int("adapter_parameters", self.adapter_parameters, low=0)
        for name in ("device_memory_gb", "reserve_gb", "tflops", "mfu"):
            require_positive_number(name, getattr(self, name))
        if self.mfu > 1:
            raise ConfigError(f"mfu is {self.mfu}; it is a share of the peak, from 0 to 1.")
        if self.quantization:
            find_recipe(self.quantization)
            if not self.adapter_parameters:
                raise ConfigError(
                    f"quantization is {self.quantization} and there is no adapter; packed weights "
                    "cannot be trained themselves. Give a LoRA rank, or leave quantization out."
                )
        experts, ep = self.config.num_local_experts, self.expert_parallel
        if self.num_devices % ep or (ep > 1 and (not experts or experts % ep)):
            raise ConfigError(
                f"expert_parallel is {ep}; it must divide the {self.num_devices} devices and the "
                f"{experts} experts of the model."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run will take."""

    memory: dict[str, int]
    """Bytes on one device by what they are for, in the order of the module's table."""
    flops_per_token: float
    """Operations of forward and backward pass, recomputation included."""
    seconds_per_step: float
    """Time of an optimizer step."""
    total_seconds: float
    """Time of the whole run, without evaluation."""
    tokens_per_s: float
    """Training tokens per second, all devices together."""
    device_bytes: int
    """Memory of a device."""
    advice: list[str]
    """What to change so that it fits, in order, all of it together; empty where it fits."""

    @property
    def total_bytes(self) -> int:
        """Bytes on one device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether it fits into a device."""
        return self.total_bytes <= self.device_bytes


def make_plan(given: PlanInput) -> Plan:
    """Work out memory and time of a run, and what to change where it does not fit."""
    flops = flops_per_token(given)
    per_second = given.num_devices * given.tflops * 1e12 * given.mfu
    seconds = flops * given.tokens_per_step / per_second
    return Plan(
        memory=memory_by_use(given),
        flops_per_token=flops,
        seconds_per_step=seconds,
        total_seconds=seconds * given.num_steps,
        tokens_per_s=given.tokens_per_step / seconds,
        device_bytes=round(given.device_memory_gb * 1e9),
        advice=[] if _fits(given) else _advise(given),
    )


def memory_by_use(given: PlanInput) -> dict[str, int]:
    """Return the bytes on one device, by what they are for."""
    config, devices = given.config, given.num_devices
    width = BYTES_PER_ELEMENT[given.dtype]
    trained = given.adapter_parameters or config.num_parameters
    split = -(-trained // devices)
    if given.adapter_parameters:
        weights = _base_bytes(given)
    else:
        # FSDP gathers from the masters; alone, the model is a rounded copy of them, or they are it.
        weights = config.num_parameters * width if devices == 1 and width < 4 else 0
    visits = given.micro_batch_tokens * max(1, config.num_experts_per_tok)
    scratch = visits * (_SCRATCH_ROWS * config.intermediate_size + 2 * config.hidden_size) * width
    head = _HEAD_ROWS * config.vocab_size * width
    if not given.adapter_parameters:
        head += config.vocab_size * config.hidden_size * 4
    return {
        "weights": weights,
        "masters": 4 * split,
        "gradients": 4 * split,
        "moments": 8 * split,
        "activations": activation_bytes(
            config,
            num_tokens=given.micro_batch_tokens,
            dtype=given.dtype,
            is_checkpointed=given.activation_checkpointing,
            is_adapted=bool(given.adapter_parameters),
        ),
        "scratch": scratch,
        "output head": head,
        "gathered": _gathered_bytes(given),
        "saved copy": 12 * split if given.is_cpu else 0,
        "reserve": round(given.reserve_gb * 1e9),
    }


def activation_bytes(
    config: ModelConfig,
    *,
    num_tokens: int,
    dtype: DType,
    is_checkpointed: bool = False,
    is_adapted: bool = False,
) -> int:
    """Return the bytes that autograd keeps of a forward pass for the backward pass.

    For the PyTorch path; the C++ one for float32 on a CPU keeps less. With checkpointing the input
    of each layer is kept, and one layer at a time is whole.

    Args:
        config: The model.
        num_tokens: T of one forward pass; sequences may be of any length.
        dtype: Precision of states.
        is_checkpointed: Whether layers are run again in the backward pass.
        is_adapted: Whether experts have adapters or packed weights, and run module by module.
    """
    width, hidden = BYTES_PER_ELEMENT[dtype], config.hidden_size
    layer = _layer_bytes_per_token(config, width, is_adapted=is_adapted)
    # Last norm: its input in float32, the normed states, and the gradient that the loss leaves.
    ends = hidden * (4 + 2 * width)
    if is_checkpointed:
        per_token = config.num_hidden_layers * hidden * width + layer + ends
    else:
        per_token = config.num_hidden_layers * layer + ends
    return num_tokens * per_token


def _layer_bytes_per_token(config: ModelConfig, width: int, *, is_adapted: bool) -> int:
    """Return what autograd keeps of one layer for one token; ``width`` bytes per element."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    # Input in float32, normed states before and after the norm's weight.
    norms = 2 * hidden * (4 + width) + hidden * width
    # Queries, keys, values and output; one log-sum per head.
    attention = 2 * (queries + keys) * width + 4 * config.num_attention_heads
    if config.is_dense:
        # Input, gate, silu(gate), up and their product.
        return norms + attention + (hidden + 4 * ffn) * width
    # Input of the router and scores, in float32, and a few numbers per choice.
    router = 4 * (hidden + config.num_local_experts) + 12 * config.num_experts_per_tok
    if is_adapted:
        # Each visit: as in a dense layer, then its output in float32 before and after weighing.
        visit = (hidden + 4 * ffn) * width + 8 * hidden
        return norms + attention + router + config.num_experts_per_tok * visit
    # ``kernels/moe_training.py``: the input once, gate and up for each visit.
    experts = (hidden + 2 * config.num_experts_per_tok * ffn) * width
    return norms + attention + router + experts


def flops_per_token(given: PlanInput) -> float:
    """Return the operations for one token: forward, backward, layers that run again, reference."""
    config = given.config
    head = config.vocab_size * config.hidden_size
    embedding = head if not config.tie_word_embeddings else 0
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size
    matrices = config.num_active_parameters - embedding - norms
    # Causal: a token sees half of its sequence on average; scores and sums.
    seen = min(given.max_seq_len, config.sliding_window or given.max_seq_len) / 2
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    attention = 2 * 2 * width * seen
    more = given.reference_passes * (2 * matrices + attention)
    if given.activation_checkpointing:
        more += 2 * (matrices - head) + attention
    if not given.adapter_parameters:
        return 6 * matrices + 3 * attention + more
    share = config.num_active_parameters / config.num_parameters
    return 4 * matrices + 6 * share * given.adapter_parameters + 3 * attention + more


def _base_bytes(given: PlanInput) -> int:
    """Return the bytes of a frozen base on one device."""
    config = given.config
    if not given.quantization:
        return -(-config.weight_bytes(given.dtype) // given.num_devices)
    recipe = find_recipe(given.quantization)
    hidden, ffn = config.hidden_size, config.intermediate_size
    expert = 2 * matrix_bytes(recipe.experts, ffn, hidden)
    expert += matrix_bytes(recipe.experts, hidden, ffn)
    experts = config.num_hidden_layers * config.num_experts * expert
    # The head is decoded, because the loss needs it whole in every step.
    head = config.vocab_size * hidden * BYTES_PER_ELEMENT[given.dtype]
    head -= matrix_bytes(recipe.lm_head, config.vocab_size, hidden)
    return recipe.packed_bytes(config) + head - experts + experts // given.expert_parallel


def _gathered_bytes(given: PlanInput) -> int:
    """Return the bytes of what is whole for a moment: layers that FSDP gathers, with gradients."""
    config, width = given.config, BYTES_PER_ELEMENT[given.dtype]
    if given.quantization:
        # Packed weights are not gathered; one matrix at a time is unpacked where it is used.
        return config.num_expert_parameters // 3 * width
    if given.num_devices == 1:
        return 0
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    ends = embeddings + config.hidden_size
    layer = (config.num_parameters - ends) // config.num_hidden_layers
    experts = config.num_experts * config.num_expert_parameters
    layer += experts // given.expert_parallel - experts
    gathered = (ends + _GATHERED_LAYERS * layer) * width
    if given.adapter_parameters:
        return gathered
    # The gradient of a layer in ``dtype``, and in float32 in the buffer that is summed.
    return gathered + (ends + layer) * width + layer * 4


def _advise(given: PlanInput) -> list[str]:
    """Return changes that together make a run fit, the cheap ones tried first."""
    kept: list[_Change] = []
    for change in _changes(given):
        if _total(_apply(given, [*kept, change])) < _total(_apply(given, kept)):
            kept.append(change)
        if _fits(_apply(given, kept)):
            break
    else:
        words = "use a smaller model" if given.adapter_parameters else "train an adapter (LoRA)"
        return [*(_words(change) for change in kept), f"even so it does not fit: {words}"]
    for change in list(kept):
        others = [other for other in kept if other is not change]
        if _fits(_apply(given, others)):
            kept = others
    return [_words(change) for change in kept]


_Change = tuple[str, bool | int | str]
"""A field of ``PlanInput`` and its new value."""


def _changes(given: PlanInput) -> Iterator[_Change]:
    if not given.activation_checkpointing:
        yield "activation_checkpointing", True
    if given.micro_batch_tokens > given.max_seq_len:
        yield "micro_batch_tokens", given.max_seq_len
    common = math.gcd(given.num_devices, given.config.num_local_experts)
    if common > given.expert_parallel:
        yield "expert_parallel", common
    if given.adapter_parameters and given.quantization in ("", "int8"):
        yield "quantization", "int4"
    devices = 2 * given.num_devices
    while devices <= _MOST_DEVICES:
        yield "num_devices", devices
        devices *= 2


def _apply(given: PlanInput, changes: Sequence[_Change]) -> PlanInput:
    return dataclasses.replace(given, **dict(changes))  # type: ignore[arg-type]


def _words(change: _Change) -> str:
    name, value = change
    if name == "num_devices":
        return f"use {value} devices"
    return f"set {name} = {str(value).lower() if isinstance(value, bool) else json.dumps(value)}"


def _total(given: PlanInput) -> int:
    return sum(memory_by_use(given).values())


def _fits(given: PlanInput) -> bool:
    return _total(given) <= given.device_memory_gb * 1e9
