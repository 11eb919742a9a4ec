"""Prometheus metrics, in a registry of their own.

Four sources: generations tell their times when they end (``observe_generation``), requests their
status (``observe_request``), the engine's thread the size of every step (``observe_step``), and the
engine's own counts are read when somebody asks for ``/metrics`` (``EngineCollector``). Every name
begins with ``mixtral_``; times are in seconds.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mixtral.server.logs import RequestRecord
from mixtral.server.recent import Recent

if TYPE_CHECKING:
    from mixtral.async_llm import EngineStats, StepReport

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Bounds of the time to the first token: from a cached prompt to a long one on a laptop."""

TOKEN_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5)
"""Bounds of the time per further token."""

REQUEST_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Bounds of the time of a whole request."""

COUNT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Bounds of sequences and tokens per step."""


class Metrics:
    """All metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.recent = Recent()
        """The last seconds, for ``/v1/status``."""
        self._requests = self._counter(
            "requests", "Requests answered.", ("route", "method", "status", "key")
        )
        self._unfinished = self._counter(
            "unfinished_generations", "Generations cut off: the client left, or they failed.", ()
        )
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "From the request to its first token.", TTFT_BUCKETS_S
        )
        self._tpot = self._histogram(
            "time_per_output_token_seconds",
            "Mean time between the tokens of one request.",
            TOKEN_BUCKETS_S,
        )
        self._e2e = self._histogram(
            "request_duration_seconds", "From the request to its last token.", REQUEST_BUCKETS_S
        )
        self._step_time = self._histogram(
            "step_duration_seconds", "One pass of the model.", TOKEN_BUCKETS_S
        )
        self._step_sequences = self._histogram(
            "step_sequences", "Answers that took part in a step.", COUNT_BUCKETS
        )
        self._step_tokens = self._histogram(
            "step_tokens", "Tokens that a step computed.", COUNT_BUCKETS
        )
        self._prefill_tokens = self._counter(
            "prefill_tokens", "Tokens of prompts that were computed, not found in the cache.", ()
        )

    def observe_step(self, report: "StepReport") -> None:
        """Count one step; called on the engine's thread."""
        self._step_time.observe(report.step_s)
        self._step_sequences.observe(report.num_sequences)
        self._step_tokens.observe(report.num_tokens)
        self._prefill_tokens.inc(report.num_prefill_tokens)
        self.recent.note_step(
            num_input_tokens=report.num_prefill_tokens, num_output_tokens=report.num_output_tokens
        )

    def observe_request(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        self._requests.labels(
            record.route or "none", record.method, str(record.status or 499), record.key_name
        ).inc()

    def observe_generation(
        self, *, ttft_s: float | None, tpot_s: float | None, e2e_s: float | None
    ) -> None:
        """Count the times of one generation; None for those it did not reach."""
        if ttft_s is not None:
            self._ttft.observe(ttft_s)
            self.recent.note_first_token(ttft_s)
        if tpot_s is not None:
            self._tpot.observe(tpot_s)
        if e2e_s is None:
            self._unfinished.inc()
        else:
            self._e2e.observe(e2e_s)

    def watch_engine(self, stats: Callable[[], "EngineStats"]) -> None:
        """Read the engine's counts whenever the metrics are asked for."""
        self.registry.register(EngineCollector(stats))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"mixtral_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"mixtral_{name}", text, buckets=buckets, registry=self.registry)


class EngineCollector(Collector):
    """Turns a snapshot of the engine into metrics.

    Args:
        stats: Returns the snapshot; may be called from any thread.
    """

    def __init__(self, stats: Callable[[], "EngineStats"]) -> None:
        self._stats = stats

    def describe(self) -> Iterable[Metric]:
        """Name no metrics beforehand, so that registering does not ask the engine."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read the engine."""
        stats = self._stats()
        for name, text, value in (
            ("running_requests", "Answers being made.", stats.num_running),
            ("waiting_requests", "Answers that wait for their turn.", stats.num_waiting),
            ("kv_blocks", "Blocks of the KV cache.", stats.num_blocks),
            ("kv_used_blocks", "Blocks in use by running answers.", stats.num_used_blocks),
            ("kv_cached_blocks", "Free blocks that hold a known prefix.", stats.num_cached_blocks),
            (
                "kv_use_ratio",
                "Share of the blocks in use.",
                stats.num_used_blocks / max(stats.num_blocks, 1),
            ),
            (
                "prefix_cache_hit_ratio",
                "Share of prompt tokens found in the prefix cache since the start.",
                stats.prefix_hit_tokens / max(stats.prefix_query_tokens, 1),
            ),
        ):
            yield GaugeMetricFamily(f"mixtral_{name}", text, value=value)
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts.", stats.num_prompt_tokens),
            ("output_tokens", "Tokens of answers.", stats.num_output_tokens),
            ("prefix_cache_hit_tokens", "Prompt tokens found in cache.", stats.prefix_hit_tokens),
            ("prefix_cache_query_tokens", "Prompt tokens looked up.", stats.prefix_query_tokens),
            ("preemptions", "Answers put back to make room.", stats.num_preemptions),
            ("guessed_tokens", "Tokens guessed by prompt lookup.", stats.num_guessed_tokens),
            ("right_guesses", "Guessed tokens that were kept.", stats.num_right_guesses),
        ):
            yield CounterMetricFamily(f"mixtral_{name}", text, value=value)
        load = CounterMetricFamily(
            "mixtral_expert_tokens", "Tokens that an expert computed.", labels=("layer", "expert")
        )
        for layer, counts in enumerate(stats.expert_load):
            for expert, count in enumerate(counts):
                load.add_metric((str(layer), str(expert)), count)
        yield load
