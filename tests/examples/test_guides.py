"""The guides' examples: what they say is what is run, and the guides' code is all that they are."""

import ast
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "tests" / "clients"
GUIDES = ROOT / "examples" / "guides"
EXAMPLES = sorted(str(path.relative_to(GUIDES)) for path in GUIDES.rglob("*.py"))
SOURCES = {
    "mixtral_8x7b_guide": "mixtral_guide_a.txt",
    "mixtral_8x22b_tutorial": "mixtral_8x22b_tutorial.txt",
    "mixtral_8x7b_model_card": "mixtral_8x7b_model_card.txt",
}
# Where a guide shows a prompt or describes a way, and no code that could be kept.
OURS = {
    "mixtral_8x7b_guide/json_generation.py",
    "mixtral_8x7b_guide/chat_template.py",
    "mixtral_8x22b_tutorial/function_calling.py",
}
# The address; and a notebook's last line of a cell, which shows a value without print.
ADDRESS = re.compile(
    r"^(endpoint|device|client|model_id|file)=|^(from|import)|^print\((len|type)\("
)


@cache
def suites() -> ModuleType:
    spec = importlib.util.spec_from_file_location("client_suites", CLIENTS / "suites.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def bare(code: str) -> str:
    """Return code without what a formatter or a page changes: spaces, quotes, commas, breaks."""
    return re.sub(r"[\s,'\"\\]|# .*", "", code)


def test_every_example_is_run_in_an_environment() -> None:
    run = [example for suite in suites().SUITES for example in suite.examples]
    assert sorted(run) == EXAMPLES


def test_every_client_script_is_run_in_an_environment() -> None:
    run = {name for suite in suites().SUITES for name in suite.checks}
    assert run == {path.name for path in CLIENTS.glob("client_*.py")}


def test_every_requirement_is_pinned() -> None:
    files = {f"{suite.environment}.txt" for suite in suites().SUITES}
    assert files == {path.name for path in (CLIENTS / "requirements").iterdir()}
    for name in files:
        for line in (CLIENTS / "requirements" / name).read_text(encoding="utf-8").splitlines():
            assert re.fullmatch(r"[\w.-]+==[\w.]+|#.*", line), f"{name}: {line}"


def test_pip_line_of_an_example_is_what_its_environment_has() -> None:
    for suite in suites().SUITES:
        pins = (CLIENTS / "requirements" / f"{suite.environment}.txt").read_text(encoding="utf-8")
        for example in suite.examples:
            doc = ast.get_docstring(ast.parse((GUIDES / example).read_text(encoding="utf-8")))
            assert doc is not None
            line = next(line for line in doc.splitlines() if "pip install" in line)
            named = line.split()[2:]
            assert any("==" in package for package in named), example
            for package in named:
                if package != "torch":
                    assert re.search(rf"^{re.escape(package)}\b", pins, re.MULTILINE), package


def test_versions_in_the_docs_are_those_that_are_run() -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| \[([\w-]+)[^|]*\| ([\d., ]+) \|", page, re.MULTILINE)
    assert len(named) == 7
    requirements = (CLIENTS / "requirements").iterdir()
    pins = [line for path in requirements for line in path.read_text(encoding="utf-8").splitlines()]
    for package, versions in named:
        for version in versions.strip().split(", "):
            assert f"{package}=={version}" in pins


@pytest.mark.parametrize("example", [name for name in EXAMPLES if name not in OURS])
def test_example_is_the_code_of_its_guide_but_for_the_address(example: str) -> None:
    page = ROOT.parent / "shared" / "reference" / SOURCES[example.split("/")[0]]
    if not page.exists():
        pytest.skip("the guides are pages of others; they are not part of this repository")
    guide = bare(page.read_text(encoding="utf-8"))
    source = (GUIDES / example).read_text(encoding="utf-8")
    for statement in ast.parse(source).body[1:]:
        # The card's prompt goes to "cuda"; here, to where the model is.
        code = bare(ast.get_source_segment(source, statement) or "").replace("(device)", "(cuda)")
        assert code in guide or ADDRESS.match(code), f"{example}: {code}"
