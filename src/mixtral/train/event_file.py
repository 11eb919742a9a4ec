"""The file that TensorBoard reads, written by the thread that has the numbers.

``SummaryWriter`` of torch leaves the writing to a thread of its own. Where that fails, because the
disk is full, the thread prints a traceback, and what it met comes back later, at any other call.
Here a line of numbers is on the disk when ``write`` returns, or ``write`` says why it is not.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]


class EventFile:
    """A new file of events.

    Args:
        folder: Where TensorBoard looks; made where it is missing.
        first_step: TensorBoard drops what earlier files have from this step on.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard looks for the word tfevents, and reads files in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab")
        self._records = RecordWriter(self._file)
        try:
            self._add(Event(file_version="brain.Event:2"))
            self._add(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))
        except OSError:
            self.close()
            raise

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Write the numbers of one step.

        Raises:
            OSError: It cannot be written.
        """
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: What a failed write has left over cannot be written now, either.
        """
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()
