"""Prove that packed weights are what was written: sha256 of every tensor.

A packed matrix has no redundancy: a flipped bit is another weight, and the model answers on, a
little worse. So the sums that were written beside the weights are compared when they are loaded,
which is one pass over the file at the speed of two threads (hashlib lets go of the interpreter).
The pass goes through the memory map that the model uses afterwards, which saves it the page faults.

A checkpoint that this program did not pack has no sums, and nothing is verified.
"""

import hashlib
import logging
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtral.checkpoint.containers import StoredTensor, WeightFile
from mixtral.checkpoint.folder import CHECKSUMS_FILE
from mixtral.checkpoint.reader import Checkpoint, open_checkpoint
from mixtral.config import load_json
from mixtral.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

_NUM_THREADS = 2
# Hashed in pieces of this size, so that Ctrl-C is heard inside a large tensor.
_CHUNK_BYTES = 1 << 26
_ADVICE = "Copy or download the file again, or convert the model again."


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What was verified, and how fast."""

    num_bytes: int
    """Bytes of all tensors."""
    seconds: float
    """Time that it took."""

    @property
    def gb_per_s(self) -> float:
        """Speed in 10^9 bytes per second."""
        return self.num_bytes / max(self.seconds, 1e-9) / 1e9


def verify_checkpoint(model: Path | Checkpoint) -> Verification | None:
    """Compare every tensor of a packed checkpoint with its sha256 sum.

    Args:
        model: A folder, or the checkpoint opened from it, whose memory map is then used.

    Returns:
        None where the weights are not packed, and have no sums.

    Raises:
        CheckpointError: A tensor has another sum, which names file and tensor; or the sums
            themselves are missing or damaged.
    """
    checkpoint = open_checkpoint(model) if isinstance(model, Path) else model
    if checkpoint.recipe is None:
        return None
    begin = time.perf_counter()
    sums = _read_sums(checkpoint)
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        jobs = [(pool.submit(_sha256, *place), place) for place in checkpoint.found.values()]
        try:
            for job, (file, stored) in jobs:
                _compare(file.path, stored.name, found=job.result(), noted=sums)
        finally:
            pool.shutdown(cancel_futures=True)
    seconds = time.perf_counter() - begin
    result = Verification(num_bytes=checkpoint.num_bytes, seconds=seconds)
    logger.info(
        "%s: the sums of %.2f GB are right (%.1f s, %.1f GB/s)",
        *(checkpoint.path, result.num_bytes / 1e9, seconds, result.gb_per_s),
    )
    return result


def _sha256(file: WeightFile, stored: StoredTensor) -> str:
    digest = hashlib.sha256()
    with file.bytes_of(stored) as content:
        for start in range(0, len(content), _CHUNK_BYTES):
            with content[start : start + _CHUNK_BYTES] as chunk:
                digest.update(chunk)
    return digest.hexdigest()


def _compare(path: Path, tensor: str, *, found: str, noted: Mapping[str, Any]) -> None:
    wanted = noted[path.name][tensor]
    if found != wanted:
        raise CheckpointError(
            f"{path}: tensor {tensor} is damaged: its sha256 begins with {found[:16]}, "
            f"{CHECKSUMS_FILE} says {wanted[:16]}. {_ADVICE}"
        )


def _read_sums(checkpoint: Checkpoint) -> Mapping[str, Any]:
    file = checkpoint.path / CHECKSUMS_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{checkpoint.path} has packed weights and no {CHECKSUMS_FILE}, which is written with "
            "them; copy it from where the weights came from, or convert the model again."
        )
    try:
        sums = load_json(file)
    except ConfigError as error:
        raise CheckpointError(f"{error} {_ADVICE}") from error
    for where, stored in checkpoint.found.values():
        of_file = sums.get(where.path.name)
        found = of_file.get(stored.name) if isinstance(of_file, dict) else None
        if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{64}", found):
            raise CheckpointError(
                f"{file} has no sha256 sum of tensor {stored.name} in {where.path.name} "
                f"(it says {found!r}); is it of another model? {_ADVICE}"
            )
    return sums
