"""The whole decoder: embedding, L layers of attention and experts, norm, output head.

Source: Mixtral of Experts, arXiv:2401.04088, section 2; Mistral 7B, arXiv:2310.06825, section 2.
Module and parameter names are Hugging Face's, so state dicts and adapters carry over.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from mixtral.kernels import grouped, reference
from mixtral.kernels.vector_math import find_vector_math
from mixtral.model.adapted_rows import AdaptedRows, on_device, run_moe
from mixtral.model.adapter import Adapter
from mixtral.model.attention import Attention
from mixtral.model.batch import TokenBatch
from mixtral.model.kv_cache import KVCache
from mixtral.model.moe import SparseMoe
from mixtral.model.router_trace import ExpertLoad, RouterRecorder, RouterTrace

_MAX_STEP_TOKENS = 2048


class RMSNorm(nn.Module):
    """Root mean square norm with a learned weight, arXiv:1910.07467."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the normed states, [T, D]."""
        return grouped.rms_norm(x, self.weight, self.eps)


class DecoderLayer(nn.Module):
    """Attention, then experts, each after a norm and added to its input."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.moe_path = f"model.layers.{layer}.block_sparse_moe"
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.block_sparse_moe = SparseMoe(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        batch: TokenBatch,
        cache: KVCache | None,
        recorder: RouterRecorder | None,
        adapted: AdaptedRows | None = None,
    ) -> Tensor:
        """Return the new states, [T, D]."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, batch, cache, adapted)
        normed = self.post_attention_layernorm(x)
        if adapted is not None:
            return x + run_moe(self.block_sparse_moe, normed, self.moe_path, adapted, recorder)
        return cast(Tensor, x + self.block_sparse_moe(normed, recorder))


class Decoder(nn.Module):
    """Everything but the output head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # A ready weight keeps torch from drawing random numbers that are replaced anyway.
        embedding = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(embedding, freeze=False)
        self.layers = nn.ModuleList(
            DecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """A Mixtral, or a dense Mistral 7B where the config has no experts.

    Args:
        config: Geometry of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        find_vector_math()
        self.config = config
        self.model = Decoder(config)
        self._adapters: list[Adapter] = []
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @classmethod
    def from_tensors(
        cls,
        config: ModelConfig,
        tensors: Iterable[tuple[str, Tensor]],
        device: torch.device | str = "cpu",
    ) -> "Transformer":
        """Build the model without memory of its own and hang each tensor in as it comes.

        On the CPU a tensor is taken as it is, so a memory map stays a memory map.

        Args:
            config: Geometry that the tensors must have.
            tensors: Names of ``state_dict`` and tensors, in any order, each once.
            device: Where the weights go.

        Raises:
            CheckpointError: A name is unknown, missing, or has another shape.
        """
        with torch.device("meta"):
            model = cls(config)
        missing = {name for name, _ in model.named_parameters()}
        for name, tensor in tensors:
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            if name not in missing:
                raise CheckpointError(f"tensor {name} is not part of this model, or came twice.")
            missing.remove(name)
            model._hang(name, tensor.to(device))
        if missing:
            example = min(missing)
            raise CheckpointError(f"{len(missing)} tensors are missing, for one {example}.")
        if config.tie_word_embeddings:
            model.lm_head.weight = model.model.embed_tokens.weight
        return model.requires_grad_(False).eval()

    def _hang(self, name: str, tensor: Tensor) -> None:
        path, _, leaf = name.rpartition(".")
        module = self.get_submodule(path)
        wanted = tuple(getattr(module, leaf).shape)
        if tuple(tensor.shape) != wanted:
            raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}; expected {wanted}.")
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))

    def forward(
        self,
        batch: TokenBatch,
        cache: KVCache | None = None,
        recorder: RouterRecorder | None = None,
    ) -> Tensor:
        """Run the tokens through all layers.

        Args:
            batch: T tokens of one or more sequences, with their adapters if they have any.
            cache: Past keys and values; the new ones are added. None: the batch is all there is.
            recorder: Notes what the routers decide.

        Returns:
            Hidden states after the last norm, [T, D].
        """
        config = self.config
        x = self.model.embed_tokens(batch.input_ids)  # [T, D]
        rotary = reference.rotary_tables(batch.positions, config.head_dim, config.rope_theta)
        adapted = AdaptedRows.of_batch(self._adapters, batch)
        for layer in self.model.layers:
            x = layer(x, rotary, batch, cache, recorder, adapted)
        return cast(Tensor, self.model.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token logits, [T, V], float32, for hidden states [T, D]."""
        return cast(Tensor, self.lm_head(hidden).float())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights, states and cached keys and values."""
        return self.lm_head.weight.dtype

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        held = chain(self.parameters(), self.buffers())  # packed weights are buffers
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    @property
    def weight_format(self) -> str:
        """How the weights are stored: a float dtype."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def max_step_tokens(self) -> int:
        """Tokens beyond which a larger step takes memory and gains nothing."""
        return _MAX_STEP_TOKENS

    def quiet_neighbours(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: steps run on PyTorch's own threads."""
        return nullcontext()

    def cache_bytes(self, *, num_blocks: int, block_size: int) -> int:
        """Return the bytes of a cache of so many blocks."""
        config = self.config
        per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        return num_blocks * block_size * per_token * self.dtype.itemsize

    def new_cache(self, *, num_blocks: int, block_size: int) -> KVCache:
        """Return an empty cache beside the weights."""
        return KVCache(
            self.config,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=self.dtype,
            device=self.device,
        )

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Keep adapters beside the weights; ``TokenBatch.adapter_ids`` are places in this list.

        Raises:
            CheckpointError: One does not belong to a model of this geometry; nothing changes then.
        """
        for adapter in adapters:
            adapter.check(self.config)
        self._adapters = [on_device(adapter, self.device) for adapter in adapters]

    @torch.inference_mode()
    def step(
        self, batch: TokenBatch, cache: KVCache, expert_load: ExpertLoad | None = None
    ) -> Tensor:
        """Run new tokens of S sequences and return the logits that the batch asks for.

        Args:
            batch: T tokens with positions, boundaries, slots and block tables.
            cache: Keys and values of the tokens before; the new ones are added.
            expert_load: Set to the visits of each expert in this step, [L, E], where given.

        Returns:
            [R, V], float32.
        """
        if expert_load is None:
            return self._wanted_logits(self(batch, cache), batch)
        logits, trace = self.traced_step(batch, cache)
        expert_load[:] = trace.expert_load()
        return logits

    @torch.inference_mode()
    def traced_step(self, batch: TokenBatch, cache: KVCache) -> tuple[Tensor, RouterTrace]:
        """Run a step and also return which experts every token visits in each layer."""
        recorder = RouterRecorder()
        hidden = self(batch, cache, recorder)
        return self._wanted_logits(hidden, batch), recorder.trace()

    def _wanted_logits(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        rows = torch.tensor(batch.wanted_rows, dtype=torch.int64, device=hidden.device)
        return self.logits(hidden.index_select(0, rows))

    @torch.inference_mode()
    def whole_logits(self, token_ids: Sequence[int], adapter: int | None = None) -> Tensor:
        """Return the logits after every token of one sequence, [T, V], float32."""
        return self.logits(self(self._whole_batch(token_ids, adapter)))

    @torch.inference_mode()
    def route(self, token_ids: Sequence[int], adapter: int | None = None) -> RouterTrace:
        """Return which experts every token of one sequence visits in each layer."""
        recorder = RouterRecorder()
        self(self._whole_batch(token_ids, adapter), recorder=recorder)
        return recorder.trace()

    def _whole_batch(self, token_ids: Sequence[int], adapter: int | None) -> TokenBatch:
        return TokenBatch.from_sequences([token_ids], self.device, adapter_ids=(adapter,))

    def stack_experts(self) -> None:
        """Lay the experts of each layer together, for one grouped matmul on a GPU."""
        for layer in self.model.layers:
            cast(DecoderLayer, layer).block_sparse_moe.stack_experts()


def init_weights(model: Transformer, seed: int, std: float = 0.02) -> None:
    """Fill a model with fresh normal weights, in place; norms are 1.

    Output projections of the two residual branches are scaled down by sqrt(2 L), so that the
    states do not grow with depth (GPT-2's rule).
    """
    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(seed)
    depth_scale = (2 * model.config.num_hidden_layers) ** -0.5
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.ones_(parameter)
            continue
        is_output = name.endswith(("o_proj.weight", "w2.weight"))
        nn.init.normal_(
            parameter,
            std=std * (depth_scale if is_output else 1.0),
            generator=generator,
        )
