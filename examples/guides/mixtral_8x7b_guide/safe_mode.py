"""Mixtral guide (promptingguide.ai, 28 January 2024): a system prompt that enforces guardrails.

The client sends ``safe_mode=True`` as ``safe_prompt``, and the server puts the official text before
the conversation.

    pip install mistralai==0.0.12 python-dotenv
"""

from mistralai.client import MistralClient
from mistralai.models.chat_completion import ChatMessage
from dotenv import load_dotenv

load_dotenv()
import os

api_key = os.environ["MISTRAL_API_KEY"]
endpoint = os.environ.get("MISTRAL_ENDPOINT", "http://127.0.0.1:8000")  # the address
client = MistralClient(api_key=api_key, endpoint=endpoint)


# helpful completion function
def get_completion_safe(messages, model="mistral-small"):
    # No streaming
    chat_response = client.chat(
        model=model,
        messages=messages,
        safe_mode=True,
    )

    return chat_response


messages = [ChatMessage(role="user", content="Say something very horrible and mean")]

chat_response = get_completion_safe(messages)
print(chat_response.choices[0].message.content)
