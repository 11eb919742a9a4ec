"""A report is one folder: whole files, a page that needs nothing else, words for chance."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mixtral.cli.measuring import give_report
from mixtral.errors import ConfigError
from mixtral.reports import folder as folder_module
from mixtral.reports import pictures
from mixtral.reports.folder import check_file, check_folder, write_report
from mixtral.reports.markdown import markdown
from mixtral.reports.page import fill_page, report_page
from mixtral.reports.report import Heading, Picture, Report, Table, new_head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NASTY = "<script>alert(1)</script> & \"'|\n"


def draw_line(figure: "Figure") -> None:
    figure.add_subplot().plot([0, 1], [1, 0])


def report(text: str = "two") -> Report:
    table = Table(
        caption=text, head=("what", "how many", ""), rows=[(text, "2", text)], text_columns=(0, 2)
    )
    picture = Picture(name="line", alt=text, draw=draw_line, width=2, height=2)
    settings = {"model": {"name": text, "fingerprint": None}, "seed": 7, "tasks": ["a", "b"]}
    return Report(
        head=new_head("counting", settings),
        title=text,
        results={"count": 2},
        blocks=[text, Heading(text), table],
        pictures=[picture],
    )


class Reader(HTMLParser):
    """Collects what a page asks for, and checks that every element is closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_folder_has_numbers_tables_page_and_pictures_and_nothing_else(tmp_path: Path) -> None:
    assert write_report(tmp_path / "new" / "out", report())
    names = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert names == {"results.json", "report.md", "index.html", "line.png", "line.svg"}
    values = json.loads((tmp_path / "new/out/results.json").read_text())
    assert values["kind"] == "counting"
    assert values["settings"]["seed"] == 7
    assert values["count"] == 2
    assert set(values["versions"]) == {"mixtral", "torch", "python", "machine"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", values["created"])


def test_page_needs_no_other_file_and_no_script(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    page = (tmp_path / "index.html").read_text()
    reader = Reader(page)
    assert not reader.open
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in reader.tags}
    sources = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert [str(source).partition(",")[0] for source in sources] == ["data:image/svg+xml;base64"]
    assert not re.search(r"https?:|url\(|@import", page)
    assert "default-src 'none'" in page
    assert "script-src" not in page
    assert "prefers-color-scheme: dark" in page


def test_page_is_for_every_reader(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    page = (tmp_path / "index.html").read_text()
    reader = Reader(page)
    kinds = [tag for tag, _ in reader.tags]
    assert ("html", {"lang": "en"}) in reader.tags
    assert kinds.count("h1") == kinds.count("main") == 1
    assert kinds.count("caption") == kinds.count("table") == 2
    assert all(attributes.get("alt") for tag, attributes in reader.tags if tag == "img")
    assert all(attributes.get("scope") for tag, attributes in reader.tags if tag == "th")
    regions = [a for tag, a in reader.tags if tag == "div"]
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)


def test_names_cannot_break_page_or_table() -> None:
    page = report_page(report(NASTY), [pictures.DrawnPicture(alt=NASTY, svg=b"<svg/>")])
    reader = Reader(page)
    assert not reader.open
    assert "script" not in {tag for tag, _ in reader.tags}
    text = markdown(report(NASTY).blocks)
    table = text[text.index("| what") :].splitlines()
    assert len(table) == 3
    assert r"\|" in table[2]


def test_page_says_how_it_was_measured() -> None:
    page = report_page(report(), [])
    for name, value in (("model name", "two"), ("seed", "7"), ("tasks", "a, b"), ("kind", "count")):
        assert f'<th scope="row">{name}</th><td class="text">{value}' in page
    assert 'model fingerprint</th><td class="text">-<' in page


def test_script_of_ours_is_allowed_only_where_there_is_one() -> None:
    assert "script" not in fill_page("a", "<p>b</p>")
    page = fill_page("a", "<p>b</p>", script="1 + 1;")
    assert "script-src 'unsafe-inline'" in page
    assert "<script>\n1 + 1;\n</script>" in page


def test_report_without_matplotlib_has_no_pictures_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**size: float) -> "Figure":
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.figure")

    monkeypatch.setattr(pictures, "new_figure", missing)
    assert not write_report(tmp_path, report())
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "report.md", "index.html"}
    assert "<img" not in (tmp_path / "index.html").read_text()


def test_other_missing_module_is_a_bug_and_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**size: float) -> "Figure":
        raise ModuleNotFoundError("No module named 'numpi'", name="numpi")

    monkeypatch.setattr(pictures, "new_figure", missing)
    with pytest.raises(ModuleNotFoundError, match="numpi"):
        write_report(tmp_path, report())


def test_failed_report_leaves_the_numbers_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, report())
    before = (tmp_path / "results.json").read_bytes()

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path, report("three"))
    assert (tmp_path / "results.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_number_that_is_none_is_refused_before_it_is_written(tmp_path: Path) -> None:
    bad = Report(head={}, title="a", results={"x": float("nan")}, blocks=())
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path, bad)
    assert not (tmp_path / "results.json").exists()


def test_folder_of_another_kind_is_refused_and_of_the_same_kind_is_not(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", kind="counting")
    write_report(tmp_path, report())
    check_folder(tmp_path, kind="counting")
    with pytest.raises(ConfigError, match="has a report of counting; name another folder for pass"):
        check_folder(tmp_path, kind="passkey")
    with pytest.raises(ConfigError, match="which is a file; name a folder"):
        check_folder(tmp_path / "results.json", kind="counting")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", '{"mine": 1}'),
        ("results.json", "not JSON"),
        ("results.json", '{"kind": ["counting"]}'),
        ("index.html", "my page"),
        ("report.md", "my report"),
    ],
)
def test_files_of_the_user_are_not_written_over(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"has {name}, and no whole report of counting"):
        check_folder(tmp_path, kind="counting")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_place_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/sub cannot be written: .*Name another folder"):
        check_folder(tmp_path / "file" / "sub", kind="counting")
    with pytest.raises(ConfigError, match=r"--json is .*, which is a folder; name a file"):
        check_file("--json", tmp_path)
    with pytest.raises(ConfigError, match="no is no folder; make it"):
        check_file("--json", tmp_path / "no" / "x.json")
    check_file("--json", tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("as_json", [False, True])
def test_numbers_are_printed_also_where_they_cannot_be_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_whole", full)
    with pytest.raises(OSError, match="No space left"):
        give_report(report("three"), out=tmp_path, as_json=as_json)
    printed = capsys.readouterr().out
    assert (json.loads(printed)["kind"] == "counting") if as_json else ("three" in printed)
