"""Measure loglikelihood tasks beside lm-evaluation-harness's own transformers backend.

    python benchmarks/eval_speed.py --data eval-data                  # nano and 8x7b, eight minutes
    python benchmarks/eval_speed.py --data eval-data --models nano

Both sides score the same tokens of the same real questions (hellaswag, arc_challenge, five-shot
mmlu): ours through ``EngineLM``, theirs through the harness's ``HFLM``, with its reuse of logits
and its best batch size of those tried in the first round. Tokenising is not timed. 8x7b is two
layers of that geometry with random weights. Ours is in the format of the case; theirs in the same,
or, where the processor has no bfloat16 products and would take tens of times as long, in float32.
Each side runs in processes of its own, in turn, every round with other questions, so that no cache
helps; a float32 matmul before and after is the probe. Before a number counts, the logits of a
prompt and the answers must agree. Writes benchmarks/results/eval_speed.json; measured_parts.py
puts it into docs/evaluation.md.
"""

import argparse
import dataclasses
import functools
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixtral.bench.gate import TOLERANCES, gate_prompt
from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import float32_gflops
from mixtral.bench.results import Report, Spread, peak_rss_bytes, write_json
from mixtral.config import ModelConfig
from mixtral.errors import EngineError
from mixtral.machine import num_usable_cpus
from mixtral.model_source import find_model
from mixtral.tokenizer import Tokenizer, load_tokenizer
from mixtral.train.precision import compute_dtype

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "eval_speed.json"
SIDES = ("mixtral", "lm-eval")
CONTEXT = 2048
# One subject: its shots are in front of all its questions, as in a whole run.
FILES = {"mmlu": "mmlu/default/mmlu_astronomy.yaml"}
NUM_WARM_UP = 2  # questions


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, and how much it is asked."""

    model: str
    tokenizer: str
    dtype: str
    layers: int | None = None
    questions: Mapping[str, int]
    """By task, in each round."""
    rounds: int
    batches: tuple[int, ...]
    """Sizes that the other side tries."""

    @property
    def their_dtype(self) -> str:
        """What the other side is fastest in."""
        if self.dtype == "float32":
            return self.dtype
        return str(compute_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


CASES = {
    "nano": Case(
        model="nano",
        tokenizer="v3",
        dtype="float32",
        questions={"hellaswag": 32, "arc_challenge": 32, "mmlu": 32},
        rounds=3,
        batches=(1, 8, 32),
    ),
    "8x7b": Case(
        model="random:8x7b",
        tokenizer="v1",
        dtype="bfloat16",
        layers=2,
        questions={"hellaswag": 3, "arc_challenge": 3, "mmlu": 6},
        rounds=2,
        batches=(4, 16),
    ),
}

Pair = tuple[list[int], list[int]]
"""Token ids of a context and of its continuation."""
Score = Callable[[Sequence[Pair], int], list[tuple[float, bool]]]
"""Scores pairs in batches of a size, which our side does not heed."""
RunSide = Callable[[str, int, Sequence[int]], dict[str, Any]]
"""Answers the questions of a round: side, round, and sizes of batches."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="rows of the tasks, see docs/evaluation.md")
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=num_usable_cpus())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(_measure_side(options)))
        return 0
    if options.data is None:
        parser.error("--data is missing; it names the folder of the rows.")
    if not options.data.is_dir():
        parser.error(f"--data is {options.data}; it must be the folder of the rows.")
    others = OtherProcesses()
    found = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            _write_questions(CASES[name], options.data, Path(folder))
            run_side = functools.partial(_run_side, name, Path(folder), options.threads)
            found.append(measure_case(CASES[name], Path(folder), run_side))
    notes = {
        "threads": options.threads,
        "lm_eval": version("lm-eval"),
        "transformers": version("transformers"),
        "other_processes": others.share(),
    }
    write_json(options.output, Report(results=[], notes=notes).to_json() | {"eval_speed": found})
    print(json.dumps(found, indent=2))
    return 0


def measure_case(case: Case, folder: Path, run_side: RunSide) -> dict[str, Any]:
    """Let both sides answer the rounds of a case in turn, and compare what comes back.

    Args:
        case: What is asked.
        folder: Where the sides leave their logits.
        run_side: Answers one round.

    Raises:
        EngineError: The sides disagree; then no time counts.
    """
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    batches = case.batches
    for round_ in range(case.rounds):
        for side in SIDES:
            runs[side].append(run_side(side, round_, batches))
            print(f"{case.model}, round {round_}: {side} is done", file=sys.stderr, flush=True)
        if not round_:
            batches = (_best_batch(runs["lm-eval"][0]),)
    gate = _require_agreement(case, folder, runs)
    tasks = [_compare(task, case, runs, batches[0]) for task in [*case.questions, "all"]]
    return {
        "model": case.model,
        "layers": case.layers,
        "dtype": {"mixtral": case.dtype, "lm-eval": case.their_dtype},
        "batches_tried": case.batches,
        "batch": batches[0],
        "gate": gate,
        "tasks": tasks,
        **{
            side: {
                "peak_rss_bytes": max(run["peak_rss_bytes"] for run in of_side),
                "matmul_gflops": _spread([g for run in of_side for g in run["matmul_gflops"]]),
            }
            for side, of_side in runs.items()
        },
    }


def _write_questions(case: Case, data: Path, folder: Path) -> None:
    """Write the token ids of every round, and a last one to warm up with."""
    from mixtral.eval.benchmarks import find_benchmarks
    from mixtral.eval.harness_tasks import make_tasks, quiet_harness

    tokenizer = load_tokenizer(case.tokenizer)
    rounds: list[dict[str, list[list[Pair]]]] = [{} for _ in range(case.rounds + 1)]
    for name, count in case.questions.items():
        (benchmark,) = find_benchmarks([name])
        benchmark = dataclasses.replace(benchmark, tasks=FILES.get(name, benchmark.tasks))
        (task,) = make_tasks(benchmark, preset="mixtral-paper", data=data).values()
        with quiet_harness():
            task.build_all_requests(limit=count * case.rounds + NUM_WARM_UP)
        questions: dict[int, list[Pair]] = {}
        for request in task.instances:
            questions.setdefault(request.doc_id, []).append(_encode(tokenizer, *request.args))
        listed = list(questions.values())
        for place, of_round in enumerate(rounds):
            of_round[name] = listed[place * count : (place + 1) * count]
    for place, of_round in enumerate(rounds):
        (folder / f"questions-{place}.json").write_text(json.dumps(of_round), encoding="utf-8")


def _encode(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """Split as both sides do: spaces at the end of a context count to the continuation."""
    ids = tokenizer.encode(context.rstrip())
    target = tokenizer.encode(context + continuation)[len(ids) :]
    assert len(ids) + len(target) <= CONTEXT, "a question is longer than the context"
    return ids, target


def _read_questions(folder: Path, round_: int) -> dict[str, list[list[Pair]]]:
    text = (folder / f"questions-{round_}.json").read_text(encoding="utf-8")
    found: dict[str, list[list[Pair]]] = json.loads(text)
    return found


def _run_side(
    name: str, folder: Path, threads: int, side: str, round_: int, batches: Sequence[int]
) -> dict[str, Any]:
    """Answer in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--models", name]
    command += ["--folder", str(folder), "--round", str(round_), "--batches", *map(str, batches)]
    command += ["--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _best_batch(run: Mapping[str, Any]) -> int:
    """Return the batch size that took the least time over all tasks."""
    totals = {b: sum(task["seconds"] for task in t.values()) for b, t in run["batches"].items()}
    return int(min(totals, key=totals.__getitem__))


def _require_agreement(
    case: Case, folder: Path, runs: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Compare logits and answers; a wrong engine has no speed."""
    ours, theirs = (np.load(folder / f"{side}.npy") for side in SIDES)
    errors = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    error, tolerance = float(np.median(errors)), TOLERANCES[case.dtype]
    same, differences = [], []
    for own, other in zip(*(runs[side] for side in SIDES), strict=True):
        for task, answers in ((t, a) for of in other["batches"].values() for t, a in of.items()):
            mine = own["batches"]["0"][task]["logprobs"]
            for one, another in zip(map(np.array, mine), answers["logprobs"], strict=True):
                same.append(bool(one.argmax() == np.argmax(another)))
                differences += list(abs(one - another) / np.abs(another))
    found = {
        "logits_relative_error": error,
        "allowed_relative_error": tolerance,
        "logprob_relative_error": _spread([float(each) for each in differences]),
        "same_choice": f"{sum(same)} of {len(same)}",
    }
    # In float32 every choice is the same; rounded weights may turn a near tie.
    needed = 1.0 if case.dtype == "float32" else 0.8
    if not (error <= tolerance and np.median(differences) <= tolerance and np.mean(same) >= needed):
        raise EngineError(f"{case.model}: the two sides disagree, nothing counts: {found}.")
    return found


def _compare(
    task: str, case: Case, runs: Mapping[str, list[dict[str, Any]]], batch: int
) -> dict[str, Any]:
    """Return seconds of both sides and their ratio, round by round."""

    def values(side: str, field: str) -> list[float]:
        found = []
        for run in runs[side]:
            of_batch = run["batches"][str(batch) if side == "lm-eval" else "0"]
            tasks = [task] if task != "all" else [*case.questions]
            found.append(sum(of_batch[name][field] for name in tasks))
        return found

    ours, theirs = values("mixtral", "seconds"), values("lm-eval", "seconds")
    questions = sum(case.questions.values()) if task == "all" else case.questions[task]
    return {
        "task": task,
        "questions_per_round": questions,
        "tokens": sum(values("mixtral", "tokens")),
        "seconds": {"mixtral": _spread(ours), "lm-eval": _spread(theirs)},
        "cpu_seconds": {side: _spread(values(side, "cpu_seconds")) for side in SIDES},
        "ratio": _spread([b / a for a, b in zip(ours, theirs, strict=True)]),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    spread = Spread.of(values)
    return {"median": spread.median, "min": spread.min, "max": spread.max}


def _measure_side(options: argparse.Namespace) -> dict[str, Any]:
    """Score the questions of one round in this process."""
    torch.set_num_threads(options.threads)
    (name,) = options.models
    case, is_ours = CASES[name], options.side == "mixtral"
    before = float32_gflops()
    score, logits = (_load_ours if is_ours else _load_theirs)(case)
    prompt = gate_prompt(vocab_size=_config(case).vocab_size, max_tokens=CONTEXT)
    np.save(options.folder / f"{options.side}.npy", logits(prompt))
    warm_up = _read_questions(options.folder, case.rounds)["hellaswag"]
    batches = {}
    for batch in [0] if is_ours else options.batches:
        score([pair for question in warm_up for pair in question], batch)
        questions = _read_questions(options.folder, options.round)
        batches[batch] = {task: time_questions(score, batch, of) for task, of in questions.items()}
    return {
        "batches": batches,
        "peak_rss_bytes": peak_rss_bytes(),
        "matmul_gflops": [before, float32_gflops()],
    }


def time_questions(score: Score, batch: int, questions: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    """Score the answers of questions, and return seconds, tokens and log-probabilities."""
    pairs = [pair for question in questions for pair in question]
    begin = time.perf_counter(), time.process_time()
    answers = iter(score(pairs, batch))
    return {
        "seconds": time.perf_counter() - begin[0],
        "cpu_seconds": time.process_time() - begin[1],
        "tokens": sum(len(context) + len(target) for context, target in pairs),
        "logprobs": [[next(answers)[0] for _ in question] for question in questions],
    }


Logits = Callable[[Sequence[int]], np.ndarray]


def _load_ours(case: Case) -> tuple[Score, Logits]:
    from mixtral.eval.lm_eval_model import EngineLM
    from mixtral.llm import LLM

    llm = LLM(case.model, dtype=case.dtype, device="cpu", layers=case.layers, max_model_len=CONTEXT)
    lm = EngineLM(llm)

    def score(pairs: Sequence[Pair], batch: int) -> list[tuple[float, bool]]:
        return lm._loglikelihood_tokens([(("", ""), *pair) for pair in pairs])

    return score, lambda ids: llm.logits(ids).numpy()


def _load_theirs(case: Case) -> tuple[Score, Logits]:
    import tokenizers
    import transformers
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model = _their_model(case)
    # The harness insists on a tokenizer; it gets token ids and never asks it anything.
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    idle = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")

    @functools.cache
    def backend(batch: int) -> HFLM:
        return HFLM(pretrained=model, tokenizer=idle, batch_size=batch, max_length=CONTEXT)

    def score(pairs: Sequence[Pair], batch: int) -> list[tuple[float, bool]]:
        requests = [((str(n), ""), *pair) for n, pair in enumerate(pairs)]
        return backend(batch)._loglikelihood_tokens(requests, disable_tqdm=True)

    @torch.inference_mode()
    def logits(token_ids: Sequence[int]) -> np.ndarray:
        found: torch.Tensor = model(torch.tensor([list(token_ids)])).logits
        return found[0].float().numpy()

    return score, logits


def _their_model(case: Case) -> Any:
    """Return ``MixtralForCausalLM`` over the same weights, one tensor at a time."""
    from mixtral.bench.peer import TransformersContender, fuse_weights
    from mixtral.checkpoint import open_checkpoint
    from mixtral.random_weights import random_tensors

    source, dtype = find_model(case.model, layers=case.layers), getattr(torch, case.their_dtype)
    if source.folder is None:
        tensors = random_tensors(source.config, dtype=getattr(torch, case.dtype))
    else:
        tensors = open_checkpoint(source.folder).tensors(dtype=dtype)
    state = fuse_weights(source.config, ((name, tensor.to(dtype)) for name, tensor in tensors))
    return TransformersContender(source.config, state).model


def _config(case: Case) -> ModelConfig:
    return find_model(case.model, layers=case.layers).config


if __name__ == "__main__":
    sys.exit(main())
