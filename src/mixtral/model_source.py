"""From what a user calls a model to its geometry and its files; nothing is loaded here.

A model is named in one of five ways: ``nano``, the model in the package; ``random:8x7b``, random
weights of a preset; a local folder; a local GGUF file; a hub id such as
``mistralai/Mixtral-8x7B-Instruct-v0.1``. This file answers for all but the last without torch, so
that ``mixtral info`` is quick.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from mixtral.config import ModelConfig, load_json, read_config_file
from mixtral.errors import CheckpointError, ConfigError
from mixtral.gguf_file import read_gguf_config
from mixtral.presets import PRESETS

logger = logging.getLogger(__name__)

NANO_FOLDER = Path(__file__).parent / "models" / "nano"
_CONFIGS = ("config.json", "params.json")
# What a file in a model folder ends in, by which the folder may be named, too.
_ENDINGS = (".safetensors", ".safetensors.index.json", ".pth", ".pt", *_CONFIGS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """Where a model comes from."""

    name: str
    """What the user typed."""
    config: ModelConfig
    """Its geometry."""
    folder: Path | None
    """Its files; None for random weights and for a GGUF file."""
    gguf: Path | None = None
    """Its GGUF file; None for all others."""

    @property
    def is_random(self) -> bool:
        """Whether the weights are made up."""
        return self.folder is None and self.gguf is None


def is_hub_id(name: str) -> bool:
    """Whether a name can only be a hub id: ``owner/model``, and no such path here."""
    parts = name.split("/")
    is_path = parts[0] in (".", "..") or _is_gguf(name) or _exists(name)
    return len(parts) == 2 and all(parts) and not is_path


def find_model(name: str, *, layers: int | None = None, allow_preset: bool = False) -> ModelSource:
    """Find a model by name; a hub id must have been downloaded to a folder first.

    Args:
        name: ``nano``, ``random:PRESET``, a folder, a file in it, or a GGUF file.
        layers: Number of layers of random weights; None keeps the preset's.
        allow_preset: Whether a bare preset (``8x7b``) is an answer, for questions of geometry.

    Raises:
        ConfigError: The name means nothing, or the config is wrong.
        CheckpointError: The folder has no config, or the GGUF file is damaged.
    """
    if name.startswith("random:") or (allow_preset and name in PRESETS and name != "nano"):
        config = ModelConfig.preset(name.removeprefix("random:"))
        if layers is not None:
            config = config.replace(num_hidden_layers=layers)
        return ModelSource(name=name, config=config, folder=None)
    if layers is not None:
        raise ConfigError(
            f"layers is {layers}, but {name!r} has weights of its own; "
            "the option goes with random weights, such as random:8x7b."
        )
    if name == "nano":
        return ModelSource(name=name, config=read_config(NANO_FOLDER), folder=NANO_FOLDER)
    if _is_gguf(name) and _exists(name) and (file := Path(name).expanduser()).is_file():
        return ModelSource(name=name, config=read_gguf_config(file), folder=None, gguf=file)
    path = _find_folder(name)
    if path is None:
        raise ConfigError(
            f"model is {name!r}; it must be nano, random:8x7b (or 8x22b, 7b, nano), a folder or "
            "GGUF file that exists, or a hub id such as mistralai/Mixtral-8x7B-Instruct-v0.1."
        )
    return ModelSource(name=name, config=read_config(path), folder=path)


def read_config(folder: Path) -> ModelConfig:
    """Read the geometry of a checkpoint folder.

    Raises:
        CheckpointError: There is neither ``config.json`` nor ``params.json``.
        ConfigError: The file is wrong.
    """
    for name in _CONFIGS:
        if (folder / name).is_file():
            config = read_config_file(folder / name)
            _warn_of_ignored_ends(folder / name, config)
            return config
    if files := sorted(folder.glob("*.gguf")):
        raise CheckpointError(
            f"{folder} has no config.json, but GGUF files; name the file itself: {files[0]}."
        )
    raise CheckpointError(
        f"{folder} has neither config.json nor params.json; "
        "a model folder needs one of them beside its weights."
    )


def _warn_of_ignored_ends(file: Path, config: ModelConfig) -> None:
    ends = load_json(file).get("eos_token_id")
    if isinstance(ends, list) and any(end != config.eos_token_id for end in ends):
        logger.warning(
            "%s: eos_token_id is %s; one token ends an answer here, %d, and the others are ignored",
            *(file, ends, config.eos_token_id),
        )


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _find_folder(name: str) -> Path | None:
    """Return the folder of this name, or the one that holds the file of this name."""
    if not _exists(name) or not name.strip():
        return None
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.name.endswith(_ENDINGS):
        return path.parent
    raise ConfigError(
        f"model is {name!r}, a file; name a model folder, its config.json, or a GGUF file."
    )


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False
