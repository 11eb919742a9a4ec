"""Getting Started With Mixtral 8X22B (DataCamp, May 2024): text generation, streamed.

pip install mistralai==0.1.8 python-dotenv
"""

import os
from dotenv import load_dotenv

load_dotenv()

api_key = os.getenv("MISTRAL_API_KEY")
endpoint = os.getenv("MISTRAL_ENDPOINT", "http://127.0.0.1:8000")  # the address

from mistralai.client import MistralClient
from mistralai.models.chat_completion import ChatMessage

client = MistralClient(api_key=api_key, endpoint=endpoint)

model = "open-mixtral-8x22b"

messages = [ChatMessage(role="user", content="What led to Zidane's ban from football?")]

# With streaming
stream_response = client.chat_stream(model=model, messages=messages)

for chunk in stream_response:
    print(chunk.choices[0].delta.content, end="")
