"""Mixtral guide (promptingguide.ai, 28 January 2024), basic prompting: generate JSON.

The guide prints the prompt with its markers, "[INST] ... [/INST]". The server adds them to a user
message, so only the words between them are sent.

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

prompt = """You are a helpful code assistant. Your task is to generate a valid JSON object based \
on the given information:

name: John
lastname: Smith
address: #1 Samuel St.

Just generate the JSON object without explanations:
"""

chat_response = client.chat(
    model="mistral-small", messages=[ChatMessage(role="user", content=prompt)]
)
print(chat_response.choices[0].message.content)
