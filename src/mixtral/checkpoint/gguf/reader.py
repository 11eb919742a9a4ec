"""Open a GGUF file and stream its weights under our names.

Opening compares every tensor's name and shape with the geometry in the metadata, so that whatever
is wrong is reported before a weight is read. Streaming goes through the file from front to back,
one matrix at a time, an expert of a merged tensor being one: memory holds that matrix, in the
dtype asked for. Weights stored plainly in that dtype are views of the memory map and take none.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mixtral.checkpoint.containers import StoredTensor, WeightFile, cast
from mixtral.checkpoint.gguf.blocks import decode_blocks
from mixtral.checkpoint.gguf.names import Place, experts_in, places
from mixtral.checkpoint.names import Cut, Piece, extract, list_tensors
from mixtral.config import DType, ModelConfig
from mixtral.errors import CheckpointError
from mixtral.gguf_file.block_types import STORED_DTYPES
from mixtral.gguf_file.container import GgufFile, GgufTensor, read_gguf
from mixtral.gguf_file.model_config import config_of


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufCheckpoint:
    """An opened and validated GGUF file; no weight is in memory yet."""

    path: Path
    """The file, or the named part of a split one."""
    config: ModelConfig
    """The model; its ``dtype`` is the one found, bfloat16 for weights in blocks with scales."""
    dtype: DType
    """The same."""
    num_bytes: int
    """Bytes of the weights on disk."""
    file: GgufFile
    """Metadata and descriptions."""
    places: Mapping[str, Place]
    """Where each of our tensors is."""

    def tensors(
        self,
        *,
        dtype: torch.dtype | None = None,
        keep: bool = True,
        names: Iterable[str] | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield our name and the tensor, in the order of the file; a tied head is left out.

        Tensors are contiguous, on the CPU, and may be written to; the file never changes.

        Args:
            dtype: Convert to this type. None keeps float32, float16 and bfloat16 as they are and
                gives float32 for blocks with scales, which is exact.
            keep: Whether tensors are used after the next one is asked for; False gives the pages
                of the file back as the stream goes on.
            names: Our names of the tensors wanted, in the order wanted; None is all of them.

        Raises:
            CheckpointError: A weight is infinite or NaN, or does not fit into float16.
        """
        maps: dict[Path, WeightFile] = {}
        for ours in sorted(self.places, key=self._position) if names is None else names:
            place = self.places[ours]
            stored = self.file.tensors[place.name]
            part = _part(stored, place)
            source = maps.setdefault(stored.path, WeightFile(path=stored.path, tensors={}))
            tensor = _read(source, part, dtype, ours)
            is_plain = str(tensor.dtype) == f"torch.{STORED_DTYPES.get(stored.kind.name)}"
            piece = Piece(ours=ours, cut=place.cut, expert=0)
            tensor = extract(tensor, piece, self.config)
            yield ours, tensor
            del tensor
            if not (keep and is_plain and place.cut is Cut.WHOLE):
                source.release(_stored(part))

    def _position(self, ours: str) -> tuple[str, int]:
        place = self.places[ours]
        stored = self.file.tensors[place.name]
        return str(stored.path), _part(stored, place).offset


def open_gguf(path: Path) -> GgufCheckpoint:
    """Open a GGUF file of a Mixtral or Mistral and check every tensor's description.

    Raises:
        CheckpointError: The file is damaged, of another architecture, or lacks a tensor; the
            message names file and tensor.
    """
    file = read_gguf(path)
    config = config_of(file)
    expected = places(config, experts_in(file.tensors))
    shapes = {place.name: place.shape for place in expected.values()}
    _check_names(file, shapes)
    for name, shape in shapes.items():
        if file.tensors[name].shape != shape:
            raise CheckpointError(
                f"{file.tensors[name].path}: tensor {name} has shape "
                f"{list(file.tensors[name].shape)}; the metadata say {list(shape)}."
            )
    return GgufCheckpoint(
        path=path,
        config=config,
        dtype=config.dtype,
        num_bytes=sum(tensor.num_bytes for tensor in file.tensors.values()),
        file=file,
        places=expected,
    )


def _check_names(file: GgufFile, shapes: Mapping[str, tuple[int, ...]]) -> None:
    extra = [name for name in file.tensors if name not in shapes]
    if extra:
        raise CheckpointError(
            f"{file.path} has {list_tensors(extra)}, which no Mixtral or Mistral has; "
            "is it another model?"
        )
    missing = [name for name in shapes if name not in file.tensors]
    if missing:
        raise CheckpointError(
            f"{file.path} lacks {list_tensors(missing)}. Download or convert it again."
        )


def _part(stored: GgufTensor, place: Place) -> GgufTensor:
    """Describe the matrix of ours inside a stored tensor."""
    if place.expert is None:
        return stored
    shape = stored.shape[1:]
    offset = stored.offset + place.expert * stored.kind.bytes_of(shape)
    return dataclasses.replace(stored, shape=shape, offset=offset)


def _stored(part: GgufTensor) -> StoredTensor:
    """Describe it as the memory map wants it; blocks are plain bytes."""
    dtype = STORED_DTYPES.get(part.kind.name)
    shape = part.shape if dtype else (part.num_bytes,)
    return StoredTensor(
        name=part.name,
        dtype=dtype or "uint8",
        shape=shape,
        stride=(1,) if len(shape) == 1 else (shape[1], 1),
        offset=part.offset,
        num_bytes=part.num_bytes,
    )


def _read(source: WeightFile, part: GgufTensor, dtype: torch.dtype | None, ours: str) -> Tensor:
    tensor = source.read(_stored(part))
    if part.kind.name in STORED_DTYPES:
        return cast(tensor, dtype or tensor.dtype, ours)
    # A float16 that cannot hold a weight is found by cast, not by the decoder.
    exact = torch.float32 if dtype is None or dtype is torch.float16 else dtype
    values = decode_blocks(
        tensor.numpy(),
        part.kind,
        shape=part.shape,
        dtype=exact,
        where=f"{part.path}: tensor {part.name}",
    )
    return cast(values, dtype or exact, ours)
