"""Virtual environments of the clients: made once, and again when their requirements change."""

import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from suites import Suite

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
INSTALL_LIMIT_S = 400


def prepare(suite: Suite, folder: Path) -> str:
    """Make the environment of a suite where it is missing or old; return a line about it."""
    wanted = REQUIREMENTS / f"{suite.environment}.txt"
    home = folder / suite.environment
    made_from = home / "made-from.txt"
    stamp = f"{sys.version}\n{wanted.read_text(encoding='utf-8')}"
    if made_from.exists() and made_from.read_text(encoding="utf-8") == stamp:
        return f"{suite.environment}: environment is there"
    begin = time.perf_counter()
    shutil.rmtree(home, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    call(sys.executable, "-m", "venv", str(home))
    pip = (str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    # The file names every package, so there is nothing to resolve; imports compile what they use.
    call(*pip, "install", "--quiet", "--no-deps", "--no-compile", "-r", str(wanted))
    if suite.borrows_torch:
        packages = next(home.glob("lib/python*/site-packages"))
        borrowed = sysconfig.get_paths()["purelib"]
        (packages / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    made_from.write_text(stamp, encoding="utf-8")
    return f"{suite.environment}: environment made in {time.perf_counter() - begin:.0f} s"


def call(*command: str) -> None:
    """Run a command in silence; end this program with its output when it fails."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")
