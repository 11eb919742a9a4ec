"""Compute the golden token files again with mistral-common alone, and compare or write them.

    python tests/data/golden/regenerate.py            compare; exit status 1 where a file differs
    python tests/data/golden/regenerate.py --write    write what differs

The inputs (conversations, texts, id lists) are read from the files themselves, so a new case is
added by hand, without its results. The package under test is not imported here.
"""

import json
import sys
from pathlib import Path
from typing import Any

from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

Loaded = MistralTokenizer[Any, Any, Any, Any, Any]
HERE = Path(__file__).resolve().parent
FILES = {
    "v1": "tokenizer.model.v1",
    "v3": "mistral_instruct_tokenizer_240323.model.v3",
}


def load(version: str) -> Loaded:
    """Load a tokenizer the way a server would."""
    path = MistralTokenizer._data_path() / FILES[version]
    return MistralTokenizer.from_file(str(path), mode=ValidationMode.serving)


def chat_result(tokenizer: Loaded, case: dict[str, Any]) -> dict[str, Any]:
    """Encode one conversation, or name the error that it gives."""
    request = {"model": "mixtral", "messages": case["messages"], "tools": case["tools"]}
    try:
        tokens = tokenizer.encode_chat_completion(ChatCompletionRequest(**request)).tokens
    except MistralCommonException as error:
        return {"error": type(error).__name__, "message": error.message}
    text = tokenizer.decode(tokens, SpecialTokenPolicy.KEEP)
    return {"ids": tokens, "n": len(tokens), "text": text}


def raw_ids(tokenizer: Loaded, text: str) -> list[int]:
    """Encode plain text without control tokens."""
    return tokenizer.instruct_tokenizer.tokenizer.encode(text, bos=False, eos=False)


def deltas(tokenizer: Loaded, token_ids: list[int]) -> list[str]:
    """Stream by decoding the whole list each time and holding back a trailing U+FFFD."""
    shown, result = "", []
    for end in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:end]).rstrip("\ufffd")
        result.append(text[len(shown) :])
        shown = text
    return result


def chat_tokens(old: dict[str, Any]) -> dict[str, Any]:
    """Return chat_tokens.json with every result computed again; the card's column is kept."""
    tokenizers = {version: load(version) for version in FILES}
    new: dict[str, Any] = json.loads(json.dumps(old))
    for case in new["cases"]:
        case.update({v: chat_result(tokenizers[v], case) for v in FILES})
    for case in new["raw_text"]:
        case.update({v: raw_ids(tokenizers[v], case["text"]) for v in FILES})
    for case in new["fim_v3"]:
        request = FIMRequest(prompt=case["prompt"], suffix=case["suffix"])
        case["ids"] = tokenizers["v3"].encode_fim(request).tokens
        case["text"] = tokenizers["v3"].decode(case["ids"], SpecialTokenPolicy.KEEP)
    return new


def decode(old: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return decode.json with every result computed again."""
    tokenizers = {version: load(version) for version in FILES}
    new = []
    for case in old:
        tokenizer = tokenizers[case["tokenizer"]]
        token_ids = raw_ids(tokenizer, case["source"])
        text = tokenizer.decode(token_ids)
        new.append(
            {
                "tokenizer": case["tokenizer"],
                "ids": token_ids,
                "text": text,
                "source": case["source"],
                "round_trips": text == case["source"],
                "stream_deltas": deltas(tokenizer, token_ids),
            }
        )
    return new


def differences(write: bool = False) -> list[str]:
    """Return the names of the files that differ from what is computed now."""
    differing = []
    for name, compute in (("chat_tokens.json", chat_tokens), ("decode.json", decode)):
        path = HERE / name
        old = json.loads(path.read_text(encoding="utf-8"))
        new = compute(old)
        if new != old:
            differing.append(name)
            if write:
                path.write_text(json.dumps(new, ensure_ascii=False, indent=0), encoding="utf-8")
    return differing


if __name__ == "__main__":
    found = differences(write="--write" in sys.argv)
    print("\n".join(found) or "all golden files are current")
    sys.exit(bool(found) and "--write" not in sys.argv)
