"""What a result was measured with, so that it can be repeated: versions, and which weights."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mixtral
from mixtral.fingerprint import fingerprint, hash_file
from mixtral.model_source import find_model


def describe_versions() -> dict[str, str]:
    """Return the versions of what computed, and the kind of machine."""
    return {
        "mixtral": mixtral.__version__,
        "torch": _version_of("torch"),
        "python": platform.python_version(),
        "machine": platform.machine(),
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
    """Return a hash that tells one set of weights from another, in seconds for any size.

    Returns:
        64 hexadecimal digits, see ``mixtral.fingerprint``; None for random weights, which their
        seed describes.

    Raises:
        ConfigError: There is no such model.
    """
    if name.startswith("random:"):
        return None
    source = find_model(name)
    path = source.gguf or source.folder
    assert path is not None
    return fingerprint(path)


def hash_files(files: Iterable[Path], *, below: Path | None = None) -> dict[str, str]:
    """Return the sha256 of each file by its path, as it was given or relative to a folder."""
    return {
        str(file if below is None else file.relative_to(below)): hash_file(file) for file in files
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
