"""Code generation: four drafts of one function, and each is run before it is believed.

The request is the guide's. A draft runs in a process of its own, with an empty folder, an empty
environment, little time and memory, and no network where the kernel allows that. This keeps
accidents in, and is no prison: run code of a model that you do not trust in a container.
"""

import os
import re

from mixtral import LLM, SamplingParams
from mixtral.eval.code_trial import runs_through

MESSAGES = [
    {
        "role": "system",
        "content": "You are a helpful code assistant that help with writing Python code for a user "
        "requests. Please only produce the function and avoid explaining.",
    },
    {"role": "user", "content": "Create a Python function to convert Celsius to Fahrenheit."},
]
# It may be called anything: the check takes the last function that the draft defines.
CHECK = """
convert = [thing for thing in list(globals().values()) if type(thing).__name__ == "function"][-1]
assert convert(0) == 32 and convert(100) == 212
"""
OF_THE_GUIDE = "def celsius_to_fahrenheit(celsius):\n    return (celsius * 9/5) + 32\n"

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))
request = llm.requests.chat(MESSAGES, SamplingParams(temperature=0.7, max_tokens=80, seed=0, n=4))
drafts = [answer.text for answer in llm.answer([request])]
for number, draft in enumerate([OF_THE_GUIDE, *drafts]):
    fenced = re.search(r"```(?:python)?\n(.*?)```", draft, re.DOTALL)
    is_right = runs_through((fenced[1] if fenced else draft) + CHECK, cpu_s=2)
    author = f"draft {number}" if number else "the guide's answer"
    print(f"--- {author}: {'passes' if is_right else 'fails'}\n{draft.strip()}")
