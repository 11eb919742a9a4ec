"""The options of ``mixtral routing``, in groups."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mixtral.cli.options import DeviceOption, DTypeOption, LayersOption
from mixtral.quantization import RECIPES


def _second(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel="Comparison")


@dataclass(frozen=True, kw_only=True, slots=True)
class HowOptions:
    """How the model is held in memory."""

    dtype: DTypeOption = None
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization", "-q", help=f"{', '.join(RECIPES)}: pack the weights while reading."
        ),
    ] = None
    device: DeviceOption = "auto"
    layers: LayersOption = None
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="v1, v3, or a file; else the model's own.")
    ] = None
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="Folder of a LoRA adapter in PEFT's format.")
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondOptions:
    """The other model of a comparison."""

    compare: Annotated[
        str | None, _second("--compare", "Another model of the same geometry, on the same tokens.")
    ] = None
    compare_quantization: Annotated[
        str | None, _second("--compare-quantization", "Pack its weights; alone: those of MODEL.")
    ] = None
    compare_dtype: Annotated[
        str | None, _second("--compare-dtype", "Its precision; alone: that of MODEL's weights.")
    ] = None
    compare_adapter: Annotated[
        str | None, _second("--compare-adapter", "Its LoRA adapter; alone: on MODEL.")
    ] = None

    @property
    def is_wanted(self) -> bool:
        """Whether any of them was given."""
        given = (self.compare_quantization, self.compare_dtype, self.compare_adapter)
        return self.compare is not None or any(value is not None for value in given)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOptions:
    """What is read, and how."""

    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="FILES...",
            help="Texts, .jsonl files or folders; each is a domain. NAME=PATH names one.",
        ),
    ] = None
    sequence_tokens: Annotated[
        int | None,
        typer.Option(
            "--sequence-tokens",
            help="Length of the pieces that texts are cut into; without it, 2048 or the context.",
        ),
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Tokens of each text; without it, all.")
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """Where the report goes."""

    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Write the whole report here.")
    ] = None
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="FILE", help="Write loads for lora.expert_loads, and coverage."
        ),
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
