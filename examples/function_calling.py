"""Function calling by hand: offer a function, run what the model asks for, send the result back.

This is the example that the tutorial on Mixtral 8x22B promises. ``tool_choice="any"`` asks for a
call, and the arguments that come out satisfy the schema, whatever the weights are. ``agent.py``
does the same in a loop, with functions of Python.
"""

import json
import os
from dataclasses import asdict

from mixtral import LLM, SamplingParams

STATUS = {"T1001": "Paid", "T1002": "Unpaid", "T1003": "Pending"}
FUNCTION = {
    "name": "payment_status",
    "description": "Get the payment status of a transaction",
    "parameters": {
        "type": "object",
        "properties": {"transaction_id": {"type": "string", "pattern": "^T100[1-3]$"}},
        "required": ["transaction_id"],
    },
}

llm = LLM(os.environ.get("MIXTRAL_MODEL", "nano"))
tools = [{"type": "function", "function": FUNCTION}]
params = SamplingParams(temperature=0.0, max_tokens=100)
messages = [{"role": "user", "content": "What's the status of my transaction T1001?"}]

calls = llm.chat(messages, params, tools=tools, tool_choice="any").tool_calls
messages.append({"role": "assistant", "tool_calls": [asdict(call) for call in calls]})
for call in calls:
    arguments = json.loads(call.function.arguments)
    result = {"status": STATUS[arguments["transaction_id"]]}
    print(f"{call.function.name}({arguments}) = {result}")
    messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})

print(llm.chat(messages, params, tools=tools, tool_choice="none").text.strip())
