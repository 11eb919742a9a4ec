"""The report as Markdown tables; every number in them comes from the report."""

from collections.abc import Sequence

from mixtral.reports.markdown import markdown_table
from mixtral.routing.comparison import RoutingComparison
from mixtral.routing.experts_per_token import ExpertsPerToken
from mixtral.routing.live import LiveLayer
from mixtral.routing.report import RoutingReport


def summary_table(report: RoutingReport) -> str:
    """Return one row per layer: how even, how sure, how sticky the router is."""
    head = (
        "layer",
        "max / mean load",
        "variation",
        "entropy of load (nats)",
        "entropy of router (nats)",
        "same first",
        "first or second"
        if report.num_experts_per_tok == 2
        else f"any of {report.num_experts_per_tok}",
    )
    rows = [
        (
            str(number),
            f"{layer.imbalance:.2f}",
            f"{layer.variation:.2f}",
            f"{layer.load_entropy:.2f}",
            f"{layer.router_entropy:.2f}",
            percent(layer.same_first),
            percent(layer.same_any),
        )
        for number, layer in enumerate(report.layers)
    ]
    chance = ("random", "1.00", "0.00", "", "")
    expected = (percent(report.random_same_first), percent(report.random_same_any))
    return markdown_table(head, [*rows, (*chance, *expected)])


def load_table(loads: Sequence[Sequence[float]]) -> str:
    """Return the load of each expert, one row per layer, in percent."""
    head = ("layer", *(f"expert {expert}" for expert in range(len(loads[0]))))
    rows = [(str(number), *map(percent, load)) for number, load in enumerate(loads)]
    return markdown_table(head, rows)


def repetition_table(report: RoutingReport, *, first: bool) -> str:
    """Return the repetitions of consecutive tokens by domain, as in table 5 of arXiv:2401.04088.

    Args:
        report: What was measured.
        first: Whether of the best expert; otherwise of any of a token's experts.
    """
    layers = range(report.num_layers)
    head = ("text", "tokens", *(f"layer {layer}" for layer in layers))
    rows = [
        (
            domain.name,
            f"{domain.num_tokens:,}",
            *(percent(s.same_first if first else s.same_any) for s in domain.layers),
        )
        for domain in report.domains
    ]
    chance = percent(report.random_same_first if first else report.random_same_any)
    by_load = [percent(layer.same_first_by_load) for layer in report.layers]
    expected = [("random", "", *(chance for _ in layers))]
    return markdown_table(
        head, [*rows, *expected, *([("random, this load", "", *by_load)] if first else [])]
    )


def information_table(report: RoutingReport) -> str:
    """Return what domain, kind and position tell about the expert, one row per layer, in nats."""
    head = ("layer", *report.information)
    columns = report.information.values()
    rows = [
        (str(number), *(f"{value:.3f}" for value in values))
        for number, values in enumerate(zip(*columns, strict=True))
    ]
    return markdown_table(head, rows)


def comparison_table(comparison: RoutingComparison) -> str:
    """Return how the routing of two models differs, one row per layer."""
    head = ("layer", "same experts", "same first", "experts swapped", "KL (nats)", "load moved")
    rows = [
        (
            str(number),
            percent(layer.same_set),
            percent(layer.same_first),
            percent(layer.swap_rate),
            f"{layer.kl:.4f}",
            percent(layer.load_distance),
        )
        for number, layer in enumerate(comparison.layers)
    ]
    return markdown_table(head, rows)


def experts_table(measured: Sequence[ExpertsPerToken]) -> str:
    """Return perplexity and speed by number of experts; the first row is the model's own."""
    own = measured[0].perplexity
    head = (
        "experts per token",
        "perplexity",
        "change",
        "active parameters",
        "prefill (tokens/s)",
        "decode (tokens/s)",
        "runs in",
    )
    rows = [
        (
            f"{each.label} (trained)" if each.is_trained else each.label,
            f"{each.perplexity:.3f}",
            f"{100 * (each.perplexity / own - 1):+.1f} %",
            f"{each.num_active_parameters:,}",
            f"{each.prefill_tokens_per_s:,.0f}",
            f"{each.decode_tokens_per_s:,.1f}",
            each.runs_in,
        )
        for each in measured
    ]
    return markdown_table(head, rows)


def live_table(layers: Sequence[LiveLayer]) -> str:
    """Return the load of a running server, one row per layer."""
    head = ("layer", "visits", "max / mean load", "variation", "entropy of load (nats)")
    rows = [
        (
            str(number),
            f"{sum(layer.visits):,}",
            *(
                "" if value is None else f"{value:.2f}"
                for value in (layer.imbalance, layer.variation, layer.load_entropy)
            ),
        )
        for number, layer in enumerate(layers)
    ]
    return markdown_table(head, rows)


def report_markdown(
    report: RoutingReport,
    comparison: RoutingComparison | None = None,
    experts: Sequence[ExpertsPerToken] = (),
) -> str:
    """Return all tables with a heading each."""
    share = percent(report.num_distinct_tokens / report.vocab_size)
    first_line = (
        f"{report.num_tokens:,} tokens, {report.num_distinct_tokens:,} different ones ({share} of "
        f"the vocabulary); {report.num_experts} experts per layer, {report.num_experts_per_tok} "
        "per token."
    )
    parts = [
        (f"# Routing of {report.model}", first_line + "\n"),
        ("## Layers", summary_table(report)),
        ("## Load by expert", load_table([layer.load for layer in report.layers])),
        ("## Same first expert as the token before", repetition_table(report, first=True)),
        ("## An expert in common with the token before", repetition_table(report, first=False)),
        ("## What tells about the expert (nats)", information_table(report)),
    ]
    if comparison is not None:
        title = f"## {comparison.second} against {comparison.first}"
        parts.append(
            (title, comparison_summary(comparison) + "\n\n" + comparison_table(comparison))
        )
    if experts:
        parts.append(("## Experts per token", experts_table(experts)))
    return "\n".join(f"{title}\n\n{body}" for title, body in parts)


def comparison_summary(comparison: RoutingComparison) -> str:
    """Return perplexities and divergence of two models as one sentence."""
    perplexities = (comparison.first_perplexity, comparison.second_perplexity)
    first, second = ("none" if p is None else f"{p:.3f}" for p in perplexities)
    return (
        f"On {comparison.num_tokens:,} tokens: perplexity {first} and {second}; the predictions "
        f"differ by {comparison.prediction_kl:.4f} nats per token (KL)."
    )


def percent(share: float | None) -> str:
    """Return a share for people.

    >>> percent(0.46428), percent(None)
    ('46.4 %', '')
    """
    return "" if share is None else f"{100 * share:.1f} %"
