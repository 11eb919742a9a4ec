"""Which benchmarks there are, and how the Mixtral paper asks them. This file is the whole list.

Source: Mixtral of Experts, arXiv:2401.04088, section 3 (shots, majority votes, footnote on MBPP and
TriviaQA) and table 2 (numbers of Mixtral 8x7B, base model). What the paper does not say, the
prompts and how answers are read above all, is lm-evaluation-harness's own task of that name.

``mixtral-paper`` asks as written here; ``harness`` leaves each task as lm-evaluation-harness has
it, except programs, which are asked for as in the paper either way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mixtral.errors import ConfigError

PRESETS = ("mixtral-paper", "harness")

# The paper votes over answers and gives no temperature; this is the harness's for GSM8K.
_VOTE = {"do_sample": True, "temperature": 0.2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark, and how the paper asks it."""

    name: str
    """What users type, and the folder of its local data."""
    tasks: str
    """Files of its tasks below ``lm_eval/tasks``; a star stands for many."""
    metric: str
    """The number that counts, by the harness's name."""
    shots: int
    """Worked examples before each question."""
    answer_filter: str = "none"
    """Which of the harness's ways to read answers the number is of."""
    paper: float | None = None
    """What the paper reports for Mixtral 8x7B, in per cent; None where it reports nothing."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the harness's task that the paper's way of asking changes."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Settings of answers that it changes."""
    runs_code: bool = False
    """Whether answers are programs, which are run to be judged."""


BENCHMARKS = (
    Benchmark(name="mmlu", tasks="mmlu/default/mmlu_*.yaml", metric="acc", shots=5, paper=70.6),
    Benchmark(
        name="hellaswag", tasks="hellaswag/hellaswag.yaml", metric="acc_norm", shots=0, paper=84.4
    ),
    Benchmark(
        name="winogrande", tasks="winogrande/default.yaml", metric="acc", shots=0, paper=77.2
    ),
    Benchmark(name="piqa", tasks="piqa/piqa.yaml", metric="acc_norm", shots=0, paper=83.6),
    Benchmark(name="arc_easy", tasks="arc/arc_easy.yaml", metric="acc_norm", shots=0, paper=83.1),
    Benchmark(
        name="arc_challenge",
        tasks="arc/arc_challenge.yaml",
        metric="acc_norm",
        shots=0,
        paper=59.7,
    ),
    Benchmark(name="commonsenseqa", tasks="commonsense_qa/default.yaml", metric="acc", shots=0),
    Benchmark(
        name="nq_open",
        tasks="nq_open/nq_open.yaml",
        metric="exact_match",
        answer_filter="remove_whitespace",
        shots=5,
        paper=30.6,
    ),
    Benchmark(
        name="triviaqa",
        tasks="triviaqa/default.yaml",
        metric="exact_match",
        answer_filter="remove_whitespace",
        shots=5,
        paper=71.5,
    ),
    Benchmark(
        name="humaneval",
        tasks="humaneval/humaneval.yaml",
        metric="pass@1",
        shots=0,
        paper=40.2,
        runs_code=True,
    ),
    Benchmark(
        name="mbpp",
        tasks="mbpp/mbpp.yaml",
        metric="pass@1",
        shots=3,
        paper=60.7,
        runs_code=True,
        # The hand-verified subset, whose question is in another field.
        changes={
            "dataset_name": "sanitized",
            "doc_to_text": "You are an expert Python programmer, and here is your task: {{prompt}} "
            "Your code should pass these tests:\n\n{{test_list | join('\\n')}}\n[BEGIN]\n",
            "doc_to_target": "{{test_list | join('\\n')}}",
            "fewshot_config": {
                "sampler": "first_n",
                "split": "prompt",
                "doc_to_target": "{{code}}\n[DONE]",
            },
        },
    ),
    Benchmark(
        name="hendrycks_math",
        tasks="hendrycks_math/hendrycks_math_*.yaml",
        metric="exact_match",
        answer_filter="maj@4",
        shots=4,
        paper=28.4,
        changes={"repeats": 4},
        generation=_VOTE,
    ),
    Benchmark(
        name="gsm8k",
        tasks="gsm8k/gsm8k-cot-self-consistency.yaml",
        metric="exact_match",
        answer_filter="maj@8",
        shots=8,
        paper=74.4,
        changes={"repeats": 8},
        generation=_VOTE,
    ),
)
"""In the order of the paper's table 2; ``bbq`` is not the harness's, see ``bbq.py``."""

BBQ = "bbq"


def find_benchmarks(names: Sequence[str]) -> list[Benchmark]:
    """Return benchmarks by name, each once, in the order given; ``bbq`` is not among them.

    Raises:
        ConfigError: A name is unknown.
    """
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    for name in names:
        if name not in known and name != BBQ:
            raise ConfigError(
                f"there is no benchmark {name!r}; there are {', '.join([*known, BBQ])}."
            )
    return [known[name] for name in dict.fromkeys(names) if name != BBQ]
