"""Programs of a model: right ones pass, others fail within their limits."""

import sys

import pytest

from mixtral.eval.code_trial import runs_through

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")


def test_program_that_reaches_its_end_passes() -> None:
    assert runs_through("def add(a, b):\n    return a + b\nassert add(2, 3) == 5\n")


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 == 2",
        "def f(:",
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "text = bytearray(1 << 33)",
        "open('big', 'wb').write(bytes(1 << 22))",
        "import os; assert os.environ.get('PATH')",
    ],
)
def test_program_that_does_not_reach_its_end_fails(program: str) -> None:
    assert not runs_through(program)


def test_endless_program_ends_with_its_time() -> None:
    assert not runs_through("while True:\n    pass", cpu_s=1)
