"""Text to token ids and back, the official chat templates, and text that streams.

Two tokenizers exist for Mixtral, both SentencePiece BPE with byte fallback, so that any text has
ids and none becomes ``<unk>``:

    version  model           pieces  [INST], [TOOL_CALLS], ...
    v1       Mixtral 8x7B    32000   ordinary text, as in the model card
    v3       Mixtral 8x22B   32768   control tokens, ids 3 to 750

``files`` finds the tokenizer of a model folder and its version, ``tokenizer`` encodes and decodes,
``chat`` turns messages into ids, ``stream`` turns ids into text as they come. mistral-common is the
source of every template; this package wraps it, and knows nothing of torch or of the model.
"""

from mixtral.tokenizer.chat import SAFE_PROMPT
from mixtral.tokenizer.files import has_tokenizer, load_tokenizer
from mixtral.tokenizer.stream import StopChecker, StreamDecoder
from mixtral.tokenizer.tokenizer import Tokenizer

__all__ = [
    "SAFE_PROMPT",
    "StopChecker",
    "StreamDecoder",
    "Tokenizer",
    "has_tokenizer",
    "load_tokenizer",
]
