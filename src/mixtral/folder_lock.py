"""One writer at a time in a folder, across processes.

The lock is an advisory ``flock`` on the folder itself: nothing is left behind, and the system takes
it back when the process ends, however it ends. Where there is no such thing (Windows, some network
disks) everyone gets the lock, and two writers are the user's to avoid.
"""

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """A lock on a folder, held until ``release`` or the end of this object.

    Args:
        folder: A folder that exists.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        self.is_held = True
        """Whether this object may write; False where another one has the lock."""
        if fcntl is None:
            return
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.is_held = False
            self.release()
        except OSError:  # A disk without locks.
            return

    def release(self) -> None:
        """Let the next one write; nothing happens the second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        """Release it when nobody can any more."""
        self.release()
