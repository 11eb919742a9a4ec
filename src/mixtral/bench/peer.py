"""transformers' ``MixtralForCausalLM`` on the very weights of our model, as a contender.

transformers 5 wants the experts of a layer fused: w1 over w3 as ``gate_up_proj`` [E, 2 F, D], w2
as ``down_proj`` [E, D, F]. ``share_weights`` lays ours out that way and makes our matrices views of
it. Both engines then read the same bytes, and the second one needs no memory. Packed weights stay
as they are, and transformers gets them unpacked to bfloat16 (``fuse_weights``).

Everything is the library's default: its experts implementation for the device, its attention, its
``DynamicCache``. The loop around it is a bare one, without the bookkeeping of ``generate()``,
which only helps the peer. On a GPU ``generate()`` switches the experts to "batched_mm" for decode,
so this does too.
"""

import importlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mixtral.bench.contender import Room, TimedRun, is_packed, plain_tensors, stored_tensors
from mixtral.bench.gate import Peer
from mixtral.bench.weights import StepWeights
from mixtral.config import ModelConfig
from mixtral.errors import UnsupportedError
from mixtral.model import CpuTransformer, LanguageModel, Transformer

_EXPERT = re.compile(r"(model\.layers\.\d+)\.block_sparse_moe\.experts\.(\d+)\.(w[123])\.weight")


class TransformersContender:
    """A peer over weights in its own layout.

    Args:
        config: Geometry.
        state: Names and tensors of ``MixtralForCausalLM``, from ``share_weights`` or
            ``fuse_weights``; they are used in place.

    Raises:
        UnsupportedError: transformers 5 is not installed, or the model is dense.
    """

    def __init__(self, config: ModelConfig, state: dict[str, Tensor]) -> None:
        transformers = _import_transformers()
        weight = state["model.norm.weight"]
        if config.is_dense:
            raise UnsupportedError("the comparison with transformers is for models with experts.")
        values = config.to_hf() | {
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}
        }
        for name in ("rope_theta", "torch_dtype", "architectures", "model_type"):
            values.pop(name, None)
        hf_config = transformers.MixtralConfig(**values, dtype=weight.dtype)
        with torch.device("meta"):
            self._model = transformers.MixtralForCausalLM(hf_config)
        self._model.load_state_dict(state, strict=True, assign=True)
        decoder = self._model.model
        # Its frequencies are computed, not stored, so the meta device has left them empty.
        decoder.rotary_emb = type(decoder.rotary_emb)(hf_config).to(weight.device)
        self._model.eval()
        self._device = weight.device
        self._weights = StepWeights.of(
            config,
            ((name, tensor.nbytes) for name, tensor in state.items()),
            format_name=str(weight.dtype).removeprefix("torch."),
        )
        self._version = str(transformers.__version__)

    @property
    def name(self) -> str:
        """What the results call it."""
        return "transformers"

    @property
    def weights(self) -> StepWeights:
        """What its steps read."""
        return self._weights

    @property
    def model(self) -> Any:
        """The ``MixtralForCausalLM``, in evaluation mode, for others that drive one."""
        return self._model

    def describe(self) -> Mapping[str, str]:
        """Return version and the implementations that it chose."""
        config = self._model.config
        return {
            "version": self._version,
            "experts_implementation": str(config._experts_implementation),
            "attention_implementation": str(config._attn_implementation),
        }

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Return next-token logits after each token, [T, V], float32, on the CPU."""
        input_ids = torch.tensor([list(token_ids)], device=self._device)
        logits: Tensor = self._model(input_ids=input_ids, use_cache=False).logits
        return logits[0].float().cpu()

    @torch.inference_mode()
    def run(self, prompts: Sequence[Sequence[int]], num_decode_steps: int) -> TimedRun:
        """Run prompts of equal length in one step, then decode greedily, timing each step."""
        next_ids = [list(prompt) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompts]
        seconds, cache = [], None
        implementation = self._model.config._experts_implementation
        for step in range(num_decode_steps + 1):
            if step == 1 and self._device.type == "cuda":
                self._model.set_experts_implementation("batched_mm")
            begin = time.perf_counter()
            out = self._model(
                input_ids=torch.tensor(next_ids, device=self._device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            chosen = out.logits[:, -1].argmax(-1).tolist()
            seconds.append(time.perf_counter() - begin)
            cache = out.past_key_values
            next_ids = [[token_id] for token_id in chosen]
            for answer, token_id in zip(answers, chosen, strict=True):
                answer.append(token_id)
        if self._device.type == "cuda":
            self._model.set_experts_implementation(implementation)
        return TimedRun(prefill_s=seconds[0], decode_s=seconds[1:], token_ids=answers)


def transformers_peer(
    model: LanguageModel, room: Room, prompt: Sequence[int]
) -> tuple[LanguageModel, Peer]:
    """Put transformers beside our model.

    Args:
        model: Ours.
        room: What the peer must hold; this one grows as it needs.
        prompt: The gate's prompt; not needed, because both have the same weights.

    Returns:
        The model to go on with, which may share its memory with the peer; and the peer.

    Raises:
        UnsupportedError: transformers 5 is not installed, or the model is dense.
    """
    _import_transformers()
    if is_packed(model):
        state = fuse_weights(model.config, plain_tensors(model))
    else:
        model, state = share_weights(model)
    return model, Peer(contender=TransformersContender(model.config, state))


def share_weights(model: LanguageModel) -> tuple[LanguageModel, dict[str, Tensor]]:
    """Lay a model's experts out as transformers wants them, and make a model that uses them there.

    A ``Transformer`` changes in place and needs the memory of one layer on top. Of a
    ``CpuTransformer`` a second one is made, and both are in memory until the first is let go.

    Returns:
        The model to go on with, and the state of ``MixtralForCausalLM``.
    """
    state: dict[str, Tensor] = {}
    config = model.config
    if isinstance(model, Transformer):
        for name, parameter in model.named_parameters():
            parameter.data = _place(state, config, name, parameter.data)
        return model, _with_head(state)
    placed = [(name, _place(state, config, name, t)) for name, t in stored_tensors(model)]
    return CpuTransformer(config, placed), _with_head(state)


def fuse_weights(config: ModelConfig, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Lay tensors out as transformers wants them, as they come; each may be freed at once.

    Returns:
        The state of ``MixtralForCausalLM``.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors:
        _place(state, config, name, tensor)
    return _with_head(state)


def _place(state: dict[str, Tensor], config: ModelConfig, name: str, tensor: Tensor) -> Tensor:
    """Put one of our tensors into the state and return it where it lies there."""
    match = _EXPERT.fullmatch(name)
    if match is None:
        state[name.replace(".block_sparse_moe.", ".mlp.")] = tensor
        return tensor
    layer, expert, matrix = match.groups()
    rows = config.intermediate_size
    target = f"{layer}.mlp.experts." + ("down_proj" if matrix == "w2" else "gate_up_proj")
    if target not in state:
        height = tensor.shape[0] * (1 if matrix == "w2" else 2)
        shape = (config.num_experts, height, tensor.shape[1])
        state[target] = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    begin = rows if matrix == "w3" else 0
    home = state[target][int(expert), begin : begin + tensor.shape[0]]
    return home.copy_(tensor)


def _with_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    return state


def _import_transformers() -> Any:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise UnsupportedError(
            "the comparison needs transformers, which is not installed; "
            "pip install transformers, or leave the comparison out."
        ) from error
    if int(transformers.__version__.split(".")[0]) < 5:
        raise UnsupportedError(
            f"transformers is {transformers.__version__}; the comparison needs 5 or newer, "
            "which keeps the experts of a layer fused."
        )
    return transformers
