"""Find Chromium for the browser tests, and install Debian's where there is none.

The Python package playwright drives the browser, but the browser is the system's: what playwright
would download itself is another hundred megabytes from another place.

    .venv/bin/python tests/browser/install.py
"""

import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE = "CHROMIUM"
INSTALL = (
    ("apt-get", "update", "--quiet"),
    ("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", "chromium"),
)
ADVICE = (
    "There is no Chromium. On Debian and Ubuntu: sudo apt-get install chromium. Elsewhere install "
    f"Chromium or Chrome, and set {VARIABLE} to its program if it is not on the PATH."
)


def find_chromium() -> str | None:
    """Return the path of the browser; None where there is none."""
    if named := os.environ.get(VARIABLE):
        return shutil.which(named)
    return next(filter(None, map(shutil.which, NAMES)), None)


def main() -> None:
    if find_chromium() is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0 or os.environ.get(VARIABLE):
            raise SystemExit(ADVICE)
        for command in INSTALL:
            subprocess.run(
                command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            )
    found = find_chromium()
    if found is None:
        raise SystemExit(ADVICE)
    print(f"Chromium: {found}")


if __name__ == "__main__":
    main()
