"""Mixtral guide (promptingguide.ai, 28 January 2024): code generation.

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
        content="You are a helpful code assistant that help with writing Python code for a user requests. Please only produce the function and avoid explaining.",
    ),
    ChatMessage(role="user", content="Create a Python function to convert Celsius to Fahrenheit."),
]

chat_response = get_completion(messages)
print(chat_response.choices[0].message.content)
