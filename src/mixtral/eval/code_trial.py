"""Runs a program that a model wrote, in a process of its own with limits, and says if it ends well.

The process has an empty folder, an empty environment, limits of processor time, memory and file
size, a session that is killed as a whole, and on Linux, where the kernel allows it, no network.
That keeps accidents in; it is no prison for a program that means harm: run this in a container.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# Runs in the child. It notes the end in a file, because a program may leave early with status 0.
_START = """
import sys
folder, cpu_s, memory_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
try:
    import resource
    for name, most in (("CPU", cpu_s), ("AS", memory_bytes), ("FSIZE", 1 << 20), ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
    import ctypes
    ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET
except (ImportError, AttributeError, OSError, ValueError):
    pass
with open(folder + "/program.py", encoding="utf-8") as file:
    program = compile(file.read(), "program.py", "exec")
exec(program, {"__name__": "__main__"})
open(folder + "/finished", "w").close()
"""


def runs_through(program: str, *, cpu_s: int = 10, memory_bytes: int = 1 << 30) -> bool:
    """Run a Python program, and say whether it reaches its end without an error.

    Args:
        program: Its text.
        cpu_s: Most processor time in seconds; it may last three times as long by the clock, for
            machines that do other work too.
        memory_bytes: Most address space in bytes.
    """
    with tempfile.TemporaryDirectory(prefix="mixtral-code-") as folder:
        (Path(folder) / "program.py").write_text(program, encoding="utf-8", errors="replace")
        process = subprocess.Popen(
            # -I: neither the folder, nor the user's packages, nor the environment are searched.
            [sys.executable, "-I", "-c", _START, folder, str(cpu_s), str(memory_bytes)],
            cwd=folder,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3 * cpu_s)
        finally:
            _kill(process)
        return process.returncode == 0 and (Path(folder) / "finished").exists()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
