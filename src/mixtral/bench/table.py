"""The results of a run as a table for people: each number beside what the machine could do."""

from rich.table import Table

from mixtral.bench.results import Ratio, Report, Result, Spread


def step_table(report: Report) -> Table:
    """Return the prefill and decode results, one row each."""
    table = Table(title_justify="left", title=_title(report), box=None, pad_edge=False)
    table.add_column("engine")
    for column in (
        "work",
        "batch",
        "tokens/s (min..max)",
        "step ms",
        "weights/step",
        "of read GB/s",
        "of bf16 Gflop/s",
        "ratio (min..max)",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for result in report.results:
        table.add_row(*_step_row(result, report.ratios))
    return table


def load_table(report: Report) -> Table:
    """Return the load results, one row each."""
    table = Table(title_justify="left", title=_title(report), box=None, pad_edge=False)
    table.add_column("model")
    for column in (
        "files",
        "cache",
        "read once s",
        "first token s",
        "ratio",
        "peak memory",
        "ratio",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for result in report.results:
        load = result.load or {}
        table.add_row(
            result.model,
            f"{load['checkpoint_bytes'] / 1e9:.2f} GB",
            load["page_cache"],
            _spread(load["read_s"], ".2f"),
            _spread(load["first_token_s"], ".2f"),
            f"{load['first_token_over_read'].median:.2f}x",
            f"{result.peak_rss_bytes / 1e9:.2f} GB",
            f"{load['peak_rss_over_checkpoint']:.2f}x",
        )
    return table


def _title(report: Report) -> str:
    first = report.results[0]
    return (
        f"{first.model}, {first.layers} layers, {first.format}, "
        f"{first.threads} threads, {report.notes.get('repeats')} repeats"
    )


def _step_row(result: Result, ratios: list[Ratio]) -> list[str]:
    probes = result.probes
    size = result.prompt_tokens if result.work == "prefill" else result.new_tokens
    share = "-" if result.bandwidth_fraction is None else f"{result.bandwidth_fraction:.0%}"
    peak = "-" if result.peak_fraction is None else f"{result.peak_fraction:.0%}"
    ratio = next(
        (
            f"{_spread(ratio.tokens_per_s, '.2f')}x"
            for ratio in ratios
            if result.engine == ratio.engine
            and (ratio.work, ratio.batch, ratio.prompt_tokens)
            == (result.work, result.batch, result.prompt_tokens)
        ),
        "",
    )
    return [
        result.engine,
        f"{result.work} {size}",
        str(result.batch),
        _spread(result.tokens_per_s, ".1f"),
        f"{result.step_ms.median:.1f}",
        f"{result.weight_bytes_per_step / 1e9:.2f} GB",
        f"{share} of {probes.read_gb_per_s:.0f}",
        f"{peak} of {probes.bf16_gflops:.0f}",
        ratio,
    ]


def _spread(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.min:{form}}..{spread.max:{form}})"
