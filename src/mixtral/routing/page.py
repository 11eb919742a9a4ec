"""The report as one HTML page that needs nothing else: no network, no other file.

Without JavaScript all layers are shown one after the other; with it, the one that is chosen.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from mixtral.reports.page import fill_page, html_table, measured_html
from mixtral.routing.comparison import RoutingComparison
from mixtral.routing.experts_per_token import ExpertsPerToken
from mixtral.routing.html import Line, heat_table, line_chart, visible
from mixtral.routing.live import LiveLayer
from mixtral.routing.report import Group, RoutingReport
from mixtral.routing.statistics import LayerStatistics
from mixtral.routing.tables import comparison_summary, percent


def report_page(
    report: RoutingReport,
    comparison: RoutingComparison | None = None,
    experts: Sequence[ExpertsPerToken] = (),
    *,
    head: Mapping[str, Any] | None = None,
) -> str:
    """Return the page of a report; ``head`` says how it was measured (``reports.new_head``)."""
    parts = [
        _opening(report),
        _summary(report),
        _repetitions(report),
        _information(report),
        *([] if comparison is None else [_comparison(comparison)]),
        *([_experts(experts)] if experts else []),
        _chooser(report.num_layers),
        *(_layer(report, layer) for layer in range(report.num_layers)),
        *([] if head is None else [measured_html(head)]),
        "<footer>Numbers are explained in docs/routing.md of mixtral; all of them are in "
        "results.json.</footer>",
    ]
    script = files("mixtral.routing").joinpath("layer_chooser.js").read_text(encoding="utf-8")
    return fill_page(f"Routing of {report.model}", "\n".join(parts), script=script)


def live_page(source: str, layers: Sequence[LiveLayer]) -> str:
    """Return the page of a running server: its loads since the start."""
    num_experts = len(layers[0].load)
    visits = sum(layers[0].visits)
    body = (
        f"<h1>Experts of {escape(source)}</h1>"
        f"<p>{visits:,} visits to the experts of each layer since the server started.</p>"
        + _load_map([layer.load for layer in layers])
        + html_table(
            "Balance",
            ("layer", "largest over mean load", "variation", "entropy of load (nats)"),
            [
                (str(number), *map(_number, (each.imbalance, each.variation, each.load_entropy)))
                for number, each in enumerate(layers)
            ],
        )
        + f"<p>An even load is {percent(1 / num_experts)} for each expert.</p>"
    )
    return fill_page(f"Experts of {source}", body)


def _opening(report: RoutingReport) -> str:
    texts = ", ".join(f"{escape(d.name)} ({d.num_tokens:,})" for d in report.domains)
    share = percent(report.num_distinct_tokens / report.vocab_size)
    return (
        f"<h1>Routing of {escape(report.model)}</h1>"
        f"<p>{report.num_layers} layers, {report.num_experts} experts in each, "
        f"{report.num_experts_per_tok} of them for each token. {report.num_tokens:,} tokens were "
        f"run: {texts}. They contain {report.num_distinct_tokens:,} different tokens, {share} of "
        "the vocabulary.</p>"
    )


def _summary(report: RoutingReport) -> str:
    layers = report.layers
    highest = [math.log(report.num_experts)] * len(layers)
    return (
        "<h2>How even is the work?</h2>"
        + _load_map([layer.load for layer in layers])
        + line_chart(
            "Entropy of load and router by layer",
            ylabel="entropy (nats)",
            xlabel="layer",
            lines=[
                Line(name="load", values=[layer.load_entropy for layer in layers]),
                Line(name="router, mean over tokens", values=[x.router_entropy for x in layers]),
                Line(name="all experts alike", values=highest, is_reference=True),
            ],
        )
        + html_table(
            "Balance and certainty",
            (
                "layer",
                "largest over mean load",
                "variation",
                "entropy of load (nats)",
                "entropy of router (nats)",
            ),
            [
                (
                    str(number),
                    *map(_number, (x.imbalance, x.variation, x.load_entropy, x.router_entropy)),
                )
                for number, x in enumerate(layers)
            ],
        )
    )


def _repetitions(report: RoutingReport) -> str:
    parts = ["<h2>Do neighbours share experts?</h2>"]
    for title, chance, values in (
        (
            "Same best expert as the token before",
            report.random_same_first,
            [(d.name, [layer.same_first for layer in d.layers]) for d in report.domains],
        ),
        (
            "At least one expert in common with the token before",
            report.random_same_any,
            [(d.name, [layer.same_any for layer in d.layers]) for d in report.domains],
        ),
    ):
        lines = [
            Line(name=name, values=[None if v is None else 100 * v for v in shares])
            for name, shares in values
        ]
        random = Line(
            name=f"random ({percent(chance)})",
            values=[100 * chance] * report.num_layers,
            is_reference=True,
        )
        parts.append(f"<h3>{title}</h3>")
        parts.append(line_chart(title, ylabel="tokens (%)", xlabel="layer", lines=[*lines, random]))
        head = ("text", *(f"layer {layer}" for layer in range(report.num_layers)))
        parts.append(html_table(f"{title} (%)", head, [(n, *map(percent, s)) for n, s in values]))
    return "".join(parts)


def _information(report: RoutingReport) -> str:
    lines = [Line(name=name, values=values) for name, values in report.information.items()]
    return (
        "<h2>What decides?</h2><p>How much the text, the kind of a token or its position tells "
        "about its experts (mutual information): 0 is nothing.</p>"
        + line_chart("Mutual information", ylabel="information (nats)", xlabel="layer", lines=lines)
        + html_table(
            "Mutual information (nats)",
            ("about the expert", *(f"layer {layer}" for layer in range(report.num_layers))),
            [(line.name, *(f"{value or 0.0:.3f}" for value in line.values)) for line in lines],
        )
    )


def _comparison(comparison: RoutingComparison) -> str:
    layers = comparison.layers
    lines = [
        Line(name="same experts", values=[100 * layer.same_set for layer in layers]),
        Line(name="same best expert", values=[100 * layer.same_first for layer in layers]),
        Line(name="experts swapped", values=[100 * layer.swap_rate for layer in layers]),
    ]
    return (
        f"<h2>{escape(comparison.second)} against {escape(comparison.first)}</h2>"
        f"<p>{escape(comparison_summary(comparison))}</p>"
        + line_chart("Routing kept", ylabel="share (%)", xlabel="layer", lines=lines)
        + html_table(
            "Routing of the same tokens",
            ("layer", "same experts", "same best", "swapped", "KL (nats)", "load moved"),
            [
                (
                    str(number),
                    *map(percent, (x.same_set, x.same_first, x.swap_rate)),
                    f"{x.kl:.4f}",
                    percent(x.load_distance),
                )
                for number, x in enumerate(layers)
            ],
        )
    )


def _experts(measured: Sequence[ExpertsPerToken]) -> str:
    rows = [
        (
            f"{each.label} (trained)" if each.is_trained else each.label,
            f"{each.perplexity:.3f}",
            f"{each.num_active_parameters:,}",
            f"{each.prefill_tokens_per_s:,.0f}",
            f"{each.decode_tokens_per_s:,.1f}",
            each.runs_in,
        )
        for each in measured
    ]
    head = (
        "experts per token",
        "perplexity",
        "active parameters",
        "prefill (tokens/s)",
        "decode (tokens/s)",
        "runs in",
    )
    return "<h2>More or fewer experts</h2>" + html_table("Effect of experts per token", head, rows)


def _chooser(num_layers: int) -> str:
    options = "".join(f'<option value="{layer}">{layer}</option>' for layer in range(num_layers))
    return (
        '<h2>Layer by layer</h2><div id="chooser" hidden><label>Layer <select id="layer">'
        f'{options}<option value="all">all</option></select></label></div>'
    )


def _layer(report: RoutingReport, layer: int) -> str:
    statistics = report.layers[layer]
    total = [("all", statistics.load)]
    by_domain = [(d.name, d.layers[layer].load) for d in report.domains]
    parts = [
        f'<section class="layer" data-layer="{layer}" aria-label="Layer {layer}">'
        f"<h3>Layer {layer}</h3>",
        _loads("Load of each expert by text (%)", "text", by_domain + total),
        _loads("Load of each expert by kind of token (%)", "kind", _rows(report.kinds, layer)),
        _loads("Load of each expert by position (%)", "position", _rows(report.positions, layer)),
        _together(statistics),
        _tokens(report, layer),
        "</section>",
    ]
    return "".join(parts)


def _rows(groups: Sequence[Group], layer: int) -> list[tuple[str, list[float]]]:
    return [(f"{group.name} ({group.num_tokens:,})", group.load[layer]) for group in groups]


def _loads(caption: str, kind: str, rows: Sequence[tuple[str, list[float]]]) -> str:
    if not rows:
        return ""
    return heat_table(caption, _expert_head(kind, len(rows[0][1])), rows, full=0.5)


def _together(statistics: LayerStatistics) -> str:
    shares = statistics.together
    rows = [
        (f"expert {i}", [None if i == j else value for j, value in enumerate(row)])
        for i, row in enumerate(shares)
    ]
    caption = "Tokens of the expert on the left that also visit the one above (%)"
    return heat_table(caption, _expert_head("", len(shares)), rows, full=0.5, decimals=0)


def _tokens(report: RoutingReport, layer: int) -> str:
    rows = "".join(
        f'<tr><th scope="row">expert {expert}</th><td class="tokens">'
        + "".join(
            f'<code title="{top.visits:,} visits, {percent(top.share)} of its occurrences">'
            f"{escape(visible(top.text))}</code>"
            for top in found
        )
        + "</td></tr>"
        for expert, found in enumerate(report.top_tokens[layer])
    )
    return (
        '<div class="scroll"><table class="plain"><caption>Tokens that it gets more often than its '
        f"load explains</caption><tbody>{rows}</tbody></table></div>"
    )


def _load_map(loads: Sequence[Sequence[float]]) -> str:
    rows = [(f"layer {number}", load) for number, load in enumerate(loads)]
    head = _expert_head("", len(loads[0]))
    return heat_table("Load by layer and expert (%)", head, rows, full=2.5 / len(loads[0]))


def _expert_head(first: str, num_experts: int) -> list[str]:
    return [first, *(str(expert) for expert in range(num_experts))]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
