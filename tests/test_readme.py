"""The README: its numbers follow from the code, its commands exist, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from mixtral.cli.main import app
from mixtral.config import ModelConfig
from mixtral.quantization import RECIPES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", ["8x7b", "8x22b", "7b"])
def test_machine_table_follows_from_the_configs(preset: str) -> None:
    config = ModelConfig.preset(preset)
    cache = config.kv_bytes_per_token() * config.max_position_embeddings
    sizes = [config.weight_bytes("bfloat16"), *(r.packed_bytes(config) for r in RECIPES.values())]
    cells = " | ".join(f"{size / 1e9:.1f} GB" for size in sizes)
    context = f"{cache / 1e9:.1f} GB ({config.max_position_embeddings:,} tokens)"
    assert f"| {preset} | {cells} | {context} |" in README


def test_every_command_in_the_readme_parses() -> None:
    lines = re.findall(r"^(?:\$ )?(mixtral [^#\n]*)", README, flags=re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line)[1:]
        group = get_command(app)
        while hasattr(group, "get_command"):
            context = group.make_context(words[0], [], resilient_parsing=True)
            _, group, words = group.resolve_command(context, words)
        known = {option for parameter in group.params for option in parameter.opts}
        used = {word for word in words if word.startswith("--")}
        assert used <= known, f"{line}: unknown {used - known}"


def test_every_link_in_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert missing == []


def test_every_path_in_the_tables_exists() -> None:
    paths = re.findall(r"`((?:src|tests|recipes|benchmarks|docs)/[\w./-]+)`", README)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_readme_is_short() -> None:
    assert README.count("\n") <= 200
