"""What can be packed: a model folder of any layout, or a GGUF file, seen as one thing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mixtral.checkpoint.reader import Checkpoint, open_checkpoint
from mixtral.checkpoint.staging import copy_tokenizer
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from mixtral.gguf_file.block_types import STORED_DTYPES
from mixtral.quantization import QuantizationRecipe

if TYPE_CHECKING:
    from mixtral.checkpoint.gguf import GgufCheckpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class PackableSource:
    """An opened and validated source of weights; none is in memory yet."""

    config: ModelConfig
    """The model."""
    recipe: QuantizationRecipe | None
    """How it is packed already; None where it is not."""
    files: tuple[Path, ...]
    """Its files of weights."""
    dtypes: Mapping[str, str]
    """Our names and the dtypes in which the tensors come."""
    copy_tokenizer: Callable[[Path], None]
    """Puts the files of its tokenizer into a folder."""
    checkpoint: "Checkpoint | GgufCheckpoint"
    """The source itself."""

    def tensors(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield tensors of these names in this order; pages are given back as it goes on."""
        return self.checkpoint.tensors(keep=False, names=names)


def open_packable(path: Path, recipe: QuantizationRecipe) -> PackableSource:
    """Open a model folder or a GGUF file to pack it.

    Raises:
        CheckpointError: Anything about the files is wrong, or they are packed in another way.
    """
    if path.is_file() and path.suffix == ".gguf":
        return _gguf_source(path)
    checkpoint = open_checkpoint(path)
    refuse_repacking(checkpoint, recipe)
    return PackableSource(
        config=checkpoint.config,
        recipe=checkpoint.recipe,
        files=tuple({file.path for file, _ in checkpoint.found.values()}),
        dtypes={
            piece.ours: stored.dtype
            for name, (_, stored) in checkpoint.found.items()
            for piece in checkpoint.expected[name].pieces
        },
        copy_tokenizer=partial(copy_tokenizer, path),
        checkpoint=checkpoint,
    )


def refuse_repacking(checkpoint: Checkpoint, recipe: QuantizationRecipe) -> None:
    """Check that weights are unquantised, or packed as they are wanted.

    Raises:
        CheckpointError: They are packed in another way.
    """
    if checkpoint.recipe is not None and checkpoint.recipe != recipe:
        raise CheckpointError(
            f"{checkpoint.path} is packed as {checkpoint.recipe.name} and {recipe.name} is wanted; "
            "rounding twice would cost quality. Quantise the model that it was made from."
        )


def _gguf_source(path: Path) -> PackableSource:
    from mixtral.checkpoint.gguf import copy_gguf_tokenizer, open_gguf  # Slow to import.

    checkpoint = open_gguf(path)
    kinds = {name: tensor.kind.name for name, tensor in checkpoint.file.tensors.items()}
    return PackableSource(
        config=checkpoint.config,
        recipe=None,
        files=tuple({tensor.path for tensor in checkpoint.file.tensors.values()}),
        dtypes={
            ours: STORED_DTYPES.get(kinds[place.name], "float32")
            for ours, place in checkpoint.places.items()
        },
        copy_tokenizer=partial(copy_gguf_tokenizer, checkpoint),
        checkpoint=checkpoint,
    )
