"""Find the tokenizer of a model and tell its version from what the file holds.

A model folder may have several: ``tokenizer.model.v3`` (Mistral's own name), ``tokenizer.model``
(no version in the name), ``mistral_instruct_tokenizer_240323.model.v3`` (as distributed with the
raw weights), ``tokenizer.json`` (Hugging Face). They are looked for in this order; the first one
decides. The pieces tell the version:

    v1   no control tokens but ``<s>`` and ``</s>``
    v2   [INST] is control token 3; ids 10 to 13 are called [control_8] to [control_11]
    v3   as v2, but ids 10 to 13 are [IMG], [PREFIX], [MIDDLE], [SUFFIX]
    v7   has [SYSTEM_PROMPT]; no Mixtral uses it

A model of v3 may come with an unversioned ``tokenizer.model`` or ``tokenizer.json`` that holds the
v2 names: 24 tokens below 771 (ids 10 to 13 and the [REFERENCE_DOC_n]) are then called [control_n],
everything else is equal. Such a file is read as v3, with the v3 file of mistral-common, and
``source`` says so. A ``tokenizer.json`` is never used to tokenize: when its vocabulary is that of
v1 or v3, piece by piece, the SentencePiece file of that version is used; otherwise it is refused.

Files beside it that add tokens to those pieces make a folder's tokenizer another one, which is
refused (``added_tokens``). GGUF files carry their own vocabulary and are not read here; nothing is
downloaded.
"""

import json
import logging
import re
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from sentencepiece import SentencePieceProcessor

from mixtral.errors import TokenizerError
from mixtral.tokenizer.added_tokens import refuse_added_tokens, warn_of_other_template
from mixtral.tokenizer.tokenizer import Tokenizer

BUILT_IN_FILES: dict[str, str] = {
    "v1": "tokenizer.model.v1",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
}
"""The SentencePiece files that come with mistral-common and belong to Mixtral 8x7B and 8x22B."""

V3_VOCAB_SIZE = 32768
"""Pieces of the v3 tokenizer, all of which a model of 8x22B has."""

FOLDER_PATTERNS = (
    "tokenizer.model.v3",
    "tokenizer.model.v1",
    "tokenizer.model",
    "mistral_instruct_tokenizer_*.model.v*",
    "tokenizer.json",
)
"""What ``load_tokenizer`` looks for in a folder, in this order."""

_V3_NAMES = {3: "[INST]", 5: "[TOOL_CALLS]", 10: "[IMG]", 11: "[PREFIX]", 13: "[SUFFIX]"}
_V2_NAMES = {3: "[INST]", 5: "[TOOL_CALLS]", 10: "[control_8]", 11: "[control_9]"}

logger = logging.getLogger(__name__)


def load_tokenizer(path: Path | str, *, vocab_size: int | None = None) -> Tokenizer:
    """Load a tokenizer by version, from a model folder, or from one file.

    Args:
        path: "v1" or "v3" for a built-in tokenizer ("./v3" for a folder of that name), a
            folder, or a file.
        vocab_size: The model's, to check that the two belong together. More than the tokenizer
            has is fine (padded embeddings): the rest become ``Tokenizer.num_padding_ids``.

    Raises:
        TokenizerError: No tokenizer is there, the file is damaged or of another kind, a folder
            adds tokens to it, or the model has fewer ids than the tokenizer.

    >>> load_tokenizer("v3").vocab_size
    32768
    """
    if path in BUILT_IN_FILES:
        model_path, version = built_in_file(str(path)), str(path)
        source = built_in_name(version)
    else:
        found = find_tokenizer_file(Path(path))
        if found.suffix == ".json":
            model_path, version, source = _recognize_json(found)
        else:
            model_path, version, source = _recognize_model(found)
    tokenizer = _make(model_path, version=version, source=source, vocab_size=vocab_size)
    folder = Path(path)
    if path not in BUILT_IN_FILES and folder.is_dir():
        refuse_added_tokens(folder, num_pieces=tokenizer.vocab_size, vocab_size=vocab_size)
        warn_of_other_template(folder)
    return tokenizer


def published_version(folder: Path, *, vocab_size: int) -> Literal["v1", "v3"]:
    """Return which built-in tokenizer a folder's is, piece by piece.

    ``load_tokenizer`` is content with another vocabulary of v1's form, as a model of its own
    training may have.

    Raises:
        TokenizerError: It is neither; or as ``load_tokenizer``.
    """
    version = load_tokenizer(folder, vocab_size=vocab_size).version
    found = find_tokenizer_file(folder)
    if found.suffix != ".json":  # Which is compared as it is recognised.
        _compare(_pieces(_read_model(found)), built_in_file(version), version, found)
    return version


def built_in_file(version: str) -> Path:
    """Return the path of a SentencePiece file inside the installed mistral-common.

    Raises:
        TokenizerError: mistral-common is not installed, or not with this file.
    """
    spec = find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise TokenizerError("mistral-common is not installed: pip install mistral-common")
    path = Path(spec.origin).parent / "data" / BUILT_IN_FILES[version]
    if not path.is_file():
        raise TokenizerError(
            f"mistral-common {installed_version('mistral-common')} has no file {path.name}; "
            "install mistral-common 1.13.1"
        )
    return path


def built_in_name(version: str) -> str:
    """Name a built-in tokenizer for reports."""
    return f"built-in {version} (mistral-common {installed_version('mistral-common')})"


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a file that is meant to be a tokenizer, usable or not."""
    return any(any(folder.glob(pattern)) for pattern in (*FOLDER_PATTERNS, "tekken.json"))


def find_tokenizer_file(path: Path) -> Path:
    """Return the tokenizer file of a folder, or the file itself.

    Raises:
        TokenizerError: There is none.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise TokenizerError(f"{path} does not exist; give a folder, a tokenizer file, v1 or v3")
    for pattern in FOLDER_PATTERNS:
        # The names hold dates; the newest comes first.
        for found in sorted(path.glob(pattern), reverse=True):
            if found.is_file():
                return found
    if (path / "tekken.json").is_file():
        raise TokenizerError(
            f"{path / 'tekken.json'} is a tekken tokenizer; Mixtral uses v1 or v3 of SentencePiece"
        )
    raise TokenizerError(f"{path} has no tokenizer; looked for {', '.join(FOLDER_PATTERNS)}")


def _make(model_path: Path, *, version: str, source: str, vocab_size: int | None) -> Tokenizer:
    literal: Literal["v1", "v3"] = "v1" if version == "v1" else "v3"
    num_pieces = int(_read_model(model_path).vocab_size())
    num_padding_ids = 0
    if vocab_size is not None:
        num_padding_ids = vocab_size - num_pieces
        if num_padding_ids < 0:
            raise TokenizerError(
                f"the tokenizer has {num_pieces} pieces ({source}), but the model only has "
                f"vocab_size {vocab_size}; they do not belong together"
            )
        if version == "v1" and vocab_size == V3_VOCAB_SIZE:
            logger.warning(
                "the model has %d ids, as many as the v3 tokenizer, but its tokenizer is v1 (%s); "
                "if answers make no sense, name v3",
                vocab_size,
                source,
            )
        elif num_padding_ids:
            logger.info(
                "the model has %d ids behind the last piece of the tokenizer", num_padding_ids
            )
    return Tokenizer(model_path, version=literal, source=source, num_padding_ids=num_padding_ids)


def _read_model(path: Path) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise TokenizerError(f"{path} is not a whole SentencePiece model: {reason}") from error


def _recognize_model(path: Path) -> tuple[Path, str, str]:
    """Return the file to tokenize with, its version, and the words for reports."""
    model = _read_model(path)
    pieces = _pieces(model)
    has_bytes = model.IsByte(model.piece_to_id("<0x00>"))
    if not has_bytes or [model.unk_id(), model.bos_id(), model.eos_id()] != [0, 1, 2]:
        raise TokenizerError(
            f"{path} is a SentencePiece model, but not one of Mistral's: <unk>, <s>, </s> must be "
            "0, 1, 2 and there must be byte pieces"
        )
    content = _version_of(pieces)
    match = re.search(r"\.model\.(v\d+)", path.name)
    named = match[1] if match else None
    if content == "v2" and named in (None, "v3"):
        built_in = built_in_file("v3")
        _compare(pieces, built_in, "v3", path)
        return built_in, "v3", f"{built_in_name('v3')}; {path} has the same pieces"
    if content not in BUILT_IN_FILES:
        raise TokenizerError(
            f"{path} holds a tokenizer of version {content}; Mixtral uses v1 (8x7B) or v3 (8x22B)"
        )
    if named not in (None, content):
        raise TokenizerError(f"{path} is named {named} but its pieces are those of {content}")
    return path, content, str(path)


def _pieces(model: SentencePieceProcessor) -> list[str]:
    return [str(model.id_to_piece(i)) for i in range(int(model.vocab_size()))]


def _version_of(pieces: Sequence[str]) -> str:
    if "[SYSTEM_PROMPT]" in pieces:
        return "v7"
    for version, names in (("v3", _V3_NAMES), ("v2", _V2_NAMES)):
        if all(i < len(pieces) and pieces[i] == name for i, name in names.items()):
            return version
    return "v1" if "[INST]" not in pieces else "unknown"


def _recognize_json(path: Path) -> tuple[Path, str, str]:
    """Compare a tokenizer.json with the built-in tokenizers; return the equal one."""
    pieces = _read_json_pieces(path)
    version = "v3" if "[INST]" in pieces else "v1"
    built_in = built_in_file(version)
    _compare(pieces, built_in, version, path)
    return built_in, version, f"{built_in_name(version)}; {path} has the same pieces"


def _read_json_pieces(path: Path) -> list[str]:
    """Return the pieces of a Hugging Face tokenizer.json, in the order of their ids."""
    try:
        content: Any = json.loads(path.read_bytes())
        vocab = dict(content["model"]["vocab"])
        for token in content.get("added_tokens") or []:
            vocab[token["content"]] = token["id"]
        by_id = {int(token_id): str(piece) for piece, token_id in vocab.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = "tekken" if "tekken" in path.name else type(error).__name__
        raise TokenizerError(
            f"{path} is not a tokenizer.json with a BPE vocabulary ({kind}); "
            "Mixtral needs tokenizer.model, tokenizer.model.v3 or such a file"
        ) from error
    for token_id in range(len(by_id)):
        if token_id not in by_id:
            raise TokenizerError(f"{path} has no piece with id {token_id}; ids must have no gaps")
    return [by_id[token_id] for token_id in range(len(by_id))]


def _compare(pieces: Sequence[str], built_in: Path, version: str, path: Path) -> None:
    """Check that the pieces are the built-in ones; special tokens may have their v2 names."""
    model = _read_model(built_in)
    for token_id in range(max(len(pieces), int(model.vocab_size()))):
        has = repr(pieces[token_id]) if token_id < len(pieces) else "nothing"
        wanted = "nothing"
        if token_id < model.vocab_size():
            wanted = repr(str(model.id_to_piece(token_id)))
            is_special = model.IsControl(token_id) or wanted.startswith("'[REFERENCE_DOC_")
            if is_special and has == repr(f"[control_{token_id - 2}]"):
                continue
        if has != wanted:
            raise TokenizerError(
                f"{path} is not Mixtral's {version} vocabulary: id {token_id} is {has}, "
                f"{version} has {wanted}"
            )
