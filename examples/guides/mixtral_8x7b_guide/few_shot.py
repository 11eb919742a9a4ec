"""Mixtral guide (promptingguide.ai, 28 January 2024): few-shot prompting.

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
def get_completion(messages, model="mistral-small"):
    # No streaming
    chat_response = client.chat(
        model=model,
        messages=messages,
    )

    return chat_response


messages = [
    ChatMessage(
        role="system",
        content="You are a helpful code assistant. Your task is to generate a valid JSON object based on the given information.",
    ),
    ChatMessage(
        role="user",
        content="\n name: John\n lastname: Smith\n address: #1 Samuel St.\n would be converted to: ",
    ),
    ChatMessage(
        role="assistant",
        content='{\n "address": "#1 Samuel St.",\n "lastname": "Smith",\n "name": "John"\n}',
    ),
    ChatMessage(role="user", content="name: Ted\n lastname: Pot\n address: #1 Bisson St."),
]

chat_response = get_completion(messages)
print(chat_response.choices[0].message.content)
