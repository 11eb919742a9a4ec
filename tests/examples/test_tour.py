"""The notebook: it runs top to bottom, and is stored as somebody finds it who has not run it."""

import ast
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the extra dev is not installed")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples"
PATH = FOLDER / "tour.ipynb"
MAX_CELL_LINES = 35


@pytest.fixture(scope="module")
def tour() -> Any:
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_of(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_tour_is_stored_without_outputs_and_without_traces_of_a_machine(tour: Any) -> None:
    for cell in tour.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert dict(tour.metadata.language_info) == {"name": "python"}
    assert tour.metadata.kernelspec.name == "python3"


def test_tour_explains_every_cell_before_it_comes(tour: Any) -> None:
    kinds = [cell.cell_type for cell in tour.cells]
    assert kinds[0] == kinds[-1] == "markdown"
    for before, kind in itertools.pairwise(kinds):
        assert (before, kind) != ("code", "code")


def test_tour_shows_what_was_promised_in_order(tour: Any) -> None:
    texts = [cell.source for cell in tour.cells if cell.cell_type == "markdown"]
    headings = re.findall(r"^## \d\. (.*)$", "\n".join(texts), re.MULTILINE)
    assert headings == [
        "Chat",
        "JSON",
        "Tools",
        "What the router does",
        "Embeddings",
        "Answers from documents",
        "Fine-tuning",
    ]


def test_cells_are_short_and_use_public_names_alone(tour: Any) -> None:
    for source in code_of(tour):
        assert len(source.splitlines()) <= MAX_CELL_LINES
        nodes = ast.walk(ast.parse(source))
        names = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
        assert not any(name.startswith("_") for name in names)


def test_cells_run_one_after_the_other(
    tour: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the next test, in this process: quick, and without what only Jupyter shows."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.delenv("MIXTRAL_MODEL", raising=False)
    variables: dict[str, Any] = {"__name__": "__main__"}
    for source in code_of(tour):
        exec(compile(source, str(PATH), "exec"), variables)
    check_results(variables)
    assert "Microsoft" in capsys.readouterr().out


def check_results(variables: dict[str, Any]) -> None:
    """Check what the cells leave behind, whatever the model says."""
    num_tokens, num_layers = len(variables["token_ids"]), variables["llm"].config.num_hidden_layers
    assert variables["trace"].expert_ids.shape == (num_tokens, num_layers, 2)
    assert [sum(layer) for layer in variables["load"]] == [2 * num_tokens] * num_layers
    assert "$3 billion" in variables["found"][0].text, "the right passage comes first"
    assert variables["losses"][-1] < variables["losses"][0] / 2


@pytest.mark.slow
def test_tour_runs_top_to_bottom_in_jupyter(tour: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: a kernel imports torch and sentence-transformers anew, 20 s and more."""
    nbclient = pytest.importorskip("nbclient", reason="the extra dev is not installed")
    monkeypatch.delenv("MIXTRAL_MODEL", raising=False)
    client = nbclient.NotebookClient(
        tour.copy(), timeout=300, resources={"metadata": {"path": str(FOLDER)}}
    )
    ran = client.execute()
    outputs = {cell.id: cell.outputs for cell in ran.cells if cell.cell_type == "code"}
    assert "image/png" in outputs["load-map"][-1].data
    assert "<span" in outputs["tokens"][-1].data["text/html"]
    assert outputs["chat"][0].text.strip()
