"""Measure what counting the visits of experts costs: an engine's step with it over one without.

    python benchmarks/routing_overhead.py                    # three models, about three minutes
    python benchmarks/routing_overhead.py --model nano       # one of them

Three engines share one model: ``bare``, from which the counter is taken out, ``off`` and ``on``
(``EngineConfig.count_experts``, what ``mixtral serve`` runs with). They do the same work step by
step in turn, each beginning as often as the others, so that what else the machine does falls on all
alike. A number is the median, over rounds, of the quotient of the sums of their times. Tokens must
be the same and every visit must have been counted. Writes benchmarks/results/routing_overhead.json.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixtral.bench.contender import random_prompts
from mixtral.bench.named_model import ModelOptions
from mixtral.bench.other_processes import OtherProcesses
from mixtral.bench.probes import Prober
from mixtral.bench.results import Report, Spread, write_json
from mixtral.config import EngineConfig
from mixtral.engine import Engine, SamplingParams
from mixtral.errors import EngineError
from mixtral.machine import num_usable_cpus
from mixtral.model import LanguageModel

RESULTS = Path(__file__).parent / "results" / "routing_overhead.json"
ARMS = ("bare", "off", "on")
PREFILL_TOKENS = 512
PROMPT_TOKENS = 32  # before the tokens of a decode step
MAX_STEP_TOKENS = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model to measure on."""

    model: str
    """Name, as the user writes it."""
    quantization: str | None = None
    """How its weights are packed; None: as stored."""
    layers: int | None = None
    """Layers of random weights."""
    rounds: int
    """Quotients that the median is of."""
    steps: int
    """Decode steps of each engine in a round; a third of it, at least one, for prefill."""


CASES = {
    "nano": Case(model="nano", rounds=9, steps=12),
    "nano-int4": Case(model="nano", quantization="int4", rounds=9, steps=12),
    "8x7b-int4": Case(model="random:8x7b", quantization="int4", layers=2, rounds=9, steps=1),
}
BATCHES = (1, 8, 32)


class _NoCounter:
    """Stands where an engine has its counter, and knows nothing of routing."""

    step_load = None

    def needs_trace(self, scheduled: object) -> bool:
        return False

    def note(self, scheduled: object, trace: object) -> None:
        return None

    def take(self, sequence: object) -> list[Any]:
        return []

    def forget(self, sequence: object) -> None:
        return None

    def load(self) -> list[list[int]]:
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=CASES, action="append", help="all if left out")
    parser.add_argument("--threads", type=int, default=num_usable_cpus())
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    others, prober = OtherProcesses(), Prober()
    rows = [
        row
        for name in options.model or CASES
        for row in measure(name, CASES[name], prober=prober, threads=options.threads)
    ]
    notes = {"threads": options.threads, "other_processes": others.share()}
    write_json(options.output, Report(results=[], notes=notes).to_json() | {"routing": rows})
    for row in rows:
        print(
            f"{row['case']:10} {row['work']:8} {row['tokens']:4} tokens: "
            f"{row['step_ms']['median']:9.3f} ms, off x{row['off']['median']:.4f}, "
            f"on x{row['on']['median']:.4f} ({row['on']['min']:.4f}..{row['on']['max']:.4f})"
        )
    return 0


def measure(name: str, case: Case, *, prober: Prober, threads: int) -> list[dict[str, Any]]:
    """Measure prefill of one prompt, and decode of batches."""
    options = ModelOptions(
        name=case.model, quantization=case.quantization, layers=case.layers, threads=threads
    )
    model, format_name = options.load(options.find())
    works: list[tuple[str, int, Callable[[LanguageModel], Work]]] = [
        ("prefill", PREFILL_TOKENS, lambda model: Prefill(model, case)),
        *(("decode", n, lambda model, n=n: Decode(model, case, batch=n)) for n in BATCHES),
    ]
    rows = []
    for work, tokens, make in works:
        before = prober.measure()
        found = _measure_work(make(model), case.rounds)
        after = prober.measure()
        rows.append(
            {
                "case": name,
                "format": format_name,
                "layers": model.config.num_hidden_layers,
                "work": work,
                "tokens": tokens,
                **found,
                "read_gb_per_s": [before.read_gb_per_s, after.read_gb_per_s],
            }
        )
    return rows


class Work:
    """The same steps in three engines."""

    def __init__(self, model: LanguageModel, *, batch: int, max_tokens: int) -> None:
        self._vocabulary = model.config.vocab_size
        self._visits_per_token = model.config.num_hidden_layers * model.config.num_experts_per_tok
        config = EngineConfig(
            num_blocks=batch * (-(-max_tokens // 16) + 1),
            max_num_seqs=batch,
            max_num_batched_tokens=MAX_STEP_TOKENS,
            enable_prefix_cache=False,  # repeated prompts would not run
        )
        limit = min(max_tokens, model.config.max_position_embeddings)
        self.engines = {
            arm: Engine(model, replace(config, count_experts=arm == "on"), max_model_len=limit)
            for arm in ARMS
        }
        self.engines["bare"]._experts = _NoCounter()  # type: ignore[assignment]
        self._tokens: dict[str, list[int]] = {arm: [] for arm in ARMS}
        self._num_run = self._num_steps = 0

    def add(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        """Queue the same prompts everywhere."""
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        for engine in self.engines.values():
            for prompt in prompts:
                engine.add(prompt, params)

    def step(self) -> dict[str, float]:
        """Run one step of each engine, another one first each time, and return its seconds."""
        seconds = {}
        self._num_steps += 1
        for place in range(self._num_steps, self._num_steps + len(ARMS)):
            arm = ARMS[place % len(ARMS)]
            begin = time.perf_counter()
            outputs = self.engines[arm].step()
            seconds[arm] = time.perf_counter() - begin
            self._tokens[arm] += [output.token_id for output in outputs]
        report = self.engines["on"].last_step
        assert report is not None
        self._num_run += report.num_tokens
        return seconds

    def round(self) -> list[dict[str, float]]:
        """Run the steps of one round."""
        raise NotImplementedError

    def check(self) -> None:
        """Hold tokens and counts against each other.

        Raises:
            EngineError: They differ; then nothing counts.
        """
        load = self.engines["on"].stats().expert_load
        counted = sum(map(sum, load))
        others = [self.engines[arm].stats().expert_load for arm in ("bare", "off")]
        same = all(self._tokens[arm] == self._tokens["bare"] for arm in ARMS)
        if not same or any(others) or counted != self._num_run * self._visits_per_token:
            raise EngineError(
                f"the engines disagree (same tokens: {same}, visits counted: {counted} of "
                f"{self._num_run * self._visits_per_token}); nothing counts."
            )


class Prefill(Work):
    """One step over one prompt, a new one each time."""

    def __init__(self, model: LanguageModel, case: Case) -> None:
        super().__init__(model, batch=1, max_tokens=PREFILL_TOKENS + 1)
        self._count = max(1, case.steps // 3)

    def round(self) -> list[dict[str, float]]:
        """Run some prompts."""
        return [self._run_prompt() for _ in range(self._count)]

    def _run_prompt(self) -> dict[str, float]:
        seed = self._num_steps
        self.add(random_prompts(1, PREFILL_TOKENS, vocab_size=self._vocabulary, seed=seed), 1)
        return self.step()


class Decode(Work):
    """Steps of one token per sequence."""

    def __init__(self, model: LanguageModel, case: Case, *, batch: int) -> None:
        self._count = case.steps
        new_tokens = case.steps * (case.rounds + 1) + 1
        super().__init__(model, batch=batch, max_tokens=PROMPT_TOKENS + new_tokens)
        prompts = random_prompts(batch, PROMPT_TOKENS, vocab_size=self._vocabulary, seed=0)
        self.add(prompts, new_tokens)
        self.step()  # the prompts

    def round(self) -> list[dict[str, float]]:
        """Run some tokens."""
        return [self.step() for _ in range(self._count)]


def _measure_work(work: Work, rounds: int) -> dict[str, Any]:
    work.round()  # the first one pays for page faults
    quotients: dict[str, list[float]] = {"off": [], "on": []}
    bare = []
    for _ in range(rounds):
        steps = work.round()
        sums = {arm: sum(step[arm] for step in steps) for arm in ARMS}
        bare += [step["bare"] * 1e3 for step in steps]
        quotients["off"].append(sums["off"] / sums["bare"])
        quotients["on"].append(sums["on"] / sums["off"])
    work.check()
    return {
        "step_ms": _spread(bare),
        "off": _spread(quotients["off"]),
        "on": _spread(quotients["on"]),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    spread = Spread.of(values)
    return {"median": spread.median, "min": spread.min, "max": spread.max}


if __name__ == "__main__":
    sys.exit(main())
