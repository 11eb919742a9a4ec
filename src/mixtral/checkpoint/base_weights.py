"""Tells whether an adapter was trained on the weights that it meets, and warns where it was not.

The same geometry is not the same model: an adapter of an older release loads, and answers poorly.
So training writes a digest of the base into the adapter, and whoever uses the adapter compares it.

The digest is a sha256 over norms and routers, in the order of the model. These are what packing
leaves alone (``quantization``), so a model and its packed copies have one digest, in every layout;
training a whole model changes them. They take 2.6 MB of the 93 GB of an 8x7B. Each value counts as
bfloat16, and as 0 where it is smaller than the normal numbers of float16: float16 holds all others
that bfloat16 holds, so copies of bfloat16 weights in float16 or float32 have their digest, too.

What it cannot tell: a model into which an adapter of attention and experts alone was merged has the
digest of its base.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mixtral.checkpoint.names import canonical_shapes
from mixtral.checkpoint.reader import open_checkpoint
from mixtral.config import ModelConfig
from mixtral.gguf_file.block_types import STORED_DTYPES
from mixtral.model.adapter import Adapter

logger = logging.getLogger(__name__)

DIGEST_NAME = "base_norms_and_routers_sha256"
"""What an adapter calls the digest; one that is made in another way needs another name."""

_ENDINGS = ("norm.weight", ".gate.weight")
_SMALLEST_NORMAL = torch.finfo(torch.float16).smallest_normal


def warn_of_other_base(
    adapters: Mapping[str | Path, Adapter], model: Path | None, name: str
) -> None:
    """Warn of each adapter that was trained on other weights than those of a model.

    An adapter that does not say on which is passed over.

    Args:
        adapters: Folder and contents of each.
        model: The model's folder or GGUF file; None where its weights are random.
        name: What the model is called.

    Raises:
        CheckpointError: The model cannot be read.
    """
    known = {folder: adapter for folder, adapter in adapters.items() if adapter.base_digest}
    digest = base_digest(model) if known and model is not None else None
    if digest is None:
        return
    for folder, adapter in known.items():
        if adapter.base_digest != digest:
            logger.warning(
                "the adapter in %s was trained on %s, with other weights than %s has here; its "
                "answers may be poor. Use the model that it was trained on, or train it again on "
                "this one.",
                *(folder, adapter.base_model or "a model that it does not name", name),
            )


def base_digest(model: Path) -> str | None:
    """Return the digest of a model; None where a GGUF file has its norms or routers in few bits.

    Args:
        model: A folder of any layout, or a GGUF file.

    Raises:
        CheckpointError: It cannot be read.
    """
    if model.is_file():
        from mixtral.checkpoint.gguf import open_gguf  # half a second, and only for these files

        file = open_gguf(model)
        names = _names(file.config)
        kinds = {file.file.tensors[file.places[name].name].kind.name for name in names}
        return _digest(file.tensors(names=names)) if kinds <= STORED_DTYPES.keys() else None
    checkpoint = open_checkpoint(model)
    return _digest(checkpoint.tensors(names=_names(checkpoint.config)))


def _names(config: ModelConfig) -> list[str]:
    return [name for name in canonical_shapes(config) if name.endswith(_ENDINGS)]


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for _, tensor in tensors:
        values = tensor.to(torch.bfloat16)
        values = values.masked_fill(values.abs() < _SMALLEST_NORMAL, 0)
        digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
