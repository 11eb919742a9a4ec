"""The command line for tests of calibration."""

from tests.cli.conftest import run as run
from tests.cli.conftest import tiny as tiny
