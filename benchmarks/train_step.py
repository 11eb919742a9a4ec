"""Measure a training step beside transformers with its default Trainer.

    python benchmarks/train_step.py                            # nano and 37m, about five minutes
    python benchmarks/train_step.py --models nano --steps 3
    python benchmarks/train_step.py --compiled                 # ours under torch.compile, too

Both train the same model from the same weights on the same batch, 8 sequences of 1,024 tokens, in
float32, or in bfloat16 where the processor multiplies it (the Trainer's ``bf16=True``). A step is
forward, loss, backward, clipping and AdamW; ours also makes the load-balancing loss, weighted 0 so
that the losses stay comparable. Each side runs in processes of its own, in turn, with a float32
matmul as a probe before and after; peak memory is VmHWM. Seconds of processor time stand beside
those of the clock: where others use the machine, the former say more. The losses of all steps must
agree before a number counts. Writes benchmarks/results/train_step.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import float32_gflops
from mixtral.bench.results import Report, Spread, peak_rss_bytes, write_json
from mixtral.checkpoint import open_checkpoint, write_checkpoint
from mixtral.config import ModelConfig
from mixtral.machine import num_usable_cpus
from mixtral.model import TokenBatch, Transformer, init_weights
from mixtral.model.router_trace import RouterRecorder
from mixtral.train import TrainRecipe
from mixtral.train.freed_memory import keep_freed_memory
from mixtral.train.losses import linear_cross_entropy, load_balancing_loss
from mixtral.train.optimizer import MasterAdamW
from mixtral.train.precision import compute_dtype

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "train_step.json"
SIDES = ("mixtral", "transformers")
COMPILED = "compiled"
MODELS = {
    "nano": ModelConfig.preset("nano"),
    "37m": ModelConfig.preset("nano").replace(intermediate_size=544),
}
LENGTH = 1024
LEARNING_RATE = 5e-5  # the Trainer's default, as is its linear fall to 0
LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--steps", type=int, default=4, help="the first one is not counted")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--sequences", type=int, default=8, help="of 1,024 tokens each")
    parser.add_argument("--threads", type=int, default=num_usable_cpus())
    parser.add_argument(
        "--compiled", action="store_true", help="measure ours under torch.compile, too"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=(*SIDES, COMPILED), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(_measure_side(options.side, options.folder, options)))
        return 0
    others = OtherProcesses()
    found = [_measure_model(name, options) for name in options.models]
    notes = {
        "steps": options.steps,
        "rounds": options.rounds,
        "threads": options.threads,
        "sequences": options.sequences,
        "tokens_per_sequence": LENGTH,
        "transformers": version("transformers"),
        "other_processes": others.share(),
    }
    write_json(options.output, Report(results=[], notes=notes).to_json() | {"train_step": found})
    print(json.dumps(found, indent=2))
    return 0


def _measure_model(name: str, options: argparse.Namespace) -> dict[str, Any]:
    config = MODELS[name]
    names = (*SIDES, COMPILED) if options.compiled else SIDES
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in names}
    with tempfile.TemporaryDirectory() as folder:
        model = Transformer(config)
        init_weights(model, seed=0)
        num_parameters = sum(p.numel() for p in model.parameters())
        tensors = ((name, p.detach()) for name, p in model.named_parameters())
        write_checkpoint(Path(folder) / name, config, tensors, layout="hf")
        for _ in range(options.rounds):
            for side in names:
                runs[side].append(_run_side(side, Path(folder) / name, options))
    _require_equal_losses(name, runs)
    sides = {side: _summary(of_side, options.sequences) for side, of_side in runs.items()}
    ours, theirs = (sides[side] for side in SIDES)
    return {
        "model": name,
        "parameters": num_parameters,
        "dtype": runs[SIDES[0]][0]["dtype"],
        **sides,
        "ratio": {
            "tokens_per_s": ours["tokens_per_s"]["median"] / theirs["tokens_per_s"]["median"],
            "tokens_per_cpu_s": (
                ours["tokens_per_cpu_s"]["median"] / theirs["tokens_per_cpu_s"]["median"]
            ),
            "peak_rss": ours["peak_rss_bytes"] / theirs["peak_rss_bytes"],
        },
    }


def _run_side(side: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    for name in ("steps", "sequences", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _require_equal_losses(name: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    first = runs[SIDES[0]][0]
    tolerance = LOSS_TOLERANCE[getattr(torch, first["dtype"])]
    for run in (run for of_side in runs.values() for run in of_side):
        for ours, theirs in zip(first["losses"], run["losses"], strict=True):
            if abs(ours - theirs) > tolerance * abs(theirs):
                raise SystemExit(f"{name}: losses differ: {first['losses']}, {run['losses']}.")


def _summary(runs: list[dict[str, Any]], sequences: int) -> dict[str, Any]:
    tokens = sequences * LENGTH
    seconds = [s for run in runs for s in run["seconds"][1:]]
    cpu_seconds = [s for run in runs for s in run["cpu_seconds"][1:]]
    return {
        "tokens_per_s": _spread([tokens / s for s in seconds]),
        "tokens_per_cpu_s": _spread([tokens / s for s in cpu_seconds]),
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
        "matmul_gflops": _spread([g for run in runs for g in run["matmul_gflops"]]),
        "losses": runs[0]["losses"],
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    spread = Spread.of(values)
    return {"median": spread.median, "min": spread.min, "max": spread.max}


def _measure_side(side: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train some steps in this process."""
    torch.set_num_threads(options.threads)
    dtype = compute_dtype("auto", torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    vocabulary = open_checkpoint(folder).config.vocab_size
    ids = torch.randint(0, vocabulary, (options.sequences, LENGTH), generator=generator)
    before = float32_gflops()
    if side == "transformers":
        result = _train_theirs(folder, ids, dtype, options.steps)
    else:
        result = _train_ours(folder, ids, dtype, options.steps, is_compiled=side == COMPILED)
    # The probe's own memory is far below that of a step.
    return result | {
        "dtype": str(dtype).removeprefix("torch."),
        "peak_rss_bytes": peak_rss_bytes(),
        "matmul_gflops": [before, float32_gflops()],
    }


class _Clock:
    """Wall and processor seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def begin(self) -> None:
        self._begin = time.perf_counter(), time.process_time()

    def end(self) -> None:
        self.seconds.append(time.perf_counter() - self._begin[0])
        self.cpu_seconds.append(time.process_time() - self._begin[1])

    def result(self, losses: list[float]) -> dict[str, Any]:
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "losses": losses}


def _train_ours(
    folder: Path, ids: torch.Tensor, dtype: torch.dtype, steps: int, *, is_compiled: bool
) -> dict[str, Any]:
    keep_freed_memory()  # as the trainer does
    checkpoint = open_checkpoint(folder)
    tensors = ((name, tensor.clone()) for name, tensor in checkpoint.tensors(dtype=dtype))
    model = Transformer.from_tensors(checkpoint.config, tensors).requires_grad_(True).train()
    if is_compiled:
        for layer in model.model.layers:
            layer.compile()
    recipe = TrainRecipe(
        output="unused",
        train_tokens="unused",
        valid_tokens="unused",
        max_steps=steps,
        weight_decay=0.0,
        beta2=0.999,
    )
    optimizer = MasterAdamW(model, recipe)
    batch = TokenBatch.from_sequences(ids.tolist())
    targets = torch.cat((ids[:, 1:], torch.full((len(ids), 1), -1)), dim=1).flatten()
    clock, losses = _Clock(), []
    for step in range(steps):
        clock.begin()
        recorder = RouterRecorder()
        loss = linear_cross_entropy(model(batch, recorder=recorder), model.lm_head.weight, targets)
        balance = load_balancing_loss(recorder.router_logits, 2)
        (loss + 0.0 * balance).backward()
        optimizer.step(LEARNING_RATE * (1 - step / steps))
        clock.end()
        losses.append(float(loss.detach()))
    return clock.result(losses)


def _train_theirs(
    folder: Path, ids: torch.Tensor, dtype: torch.dtype, steps: int
) -> dict[str, Any]:
    from transformers import MixtralForCausalLM, Trainer, TrainerCallback, TrainingArguments

    clock, losses = _Clock(), []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.end()

        def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, Any], **____: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=len(ids),
            max_steps=steps,
            bf16=dtype == torch.bfloat16,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32)
        records = [{"input_ids": row, "labels": row} for row in ids]
        trainer = Trainer(model=model, args=arguments, train_dataset=records, callbacks=[Watch()])
        trainer.train()
    return clock.result(losses)


if __name__ == "__main__":
    sys.exit(main())
