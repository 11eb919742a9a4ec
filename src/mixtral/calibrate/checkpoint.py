"""From a model and a text to a calibrated, packed folder with a report in it.

Part of the text is held out: the report compares the packed model with its source on sequences that
calibration did not see. The folder gets its name when it has the report. What is not packed comes
from the source as it is stored there; the model that calibration runs has one dtype for everything.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mixtral.calibrate.calibration import Calibration, CalibrationReport
from mixtral.calibrate.report import QualityReport, compare_models, weight_errors
from mixtral.calibrate.settings import CalibrationSettings
from mixtral.calibrate.text import read_sequences
from mixtral.checkpoint import TOOL, open_checkpoint, write_packed
from mixtral.checkpoint.packing_source import PackableSource, open_packable
from mixtral.checkpoint.staging import write_json
from mixtral.errors import ConfigError
from mixtral.loading import load_model, load_transformer
from mixtral.model_source import ModelSource, find_model
from mixtral.quantization import QuantizationRecipe
from mixtral.tokenizer import Tokenizer

REPORT_FILE = "calibration.json"
"""Name of the report in the packed folder."""

# A tenth of the text, but no more than the report needs to be precise.
_HELD_OUT_SHARE = 0.1
_MAX_HELD_OUT = 64
_SEQUENCE_TOKENS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedQuality:
    """What calibration read, and what came out."""

    calibration: CalibrationReport
    """The text and the experts' shares of it."""
    quality: QualityReport
    """The packed model against its source on text that was held out."""


def quantize_calibrated(
    source: ModelSource,
    target: Path,
    recipe: QuantizationRecipe,
    text: Path,
    tokenizer: Tokenizer,
    *,
    settings: CalibrationSettings | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> CalibratedQuality:
    """Write a packed checkpoint whose rounding looked at text, and ``calibration.json`` into it.

    Args:
        source: An unquantised model with files; one in float16 is loaded as float32.
        target: The folder to write; it must not exist, or be empty.
        recipe: Formats of the parts.
        text: Plain text, or ``.jsonl`` with a text or a conversation per line.
        tokenizer: That of the model.
        settings: How much text to read and how to round.
        on_progress: Called with what is being done and the share of the work that is done.

    Raises:
        ConfigError: The weights are random, or the text cannot be used or has fewer than two
            sequences.
        CheckpointError: The source is wrong, or the target cannot be written.
        UnsupportedError: The weights do not fit into memory.
    """
    settings = settings or CalibrationSettings()
    opened = _open(source, recipe)
    length = min(_SEQUENCE_TOKENS, source.config.max_position_embeddings)
    used, held_out = _split(text, tokenizer, sequence_tokens=length, settings=settings)
    # Calibration does not run in float16; float32 holds the same values.
    stored = opened.checkpoint.dtype
    model = load_transformer(source, dtype="float32" if stored == "float16" else None)
    calibration = Calibration(model, recipe, used, settings=settings, on_progress=on_progress)
    measured: list[QualityReport] = []

    def measure(folder: Path) -> None:
        packed = load_model(find_model(str(folder)), device="cpu")
        errors = weight_errors(model, open_checkpoint(folder).tensors())
        measured.append(compare_models(model, packed, held_out, weight_errors=errors))
        values = {"calibration": calibration.report.to_json(), "quality": measured[0].to_json()}
        write_json(folder / REPORT_FILE, values)

    write_packed(
        target,
        # The stream brings a tied head packed, as a matrix of its own.
        opened.config.replace(tie_word_embeddings=False),
        _with_stored(calibration, opened, recipe),
        recipe.made_from(source.name, tool=TOOL, calibration=text.name),
        dtypes=opened.dtypes,
        add_tokenizer=opened.copy_tokenizer,
        finish=measure,
    )
    return CalibratedQuality(calibration=calibration.report, quality=measured[0])


def _open(source: ModelSource, recipe: QuantizationRecipe) -> PackableSource:
    where = source.folder or source.gguf
    if where is None:
        raise ConfigError(
            f"source is {source.name!r}, whose weights are random; calibration needs a trained "
            "model."
        )
    return open_packable(where, recipe)


def _with_stored(
    tensors: Iterable[tuple[str, Tensor]], opened: PackableSource, recipe: QuantizationRecipe
) -> Iterator[tuple[str, Tensor]]:
    """Yield norms and routers as they are stored, and everything else as it comes."""
    kept = [name for name in opened.dtypes if recipe.format_of(name) is None]
    stored = dict(opened.checkpoint.tensors(names=kept))
    for name, tensor in tensors:
        yield name, stored.get(name, tensor)


def _split(
    text: Path, tokenizer: Tokenizer, *, sequence_tokens: int, settings: CalibrationSettings
) -> tuple[list[list[int]], list[list[int]]]:
    """Read as much text as can be used, in random order: for calibration, and held out."""
    sequences: list[list[int]] = []
    # Twice what calibration may read, so that what it reads is a sample of more than the beginning.
    room = 2 * settings.max_tokens
    for sequence in read_sequences(text, tokenizer, sequence_tokens=sequence_tokens):
        if len(sequence) < 2:
            continue
        sequences.append(sequence)
        room -= len(sequence)
        if room <= 0:
            break
    if len(sequences) < 2:
        raise ConfigError(
            f"{text} has {len(sequences)} sequences of text; calibration needs at least 2, one of "
            "them to measure the result. Give a longer text."
        )
    random.Random(0).shuffle(sequences)
    count = max(1, min(_MAX_HELD_OUT, round(_HELD_OUT_SHARE * len(sequences))))
    return sequences[count:], sequences[:count]
