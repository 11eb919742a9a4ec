"""Reads a recipe from its TOML file."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError
from mixtral.train.recipe import TrainRecipe

_PATHS = (
    "output",
    "train_records",
    "valid_records",
    "train_tokens",
    "valid_tokens",
    "train_mask",
    "valid_mask",
)


def read_recipe(path: Path) -> TrainRecipe:
    """Read a recipe; its relative paths become relative to the file.

    Args:
        path: A TOML file with fields of ``TrainRecipe``.

    Raises:
        ConfigError: The file is missing, not TOML, or has an unknown or wrong field.
    """
    values = _read_toml(path)
    known = {field.name for field in dataclasses.fields(TrainRecipe)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(
            f"{path} has the unknown field {unknown[0]}; known are {', '.join(sorted(known))}."
        )
    if "output" not in values:
        raise ConfigError(f"{path} lacks the field output; every recipe needs it.")
    for name in _PATHS:
        if isinstance(values.get(name), str) and values[name]:
            values[name] = str(path.parent / values[name])
    if isinstance(values.get("init_from"), str):
        values["init_from"] = _model_name(values["init_from"], path.parent)
    return TrainRecipe(**values)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; name a recipe file.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}.") from error


def _model_name(name: str, folder: Path) -> str:
    """Make a relative path relative to the recipe; ``nano`` and hub ids stay as they are."""
    if not name or name == "nano" or Path(name).is_absolute():
        return name
    beside = folder / name
    looks_like_path = name.startswith(".") or beside.exists() or name.count("/") != 1
    return str(beside) if looks_like_path else name
