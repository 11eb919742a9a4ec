"""The part of ``mixtral convert`` that calibrates: progress, and the report as tables."""

from pathlib import Path

from mixtral.cli.console import spinner, stderr_console
from mixtral.errors import ConfigError
from mixtral.model_source import ModelSource
from mixtral.quantization import find_recipe


def run_calibration(
    source: ModelSource, target: Path, quantization: str, text: Path, *, as_json: bool
) -> None:
    """Quantise a model with calibration and show what it did to the model.

    Args:
        source: An unquantised model with files.
        target: The folder to write.
        quantization: Name of a recipe.
        text: The calibration text.
        as_json: Whether standard output belongs to a program; tables are left out then, the report
            is in the folder.

    Raises:
        ConfigError: The weights are random, or the text cannot be used.
    """
    if source.is_random:
        raise ConfigError(
            f"source is {source.name!r}, whose weights are random; calibration needs a trained "
            "model. Leave out --calibrate."
        )
    if not text.is_file():
        raise ConfigError(f"calibrate is {str(text)!r}; it must be a file of text that exists.")
    with spinner("starting"):
        from rich.progress import Progress

        from mixtral.calibrate import calibration_table, quality_table, quantize_calibrated
        from mixtral.model_tokenizer import find_tokenizer
    console = stderr_console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=1.0)
        found = quantize_calibrated(
            source,
            target,
            find_recipe(quantization),
            text,
            find_tokenizer(source),
            on_progress=lambda what, share: progress.update(
                task, description=what, completed=share
            ),
        )
    if not as_json:
        console.print(calibration_table(found.calibration))
        console.print()
        console.print(quality_table(found.quality))
