"""What ``mixtral train plan`` shows: a table of memory and a line of time, or one JSON object."""

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mixtral.cli.console import format_bytes, format_count, stdout_console

if TYPE_CHECKING:
    from mixtral.train.plan import Plan, PlanInput

_USES = {
    "weights": "of the model, as forward and backward take them",
    "masters": "float32, what AdamW steps: copies, an adapter, or shards",
    "gradients": "float32",
    "moments": "AdamW's two, float32",
    "activations": "what a micro-batch keeps for its backward pass",
    "scratch": "for the backward pass of a layer's experts",
    "output head": "logits of 1,024 tokens, and the head's gradient",
    "gathered": "layers that are whole for a moment",
    "saved copy": "masters and moments, while they are written in the background",
    "reserve": "process, CUDA, communication (--reserve-gb)",
}


def plan_as_json(given: "PlanInput", made: "Plan") -> dict[str, Any]:
    """Return a plan and what it was made from."""
    values = dataclasses.asdict(made)
    return {
        "fits": made.fits,
        "total_bytes": made.total_bytes,
        **values,
        "assumed": dataclasses.asdict(given),
    }


def print_plan(given: "PlanInput", made: "Plan") -> None:
    """Print a plan for people to read."""
    console = stdout_console()
    console.print(_describe(given), markup=False, soft_wrap=True)
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("memory of a device", style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for use, size in made.memory.items():
        if size:
            table.add_row(use, format_bytes(size), _USES[use])
    free = f"of {format_bytes(made.device_bytes)}"
    verdict = f"[green]it fits[/], {free}" if made.fits else f"[red]it does not fit[/], {free}"
    table.add_row("in all", format_bytes(made.total_bytes), verdict)
    console.print(table)
    for change in made.advice:
        console.print(f"  to make it fit: {change}", markup=False, soft_wrap=True)
    console.print()
    console.print(
        f"time: {made.flops_per_token / 1e9:,.3g} GFLOP per token, "
        f"{format_count(made.tokens_per_s)} tokens/s, {_duration(made.seconds_per_step)} per step, "
        f"{_duration(made.total_seconds)} for {given.num_steps:,} steps of "
        f"{given.tokens_per_step:,} tokens",
        soft_wrap=True,
    )
    console.print(
        f"assumed: {given.num_devices} x {given.tflops:,.2f} TFLOP/s, of which "
        f"{given.mfu:.0%} are reached (--tflops, --mfu)",
        soft_wrap=True,
    )


def _describe(given: "PlanInput") -> str:
    config = given.config
    base = f"{format_count(config.num_parameters)} weights"
    if not given.adapter_parameters:
        return f"all of {base} trained, {given.dtype}, on {given.num_devices} device(s)"
    packed = given.quantization or given.dtype
    adapter = format_count(given.adapter_parameters)
    return f"adapter of {adapter} over {base} in {packed}, on {given.num_devices} device(s)"


def _duration(seconds: float) -> str:
    """Write a time as people say it.

    >>> _duration(0.25), _duration(90), _duration(9000), _duration(400_000)
    ('0.25 s', '90 s', '2.5 h', '4.6 days')
    """
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
