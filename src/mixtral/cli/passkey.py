"""``mixtral passkey``: does a model find a number hidden anywhere in its context?

The table goes to standard output; ``--out`` writes a folder, in which a killed run goes on.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mixtral.cli.console import note, print_json, spinner
from mixtral.cli.measuring import (
    JsonOption,
    OutOption,
    SeedOption,
    check_out,
    describe,
    give_report,
    model_title,
    progress_bar,
    record_cost,
)
from mixtral.cli.options import AdapterOption, ModelOptions, grouped_options, named_adapter
from mixtral.errors import ConfigError

if TYPE_CHECKING:
    from mixtral.eval.documents import Document
    from mixtral.eval.passkey import PromptWriter, Style
    from mixtral.eval.passkey_cost import GridCost
    from mixtral.eval.passkey_grid import Answerer, GridPlan, GridResult, Trial
    from mixtral.eval.trial_log import TrialLog
    from mixtral.llm import LLM
    from mixtral.reports.report import Report

app = typer.Typer(add_completion=False)

_EXAMPLES = """Examples:
  mixtral passkey --model nano --cases 5 --out passkey
  mixtral passkey --lengths 1k,2k --depths 11 --filler novel.txt --json
  mixtral passkey --model mistralai/Mixtral-8x7B-v0.1 -q int4 --prompt completion --lengths 32k"""
_STYLES = ("chat", "completion")


@dataclass(frozen=True, kw_only=True, slots=True)
class GridOptions:
    """Which questions are asked."""

    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths",
            metavar="LIST",
            help="Tokens of question and answer together, k for 1024: 1k,2k,4k.",
            show_default="doubling from 512 to the whole context",
        ),
    ] = None
    depths: Annotated[
        str,
        typer.Option(
            "--depths",
            metavar="LIST",
            help="Per cent of the text before the key; or one number: so many, evenly spread.",
        ),
    ] = "0,25,50,75,100"
    cases: Annotated[int, typer.Option("--cases", help="Questions of each length and depth.")] = 5
    stop_below: Annotated[
        float,
        typer.Option(
            "--stop-below",
            metavar="SHARE",
            help="Leave out longer texts where the share of right answers is surely below this.",
        ),
    ] = 0.0

    def plan(self) -> "tuple[GridPlan, tuple[int, ...] | None]":
        """Return the plan without its lengths, and the lengths if they are named.

        Raises:
            ConfigError: One of the options is wrong.
        """
        from mixtral.eval.lengths import parse_depths, parse_lengths
        from mixtral.eval.passkey_grid import GridPlan

        named = None if self.lengths is None else parse_lengths("lengths", self.lengths)
        depths = parse_depths(self.depths)
        plan = GridPlan(
            lengths=named or (), depths=depths, cases=self.cases, stop_below=self.stop_below
        )
        return plan, named


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptOptions:
    """How a question is put."""

    filler: Annotated[
        str,
        typer.Option(
            "--filler",
            metavar="repeated|FILE",
            help="The paper's five sentences again and again, or a real text.",
        ),
    ] = "repeated"
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt", help="chat for instruction models; completion for base models, a text."
        ),
    ] = "chat"
    seed: SeedOption = 0


@app.command(epilog=_EXAMPLES)
@grouped_options
def passkey(
    model: ModelOptions,
    grid: GridOptions,
    prompts: PromptOptions,
    adapter: AdapterOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what it would cost, and leave.")
    ] = False,
) -> None:
    """Hide a number at several depths of texts of several lengths, and ask for it.

    Greedy answers, 95 % intervals; says first how many tokens and about how many seconds it takes.
    """
    with spinner("starting"):
        from mixtral.eval.engine_answerer import EngineAnswerer

    # Everything that can be wrong with the options, before minutes of loading.
    plan, named_lengths = grid.plan()
    if prompts.prompt not in _STYLES:
        raise ConfigError(f"prompt is {prompts.prompt!r}; it must be chat or completion.")
    document = _read_filler(prompts.filler)
    if not estimate:
        check_out(out, kind="passkey")
    # Two contexts of cache: the prefix of one question stays while the next one runs.
    llm = model.load(max_num_seqs=2, adapters=named_adapter(adapter))
    writer = _writer(llm, document, prompts)
    plan = _with_lengths(plan, named_lengths, shortest=writer.shortest, context=llm.max_model_len)
    answer = EngineAnswerer(llm, adapter=next(iter(llm.requests.adapters), None))
    settings = _settings(model, adapter, document, prompts)
    if estimate:
        done = [] if out is None else _answered(out, settings)
        cost = _say_cost(llm, answer, writer, plan, done=done)
        if as_json:
            print_json({**asdict(cost), "num_answered": len(done)})
        return
    log = None if out is None else _log(out, settings)
    _say_cost(llm, answer, writer, plan, done=log.trials if log else [])
    result = _run(answer, writer, plan, log)
    price = record_cost(llm, is_kept=as_json or out is not None)
    report = _report(result, settings, price, title=model_title(model, adapter=adapter))
    give_report(report, out=out, as_json=as_json)


def _read_filler(filler: str) -> "Document | None":
    from mixtral.eval.documents import Document, read_documents

    if filler == "repeated":
        return None
    texts = [document.text for document in read_documents([Path(filler)])]
    return Document(name=Path(filler).name, text="\n".join(texts))


def _writer(llm: "LLM", document: "Document | None", prompts: PromptOptions) -> "PromptWriter":
    from mixtral.eval.passkey import PromptWriter, RepeatedSentences, TextFiller

    tokenizer, style = llm.tokenizer, cast("Style", prompts.prompt)
    if document is None:
        sentences = RepeatedSentences(tokenizer)
        return PromptWriter(tokenizer, sentences, style=style, seed=prompts.seed)
    text = TextFiller(tokenizer, document.text, name=document.name)
    return PromptWriter(tokenizer, text, style=style, seed=prompts.seed)


def _log(out: Path, settings: dict[str, Any]) -> "TrialLog":
    from mixtral.eval.trial_log import TrialLog

    return TrialLog(out, settings)


def _answered(out: Path, settings: dict[str, Any]) -> "list[Trial]":
    from mixtral.eval.trial_log import LOG_FILE, read_trials

    return read_trials(out / LOG_FILE, settings)


def _with_lengths(
    plan: "GridPlan", lengths: tuple[int, ...] | None, *, shortest: int, context: int
) -> "GridPlan":
    from mixtral.eval.lengths import check_lengths, doubling_lengths

    chosen = doubling_lengths(context) if lengths is None else lengths
    check_lengths("lengths", chosen, context=context)
    if chosen[0] < shortest:
        raise ConfigError(
            f"the shortest of the lengths is {chosen[0]}; question, key and answer leave no room "
            f"for a text below {shortest} tokens."
        )
    return replace(plan, lengths=chosen)


def _settings(
    model: ModelOptions, adapter: str | None, document: "Document | None", prompts: PromptOptions
) -> dict[str, Any]:
    from mixtral.eval.documents import hash_documents

    return {
        "model": describe(model, adapter=adapter),
        "prompt": prompts.prompt,
        "filler": "repeated" if document is None else document.name,
        "filler_sha256": None if document is None else hash_documents([document]),
        "seed": prompts.seed,
    }


def _say_cost(
    llm: "LLM", answer: "Answerer", writer: "PromptWriter", plan: "GridPlan", *, done: "list[Trial]"
) -> "GridCost":
    from mixtral.eval.passkey_cost import Speed, estimate_cost, probe_speed

    known = f" beside {len(done)} answers of an earlier run" if done else ""
    nothing = Speed(answer_s=0.0, token_s=0.0, pair_s=0.0)
    cost = estimate_cost(writer, plan, nothing, done=done)
    if not cost.num_prompts:
        note(f"nothing is left to ask{known}.")
        return cost
    with spinner("probing the speed"):
        speed = probe_speed(
            answer,
            vocab_size=llm.config.vocab_size,
            longest=plan.lengths[-1] - writer.answer_tokens,
            max_tokens=writer.answer_tokens,
        )
        cost = estimate_cost(writer, plan, speed, done=done)
    note(
        f"{cost.num_prompts} questions of {cost.num_tokens:,} tokens, {cost.num_reused:,} of them "
        f"shared with the question before: about {cost.seconds:,.0f} s{known}."
    )
    return cost


def _run(
    answer: "Answerer", writer: "PromptWriter", plan: "GridPlan", log: "TrialLog | None"
) -> "GridResult":
    from mixtral.eval.passkey_grid import run_grid

    total = len(plan.lengths) * len(plan.depths) * plan.cases
    done = log.trials if log else []
    count = sum(trial.place[0] in plan.lengths for trial in done)
    with progress_bar("asking") as show:

        def on_trial(trial: "Trial") -> None:
            nonlocal count
            count += 1
            if log is not None:
                log.append(trial)
            show(min(count, total), total)

        return run_grid(answer, writer, plan, done=done, on_trial=on_trial)


def _report(
    result: "GridResult", settings: dict[str, Any], cost: dict[str, Any], *, title: str
) -> "Report":
    from mixtral.eval.passkey_report import grid_as_dict, grid_blocks, heat_map
    from mixtral.reports.report import Report, new_head

    return Report(
        head=new_head("passkey", settings),
        title=f"Passkeys: {title}",
        results={**cost, **grid_as_dict(result)},
        blocks=grid_blocks(result),
        pictures=[heat_map(result, title=title)],
    )
