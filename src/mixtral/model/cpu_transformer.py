"""The same model as ``transformer.py``, run by the C++ kernels: one call per step.

Weights stay where they are, in the memory map of a checkpoint or in tensors: packed ones
(``NAME.packed``, kernels/formats.py) or bfloat16 (``NAME.weight``). States between layers are
float32, keys and values bfloat16. PyTorch only holds the memory; between the token ids and the
logits it runs nothing, so at batch 1 the time of a step is that of reading the weights.

A token's logits do not depend, to the bit, on what else is in the step.
"""

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from mixtral.config import ModelConfig
from mixtral.errors import ConfigError, UnsupportedError
from mixtral.kernels.cpu import load_library
from mixtral.kernels.cpu.structures import Batch, Layer, Model, Weight
from mixtral.kernels.formats import format_of_packed
from mixtral.kernels.vector_math import find_vector_math
from mixtral.model.adapted_cpu import CpuAdapters
from mixtral.model.adapter import Adapter
from mixtral.model.batch import TokenBatch
from mixtral.model.cpu_weights import CpuWeights
from mixtral.model.router_trace import ExpertLoad, RouterTrace
from mixtral.model.torch_threads import num_threads, one_thread

# Larger steps are cut: their states would take memory and make nothing faster.
_MAX_STEP_TOKENS = 512
_CACHE_TILE = 16
KV_DTYPES = ("bfloat16", "int8")
"""How keys and values can be cached."""
_MAX_HEAD_DIM = 512


class CpuKVCache:
    """Block storage for the keys and values of all layers, in the layout of csrc/attention.h.

    Args:
        num_bytes: Size.
        num_blocks: N, blocks in all.
        block_size: P, tokens per block, a multiple of 16.
    """

    def __init__(self, *, num_bytes: int, num_blocks: int, block_size: int) -> None:
        self.num_bytes = num_bytes
        self.num_blocks = num_blocks
        self.block_size = block_size
        # Zeros that take memory page by page, when they are first written.
        self._storage = np.zeros(num_bytes, dtype=np.uint8)

    @property
    def address(self) -> int:
        """Where it lies in memory."""
        return self._storage.ctypes.data


class CpuTransformer:
    """A Mixtral or dense Mistral 7B on the CPU.

    Args:
        config: Geometry that the tensors must have.
        tensors: Names of ours and tensors, each once: matrices as ``NAME.weight`` in bfloat16 or
            ``NAME.packed``; router and norms in any float dtype; the embedding becomes bfloat16.
            They are kept, not copied. A tied head may be left out.
        exact: Whether states meet packed weights with 16 bits instead of 8, at half the speed of
            prefill.
        kv_dtype: How keys and values are cached, ``bfloat16`` or ``int8`` with one scale per token
            and head.
        experts_per_token: Experts of each layer, L values from 1 to ``num_experts_per_tok``; None
            takes that many everywhere.

    Raises:
        CheckpointError: A name is unknown, missing or twice there, or a tensor has a wrong shape.
        ConfigError: ``kv_dtype`` or ``experts_per_token`` is none of these.
        UnsupportedError: The C++ library is not there, or cannot run this geometry.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Iterable[tuple[str, Tensor]],
        *,
        exact: bool = False,
        kv_dtype: str = "bfloat16",
        experts_per_token: Sequence[int] | None = None,
    ) -> None:
        library = load_library()
        if library is None:
            raise UnsupportedError(
                "low-bit weights need the C++ library on the CPU, which is not built here; install "
                "the package again where a C++ compiler is at hand."
            )
        if not self.can_run(config):
            raise UnsupportedError(
                f"head_dim is {config.head_dim}; the CPU kernels take multiples of 4 up to "
                f"{_MAX_HEAD_DIM}. Use dtype='float32', which PyTorch runs."
            )
        if kv_dtype not in KV_DTYPES:
            raise ConfigError(
                f"kv_cache_dtype is {kv_dtype!r}; it must be one of {', '.join(KV_DTYPES)}."
            )
        find_vector_math()  # scores and reports are made of its logits with PyTorch
        self.config = config
        self.num_threads = num_threads()
        """Threads of a step; at first as many as PyTorch has when the model is made."""
        self._library = library
        self._tensors = CpuWeights(config, tensors)
        self._workspace = np.empty(0, dtype=np.uint8)
        self._kv_dtype = kv_dtype
        self._exact = exact
        self._model = self._describe(_checked_counts(config, experts_per_token))
        self._adapters = CpuAdapters(config, [])

    @staticmethod
    def can_run(config: ModelConfig) -> bool:
        """Whether the kernels have this geometry."""
        return config.head_dim <= _MAX_HEAD_DIM and config.head_dim % 4 == 0

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Type of cached keys and values."""
        return torch.int8 if self._kv_dtype == "int8" else torch.bfloat16

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The weights by name, as they were given."""
        return self._tensors.by_name

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def weight_format(self) -> str:
        """How the weights are stored: bfloat16, or int8, int4 or int3 of packed experts."""
        rows, cols = self.config.intermediate_size, self.config.hidden_size
        for name, tensor in self.tensors.items():
            if name.endswith("w1.packed"):
                return format_of_packed(tensor, rows=rows, cols=cols)
        return "bfloat16"

    @property
    def max_step_tokens(self) -> int:
        """Tokens beyond which a larger step takes memory and gains nothing."""
        return _MAX_STEP_TOKENS

    def quiet_neighbours(self) -> AbstractContextManager[None]:
        """Keep PyTorch to the calling thread.

        Its OpenMP threads spin for milliseconds after each operation, on the very cores that the
        next step needs; that cost a third of the speed at batch 1.
        """
        return one_thread()

    def cache_bytes(self, *, num_blocks: int, block_size: int) -> int:
        """Return the bytes of a cache of so many blocks."""
        return self._library.kv_cache_bytes(self._model, slots=num_blocks * block_size)

    def new_cache(self, *, num_blocks: int, block_size: int) -> CpuKVCache:
        """Return an empty cache.

        Raises:
            UnsupportedError: ``block_size`` is not a multiple of 16.
        """
        if block_size % _CACHE_TILE:
            raise UnsupportedError(
                f"block_size is {block_size}; on the CPU it must be a multiple of {_CACHE_TILE}. "
                "Change EngineConfig.block_size."
            )
        num_bytes = self.cache_bytes(num_blocks=num_blocks, block_size=block_size)
        return CpuKVCache(num_bytes=num_bytes, num_blocks=num_blocks, block_size=block_size)

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """Keep adapters beside the weights; ``TokenBatch.adapter_ids`` are places in this list.

        Raises:
            CheckpointError: One does not belong to a model of this geometry; nothing changes then.
        """
        for adapter in adapters:
            adapter.check(self.config)
        self._adapters = CpuAdapters(self.config, adapters)

    def step(
        self, batch: TokenBatch, cache: CpuKVCache, expert_load: ExpertLoad | None = None
    ) -> Tensor:
        """Run new tokens of S sequences and return the logits that the batch asks for.

        Args:
            batch: T tokens with positions, boundaries and block tables.
            cache: Keys and values of the tokens before; the new ones are added.
            expert_load: Set to the visits of each expert in this step, [L, E], where given.

        Returns:
            [R, V], float32.
        """
        rows = np.asarray(batch.wanted_rows, dtype=np.int64)
        return self._run(batch, cache, rows, expert_load=expert_load)

    def traced_step(self, batch: TokenBatch, cache: CpuKVCache) -> tuple[Tensor, RouterTrace]:
        """Run a step and also return which experts every token visits in each layer."""
        rows = np.asarray(batch.wanted_rows, dtype=np.int64)
        trace = self._empty_trace(batch.input_ids.numel())
        return self._run(batch, cache, rows, trace=trace), trace

    def whole_logits(self, token_ids: Sequence[int], adapter: int | None = None) -> Tensor:
        """Return the logits after every token of one sequence, [T, V], float32."""
        pieces = self._whole(token_ids, adapter, needs_trace=False)
        return torch.cat([logits for logits, _ in pieces])

    def route(self, token_ids: Sequence[int], adapter: int | None = None) -> RouterTrace:
        """Return which experts every token of one sequence visits in each layer."""
        traces = [trace for _, trace in self._whole(token_ids, adapter, needs_trace=True)]
        return RouterTrace(
            expert_ids=torch.cat([trace.expert_ids for trace in traces]),
            routing_weights=torch.cat([trace.routing_weights for trace in traces]),
            router_logits=torch.cat([trace.router_logits for trace in traces]),
        )

    def _whole(
        self, token_ids: Sequence[int], adapter: int | None, *, needs_trace: bool
    ) -> Iterable[tuple[Tensor, RouterTrace]]:
        """Run a sequence in pieces over a cache of its own."""
        blocks = -(-len(token_ids) // _CACHE_TILE)
        cache = self.new_cache(num_blocks=blocks, block_size=_CACHE_TILE)
        for begin in range(0, len(token_ids), _MAX_STEP_TOKENS):
            piece = token_ids[begin : begin + _MAX_STEP_TOKENS]
            batch = TokenBatch(
                input_ids=torch.tensor(piece, dtype=torch.int64, device="cpu"),
                positions=torch.arange(begin, begin + len(piece), device="cpu"),
                starts=(0, len(piece)),
                context_lens=(begin + len(piece),),
                block_tables=(range(blocks),),
                adapter_ids=(adapter,),
            )
            trace = self._empty_trace(len(piece) if needs_trace else 0)
            rows = np.arange(0 if needs_trace else len(piece), dtype=np.int64)
            yield self._run(batch, cache, rows, trace=trace if needs_trace else None), trace

    def _empty_trace(self, tokens: int) -> RouterTrace:
        config = self.config
        chosen = (tokens, config.num_hidden_layers, config.num_experts_per_tok)
        every = (tokens, config.num_hidden_layers, config.num_local_experts)
        return RouterTrace(
            expert_ids=torch.empty(chosen, dtype=torch.int64, device="cpu"),
            routing_weights=_empty_floats(*chosen),
            router_logits=_empty_floats(*every),
        )

    def _run(
        self,
        batch: TokenBatch,
        cache: CpuKVCache,
        rows: "np.ndarray[tuple[int], np.dtype[np.int64]]",
        trace: RouterTrace | None = None,
        expert_load: ExpertLoad | None = None,
    ) -> Tensor:
        """Hand one step to C++ and return the logits of some tokens, [R, V], float32."""
        self._library.set_threads(self.num_threads)
        tokens = batch.input_ids.numel()
        logits = _empty_floats(len(rows), self.config.vocab_size)
        width = max(len(table) for table in batch.block_tables)
        tables = np.zeros((len(batch.block_tables), width), dtype=np.int64)
        for row, table in zip(tables, batch.block_tables, strict=True):
            row[: len(table)] = table
        starts = np.asarray(batch.starts, dtype=np.int64)
        step = Batch(
            tokens=tokens,
            sequences=len(tables),
            num_rows=len(rows),
            block_size=cache.block_size,
            table_width=width,
            cache_slots=cache.num_blocks * cache.block_size,
            ids=batch.input_ids.data_ptr(),
            positions=batch.positions.data_ptr(),
            starts=starts.ctypes.data,
            tables=tables.ctypes.data,
            row_ids=rows.ctypes.data,
            cache=cache.address,
            logits=logits.data_ptr(),
        )
        if trace is not None:
            step.router_logits = trace.router_logits.data_ptr()
            step.expert_ids = trace.expert_ids.data_ptr()
            step.routing_weights = trace.routing_weights.data_ptr()
        if expert_load is not None:
            step.expert_load = expert_load.ctypes.data
        adapters = self._adapters.for_step(
            batch.adapter_ids, tokens=tokens, model=self._model, library=self._library
        )
        if adapters is not None:
            step.adapters = adapters.address
        # A name of our own: another thread may put a larger one in its place during the step.
        workspace = self._workspace
        step.workspace, step.workspace_bytes = workspace.ctypes.data, workspace.size
        while needed := self._library.run_step(self._model, step):
            self._workspace = workspace = np.empty(needed, dtype=np.uint8)
            step.workspace, step.workspace_bytes = workspace.ctypes.data, workspace.size
        return logits

    def with_experts_per_token(self, counts: Sequence[int]) -> "CpuTransformer":
        """Return a model over the same memory that uses other numbers of experts.

        Args:
            counts: Experts per token of each layer, L values from 1 to E.

        Returns:
            It computes and caches as this one does; it has no adapters yet.

        Raises:
            ConfigError: A number is wrong, or there are not L of them.
        """
        return CpuTransformer(
            self.config.replace(num_experts_per_tok=max(counts, default=1)),
            self.tensors.items(),
            exact=self._exact,
            kv_dtype=self._kv_dtype,
            experts_per_token=counts,
        )

    def _describe(self, experts_per_token: Sequence[int]) -> Model:
        """Fill the C structures; they point into tensors that this object keeps."""
        config, weights = self.config, self._tensors
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu")
        self._frequencies = 1.0 / config.rope_theta ** (exponents / config.head_dim)
        self._layers = (Layer * config.num_hidden_layers)()
        self._experts = []
        for index, layer in enumerate(self._layers):
            prefix = f"model.layers.{index}."
            layer.input_norm = weights.floats(f"{prefix}input_layernorm")
            layer.post_norm = weights.floats(f"{prefix}post_attention_layernorm")
            for name in ("q", "k", "v", "o"):
                setattr(layer, name, weights.matrix(f"{prefix}self_attn.{name}_proj"))
            if not config.is_dense:
                layer.gate = weights.floats(f"{prefix}block_sparse_moe.gate")
            experts = (Weight * (3 * config.num_experts))()
            for expert in range(config.num_experts):
                for place, name in enumerate(("w1", "w3", "w2")):
                    found = f"{prefix}block_sparse_moe.experts.{expert}.{name}"
                    experts[3 * expert + place] = weights.matrix(found)
            self._experts.append(experts)
            layer.experts = ctypes.addressof(experts)
            layer.experts_per_token = experts_per_token[index]
        head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
        model = Model(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            ffn=config.intermediate_size,
            vocab=config.vocab_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            experts=config.num_experts,
            experts_per_token=config.num_experts_per_tok,
            window=config.sliding_window or 0,
            eps=config.rms_norm_eps,
            exact=int(self._exact),
            kv_int8=int(self._kv_dtype == "int8"),
            frequencies=self._frequencies.data_ptr(),
            embedding=weights.matrix("model.embed_tokens").data,
            norm=weights.floats("model.norm"),
            head=weights.matrix(head),
            layer=ctypes.addressof(self._layers),
        )
        weights.check_all_used()
        return model


def _empty_floats(*shape: int) -> Tensor:
    """Return room for C++ to write to, whatever PyTorch's default type and device are set to."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _checked_counts(config: ModelConfig, counts: Sequence[int] | None) -> Sequence[int]:
    """Return the experts per token of each layer, all right."""
    most = config.num_experts_per_tok
    if counts is None:
        return (most,) * config.num_hidden_layers
    if len(counts) != config.num_hidden_layers or not all(1 <= count <= most for count in counts):
        raise ConfigError(
            f"experts_per_token is {list(counts)}; it must be {config.num_hidden_layers} numbers "
            f"from 1 to {most}, one for each layer."
        )
    return counts
