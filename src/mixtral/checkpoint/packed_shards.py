"""Write the shards of a packed checkpoint, and go on where a stopped process left off.

Names, sizes and places of all tensors follow from config and recipe, so everything is planned
before the first one comes: which file it goes to, and at which byte. Tensors may then arrive in any
order and the files are the same to the byte. A shard is begun as ``NAME.part`` and gets its name
when its last tensor is on disk; then its sha256 sums are noted in progress.json. Another process
with the same fingerprint takes over the shards that are noted there and still have these sums.

Inside a shard the packed tensors come first. Their sizes are multiples of 64 bytes and so is the
place where the first one begins; each then starts a line of the memory map, as the kernels want.
"""

import hashlib
import json
import logging
import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import torch
from torch import Tensor

from mixtral.checkpoint.containers import SAFETENSORS_DTYPES, STORED_DTYPES
from mixtral.checkpoint.packed_names import PackedTensor
from mixtral.checkpoint.staging import PROGRESS_FILE, UNFINISHED, write_json
from mixtral.errors import CheckpointError

logger = logging.getLogger(__name__)

_CODES = {name: code for code, name in SAFETENSORS_DTYPES.items()}
# 64: bytes of a cache line and of an AVX-512 register.
_ALIGNMENT = 64
# Hashed and written in pieces, so that progress moves and Ctrl-C is heard inside a large tensor.
_CHUNK_BYTES = 1 << 24

Sums = dict[str, dict[str, str]]
"""File -> stored name -> sha256 in hexadecimal digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file as it will be."""

    file: str
    """Its name."""
    header: bytes
    """Everything before the first tensor."""
    places: Mapping[str, tuple[int, int]]
    """Stored name -> first byte in the file and number of bytes, in the order of the file."""
    tensors: tuple[PackedTensor, ...]
    """What it holds, in the order of the file."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the file."""
        return len(self.header) + self.num_tensor_bytes

    @property
    def num_tensor_bytes(self) -> int:
        """Bytes of its tensors."""
        return sum(size for _, size in self.places.values())


def plan_shards(tensors: Sequence[PackedTensor], max_shard_bytes: int) -> list[Shard]:
    """Distribute tensors over files, in order; a larger one than allowed gets its own file."""
    groups: list[list[PackedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        size = num_bytes_of(tensor)
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    total = len(groups)
    names = ["model.safetensors"]
    if total > 1:
        names = [f"model-{n:05d}-of-{total:05d}.safetensors" for n in range(1, total + 1)]
    return [_plan_shard(name, group) for name, group in zip(names, groups, strict=True)]


def num_bytes_of(tensor: PackedTensor) -> int:
    """Return the bytes of a tensor as stored."""
    return torch.Size(tensor.shape).numel() * STORED_DTYPES[tensor.dtype].itemsize


def _plan_shard(file: str, tensors: Sequence[PackedTensor]) -> Shard:
    ordered = sorted(tensors, key=lambda tensor: tensor.dtype != "uint8")
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        begin, end = end, end + num_bytes_of(tensor)
        entries[tensor.stored] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    length = -(-(8 + len(text)) // _ALIGNMENT) * _ALIGNMENT - 8
    header = struct.pack("<Q", length) + text.ljust(length)
    places = {}
    for tensor in ordered:
        begin, end = entries[tensor.stored]["data_offsets"]
        places[tensor.stored] = (len(header) + begin, end - begin)
    return Shard(file=file, header=header, places=places, tensors=tuple(ordered))


class PackedShards:
    """The files under way.

    Args:
        folder: Where they are; may hold what another process of the same fingerprint left.
        shards: The plan.
        fingerprint: What the bytes depend on; shards of another one are not taken over. None is for
            a job that always starts over.
        on_bytes: Called with the number of bytes each time some are on their way to disk.

    Raises:
        CheckpointError: The disk has less room than the files need.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        *,
        fingerprint: str | None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self.sums: Sums = {}
        """Sums of the finished shards."""
        self.num_tensor_bytes = sum(shard.num_tensor_bytes for shard in shards)
        """Bytes of the tensors of all files."""
        self._folder, self._fingerprint = folder, fingerprint
        self._on_bytes = on_bytes or (lambda count: None)
        self._shards = {shard.file: shard for shard in shards}
        self._file_of = {name: shard.file for shard in shards for name in shard.places}
        self._open: dict[str, IO[bytes]] = {}
        self._open_sums: Sums = {}
        self._take_over()
        self._require_free_disk()

    def is_finished(self, shard: Shard) -> bool:
        """Return whether a file is whole."""
        return shard.file in self.sums

    def write(self, tensor: PackedTensor, value: Tensor) -> None:
        """Write one tensor to its place.

        Args:
            tensor: What it is; of a file that is not finished.
            value: Its elements, of the shape and type that are planned.
        """
        file_name = self._file_of[tensor.stored]
        shard = self._shards[file_name]
        file = self._open.get(file_name) or self._begin(shard)
        flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        begin, size = shard.places[tensor.stored]
        assert flat.numel() == size
        digest = hashlib.sha256()
        file.seek(begin)
        for start in range(0, size, _CHUNK_BYTES):
            chunk = flat[start : start + _CHUNK_BYTES].numpy().data
            digest.update(chunk)
            self._on_bytes(file.write(chunk))
        sums = self._open_sums[file_name]
        sums[tensor.stored] = digest.hexdigest()
        if len(sums) == len(shard.places):
            self._finish(shard)

    def __enter__(self) -> Self:
        """Begin to write."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the unfinished files and leave them as they are."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def forget_progress(self) -> None:
        """Remove what only a successor needs; the files are complete."""
        (self._folder / PROGRESS_FILE).unlink(missing_ok=True)

    def _begin(self, shard: Shard) -> IO[bytes]:
        file = self._part(shard).open("wb")
        self._open[shard.file] = file
        self._open_sums[shard.file] = {}
        file.write(shard.header)
        return file

    def _finish(self, shard: Shard) -> None:
        with self._open.pop(shard.file) as file:
            file.flush()
            os.fsync(file.fileno())
        self._part(shard).replace(self._folder / shard.file)
        sums = self._open_sums.pop(shard.file)
        self.sums[shard.file] = {name: sums[name] for name in shard.places}
        self._note_progress()

    def _note_progress(self) -> None:
        if self._fingerprint is None:
            return
        progress = {"fingerprint": self._fingerprint, "shards": self.sums}
        write_json(self._folder / PROGRESS_FILE, progress)

    def _take_over(self) -> None:
        """Keep the finished shards of a predecessor, and remove everything else in the folder."""
        noted = _read_progress(self._folder / PROGRESS_FILE, self._fingerprint)
        kept = [
            shard
            for shard in self._shards.values()
            if _is_as_noted(self._folder / shard.file, shard, noted.get(shard.file))
        ]
        names = {shard.file for shard in kept}
        for entry in self._folder.iterdir():
            if entry.name not in names:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self.sums = {shard.file: noted[shard.file] for shard in kept}
        if kept:
            logger.warning("%d of %d files are done already", len(kept), len(self._shards))
            self._note_progress()
        for shard in kept:
            self._on_bytes(shard.num_tensor_bytes)

    def _require_free_disk(self) -> None:
        needed = sum(s.num_bytes for s in self._shards.values() if not self.is_finished(s))
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise CheckpointError(
                f"{self._folder.parent} has {free / 1e6:,.1f} MB free; the packed checkpoint needs "
                f"{needed / 1e6:,.1f} MB. Free some space or choose another disk."
            )

    def _part(self, shard: Shard) -> Path:
        return self._folder / f"{shard.file}{UNFINISHED}"


def _read_progress(file: Path, fingerprint: str | None) -> Sums:
    try:
        progress = json.loads(file.read_text(encoding="utf-8"))
        if progress["fingerprint"] != fingerprint:
            return {}
        return {str(name): dict(sums) for name, sums in progress["shards"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _is_as_noted(path: Path, shard: Shard, sums: Mapping[str, str] | None) -> bool:
    """Return whether a file is whole: size, header, and the sum of every tensor."""
    if sums is None or sums.keys() != shard.places.keys():
        return False
    if not path.is_file() or path.stat().st_size != shard.num_bytes:
        return False
    with path.open("rb") as file:
        if file.read(len(shard.header)) != shard.header:
            return False
        return all(_sha256(file, size) == sums[name] for name, (_, size) in shard.places.items())


def _sha256(file: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size and (chunk := file.read(min(size, _CHUNK_BYTES))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()
