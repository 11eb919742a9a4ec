"""Getting Started With Mixtral 8X22B (DataCamp, May 2024): using a chat client.

pip install mistralai==0.1.8 python-dotenv
"""

import os
from dotenv import load_dotenv

load_dotenv()

api_key = os.getenv("MISTRAL_API_KEY")
endpoint = os.getenv("MISTRAL_ENDPOINT", "http://127.0.0.1:8000")  # the address

from mistralai.client import MistralClient

client = MistralClient(api_key=api_key, endpoint=endpoint)

from mistralai.models.chat_completion import ChatMessage

model = "open-mixtral-8x22b"

message = "Who is the best French football player of all time?"

chat_response = client.chat(
    model=model,
    messages=[ChatMessage(role="user", content=message)],
)

print(chat_response.choices[0].message.content[:300])
