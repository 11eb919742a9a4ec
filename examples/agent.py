"""An agent: the model calls Python functions until it answers in words, and every step is kept.

What a function is for and what it takes comes from its docstring and its type hints. Errors go back
to the model as results. On the command line: mixtral agent --tools FILE.py QUESTION.
"""

import os
from typing import Literal

from mixtral import LLM, SamplingParams
from mixtral.agent import Agent

Transaction = Literal["T1001", "T1002", "T1003"]


def payment_status(transaction_id: Transaction) -> str:
    """Get the payment status of a transaction."""
    return {"T1001": "Paid", "T1002": "Unpaid", "T1003": "Pending"}[transaction_id]


def payment_date(transaction_id: Transaction) -> str:
    """Get the day on which a transaction was made."""
    return {"T1001": "2021-10-05", "T1002": "2021-10-06", "T1003": "2021-10-07"}[transaction_id]


agent = Agent(
    LLM(os.environ.get("MIXTRAL_MODEL", "nano")),
    tools=[payment_status, payment_date],
    max_steps=3,
    tool_choice="any",  # the first answer must call; without it the model decides
    params=SamplingParams(temperature=0.0, max_tokens=100),
)
run = agent.run("What's the status of my transaction T1001?")
for step in run.steps:
    for call in step.calls:
        print(f"step {step.index}: {call.name}({call.arguments}) = {call.result} ({call.status})")
print(f"{run.finish_reason}: {run.text.strip()}")
