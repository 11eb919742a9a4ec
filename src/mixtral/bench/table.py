"""The results of a run as a table for people: each number beside what the machine could do."""

from rich.table import Table

from mixtral.bench.results import Ratio, Report, Result, Spread
from mixtral.bench.weights import peak_of

_STEP_COLUMNS = (
    "format",
    "work",
    "batch",
    "tokens/s (min..max)",
    "step ms",
    "weights/step",
    "of read GB/s",
    "of peak Gop/s",
    "ours is (min..max)",
)
_LOAD_COLUMNS = (
    "format",
    "files",
    "cache",
    "read once s",
    "first token s",
    "over read",
    "over prefill s",
    "peak memory",
    "over files",
)


def step_table(report: Report) -> Table:
    """Return the results of steps, one row each; a peer's says how many times as fast ours is."""
    table = _table(report, "engine", _STEP_COLUMNS)
    for result in report.results:
        table.add_row(*_step_row(result, report.ratios))
    return table


def load_table(report: Report) -> Table:
    """Return the load results, one row each."""
    table = _table(report, "model", _LOAD_COLUMNS)
    for result in report.results:
        load = result.load or {}
        table.add_row(
            result.model,
            result.format,
            f"{load['checkpoint_bytes'] / 1e9:.2f} GB",
            load["page_cache"],
            _spread(load["read_s"], ".2f"),
            _spread(load["first_token_s"], ".2f"),
            f"{load['first_token_over_read'].median:.2f}x",
            _spread(load["startup_s"], ".2f"),
            f"{result.peak_rss_bytes / 1e9:.2f} GB",
            f"{load['peak_rss_over_checkpoint']:.2f}x",
        )
    return table


def _table(report: Report, first: str, columns: tuple[str, ...]) -> Table:
    result = report.results[0]
    title = f"{result.model}, {result.layers} layers, {result.format}, {result.threads} threads, "
    title += f"{report.notes.get('repeats')} repeats"
    table = Table(title_justify="left", title=title, box=None, pad_edge=False)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _step_row(result: Result, ratios: list[Ratio]) -> list[str]:
    probes = result.probes
    size = result.new_tokens if result.work == "decode" else result.prompt_tokens
    share = result.bandwidth_fraction
    return [
        result.engine,
        result.format,
        f"{result.work} {size}",
        str(result.batch),
        _spread(result.tokens_per_s, ".1f"),
        f"{result.step_ms.median:.1f}",
        f"{result.weight_bytes_per_step / 1e9:.2f} GB",
        "-" if share is None else f"{share:.0%} of {probes.read_gb_per_s:.0f}",
        _peak(result),
        _ratio(result, ratios),
    ]


def _peak(result: Result) -> str:
    if result.peak_fraction is None:
        return "-"
    ceiling = result.probes.ceiling(peak_of(result.format)) or 0.0
    return f"{result.peak_fraction:.0%} of {ceiling:.0f}"


def _ratio(result: Result, ratios: list[Ratio]) -> str:
    wanted = (result.engine, result.work, result.batch, result.prompt_tokens)
    for ratio in ratios:
        if (ratio.peer, ratio.work, ratio.batch, ratio.prompt_tokens) == wanted:
            return f"{_spread(ratio.tokens_per_s, '.2f')}x"
    return ""


def _spread(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.min:{form}}..{spread.max:{form}})"
