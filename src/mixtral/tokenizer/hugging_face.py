"""Tokenizer files that transformers loads by itself, written from a SentencePiece file.

A model folder in the Hugging Face layout is whole only with ``tokenizer.json`` (the vocabulary and
its merges, for the ``tokenizers`` library) and ``tokenizer_config.json`` (which class reads it, and
the chat template). Mistral's own files have neither. SentencePiece stores no merges: it joins the
two neighbours whose piece has the best score, the leftmost of equals. So every way to put a piece
together from two others is a merge, and they are ranked by the score of what they make.

Ids are those of ``Tokenizer.encode``, and conversations of users and assistants those of
``Tokenizer.encode_chat``, with two exceptions that are the convention there: a text that spells a
control token, such as "[INST]", becomes that token unless ``split_special_tokens=True`` is given;
and each text behind a token that is taken out of it, [REFERENCE_DOC_0] among them, begins with a
space of its own. Tools are not in the template, which says so.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from mixtral.errors import TokenizerError
from mixtral.tokenizer.files import find_tokenizer_file, load_tokenizer
from mixtral.tokenizer.tokenizer import SPACE
from mixtral.whole_file import write_whole

VOCABULARY_FILE = "tokenizer.json"
"""What transformers reads the vocabulary from."""
SETTINGS_FILE = "tokenizer_config.json"
"""What tells transformers how."""

# Text with an id of its own: SentencePiece takes it out before it looks at anything else.
_TEXT_WITH_AN_ID = "[REFERENCE_DOC_"

_SETTINGS: dict[str, Any] = {
    # The class that takes tokenizer.json as it is; LlamaTokenizer would build its own rules.
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_input_names": ["input_ids", "attention_mask"],
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "clean_up_tokenization_spaces": False,
}
_REFUSE_TOOLS = (
    "{% if tools %}{{ raise_exception('this chat template has no place for tools') }}{% endif %}"
)
_SYSTEM_AND_TURNS = (
    "{% set has_system = messages[0].role == 'system' %}"
    "{% set system = messages[0].content + '\n\n' if has_system else '' %}"
    "{% set turns = messages[1:] if has_system else messages %}"
    "{{ bos_token }}{% for turn in turns %}"
    "{% if turn.role != ('user' if loop.index0 % 2 == 0 else 'assistant') %}"
    "{{ raise_exception('after an optional system message, user and assistant take turns') }}"
)
# v1 spells [INST] as text and has the system text in the first question, v3 in the last one.
_CHAT_TEMPLATES = {
    "v1": _REFUSE_TOOLS + _SYSTEM_AND_TURNS + "{% elif turn.role == 'user' %}"
    "[INST] {{ system if loop.first }}{{ turn.content }} [/INST]"
    "{% else %} {{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "v3": _REFUSE_TOOLS + _SYSTEM_AND_TURNS + "{% elif turn.role == 'user' %}"
    "[INST]{{ system if loop.revindex <= 2 }}{{ turn.content }}[/INST]"
    "{% else %}{{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}",
}


def write_hugging_face_tokenizer(folder: Path) -> bool:
    """Write the files that transformers needs beside the SentencePiece file of a model folder.

    A folder that has one of them keeps what it has.

    Args:
        folder: A model folder with its tokenizer in it.

    Returns:
        Whether files were written.

    Raises:
        TokenizerError: There is no tokenizer, it is damaged, or the files cannot be written.
    """
    if any((folder / name).exists() for name in (VOCABULARY_FILE, SETTINGS_FILE)):
        return False
    version = load_tokenizer(folder).version
    vocabulary = hugging_face_vocabulary(find_tokenizer_file(folder))
    settings = _SETTINGS | {"chat_template": _CHAT_TEMPLATES[version]}
    try:
        write_whole(folder / VOCABULARY_FILE, json.dumps(vocabulary, ensure_ascii=False) + "\n")
        write_whole(folder / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise TokenizerError(
            f"the tokenizer of {folder} cannot be written: {error.strerror or error}; "
            "choose another disk"
        ) from error
    return True


def hugging_face_vocabulary(sentencepiece: Path) -> dict[str, Any]:
    """Return the contents of ``tokenizer.json`` for one of Mistral's SentencePiece files."""
    model = SentencePieceProcessor(model_file=str(sentencepiece))
    pieces = [str(model.id_to_piece(i)) for i in range(int(model.vocab_size()))]
    control = [i for i in range(len(pieces)) if model.IsControl(i) or model.IsUnknown(i)]
    named = [i for i, piece in enumerate(pieces) if piece.startswith(_TEXT_WITH_AN_ID)]
    unmerged = {*control, *named, *(i for i in range(len(pieces)) if model.IsByte(i))}
    scores = {p: float(model.get_score(i)) for i, p in enumerate(pieces) if i not in unmerged}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(i, pieces[i], is_special=i not in named) for i in sorted(control + named)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": SPACE},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": _begin_with(pieces[model.bos_id()], int(model.bos_id())),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[model.unk_id()],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": list(_merges(scores)),
        },
    }


def _merges(scores: Mapping[str, float]) -> Iterator[list[str]]:
    """Yield all pairs of pieces that make a piece, the one that is merged first in front.

    Pieces of one score are runs of spaces. SentencePiece lets the leftmost run grow as far as it
    can before another one begins; so do these, when the longest comes first.
    """
    for piece in sorted(scores, key=lambda p: (-scores[p], -len(p))):
        for cut in range(len(piece) - 1, 0, -1):
            if piece[:cut] in scores and piece[cut:] in scores:
                yield [piece[:cut], piece[cut:]]


def _added_token(token_id: int, content: str, *, is_special: bool) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": is_special,
    }


def _begin_with(piece: str, token_id: int) -> dict[str, Any]:
    """Return what puts ``<s>`` in front of every text."""
    begin = {"SpecialToken": {"id": piece, "type_id": 0}}
    first, second = ({"Sequence": {"id": each, "type_id": 0}} for each in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {piece: {"id": piece, "ids": [token_id], "tokens": [piece]}},
    }
