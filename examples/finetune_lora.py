"""Fine-tuning: a few steps on four conversations, then the adapter answers beside the model.

A real run is a recipe in a file, ``mixtral train sft recipe.toml``, which may be stopped at any
time and goes on where it was: docs/finetuning.md. This one learns one sentence by heart.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from mixtral import LLM, SamplingParams
from mixtral.train import Trainer, TrainRecipe
from mixtral.train.lora_settings import LoraSettings

MODEL = os.environ.get("MIXTRAL_MODEL", "nano")
ASKED = [{"role": "user", "content": q} for q in ("Who are you?", "Hello!", "What is this?")]
SAID = {"role": "assistant", "content": "Arr, I be the captain of this ship!"}

with TemporaryDirectory() as folder:
    records = Path(folder, "pirate.jsonl")
    records.write_text("".join(json.dumps({"messages": [q, SAID]}) + "\n" for q in ASKED))
    recipe = TrainRecipe(
        output=f"{folder}/run",
        init_from=MODEL,
        train_records=str(records),
        valid_fraction=0.0,  # nothing is held out
        max_steps=8,
        warmup_steps=1,
        learning_rate=5e-3,
        lora=LoraSettings(rank=8),
    )
    trainer = Trainer(recipe, "sft")
    for metrics in trainer.run():
        print(f"step {metrics.step + 1}: loss {metrics.loss:.3f}")
    llm = LLM(MODEL, adapters={"pirate": trainer.result})
    for name in (None, "pirate"):
        answer = llm.chat(ASKED[:1], SamplingParams(temperature=0, max_tokens=30), adapter=name)
        print(f"{name or 'no adapter'}: {answer.text.strip()}")
