"""Open a checkpoint of any layout and stream its tensors under our names.

Opening reads the config and the descriptions of the files, and compares them to the last tensor:
name, shape, type and place. Whatever is wrong is reported before a weight is read, which takes
milliseconds for a model of 93 GB. Streaming then goes through the files from front to back. A
tensor that is stored as we use it comes as a view of the memory map, so that a loaded model takes
the room of its file and no more; one that has to be rearranged or converted is a fresh tensor, made
one at a time, and the pages it came from are given back.

This module does not know the model: it yields pairs of name and tensor.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast as cast_type

import torch
from torch import Tensor

from mixtral.checkpoint.containers import (
    DTYPES,
    StoredTensor,
    WeightFile,
    cast,
    open_weight_file,
)
from mixtral.checkpoint.folder import ModelFolder, read_model_folder
from mixtral.checkpoint.names import (
    EMBEDDING,
    HEAD,
    ExpectedTensor,
    Layout,
    Piece,
    describe_shape,
    detect_layout,
    expected_tensors,
    expert_of,
    extract,
    is_harmless_extra,
    layer_of,
    list_tensors,
)
from mixtral.checkpoint.packed_names import expected_packed
from mixtral.config import DType, ModelConfig
from mixtral.errors import CheckpointError
from mixtral.quantization import QuantizationRecipe, is_low_bit

_SAME_MODEL = "Check that {file} and all files of weights come from the same model."
# Up to here the full comparison takes no time, and names the first tensor that is wrong.
_MOST_EXPERTS = 1000
_Found = Mapping[str, tuple[WeightFile, StoredTensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An opened and validated checkpoint; no weight is in memory yet."""

    path: Path
    """The folder."""
    layout: Layout
    """How the tensors are named and arranged."""
    config: ModelConfig
    """The model; its ``dtype`` is the one found in the files."""
    dtype: DType
    """The type of most of the stored weights; packed matrices are not counted."""
    num_bytes: int
    """Bytes of the weights on disk."""
    found: _Found
    """Where each stored tensor is, in the order of the files."""
    expected: Mapping[str, ExpectedTensor]
    """What each stored tensor holds."""
    recipe: QuantizationRecipe | None = None
    """How the matrices are packed; None where they are not."""

    def tensors(
        self,
        *,
        dtype: torch.dtype | None = None,
        keep: bool = True,
        names: Iterable[str] | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield our name and the tensor, in the order of the files; a tied head is left out.

        Tensors are contiguous, on the CPU, and may be written to: views are of a private map, so
        the files never change. A packed matrix comes as its bytes, uint8, under ``NAME.packed``.

        Args:
            dtype: Convert to this type; None keeps each tensor's own. Packed matrices stay.
            keep: Whether tensors are used after the next one is asked for. False gives their pages
                back as the stream goes on, so that passing through a model takes no memory.
            names: Our names of the tensors wanted, in the order wanted; None is all of them.

        Raises:
            CheckpointError: The config ties head and embedding and the stored ones differ, or a
                value does not fit into float16.
        """
        if self.config.tie_word_embeddings:
            self._require_equal_head()
        for name, pieces in self._all_pieces() if names is None else self._pieces_of(names):
            file, stored = self.found[name]
            whole = file.read(stored)
            is_view = False
            for piece in pieces:
                if piece.ours == HEAD and self.config.tie_word_embeddings:
                    continue
                tensor = extract(whole, piece, self.config)
                if dtype is not None and not is_low_bit(self.expected[name].format):
                    tensor = cast(tensor, dtype, piece.ours)
                is_view |= tensor.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
                yield piece.ours, tensor
                del tensor
            del whole
            if not (is_view and keep):
                file.release(stored)

    def _all_pieces(self) -> Iterator[tuple[str, tuple[Piece, ...]]]:
        for name in self.found:
            yield name, self.expected[name].pieces

    def _pieces_of(self, names: Iterable[str]) -> Iterator[tuple[str, tuple[Piece, ...]]]:
        places = {p.ours: (name, (p,)) for name, pieces in self._all_pieces() for p in pieces}
        for name in names:
            yield places[name]

    def _require_equal_head(self) -> None:
        stored = {piece.ours: name for name, e in self.expected.items() for piece in e.pieces}
        if stored[HEAD] not in self.found:
            return
        file, head = self.found[stored[HEAD]]
        embedding_file, embedding = self.found[stored[EMBEDDING]]
        if file is embedding_file and head.offset == embedding.offset and head.loaded is None:
            return
        if not torch.equal(file.read(head), embedding_file.read(embedding)):
            raise CheckpointError(
                f"{file.path}: tensor {head.name} differs from {embedding.name}, but the config "
                "has tie_word_embeddings true; set it to false if the weights are right."
            )


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a model folder and check every tensor's description against the config.

    Raises:
        CheckpointError: Anything about the files is wrong; the message names file and tensor.
        ConfigError: The config has a field outside its allowed values.
    """
    folder = read_model_folder(path)
    files = [open_weight_file(file) for file in folder.files]
    found: dict[str, tuple[WeightFile, StoredTensor]] = {}
    for file in files:
        # The eight-file release is a dict.update of its files, so a later one wins here, too.
        ordered = sorted(file.tensors.values(), key=lambda stored: stored.offset)
        found |= {stored.name: (file, stored) for stored in ordered}
    _check_index(folder, {file.path.name: file for file in files})
    recipe = folder.recipe
    layout = detect_layout(found) if recipe is None else "hf"
    if layout is None:
        listed = ", ".join(list(found)[:3]) or "none at all"
        raise CheckpointError(
            f"{folder.files[0]} holds no tensor of a Mixtral (its names: {listed}); "
            "is this another model, or a LoRA adapter?"
        )
    _check_counts(found, folder)
    if recipe is not None and folder.config.tie_word_embeddings:
        raise CheckpointError(
            f"{folder.config_file} has quantization_config and tie_word_embeddings true, but a "
            "packed head is a matrix of its own. Take the file that was written with the weights."
        )
    expected = (
        expected_tensors(folder.config, layout)
        if recipe is None
        else expected_packed(folder.config, recipe)
    )
    found = _without_extras(found, expected, folder)
    _check_missing(found, expected, folder)
    for name, (file, stored) in found.items():
        _check_tensor(file.path, stored, expected[name], folder)
    dtype = _main_dtype(found)
    return Checkpoint(
        path=path,
        layout=layout,
        config=folder.config.replace(dtype=dtype),
        dtype=dtype,
        num_bytes=sum(stored.num_bytes for _, stored in found.values()),
        found=found,
        expected=expected,
        recipe=recipe,
    )


def _check_index(folder: ModelFolder, files: Mapping[str, WeightFile]) -> None:
    for tensor, file in folder.weight_map.items():
        if tensor not in files[file].tensors:
            raise CheckpointError(
                f"{folder.index} says that tensor {tensor} is in {file}, which does not hold it; "
                "index and files are of different models. Download both again."
            )


def _check_counts(found: _Found, folder: ModelFolder) -> None:
    """Refuse absurd counts before a list of all expected tensors is made, which has no end then."""
    config, file = folder.config, folder.config_file
    if config.num_hidden_layers > len(found):
        raise CheckpointError(
            f"{file} has num_hidden_layers {config.num_hidden_layers}, but there are only "
            f"{len(found)} tensors. {_SAME_MODEL.format(file=file.name)}"
        )
    gates = [stored.shape for name, (_, stored) in found.items() if name.endswith("gate.weight")]
    experts = max((shape[0] for shape in gates if shape), default=0)
    if config.num_local_experts > max(experts, _MOST_EXPERTS):
        raise CheckpointError(
            f"{file} has num_local_experts {config.num_local_experts}, but the gates have "
            f"{experts} rows. {_SAME_MODEL.format(file=file.name)}"
        )


def _without_extras(
    found: dict[str, tuple[WeightFile, StoredTensor]],
    expected: Mapping[str, ExpectedTensor],
    folder: ModelFolder,
) -> dict[str, tuple[WeightFile, StoredTensor]]:
    extra = [name for name in found if name not in expected and not is_harmless_extra(name)]
    if extra:
        name = extra[0]
        more = f", nor do {len(extra) - 1} more" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{found[name][0].path}: tensor {name} does not belong to this model{more}. "
            + _hint(found, folder)
        )
    return {name: place for name, place in found.items() if name in expected}


def _check_missing(
    found: _Found, expected: Mapping[str, ExpectedTensor], folder: ModelFolder
) -> None:
    is_tied = folder.config.tie_word_embeddings
    missing = [
        name
        for name, e in expected.items()
        if name not in found and not (is_tied and e.pieces[0].ours == HEAD)
    ]
    if not missing:
        return
    hint = _hint(found, folder)
    if len(missing) == 1 and expected[missing[0]].pieces[0].ours == HEAD:
        hint = f"If it is the embedding, set tie_word_embeddings true in {folder.config_file.name}."
    raise CheckpointError(f"{folder.path} lacks {list_tensors(missing)}. {hint}")


def _hint(found: _Found, folder: ModelFolder) -> str:
    """Say which field of the config disagrees with the names found, where that is visible."""
    config, file = folder.config, folder.config_file.name
    if folder.recipe is None and any(name.endswith(".packed") for name in found):
        return f"These weights are packed, but {file} has no quantization_config."
    layers = 1 + max((layer_of(name) or 0 for name in found), default=0)
    if layers != config.num_hidden_layers:
        return (
            f"{file} has num_hidden_layers {config.num_hidden_layers}; "
            f"the weights have {layers} layers."
        )
    experts = [e for name in found if (e := expert_of(name)) is not None]
    if experts and 1 + max(experts) != config.num_local_experts:
        return (
            f"{file} has num_local_experts {config.num_local_experts}; "
            f"the weights have {1 + max(experts)} experts."
        )
    return _SAME_MODEL.format(file=file)


def _check_tensor(
    path: Path, stored: StoredTensor, expected: ExpectedTensor, folder: ModelFolder
) -> None:
    of_format = expected.format
    wanted = "uint8" if is_low_bit(of_format) else of_format
    if wanted not in (None, stored.dtype):
        raise CheckpointError(
            f"{path}: tensor {stored.name} has dtype {stored.dtype}; quantization_config in "
            f"{folder.config_file.name} says {of_format}, which is stored as {wanted}."
        )
    if wanted is None and stored.dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {stored.name} has dtype {stored.dtype}; "
            f"it must be one of {', '.join(DTYPES)}. Use the unquantized weights."
        )
    if stored.shape != expected.shape:
        says = describe_shape(expected.letters, folder.config)
        if is_low_bit(of_format):
            says += f", in {of_format} {list(expected.shape)}"
        raise CheckpointError(
            f"{path}: tensor {stored.name} has shape {list(stored.shape)}; "
            f"{folder.config_file.name} says {says}."
        )


def _main_dtype(found: _Found) -> DType:
    sizes: Counter[str] = Counter()
    for _, stored in found.values():
        if stored.dtype in DTYPES:
            sizes[stored.dtype] += stored.num_bytes
    return cast_type(DType, sizes.most_common(1)[0][0])
