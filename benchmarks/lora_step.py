"""Measure a LoRA training step over an int4 base against transformers + PEFT over bfloat16.

    python benchmarks/lora_step.py                   # two layers of 8x7B, 512 tokens
    python benchmarks/lora_step.py --peer-tokens 32  # fewer where bfloat16 is slow

A step is forward, backward and AdamW on rank 16 beside the linears of attention and of every
expert, on one sequence of random tokens, with activation checkpointing of each layer in both.

1. Gate: a tiny packed model with an adapter, and PEFT over the decoded weights with the same
   adapter from its own file, must give the same logits and loss, or there are no numbers.
2. Each engine trains in a process of its own, so that its peak memory (VmHWM) is its own, imports
   included. The warm-up is not timed. Probes of the machine stand before and after.

tokens/s are those of the median step. Seconds of the processor are noted beside them: with one
thread they do not depend on what else runs. PEFT adapts the fused experts of transformers by adding
the product of its two matrices to all of them (``ParamWrapper``), which costs time and memory
whatever the number of tokens; ``--targets attention`` leaves the experts alone in both. A process
is stopped where it would leave less than 2 GB of memory free or passes the time limit; the report
says so, and the ratio of memory is a bound then.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.peer import fuse_weights
from mixtral.bench.probes import Prober, Probes, float32_gflops
from mixtral.bench.results import Report, Spread, peak_rss_bytes, write_json
from mixtral.checkpoint import packed_config, quantized_tensors
from mixtral.checkpoint.peft import write_adapter
from mixtral.config import ModelConfig
from mixtral.kernels import low_bit_grad
from mixtral.machine import available_memory_bytes, num_usable_cpus
from mixtral.model import TokenBatch, Transformer
from mixtral.model.adapter import adaptable_linears
from mixtral.model.lora import LoraLinear, LoraSpec, add_lora, lora_adapter
from mixtral.model.low_bit_transformer import low_bit_transformer
from mixtral.quantization import RECIPES
from mixtral.random_weights import random_packed_tensors, random_tensors
from mixtral.train.losses import linear_cross_entropy

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "lora_step.json"
RANK, SCALE = 16, 2.0
GATE_TOLERANCE = 1e-4
LEAST_FREE_BYTES = 2 << 30
Step = Callable[[], float]
"""One training step; returns the loss."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.peer_tokens = options.peer_tokens or options.tokens
    torch.set_num_threads(options.threads)
    if options.engine is not None:
        print(json.dumps(_train(options)))
        return 0
    error = check_gate()
    print(f"gate passed: logits and loss within {error:.1e} of PEFT", file=sys.stderr)
    prober, others = Prober(), OtherProcesses()
    rows = [_measure("mixtral", options, options.tokens, prober)]
    if options.peer_tokens != options.tokens:
        rows.append(_measure("mixtral", options, options.peer_tokens, prober))
    rows.append(_measure("peft", options, options.peer_tokens, prober))
    found = {
        "model": "random:8x7b",
        "layers": options.layers,
        "rank": RANK,
        "targets": options.targets,
        "activation_checkpointing": True,
        "gate": {"relative_error": error, "tolerance": GATE_TOLERANCE},
        "steps": rows,
        "ratios": _ratios(rows),
    }
    notes = {name: getattr(options, name) for name in ("threads", "warm_up", "repeats")}
    notes |= {"seed": 0, "other_processes": others.share()}
    report = Report(results=[], notes=notes).to_json() | {"lora_step": found}
    write_json(options.output, report)
    print(json.dumps(report))
    return 0


def check_gate() -> float:
    """Return how far a tiny model's logits and loss are from PEFT's; exit where it is far."""
    config = ModelConfig.preset("nano").replace(num_hidden_layers=2, dtype="float32")
    stored = random_tensors(config, dtype=torch.bfloat16)
    packed = dict(quantized_tensors(stored, config, RECIPES["int4"]))
    config = packed_config(config)
    ids = torch.randint(config.vocab_size, (64,), generator=torch.Generator().manual_seed(0))
    ours = low_bit_transformer(config, packed.items(), torch.float32)
    add_lora(ours, _specs(config, "all"))
    for index, linear in enumerate(m for m in ours.modules() if isinstance(m, LoraLinear)):
        generator = torch.Generator().manual_seed(index)
        torch.nn.init.normal_(linear.lora_b, std=0.05, generator=generator)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        write_adapter(Path(folder) / "adapter", lora_adapter(ours), config)
        peft = _import_peft()
        plain = fuse_weights(config, _decoded(config, packed))
        theirs = peft.PeftModel.from_pretrained(
            _hugging_face(config, plain), str(Path(folder) / "adapter")
        )
        logits = ours.whole_logits(ids.tolist())
        out = theirs(input_ids=ids[None], labels=ids[None], use_cache=False)
        losses = float(_our_loss(ours, ids)), float(out.loss)
    error = float((logits - out.logits[0]).norm() / out.logits.norm())
    error = max(error, abs(losses[0] - losses[1]) / losses[1])
    if error > GATE_TOLERANCE:
        raise SystemExit(f"losses are {losses}, and logits or losses differ by {error:.1e}.")
    return error


def _train(options: argparse.Namespace) -> dict[str, Any]:
    """Train in this process and return its numbers."""
    config = ModelConfig.preset("8x7b").replace(num_hidden_layers=options.layers)
    make = _our_step if options.engine == "mixtral" else _their_step
    step = make(config, options.tokens, options.targets)
    held = peak_rss_bytes()
    losses, seconds, cpu_seconds = [step() for _ in range(options.warm_up)], [], []
    for _ in range(options.repeats):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        losses.append(step())
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.process_time() - cpu_begin)
    return {
        "step_s": seconds,
        "step_cpu_s": cpu_seconds,
        "losses": losses,
        "peak_before_training_bytes": held,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _our_step(config: ModelConfig, tokens: int, targets: str) -> Step:
    recipe = RECIPES["int4"]
    packed = random_packed_tensors(config, recipe)
    model = low_bit_transformer(packed_config(config), packed, torch.float32)
    add_lora(model, _specs(config, targets))
    for layer in model.model.layers:
        # By instance: the layers are called as they are, and run again in the backward pass.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]
    ids = _ids(config, tokens)
    return _step_of(model.train(), lambda: _our_loss(model, ids))


def _their_step(config: ModelConfig, tokens: int, targets: str) -> Step:
    peft = _import_peft()
    state = fuse_weights(config, random_tensors(config, dtype=torch.bfloat16))
    base = _hugging_face(config, state)
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=RANK,
        lora_alpha=int(RANK * SCALE),
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        target_parameters=None if targets == "attention" else experts,
    )
    model = peft.get_peft_model(base, settings).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = _ids(config, tokens)[None]
    return _step_of(model, lambda: model(input_ids=ids, labels=ids, use_cache=False).loss)


def _step_of(model: torch.nn.Module, loss_of: Callable[[], Tensor]) -> Step:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4)

    def step() -> float:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def _our_loss(model: Transformer, ids: Tensor) -> Tensor:
    batch = TokenBatch.from_sequences([ids.tolist()])
    targets = torch.cat((ids[1:], torch.tensor([-1])))
    return linear_cross_entropy(model(batch), model.lm_head.weight, targets)


def _specs(config: ModelConfig, targets: str) -> dict[str, LoraSpec]:
    wanted = (".self_attn.",) if targets == "attention" else (".self_attn.", ".experts.")
    paths = [path for path in adaptable_linears(config) if any(part in path for part in wanted)]
    return dict.fromkeys(paths, LoraSpec(rank=RANK, scale=SCALE))


def _ids(config: ModelConfig, tokens: int) -> Tensor:
    return torch.randint(config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(0))


def _decoded(config: ModelConfig, packed: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return what packed weights stand for, float32."""
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in Transformer(config).named_parameters()}
    found = []
    for name, tensor in packed.items():
        if name.endswith(".packed"):
            name = name.removesuffix("packed") + "weight"
            rows, cols = shapes[name]
            tensor = low_bit_grad.dequantize(tensor, rows=rows, cols=cols)
        found.append((name, tensor.float()))
    return found


def _hugging_face(config: ModelConfig, state: dict[str, Tensor]) -> Any:
    """Return transformers' model over tensors in its layout, used in place."""
    import transformers

    values = config.to_hf()
    for name in ("rope_theta", "torch_dtype", "architectures", "model_type"):
        values.pop(name, None)
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    dtype = state["model.norm.weight"].dtype
    settings = transformers.MixtralConfig(**values, rope_parameters=rope, dtype=dtype)
    with torch.device("meta"):
        model = transformers.MixtralForCausalLM(settings)
    model.load_state_dict(state, strict=True, assign=True)
    # Its frequencies are computed, not stored, so the meta device has left them empty.
    model.model.rotary_emb = type(model.model.rotary_emb)(settings)
    return model


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise SystemExit("this needs transformers and peft: pip install mixtral[dev].") from error
    return peft


def _measure(
    engine: str, options: argparse.Namespace, tokens: int, prober: Prober
) -> dict[str, Any]:
    """Run an engine in a process of its own, between two probes."""
    before, before_float32 = prober.measure(), float32_gflops()
    command = [sys.executable, __file__, "--engine", engine, "--tokens", str(tokens)]
    for name in ("layers", "targets", "warm-up", "repeats", "threads"):
        command += [f"--{name}", str(getattr(options, name.replace("-", "_")))]
    numbers = _run_guarded(command, options.time_limit)
    probes = Probes.median([before, prober.measure()])
    row: dict[str, Any] = {
        "engine": engine,
        "format": "int4" if engine == "mixtral" else "bfloat16",
        "tokens": tokens,
        "probes": {
            "read_gb_per_s": probes.read_gb_per_s,
            "bf16_gflops": probes.bf16_gflops,
            "float32_gflops": max(before_float32, float32_gflops()),
        },
    }
    row |= numbers
    if not row["stopped"]:
        spread = Spread.of(row["step_s"])
        row["tokens_per_s"] = {
            "median": tokens / spread.median,
            "min": tokens / spread.max,
            "max": tokens / spread.min,
        }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def _run_guarded(command: list[str], time_limit_s: float) -> dict[str, Any]:
    """Return what a process printed as JSON, or why and how far it ran until it was stopped."""
    begin, highest, why = time.perf_counter(), 0, ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not why:
            time.sleep(0.2)
            highest = max(highest, _peak_of(process.pid))
            if available_memory_bytes() < LEAST_FREE_BYTES:
                why = "the memory of the machine ran out"
            elif time.perf_counter() - begin > time_limit_s:
                why = f"not done after {time_limit_s:.0f} s"
        if why:
            process.kill()
            seconds = time.perf_counter() - begin
            return {"stopped": why, "stopped_after_s": seconds, "peak_rss_bytes": highest}
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with status {process.returncode}.")
    return {"stopped": ""} | json.loads(lines[-1])


def _peak_of(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM:")), 0)


def _ratios(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare at the number of tokens that both ran.

    Of a peer that was stopped only the memory is compared, and that is a bound: its peak is at
    least what it held. Its time says nothing, because building the model is in it.
    """
    ours, peer = rows[-2], rows[-1]
    found: dict[str, Any] = {
        "tokens": ours["tokens"],
        "is_bound": bool(peer["stopped"]),
        "peak_memory": ours["peak_rss_bytes"] / peer["peak_rss_bytes"],
    }
    if not peer["stopped"]:
        ours_per_s, peer_per_s = (row["tokens_per_s"]["median"] for row in (ours, peer))
        found["tokens_per_s"] = ours_per_s / peer_per_s
        found["tokens_per_cpu_s"] = min(peer["step_cpu_s"]) / min(ours["step_cpu_s"])
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a LoRA step over an int4 base.")
    parser.add_argument("--layers", type=int, default=2, help="layers of 8x7B")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a step")
    parser.add_argument("--peer-tokens", type=int, help="tokens of a step of the peer")
    parser.add_argument("--targets", default="all", choices=("all", "attention"))
    parser.add_argument("--warm-up", type=int, default=1, help="steps before those")
    parser.add_argument("--repeats", type=int, default=2, help="timed steps")
    parser.add_argument("--threads", type=int, default=num_usable_cpus())
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds of each engine")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--engine", choices=("mixtral", "peft"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
