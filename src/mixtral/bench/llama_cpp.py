"""llama.cpp on the weights of our model, as a contender, through llama-cpp-python.

The weights are written to a temporary GGUF file, in a format of llama.cpp (Q4_0, Q8_0, BF16 or
F16); packed ones are unpacked on the way, so the peer has our very weights, rounded once more. Our
own engine reads the file too, in bfloat16, and answers the prompt of the gate: llama.cpp must agree
with that. The file is gone as soon as both have it: what is mapped stays until the process ends.

The peer runs as its own benchmark programs run it: library defaults (memory map, repacked weights,
flash attention where it chooses), 512 tokens per batch, and a context of just the sequences and
tokens of the work at hand. Only the C interface is used: ``llama_decode`` takes one token of each
sequence per step, which llama-cpp-python's own ``Llama`` class cannot.
"""

import importlib
import logging
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixtral.bench.contender import (
    MixtralContender,
    Room,
    TimedRun,
    plain_tensors,
    stored_tensors,
)
from mixtral.bench.gate import GATE_TOKENS, Answer, Peer, record_answer
from mixtral.bench.weights import StepWeights
from mixtral.checkpoint.gguf import GgufQuantization, gguf_bytes, write_gguf
from mixtral.config import ModelConfig
from mixtral.errors import EngineError, UnsupportedError
from mixtral.gguf_file import read_gguf
from mixtral.loading import load_model
from mixtral.model import LanguageModel
from mixtral.model_source import find_model

_BATCH_TOKENS = 512
# Contexts are cut into pieces of this size; a smaller one is rounded up by llama.cpp itself.
_CONTEXT_STEP = 256


class LlamaCppContender:
    """A GGUF file in llama.cpp.

    Args:
        file: The GGUF file; it may be deleted afterwards.
        config: Geometry of the model in it.
        room: What it must hold.
        threads: Threads that it uses.
        quantization: How the matrices are stored.

    Raises:
        UnsupportedError: llama-cpp-python is not installed.
        EngineError: llama.cpp does not load the file.
    """

    def __init__(
        self,
        file: Path,
        config: ModelConfig,
        room: Room,
        *,
        threads: int,
        quantization: GgufQuantization,
    ) -> None:
        self._llama = _import_llama_cpp()
        self._vocab_size = config.vocab_size
        self._room, self._threads = room, threads
        sizes = [(name, tensor.num_bytes) for name, tensor in read_gguf(file).tensors.items()]
        self._weights = StepWeights.of(config, sizes, format_name=quantization)
        self._loaded = _Loaded(self._llama, file)
        self._context: _Context | None = None

    @property
    def name(self) -> str:
        """What the results call it."""
        return "llama.cpp"

    @property
    def weights(self) -> StepWeights:
        """What its steps read."""
        return self._weights

    def describe(self) -> Mapping[str, str]:
        """Return the version of the binding, and what llama.cpp was built with."""
        built = " ".join(self._llama.llama_print_system_info().decode().split())
        return {"version": f"llama-cpp-python {self._llama.__version__}", "built_with": built}

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Return next-token logits after each token, [T, V], float32."""
        context = self._prepare(1)
        places = [(token, position, 0) for position, token in enumerate(token_ids)]
        rows: list[Tensor] = []
        for begin in range(0, len(places), _BATCH_TOKENS):
            piece = places[begin : begin + _BATCH_TOKENS]
            self._decode(context, piece, wanted=range(len(piece)))
            rows += [self._row(context, row) for row in range(len(piece))]
        return torch.stack(rows)

    def run(self, prompts: Sequence[Sequence[int]], num_decode_steps: int) -> TimedRun:
        """Run prompts, then decode greedily, timing each step."""
        context = self._prepare(len(prompts))
        length = len(prompts[0])
        seconds = []
        begin = time.perf_counter()
        chosen = self._prefill(context, prompts)
        seconds.append(time.perf_counter() - begin)
        answers = [[token] for token in chosen]
        for step in range(num_decode_steps):
            begin = time.perf_counter()
            places = [(token, length + step, sequence) for sequence, token in enumerate(chosen)]
            chosen = []
            for at in range(0, len(places), _BATCH_TOKENS):
                piece = places[at : at + _BATCH_TOKENS]
                self._decode(context, piece, wanted=range(len(piece)))
                chosen += [self._best(context, row) for row in range(len(piece))]
            seconds.append(time.perf_counter() - begin)
            for answer, token in zip(answers, chosen, strict=True):
                answer.append(token)
        return TimedRun(prefill_s=seconds[0], decode_s=seconds[1:], token_ids=answers)

    def _prefill(self, context: Any, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Run prompts in pieces of the batch size; return the best token after each."""
        places = [
            (token, position, sequence)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        last = len(prompts[0]) - 1
        chosen = []
        for begin in range(0, len(places), _BATCH_TOKENS):
            piece = places[begin : begin + _BATCH_TOKENS]
            wanted = [row for row, (_, position, _) in enumerate(piece) if position == last]
            self._decode(context, piece, wanted=wanted)
            chosen += [self._best(context, row) for row in wanted]
        return chosen

    def _prepare(self, num_sequences: int) -> Any:
        """Return an empty context for so many sequences."""
        if self._context is None or self._context.num_sequences != num_sequences:
            self._context = None  # before the next one is made: two need twice the memory
            self._context = _Context(
                self._loaded, num_sequences, room=self._room, threads=self._threads
            )
        pointer = self._context.pointer
        self._llama.llama_memory_clear(self._llama.llama_get_memory(pointer), True)
        return pointer

    def _decode(
        self, context: Any, places: Sequence[tuple[int, int, int]], *, wanted: Sequence[int]
    ) -> None:
        """Run tokens given as (id, position, sequence); logits are kept for the rows wanted."""
        batch = self._loaded.batch
        batch.n_tokens = len(places)
        for row, (token, position, sequence) in enumerate(places):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = 0
        for row in wanted:
            batch.logits[row] = 1
        if status := self._llama.llama_decode(context, batch):
            raise EngineError(f"llama.cpp failed with status {status} on {len(places)} tokens.")

    def _best(self, context: Any, row: int) -> int:
        return int(self._values(context, row).argmax())

    def _row(self, context: Any, row: int) -> Tensor:
        return torch.from_numpy(self._values(context, row).copy())

    def _values(self, context: Any, row: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the logits of a row of the last batch where llama.cpp has them."""
        pointer = self._llama.llama_get_logits_ith(context, row)
        return np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))


class _Loaded:
    """A model in llama.cpp and a batch to fill, freed with the object."""

    def __init__(self, llama: Any, file: Path) -> None:
        self.llama = llama
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(str(file).encode(), params)
        if not self.model:
            raise EngineError(f"llama.cpp does not load {file}; nothing was timed.")
        weakref.finalize(self, llama.llama_model_free, self.model)
        self.batch = llama.llama_batch_init(_BATCH_TOKENS, 0, 1)
        weakref.finalize(self, llama.llama_batch_free, self.batch)


class _Context:
    """A KV cache and buffers for a number of sequences, freed with the object."""

    def __init__(self, loaded: _Loaded, num_sequences: int, *, room: Room, threads: int) -> None:
        llama = loaded.llama
        self._loaded = loaded  # the model must outlive the context
        self.num_sequences = num_sequences
        tokens = min(room.tokens, room.slots // num_sequences + 1)
        params = llama.llama_context_default_params()
        params.n_ctx = num_sequences * -(-tokens // _CONTEXT_STEP) * _CONTEXT_STEP
        params.n_batch = params.n_ubatch = _BATCH_TOKENS
        params.n_seq_max = num_sequences
        params.n_threads = params.n_threads_batch = threads
        self.pointer = llama.llama_init_from_model(loaded.model, params)
        if not self.pointer:
            raise EngineError(
                f"llama.cpp cannot make a context of {num_sequences} sequences of {tokens} tokens."
            )
        weakref.finalize(self, llama.llama_free, self.pointer)


BeginBar = Callable[[str, int], Callable[[int], None]]
"""Shows a progress bar, given its text and total, and returns what moves it on."""


def llama_cpp_peer(
    model: LanguageModel,
    room: Room,
    prompt: Sequence[int],
    *,
    quantization: GgufQuantization | None = None,
    begin_bar: BeginBar = lambda text, total: lambda count: None,
) -> tuple[LanguageModel, Peer]:
    """Put llama.cpp beside our model, on its weights in one of GGUF's formats.

    Args:
        model: Ours.
        room: What the peer must hold.
        prompt: The gate's prompt, for the reference.
        quantization: How the peer holds the matrices; None takes the format nearest to ours.
        begin_bar: Shows how far the file is written, in bytes.

    Returns:
        The model, as it was, and the peer with its reference.

    Raises:
        UnsupportedError: llama-cpp-python is not installed, or the reference does not fit into
            memory.
        CheckpointError: The temporary file cannot be written.
        EngineError: llama.cpp does not load it.
    """
    _import_llama_cpp()
    config = model.config
    quantization = quantization or nearest_format(model)
    total = gguf_bytes(config, quantization, None)
    with tempfile.TemporaryDirectory(prefix="mixtral-bench-") as folder:
        file = Path(folder) / f"{quantization}.gguf"
        write_gguf(
            file,
            config,
            plain_tensors(model),
            quantization=quantization,
            tokenizer_version=None,
            on_bytes=begin_bar(f"writing {quantization} for llama.cpp", total),
        )
        reference = _answer_from(file, prompt)
        threads = torch.get_num_threads()
        peer = LlamaCppContender(file, config, room, threads=threads, quantization=quantization)
    return model, Peer(contender=peer, reference=reference)


def _answer_from(file: Path, prompt: Sequence[int]) -> Answer:
    """Ask our own engine, in bfloat16, over the weights of a GGUF file."""
    room = Room(sequences=1, tokens=GATE_TOKENS, slots=GATE_TOKENS)
    model = load_model(find_model(str(file)), dtype="bfloat16")
    return record_answer(MixtralContender(model, room, format_name="bfloat16"), prompt)


def nearest_format(model: LanguageModel) -> GgufQuantization:
    """Return the GGUF format whose bits per weight are nearest to those of a model's experts."""
    sizes = ((name, tensor.nbytes) for name, tensor in stored_tensors(model))
    weights = StepWeights.of(model.config, sizes, format_name="")
    bits = 8 * weights.expert_bytes / model.config.num_expert_parameters
    return "bf16" if bits > 12 else "q8_0" if bits > 6 else "q4_0"


def _import_llama_cpp() -> Any:
    try:
        llama_cpp: Any = importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        # The binding raises the last two where its shared library does not load.
        raise UnsupportedError(
            f"the comparison needs llama-cpp-python, which cannot be imported ({error}); "
            "pip install 'mixtral[compare]', or leave llama.cpp out."
        ) from error
    # It prints what llama.cpp logs, at levels that are off by one; failures are reported by us.
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
    return llama_cpp
