"""Measure the model on one NVIDIA GPU: parity with the CPU first, then speed beside the ceilings.

    python benchmarks/gpu.py                                    # random:8x7b in bfloat16
    python benchmarks/gpu.py --device cpu --model random:nano   # the same steps, on any machine

1. A small random model in float32, bfloat16 and float16: logits and greedy tokens of the device
   against float32 on the CPU. A type that disagrees ends the run with status 1.
2. Ours: load, then decode at batch 1, 8 and 32 and prefill of 512 and 4096 tokens, each repeat
   between two probes (copy bandwidth and a bfloat16 product of 8192^3).
3. transformers: ours is freed, the same weights are made again from the same seed in its layout,
   and its logits must agree with those that ours gave, before it runs the same work. Two copies of
   93 GB do not fit on one device, so here the engines do not alternate; the probes beside each say
   whether the device changed in between. A ratio is of medians, from the worst to the best pair.

What the memory or the time limit does not allow is left out, with a line that says so on the
screen and in the JSON. If transformers fails, our numbers are there all the same, and the status is
1. The last line of standard output is the report as JSON; it is written to --json too. Without
CUDA: one line, status 2.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mixtral.bench.contender import Contender, MixtralContender, Room
from mixtral.bench.gate import Answer, check_agreement, gate_prompt, record_answer
from mixtral.bench.peer import TransformersContender, fuse_weights
from mixtral.bench.probes import Prober
from mixtral.bench.results import Ratio, Report, Result, Spread, write_json
from mixtral.bench.session import describe_peer
from mixtral.bench.steps import Subject, Workload, measure
from mixtral.config import ModelConfig
from mixtral.errors import Error, UnsupportedError
from mixtral.loading import load_model, refuse_if_too_large, torch_dtype
from mixtral.model import LanguageModel, Transformer
from mixtral.model_source import ModelSource, find_model
from mixtral.random_weights import random_tensors
from mixtral.reports.folder import check_file

PARITY_TYPES = ("float32", "bfloat16", "float16")
DECODE_TOKENS = 64
"""Prompt and answer of a decode run together, rounded up."""
Factory = Callable[[int, int], Contender]
"""From the largest batch and the most tokens of a sequence to an engine with room for them."""


@dataclass(kw_only=True, slots=True)
class Run:
    """What to do, and what was found so far."""

    source: ModelSource
    dtype: str
    device: torch.device
    time_limit_s: float
    repeats: int
    begin: float = field(default_factory=time.perf_counter)
    parity: list[dict[str, Any]] = field(default_factory=list)
    loads: list[dict[str, Any]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    peer: dict[str, Any] | None = None
    has_failed: bool = False
    """Whether the peer was to be measured and could not be."""

    def workloads(self) -> list[Workload]:
        """Return the work, most wanted first; long prompts only where the context has room."""
        decode = [
            Workload(work="decode", batch=batch, prompt_tokens=32, new_tokens=16)
            for batch in (1, 8, 32)
        ]
        room = self.source.config.max_position_embeddings - 1
        prefill = [
            Workload(work="prefill", batch=1, prompt_tokens=length, new_tokens=1)
            for length in (512, 4096)
            if length <= room
        ]
        return decode + prefill

    def say(self, text: str) -> None:
        """Tell a person what is going on."""
        print(f"[{time.perf_counter() - self.begin:4.0f} s] {text}", file=sys.stderr, flush=True)

    def skip(self, text: str) -> None:
        """Note what is left out."""
        self.skipped.append(text)
        self.say(text)

    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() - self.begin > self.time_limit_s


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "this torch sees no CUDA GPU; run on a machine with one, or try the same steps with "
            "--device cpu --model random:nano.",
            file=sys.stderr,
        )
        return 2
    try:
        run = Run(
            source=find_model(options.model, layers=options.layers),
            dtype=options.dtype,
            device=torch.device(options.device),
            time_limit_s=options.time_limit,
            repeats=options.repeats,
        )
        if not run.source.is_random:
            raise UnsupportedError(f"model is {options.model!r}; it must be random:PRESET.")
        if options.json is not None:
            check_file("--json", options.json)
        check_parity(run)
        measure_both(run)
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    values = _report(run)
    print(json.dumps(values))
    if options.json is not None:
        write_json(options.json, values)
    return 1 if run.has_failed else 0


def check_parity(run: Run) -> None:
    """Hold a small model on the device, in every type, against float32 on the CPU.

    Raises:
        EngineError: One disagrees.
    """
    config = ModelConfig.preset("nano").replace(num_hidden_layers=2)
    for name in PARITY_TYPES:
        dtype = torch_dtype(name)
        source = ModelSource(name="parity", config=config, folder=None)
        model = load_model(source, dtype=name, device=run.device.type)
        answer = _answer(_ours(model, name)(1, DECODE_TOKENS), config)
        wide = ((key, tensor.float()) for key, tensor in random_tensors(config, dtype=dtype))
        exact = Transformer.from_tensors(config, wide)
        gate = check_agreement(answer, _ours(exact, "float32")(1, DECODE_TOKENS))
        run.parity.append(
            {
                "format": name,
                "relative_error": gate.relative_error,
                "tolerance": gate.tolerance,
                "agreeing_tokens": f"{gate.num_agreeing_tokens} of {gate.num_tokens}",
            }
        )
        run.say(f"parity {name}: relative error {gate.relative_error:.1e} against the CPU")


def measure_both(run: Run) -> None:
    """Measure ours, free it, measure transformers; a peer that fails costs none of our numbers."""
    dtype = run.dtype
    try:
        refuse_if_too_large(run.source.config, dtype, run.device)
    except UnsupportedError as error:
        run.skip(f"nothing timed: {error}")
        return
    prober = Prober(run.device)
    subject, answer = measure_ours(run, prober)
    _free_memory()
    if run.is_late():
        run.skip("transformers left out: the time is up")
        return
    try:
        refuse_if_too_large(run.source.config, dtype, run.device)
        measure_theirs(run, subject, answer, prober)
    except UnsupportedError as error:
        run.skip(f"transformers left out: {error}")
    except (Error, torch.OutOfMemoryError) as error:
        run.skip(f"transformers failed: {error}")
        run.has_failed = True


def measure_ours(run: Run, prober: Prober) -> tuple[Subject, Answer]:
    """Load and time our engine; return what the peer needs once the model is gone."""
    begin = time.perf_counter()
    model = load_model(run.source, dtype=run.dtype, device=run.device.type)
    _note_load(run, "mixtral", begin)
    asked = Subject.of(model, name=run.source.name)
    make = _ours(model, run.dtype)
    answer = _answer(make(1, DECODE_TOKENS), model.config)
    counts: dict[tuple[int, int, int], tuple[float, float]] = {}

    def count(prompts: Sequence[Any], answers: Sequence[Any]) -> tuple[float, float]:
        key = (len(prompts), len(prompts[0]), len(answers[0]))
        counts[key] = asked.count_experts(prompts, answers)
        return counts[key]

    def recall(prompts: Sequence[Any], answers: Sequence[Any]) -> tuple[float, float]:
        return counts[len(prompts), len(prompts[0]), len(answers[0])]

    _measure(run, _renamed(asked, count), make, prober)
    return _renamed(asked, recall), answer


def measure_theirs(run: Run, subject: Subject, answer: Answer, prober: Prober) -> None:
    """Make the same weights again for transformers, check that it agrees, time it."""
    begin = time.perf_counter()
    config = run.source.config
    state = fuse_weights(
        config, random_tensors(config, dtype=torch_dtype(run.dtype), device=run.device)
    )
    peer = TransformersContender(config, state)
    _note_load(run, "transformers", begin)
    gate = check_agreement(answer, peer)
    run.peer = describe_peer(peer, gate)
    run.say(f"gate passed: logits within {gate.relative_error:.1e} of transformers")
    # Only work that ours has done too has something to stand beside.
    _measure(run, subject, lambda batch, tokens: peer, prober)


def _ours(model: LanguageModel, format_name: str) -> Factory:
    def make(batch: int, tokens: int) -> Contender:
        room = Room(sequences=batch, tokens=tokens, slots=batch * tokens)
        return MixtralContender(model, room, format_name=format_name)

    return make


def _answer(contender: Contender, config: ModelConfig) -> Answer:
    prompt = gate_prompt(vocab_size=config.vocab_size, max_tokens=DECODE_TOKENS)
    return record_answer(contender, prompt)


def _renamed(subject: Subject, count: Callable[..., tuple[float, float]]) -> Subject:
    """The same subject with another way to count experts, and so without a hold on the model."""
    return Subject(
        config=subject.config,
        name=subject.name,
        threads=subject.threads,
        count_experts=count,
        seed=subject.seed,
    )


def _measure(run: Run, subject: Subject, make: Factory, prober: Prober) -> None:
    done = {(result.work, result.batch, result.prompt_tokens) for result in run.results}
    for workload in run.workloads():
        what = f"{workload.work}, batch {workload.batch}, {workload.prompt_tokens} prompt tokens"
        is_first = run.peer is None
        if not is_first and (workload.work, workload.batch, workload.prompt_tokens) not in done:
            continue
        tokens = DECODE_TOKENS if workload.work == "decode" else workload.prompt_tokens + 1
        contender = make(workload.batch, tokens)
        if run.is_late():
            run.skip(f"{contender.name}, {what} left out: the time is up")
            continue
        try:
            found, _ = measure(subject, workload, [contender], prober, repeats=run.repeats)
        except torch.OutOfMemoryError:
            run.skip(f"{contender.name}, {what} left out: the device memory is full")
            _free_memory()
            continue
        run.results += found
        run.say(f"{contender.name}, {what}: {found[0].tokens_per_s.median:.1f} tokens/s")


def _ratios(results: Sequence[Result]) -> list[Ratio]:
    theirs = {(r.work, r.batch, r.prompt_tokens): r for r in results if r.engine == "transformers"}
    ratios = []
    for ours in results:
        peer = theirs.get((ours.work, ours.batch, ours.prompt_tokens))
        if ours.engine != "mixtral" or peer is None:
            continue
        a, b = ours.tokens_per_s, peer.tokens_per_s
        ratios.append(
            Ratio(
                work=ours.work,
                engine=ours.engine,
                peer=peer.engine,
                batch=ours.batch,
                prompt_tokens=ours.prompt_tokens,
                tokens_per_s=Spread(
                    median=a.median / b.median, min=a.min / b.max, max=a.max / b.min
                ),
            )
        )
    return ratios


def _note_load(run: Run, engine: str, begin: float) -> None:
    is_cuda = run.device.type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(run.device)
    seconds = time.perf_counter() - begin
    size = run.source.config.weight_bytes(run.dtype)  # type: ignore[arg-type]
    held = torch.cuda.memory_allocated(run.device) if is_cuda else size
    run.loads.append({"engine": engine, "seconds": seconds, "memory_bytes": held})
    run.say(f"{engine}: {size / 1e9:.1f} GB of weights made in {seconds:.1f} s")


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _report(run: Run) -> dict[str, Any]:
    notes: dict[str, Any] = {"repeats": run.repeats, "seed": 0, "skipped": run.skipped}
    notes["seconds"] = time.perf_counter() - run.begin
    if run.peer is not None:
        notes["peers"] = [run.peer]
    report = Report(results=run.results, ratios=_ratios(run.results), notes=notes)
    values = report.to_json() | {"parity": run.parity, "loads": run.loads}
    if run.device.type == "cuda":
        values["machine"]["gpu_memory_bytes"] = torch.cuda.mem_get_info(run.device)[1]
        values["machine"]["cuda"] = torch.version.cuda
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the model on one NVIDIA GPU.")
    parser.add_argument("--model", default="random:8x7b", help="random:PRESET")
    parser.add_argument("--layers", type=int, help="fewer layers than the preset has")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each work")
    parser.add_argument(
        "--time-limit", type=float, default=400.0, help="seconds after which no new work begins"
    )
    parser.add_argument("--json", type=Path, help="write the report here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
