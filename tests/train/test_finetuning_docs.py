"""docs/finetuning.md and recipes/finetune: every example parses, every message is one of ours."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mixtral.cli.main import app
from mixtral.train import TrainRecipe, read_recipe
from mixtral.train.recipe import TABLES
from mixtral.train.records import parse_conversation, parse_document, parse_preference

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "recipes" / "finetune").glob("*.toml"))
SOURCES = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def test_every_record_on_the_page_is_accepted() -> None:
    lines = [line for block in blocks("json") for line in block.splitlines()]
    lines += re.findall(r'`(\{"text".*?\})`', PAGE)
    assert len(lines) >= 5
    for line in lines:
        value = json.loads(line)
        parse = parse_document if "text" in value else parse_conversation
        (parse_preference if "chosen" in value else parse)(value)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_is_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert Path(recipe.output).parent == ROOT / "runs" / "finetune"


def test_recipes_on_the_page_are_parts_of_the_files() -> None:
    files = [tomllib.loads(path.read_text(encoding="utf-8")) for path in RECIPES]
    shown = [tomllib.loads(block) for block in blocks("toml")]
    assert len(shown) >= 2
    for values in shown:
        flat = _flat(values)
        assert any(flat.items() <= _flat(file).items() for file in files), values


def test_every_field_that_the_page_names_exists() -> None:
    fields = {name for owner in (TrainRecipe, *TABLES.values()) for name in _fields(owner)}
    named = set(re.findall(r"`(\w+_\w+)(?: = [^`]*)?`", PAGE)) - {"q_proj"}
    assert len(named) > 10
    values = {"adapter_off"}
    assert named - values <= fields


def test_every_command_on_the_page_parses_and_its_recipes_exist() -> None:
    lines = re.findall(r"^(?:torchrun .* )?mixtral(?:\.cli)? (.*)$", PAGE, re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line)
        group: Any = get_command(app)
        while hasattr(group, "get_command"):
            context = group.make_context(words[0], [], resilient_parsing=True)
            _, group, words = group.resolve_command(context, words)
        known = {option for parameter in group.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
        for word in words:
            assert not word.startswith("recipes/") or (ROOT / word).is_file(), word


def test_every_message_in_the_table_is_one_of_ours() -> None:
    table = PAGE.partition("| message |")[2]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) >= 6
    for message in messages:
        # What stands for a value is left out, and so is where a line of the source ends.
        for part in re.split(r"FILE:LINE|\.\.\.|\bis nan\b", message):
            words = part.strip(" :;")
            assert any(words in _joined(source) for source in SOURCES), words


def _joined(source: str) -> str:
    return re.sub(r'"\s*\n\s*f?"', "", source)


def _fields(owner: Any) -> set[str]:
    return set(owner.__dataclass_fields__)


def _flat(values: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in values.items():
        parts = value if isinstance(value, dict) else {"": value}
        found |= {f"{name}.{part}": repr(inner) for part, inner in parts.items()}
    return found
