"""Answers to many prompts at once, each handed out as soon as it is finished.

A run of hours that is killed then has every answer that was there, and not only whole batches.
"""

from collections.abc import Iterable, Iterator

from mixtral.answer import Answer
from mixtral.generation import add_answers, push_output
from mixtral.llm import LLM
from mixtral.outputs import ChatCompletion
from mixtral.request import Request


def complete(
    llm: LLM, requests: Iterable[Request], *, num_waiting: int
) -> Iterator[tuple[int, ChatCompletion]]:
    """Yield the place of each request and its answer, in the order in which answers end.

    Args:
        llm: The model; nobody else may use its engine meanwhile.
        requests: What ``llm.requests`` built, one answer each; taken as the engine has room.
        num_waiting: Answers in the engine at one time.

    Raises:
        InvalidRequest: A prompt has an unknown token id.
        ContextLengthExceeded: A prompt and its answer do not fit into the context.
    """
    running: dict[int, tuple[int, Answer]] = {}  # number of the sequence -> place and answer
    order = enumerate(requests)
    try:
        while True:
            while len(running) < num_waiting and (item := next(order, None)) is not None:
                place, request = item
                ((number, answer),) = add_answers(llm.engine, request, llm.tokenizer)
                running[number] = place, answer
            if not running:
                return
            yield from _step(llm, running)
    finally:
        for number in running:
            llm.engine.abort(number)


def _step(llm: LLM, running: dict[int, tuple[int, Answer]]) -> Iterator[tuple[int, ChatCompletion]]:
    for output in llm.engine.step():
        if output.sequence_id not in running:  # A stop string ended it earlier in this step.
            continue
        place, answer = running[output.sequence_id]
        push_output(llm.engine, answer, output)
        if answer.is_finished:
            del running[output.sequence_id]
            yield place, answer.completion()
