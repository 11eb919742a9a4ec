"""Files of named tensors: what is inside, and views of it, without reading the weights.

Two containers hold every published Mixtral. A safetensors file is an 8-byte length, that many
bytes of JSON (name -> dtype, shape, begin and end of its bytes) and the bytes. A PyTorch file is a
zip of uncompressed records and a pickle that says which record belongs to which name. Opening
either reads only the description. Each tensor then is a view of ONE private memory map of the
file: nothing is copied, pages come from disk when they are first touched, and writing to a tensor
never changes the file.

The map is our own instead of ``safetensors.safe_open`` or ``torch.load(mmap=True)``, which are as
free of copies, for one flag: without MAP_NORESERVE, Linux refuses a writable map that is larger
than RAM plus swap, and 8x7B comes as one file of 93 GB.

Pickles are read with ``weights_only=True``: a file that holds code is refused, never run. Files in
PyTorch's format from before 1.6 are no zip and cannot be mapped; they are loaded whole.
Format: https://github.com/huggingface/safetensors, README, "Format".
"""

import json
import mmap
import pickle
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixtral.errors import CheckpointError

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The data types of weights that this package reads and writes, by name."""

STORED_DTYPES: Mapping[str, torch.dtype] = {**DTYPES, "uint8": torch.uint8}
"""All types that a file may hold: those of weights, and the bytes of packed matrices."""

SAFETENSORS_DTYPES: Mapping[str, str] = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
    "U8": "uint8",
}
"""The same in the spelling of safetensors."""

# 100 MB: the limit of the safetensors library; the header of 8x22B has 0.2 MB.
_MAX_HEADER_BYTES = 100_000_000
# The value of <linux/mman.h>; Python names it from 3.13 on.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
# torch does not promise to keep this name; where it is missing, torch's own map has to do.
_OFFSET_ATTRIBUTE = "_checkpoint_offset"
_DOWNLOAD_AGAIN = "Download or copy it again."


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of a file, described but not read."""

    name: str
    dtype: str
    """A key of ``STORED_DTYPES``, or the container's own name of a type that is not supported."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements."""
    offset: int
    """Where its bytes begin in the file."""
    num_bytes: int
    """From its first to its last byte in the file."""
    loaded: Tensor | None = None
    """The tensor itself where the file cannot be mapped."""


@dataclass(kw_only=True, slots=True)
class WeightFile:
    """An opened file: its tensors by name, and the memory map once it is needed."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a safetensors file says about itself."""
    _map: mmap.mmap | None = field(default=None, repr=False)

    def read(self, stored: StoredTensor) -> Tensor:
        """Return a tensor of this file, contiguous, as a view of the memory map where possible."""
        if stored.loaded is not None:
            return stored.loaded.contiguous()
        dtype = STORED_DTYPES[stored.dtype]
        count = stored.num_bytes // dtype.itemsize
        flat = torch.frombuffer(self._mapped(), dtype=dtype, count=count, offset=stored.offset)
        if stored.offset % dtype.itemsize:
            flat = flat.clone()  # Old safetensors files may place a tensor at an odd address.
        return flat.as_strided(stored.shape, stored.stride).contiguous()

    def bytes_of(self, stored: StoredTensor) -> memoryview:
        """Return the bytes of a mapped tensor as they lie in the file, and start reading them."""
        begin = stored.offset // mmap.PAGESIZE * mmap.PAGESIZE
        end = stored.offset + stored.num_bytes
        if hasattr(mmap, "MADV_WILLNEED") and begin < end:
            self._mapped().madvise(mmap.MADV_WILLNEED, begin, end - begin)
        return memoryview(self._mapped())[stored.offset : end]

    def release(self, stored: StoredTensor) -> None:
        """Tell the system that the pages of a tensor are not needed any more.

        Only for a tensor of which no view is left: what was written to it is lost.
        """
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        begin = -(-stored.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (stored.offset + stored.num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end:
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            self._map = _map_file(self.path)
        return self._map


def open_weight_file(path: Path) -> WeightFile:
    """Read the description of a ``.safetensors``, ``.pth`` or ``.pt`` file.

    Raises:
        CheckpointError: The file is missing, cut, not of its format, or holds code.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(f"{path} is empty (0 bytes). {_DOWNLOAD_AGAIN}")
        metadata: dict[str, str] = {}
        if path.suffix == ".safetensors":
            found, metadata = _safetensors_tensors(path, size)
        else:
            found = _pickle_tensors(path, size)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist. {_DOWNLOAD_AGAIN}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    return WeightFile(path=path, tensors=found, metadata=metadata)


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if sys.platform == "win32":
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            return mmap.mmap(
                file.fileno(),
                0,
                flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be mapped into memory: {error}.") from error


def _safetensors_tensors(path: Path, size: int) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Return the tensors and the metadata."""
    entries, data_start = _safetensors_header(path, size)
    metadata = entries.pop("__metadata__", None)
    if not isinstance(metadata, dict):
        metadata = {}
    found = {name: _safetensors_entry(path, name, entries[name], data_start) for name in entries}
    end, previous = data_start, ""
    for stored in sorted(found.values(), key=lambda stored: stored.offset):
        if stored.offset < end:
            raise CheckpointError(
                f"{path}: tensor {stored.name} overlaps {previous}; the file is damaged. "
                + _DOWNLOAD_AGAIN
            )
        end, previous = stored.offset + stored.num_bytes, stored.name
        if end > size:
            raise CheckpointError(
                f"{path} is cut: tensor {stored.name} ends at byte {end}, "
                f"the file has {size}. {_DOWNLOAD_AGAIN}"
            )
    return found, {name: str(value) for name, value in metadata.items()}


def _safetensors_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise CheckpointError(f"{path} is cut: it has only {size} bytes. {_DOWNLOAD_AGAIN}")
        (length,) = struct.unpack("<Q", head)
        if length > _MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path} is not a safetensors file: its header would have {length} bytes; "
                f"at most {_MAX_HEADER_BYTES} are allowed."
            )
        if 8 + length > size:
            raise CheckpointError(
                f"{path} is cut inside its header: {8 + length} bytes are needed, "
                f"the file has {size}. {_DOWNLOAD_AGAIN}"
            )
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique_names)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is not a safetensors file: its header is no JSON object.")
    return header, 8 + length


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return found


def _safetensors_entry(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        is_valid = isinstance(code, str) and all(
            type(number) is int and number >= 0 for number in (*shape, begin, end)
        )
    except (KeyError, TypeError, ValueError):
        is_valid = False
    if not is_valid or begin > end:
        raise CheckpointError(f"{path}: the header's entry of tensor {name} is damaged: {entry!r}.")
    dtype = SAFETENSORS_DTYPES.get(code, code)
    needed = _count(shape) * STORED_DTYPES[dtype].itemsize if dtype in STORED_DTYPES else None
    if needed not in (None, end - begin):
        raise CheckpointError(
            f"{path}: tensor {name} has {end - begin} bytes; its shape {list(shape)} in {dtype} "
            f"needs {needed}. {_DOWNLOAD_AGAIN}"
        )
    return StoredTensor(
        name=name,
        dtype=dtype,
        shape=shape,
        stride=_contiguous_stride(shape),
        offset=data_start + begin,
        num_bytes=end - begin,
    )


# What torch.load raises when bytes of the pickle, or of the zip around it, are other ones.
_DAMAGED_PICKLE = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    IndexError,
    TypeError,
    AssertionError,
    OverflowError,
    struct.error,
)


def _pickle_tensors(path: Path, size: int) -> dict[str, StoredTensor]:
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        _require_plain_records(path)
    try:
        values = _unpickle(path, is_zip=is_zip)
    except pickle.UnpicklingError as error:
        # torch's own text advises to run the code; only the name of what was found is kept.
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"calls {found[1]}, which is code" if found else "is damaged or is no PyTorch file"
        raise CheckpointError(
            f"{path} {what}; it was not run. Use a file from a source you trust, "
            "safetensors if there is one."
        ) from error
    except _DAMAGED_PICKLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is cut or is not a PyTorch file ({size} bytes): {reason}. {_DOWNLOAD_AGAIN}"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path} holds a {type(values).__name__}; it must hold named tensors."
        )
    return {str(name): _pickle_entry(path, size, str(name), values[name]) for name in values}


def _unpickle(path: Path, *, is_zip: bool) -> object:
    with warnings.catch_warnings():
        # torch warns of unusual pickles; either it reads them or the error says why not.
        warnings.simplefilter("ignore")
        # On "meta", torch.load notes where each record begins and reads none of them.
        values = torch.load(path, map_location="meta" if is_zip else "cpu", weights_only=True)
        if is_zip and not _knows_offsets(values):
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return values


def _knows_offsets(values: object) -> bool:
    tensors = (
        [v for v in values.values() if isinstance(v, Tensor)] if isinstance(values, dict) else []
    )
    return all(hasattr(v.untyped_storage(), _OFFSET_ATTRIBUTE) for v in tensors if v.is_meta)


def _require_plain_records(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [
                r.filename for r in archive.infolist() if r.compress_type != zipfile.ZIP_STORED
            ]
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} is cut: its table of contents, at the end, is missing or damaged "
            f"(the file has {size} bytes). {_DOWNLOAD_AGAIN}"
        ) from error
    if packed:
        raise CheckpointError(f"{path}: record {packed[0]} is compressed; PyTorch writes it plain.")


def _pickle_entry(path: Path, size: int, name: str, value: object) -> StoredTensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise CheckpointError(
            f"{path}: {name} is a {type(value).__name__}; a checkpoint holds dense tensors only."
        )
    tensor = value.detach()
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    last = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    num_bytes = (last + 1) * tensor.dtype.itemsize if tensor.numel() else 0
    offset = 0
    if tensor.is_meta:
        record: int = getattr(tensor.untyped_storage(), _OFFSET_ATTRIBUTE)
        offset = record + int(tensor.storage_offset()) * tensor.dtype.itemsize
        if offset + num_bytes > size:
            raise CheckpointError(
                f"{path} is cut: tensor {name} ends at byte {offset + num_bytes}, "
                f"the file has {size}. {_DOWNLOAD_AGAIN}"
            )
    return StoredTensor(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=shape,
        stride=stride,
        offset=offset,
        num_bytes=num_bytes,
        loaded=None if tensor.is_meta else tensor,
    )


def cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Convert a tensor, and refuse to turn large numbers into infinities.

    Raises:
        CheckpointError: A finite value does not fit into float16.
    """
    if tensor.dtype == dtype:
        return tensor
    converted = tensor.to(dtype)
    if dtype is torch.float16 and bool(converted.isinf().any()) and not bool(tensor.isinf().any()):
        largest = float(tensor.abs().max())
        raise CheckpointError(
            f"tensor {name} holds the value {largest:g}, which float16 (up to 65504) cannot hold; "
            "use bfloat16 or float32."
        )
    return converted


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= size
    return tuple(reversed(stride))
