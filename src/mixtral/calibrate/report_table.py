"""Reports of calibration and quality as tables for people."""

from rich.table import Table

from mixtral.calibrate.calibration import CalibrationReport
from mixtral.calibrate.report import QualityReport


def quality_table(report: QualityReport) -> Table:
    """Return the figures of a comparison, one per row, routing per layer last."""
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.title = f"Quantised against reference, {report.num_tokens:,} tokens"
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("perplexity of the reference", f"{report.reference_perplexity:.4f}")
    table.add_row(
        "perplexity", f"{report.perplexity:.4f} ({100 * report.perplexity_change:+.2f} %)"
    )
    table.add_row("KL divergence, nats per token", f"{report.kl_divergence:.5f}")
    table.add_row("same best token", f"{report.same_best_token:.2%}")
    for part, error in report.weight_errors.items():
        table.add_row(f"weight error, {part}", f"{error:.4f}")
    for layer, shares in enumerate(zip(report.same_experts, report.same_order, strict=True)):
        same, order = shares
        table.add_row(f"same experts, layer {layer}", f"{same:.2%} (in order {order:.2%})")
    return table


def calibration_table(report: CalibrationReport) -> Table:
    """Return the tokens that the experts of each layer saw, and name the starved ones."""
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.title = f"Calibrated on {report.num_tokens:,} tokens in {report.num_sequences:,} texts"
    for column in ("layer", "fewest tokens", "most tokens"):
        table.add_column(column, justify="right")
    table.add_column("starved experts (tokens)")
    for layer, counts in enumerate(report.tokens_per_expert):
        starved = (f"{e.expert} ({e.num_tokens})" for e in report.starved if e.layer == layer)
        table.add_row(str(layer), f"{min(counts):,}", f"{max(counts):,}", ", ".join(starved))
    return table
