"""The vocabulary of a GGUF file is Mistral's v1 or v3, piece by piece, or it is refused."""

from pathlib import Path

import pytest

from mixtral.errors import TokenizerError
from mixtral.gguf_file import GgufFile, read_gguf
from mixtral.gguf_file.container import Value
from mixtral.gguf_file.encoding import encode_header
from mixtral.tokenizer import load_tokenizer
from mixtral.tokenizer.gguf_vocabulary import (
    Version,
    load_gguf_tokenizer,
    vocabulary_fields,
    vocabulary_version,
)


def vocabulary(version: Version, vocab_size: int | None = None) -> GgufFile:
    """Return the description of a file with a vocabulary."""
    size = {"v1": 32000, "v3": 32768}[version]
    fields = vocabulary_fields(version, vocab_size or size)
    metadata: dict[str, Value] = {key: field.value for key, field in fields.items()}
    return GgufFile(path=Path("m.gguf"), metadata=metadata, tensors={})


def tokens(file: GgufFile) -> list[str]:
    found = file.metadata["tokenizer.ggml.tokens"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("version", ["v1", "v3"])
def test_what_is_written_is_recognised(version: Version, tmp_path: Path) -> None:
    size = {"v1": 32000, "v3": 32768}[version]
    header, _, _ = encode_header(vocabulary_fields(version, size), [])
    path = tmp_path / "m.gguf"
    path.write_bytes(header)
    assert vocabulary_version(read_gguf(path)) == version
    tokenizer = load_gguf_tokenizer(path, vocab_size=size + 8)
    assert (tokenizer.version, tokenizer.num_padding_ids) == (version, 8)


def test_types_of_tokens_are_those_of_llama_cpp() -> None:
    file = vocabulary("v3", 32770)
    kinds = file.metadata["tokenizer.ggml.token_type"]
    assert isinstance(kinds, list)
    by_piece = dict(zip(tokens(file), kinds, strict=True))
    assert by_piece["<unk>"] == 2
    assert by_piece["<s>"] == by_piece["[INST]"] == by_piece["[control_748]"] == 3
    assert by_piece["[REFERENCE_DOC_3]"] == 4
    assert by_piece["[PAD32769]"] == 5
    assert by_piece["<0x0A>"] == 6
    assert by_piece["\u2581Hello"] == 1


def test_padding_pieces_are_no_other_vocabulary() -> None:
    assert vocabulary_version(vocabulary("v1", 32032)) == "v1"


def test_v2_names_of_special_tokens_are_v3() -> None:
    file = vocabulary("v3")
    for token_id in (10, 11, 12, 13, 751, 770):
        tokens(file)[token_id] = f"[control_{token_id - 2}]"
    assert vocabulary_version(file) == "v3"


def test_other_vocabularies_are_refused_with_the_first_difference() -> None:
    changed = vocabulary("v1")
    tokens(changed)[5000] = "other"
    with pytest.raises(TokenizerError, match=r"not Mistral's v1 vocabulary: id 5000 is 'other'"):
        vocabulary_version(changed)
    added = vocabulary("v1", 32001)
    tokens(added)[32000] = "<|im_end|>"
    kinds = added.metadata["tokenizer.ggml.token_type"]
    assert isinstance(kinds, list)
    kinds[32000] = 3
    with pytest.raises(TokenizerError, match=r"it adds '<\|im_end\|>' as id 32000"):
        vocabulary_version(added)
    short = vocabulary("v1")
    del tokens(short)[100:]
    with pytest.raises(TokenizerError, match="has a vocabulary of 100 pieces, and v1 has 32000"):
        vocabulary_version(short)


def test_file_without_a_vocabulary_says_so() -> None:
    fields = vocabulary_fields(None, 512)
    metadata: dict[str, Value] = {key: field.value for key, field in fields.items()}
    file = GgufFile(path=Path("m.gguf"), metadata=metadata, tensors={})
    with pytest.raises(TokenizerError, match="has no vocabulary"):
        vocabulary_version(file)


@pytest.mark.parametrize("size", [512, 31999])
def test_vocabulary_larger_than_the_model_is_refused(size: int) -> None:
    with pytest.raises(TokenizerError, match="do not belong together"):
        vocabulary_fields("v1", size)
    assert load_tokenizer("v1").vocab_size == 32000
