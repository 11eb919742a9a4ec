"""The section about serving in benchmarks/README.md, from results/serve.json."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
"""Writes a table from its columns and rows."""

_TEXTS: Mapping[str, tuple[str, str]] = {
    "throughput": ("{batch} streams over the engine at batch {batch}", "{ratio}x"),
    "overhead": ("a token of a lone stream, beyond a step of the engine", "{overhead_ms} ms"),
    "beside": (
        "first token beside a {long_tokens:,}-token prefill, in chunks of {chunk_tokens}",
        "{ratio}",
    ),
    "prefix": (
        "first token with a known {prefix_tokens:,}-token prefix over a new one",
        "{ratio}x",
    ),
    "memory": (
        "resident memory after {all_requests:,} requests over {early_requests:,}",
        "{value:.4f}x",
    ),
    "streams": ("{streams} streams: p99 over p50 of the time per token", "{value:.2f}"),
    "structured": ("throughput under a JSON schema over that without", "{ratio}x"),
}
_DETAILS: Mapping[str, str] = {
    "throughput": "served {served_tokens_per_s}, engine {offline_tokens_per_s} tokens/s",
    "overhead": "served {served_step_ms}, engine {offline_step_ms} ms",
    "beside": "first token {ttft_ms} ms, a full chunk {chunk_ms} ms",
    "prefix": "first {first_ttft_ms}, second {second_ttft_ms} ms",
    "structured": "with schema {schema_tokens_per_s}, without {free_tokens_per_s} tokens/s",
}


def serve_section(run: Mapping[str, Any], table: Table) -> str:
    """Return the section: a row per part, then a row per served load."""
    parts = run["parts"]
    rows = [
        [
            _TEXTS[name][0].format_map(part["sizes"]),
            _fill(_TEXTS[name][1], part),
            _fill(_DETAILS[name], part) if name in _DETAILS else _other_details(name, part),
            f"{part['probes']['read_gb_per_s']:.0f} GB/s",
            "-" if part["other_processes"] is None else f"{part['other_processes']:.0%}",
            f"{part['date'][:10]}, {_short(part['commit'])}",
        ]
        for name, part in parts.items()
    ]
    columns = ["what", "median (min..max)", "from", "read probe", "other processes", "commit"]
    first = next(iter(parts.values()))
    title = (
        f"{first['model']}, {first['layers']} layers, {first['format'] or 'as stored'}, "
        f"{first['threads']} threads; measured by `python benchmarks/serve.py`, explained in "
        "[docs/serving-benchmark.md](../docs/serving-benchmark.md).\n\n"
    )
    section = "## Serving\n\n" + title + table(columns, rows)
    loads = [(name, result) for name, part in parts.items() for result in part.get("results", [])]
    if loads:
        section += "\nTimes in ms as p50 / p90 / p99:\n\n" + _load_table(loads, table)
    return section


def _short(commit: str | None) -> str:
    name, _, dirty = (commit or "no commit").partition("-")
    return f"{name[:9]}-{dirty}" if dirty else name[:9]


def _load_table(loads: Sequence[tuple[str, Mapping[str, Any]]], table: Table) -> str:
    columns = ["part", "streams", "requests", "tokens/s", "TTFT", "TPOT", "E2E", "client CPU"]
    rows = []
    for name, result in loads:
        serve = result["serve"]
        rows.append(
            [
                name,
                str(result["batch"]),
                str(serve["succeeded"]),
                f"{result['tokens_per_s']['median']:.1f}",
                *(_three(serve[key]) for key in ("ttft_ms", "tpot_ms", "e2e_ms")),
                f"{serve['client_cpu_share']:.1%} of a processor",
            ]
        )
    return table(columns, rows)


def _other_details(name: str, part: Mapping[str, Any]) -> str:
    if name == "memory":
        first, last = part["course"][0], part["course"][-1]
        sizes = [f"{point['rss_bytes'] / 1e6:.1f} MB" for point in (first, last)]
        return (
            f"{part['served_model']}: {sizes[0]} after {first['requests']:,}, "
            f"{sizes[1]} after {last['requests']:,}"
        )
    times = part["tpot_ms"]
    return f"p50 {times['p50']:.1f}, p99 {times['p99']:.1f} ms"


def _fill(text: str, part: Mapping[str, Any]) -> str:
    shown = {key: _spread(value) for key, value in part.items()}
    return text.format_map(shown | {"value": part["value"]})


def _spread(value: Any) -> str:
    if not (isinstance(value, Mapping) and value.keys() == {"median", "min", "max"}):
        return str(value)
    digits = 1 if value["median"] >= 10 else 2
    return f"{value['median']:.{digits}f} ({value['min']:.{digits}f}..{value['max']:.{digits}f})"


def _three(times: Mapping[str, float] | None) -> str:
    if times is None:
        return "-"
    return " / ".join(f"{times[key]:.1f}" for key in ("p50", "p90", "p99"))
