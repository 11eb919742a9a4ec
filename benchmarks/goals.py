"""What was promised, and where in the JSON files the measured number stands.

Each goal has two limits: one that must be reached, and one that would be a feat. They are for the
geometry of 8x7B, so a number from any other model is not found.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Results = Mapping[str, Mapping[str, Any]]
"""Contents of the JSON files by name."""
Find = Callable[[Results], float | None]
"""Takes the number out of the results; None where it was not measured."""

_MODEL = "random:8x7b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A number that was promised."""

    text: str
    limit: float
    """What must be reached."""
    feat: float | None
    """What would be a feat; None where nothing is said."""
    find: Find
    unit: Literal["%", "x", " tokens/s", " s", " ms", ""]
    is_at_most: bool = False
    """Whether small numbers are good."""

    def verdict(self, value: float) -> str:
        """Return in a word or two how good a number is."""
        if self.feat is not None and self._reaches(value, self.feat):
            return "met, a feat"
        return "met" if self._reaches(value, self.limit) else "**missed**"

    def show(self, value: float) -> str:
        """Return a number with its unit."""
        if self.unit == "%":
            return f"{value:.1%}"
        digits = 1 if self.unit == " tokens/s" else 2
        return f"{value:.{digits}f}{self.unit}"

    def show_limit(self, value: float | None) -> str:
        """Return one of the limits with its sign and unit."""
        if value is None:
            return ""
        sign = "<=" if self.is_at_most else ">="
        return f"{sign} {value:.0%}" if self.unit == "%" else f"{sign} {value:g}{self.unit}"

    def _reaches(self, value: float, limit: float) -> bool:
        return value <= limit if self.is_at_most else value >= limit


def _result(part: str, field: str, *, work: str, batch: int = 1, tokens: int | None = None) -> Find:
    """Find a field of our own result."""

    def find(results: Results) -> float | None:
        for result in results.get(part, {}).get("results", []):
            is_ours = (result["engine"], result["model"]) == ("mixtral", _MODEL)
            is_it = (result["work"], result["batch"]) == (work, batch)
            if is_ours and is_it and tokens in (None, result["prompt_tokens"]):
                return _number(result[field])
        return None

    return find


def _ratio(part: str, peer: str, *, work: str, batch: int, tokens: int | None = None) -> Find:
    """Find how many times the peer's speed ours is."""

    def find(results: Results) -> float | None:
        run = results.get(part, {})
        if any(result["model"] != _MODEL for result in run.get("results", [])):
            return None
        for ratio in run.get("ratios", []):
            is_it = (ratio["peer"], ratio["work"], ratio["batch"]) == (peer, work, batch)
            if is_it and tokens in (None, ratio["prompt_tokens"]):
                return _number(ratio["tokens_per_s"])
        return None

    return find


def _load(part: str, field: str) -> Find:
    def find(results: Results) -> float | None:
        for result in results.get(part, {}).get("results", []):
            # Two layers of 8x7B; a quick run has another geometry under a name of the same kind.
            if result["load"]["checkpoint_bytes"] > 1e9:
                return _number(result["load"].get(field))
        return None

    return find


def _startup(command: str) -> Find:
    def find(results: Results) -> float | None:
        for entry in results.get("startup", {}).get("startup", []):
            if entry["command"] == command:
                return _number(entry["seconds"])
        return None

    return find


def _served(part: str) -> Find:
    def find(results: Results) -> float | None:
        found = results.get("serve", {}).get("parts", {}).get(part, {})
        return _number(found.get("value")) if found.get("model") == _MODEL else None

    return find


def _number(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value["median"]
    return None if value is None else float(value)


def _bandwidth(name: str, limit: float, feat: float) -> Goal:
    return Goal(
        text=f"decode, batch 1, {name}: weights read, of read bandwidth",
        limit=limit,
        feat=feat,
        find=_result(f"decode-{name}", "bandwidth_fraction", work="decode"),
        unit="%",
    )


def _prefill_peak(name: str) -> Goal:
    return Goal(
        text=f"prefill of 512 tokens, {name}, of int8 peak",
        limit=0.68,
        feat=0.78,
        find=_result(f"prefill-{name}", "peak_fraction", work="prefill", tokens=512),
        unit="%",
    )


def _against(peer: str, work: str, batch: int, *, limit: float, feat: float | None = None) -> Goal:
    part, ours, theirs = (
        ("compare-int4", "int4", "llama.cpp Q4_0")
        if peer == "llama.cpp"
        else ("compare-bf16", "bfloat16", "transformers bfloat16")
    )
    tokens = 512 if work == "prefill" else None
    what = "prefill of 512 tokens" if work == "prefill" else f"decode, batch {batch}"
    return Goal(
        text=f"{what}, {ours}, against {theirs}",
        limit=limit,
        feat=feat,
        find=_ratio(part, peer, work=work, batch=batch, tokens=tokens),
        unit="x",
    )


def _at_most(
    text: str,
    limit: float,
    find: Find,
    unit: Literal["%", "x", " s", " ms", ""],
    feat: float | None = None,
) -> Goal:
    return Goal(text=text, limit=limit, feat=feat, find=find, unit=unit, is_at_most=True)


GOALS = (
    _bandwidth("int8", 0.85, 0.95),
    _bandwidth("int4", 0.85, 0.95),
    _bandwidth("int3", 0.80, 0.90),
    Goal(
        text="experts alone, 512 tokens, int4, of int8 peak",
        limit=0.70,
        feat=0.80,
        find=_result("moe-int4", "peak_fraction", work="moe", tokens=512),
        unit="%",
    ),
    _prefill_peak("int8"),
    _prefill_peak("int4"),
    _against("llama.cpp", "prefill", 1, limit=4.2, feat=4.8),
    _against("llama.cpp", "decode", 1, limit=1.25, feat=1.5),
    _against("llama.cpp", "decode", 8, limit=2.2, feat=2.8),
    _against("llama.cpp", "decode", 32, limit=5.0, feat=7.0),
    _against("transformers", "prefill", 1, limit=2.3, feat=2.6),
    _against("transformers", "decode", 1, limit=3.2, feat=3.6),
    _against("transformers", "decode", 8, limit=1.5),
    Goal(
        text="all 32 layers of 8x7B, int3, decode, batch 1",
        limit=5.0,
        feat=9.0,
        find=_result("decode-int3-all-layers", "tokens_per_s", work="decode"),
        unit=" tokens/s",
    ),
    _at_most(
        "loading int4 from the page cache: first token, prefill taken off",
        1.0,
        _load("load-int4", "startup_s"),
        " s",
        feat=0.3,
    ),
    _at_most(
        "loading bfloat16: peak memory over checkpoint",
        1.1,
        _load("load", "peak_rss_over_checkpoint"),
        "x",
    ),
    _at_most(
        "loading bfloat16: first token over reading once",
        1.3,
        _load("load", "first_token_over_read"),
        "x",
    ),
    _at_most("`mixtral --help`", 1.0, _startup("mixtral --help"), " s"),
    _at_most("`mixtral info 8x22b`", 1.0, _startup("mixtral info 8x22b"), " s"),
    Goal(
        text="served throughput, 32 streams, int4, of the engine at batch 32",
        limit=0.90,
        feat=None,
        find=_served("throughput"),
        unit="%",
    ),
    _at_most("serving overhead of a lone stream, per token", 3.0, _served("overhead"), " ms"),
    _at_most(
        "first token beside a 2,000-token prefill, in full chunks (median)",
        2.0,
        _served("beside"),
        "",
    ),
    _at_most(
        "first token with a known 1,000-token prefix, of that with a new one",
        0.15,
        _served("prefix"),
        "%",
    ),
    _at_most("server memory after 10,000 requests over 500", 1.02, _served("memory"), "%"),
    _at_most("64 streams, p99 over p50 of the time per token", 2.0, _served("streams"), ""),
    Goal(
        text="throughput under a JSON schema at batch 32, of that without",
        limit=0.95,
        feat=None,
        find=_served("structured"),
        unit="%",
    ),
)
