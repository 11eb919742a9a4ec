"""Write a checkpoint as a stream: Hugging Face shards or one Mistral file.

Tensors go to disk one at a time as they arrive, in the order they arrive, so memory holds one
tensor however large the model is. A safetensors file begins with its table of contents, which is
not known before the last tensor; room for it is left at the front and what stays over is filled
with spaces, as the format allows.

A model folder appears whole or not at all (see ``staging``); its config is written last.
"""

import json
import logging
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args
from typing import cast as cast_type

import torch
from torch import Tensor

from mixtral.checkpoint.containers import DTYPES, SAFETENSORS_DTYPES, cast
from mixtral.checkpoint.names import (
    EMBEDDING,
    HEAD,
    arrange,
    canonical_shapes,
    list_tensors,
    stored_names,
)
from mixtral.checkpoint.reader import open_checkpoint
from mixtral.checkpoint.staging import copy_tokenizer, staged, write_json
from mixtral.config import DType, ModelConfig
from mixtral.errors import CheckpointError, TokenizerError
from mixtral.tokenizer import has_tokenizer
from mixtral.tokenizer.hugging_face import write_hugging_face_tokenizer

logger = logging.getLogger(__name__)

WrittenLayout = Literal["hf", "consolidated"]

_CODES = {name: code for code, name in SAFETENSORS_DTYPES.items()}
# An entry of the header without its name and shape: dtype, keys, and two offsets below 10^13.
_ENTRY_BYTES = 80
# Written in pieces, so that progress moves and Ctrl-C is heard inside a large tensor.
_CHUNK_BYTES = 1 << 26


def write_checkpoint(
    folder: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    layout: WrittenLayout,
    max_shard_bytes: int = 5 * 10**9,
    dtype: torch.dtype | None = None,
    add_tokenizer: Callable[[Path], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a model folder: config and weights, and a tokenizer where one is added.

    Args:
        folder: The target; it must not exist, or be empty.
        config: The model; its ``dtype`` is replaced by the one written.
        tensors: Our names and the tensors, in any order, on any device. A tied head may be there
            or not; it is the embedding either way.
        layout: "hf" writes config.json and model.safetensors, in shards with an index when they
            are larger than ``max_shard_bytes``; "consolidated" writes params.json in Mistral's
            spelling and one consolidated.safetensors, with a copy of the embedding as head where
            they are tied, because that format has no word for it.
        max_shard_bytes: Largest size of a shard's tensors; a larger tensor gets its own shard.
        dtype: Convert to this type; None keeps each tensor's own.
        add_tokenizer: Puts the files of a tokenizer into the folder it gets, before the weights;
            in the layout "hf" those that transformers reads come beside them.
        on_bytes: Called with the number of bytes each time some are on their way to disk.

    Raises:
        CheckpointError: The target is in use, the disk is full, or a tensor is missing, unknown,
            given twice or of a wrong shape or type.
    """
    with staged(folder) as staging:
        if add_tokenizer is not None:
            add_tokenizer(staging)
            if layout == "hf":
                _add_hugging_face_tokenizer(staging)
        _write(
            staging,
            config,
            tensors,
            layout=layout,
            max_shard_bytes=max_shard_bytes,
            dtype=dtype,
            on_bytes=on_bytes,
        )


def convert(
    source: Path,
    target: Path,
    *,
    layout: WrittenLayout,
    dtype: torch.dtype | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write the checkpoint of one folder to another in a given layout, tokenizer files included.

    Raises:
        CheckpointError: The source is wrong or packed, or the target cannot be written.
    """
    checkpoint = open_checkpoint(source)
    if checkpoint.recipe is not None:
        raise CheckpointError(
            f"{source} is packed as {checkpoint.recipe.name}; only unquantized weights can be "
            "written in another layout or precision. Convert the model that it was made from."
        )
    write_checkpoint(
        target,
        checkpoint.config,
        checkpoint.tensors(keep=False),
        layout=layout,
        dtype=dtype,
        add_tokenizer=partial(copy_tokenizer, source),
        on_bytes=on_bytes,
    )


def _add_hugging_face_tokenizer(folder: Path) -> None:
    """Put beside Mistral's tokenizer the files that transformers wants; weights alone are fine."""
    if not has_tokenizer(folder):
        return
    try:
        write_hugging_face_tokenizer(folder)
    except TokenizerError as error:
        logger.warning("%s; other programs will find no tokenizer beside the weights.", error)


def _require_free_disk(folder: Path, config: ModelConfig, layout: str, dtype: DType) -> None:
    needed = config.weight_bytes(dtype)
    if layout == "consolidated":
        needed = config.replace(tie_word_embeddings=False).weight_bytes(dtype)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder.parent} has {free / 1e6:,.1f} MB free; the checkpoint in {dtype} needs "
            f"{needed / 1e6:,.1f} MB. Free some space or choose another disk."
        )


def _write(
    staging: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    layout: WrittenLayout,
    max_shard_bytes: int,
    dtype: torch.dtype | None,
    on_bytes: Callable[[int], None] | None,
) -> None:
    if layout not in get_args(WrittenLayout):
        raise CheckpointError(
            f"layout is {layout!r}; it must be one of {', '.join(get_args(WrittenLayout))}."
        )
    _require_free_disk(staging, config, layout, _dtype_name(dtype) if dtype else config.dtype)
    limit = max_shard_bytes if layout == "hf" else float("inf")
    shards = _Shards(staging, config, layout, limit, on_bytes or (lambda count: None))
    try:
        for name, tensor in _checked(config, tensors):
            shards.write(name, cast(tensor, dtype, name) if dtype else tensor)
    finally:
        shards.close()
    config = config.replace(dtype=shards.main_dtype())
    if layout == "hf":
        shards.name_hf_files()
        write_json(staging / "config.json", config.to_hf())
    else:
        shards.paths[0].rename(staging / "consolidated.safetensors")
        write_json(staging / "params.json", config.to_params_json())
        if (ids := (config.bos_token_id, config.eos_token_id)) != (1, 2):
            logger.warning(
                "params.json has no word for bos_token_id %d and eos_token_id %d; whoever reads it "
                "takes 1 and 2",
                *ids,
            )


def _checked(
    config: ModelConfig, tensors: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Pass on each tensor of the model once; complain of any other, and of a missing one."""
    missing = canonical_shapes(config)
    seen: set[str] = set()
    for name, tensor in tensors:
        if name == HEAD and config.tie_word_embeddings:
            continue
        if name not in missing:
            reason = "is given twice" if name in seen else "does not belong to this model"
            raise CheckpointError(f"tensor {name} {reason}; nothing was written.")
        if tuple(tensor.shape) != missing[name]:
            raise CheckpointError(
                f"tensor {name} has shape {list(tensor.shape)}; the config says "
                f"{list(missing[name])}. Nothing was written."
            )
        _dtype_name(tensor.dtype, name)
        seen.add(name)
        del missing[name]
        yield name, tensor
    if missing:
        raise CheckpointError(f"the model lacks {list_tensors(missing)}. Nothing was written.")


class _Shards:
    """The files of weights under way: starts a new one when the current one is full."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        layout: WrittenLayout,
        max_bytes: float,
        on_bytes: Callable[[int], None],
    ) -> None:
        self.paths: list[Path] = []
        self._folder, self._config, self._layout = folder, config, layout
        self._max_bytes, self._on_bytes = max_bytes, on_bytes
        self._names = stored_names(config, layout)
        # What the header of one file takes if all tensors to come go into it.
        self._header_room = sum(
            _ENTRY_BYTES + len(json.dumps(self._names[name][0])) + len(json.dumps(shape))
            for name, shape in canonical_shapes(config.replace(tie_word_embeddings=False)).items()
        )
        self._weight_map: dict[str, str] = {}
        self._bytes_by_dtype: Counter[str] = Counter()
        self._file: _SafetensorsFile | None = None

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one of our tensors in the layout's arrangement, and a tied head after it."""
        stored, cut = self._names[name]
        self._write_stored(stored, arrange(tensor, cut, self._config))
        is_tied = self._config.tie_word_embeddings
        if name == EMBEDDING and is_tied and self._layout == "consolidated":
            self._write_stored(self._names[HEAD][0], tensor)

    def _write_stored(self, name: str, tensor: Tensor) -> None:
        if self._file is not None and self._file.num_bytes + tensor.nbytes > self._max_bytes:
            self.close()
        if self._file is None:
            self.paths.append(self._folder / f"{len(self.paths) + 1}.safetensors")
            self._file = _SafetensorsFile(self.paths[-1], self._header_room)
        self._file.write(name, tensor, self._on_bytes)
        self._weight_map[name] = self.paths[-1].name
        self._bytes_by_dtype[_dtype_name(tensor.dtype)] += tensor.nbytes

    def close(self) -> None:
        """Finish the current file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def main_dtype(self) -> DType:
        """Return the type of most of the bytes written."""
        return cast_type(DType, self._bytes_by_dtype.most_common(1)[0][0])

    def name_hf_files(self) -> None:
        """Give the files the names of Hugging Face, and write the index if there are several."""
        total = len(self.paths)
        if total == 1:
            self.paths[0].rename(self._folder / "model.safetensors")
            return
        names = {
            path.name: f"model-{number:05d}-of-{total:05d}.safetensors"
            for number, path in enumerate(self.paths, start=1)
        }
        for path in self.paths:
            path.rename(self._folder / names[path.name])
        index = {
            "metadata": {"total_size": self._bytes_by_dtype.total()},
            "weight_map": {name: names[file] for name, file in sorted(self._weight_map.items())},
        }
        write_json(self._folder / "model.safetensors.index.json", index)


class _SafetensorsFile:
    """One safetensors file that is written from front to back, its header last."""

    def __init__(self, path: Path, header_room: int) -> None:
        self.num_bytes = 0
        self._header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        room = header_room + _ENTRY_BYTES
        self._header_bytes = -(-(8 + room) // 64) * 64 - 8  # 64: the first tensor starts a line.
        self._file = path.open("wb")
        self._file.seek(8 + self._header_bytes)

    def write(self, name: str, tensor: Tensor, on_bytes: Callable[[int], None]) -> None:
        """Append one tensor."""
        begin, self.num_bytes = self.num_bytes, self.num_bytes + tensor.nbytes
        self._header[name] = {
            "dtype": _CODES[_dtype_name(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, self.num_bytes],
        }
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        for start in range(0, flat.numel(), _CHUNK_BYTES):
            on_bytes(self._file.write(flat[start : start + _CHUNK_BYTES].numpy().data))

    def close(self) -> None:
        """Write the header, and wait until all is on disk."""
        with self._file as file:
            text = json.dumps(self._header, separators=(",", ":")).encode()
            file.seek(0)
            file.write(struct.pack("<Q", self._header_bytes))
            file.write(text.ljust(self._header_bytes))
            file.flush()
            os.fsync(file.fileno())


def _dtype_name(dtype: torch.dtype, tensor: str = "") -> DType:
    for name, known in DTYPES.items():
        if known is dtype:
            return cast_type(DType, name)
    of = f" of tensor {tensor}" if tensor else ""
    raise CheckpointError(f"dtype{of} is {dtype}; it must be one of {', '.join(DTYPES)}.")
