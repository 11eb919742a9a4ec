"""Finding the tokenizer of a folder, telling its version, and refusing what is not one."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from mixtral.errors import TokenizerError
from mixtral.tokenizer import load_tokenizer


def write_json(path: Path, pieces: list[str], added: int = 3) -> None:
    """Write a tokenizer.json as Hugging Face does: the first pieces again as added tokens."""
    content = {
        "added_tokens": [{"id": i, "content": pieces[i], "special": True} for i in range(added)],
        "model": {"type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": []},
    }
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def pieces(built_in_files: dict[str, Path]) -> dict[str, list[str]]:
    result = {}
    for version, path in built_in_files.items():
        model = SentencePieceProcessor(model_file=str(path))
        result[version] = [model.id_to_piece(i) for i in range(model.vocab_size())]
    return result


def test_built_in_tokenizers_report_themselves() -> None:
    for version, size in (("v1", 32000), ("v3", 32768)):
        tokenizer = load_tokenizer(version)
        assert (tokenizer.version, tokenizer.vocab_size) == (version, size)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.num_padding_ids) == (1, 2, 0)
        assert tokenizer.source.startswith(f"built-in {version} (mistral-common 1.")
    assert load_tokenizer("v1").control_ids == {0, 1, 2}
    assert load_tokenizer("v3").control_ids == set(range(751))


@pytest.mark.parametrize(
    ("name", "content", "version"),
    [
        ("tokenizer.model", "v1", "v1"),
        ("tokenizer.model", "v3", "v3"),
        ("tokenizer.model.v1", "v1", "v1"),
        ("tokenizer.model.v3", "v3", "v3"),
        ("mistral_instruct_tokenizer_240323.model.v3", "v3", "v3"),
    ],
)
def test_version_comes_from_the_pieces(
    tmp_path: Path, built_in_files: dict[str, Path], name: str, content: str, version: str
) -> None:
    shutil.copy(built_in_files[content], tmp_path / name)
    for path in (tmp_path, str(tmp_path), tmp_path / name):
        tokenizer = load_tokenizer(path)
        assert tokenizer.version == version
        assert tokenizer.source == str(tmp_path / name)
        assert tokenizer.encode_chat([{"role": "user", "content": "Hello"}]) == load_tokenizer(
            version
        ).encode_chat([{"role": "user", "content": "Hello"}])


def test_pickled_tokenizer_keeps_its_version(
    tmp_path: Path, built_in_files: dict[str, Path]
) -> None:
    shutil.copy(built_in_files["v3"], tmp_path / "tokenizer.model")
    tokenizer = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "Hello"}]
    expected = tokenizer.encode_chat(messages)
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert copied.encode_chat(messages) == expected == [1, 3, 23325, 4]
    assert copied.source == tokenizer.source


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.model.v3"])
def test_file_with_the_v2_names_is_read_as_v3(
    tmp_path: Path, built_in_files: dict[str, Path], name: str
) -> None:
    shutil.copy(built_in_files["v2"], tmp_path / name)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.version == "v3"
    assert tokenizer.source.endswith(f"{tmp_path / name} has the same pieces")
    assert tokenizer.encode_fim("a", "b") == load_tokenizer("v3").encode_fim("a", "b")


def test_versioned_file_goes_before_plain_before_json(
    tmp_path: Path, built_in_files: dict[str, Path], pieces: dict[str, list[str]]
) -> None:
    write_json(tmp_path / "tokenizer.json", pieces["v1"])
    assert "tokenizer.json has the same pieces" in load_tokenizer(tmp_path).source
    shutil.copy(built_in_files["v1"], tmp_path / "tokenizer.model")
    assert load_tokenizer(tmp_path).source.endswith("tokenizer.model")
    shutil.copy(built_in_files["v3"], tmp_path / "tokenizer.model.v3")
    assert load_tokenizer(tmp_path).version == "v3"


@pytest.mark.parametrize(("content", "version"), [("v1", "v1"), ("v2", "v3"), ("v3", "v3")])
def test_equal_tokenizer_json_uses_the_built_in_file(
    tmp_path: Path, pieces: dict[str, list[str]], content: str, version: str
) -> None:
    write_json(tmp_path / "tokenizer.json", pieces[content])
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.version == version
    assert tokenizer.source.startswith(f"built-in {version}")


def test_other_tokenizer_json_is_refused_with_its_first_other_piece(
    tmp_path: Path, pieces: dict[str, list[str]]
) -> None:
    changed = [*pieces["v1"]]
    changed[5000] = "never a piece"
    write_json(tmp_path / "tokenizer.json", changed)
    with pytest.raises(TokenizerError, match="id 5000 is 'never a piece', v1 has"):
        load_tokenizer(tmp_path)
    write_json(tmp_path / "tokenizer.json", [*pieces["v1"], "<|im_end|>"])
    with pytest.raises(TokenizerError, match=r"id 32000 is '<\|im_end\|>', v1 has nothing"):
        load_tokenizer(tmp_path)
    write_json(tmp_path / "tokenizer.json", pieces["v3"][:-1])
    with pytest.raises(TokenizerError, match="id 32767 is nothing, v3 has"):
        load_tokenizer(tmp_path)
    write_json(tmp_path / "tokenizer.json", pieces["v7"])
    with pytest.raises(TokenizerError, match=r"id 14 is '\[IMG_BREAK\]', v3 has"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "JSONDecodeError"),
        (b"{", "JSONDecodeError"),
        (b"\xff\xfe\x00", "Error"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError"),
        (b'{"model": {"vocab": [["a", -1.5]]}}', "is not|no piece"),
        (b'{"model": {"vocab": {"a": 3}}}', "no piece with id 0"),
        (b"[" * 100_000, "RecursionError"),
    ],
)
def test_damaged_tokenizer_json_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=reason) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_models_are_refused(tmp_path: Path, built_in_files: dict[str, Path]) -> None:
    whole = built_in_files["v1"].read_bytes()
    path = tmp_path / "tokenizer.model"
    for content in (b"", b"not a model" * 100, whole[:1000], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(TokenizerError, match="is not a whole SentencePiece model") as caught:
            load_tokenizer(tmp_path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.model", "v7", "version v7; Mixtral uses v1"),
        ("mistral_instruct_tokenizer_241114.model.v7", "v7", "version v7"),
        ("mistral_instruct_tokenizer_240216.model.v2", "v2", "version v2"),
        ("tokenizer.model.v3", "v1", "named v3 but its pieces are those of v1"),
        ("tokenizer.model.v1", "v3", "named v1 but its pieces are those of v3"),
    ],
)
def test_other_versions_are_refused(
    tmp_path: Path, built_in_files: dict[str, Path], name: str, content: str, reason: str
) -> None:
    shutil.copy(built_in_files[content], tmp_path / name)
    with pytest.raises(TokenizerError, match=reason):
        load_tokenizer(tmp_path)


def test_changed_model_with_v2_names_is_refused(
    tmp_path: Path, built_in_files: dict[str, Path]
) -> None:
    content = (
        built_in_files["v2"].read_bytes().replace("\u2581Hello".encode(), "\u2581HELLO".encode())
    )
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match="HELLO"):
        load_tokenizer(tmp_path)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="does not exist"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(TokenizerError, match=r"has no tokenizer; looked for tokenizer\.model\.v3"):
        load_tokenizer(tmp_path)
    (tmp_path / "tekken.json").write_text("{}", encoding="utf-8")
    for path in (tmp_path, tmp_path / "tekken.json"):
        with pytest.raises(TokenizerError, match="tekken"):
            load_tokenizer(path)


def test_vocab_size_of_the_model_is_checked() -> None:
    with pytest.raises(TokenizerError, match=r"32768 pieces.*vocab_size 32000"):
        load_tokenizer("v3", vocab_size=32000)
    assert load_tokenizer("v1", vocab_size=32000).num_padding_ids == 0
    padded = load_tokenizer("v1", vocab_size=32064)
    assert padded.num_padding_ids == 64
    assert padded.decode([22557, 32063]) == "Hello"
    assert padded.token_bytes(32000) == b""
    assert not padded.is_byte(32000)


def decoder(tokens: dict[int, str]) -> dict[str, object]:
    """Return tokenizer_config.json as Hugging Face writes it."""
    return {"added_tokens_decoder": {str(i): {"content": t} for i, t in tokens.items()}}


CHATML = {32000: "<|im_end|>", 32001: "<|im_start|>"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {token: i for i, token in CHATML.items()}),
        ("tokenizer_config.json", decoder({0: "<unk>", 1: "<s>", 2: "</s>"} | CHATML)),
        ("tokenizer.json", {"added_tokens": [{"id": i, "content": t} for i, t in CHATML.items()]}),
    ],
)
def test_tokens_that_a_fine_tune_added_are_refused_by_name(
    tmp_path: Path, built_in_files: dict[str, Path], name: str, content: dict[str, object]
) -> None:
    shutil.copy(built_in_files["v1"], tmp_path / "tokenizer.model")
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    for vocab_size in (32002, None):
        with pytest.raises(
            TokenizerError, match=rf"{name} adds '<\|im_end\|>' as id 32000"
        ) as caught:
            load_tokenizer(tmp_path, vocab_size=vocab_size)
        assert "\n" not in str(caught.value)
    # The model has no such rows, or the user named the file, or another tokenizer.
    assert load_tokenizer(tmp_path, vocab_size=32000).num_padding_ids == 0
    assert load_tokenizer(tmp_path / "tokenizer.model", vocab_size=32002).num_padding_ids == 2
    assert load_tokenizer("v1", vocab_size=32002).num_padding_ids == 2


@pytest.mark.parametrize(
    ("version", "tokens"),
    [
        ("v1", {0: "<unk>", 1: "<s>", 2: "</s>"}),
        ("v1", {0: "<unk>", 1: "<s>", 2: "</s>", 32000: "<pad>"}),
        ("v3", {0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 10: "[control_8]", 770: "[REF]"}),
    ],
)
def test_added_tokens_that_have_a_piece_or_only_pad_are_fine(
    tmp_path: Path, built_in_files: dict[str, Path], version: str, tokens: dict[int, str]
) -> None:
    shutil.copy(built_in_files[version], tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(decoder(tokens)), encoding="utf-8")
    for vocab_size in (None, 32832):
        assert load_tokenizer(tmp_path, vocab_size=vocab_size).version == version


@pytest.mark.parametrize("content", ["{", "[1]", '{"<|im_end|>": null}'])
def test_damaged_list_of_added_tokens_is_refused(
    tmp_path: Path, built_in_files: dict[str, Path], content: str
) -> None:
    shutil.copy(built_in_files["v1"], tmp_path / "tokenizer.model")
    (tmp_path / "added_tokens.json").write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"added_tokens\.json does not say") as caught:
        load_tokenizer(tmp_path, vocab_size=32002)
    assert "\n" not in str(caught.value)


def test_chat_template_that_is_not_mistrals_is_said(
    tmp_path: Path, built_in_files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(built_in_files["v1"], tmp_path / "tokenizer.model")
    settings = tmp_path / "tokenizer_config.json"
    for template in ("{{ '[INST] ' + messages[0].content }}", [{"template": "[INST]"}], None):
        settings.write_text(json.dumps({"chat_template": template}), encoding="utf-8")
        load_tokenizer(tmp_path)
    assert caplog.text == ""
    template = "{{ '<|im_start|>' + messages[0].content }}"
    settings.write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    load_tokenizer(tmp_path)
    assert "a chat template without [INST]" in caplog.text
