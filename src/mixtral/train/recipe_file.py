"""Reads a recipe from its TOML file."""

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

from mixtral.errors import ConfigError
from mixtral.train.recipe import FILE_FIELDS, TABLES, TrainRecipe


def read_recipe(path: Path) -> TrainRecipe:
    """Read a recipe; its relative paths become relative to the file.

    Args:
        path: A TOML file with fields of ``TrainRecipe``.

    Raises:
        ConfigError: The file is missing, not TOML, or has an unknown or wrong field.
    """
    values = _read_toml(path)
    _check_names(path, TrainRecipe, values)
    _check_texts(path, values)
    if "output" not in values:
        raise ConfigError(f"{path} lacks the field output; every recipe needs it.")
    for name in ("output", *FILE_FIELDS):
        _make_relative(values, name, path.parent)
    if isinstance(values.get("init_from"), str):
        values["init_from"] = _model_name(values["init_from"], path.parent)
    for name, settings in TABLES.items():
        if name in values:
            values[name] = _table(path, name, settings, values[name])
    return TrainRecipe(**values)


def _table(path: Path, name: str, settings: type, values: object) -> object:
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {name} is {values!r}; it must be a table: [{name}].")
    _check_names(path, settings, values, prefix=f"{name}.")
    _check_texts(path, values, prefix=f"{name}.")
    for field in ("expert_loads", "reference_cache"):
        _make_relative(values, field, path.parent)
    return settings(**values)


def _check_names(path: Path, settings: Any, values: dict[str, Any], *, prefix: str = "") -> None:
    known = {field.name for field in dataclasses.fields(settings)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(
            f"{path} has the unknown field {prefix}{unknown[0]}; known are "
            f"{', '.join(sorted(known))}."
        )


def _check_texts(path: Path, values: dict[str, Any], *, prefix: str = "") -> None:
    """Refuse what no path can hold, before a part of Python cuts it there or stumbles over it."""
    for name, value in values.items():
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{path}: {prefix}{name} is {value!r}; it must not hold a NUL.")


def _make_relative(values: dict[str, Any], name: str, folder: Path) -> None:
    if isinstance(values.get(name), str) and values[name]:
        values[name] = os.path.normpath(folder / values[name])


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; name a recipe file.") from error
    except RecursionError as error:
        raise ConfigError(f"{path} cannot be read as TOML: it is nested too deeply.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}.") from error


def _model_name(name: str, folder: Path) -> str:
    """Make a relative path relative to the recipe; ``nano`` and hub ids stay as they are."""
    if not name or name == "nano" or Path(name).is_absolute():
        return name
    beside = folder / name
    if beside.exists():
        return os.path.normpath(beside)
    # Absolute, so that a misspelt name is not taken for a hub id because of the folder before it.
    is_path = name.startswith(".") or name.count("/") != 1
    return os.path.abspath(beside) if is_path else name
