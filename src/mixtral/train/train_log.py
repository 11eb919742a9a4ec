"""Where the numbers of a run go: a line of JSON each, and TensorBoard where it is installed."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixtral.train.run_folder import RunFolder

if TYPE_CHECKING:
    from mixtral.train.event_file import EventFile

logger = logging.getLogger(__name__)


class TrainLog:
    """Writes records to ``log.jsonl`` and to the folder ``tensorboard``.

    Training is worth more than its curves: where TensorBoard's file cannot be written, a warning
    says so once and the numbers go to ``log.jsonl`` alone.

    Args:
        folder: Files of the run.
        first_step: First step of this process; TensorBoard drops what an earlier one wrote past it.
        use_tensorboard: Whether to write for TensorBoard; it is left out with a warning where the
            package is missing.
    """

    def __init__(self, folder: RunFolder, *, first_step: int, use_tensorboard: bool) -> None:
        self._folder = folder
        self._board = _open_board(folder.path, first_step) if use_tensorboard else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of one step; nested ones get names such as ``router_entropy/3``.

        Raises:
            CheckpointError: The disk is full.
        """
        self._folder.append_log({name: _rounded(value) for name, value in record.items()})
        if self._board is not None:
            scalars = {name: value for name, value in _scalars(record) if name != "step"}
            try:
                self._board.write(scalars, record["step"])
            except OSError as error:
                _warn_of_board(error)
                self.close()

    def close(self) -> None:
        """Close what is open; all numbers are written already."""
        if self._board is not None:
            with contextlib.suppress(OSError):  # of a failed write, which was told of
                self._board.close()
            self._board = None


def _open_board(path: Path, first_step: int) -> "EventFile | None":
    try:
        from mixtral.train.event_file import EventFile
    except ImportError:
        logger.warning(
            "tensorboard is not installed, so the numbers go to log.jsonl alone: "
            "pip install 'mixtral[train]', or set tensorboard = false in the recipe"
        )
        return None
    try:
        return EventFile(path / "tensorboard", first_step=first_step)
    except OSError as error:
        _warn_of_board(error)
        return None


def _warn_of_board(error: OSError) -> None:
    logger.warning(
        "the numbers go to log.jsonl alone from here on, because TensorBoard's file cannot be "
        "written: %s",
        error.strerror or error,
    )


def _scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _scalars({str(i): part for i, part in enumerate(value)}, f"{prefix}{name}/")
        elif value is not None:
            yield prefix + name, float(value)


def _rounded(value: Any) -> Any:
    """Keep the loads of experts short in the log; all other numbers stay exact."""
    if isinstance(value, list):
        return [_rounded(part) if isinstance(part, list) else round(part, 5) for part in value]
    return value
