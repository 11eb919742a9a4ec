"""Files for transformers: the ids are ours, for texts of every kind and for conversations."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf_tokenizers
from typer.testing import CliRunner, Result

from mixtral.checkpoint import open_checkpoint
from mixtral.cli.main import app
from mixtral.errors import TokenizerError
from mixtral.tokenizer import Tokenizer, load_tokenizer
from mixtral.tokenizer.files import built_in_file
from mixtral.tokenizer.hugging_face import hugging_face_vocabulary, write_hugging_face_tokenizer
from tests.eval.tiny_llm import write_model

TEXTS = (
    "",
    " ",
    "The river runs to the sea.",
    "  two spaces before, two behind  ",
    "\n\nlines\n\n\n  and\tindents\r\n",
    "def f(x):\n    if x:\n        return  -x",
    "Ünïcödé, e\u0301, “quotes” — 日本語, Ελλάδα, русский",
    "🙂👨\u200d👩\u200d👧 \U0001f3f3 \x00\x01\x7f",
    "one\u2581two \u2581 three",
    "3.14159, 2**64 = 18446744073709551616",
)
SPELLED = "[INST] <s>not a token</s> <unk> [/INST]"
ALPHABET = "ab  \n\té日🙂.\u2581'\"1<s>[/INST]Ωж"
CONVERSATION = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "What is  deep? "},
    {"role": "assistant", "content": "The sea."},
    {"role": "user", "content": "\nAnd what else?\n"},
]


@pytest.fixture(scope="session")
def theirs() -> dict[str, hf_tokenizers.Tokenizer]:
    """What the library of transformers reads, by version."""
    made = {}
    for version in ("v1", "v3"):
        text = json.dumps(hugging_face_vocabulary(built_in_file(version)))
        made[version] = hf_tokenizers.Tokenizer.from_str(text)
        # As transformers does it for split_special_tokens=True.
        made[version].encode_special_tokens = True
    return made


def test_texts_have_the_same_ids_and_come_back(
    tokenizer: Tokenizer, theirs: dict[str, hf_tokenizers.Tokenizer]
) -> None:
    other = theirs[tokenizer.version]
    rng = random.Random(0)
    drawn = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 60))) for _ in range(200)]
    for text in (*TEXTS, SPELLED, *drawn):
        token_ids = tokenizer.encode(text)
        assert other.encode(text).ids == token_ids, text
        assert other.decode(token_ids) == tokenizer.decode(token_ids)


def test_runs_of_spaces_of_any_length_have_the_same_ids(
    tokenizer: Tokenizer, theirs: dict[str, hf_tokenizers.Tokenizer]
) -> None:
    for count in range(70):
        text = "a" + " " * count + "b" + " " * count
        assert theirs[tokenizer.version].encode(text).ids == tokenizer.encode(text), count


def test_transformers_loads_the_folder_by_itself(tmp_path: Path, tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers", reason="reads what is written")
    _write_model_folder(tmp_path, tokenizer.version)
    assert write_hugging_face_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path).version == tokenizer.version  # still ours
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == tokenizer.vocab_size
    for text in TEXTS:
        encoded = theirs(text)
        assert encoded["input_ids"] == tokenizer.encode(text)
        assert set(encoded) == {"input_ids", "attention_mask"}
    literal = theirs(SPELLED, split_special_tokens=True)["input_ids"]
    assert literal == tokenizer.encode(SPELLED)
    assert theirs("<s>", add_special_tokens=False)["input_ids"] == [tokenizer.bos_id]
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    _compare_conversations(theirs, tokenizer)


def _compare_conversations(theirs: Any, tokenizer: Tokenizer) -> None:
    for messages in (CONVERSATION, CONVERSATION[1:], CONVERSATION[:2]):
        found = theirs.apply_chat_template(messages, return_dict=False)
        assert found == tokenizer.encode_chat(messages)
    with pytest.raises(Exception, match="take turns"):
        theirs.apply_chat_template(CONVERSATION[2:])
    with pytest.raises(Exception, match="no place for tools"):
        theirs.apply_chat_template(CONVERSATION, tools=[{"type": "function", "function": {}}])


def test_a_folder_keeps_the_files_that_it_has(tmp_path: Path) -> None:
    _write_model_folder(tmp_path, "v3")
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert not write_hugging_face_tokenizer(tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        write_hugging_face_tokenizer(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_convert_writes_them_in_the_hugging_face_layout_alone(tmp_path: Path) -> None:
    source, names = tmp_path / "source", ("tokenizer.json", "tokenizer_config.json")
    write_model(source)
    shutil.copy(built_in_file("v3"), source / "tokenizer.model.v3")
    for layout, is_written in (("hf", True), ("consolidated", False)):
        assert convert(source, tmp_path / layout, layout).exit_code == 0
        assert [(tmp_path / layout / name).exists() for name in names] == [is_written] * 2


def test_convert_says_so_where_the_tokenizer_cannot_be_written(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write_model(source)
    (source / "tokenizer.model").write_bytes(b"no tokenizer")
    result = convert(source, target, "hf")
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert "other programs will find no tokenizer" in result.stderr
    assert open_checkpoint(target).config.vocab_size == 32768
    assert not (target / "tokenizer.json").exists()


def convert(source: Path, target: Path, layout: str) -> Result:
    return CliRunner().invoke(app, ["convert", str(source), str(target), "--format", layout])


def _write_model_folder(folder: Path, version: str) -> None:
    shutil.copy(built_in_file(version), folder / f"tokenizer.model.{version}")
    config = {"model_type": "mixtral", "vocab_size": {"v1": 32000, "v3": 32768}[version]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
