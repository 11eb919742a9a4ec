"""Model card of Mixtral-8x7B (December 2023): run the model.

Only where things are differs: the model may be a folder, and without a GPU the prompt goes to the
CPU, not to "cuda". Newer transformers than 4.x do not run the card's code as written.

    pip install transformers==4.46.3 accelerate==1.1.1 torch sentencepiece protobuf
"""

import os
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model_id = os.environ.get("MODEL_ID", "mistralai/Mixtral-8x7B-Instruct-v0.1")
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained(model_id)

model = AutoModelForCausalLM.from_pretrained(model_id, device_map="auto")

messages = [
    {"role": "user", "content": "What is your favourite condiment?"},
    {
        "role": "assistant",
        "content": "Well, I'm quite partial to a good squeeze of fresh lemon juice. It adds just the right amount of zesty flavour to whatever I'm cooking up in the kitchen!",
    },
    {"role": "user", "content": "Do you have mayonnaise recipes?"},
]

inputs = tokenizer.apply_chat_template(messages, return_tensors="pt").to(device)

outputs = model.generate(inputs, max_new_tokens=20)
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
