"""The experts of one layer alone, timed: what the C++ library makes of the largest part of a step.

One call takes T token states with their choice of experts, groups the tokens by expert, multiplies
them with w1 and w3, applies SwiGLU, multiplies with w2 and adds up each token's experts
(``CpuLibrary.moe``). States are Gaussian and experts are chosen evenly at random, as a random
router does; those of a layer of 8x7B take 0.7 GB in int4, so no cache holds them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixtral.bench.collect import collect
from mixtral.bench.contender import stored_tensors
from mixtral.bench.counts import count_distinct
from mixtral.bench.named_model import ModelOptions
from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober, Probes
from mixtral.bench.results import Report, Result, Spread, peak_rss_bytes
from mixtral.bench.steps import Repeat, peak_fractions
from mixtral.bench.weights import StepWeights
from mixtral.config import ModelConfig
from mixtral.errors import ConfigError, UnsupportedError
from mixtral.kernels.cpu import CpuLibrary, load_library
from mixtral.kernels.cpu.structures import WEIGHT_FORMATS, Weight
from mixtral.kernels.formats import format_of_packed
from mixtral.model import CpuTransformer

_RUNS = 3
"""Calls of a repeat; its time is their median."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MoeOptions:
    """What to measure.

    Raises:
        ConfigError: There is nothing to measure, or a number is below 1.
    """

    model: ModelOptions
    """The model; the experts of its first layer are timed."""
    tokens: Sequence[int] = (512,)
    """Tokens of a step; one result for each."""
    repeats: int = 5
    """Timed repeats."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in (("tokens", min(self.tokens, default=0)), ("repeats", self.repeats)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")


def measure_moe(
    options: MoeOptions,
    *,
    prober: Prober | None = None,
    on_repeat: Callable[[], None] = lambda: None,
) -> Report:
    """Measure the experts of a model's first layer at every number of tokens.

    After Ctrl-C or a failure the report has the numbers of tokens that were whole by then.

    Args:
        options: What to measure.
        prober: Takes the ceilings; None makes one.
        on_repeat: Called after each repeat.

    Raises:
        ConfigError: An option is wrong.
        CheckpointError: The model's files are wrong.
        UnsupportedError: The model does not fit, is dense, or does not run in the C++ library.
        KeyboardInterrupt: At Ctrl-C, before the first number of tokens was whole.
    """
    source = options.model.find()
    if source.config.is_dense:
        raise UnsupportedError(f"{options.model.name} is dense; it has no experts to measure.")
    model, format_name = options.model.load(source)
    library = load_library()
    if library is None or not isinstance(model, CpuTransformer):
        raise UnsupportedError(
            f"the experts are measured in the C++ library, which does not run {format_name} "
            "weights here; give --quantization int4, or a processor with AVX-512 BF16."
        )
    layer = _Layer(model, library, format_name=format_name, seed=options.model.seed)
    prober = prober or Prober()
    others = OtherProcesses()

    def measure(tokens: int) -> Result:
        found = _measure(layer, tokens, prober, repeats=options.repeats, on_repeat=on_repeat)
        return _result(layer, options.model, tokens, *found)

    done = collect(measure(tokens) for tokens in options.tokens)
    notes = {
        "seed": options.model.seed,
        "repeats": options.repeats,
        "other_processes": others.share(),
    }
    return Report(results=done.found, notes=notes, is_cut=done.is_cut, failure=done.failure)


class _Layer:
    """The experts of the first layer, ready to be called."""

    def __init__(
        self, model: CpuTransformer, library: CpuLibrary, *, format_name: str, seed: int
    ) -> None:
        self.config = model.config
        self.library = library
        self._model = model  # the addresses below are those of its tensors
        self._experts = [_describe(model, expert) for expert in range(self.config.num_experts)]
        self._generator = torch.Generator().manual_seed(seed)
        sizes = ((name, tensor.nbytes) for name, tensor in stored_tensors(model))
        self.weights = StepWeights.of(self.config, sizes, format_name=format_name)
        library.set_threads(torch.get_num_threads())

    def choose(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return random states [T, D], routing weights [T, A] and expert ids [T, A]."""
        config = self.config
        states = torch.randn(tokens, config.hidden_size, generator=self._generator)
        logits = torch.randn(tokens, config.num_experts, generator=self._generator)
        chosen = logits.topk(config.num_experts_per_tok)
        return states, chosen.values.softmax(dim=-1), chosen.indices.contiguous()

    def run(self, work: tuple[Tensor, Tensor, Tensor]) -> float:
        """Run the experts once and return the seconds."""
        begin = time.perf_counter()
        self.library.moe(*work, self._experts)
        return time.perf_counter() - begin


def _describe(model: CpuTransformer, expert: int) -> tuple[Weight, Weight, Weight]:
    """Tell C++ where w1, w2 and w3 of an expert of the first layer lie."""
    w1, w2, w3 = (_weight(model, f"experts.{expert}.{name}") for name in ("w1", "w2", "w3"))
    return w1, w2, w3


def _weight(model: CpuTransformer, name: str) -> Weight:
    width, ffn = model.config.hidden_size, model.config.intermediate_size
    rows, cols = (width, ffn) if name.endswith("w2") else (ffn, width)
    module = f"model.layers.0.block_sparse_moe.{name}"
    tensor = model.tensors.get(f"{module}.packed")
    if tensor is None:
        tensor, form = model.tensors[f"{module}.weight"], "bfloat16"
    else:
        form = format_of_packed(tensor, rows=rows, cols=cols)
    return Weight(data=tensor.data_ptr(), rows=rows, cols=cols, format=WEIGHT_FORMATS[form])


def _measure(
    layer: _Layer,
    tokens: int,
    prober: Prober,
    *,
    repeats: int,
    on_repeat: Callable[[], None],
) -> tuple[list[Repeat], int]:
    """Return the repeats, and how many experts the tokens chose."""
    work = layer.choose(tokens)
    layer.run(work)
    before = prober.measure()
    found = []
    for _ in range(repeats):
        seconds = [layer.run(work) for _ in range(_RUNS)]
        after = prober.measure()
        found.append(Repeat(steps_s=seconds, probes=Probes.median([before, after])))
        before = after
        on_repeat()
    return found, count_distinct(work[2][:, None])


def _result(
    layer: _Layer, model: ModelOptions, tokens: int, repeats: Sequence[Repeat], num_experts: int
) -> Result:
    config = layer.config
    seconds = [second for repeat in repeats for second in repeat.steps_s]
    weight_bytes = round(num_experts * layer.weights.expert_bytes)
    bandwidth = [weight_bytes / r.median_s / (r.probes.read_gb_per_s * 1e9) for r in repeats]
    peak = peak_fractions(layer.weights.peak, _count_operations(config, tokens), repeats)
    return Result(
        work="moe",
        engine="mixtral",
        model=model.name,
        layers=1,
        format=layer.weights.format,
        batch=1,
        prompt_tokens=tokens,
        new_tokens=0,
        threads=torch.get_num_threads(),
        tokens_per_s=Spread.of([tokens / second for second in seconds]),
        step_ms=Spread.of([1e3 * second for second in seconds]),
        weight_bytes_per_step=weight_bytes,
        bandwidth_fraction=Spread.of(bandwidth).median,
        peak_fraction=Spread.of(peak).median if peak else None,
        peak_rss_bytes=peak_rss_bytes(),
        probes=Probes.median([repeat.probes for repeat in repeats]),
    )


def _count_operations(config: ModelConfig, tokens: int) -> int:
    """Return the operations of three products per token and expert, two per multiply-add."""
    return 2 * tokens * config.num_experts_per_tok * config.num_expert_parameters
