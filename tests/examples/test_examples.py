"""The examples: each runs as it is on nano and prints what it shows, whatever nano answers."""

import ast
import importlib.util
import json
import math
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mixtral.tokenizer.chat import SAFE_PROMPT

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples"
FILES = sorted(path.name for path in FOLDER.glob("*.py"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
CLIENTS = ("mistral_client.py", "openai_client.py")
MAX_LINES = 39


# ---- What each example must print ------------------------------------------------------------


def chat(out: str) -> None:
    assert len(re.findall(r"^> .*\?$", out, re.MULTILINE)) == 2
    (seen,) = re.findall(r"^<s>\[INST\].*", out, re.MULTILINE | re.DOTALL)
    assert seen.count("[/INST]") == 2, "the template shows both questions"
    assert re.search(r"\d+ tokens in, \d+ tokens out\n\Z", out)


def streaming(out: str) -> None:
    end = r"\n(\d+) tokens, the first after \d+\.\d{3} s, \d+ tokens/s\nended by: (stop|length)\n\Z"
    found = re.search(end, out)
    assert found
    assert 20 <= int(found[1]) <= 80
    assert out[: found.start()].strip()


def batch(out: str) -> None:
    assert "same answers: True" in out


def few_shot_json(out: str) -> None:
    assert isinstance(json.loads(out), dict)


def json_schema(out: str) -> None:
    person, mood, century = out.splitlines()
    fields = ast.literal_eval(person.partition("? ")[2])
    assert list(fields) == ["name", "born", "jobs"]
    assert 1000 <= fields["born"] <= 2100
    assert set(fields["jobs"]) <= {"writer", "engineer"}
    assert mood.partition("? ")[2] in ("glad", "sad", "neither")
    assert re.search(r"\? the 1[0-9]th century$", century)


def generate_code(out: str) -> None:
    verdicts = re.findall(r"^--- (the guide's answer|draft \d): (passes|fails)$", out, re.MULTILINE)
    assert verdicts[0] == ("the guide's answer", "passes")
    assert [name for name, _ in verdicts[1:]] == [f"draft {n}" for n in range(1, 5)]


def guard_rails(out: str) -> None:
    off, on = out.split("=== safe_prompt on")
    assert SAFE_PROMPT in on
    assert SAFE_PROMPT not in off
    shorter, longer = (int(n) for n in re.findall(r"a prompt of (\d+) tokens", out))
    assert shorter < longer


def function_calling(out: str) -> None:
    status = {"T1001": "Paid", "T1002": "Unpaid", "T1003": "Pending"}
    calls = re.findall(r"^payment_status\((\{.*?\})\) = (\{.*\})$", out, re.MULTILINE)
    assert calls
    for arguments, result in calls:
        transaction = ast.literal_eval(arguments)["transaction_id"]
        assert ast.literal_eval(result) == {"status": status[transaction]}


def agent(out: str) -> None:
    results = {
        "payment_status": {"T1001": "Paid", "T1002": "Unpaid", "T1003": "Pending"},
        "payment_date": {"T1001": "2021-10-05", "T1002": "2021-10-06", "T1003": "2021-10-07"},
    }
    calls = re.findall(r"^step \d: (\w+)\((\{.*?\})\) = (.*) \((\w+)\)$", out, re.MULTILINE)
    assert calls
    for name, arguments, result, status in calls:
        if status == "ok":
            assert result == results[name][json.loads(arguments)["transaction_id"]]
    assert calls[0][3] == "ok", "the arguments of a forced call satisfy the schema"
    assert re.search(r"^(stop|length|max_steps): ", out, re.MULTILINE)


def embeddings(out: str) -> None:
    first, *lines = out.splitlines()
    assert first == "all-MiniLM-L6-v2: 3 vectors of 384 components"
    rows = [[float(n) for n in re.findall(r"-?\d\.\d\d", line)] for line in lines]
    assert [rows[i][i] for i in range(3)] == [1.0, 1.0, 1.0]
    assert rows == [list(column) for column in zip(*rows, strict=True)]
    assert rows[0][1] > rows[0][2], "two questions about players are nearer than one about an oven"


def paraphrase(out: str) -> None:
    table, *clusters = out.split("\ncluster ")
    rows = re.findall(r"^ *(\d\.\d+) +-?\d\.\d+  (.*)\n +(.*)$", table, re.MULTILINE)
    assert len(rows) == 3
    nearest = min(rows, key=lambda row: float(row[0]))
    assert all("Zidane" in sentence for sentence in nearest[1:])
    assert len(clusters) == 2
    for cluster, word in zip(clusters, ("Zidane", "bread"), strict=True):
        sentences = cluster.strip().splitlines()[1:]
        assert len(sentences) == 2
        assert all(word in sentence for sentence in sentences)


def rag_news(out: str) -> None:
    _, microsoft, ftx, marathon = out.split("\n> ")
    assert "Microsoft" in re.findall(r"^\[1\].*", microsoft, re.MULTILINE)[0]
    assert "FTX" in re.findall(r"^\[1\].*", ftx, re.MULTILINE)[0]
    assert marathon.endswith("\nNot in the documents.\n")


def http_client(out: str) -> None:
    found = re.fullmatch(r"(.*)\n(\{.*?\})\n(.*)\n", out, re.DOTALL)
    assert found
    whole, usage, streamed = found.groups()
    assert streamed == whole
    assert ast.literal_eval(usage)["completion_tokens"] <= 40


def official_client(out: str) -> None:
    assert out.endswith("\n2 vectors of 384 components\n")


def long_context_passkey(out: str) -> None:
    verdicts = re.findall(r"^ *(\d+) % deep: \d{5} (found|not found), ", out, re.MULTILINE)
    assert [int(depth) for depth, _ in verdicts] == [0, 25, 50, 75, 100]
    num_found = [verdict for _, verdict in verdicts].count("found")
    assert out.endswith(f"{num_found} of 5 keys found in 992 tokens\n")


def router(out: str) -> None:
    pairs = re.findall(r" \d \((\d\.\d\d)\)  \d \((\d\.\d\d)\)$", out, re.MULTILINE)
    assert len(pairs) > 10
    assert all(math.isclose(float(a) + float(b), 1, abs_tol=0.011) for a, b in pairs)
    loads = re.findall(r"^layer \d+:((?: +[\d.]+%)+)$", out, re.MULTILINE)
    for load in loads:
        shares = [float(share.rstrip("%")) for share in load.split()]
        assert math.isclose(sum(shares), 100, abs_tol=0.5)
    assert len(loads) > 1


def quantize(out: str) -> None:
    first, *lines = out.splitlines()
    sizes = [float(re.findall(r"([\d.]+) MB", line)[0]) for line in (first, *lines)]
    assert [line.split(":")[0].strip() for line in lines] == ["int8", "int4", "int3"]
    # Not against bfloat16: packed, nano's embedding is no longer its head and counts twice.
    assert sizes[1:] == sorted({*sizes[1:]}, reverse=True)
    assert sizes[-1] > 0
    moved = [float(re.findall(r"divergence ([\d.]+)", line)[0]) for line in lines]
    assert 0 < moved[0] < min(moved[1:])  # of 20 tokens; too few to tell four bits from three


def finetune_lora(out: str) -> None:
    losses = [float(loss) for loss in re.findall(r"^step \d: loss ([\d.]+)$", out, re.MULTILINE)]
    assert len(losses) == 8
    assert losses[-1] < losses[0] / 2
    without, adapted = re.findall(r"^(?:no adapter|pirate): (.*)$", out, re.MULTILINE)
    assert without != adapted


CHECKS: dict[str, Callable[[str], None]] = {
    "agent.py": agent,
    "batch.py": batch,
    "chat.py": chat,
    "embeddings.py": embeddings,
    "few_shot_json.py": few_shot_json,
    "finetune_lora.py": finetune_lora,
    "function_calling.py": function_calling,
    "generate_code.py": generate_code,
    "guard_rails.py": guard_rails,
    "http_client.py": http_client,
    "json_schema.py": json_schema,
    "long_context_passkey.py": long_context_passkey,
    "mistral_client.py": official_client,
    "openai_client.py": official_client,
    "paraphrase.py": paraphrase,
    "quantize.py": quantize,
    "rag_news.py": rag_news,
    "router.py": router,
    "streaming.py": streaming,
}


# ---- Running them ----------------------------------------------------------------------------


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what the person who runs the tests has set for models and servers."""
    for name in [name for name in os.environ if name.startswith("MIXTRAL_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``mixtral serve`` with nano."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MIXTRAL_")}
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "mixtral.cli", "serve", "--model", "nano", "--port", "0"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=clean, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = re.search(r" on (http\S+)", process.stdout.readline())
            assert ready, log.read_text()
            yield ready[1]
        finally:
            process.terminate()


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("_client.py")])
def test_example_prints_what_it_shows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    CHECKS[name](capsys.readouterr().out)


@pytest.mark.usefixtures("clean_environment")
def test_http_client_prints_what_it_shows(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIXTRAL_URL", url)
    runpy.run_path(str(FOLDER / "http_client.py"), run_name="__main__")
    http_client(capsys.readouterr().out)


@pytest.mark.parametrize("name", CLIENTS)
def test_official_client_prints_what_it_shows(name: str, request: pytest.FixtureRequest) -> None:
    package = "openai" if name.startswith("openai") else "mistralai"
    python = Path(sys.executable)
    if importlib.util.find_spec(package) is None:
        python = ROOT / ".venv-clients" / "current" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{package} is not installed; `make test-clients` makes .venv-clients with it")
    environment = os.environ | {"MIXTRAL_URL": request.getfixturevalue("url")}
    done = subprocess.run(
        [python, FOLDER / name], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    official_client(done.stdout)


# ---- What they look like ---------------------------------------------------------------------


def test_every_example_has_a_check() -> None:
    assert sorted(CHECKS) == FILES


def test_readme_lists_every_example_and_no_other_file() -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)
    notebooks = [path.name for path in FOLDER.glob("*.ipynb")]
    assert sorted(listed) == sorted(FILES + notebooks)


@pytest.mark.parametrize("name", FILES)
def test_example_is_short_says_what_it_shows_and_uses_public_names_alone(name: str) -> None:
    source = (FOLDER / name).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(source))
    private = [
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_")
    ]
    assert private == []
    if "LLM(" in source:
        assert 'os.environ.get("MIXTRAL_MODEL", "nano")' in source
