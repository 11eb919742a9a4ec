"""Which files of a model folder hold the weights, and which file describes the model.

Official repositories carry the same weights twice, as Hugging Face shards and as Mistral's
``consolidated`` files, next to each other. One set is chosen by the order of ``find_weight_sets``,
the same for a local folder and for the list of files of a hub repository, so that only one of them
is downloaded. This module looks at names of files and at small JSON files; it opens no weights.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixtral.config import ModelConfig, read_config_file, read_recipe_file
from mixtral.errors import CheckpointError
from mixtral.quantization import QuantizationRecipe

CONFIG_FILES = ("config.json", "params.json")
"""What describes a model: Hugging Face's file and Mistral's."""

TOKENIZER_FILES = re.compile(
    r"(tokenizer|mistral_instruct_tokenizer_\d+)\.model(\.v\d+(\.\w+)?)?|tokenizer\.json|tokenizer_config\.json|tekken\.json"
    r"|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)"
    r"|generation_config\.json"
)
"""What travels with the weights when a model is downloaded or converted."""

CHECKSUMS_FILE = "checksums.json"
"""The sha256 sums of packed weights: file name -> tensor name -> hexadecimal digits."""

_FORMATS = (
    "model*.safetensors, consolidated*.safetensors, consolidated.NN.pth or consolidated.NN.pt"
)
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<total>\d+)\.safetensors")
# In order of preference: safetensors before pickles, per-expert shards before one large file.
_SETS: tuple[tuple[Literal["hf", "mistral"], str, str], ...] = (
    ("hf", "model.safetensors.index.json", r"model-\d+-of-\d+\.safetensors"),
    ("hf", "", r"model\.safetensors"),
    ("hf", "", r"model-\d+-of-\d+\.safetensors"),
    ("mistral", "consolidated.safetensors.index.json", r"consolidated-\d+-of-\d+\.safetensors"),
    ("mistral", "", r"consolidated\.safetensors"),
    ("mistral", "", r"consolidated-\d+-of-\d+\.safetensors"),
    ("mistral", "", r"consolidated\.\d+\.safetensors"),
    ("mistral", "", r"consolidated\.\d+\.pth"),
    ("mistral", "", r"consolidated\.\d+\.pt"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSet:
    """One complete copy of the weights, as names of files."""

    family: Literal["hf", "mistral"]
    """Whose naming of files it is, which says where the config is looked for first."""
    index: str | None
    """The JSON file that says which tensor is in which file."""
    files: tuple[str, ...]
    """Files with weights, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """What was chosen from a folder."""

    path: Path
    config: ModelConfig
    config_file: Path
    files: tuple[Path, ...]
    index: Path | None
    weight_map: Mapping[str, str]
    """Tensor name -> file name; empty without an index."""
    recipe: QuantizationRecipe | None
    """How the matrices are packed; None where they are not."""


def find_weight_sets(names: Collection[str]) -> list[WeightSet]:
    """Return every copy of the weights among some names of files, the preferred one first.

    >>> find_weight_sets(["consolidated.00.pth", "model.safetensors"])[0].files
    ('model.safetensors',)
    """
    found = []
    for family, index, pattern in _SETS:
        files = tuple(sorted(name for name in names if re.fullmatch(pattern, name)))
        if index in names or (files and not index):
            found.append(WeightSet(family=family, index=index or None, files=files))
    return found


def read_model_folder(path: Path) -> ModelFolder:
    """Choose the weights and the config of a local folder and check that all files are there.

    Raises:
        CheckpointError: No folder, no weights, no config, a missing shard, or a wrong index.
        ConfigError: The config has a field outside its allowed values.
    """
    names = _list_folder(path)
    candidates = find_weight_sets(names)
    if not candidates:
        found = f"it holds {', '.join(sorted(names)[:5])}" if names else "it is empty"
        raise CheckpointError(f"{path} has no weights: {found}; expected are {_FORMATS}.")
    chosen, weight_map = _first_with_files(path, candidates, names)
    files = sorted(set(weight_map.values())) if chosen.index else list(chosen.files)
    _require_all_shards(path, files, names)
    config_file = _find_config(path, chosen.family, names)
    return ModelFolder(
        path=path,
        config=read_config_file(config_file),
        config_file=config_file,
        files=tuple(path / name for name in files),
        index=path / chosen.index if chosen.index else None,
        weight_map=weight_map,
        recipe=read_recipe_file(config_file),
    )


def _list_folder(path: Path) -> set[str]:
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the folder that holds it, {path.parent}.")
    try:
        return {entry.name for entry in path.iterdir()}
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist; give a model folder or a hub id such as "
            "mistralai/Mixtral-8x7B-Instruct-v0.1."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def _first_with_files(
    path: Path, candidates: list[WeightSet], names: set[str]
) -> tuple[WeightSet, Mapping[str, str]]:
    """Skip an index of which no shard is there while another copy of the weights is."""
    for candidate in candidates:
        if candidate.index is None:
            return candidate, {}
        weight_map = _read_index(path / candidate.index)
        if names.intersection(weight_map.values()):
            return candidate, weight_map
    first = candidates[0]
    return first, _read_index(path / str(first.index))


def _read_index(path: Path) -> dict[str, str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        weight_map = values["weight_map"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not an index of weights ({error}); it must be JSON with a weight_map."
        ) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map must be an object of tensor and file names.")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\:\0]+\.safetensors", file):
            raise CheckpointError(
                f"{path}: tensor {tensor} is said to be in {file!r}; "
                "it must be a .safetensors file of the same folder."
            )
    return weight_map


def _require_all_shards(path: Path, files: list[str], names: set[str]) -> None:
    missing = [name for name in files if name not in names]
    for name in files:
        if match := _NUMBERED.fullmatch(name):
            width, total = len(match["number"]), int(match["total"])
            if total <= 10_000:  # An absurd total would list absurdly many names.
                shards = (f"{match['stem']}-{n + 1:0{width}d}" for n in range(total))
                wanted = (f"{shard}-of-{match['total']}.safetensors" for shard in shards)
                missing += [shard for shard in wanted if shard not in names | set(missing)]
            break
    numbers = [re.fullmatch(r"(consolidated\.)(\d+)(\.\w+)", name) for name in files]
    last = max((int(match[2]) for match in numbers if match), default=-1)
    if (first := numbers[0]) and last < 10_000:
        series = (f"{first[1]}{n:0{len(first[2])}d}{first[3]}" for n in range(last))
        missing += [name for name in series if name not in names]
    if missing:
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise CheckpointError(
            f"{path} lacks {len(missing)} of its files of weights: {listed}. "
            "Download the missing files into the same folder."
        )


def _find_config(path: Path, family: Literal["hf", "mistral"], names: set[str]) -> Path:
    order = CONFIG_FILES if family == "hf" else CONFIG_FILES[::-1]
    for name in order:
        if name in names:
            return path / name
    raise CheckpointError(
        f"{path} has weights but neither config.json nor params.json; "
        "copy the file that was published with these weights."
    )
