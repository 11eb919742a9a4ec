"""From names and folders to adapters in memory, each checked against the model it will serve.

An adapter is served beside the weights, not merged into them, so that several can be there at once
and a low-bit model stays as it is packed. Requests ask for one by its name.
"""

from collections.abc import Mapping
from pathlib import Path

from mixtral.checkpoint.base_weights import warn_of_other_base
from mixtral.checkpoint.peft import read_adapter
from mixtral.config import ModelConfig
from mixtral.errors import CheckpointError, ConfigError, UnsupportedError
from mixtral.model.adapter import Adapter
from mixtral.model_source import ModelSource


def load_adapters(folders: Mapping[str, str | Path], source: ModelSource) -> dict[str, Adapter]:
    """Read adapters in PEFT's format; one that is known to be of other weights gets a warning.

    Args:
        folders: Name of each adapter and its folder.
        source: The model that they shall adapt.

    Returns:
        The adapters by name, in the order of ``folders``.

    Raises:
        ConfigError: A name is empty, or a folder does not exist.
        CheckpointError: A file is missing or wrong, or an adapter is for another geometry.
        UnsupportedError: One is something else than plain LoRA.
    """
    found = {name: _load(name, Path(folder), source.config) for name, folder in folders.items()}
    by_folder = {folders[name]: adapter for name, adapter in found.items()}
    warn_of_other_base(by_folder, source.folder or source.gguf, source.name)
    return found


def _load(name: str, folder: Path, config: ModelConfig) -> Adapter:
    if not name.strip():
        raise ConfigError(f"the adapter in {folder} has an empty name; requests ask for it by one.")
    try:
        folder = folder.expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, or the home of nobody
        reason = error.strerror if isinstance(error, OSError) else "there is no such user"
        raise ConfigError(f"adapter {name} is in {folder!s:.200}; {reason}.") from error
    if not is_folder:
        raise ConfigError(
            f"adapter {name} is in {folder}, which is no folder; it must be one with "
            "adapter_config.json and adapter_model.safetensors."
        )
    try:
        return read_adapter(folder, config)
    except (CheckpointError, UnsupportedError) as error:
        raise type(error)(f"adapter {name}: {error}") from error
