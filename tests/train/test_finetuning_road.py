"""docs/finetuning.md as a newcomer types it: its commands in its order, from records to a server.

The commands are read from the page, so that page and test cannot drift apart. What stands for the
newcomer is small: published data sets of a few rows under ``DATA``, and recipes with fewer steps.
"""

import contextlib
import gzip
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="pictures need the extra train")

from typer.testing import CliRunner

from mixtral import LLM, SamplingParams
from mixtral.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = ("mixtral", "mkdir", "python", "curl", "torchrun")
PRINTED_URL = "http://127.0.0.1:8000"
SHOWN = Path("docs/pictures/finetuning/conversations.jsonl")
QUESTION = "Say hello."
MAX_TOKENS = 12

# The whole page takes a minute and a half of one core.
pytestmark = pytest.mark.slow

Typed = dict[str, str]
"""Command -> what it printed."""


def blocks(text: str) -> list[str]:
    """Return what stands in fences without a language, or as a command in parentheses."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$|^\(`([^`]*)`\)$", text, re.MULTILINE | re.DOTALL)
    return [block or f"{inline}\n" for language, block, inline in found if not language]


def commands(text: str) -> list[str]:
    """Return the commands in them, without comments, one line each."""
    joined = (block.replace("\\\n", "") for block in blocks(text))
    lines = (re.split(r"\s{2,}# ", line)[0] for block in joined for line in block.splitlines())
    return [line for line in lines if line.partition(" ")[0] in PROGRAMS]


def block_after(command: str) -> str:
    """Return the block that shows what a command of the page prints."""
    found = blocks(PAGE)
    return found[found.index(f"{command}\n") + 1]


SHOW = "mixtral train show runs/finetune/sft.jsonl --limit 1"
TRAIN_README = README.partition("## Train\n")[2].partition("\n## ")[0]


# ---- What a newcomer has ---------------------------------------------------------------------


def shown_record() -> tuple[str, str]:
    """Return question and answer of the record that the page shows."""
    shown = re.search(r"<s>\[INST\] (.*)\[/INST\]\{ (.*)</s>\}", block_after(SHOW))
    assert shown
    return shown[1], shown[2]


def seed_task(instruction: str, output: str) -> dict[str, Any]:
    return {"instruction": instruction, "instances": [{"input": "", "output": output}]}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def write_data(data: Path) -> None:
    """Write a few rows in the published form of each data set that ``records.py`` reads."""
    tasks = [
        seed_task(f"Count to {n}.", ", ".join(map(str, range(1, n + 1)))) for n in range(2, 26)
    ]
    write_lines(data / "self_instruct/seed_tasks.jsonl", [*tasks, seed_task(*shown_record())])
    turns = [["prompter", "Hi"], ["assistant", "Hello!"], ["prompter", "How many legs has a cat?"]]
    write_lines(data / "oasst_sample/sft.jsonl", [{"messages": turns, "response": "Four."}] * 5)
    pairs = [
        {"passages": f"Ann has {n} apples. Ben has none.", "question": "How many apples has Ann?"}
        | {"chosen": f"Ann has {n}.", "rejected": "Ben has none."}
        for n in range(24)
    ]
    write_lines(data / "fg_rlhf/pairs.jsonl.gz", pairs)


def write_recipes(folder: Path) -> None:
    """Copy the recipes of the page, with fewer steps."""
    shutil.copytree(ROOT / "recipes" / "finetune", folder)
    shorter = {"sft.toml": {"num_epochs": 1}, "dpo.toml": {"max_steps": 2, "max_eval_pairs": 2}}
    for name, values in shorter.items():
        text = (folder / name).read_text(encoding="utf-8")
        for field, value in values.items():
            text, count = re.subn(rf"^{field} = .*$", f"{field} = {value}", text, flags=re.M)
            assert count == 1, field
        (folder / name).write_text(text, encoding="utf-8")


def put_first(path: Path, question: str) -> None:
    """Put the record with a question first; the script draws which one is."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines.sort(key=lambda line: json.loads(line)["messages"][0]["content"] != question)
    path.write_text("".join(lines), encoding="utf-8")


# ---- Typing ----------------------------------------------------------------------------------


def run_mixtral(words: list[str]) -> str:
    done = CliRunner().invoke(app, words, input=f"{QUESTION}\n", prog_name="mixtral")
    assert done.exit_code == 0, done.output
    return done.stdout


def run_python(words: list[str]) -> str:
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(words[0], run_name="__main__")
    assert ended.value.code == 0
    return printed.getvalue()


@contextlib.contextmanager
def serving(words: list[str], log: Path) -> Iterator[str]:
    """Start a server as the page does, but on a free port; give its address."""
    command = [sys.executable, "-m", "mixtral.cli", *words]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"MIXTRAL_PORT": "0"},
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = re.search(r" on (http\S+)", process.stdout.readline())
            assert ready, log.read_text()
            yield ready[1]
        finally:
            process.terminate()


def curl(line: str, url: str) -> str:
    """Ask as the page does, of the server at an address."""
    assert PRINTED_URL in line
    words = shlex.split(line.replace(PRINTED_URL, url))
    if shutil.which("curl"):
        asked = ["curl", "--silent", "--show-error", "--fail-with-body", *words[1:]]
        return subprocess.run(asked, capture_output=True, check=True, timeout=60, text=True).stdout
    name, _, value = words[words.index("-H") + 1].partition(": ")
    body = words[words.index("-d") + 1].encode()
    request = urllib.request.Request(words[1], data=body, headers={name: value})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def greedily(line: str) -> str:
    """Return a command of curl that asks the same of the model, for its likeliest answer."""
    words = shlex.split(line)
    place = words.index("-d") + 1
    body = json.loads(words[place]) | {"temperature": 0, "max_tokens": MAX_TOKENS}
    return shlex.join([*words[:place], json.dumps(body), *words[place + 1 :]])


def type_in_order(lines: list[str], log: Path) -> Typed:
    """Type commands one after the other; a server ends when something else than curl follows."""
    printed: Typed = {}
    with contextlib.ExitStack() as servers:
        url = ""
        for line in lines:
            program, *words = shlex.split(line)
            if program != "curl":
                servers.close()
            if words[0] == "serve":
                url = servers.enter_context(serving(words, log))
                printed[line] = url
            elif program == "curl":
                printed |= {asked: curl(asked, url) for asked in (line, greedily(line))}
            else:
                printed[line] = OTHERS[program](words)
                if program == "python":
                    put_first(Path("runs/finetune/sft.jsonl"), shown_record()[0])
    return printed


def make_folder(words: list[str]) -> str:
    assert words[0] == "-p"
    Path(words[1]).mkdir(parents=True, exist_ok=True)
    return ""


OTHERS: dict[str, Callable[[list[str]], str]] = {
    "mixtral": run_mixtral,
    "python": run_python,
    "mkdir": make_folder,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a newcomer types: recipes and data, and no more."""
    made = tmp_path_factory.mktemp("repository")
    write_data(made / "DATA")
    (made / SHOWN).parent.mkdir(parents=True)
    shutil.copy(ROOT / SHOWN, made / SHOWN)
    write_recipes(made / "recipes" / "finetune")
    return made


@pytest.fixture(scope="module")
def typed(folder: Path) -> Iterator[Typed]:
    """All that the page types on one machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MIXTRAL_")]:
            patch.delenv(name)
        patch.chdir(folder)
        lines = [line for line in commands(PAGE) if not line.startswith("torchrun")]
        yield type_in_order(lines, folder / "server.log")


# ---- What is claimed -------------------------------------------------------------------------


def test_page_goes_from_records_to_a_served_adapter(typed: Typed) -> None:
    text = "\n".join(typed)
    road = ["mkdir", "records.py", "train show", "train sft", "train dpo", "chat", "serve", "curl"]
    road += ["adapter merge", "convert", "serve --model merged", "curl", "train plan"]
    assert re.search(".*".join(road), text, re.DOTALL)
    assert len(typed) > len(road)


def test_readme_types_what_the_page_types_and_serves_under_another_name(
    typed: Typed, folder: Path
) -> None:
    lines = commands(TRAIN_README)
    (serve,) = [line for line in lines if line not in typed]
    name, adapter = shlex.split(serve)[-1].split("=")
    assert adapter in " ".join(typed)
    body = {"model": name, "messages": [{"role": "user", "content": QUESTION}]}
    line = f"curl {PRINTED_URL}/v1/chat/completions -H 'Content-Type: application/json' -d "
    ask = line + shlex.quote(json.dumps(body))
    typed_here = type_in_order([serve, ask], folder / "server.log")
    assert json.loads(typed_here[ask])["model"] == name


def test_script_makes_both_files_of_records(typed: Typed) -> None:
    (line,) = [line for line in typed if line.startswith("python")]
    assert typed[line] == (
        "wrote 30 records to runs/finetune/sft.jsonl\nwrote 24 records to runs/finetune/dpo.jsonl\n"
    )


def test_record_is_shown_as_on_the_page(typed: Typed) -> None:
    assert typed[SHOW] == block_after(SHOW)


def test_picture_shows_the_three_examples_of_two_records(typed: Typed, folder: Path) -> None:
    (line,) = [line for line in typed if "--plot" in line]
    places = re.findall(r"^(\S+):(\d) \(\d+ tokens, \d+ learned\)$", typed[line], re.MULTILINE)
    assert places == [(str(SHOWN), number) for number in "122"]
    assert (folder / shlex.split(line)[-1]).read_bytes().startswith(b"\x89PNG")


def test_bad_record_is_named_as_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipes(tmp_path / "recipes" / "finetune")
    question, answer = ({"role": role, "content": "Hi."} for role in ("user", "assistant"))
    records = [{"messages": [question, answer]} for _ in range(200)]
    records[16]["messages"].append(question)
    write_lines(tmp_path / "runs" / "finetune" / "sft.jsonl", records)
    monkeypatch.chdir(tmp_path)
    for words in (["sft", "recipes/finetune/sft.toml"], ["show", "runs/finetune/sft.jsonl"]):
        done = CliRunner().invoke(app, ["train", *words], prog_name="mixtral")
        assert done.exit_code == 2
        assert done.stderr in blocks(PAGE)


def test_folder_of_a_run_holds_what_the_table_lists(typed: Typed, folder: Path) -> None:
    table = PAGE.partition("| file | what it is |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    listed = {name.rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    made = {path.name for path in (folder / "runs" / "finetune").glob("*/*")}
    assert listed == made | {"model"}  # an adapter is made instead


def test_preferences_begin_at_the_loss_that_the_page_says(typed: Typed, folder: Path) -> None:
    said = re.search(r"log 2 = (\d\.\d+)", PAGE)
    log = folder / "runs" / "finetune" / "dpo" / "log.jsonl"
    first = json.loads(log.read_text(encoding="utf-8").splitlines()[0])
    assert said
    assert first["loss"] == pytest.approx(float(said[1]), abs=0.01)


@pytest.mark.parametrize(
    ("model", "source", "adapter"),
    [("polite", "nano", "runs/finetune/dpo/adapter"), ("merged-int4", "merged-int4", None)],
)
def test_answer_over_http_is_that_of_the_model_it_names(
    typed: Typed, folder: Path, model: str, source: str, adapter: str | None
) -> None:
    (line,) = [line for line in commands(PAGE) if f'"model": "{model}"' in line]
    assert json.loads(typed[line])["model"] == model
    llm = LLM(str(source), adapters={model: folder / adapter} if adapter else None)
    greedy = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0)
    messages = [{"role": "user", "content": QUESTION}]
    expected = llm.chat(messages, greedy, adapter=model if adapter else None)
    answer = json.loads(typed[greedily(line)])
    assert answer["choices"][0]["message"]["content"] == expected.text != ""
