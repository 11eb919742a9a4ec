"""Scores of the reference model, made once and kept on disk.

The reference does not change while the policy learns, so each answer is scored once, before the
first step; afterwards the reference needs no memory. Eight bytes are kept for each pair.

The file is named by a sha256 over the tokens of all pairs and the weights of the model; other data
or another model have a file of their own. It is a safetensors file with one tensor ``log_probs``,
[N, 2], float32, NaN where a pair is not scored yet; its header has the whole key and the sha256
of the numbers, so a file that is damaged or was given the name of another is refused. It is
replaced in one piece every minute while the scoring goes on; a killed run goes on from there.
"""

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from mixtral.errors import CheckpointError, ConfigError
from mixtral.train.dpo import PairSet, answer_sums
from mixtral.train.log_probs import TokenScorer
from mixtral.train.parallel import ParallelContext

logger = logging.getLogger(__name__)

_FORMAT = "mixtral reference log-probs 1"
_SAVE_EVERY_S = 60.0

Progress = Callable[[int, int], None]
"""Hears how many pairs are scored, and how many there are."""


def add_reference(
    pairs: PairSet,
    score: TokenScorer,
    *,
    weights_digest: str,
    folder: Path,
    micro_batch_tokens: int,
    device: torch.device,
    on_progress: Progress | None = None,
    context: ParallelContext | None = None,
) -> Path:
    """Score both answers of all pairs, or read what an earlier run has scored, into the set.

    Several processes share the work, and the main one keeps the file; all of them must call it.

    Args:
        pairs: Gets ``reference``, [N, 2], float32, on the CPU.
        score: The reference, for example ``frozen_scorer`` of the model before its first step.
        weights_digest: ``digest_weights`` of the reference.
        folder: Where the file is kept; made where it is missing.
        micro_batch_tokens: Most tokens of a pass.
        device: Where the reference wants its tokens.
        on_progress: Called before the first pass and after each.
        context: This process among the others; None where it is alone.

    Returns:
        The file.

    Raises:
        ConfigError: A pair does not fit into a micro-batch, or the model gives no finite score.
        CheckpointError: The file is damaged or another's, or cannot be written.
    """
    pairs.require_fit(micro_batch_tokens)
    context = context or ParallelContext(device)
    cache = _CacheFile(folder, key=_key(pairs, weights_digest), num_pairs=len(pairs))
    table = _shared(cache.read() if context.is_main else _unknown(len(pairs)), context)
    saved_at = time.monotonic()
    _tell(on_progress, table)
    micros = [
        micro
        for micro in pairs.batches(num_pairs=len(pairs), micro_batch_tokens=micro_batch_tokens)
        if table[list(micro.pair_ids)].isnan().any()
    ]
    for index, scale in context.share(len(micros)) if micros else ():
        rows = list(micros[index].pair_ids)
        here = micros[index].to(device)
        scored = answer_sums(score(here.batch, here.targets), here).float().cpu()
        if scale:  # else another process scores them, and this one keeps step with it
            table[rows] = scored
        _require_finite(scored, rows, context)
        table = _shared(table, context)
        _tell(on_progress, table)
        if context.is_main and time.monotonic() - saved_at > _SAVE_EVERY_S:
            cache.write(table)
            saved_at = time.monotonic()
    if context.is_main:
        cache.write(table)
    pairs.reference = table
    return cache.path


def _require_finite(scored: Tensor, rows: Sequence[int], context: ParallelContext) -> None:
    is_broken = not scored.isfinite().all()
    if context.any_true(is_broken):
        where = f"pair {rows[0]} (counted from 0) or one after it" if is_broken else "pairs"
        raise ConfigError(
            f"the reference model gives preference {where} no finite log-prob; its weights are "
            "broken. Start from another model."
        )


def _shared(table: Tensor, context: ParallelContext) -> Tensor:
    """Return what any process knows, [N, 2]; each number is known to one, or is the same in all."""
    if context.world_size == 1:
        return table
    knows = (~table.isnan()).double()
    total = context.sum_tensor(table.double().nan_to_num(0.0))
    return (total / context.sum_tensor(knows)).float()


def _unknown(num_pairs: int) -> Tensor:
    return torch.full((num_pairs, 2), torch.nan)


def digest_weights(model: nn.Module) -> str:
    """Return the sha256 of all weights with their names, dtypes and shapes, in hexadecimal.

    Call it before an adapter is attached. Takes about a second for each gigabyte.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy())
    return digest.hexdigest()


def _key(pairs: PairSet, weights_digest: str) -> str:
    return hashlib.sha256(f"{_FORMAT}\n{pairs.digest()}\n{weights_digest}".encode()).hexdigest()


def _tell(on_progress: Progress | None, table: Tensor) -> None:
    if on_progress is not None:
        on_progress(int((~table.isnan().any(dim=1)).sum()), len(table))


class _CacheFile:
    """The file of one set of pairs and one reference."""

    def __init__(self, folder: Path, *, key: str, num_pairs: int) -> None:
        self.path = folder / f"reference-{key[:16]}.safetensors"
        self._key = key
        self._num_pairs = num_pairs

    def read(self) -> Tensor:
        """Return the table, [N, 2]; NaN where nothing is known.

        Raises:
            CheckpointError: The file is damaged, or another's.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return _unknown(self._num_pairs)
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be read: {error.strerror or error}. Delete it, or name "
                "another reference_cache."
            ) from error
        try:
            table = load(content)["log_probs"]
            metadata = _metadata(content)
            is_whole = metadata["sha256"] == _sha256(table)
            is_ours = metadata["format"] == _FORMAT and metadata["key"] == self._key
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise self._refuse("damaged") from error
        if not is_whole:
            raise self._refuse("damaged")
        if not is_ours or table.shape != (self._num_pairs, 2) or table.dtype != torch.float32:
            raise self._refuse("of other pairs or another model")
        logger.info("%s: the reference's scores are taken from here", self.path)
        return table.clone()

    def write(self, table: Tensor) -> None:
        """Replace the file in one piece.

        Raises:
            CheckpointError: It cannot be written.
        """
        metadata = {"format": _FORMAT, "key": self._key, "sha256": _sha256(table)}
        # Two runs may write the same scores at the same time.
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(save({"log_probs": table}, metadata))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CheckpointError(
                f"{self.path} cannot be written: {error.strerror or error}. Free some space, or "
                "name another folder as reference_cache."
            ) from error

    def _refuse(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is {reason}; delete it, and the reference's scores are made again."
        )


def _metadata(content: bytes) -> dict[str, str]:
    """Return the free part of a safetensors header: 8 bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata


def _sha256(table: Tensor) -> str:
    return hashlib.sha256(table.contiguous().numpy().tobytes()).hexdigest()
