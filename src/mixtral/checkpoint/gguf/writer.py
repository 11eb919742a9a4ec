"""Write a model as one GGUF file that llama.cpp loads.

The place of every tensor follows from the geometry, so the header is written first and each matrix
goes where it belongs as it arrives, in any order: memory holds one of them, although the format
wants all experts of a layer in one tensor [E, F, D]. What each tensor is stored as:

    quantization   matrices   head (or tied embedding)   norms, router
    f16            F16        F16                        F32
    bf16           BF16       BF16                       F32
    q8_0           Q8_0       Q8_0                       F32
    q4_0           Q4_0       Q8_0                       F32

The head decides each token and is 0.3 % of the weights, hence its 8 bits in q4_0. A matrix whose
rows are no multiple of 32 cannot be cut into blocks; it is stored as F16, and a log line says so.

llama.cpp does not know Mixtral's sliding window; the field is written and read back by us, and
contexts longer than the window differ there.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from torch import Tensor

from mixtral.checkpoint.gguf.blocks import encode_blocks
from mixtral.checkpoint.gguf.names import Experts, Place, places
from mixtral.checkpoint.names import EMBEDDING, HEAD, arrange, canonical_shapes, list_tensors
from mixtral.checkpoint.staged_file import staged_file
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from mixtral.gguf_file.block_types import BF16, F16, F32, Q4_0, Q8_0, BlockType
from mixtral.gguf_file.encoding import Field, PlannedTensor, encode_header, text, uint32
from mixtral.gguf_file.model_config import metadata_of
from mixtral.tokenizer.gguf_vocabulary import vocabulary_fields

logger = logging.getLogger(__name__)

GgufQuantization = Literal["f16", "bf16", "q8_0", "q4_0"]

_KINDS: Mapping[str, BlockType] = {"f16": F16, "bf16": BF16, "q8_0": Q8_0, "q4_0": Q4_0}
# ggml's names for a file by the type of most of its weights: include/llama.h, enum llama_ftype.
_FILE_TYPES: Mapping[str, int] = {"f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
# The version of the block formats; llama.cpp refuses files that state an older one.
_QUANTIZATION_VERSION = 2


def write_gguf(
    target: Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    quantization: GgufQuantization,
    tokenizer_version: Literal["v1", "v3"] | None,
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Write a model as a GGUF file.

    Args:
        target: The file; it must not exist.
        config: The model.
        tensors: Our names and the tensors, in any order, on any device. A tied head may be there
            or not; it is the embedding either way.
        quantization: How matrices are stored.
        tokenizer_version: The vocabulary to put in; None for a model without one, which llama.cpp
            then runs on token ids.
        on_bytes: Called with the number of bytes each time some are on their way to disk;
            ``gguf_bytes`` gives their total.

    Raises:
        CheckpointError: The target is in use, the disk is full, or a tensor is missing, unknown,
            given twice, of a wrong shape, or holds a value that the format cannot.
        TokenizerError: The tokenizer has more pieces than the model has ids.
    """
    plan = _plan(config, quantization, tokenizer_version)
    _require_free_disk(target, plan.num_bytes)
    _report_fallbacks(plan, quantization)
    report = on_bytes or (lambda count: None)
    with staged_file(target) as file:
        report(file.write(plan.header))
        missing = canonical_shapes(config)
        for name, tensor in tensors:
            if name == HEAD and config.tie_word_embeddings:
                continue
            _check(name, tensor, missing, plan)
            del missing[name]
            _write(file, plan, name, tensor, report)
        if missing:
            raise CheckpointError(f"the model lacks {list_tensors(missing)}. Nothing was written.")
        # The last tensor is padded as well.
        file.truncate(plan.num_bytes)


def gguf_bytes(
    config: ModelConfig,
    quantization: GgufQuantization,
    tokenizer_version: Literal["v1", "v3"] | None,
) -> int:
    """Return the size of the file that ``write_gguf`` would write."""
    return _plan(config, quantization, tokenizer_version).num_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """Where everything goes."""

    config: ModelConfig
    header: bytes
    num_bytes: int
    """Of the whole file."""
    offsets: Mapping[str, int]
    """Where each stored tensor begins."""
    kinds: Mapping[str, BlockType]
    """How each stored tensor is stored."""
    places: Mapping[str, Place]
    """Where each of our tensors is."""


def _plan(
    config: ModelConfig, quantization: str, tokenizer_version: Literal["v1", "v3"] | None
) -> _Plan:
    if quantization not in _KINDS:
        allowed = ", ".join(get_args(GgufQuantization))
        raise CheckpointError(f"quantization is {quantization!r}; GGUF takes one of {allowed}.")
    experts: Experts = "single" if config.is_dense else "merged"
    found = places(config, experts)
    planned = {}
    for ours, place in found.items():
        kind = _kind(ours, place, quantization, is_tied=config.tie_word_embeddings)
        planned[place.name] = PlannedTensor(name=place.name, kind=kind, shape=place.shape)
    fields = _fields(config, quantization, tokenizer_version)
    header, offsets, size = encode_header(fields, list(planned.values()))
    return _Plan(
        config=config,
        header=header,
        num_bytes=size,
        offsets=offsets,
        kinds={name: tensor.kind for name, tensor in planned.items()},
        places=found,
    )


def _fields(
    config: ModelConfig, quantization: str, tokenizer_version: Literal["v1", "v3"] | None
) -> dict[str, Field]:
    found = metadata_of(config) | vocabulary_fields(tokenizer_version, config.vocab_size)
    found["general.type"] = text("model")
    found["general.file_type"] = uint32(_FILE_TYPES[quantization])
    found["general.quantization_version"] = uint32(_QUANTIZATION_VERSION)
    found["tokenizer.ggml.bos_token_id"] = uint32(config.bos_token_id)
    found["tokenizer.ggml.eos_token_id"] = uint32(config.eos_token_id)
    return found


def _kind(ours: str, place: Place, quantization: str, *, is_tied: bool) -> BlockType:
    # llama.cpp wants norms in float32, and routing must not depend on the format.
    if len(place.shape) == 1 or place.name.endswith("ffn_gate_inp.weight"):
        return F32
    is_head = ours == HEAD or (ours == EMBEDDING and is_tied)
    kind = Q8_0 if is_head and quantization == "q4_0" else _KINDS[quantization]
    return F16 if place.shape[-1] % kind.weights else kind


def _report_fallbacks(plan: _Plan, quantization: str) -> None:
    wanted = _KINDS[quantization]
    shapes = {place.name: place.shape for place in plan.places.values()}
    found = [name for name, kind in plan.kinds.items() if kind is F16 and kind is not wanted]
    if found:
        logger.warning(
            "%s is stored as F16: its rows of %d weights cannot be cut into %s blocks of %d (%d "
            "tensors like this)",
            found[0],
            shapes[found[0]][-1],
            wanted.name,
            wanted.weights,
            len(found),
        )


def _check(name: str, tensor: Tensor, missing: Mapping[str, tuple[int, ...]], plan: _Plan) -> None:
    if name not in missing:
        reason = "is given twice" if name in plan.places else "does not belong to this model"
        raise CheckpointError(f"tensor {name} {reason}; nothing was written.")
    if tuple(tensor.shape) != missing[name]:
        raise CheckpointError(
            f"tensor {name} has shape {list(tensor.shape)}; the config says "
            f"{list(missing[name])}. Nothing was written."
        )
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"tensor {name} has dtype {tensor.dtype}; it must be float32, bfloat16 or float16."
        )


def _write(
    file: BinaryIO, plan: _Plan, name: str, tensor: Tensor, report: Callable[[int], None]
) -> None:
    place = plan.places[name]
    kind = plan.kinds[place.name]
    file.seek(plan.offsets[place.name] + (place.expert or 0) * kind.bytes_of(tensor.shape))
    for part in encode_blocks(arrange(tensor, place.cut, plan.config), kind, name):
        report(file.write(part))


def _require_free_disk(target: Path, needed: int) -> None:
    folder = target.absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder} has {free / 1e6:,.1f} MB free; the file needs {needed / 1e6:,.1f} MB. "
            "Free some space or choose another disk."
        )
