"""Put what was measured into pages of docs/; no number is typed there.

    python benchmarks/measured_parts.py

The numbers come from the files of benchmarks/results that ``PLACES`` names, each written by the
script of its name. Each has its place between two marks of a page; a place whose file is missing
stays as it is. docs/rag.md and benchmarks/README.md have scripts of their own.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral.whole_file import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
END = "<!-- end -->\n"

SPREADS = "Medians, with the smallest and largest."
MEDIANS = "Medians."

# Goals of a training step: times the Trainer's tokens/s, and tokens/s of the model of 37 million.
STEP_FASTER, STEP_TOKENS_PER_S = 2, 2500
# Goals of a LoRA step over int4: times PEFT's tokens/s, and how much of its memory.
LORA_FASTER, LORA_MEMORY = 1, 0.4

Found = Mapping[str, Any]
"""What a script wrote."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place on a page, and what belongs there."""

    page: str
    """File in docs/."""
    script: str
    """Script that measured; its file of results has the same name."""
    write: Callable[[Found], str]
    """Makes Markdown of the results."""

    @property
    def mark(self) -> str:
        """The line before it."""
        return f"<!-- made from benchmarks/results/{self.script}.json -->\n"


def main(results: Path = RESULTS, docs: Path = DOCS) -> int:
    """Write all places; return the exit status."""
    for place in PLACES:
        file = results / f"{place.script}.json"
        if not file.is_file():
            print(f"{file} is missing; {place.page} keeps what it has.", file=sys.stderr)
            continue
        page = docs / place.page
        found = json.loads(file.read_text(encoding="utf-8"))
        text = fill(page.read_text(encoding="utf-8"), place.mark, place.write(found))
        write_whole(page, text)
        print(f"wrote the part of {place.script} in {page}", file=sys.stderr)
    return 0


def fill(text: str, mark: str, part: str) -> str:
    """Return a page with a new part between a mark and the next end.

    Raises:
        ValueError: The page lacks the mark, or its end.
    """
    before, found, rest = text.partition(mark)
    _, end, after = rest.partition(END)
    if not (found and end):
        raise ValueError(f"the page lacks the line {mark.strip()!r}, or {END.strip()!r} behind it.")
    return f"{before}{mark}{part.rstrip()}\n{END}{after}"


def write_speed(found: Found) -> str:
    """Show loglikelihood tasks beside lm-evaluation-harness's own backend."""
    rows, notes = [], []
    for case in found["eval_speed"]:
        name = case["model"] + (f", {case['layers']} layers" if case["layers"] else "")
        for task in case["tasks"]:
            seconds = {side: task["seconds"][side]["median"] for side in ("mixtral", "lm-eval")}
            ratio = task["ratio"]
            rows.append(
                [
                    name,
                    task["task"],
                    str(task["questions_per_round"]),
                    f"{seconds['mixtral']:.2f}",
                    f"{seconds['lm-eval']:.2f}",
                    f"{ratio['median']:.1f}x ({ratio['min']:.1f}..{ratio['max']:.1f})",
                ]
            )
        gate, dtypes = case["gate"], case["dtype"]
        tried = ", ".join(map(str, case["batches_tried"]))
        memory = " and ".join(
            f"{case[side]['peak_rss_bytes'] / 1e9:.1f} GB" for side in ("mixtral", "lm-eval")
        )
        notes.append(
            f"* {name}: {dtypes['mixtral']}, and there {dtypes['lm-eval']} in batches of "
            f"{case['batch']}, the fastest of {tried}. Same choice in {gate['same_choice']} "
            f"questions, log-probabilities within {gate['logprob_relative_error']['max']:.1e} of "
            f"each other. Peak memory {memory}."
        )
    head = ["model", "task", "questions", "ours (s)", "lm-eval (s)", "lm-eval takes"]
    conditions = _conditions(found, "lm_eval", "transformers", sentence=SPREADS)
    return "\n".join([_table(head, rows), *notes, conditions])


def write_overhead(found: Found) -> str:
    """Show what counting the visits of experts costs a step of the engine."""
    rows = [
        [
            row["case"],
            row["work"],
            str(row["tokens"]),
            f"{row['step_ms']['median']:.2f}",
            _percent(row["off"]),
            _percent(row["on"]),
        ]
        for row in found["routing"]
    ]
    head = ["model", "step", "tokens", "without (ms)", "built in, off", "on"]
    return "\n".join([_table(head, rows), _conditions(found, sentence=SPREADS)])


def write_train_step(found: Found) -> str:
    """Show a training step of small models beside transformers' Trainer."""
    rows = []
    for case in found["train_step"]:
        ours, theirs, ratio = case["mixtral"], case["transformers"], case["ratio"]
        rows.append(
            [
                f"{case['model']}, {case['parameters'] / 1e6:.1f} M, {case['dtype']}",
                f"{ours['tokens_per_s']['median']:,.0f}",
                f"{theirs['tokens_per_s']['median']:,.0f}",
                f"{ratio['tokens_per_s']:.2f}x",
                f"{ratio['tokens_per_cpu_s']:.2f}x",
                f"{ratio['peak_rss']:.0%}",
                _range(ours["matmul_gflops"], theirs["matmul_gflops"]),
            ]
        )
    compiled = [
        f"{case['model']} {case['compiled']['tokens_per_s']['median']:,.0f} tokens/s"
        for case in found["train_step"]
        if "compiled" in case
    ]
    head = ["model", "tokens/s", "Trainer's", "faster", "by processor time", "memory of it",
            "float32 product (GFLOP/s)"]  # fmt: skip
    goals = _step_goals(found["train_step"])
    if compiled:
        goals += f"\n* The same step with `torch.compile` over each layer: {', '.join(compiled)}."
    return "\n".join(
        [_table(head, rows), goals, _conditions(found, "transformers", sentence=MEDIANS)]
    )


def _step_goals(cases: Sequence[Found]) -> str:
    """Say which goals of a training step were reached."""

    def judged(ratio: str, show: str, reached: Callable[[float], bool]) -> str:
        found = ((case["model"], case["ratio"][ratio]) for case in cases)
        return ", ".join(
            f"{'met' if reached(value) else '**missed**'} by {model} ({value:{show}})"
            for model, value in found
        )

    speeds = {case["model"]: case["mixtral"]["tokens_per_s"]["median"] for case in cases}
    faster = judged("tokens_per_s", ".2f", lambda ratio: ratio >= STEP_FASTER)
    smaller = judged("peak_rss", ".0%", lambda ratio: ratio <= 1)
    parts = [f"twice the Trainer's tokens/s: {faster}", f"no more than its memory: {smaller}"]
    if (speed := speeds.get("37m")) is not None:
        verdict = "met" if speed >= STEP_TOKENS_PER_S else "**missed**"
        parts.append(f"{STEP_TOKENS_PER_S:,} tokens/s of 37m: {verdict} ({speed:,.0f})")
    return f"* Goals: {'; '.join(parts)}."


def write_lora_step(found: Found) -> str:
    """Show a LoRA step over an int4 base beside PEFT over bfloat16."""
    step, rows = found["lora_step"], []
    for row in step["steps"]:
        rows.append(
            [
                f"{'ours' if row['engine'] == 'mixtral' else 'PEFT'}, {row['format']}",
                str(row["tokens"]),
                row["stopped"] or f"{row['tokens_per_s']['median']:.2f}",
                f"{row['peak_rss_bytes'] / 1e9:.1f}",
                f"{row['probes']['read_gb_per_s']:.0f}",
                f"{row['probes']['float32_gflops']:.0f}",
            ]
        )
    ratios = step["ratios"]
    head = ["side, base", "tokens in a step", "tokens/s", "peak memory (GB)", "read (GB/s)",
            "float32 product (GFLOP/s)"]  # fmt: skip
    bound = "at most " if ratios["is_bound"] else ""
    said = f"* With {ratios['tokens']} tokens: {bound}{ratios['peak_memory']:.0%} of the memory"
    if "tokens_per_s" in ratios:
        said += f", {ratios['tokens_per_s']:.1f}x the tokens/s"
    gate = step["gate"]["relative_error"]
    said += f". Logits and loss of a small model agree within {gate:.0e} of PEFT's.\n"
    said += f"* Goals: {_lora_goals(ratios)}."
    return "\n".join([_table(head, rows), said, _conditions(found, sentence=MEDIANS)])


def _lora_goals(ratios: Found) -> str:
    memory = "met" if ratios["peak_memory"] <= LORA_MEMORY else "**missed**"
    # Without a ratio PEFT did not finish a step in time.
    speed = "met" if ratios.get("tokens_per_s", LORA_FASTER) >= LORA_FASTER else "**missed**"
    return f"PEFT's tokens/s or more: {speed}; at most {LORA_MEMORY:.0%} of its memory: {memory}"


def write_paraphrase(found: Found) -> str:
    """Show how near pairs are found among many sentences, and how many."""
    rows, notes = [], found["notes"]
    for row in found["paraphrase"]["ways"]:
        cells = [f"{row['sentences']:,}", f"{row['pairs']:,}", f"{row['exact']['seconds']:.1f}"]
        for way in ("index", "peer"):
            share = row[way]["found"] / row["pairs"]
            cells += [f"{row[way]['seconds']:.1f}", f"{row[way]['found']:,} ({share:.2%})"]
        rows.append(cells)
    head = ["sentences", "pairs", "all compared (s)", "index (s)", "pairs that the index found",
            "`paraphrase_mining` (s)", "pairs that it found"]  # fmt: skip
    embedding = found["paraphrase"]["embedding"]
    speed = embedding["sentences"] / embedding["seconds"]
    low, high = sorted(notes["float32_gflops"])
    said = (
        f"* Embedding {embedding['sentences']:,} sentences with {notes['embedding_model']} took "
        f"{embedding['seconds']:,.0f} s, {speed:,.0f} per second. Threshold {notes['threshold']}; "
        f"a float32 matrix product ran at {low:.0f} to {high:.0f} GFLOP/s."
    )
    return "\n".join(
        [_table(head, rows), said, _conditions(found, "faiss", "sentence_transformers")]
    )


def write_nano(found: Found) -> str:
    """Show the reports on the model of the package: commands, pictures, tables."""
    lines = []
    for part in found["evaluation"]:
        lines += [f"### {part['title']}", "", "```bash", *part["commands"], "```", ""]
        lines += [f"![{picture['alt']}]({picture['file']})\n" for picture in part["pictures"]]
        lines += [f"[{link['text']}]({link['file']})\n" for link in part["links"]]
        lines += [part["tables"].strip(), ""]
    return "\n".join([*lines, _conditions(found)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def _percent(quotient: Mapping[str, float]) -> str:
    low, middle, high = (100 * (quotient[name] - 1) for name in ("min", "median", "max"))
    return f"{middle:+.1f} % ({low:+.1f}..{high:+.1f})"


def _range(*spreads: Mapping[str, float]) -> str:
    low, high = min(s["min"] for s in spreads), max(s["max"] for s in spreads)
    return f"{low:.0f} to {high:.0f}"


def _conditions(found: Found, *versions: str, sentence: str = "") -> str:
    machine, notes = found["machine"], found["notes"]
    parts = [
        f"{machine['cpu']}, {notes['threads']} of {machine['cores']} cores",
        f"torch {machine['torch']}",
        *(f"{name.replace('_', '-')} {notes[name]}" for name in versions),
        found["date"][:10],
    ]
    others = notes["other_processes"]
    if others is not None:
        parts.append(f"other processes took {others:.0%} of the machine meanwhile")
    return f"* {'; '.join(parts)}. {sentence}".rstrip()


PLACES = (
    Place(page="evaluation.md", script="evaluation", write=write_nano),
    Place(page="evaluation.md", script="eval_speed", write=write_speed),
    Place(page="finetuning.md", script="lora_step", write=write_lora_step),
    Place(page="finetuning.md", script="train_step", write=write_train_step),
    Place(page="paraphrase.md", script="paraphrase", write=write_paraphrase),
    Place(page="routing.md", script="routing_overhead", write=write_overhead),
)

if __name__ == "__main__":
    sys.exit(main())
