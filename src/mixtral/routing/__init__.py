"""What the routers of a mixture of experts do: loads, repetitions, preferences, comparisons.

    >>> from mixtral.routing import RoutedModel, measure_routing            # doctest: +SKIP
    >>> report = measure_routing(RoutedModel(model, "nano"), {"books": sequences}, tokenizer)
    ... # doctest: +SKIP
    >>> report.layers[0].imbalance                                           # doctest: +SKIP
    2.4

``counts`` adds traces up, ``statistics`` says what the sums mean, ``report`` does both for texts
in domains. ``comparison`` sets two models side by side, ``experts_per_token`` changes how many
experts work. ``tables``, ``page`` and ``plots`` show it, ``folder`` writes it down, and ``live``
reads a server.
"""

from mixtral.routing.comparison import LayerChange, RoutingComparison, compare_routing
from mixtral.routing.coverage import coverage_report
from mixtral.routing.experts_per_token import (
    ExpertsPerToken,
    measure_experts_per_token,
    using_experts,
)
from mixtral.routing.live import LiveLayer, live_layers, parse_expert_tokens, read_metrics
from mixtral.routing.report import DomainRouting, Group, RoutingReport, measure_routing
from mixtral.routing.routed_model import RoutedModel
from mixtral.routing.statistics import LayerStatistics
from mixtral.routing.token_kinds import TokenKind
from mixtral.routing.top_tokens import TopToken

__all__ = [
    "DomainRouting",
    "ExpertsPerToken",
    "Group",
    "LayerChange",
    "LayerStatistics",
    "LiveLayer",
    "RoutedModel",
    "RoutingComparison",
    "RoutingReport",
    "TokenKind",
    "TopToken",
    "compare_routing",
    "coverage_report",
    "live_layers",
    "measure_experts_per_token",
    "measure_routing",
    "parse_expert_tokens",
    "read_metrics",
    "using_experts",
]
