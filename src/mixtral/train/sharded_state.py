"""The resumable state of a run on several processes: each writes and reads its own shards.

A state is a folder ``NAME/STEP`` in the format of ``torch.distributed.checkpoint``: tensors are
named as the model's parameters, and a reader takes the pieces that it needs whoever wrote them.
So a run of two processes goes on with one, four, or another split of the experts. The folder is
written under another name and renamed, so that one with a number is whole; older ones are deleted
after that. Several processes write beside the training, over a group of their own, because two
threads must not use one group at the same time.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from mixtral.errors import CheckpointError, ConfigError
from mixtral.train.parallel import ParallelContext
from mixtral.train.shards import as_shard, local_shard

_VALUES = "values.json"
_SHARE = "Name an output on a disk that all machines share."
_FAILURES = (OSError, RuntimeError, ValueError, KeyError, CheckpointException)


class ShardedState:
    """States of one run on disk, of which the newest counts.

    Args:
        path: Folder of the states; made with the first one.
        context: This process among the others.
    """

    def __init__(self, path: Path, context: ParallelContext) -> None:
        self.path = path
        self._context = context
        self._pending: Future[None] | None = None
        self._group: dist.ProcessGroup | None = None

    @property
    def newest_step(self) -> int | None:
        """Step of the newest whole state; None where there is none."""
        if not self.path.is_dir():
            return None
        return max((int(p.name) for p in self.path.iterdir() if p.name.isdigit()), default=None)

    def save(self, step: int, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Begin to write a state; the tensors may change as soon as this returns.

        A collective operation. It first waits for the state before this one.

        Args:
            step: Number of the state, above those that are there.
            tensors: By name; DTensors, or plain tensors that are the same in every process that
                has them.
            values: What JSON can hold; those of process 0 are kept.

        Raises:
            CheckpointError: The disk has no room, or the state before could not be written.
            ConfigError: The processes do not see the same folder.
        """
        self.wait()
        self._require_room(tensors)
        new = self.path / f"{step}.new"
        failure: OSError | None = None
        try:
            if self._context.is_main:
                _make_folder(new, values)
        except OSError as error:
            failure = error
        self._require_written(failure)
        self._require_shared(new)
        try:
            self._pending = self._begin(new, dict(tensors))
        except _FAILURES as error:
            raise self._not_written(error) from error
        if self._context.is_main:
            self._pending = followed_by(self._pending, lambda: self._publish(new, step))

    def _begin(self, new: Path, tensors: dict[str, Tensor]) -> "Future[None]":
        writer = FileSystemWriter(new, overwrite=False)
        if self._context.world_size == 1:
            with _without_warning():
                save(tensors, storage_writer=writer, no_dist=True)
            done: Future[None] = Future()
            done.set_result(None)
            return done
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        # It copies the tensors before it returns, and writes the copies.
        begun = async_save(tensors, storage_writer=writer, process_group=self._group)
        return cast("Future[None]", begun)

    def wait(self) -> None:
        """Return when the state that was begun is on the disk, under its name, for every process.

        Raises:
            CheckpointError: It could not be written.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._require_written(pending.exception())

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Fill tensors from the newest state, in place, whatever number of processes wrote it.

        Args:
            tensors: As for ``save``; their contents are replaced.

        Returns:
            The values of the state; None where there is none, and the tensors are as they were.

        Raises:
            CheckpointError: The state is damaged, or belongs to another model.
            ConfigError: The processes do not see the same folder.
        """
        step = self._common_step()
        if step is None:
            return None
        folder = self.path / str(step)
        is_alone = self._context.world_size == 1
        try:
            values = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
            with _without_warning():
                load(dict(tensors), storage_reader=FileSystemReader(folder), no_dist=is_alone)
        except _FAILURES as error:
            raise CheckpointError(
                f"{folder} cannot be read: {_reason(error)}. If it belongs to another model, name "
                "another output; if it is damaged, delete it to start anew."
            ) from error
        assert isinstance(values, dict)
        return values

    def _common_step(self) -> int | None:
        """Return the newest step, which must be the same for all.

        Raises:
            ConfigError: It is not.
        """
        if self._context.world_size == 1:
            return self.newest_step
        steps: list[int | None] = [None] * self._context.world_size
        dist.all_gather_object(steps, self.newest_step)
        for rank, step in enumerate(steps):
            if step != steps[0]:
                raise ConfigError(
                    f"of {self.path}, process 0 sees {_told(steps[0])} and process {rank} "
                    f"{_told(step)}. {_SHARE}"
                )
        return steps[0]

    def _require_shared(self, new: Path) -> None:
        """Make sure that the folder of process 0 is the one that all others would write into.

        Raises:
            ConfigError: It is not.
        """
        # To make it asks the server of a shared disk, where to look might find an old answer.
        is_apart = not self._context.is_main and _can_make(new)
        if self._context.any_true(is_apart):
            raise ConfigError(f"not every process sees {self.path} of process 0. {_SHARE}")

    def _publish(self, new: Path, step: int) -> None:
        """Put a whole state in its place; runs on the thread that wrote it."""
        new.rename(self.path / str(step))
        for other in self.path.iterdir():
            if other.name != str(step):
                shutil.rmtree(other, ignore_errors=True)

    def _require_room(self, tensors: Mapping[str, Tensor]) -> None:
        own = sum(local_shard(t).nbytes for t in tensors.values())
        needed = self._context.sum_values({"bytes": own})["bytes"]
        folder = next(p for p in (self.path, *self.path.parents) if p.exists())
        free = shutil.disk_usage(folder).free
        # Asked by all, answered by all: one process alone must not leave the others waiting.
        if self._context.sum_values({"short": float(free < needed)})["short"]:
            raise CheckpointError(
                f"{self.path} has {free / 1e6:.0f} MB free; a state takes {needed / 1e6:.0f} MB. "
                "Free some space and start again: the run resumes from the last state."
            )

    def _require_written(self, failure: BaseException | None) -> None:
        """Go on where every process has written its part.

        Asked by all, answered by all: no process may wait for one that has ended with an error.

        Raises:
            CheckpointError: One of them could not.
        """
        if not self._context.any_true(failure is not None):
            return
        if failure is not None and not isinstance(failure, _FAILURES):
            raise failure
        raise self._not_written(failure or RuntimeError("another process failed")) from failure

    def _not_written(self, error: BaseException) -> CheckpointError:
        return CheckpointError(
            f"a state in {self.path} cannot be written: {_reason(error)}. Free some space and "
            "start again: the run resumes from the last state."
        )


def followed_by(work: "Future[None]", then: Callable[[], None]) -> "Future[None]":
    """Return a future that is done when ``then`` is, which runs once ``work`` has succeeded.

    Who waits for ``work`` itself may be awake before its callbacks have run, and would never hear
    of an error in them.
    """
    both: Future[None] = Future()

    def finish(work: "Future[None]") -> None:
        try:
            work.result()
            then()
        except BaseException as error:  # whatever it is, who waits has to hear of it
            both.set_exception(error)
        else:
            both.set_result(None)

    work.add_done_callback(finish)
    return both


def adamw_tensors(
    names: Sequence[str],
    parameters: Sequence[Tensor],
    masters: Sequence[Tensor],
    adamw: torch.optim.AdamW,
) -> dict[str, Tensor]:
    """Return weights and moments of an optimizer by name, as shards of the whole.

    Moments that do not exist yet are made, so that a fresh optimizer can be filled by ``load``.

    Args:
        names: Names of the parameters.
        parameters: Those of the model; DTensors where it is split.
        masters: The float32 tensors that ``adamw`` steps, each the local shard of its parameter.
        adamw: The optimizer.

    Returns:
        ``weight.NAME``, ``exp_avg.NAME``, ``exp_avg_sq.NAME`` and ``step.NAME``, sharing memory
        with the optimizer.
    """
    tensors = {}
    for name, parameter, master in zip(names, parameters, masters, strict=True):
        state = adamw.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            state["exp_avg"] = torch.zeros_like(master)
            state["exp_avg_sq"] = torch.zeros_like(master)
        tensors[f"weight.{name}"] = as_shard(master, parameter)
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = as_shard(state[moment], parameter)
        tensors[f"step.{name}"] = state["step"]
    return tensors


@contextmanager
def _without_warning() -> Iterator[None]:
    """Keep torch from wondering whether one process is meant to be alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _make_folder(new: Path, values: Mapping[str, Any]) -> None:
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    with (new / _VALUES).open("w", encoding="utf-8") as file:
        json.dump(dict(values), file)
        file.flush()
        os.fsync(file.fileno())


def _can_make(folder: Path) -> bool:
    """Whether a folder was not there; it is not there afterwards either."""
    try:
        folder.mkdir(parents=True)
        folder.rmdir()
    except OSError:  # it is there; or nothing can be made here, as its writer will tell
        return False
    return True


def _told(step: int | None) -> str:
    return "no state" if step is None else f"the state of step {step}"


def _reason(error: BaseException) -> str:
    """Return the first line of what the first failing process said."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
