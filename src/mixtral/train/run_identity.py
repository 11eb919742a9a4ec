"""What a run has in common with the one that it goes on from: its settings, its data, its start.

A resumed run gives the losses of an undisturbed one only if nothing that decides them has changed
meanwhile. Two kinds of things decide them:

* settings: the stage and the fields of the recipe, except those of ``_FREE``, which may change;
* files: the data and the weights to start from. They are told apart by what is in them, not by
  their paths (``mixtral.fingerprint``), so a folder may move and a file that was written anew is
  noticed.

Both stand in ``run.json`` in the folder of the run, from before its first step. So what lies in the
folder can be told to be of this run, even if it was stopped before its first state.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mixtral.errors import ConfigError
from mixtral.fingerprint import fingerprint
from mixtral.train.parallel import ParallelContext
from mixtral.train.precision import compute_dtype
from mixtral.train.recipe import FILE_FIELDS, TrainRecipe

_FREE = ("output", "log_every", "checkpoint_every", "keep_best", "tensorboard", "parallel")
# Named by their contents, or, as the cache, without influence on what is learned.
_NO_SETTINGS = (*_FREE, *FILE_FIELDS, "init_from", "lora.expert_loads", "dpo.reference_cache")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunIdentity:
    """What must not change between a run and its resumption."""

    settings: Mapping[str, Any]
    """Stage and fields of the recipe, those of its tables as ``table.field``."""
    files: Mapping[str, str]
    """Field of the recipe that names a file or folder -> hash of its contents; empty: not known,
    as in the states of earlier versions."""

    @classmethod
    def of(
        cls, recipe: TrainRecipe, stage: str, start: Path | None, in_use: Mapping[str, Any]
    ) -> Self:
        """Read the files that a recipe names.

        Args:
            recipe: All settings.
            stage: What is learned.
            start: Folder of ``init_from``; None where the first weights are random.
            in_use: ``settings_in_use``.

        Raises:
            OSError: A file cannot be read.
        """
        named = {name: getattr(recipe, name) for name in FILE_FIELDS}
        if recipe.lora is not None:
            named["lora.expert_loads"] = recipe.lora.expert_loads
        files = {name: fingerprint(Path(path)) for name, path in named.items() if path}
        if start is not None:
            files["init_from"] = fingerprint(start)
        return cls(settings=settings_of(recipe, stage, in_use), files=files)

    @classmethod
    def from_state(cls, text: str) -> Self:
        """Return what a state says about its run: the settings alone.

        Args:
            text: JSON of ``settings_of``, or of an earlier version's nested fields.
        """
        return cls(settings=_decisive(json.loads(text)), files={})

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read a file that ``text`` was written to; None where there is none.

        Raises:
            ConfigError: It is something else.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(settings=dict(values["settings"]), files=dict(values["files"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{path} is not of a training run; name another output folder, or move it away."
            ) from error

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    def difference(self, before: "RunIdentity") -> str | None:
        """Say what is not as it was in an earlier run; None if nothing that is known.

        A setting that an earlier version did not know had what is now its default; what it left to
        the machine ("auto") may have been anything.
        """
        defaults = settings_of(TrainRecipe(output="-", train_records="-"), "", {})
        was, now = (_told(defaults | dict(run.settings)) for run in (before, self))
        changed = [
            f"{name} was {was.get(name)!r} and is {now.get(name)!r}"
            for name in sorted({*was, *now})
            if was.get(name) != now.get(name) and "auto" not in (was.get(name), now.get(name))
        ]
        if before.files and self.files:
            changed += [
                f"what {name} names is not what it was"
                for name in sorted({*self.files, *before.files})
                if self.files.get(name) != before.files.get(name)
            ]
        if len(changed) > 3:
            changed[3:] = [f"{len(changed) - 3} more"]
        return ", ".join(changed) or None


def settings_of(recipe: TrainRecipe, stage: str, in_use: Mapping[str, Any]) -> dict[str, Any]:
    """Return stage and settings of a run as JSON gives them back.

    Args:
        recipe: All settings.
        stage: What is learned.
        in_use: ``settings_in_use``; nothing leaves the recipe's own words.
    """
    values = {"stage": stage, **dataclasses.asdict(recipe), **in_use}
    return _decisive(json.loads(json.dumps(values)))


def settings_in_use(recipe: TrainRecipe, context: ParallelContext) -> dict[str, Any]:
    """Return what a recipe leaves to the machine and to the number of processes, as it is here.

    Another precision or device gives other losses, and so does another size of micro-batches,
    because records are packed into them.
    """
    dtype: str = recipe.dtype
    if dtype == "auto":
        dtype = str(compute_dtype("auto", context.device)).removeprefix("torch.")
    return {
        "dtype": dtype,
        "device": context.device.type,
        "micro_batch_tokens": micro_batch_size(recipe, context.world_size),
    }


def micro_batch_size(recipe: TrainRecipe, world_size: int) -> int:
    """Return the most tokens of a forward and backward pass."""
    return recipe.micro_batch_tokens or recipe.tokens_per_step // world_size


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """Say what the recipe's 0 meant to earlier versions, where there was one process."""
    micro = settings["micro_batch_tokens"] or settings["tokens_per_step"]
    return settings | {"micro_batch_tokens": micro}


def _decisive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the tables of a recipe, and leave out what decides nothing or is told by files."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("lora", "dpo") and isinstance(value, Mapping):
            flat |= {f"{name}.{field}": part for field, part in value.items()}
        else:
            flat[name] = value
    return {name: value for name, value in flat.items() if name not in _NO_SETTINGS}
