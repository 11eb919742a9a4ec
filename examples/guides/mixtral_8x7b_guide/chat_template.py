"""Mixtral guide (promptingguide.ai, 28 January 2024), basic prompting: a follow-up question.

The guide writes the template out: "<s>[INST] question [/INST] answer</s> [INST] follow-up [/INST]".
The server makes exactly that of three messages.

    pip install mistralai==0.0.12 python-dotenv
"""

import os

from dotenv import load_dotenv
from mistralai.client import MistralClient
from mistralai.models.chat_completion import ChatMessage

load_dotenv()

api_key = os.environ["MISTRAL_API_KEY"]
endpoint = os.environ.get("MISTRAL_ENDPOINT", "http://127.0.0.1:8000")  # the address
client = MistralClient(api_key=api_key, endpoint=endpoint)

messages = [
    ChatMessage(role="user", content="What is your favorite condiment?"),
    ChatMessage(
        role="assistant",
        content="\"Well, I'm quite partial to a good squeeze of fresh lemon juice. It adds just "
        "the right amount of zesty flavour to whatever I'm cooking up in the kitchen!\"",
    ),
    ChatMessage(role="user", content="The right amount of what?"),
]

chat_response = client.chat(model="mistral-small", messages=messages)
print(chat_response.choices[0].message.content)
