"""``mixtral paraphrase``: the guide's three sentences, from a file to tables and JSON."""

import json
from pathlib import Path

import pytest

pytest.importorskip("sentence_transformers", reason="the extra embed is not installed")

from mixtral.cli import paraphrase as command
from mixtral.embed import Embedder
from tests.cli.conftest import Run

SENTENCES = [
    "What led to Zidane's ban from football?",
    "This is a totally different sentence.",
    "What caused Zidane to get banned from football?",
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def loaded(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands have the model at once; the first test of this file loads it as users do."""
    monkeypatch.setattr(command, "_load", lambda model, device: embedder)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join([*SENTENCES, "", SENTENCES[1]]) + "\n")
    return path


def test_model_is_loaded_by_the_name_that_is_given(run: Run, file: Path, tmp_path: Path) -> None:
    assert json.loads(run("paraphrase", file, "--json").stdout)["model"] == "all-MiniLM-L6-v2"
    result = run("paraphrase", file, "--embedding-model", tmp_path)
    assert result.exit_code == 2
    assert "has no modules.json" in result.stderr


@pytest.mark.usefixtures("loaded")
def test_table_json_and_file_tell_the_same(run: Run, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    shown = run("paraphrase", file)
    values = json.loads(run("paraphrase", file, "--json", "--out", out).stdout)
    assert json.loads(out.read_text()) == values
    assert values["duplicates"] == [[2, 5]]
    assert [(pair["first"], pair["second"]) for pair in values["pairs"]] == [(1, 3)]
    assert [cluster["lines"] for cluster in values["clusters"]] == [[1, 3], [2, 5]]
    distance = values["pairs"][0]["distance"]
    rows = shown.stdout.splitlines()
    assert rows[0] == "distance  cosine  line  text"
    assert rows[1].startswith(f"{distance:8.4f}")
    assert rows[1].endswith(f"   1  {SENTENCES[0]}")
    assert rows[2].endswith(f"   3  {SENTENCES[2]}")
    assert "cluster 1: 2 texts" in rows
    assert "1 pairs and 2 clusters among 4 texts" in shown.stderr


@pytest.mark.usefixtures("loaded")
def test_pairs_or_clusters_alone(run: Run, file: Path) -> None:
    assert "clusters" not in json.loads(run("paraphrase", file, "--pairs", "--json").stdout)
    assert "pairs" not in json.loads(run("paraphrase", file, "--clusters", "--json").stdout)


@pytest.mark.usefixtures("loaded")
def test_all_is_the_guides_table(run: Run) -> None:
    text = "\n".join(SENTENCES)
    rows = run("paraphrase", "-", "--all", input=text).stdout.splitlines()
    assert [row.split(") [[")[0] for row in rows] == [
        f"({SENTENCES[i]!r}, {SENTENCES[j]!r}" for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    distances = [float(row.split("[[")[1].rstrip("]")) for row in rows]
    assert distances[1] < min(distances[0], distances[2])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--threshold", "3"), "threshold is 3.0"),
        (("--method", "fast"), "method is 'fast'"),
        (("--pairs", "--clusters"), "exclude each other"),
        (("--all", "--threshold", "1"), "leave out --pairs, --clusters, --threshold"),
        (("--column", "text"), "has no column 'text'"),
        (("--out", "/no/such/folder/found.json"), "is no folder"),
        (("--out", "/"), "--out is /, which is a folder; name a file"),
    ],
)
def test_wrong_options_are_one_line(
    run: Run, file: Path, options: tuple[str, ...], expected: str
) -> None:
    result = run("paraphrase", file, *options)
    assert result.exit_code == 2
    assert expected in result.stderr.splitlines()[-1]


@pytest.mark.usefixtures("loaded")
def test_mark_at_the_beginning_of_standard_input_is_no_text(run: Run) -> None:
    text = "".join(f"{line}\n" for line in SENTENCES)
    result = run("paraphrase", "-", "--all", input=b"\xef\xbb\xbf" + text.encode())
    assert result.stdout.startswith(f"({SENTENCES[0]!r}, ")


def test_one_text_has_no_pairs(run: Run) -> None:
    result = run("paraphrase", "-", input="alone\n")
    assert result.exit_code == 2
    assert "pairs need at least 2" in result.stderr
