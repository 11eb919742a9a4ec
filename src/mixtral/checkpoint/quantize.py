"""Quantise a model while it streams by: one matrix at a time, however large the model is.

``quantized_tensors`` turns a stream of weights into a stream of packed matrices, for a model that
goes into memory. ``quantize_checkpoint`` writes a packed folder from a model folder or a GGUF file,
and ``write_packed`` from any stream. A packed folder is a normal one of the Hugging Face layout,
sharded, with ``.packed`` tensors, ``quantization_config`` in config.json and sha256 sums in
checksums.json.

``quantize_checkpoint`` may be killed at any time. The next call with the same arguments takes over
the shards that are finished (``packed_shards``); source files that changed, another recipe or
another version of this program make it start over. Equal sources give equal bytes, always.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mixtral import __version__
from mixtral.checkpoint.containers import STORED_DTYPES, cast
from mixtral.checkpoint.folder import CHECKSUMS_FILE
from mixtral.checkpoint.names import HEAD, canonical_shapes, list_tensors
from mixtral.checkpoint.packed_names import PackedTensor, packed_tensors
from mixtral.checkpoint.packed_shards import PackedShards, Shard, plan_shards
from mixtral.checkpoint.packing_source import PackableSource, open_packable
from mixtral.checkpoint.staging import staged, write_json
from mixtral.config import DType, ModelConfig
from mixtral.errors import CheckpointError, ConfigError
from mixtral.kernels.formats import GRIDS, SCALE_FACTORS
from mixtral.kernels.low_bit import check_weight
from mixtral.kernels.quantize import quantize
from mixtral.quantization import (
    PANEL_ROWS,
    QuantizationRecipe,
    is_low_bit,
    kept_dtype,
    packed_shape,
)

TOOL = f"mixtral {__version__}"
"""What config.json names as the maker of a packed checkpoint."""

# A process that is killed loses the work on one shard: half a minute.
_MAX_SHARD_BYTES = 5 * 10**8
_SLAB_WEIGHTS = 1 << 24


def quantized_tensors(
    tensors: Iterable[tuple[str, Tensor]], config: ModelConfig, recipe: QuantizationRecipe
) -> Iterator[tuple[str, Tensor]]:
    """Turn weights into what a packed model of this recipe holds, one at a time.

    Weights of quantised parts become ``NAME.packed``, [panels, bytes of a panel], uint8; the
    embedding becomes bfloat16; norms and router stay as they are, float16 ones as float32. A tied
    head comes packed after the embedding. What is packed already passes through.

    Args:
        tensors: Our names and the weights, in any order, each once.
        config: The model before packing.
        recipe: Formats of its parts.

    Raises:
        CheckpointError: A tensor does not belong to the model, comes twice, is missing, has another
            shape, or holds a value that is not finite.
    """
    for planned, value in _planned(tensors, config, packed_tensors(config, recipe)):
        if planned.format is None:
            dtype = kept_dtype(str(value.dtype).removeprefix("torch."))
            yield planned.name, _cast_finite(value, STORED_DTYPES[dtype], planned.name)
        else:
            yield planned.name, _convert(planned, value)
        del value  # Before the stream makes the next one.


def packed_config(config: ModelConfig) -> ModelConfig:
    """Return the config of a model after packing: its head is a matrix of its own."""
    return config.replace(tie_word_embeddings=False, dtype="bfloat16")


def quantize_checkpoint(
    source: Path,
    target: Path,
    recipe: QuantizationRecipe,
    *,
    name: str | None = None,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a packed checkpoint of a model, tokenizer files included.

    Args:
        source: A model folder of any layout, unquantised or packed with the same recipe; or a GGUF
            file.
        target: The folder to write; it must not exist, or be empty.
        recipe: Formats of the parts.
        name: What config.json calls the source; None is the name of the folder or file.
        max_shard_bytes: Largest size of a shard's tensors; a larger tensor gets its own shard.
        on_bytes: Called with the number of bytes each time some are on their way to disk, or are
            found to be there.

    Raises:
        CheckpointError: The source is wrong or packed with another recipe, or the target cannot
            be written.
    """
    opened = open_packable(source, recipe)
    config = opened.config
    recipe = opened.recipe or recipe.made_from(name or source.resolve().name, tool=TOOL)
    shards = plan_shards(packed_tensors(config, recipe, opened.dtypes), max_shard_bytes)
    fingerprint = _fingerprint(opened, recipe, shards)
    with staged(target, fingerprint=fingerprint) as staging:
        files = PackedShards(staging, shards, fingerprint=fingerprint, on_bytes=on_bytes)
        todo = [t for shard in shards if not files.is_finished(shard) for t in shard.tensors]
        stream = opened.tensors([t.name if opened.recipe else t.source for t in todo])
        with files:
            for planned in todo:
                _, value = next(stream)
                files.write(planned, _convert(planned, value))
                del value  # Before the stream makes the next one.
        opened.copy_tokenizer(staging)
        _write_description(staging, files, packed_config(config), recipe)


def write_packed(
    target: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    recipe: QuantizationRecipe,
    *,
    kept: DType = "float32",
    dtypes: Mapping[str, str] | None = None,
    add_tokenizer: Callable[[Path], None] | None = None,
    finish: Callable[[Path], None] | None = None,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a packed checkpoint from a stream; a job that is stopped starts over.

    Args:
        target: The folder to write; it must not exist, or be empty.
        config: The model before packing; after it, where a tied head comes packed already.
        tensors: Weights or packed matrices, as for ``quantized_tensors``.
        recipe: Formats of the parts; its ``origin`` says how the weights were made.
        kept: Type in which norms and routers are stored; float32 holds those of any stream.
        dtypes: Our names and the types of those that are stored in another one than ``kept``.
        add_tokenizer: Puts the files of a tokenizer into the folder it gets.
        finish: Called with the folder when it is whole, before it gets its name; what it writes
            there belongs to the checkpoint.
        max_shard_bytes: Largest size of a shard's tensors; a larger tensor gets its own shard.
        on_bytes: Called with the number of bytes each time some are on their way to disk.

    Raises:
        CheckpointError: A tensor is missing or wrong, or the target cannot be written.
    """
    planned = packed_tensors(config.replace(dtype=kept), recipe, dtypes)
    shards = plan_shards(planned, max_shard_bytes)
    with staged(target) as staging:
        files = PackedShards(staging, shards, fingerprint=None, on_bytes=on_bytes)
        with files:
            for tensor, value in _planned(tensors, config, planned):
                files.write(tensor, _convert(tensor, value))
                del value
        if add_tokenizer is not None:
            add_tokenizer(staging)
        _write_description(staging, files, packed_config(config), recipe)
        if finish is not None:
            finish(staging)


def _planned(
    tensors: Iterable[tuple[str, Tensor]], config: ModelConfig, planned: Sequence[PackedTensor]
) -> Iterator[tuple[PackedTensor, Tensor]]:
    """Pair each tensor that is to be with what it is made from, in the order of the stream."""
    shapes = canonical_shapes(config)
    missing = {tensor.name: tensor for tensor in planned}
    wanted: dict[str, list[PackedTensor]] = {}
    for tensor in planned:
        wanted.setdefault(tensor.source, []).append(tensor)
        if tensor.name != tensor.source:
            wanted[tensor.name] = [tensor]
    for name, value in tensors:
        if name == HEAD and config.tie_word_embeddings:
            continue
        made = wanted.get(name, [])
        if not made or made[0].name not in missing:
            reason = "comes twice" if made else "does not belong to this model"
            raise CheckpointError(f"tensor {name} {reason}; nothing was written.")
        if name == made[0].source and tuple(value.shape) != shapes[name]:
            raise CheckpointError(
                f"tensor {name} has shape {list(value.shape)}; the config says "
                f"{list(shapes[name])}. Nothing was written."
            )
        for tensor in made:
            del missing[tensor.name]
            yield tensor, value
        del value  # Before the stream makes the next one.
    if missing:
        raise CheckpointError(f"the model lacks {list_tensors(missing)}. Nothing was written.")


def _convert(planned: PackedTensor, value: Tensor) -> Tensor:
    """Return a tensor as it is stored, from a weight or from what was stored so before."""
    wanted = STORED_DTYPES[planned.dtype]
    if not is_low_bit(planned.format):
        return _cast_finite(value, wanted, planned.source)
    if value.dtype == wanted:
        if tuple(value.shape) != planned.shape:
            raise CheckpointError(
                f"tensor {planned.name} has shape {list(value.shape)}; {planned.format} needs "
                f"{list(planned.shape)}."
            )
        return value
    try:
        return _quantize_in_slabs(value, planned.format)
    except ConfigError as error:
        raise CheckpointError(f"tensor {planned.source} cannot be packed: {error}") from error


def _cast_finite(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Convert what stays unpacked; it is refused by name and place, as matrices are."""
    converted = cast(value, dtype, name)
    is_finite = converted.isfinite()
    if not is_finite.all():
        place = (~is_finite).nonzero()[0].tolist()
        raise CheckpointError(
            f"tensor {name} cannot be packed: {place} is {value[tuple(place)].item()}, in "
            f"{str(dtype).removeprefix('torch.')} {converted[tuple(place)].item()}; "
            f"{int((~is_finite).sum())} of {value.numel()} values are not finite numbers. "
            "Check the checkpoint's source."
        )
    return converted


def _quantize_in_slabs(weight: Tensor, format_name: str) -> Tensor:
    """Quantise some panels at a time: the quantiser's float32 copy of a large head has 0.5 GB."""
    rows, columns = weight.shape
    packed = torch.empty(packed_shape(format_name, rows, columns), dtype=torch.uint8)
    panels = max(1, _SLAB_WEIGHTS // columns // PANEL_ROWS)
    try:
        for panel in range(0, packed.shape[0], panels):
            slab = weight[panel * PANEL_ROWS : (panel + panels) * PANEL_ROWS]
            packed[panel : panel + panels] = quantize(slab, format_name)
    except ConfigError:
        check_weight(weight)  # Counts its rows from the first one of the matrix.
        raise
    return packed


def _fingerprint(
    source: PackableSource, recipe: QuantizationRecipe, shards: Sequence[Shard]
) -> str:
    """Return a sum over everything that the bytes of the packed files depend on."""
    stats = {str(path.resolve()): path.stat() for path in source.files}
    depends_on = {
        "tool": TOOL,
        "grids": [dict(GRIDS), dict(SCALE_FACTORS)],
        "quantization": recipe.to_json(),
        "config": source.config.to_hf(),
        "files": sorted((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()),
        "headers": [hashlib.sha256(shard.header).hexdigest() for shard in shards],
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _write_description(
    folder: Path, files: PackedShards, config: ModelConfig, recipe: QuantizationRecipe
) -> None:
    """Write everything that is not weights, the config last: with it, the folder loads."""
    sums = {file: files.sums[file] for file in sorted(files.sums)}
    if len(sums) > 1:
        weight_map = {name: file for file in sums for name in sums[file]}
        index = {
            "metadata": {"total_size": files.num_tensor_bytes},
            "weight_map": dict(sorted(weight_map.items())),
        }
        write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / CHECKSUMS_FILE, sums)
    write_json(folder / "config.json", config.to_hf() | {"quantization_config": recipe.to_json()})
    files.forget_progress()
