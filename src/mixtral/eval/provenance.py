"""What a result was measured with: versions, and which weights, so that it can be repeated."""

import hashlib
import platform
from pathlib import Path
from typing import Any

import torch

import mixtral
from mixtral.model_source import find_model

_WEIGHTS = (".safetensors", ".gguf", ".pt", ".bin")
_END_BYTES = 1 << 20


def describe_versions() -> dict[str, str]:
    """Return the versions of what computed."""
    return {
        "mixtral": mixtral.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def describe_model(name: str, **settings: Any) -> dict[str, Any]:
    """Return which model it is and how it was held.

    Args:
        name: As the user named it; a folder for a hub id.
        settings: dtype, quantization, adapter, ...; those that are None are left out.

    Raises:
        ConfigError: There is no such model.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    return {"name": name, "fingerprint": fingerprint_model(name), **given}


def fingerprint_model(name: str) -> str | None:
    """Return a sha256 that tells one set of weights from another, in a second for any size.

    Of each file of weights it takes name, size, and the first and the last MiB, which hold the
    header and the last tensors; of config files everything. So two runs with the same fingerprint
    used the same files, unless somebody changed bytes in the middle of one by hand.

    Returns:
        64 hexadecimal digits; None for random weights, which their seed describes.

    Raises:
        ConfigError: There is no such model.
    """
    if name.startswith("random:"):
        return None
    source = find_model(name)
    if source.gguf is not None:
        files = [source.gguf]
    else:
        assert source.folder is not None
        wanted = (*_WEIGHTS, ".json")
        files = sorted(f for f in source.folder.iterdir() if f.name.endswith(wanted))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(_ends(file))
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ends(path: Path) -> bytes:
    size = path.stat().st_size
    if not path.name.endswith(_WEIGHTS) or size <= 2 * _END_BYTES:
        return path.read_bytes()
    with path.open("rb") as file:
        first = file.read(_END_BYTES)
        file.seek(size - _END_BYTES)
        return first + file.read()
