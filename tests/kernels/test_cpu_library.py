"""The C++ library: same numbers on every level as the formula, and a clear way out without it."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixtral.errors import ConfigError
from mixtral.kernels.cpu.library import (
    FILE_NAME,
    LEVEL_VARIABLE,
    CpuLibrary,
    load_library,
    open_library,
)
from mixtral.kernels.cpu.signatures import ABI_VERSION, SIGNATURES

LEVELS = ("portable", "avx2", "avx512", "avx512bf16")
SHAPES = [(1, 1), (1, 17), (5, 1), (7, 33), (3, 15), (3, 16), (0, 8), (64, 4096)]
EPS = 1e-5


@pytest.fixture
def library() -> Iterator[CpuLibrary]:
    """The library of this installation, at its own level again afterwards."""
    loaded = load_library()
    if loaded is None:
        pytest.skip(f"{FILE_NAME} is not built: no C++ compiler when the package was installed")
    level = loaded.level
    yield loaded
    loaded.force_level(level)


def _use_level(library: CpuLibrary, level: str) -> None:
    if level not in library.usable_levels:
        pytest.skip(f"{level} is not among the levels of this CPU: {library.usable_levels}")
    library.force_level(level)


def _inputs(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator) * 3
    return x, torch.randn(shape[1], generator=generator)


def _run_python(code: str, level: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {LEVEL_VARIABLE: level},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_equals_the_formula_on_every_level(
    library: CpuLibrary, level: str, shape: tuple[int, int]
) -> None:
    _use_level(library, level)
    x, weight = _inputs(shape)
    wide = x.double()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + EPS)
    expected = (wide * scale * weight.double()).float()
    actual = library.rms_norm(x, weight, EPS)
    assert library.level == level
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_level_gives_the_same_bits(library: CpuLibrary, shape: tuple[int, int]) -> None:
    x, weight = _inputs(shape)
    results = []
    for level in library.usable_levels:
        library.force_level(level)
        results.append(library.rms_norm(x, weight, EPS))
    assert all(torch.equal(result, results[0]) for result in results)


def test_leading_dimensions_are_rows(library: CpuLibrary) -> None:
    x, weight = _inputs((6, 20))
    flat = library.rms_norm(x, weight, EPS)
    torch.testing.assert_close(library.rms_norm(x.view(2, 3, 20), weight, EPS).view(6, 20), flat)
    torch.testing.assert_close(library.rms_norm(x[0], weight, EPS), flat[0])


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.bfloat16), torch.ones(4), r"x is torch\.bfloat16 on cpu"),
        (torch.zeros(2, 4), torch.ones(4, dtype=torch.float64), r"weight is torch\.float64"),
        (torch.zeros(4, 2).T, torch.ones(4), r"x has strides \[1, 2\]; it must be contiguous"),
        (torch.zeros(2, 4), torch.ones(8)[::2], r"weight has strides \[2\]"),
        (torch.zeros(2, 4), torch.ones(5), r"weight has shape \[5\].*\[2, 4\]"),
        (torch.zeros(2, 4), torch.ones(2, 4), r"weight has shape \[2, 4\]"),
        (torch.tensor(1.0), torch.tensor(1.0), r"weight has shape \[\]"),
        (torch.zeros(2, 4, device="meta"), torch.ones(4), r"x is torch\.float32 on meta"),
    ],
)
def test_tensors_that_the_kernel_cannot_read_are_refused(
    library: CpuLibrary, x: Tensor, weight: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        library.rms_norm(x, weight, EPS)


def test_unknown_level_is_refused_and_changes_nothing(library: CpuLibrary) -> None:
    before = library.level
    with pytest.raises(ConfigError) as error:
        library.force_level("sse9")
    assert "'sse9'" in str(error.value)
    assert ", ".join(library.usable_levels) in str(error.value)
    assert LEVEL_VARIABLE in str(error.value)
    assert library.level == before


def test_best_level_is_chosen_when_nothing_is_forced(library: CpuLibrary) -> None:
    code = "from mixtral.kernels.cpu.library import load_library; print(load_library().level)"
    assert _run_python(code, level="").stdout.strip() == library.usable_levels[-1]


def test_environment_variable_forces_a_level(library: CpuLibrary) -> None:
    code = "from mixtral.kernels.cpu.library import load_library; print(load_library().level)"
    assert _run_python(code, level="portable").stdout.strip() == "portable"
    failed = _run_python(code, level="sse9")
    assert failed.returncode != 0
    assert "ConfigError: CPU level is 'sse9'" in failed.stderr


def test_level_is_logged_once(library: CpuLibrary, caplog: pytest.LogCaptureFixture) -> None:
    load_library.cache_clear()
    with caplog.at_level(logging.INFO, logger="mixtral"):
        load_library()
        load_library()
    assert [record.getMessage() for record in caplog.records] == [
        f"CPU kernels: {library.level}, from {library.path}"
    ]


def test_missing_library_gives_none_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    with caplog.at_level(logging.INFO, logger="mixtral"):
        assert open_library([tmp_path, tmp_path / "absent"]) is None
    assert caplog.messages == ["CPU kernels: plain PyTorch, because libmixtral_cpu.so is not built"]


def test_file_that_is_no_library_gives_none_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    (tmp_path / FILE_NAME).write_bytes(b"not a library")
    with caplog.at_level(logging.INFO, logger="mixtral"):
        assert open_library([tmp_path]) is None
    assert str(tmp_path / FILE_NAME) in caplog.text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("int mixtral_abi_version(void) { return 9999; }", "has ABI version 9999"),
        ("int something_else(void) { return 0; }", "has no mixtral_abi_version"),
        (
            f"int mixtral_abi_version(void) {{ return {ABI_VERSION}; }}",
            "has no mixtral_cpu_level; install the package again",
        ),
    ],
)
def test_library_with_another_interface_gives_none_and_says_why(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    reason: str,
) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build a library of another version with")
    (tmp_path / "other.c").write_text(source)
    command = [compiler, "-shared", "-fPIC", "-o", FILE_NAME, "other.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    with caplog.at_level(logging.INFO, logger="mixtral"):
        assert open_library([tmp_path]) is None
    assert reason in caplog.text


def test_forced_level_without_a_library_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "portable")
    with pytest.raises(ConfigError, match="MIXTRAL_CPU_LEVEL is 'portable', but there is no CPU"):
        open_library([tmp_path])


def test_abi_version_is_the_one_of_the_header() -> None:
    root = Path(__file__).resolve().parents[2]
    header = (root / "src/mixtral/kernels/cpu/csrc/abi.h").read_text()
    assert f"#define MIXTRAL_ABI_VERSION {ABI_VERSION}\n" in header


def test_importing_the_binding_imports_no_torch() -> None:
    code = "import sys, mixtral.kernels.cpu.library; sys.exit('torch' in sys.modules)"
    assert _run_python(code, level="").returncode == 0


def test_every_function_of_the_header_is_bound() -> None:
    root = Path(__file__).resolve().parents[2]
    header = (root / "src/mixtral/kernels/cpu/csrc/abi.h").read_text()
    assert set(re.findall(r"^MIXTRAL_API .*?(mixtral_\w+)\(", header, re.M)) == set(SIGNATURES)
