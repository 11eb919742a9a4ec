"""The load of the experts of a running server, from the metrics that it exports.

Its counters ``mixtral_expert_tokens_total{layer, expert}`` hold the tokens that each expert
computed since the start. Only loads follow from them; everything else in the report needs the
tokens.
"""

import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import Any

import torch
from prometheus_client.parser import text_string_to_metric_families

from mixtral.errors import ConfigError
from mixtral.routing.coverage import shares
from mixtral.routing.statistics import entropy, imbalance, variation

_METRIC = "mixtral_expert_tokens"
_MAX_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveLayer:
    """Load of one layer since the server started."""

    visits: list[int]
    """Tokens that each expert computed, E values."""
    load: list[float]
    """Their shares."""
    imbalance: float | None
    """Largest load over the mean load; None before the first token."""
    variation: float | None
    """Standard deviation of the loads over their mean."""
    load_entropy: float | None
    """Entropy of the load, in nats."""

    def as_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


def read_metrics(url: str, *, api_key: str | None = None, timeout_s: float = 10.0) -> str:
    """Fetch the metrics of a server as text.

    Args:
        url: Of the server, or of its ``/metrics``.
        api_key: For a server that asks for one.
        timeout_s: Seconds to wait for an answer.

    Raises:
        ConfigError: The URL is wrong, or the server does not answer with metrics.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"metrics URL is {url!r}; it must begin with http:// or https://.")
    full = url if url.rstrip("/").endswith("/metrics") else url.rstrip("/") + "/metrics"
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        request = urllib.request.Request(full, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            text: str = answer.read(_MAX_BYTES).decode("utf-8")
    except urllib.error.HTTPError as error:
        error.close()
        advice = "give its key by --api-key" if error.code in (401, 403) else "is it mixtral serve?"
        raise ConfigError(f"{full} answers {error.code} {error.reason}; {advice}.") from error
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"{full} cannot be read: {reason}; is mixtral serve running there?"
        ) from error
    return text


def parse_expert_tokens(text: str) -> list[list[int]]:
    """Return the tokens of each expert, L lists of E, from metrics in Prometheus' text format.

    Raises:
        ConfigError: The text is no metrics, or has no counts of experts.
    """
    counts: dict[tuple[int, int], int] = {}
    try:
        for family in text_string_to_metric_families(text):
            if family.name == _METRIC:
                for sample in family.samples:
                    place = int(sample.labels["layer"]), int(sample.labels["expert"])
                    counts[place] = int(sample.value)
    except (ValueError, KeyError, OverflowError) as error:
        raise ConfigError(f"the metrics cannot be read ({error}); is it mixtral serve?") from error
    if not counts:
        raise ConfigError(
            f"the metrics have no {_METRIC}_total; the server runs a dense model, or is not "
            "mixtral serve."
        )
    layers, experts = (1 + max(places) for places in zip(*counts, strict=True))
    if len(counts) != layers * experts:
        raise ConfigError(
            f"the metrics have {len(counts)} counts of experts for {layers} layers of {experts}; "
            "each must have one."
        )
    return [[counts[layer, expert] for expert in range(experts)] for layer in range(layers)]


def live_layers(visits: Sequence[Sequence[int]]) -> list[LiveLayer]:
    """Return the load of each layer from the tokens of its experts, L lists of E."""
    return [_live_layer(list(counts)) for counts in visits]


def _live_layer(counts: list[int]) -> LiveLayer:
    load = shares(counts)
    tensor = torch.tensor(load, dtype=torch.float64)
    has_any = any(counts)
    return LiveLayer(
        visits=counts,
        load=load,
        imbalance=imbalance(tensor) if has_any else None,
        variation=variation(tensor) if has_any else None,
        load_entropy=entropy(tensor) if has_any else None,
    )
