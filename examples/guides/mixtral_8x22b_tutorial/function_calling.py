"""Getting Started With Mixtral 8X22B (DataCamp, May 2024): function calling.

The tutorial only says that the model can do this and links to Mistral's documentation; here is the
way described there, with the tutorial's client: offer functions, run the one that is asked for,
send its result back.

    pip install mistralai==0.1.8 python-dotenv
"""

import json
import os

from dotenv import load_dotenv
from mistralai.client import MistralClient
from mistralai.models.chat_completion import ChatMessage

load_dotenv()

api_key = os.getenv("MISTRAL_API_KEY")
endpoint = os.getenv("MISTRAL_ENDPOINT", "http://127.0.0.1:8000")  # the address
client = MistralClient(api_key=api_key, endpoint=endpoint)

model = "open-mixtral-8x22b"


def payment_status(transaction_id):
    return json.dumps({"status": "Paid" if transaction_id == "T1001" else "Pending"})


tools = [
    {
        "type": "function",
        "function": {
            "name": "payment_status",
            "description": "Get the payment status of a transaction",
            "parameters": {
                "type": "object",
                "properties": {"transaction_id": {"type": "string", "pattern": "^T[0-9]{4}$"}},
                "required": ["transaction_id"],
            },
        },
    }
]

messages = [ChatMessage(role="user", content="What's the status of my transaction T1001?")]

response = client.chat(
    model=model, messages=messages, tools=tools, tool_choice="any", max_tokens=128
)
messages.append(response.choices[0].message)

for tool_call in response.choices[0].message.tool_calls:
    arguments = json.loads(tool_call.function.arguments)
    result = payment_status(**arguments)
    print(tool_call.function.name, arguments, result)
    messages.append(ChatMessage(role="tool", name=tool_call.function.name, content=result))

response = client.chat(model=model, messages=messages, tools=tools, tool_choice="none")
print(response.choices[0].message.content)
