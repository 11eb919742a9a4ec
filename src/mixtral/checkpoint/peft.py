"""LoRA adapters in PEFT's format: a folder with adapter_config.json and adapter_model.safetensors.

``read_adapter`` takes both layouts that PEFT writes for a Mixtral (``peft_names``), also mixed, and
returns one pair of matrices per linear, whichever it was. ``write_adapter`` writes either:

    fused     the default. Loads in transformers 5 + PEFT, whatever is adapted: chosen experts,
              ranks that differ. Missing experts and smaller ranks are zeros (``peft_experts``).
    modules   loads in transformers 4 + PEFT and in tools that know Mixtral by its published names.
              PEFT 0.21 also turns it into the other one while loading into transformers 5, if
              every expert of every layer is adapted, and all adapted linears have the same rank.

An adapter goes through either layout unchanged, but for one thing: PEFT keeps one scale for all
experts of a layer in the fused layout, so where ours differ, B is multiplied by their ratio. Of
dropout nothing is written: it belongs to training, and PEFT has none for fused experts.

The digest of the base (``base_weights``) stands in the metadata of the tensors' file, which PEFT
passes over; of a field that it does not know in adapter_config.json it would warn.
"""

from pathlib import Path
from typing import Literal, get_args

from mixtral.checkpoint.base_weights import DIGEST_NAME
from mixtral.checkpoint.containers import WeightFile, open_weight_file
from mixtral.checkpoint.peft_config import CONFIG_FILE, PeftConfig
from mixtral.checkpoint.peft_reader import read_matrices
from mixtral.checkpoint.peft_writer import describe, stored_matrices, write_tensors
from mixtral.checkpoint.staging import staged, write_json
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError
from mixtral.model.adapter import Adapter

PeftLayout = Literal["fused", "modules"]

WEIGHTS_FILE = "adapter_model.safetensors"
"""PEFT's name of the tensors."""
_OLD_WEIGHTS_FILE = "adapter_model.bin"


def read_adapter(folder: Path, config: ModelConfig) -> Adapter:
    """Read an adapter that PEFT or this package wrote, for a model of this geometry.

    Args:
        folder: A folder with adapter_config.json and adapter_model.safetensors (or .bin).
        config: The model that it shall adapt.

    Returns:
        The adapter, float32 on the CPU, in the order of the model.

    Raises:
        CheckpointError: A file is missing, cut or damaged, a tensor is missing or not finite, or
            the adapter is for a model of another geometry.
        ConfigError: adapter_config.json is not JSON.
        UnsupportedError: It is something else than plain LoRA.
    """
    settings = PeftConfig.read(folder / CONFIG_FILE)
    file = _open_weights(folder)
    return Adapter(
        matrices=read_matrices(file, settings, config),
        base_model=settings.base_model,
        base_digest=file.metadata.get(DIGEST_NAME),
    )


def write_adapter(
    folder: Path, adapter: Adapter, config: ModelConfig, *, layout: PeftLayout = "fused"
) -> None:
    """Write an adapter as PEFT does; the folder appears whole or not at all.

    Args:
        folder: The target; it must not exist, or be empty.
        adapter: Matrices on any device; they are written as float32.
        config: The model that it adapts.
        layout: "fused" or "modules", see the module; a dense model has one layout only.

    Raises:
        CheckpointError: The adapter adapts nothing or does not fit the model, the layout is
            unknown, the target is in use, or the disk is full.
    """
    if layout not in get_args(PeftLayout):
        raise CheckpointError(
            f"layout is {layout!r}; it must be one of {', '.join(get_args(PeftLayout))}."
        )
    if not adapter.matrices:
        raise CheckpointError("the adapter adapts no linear; there is nothing to write.")
    adapter.check(config)
    stored = stored_matrices(adapter, config, is_fused=layout == "fused" and not config.is_dense)
    metadata = {} if adapter.base_digest is None else {DIGEST_NAME: adapter.base_digest}
    with staged(folder) as staging:
        write_tensors(staging / WEIGHTS_FILE, stored, metadata)
        write_json(staging / CONFIG_FILE, describe(stored, config, adapter.base_model))


def _open_weights(folder: Path) -> WeightFile:
    path = folder / WEIGHTS_FILE
    if not path.exists() and (folder / _OLD_WEIGHTS_FILE).exists():
        path = folder / _OLD_WEIGHTS_FILE
    file = open_weight_file(path)
    if not file.tensors:
        raise CheckpointError(f"{path} holds no tensors; the adapter adapts nothing.")
    return file
