"""nano as Hugging Face's transformers loads it, for the snippets of the model card.

A folder of Mixtral from the hub has these tokenizer files already; nano comes with the tokenizer
model alone.
"""

import json
import shutil
import sys
from pathlib import Path

from environments import call

CONTROL_TOKENS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }}[/INST]"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def write_model_folder(folder: Path) -> str:
    """Write the folder where it is missing; return a line about it."""
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        return f"{folder.name}: folder is there"
    shutil.rmtree(folder, ignore_errors=True)
    options = ("--format", "hf")
    call(sys.executable, "-m", "mixtral.cli", "convert", "nano", str(folder), *options)
    (folder / "tokenizer.model.v3").rename(folder / "tokenizer.model")
    added = {
        str(index): {"content": token, "special": True}
        for index, token in enumerate(CONTROL_TOKENS)
    }
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "added_tokens_decoder": added,
        "chat_template": TEMPLATE,
    }
    settings.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return f"{folder.name}: folder written"
