"""``mixtral routing`` as a user runs it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mixtral.checkpoint import write_checkpoint
from mixtral.cli.routing import app
from mixtral.errors import Error
from tests.models_for_tests import tiny_model

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    return lambda *args: CliRunner().invoke(app, list(map(str, args)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint folder; with this vocabulary it gets the built-in v3 tokenizer."""
    model = tiny_model(vocab_size=32768, hidden_size=16)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_checkpoint(folder, model.config, model.named_parameters(), layout="hf")
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    book, code = tmp_path / "book.txt", tmp_path / "code.py"
    book.write_text("It was the best of times.\n" * 8)
    code.write_text("def f(x):\n    return x + 1\n")
    return [book, code]


def test_a_report_is_one_folder_with_hashes_tables_page_and_pictures(
    run: Run, tiny: Path, texts: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    out, export = tmp_path / "report", tmp_path / "loads.json"
    wanted = ("--out", out, "--export", export, "--experts-per-token", "1", "--compare", tiny)
    result = run(tiny, "--text", *texts, *wanted, "--json")
    assert result.exit_code == 0, result.output
    results = json.loads((out / "results.json").read_text())
    assert [domain["name"] for domain in results["routing"]["domains"]] == ["book", "code"]
    settings = results["settings"]
    sha256 = hashlib.sha256(texts[0].read_bytes()).hexdigest()
    assert settings["texts_sha256"][str(texts[0])] == sha256
    assert len(settings["model"]["fingerprint"]) == 64
    assert sha256 in (out / "index.html").read_text()
    assert [layer["same_set"] for layer in results["comparison"]["layers"]] == [1, 1]
    assert [each["counts"] for each in results["experts_per_token"]] == [[2, 2], [1, 1]]
    names = {file.name for file in out.iterdir()}
    assert names >= {"report.md", "index.html", "load.png", "load.svg", "repetition.svg"}
    assert json.loads(result.stdout)["routing"] == results["routing"]
    assert len(json.loads(export.read_text())["layers"]) == 2
    assert not list(tmp_path.glob(".*partial"))


def test_without_json_the_tables_are_printed(run: Run, tiny: Path, texts: list[Path]) -> None:
    result = run(tiny, "--text", texts[0], "--max-tokens", 16, "--sequence-tokens", 16)
    assert result.exit_code == 0
    assert result.stdout.startswith("# Routing of ")
    assert "16 tokens" in result.stdout
    assert "| random | 1.00 |" in result.stdout


def test_wrong_input_is_refused_in_one_line(
    run: Run, tiny: Path, texts: list[Path], tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("x")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("\xe9t\xe9".encode("latin-1"))
    text = ("--text", texts[0])
    for arguments, words in (
        ((), "no MODEL"),
        ((tiny,), "no text"),
        ((tiny, texts[0]), "behind --text"),
        ((tmp_path / "gone", *text), "model is"),
        ((full, *text), "config.json"),
        ((tiny, "--text", tmp_path / "gone"), "does not exist"),
        ((tiny, "--text", tmp_path / "empty.txt"), "shorter than 2 tokens"),
        ((tiny, "--text", tmp_path / "latin.txt"), "UTF-8"),
        ((tiny, *text, "--out", full), "not an empty folder"),
        ((tiny, *text, "--out", texts[0] / "sub"), "cannot be written"),
        ((tiny, *text, "--export", tmp_path / "no" / "x.json"), "is no folder"),
        ((tiny, *text, "--export", full), "which is a folder"),
        ((tiny, *text, "--experts-per-token", 9), "from 1 to 4"),
        ((tiny, *text, "--sequence-tokens", 1), "sequence_tokens"),
        ((tiny, *text, "--max-tokens", 0), "max_tokens"),
        ((tiny, *text, "--compare", "random:nano"), "same geometry"),
        ((tiny, *text, "--adapter", tmp_path / "gone"), "no folder"),
        ((tiny, "--metrics", "http://127.0.0.1:1"), "leave MODEL"),
        (("--metrics", "http://127.0.0.1:1", "--dtype", "float32"), "leave MODEL"),
        (("--metrics", "http://127.0.0.1:1", "--layers", 1), "leave MODEL"),
        (("--metrics", "http://127.0.0.1:1", "--adapter", tiny), "leave MODEL"),
        (("--metrics", "http://127.0.0.1:1", "--max-tokens", 5), "leave MODEL"),
        (("--metrics", "http://127.0.0.1:1", "--sequence-tokens", 5), "leave MODEL"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, Error), (arguments, result.output)
        message = str(result.exception)
        assert words in message, message
        assert "\n" not in message


def test_tables_are_printed_also_where_the_report_cannot_be_written(
    run: Run, tiny: Path, texts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mixtral.routing.folder.write_files", full)
    result = run(tiny, "--text", texts[0], "--max-tokens", 16, "--out", tmp_path / "out")
    assert isinstance(result.exception, Error)
    assert "is full; free some space" in str(result.exception)
    assert "| random | 1.00 |" in result.stdout
