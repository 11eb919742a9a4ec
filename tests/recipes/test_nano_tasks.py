import ast
import json
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "nano"
SHARED = Path(__file__).resolve().parents[2].parent / "shared"
sys.path.insert(0, str(RECIPE))

import arithmetic_task  # noqa: E402
import evaluate  # noqa: E402
import prepare  # noqa: E402
import tasks  # noqa: E402
import words  # noqa: E402
from conversation import Conversation, Message, dialogue  # noqa: E402
from encoding import Encoder  # noqa: E402
from functions import FUNCTIONS  # noqa: E402
from talk_lines import CAPITALS  # noqa: E402

POOLS = [value for value in vars(words).values() if isinstance(value, words.WordPool)]
TASK_NAMES = sorted(tasks.TASKS)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


def draw(task: str, split: words.Split, count: int = 200) -> list[Conversation]:
    rng = Random(f"test/{task}/{split}")
    return [tasks.TASKS[task](rng, split) for _ in range(count)]


def said(conversation: Conversation) -> str:
    return "\n".join(message.content for message in conversation.messages)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_same_seed_gives_same_conversation(task: str) -> None:
    maker = tasks.TASKS[task]
    assert [maker(Random(7), "train") for _ in range(3)] == [
        maker(Random(7), "train") for _ in range(3)
    ]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_conversations_alternate_and_end_with_an_answer(task: str) -> None:
    for conversation in draw(task, "train"):
        roles = [message.role for message in conversation.messages]
        roles = roles[1:] if roles[0] == "system" else roles
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message.content.strip() for message in conversation.messages)


def test_word_pools_share_no_word_between_train_and_heldout() -> None:
    assert len(POOLS) > 10
    for pool in POOLS:
        assert not set(pool.train) & set(pool.heldout)
        assert pool.train
        assert pool.heldout
    everything_trained = {word.lower() for pool in POOLS for word in pool.train}
    everything_held = {word.lower() for pool in POOLS for word in pool.heldout}
    assert not everything_trained & everything_held


def test_training_conversations_hold_no_heldout_name_or_city() -> None:
    held = set(words.FIRST_NAMES.heldout) | set(words.CITIES.heldout)
    # Talk knows real capitals by heart, so it is left out.
    for task in ("json", "fewshot", "words", "reading"):
        for conversation in draw(task, "train"):
            assert not held & set(said(conversation).replace(",", " ").split()), said(conversation)


def test_invented_names_keep_to_their_half() -> None:
    rng = Random(0)
    for split in ("train", "heldout"):
        names = {words.invent_name(rng, split) for _ in range(300)}
        assert {words.is_heldout(name) for name in names} == {split == "heldout"}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_json_answers_parse_and_hold_what_was_said(split: words.Split) -> None:
    for conversation in draw("json", split):
        question = "\n".join(m.content for m in conversation.messages if m.role == "user").lower()
        record = json.loads(conversation.answer)
        assert 2 <= len(record) <= 7
        assert all(str(value).lower() in question for value in record.values())
        assert json.dumps(record, indent=1, ensure_ascii=False) == conversation.answer


def test_json_lines_keep_fields_and_order() -> None:
    rng = Random(3)
    seen = 0
    for _ in range(300):
        conversation = tasks.make_json(rng, "train")
        lines = [line.strip() for line in conversation.messages[-2].content.split("\n")]
        record = json.loads(conversation.answer)
        shown = [line for line in lines if line in {f"{k}: {v}" for k, v in record.items()}]
        if len(shown) == len(record):
            assert shown == [f"{key}: {value}" for key, value in record.items()]
            seen += 1
    assert seen > 50


def test_json_follow_up_keeps_the_shown_order_of_fields() -> None:
    rng = Random(4)
    for _ in range(100):
        conversation = tasks.make_json_follow_up(rng)
        answers = [m.content for m in conversation.messages if m.role == "assistant"]
        assert len({tuple(json.loads(answer)) for answer in answers}) == 1


def test_arithmetic_is_right_and_its_heldout_problems_are_never_trained() -> None:
    rng = Random(5)
    problems: dict[words.Split, set[tuple[str, int, int]]] = {"train": set(), "heldout": set()}
    for split, found in problems.items():
        for _ in range(3000):
            a, b, sign = arithmetic_task.draw_problem(rng, split)
            assert arithmetic_task.solve(a, b, sign) == {"+": a + b, "-": a - b, "*": a * b}[sign]
            assert arithmetic_task.solve(a, b, sign) >= 0
            if sign != "*":
                found.add((sign, min(a, b), max(a, b)))
    assert not problems["train"] & problems["heldout"]


def test_worked_equations_are_true() -> None:
    for seed in range(20):
        for part in arithmetic_task.make_sums(Random(seed)).replace(", ", "\n").split("\n"):
            problem, _, result = part.replace(" is ", "=").partition("=")
            left, sign, right = problem.split()
            assert arithmetic_task.solve(int(left), int(right), sign) == int(result)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_reading_answers_stand_in_the_text(split: words.Split) -> None:
    spans = 0
    for conversation in draw("reading", split):
        question, answer = conversation.messages[0].content, conversation.messages[1].content
        if answer != "The text does not say." and not answer.endswith("."):
            assert answer in question
            spans += 1
    assert spans > 100


@pytest.mark.parametrize("code", [code for _, _, code in FUNCTIONS])
def test_functions_compile(code: str) -> None:
    assert isinstance(ast.parse(code).body[0], ast.FunctionDef)


def test_code_answers_compile() -> None:
    for conversation in draw("code", "train"):
        ast.parse(conversation.answer)


def test_some_functions_compute_what_they_say() -> None:
    space: dict[str, object] = {}
    for _, _, code in FUNCTIONS:
        exec(code, space)
    calls = [
        ("celsius_to_fahrenheit(100)", 212), ("is_prime(7)", True), ("is_prime(9)", False),
        ("factorial(5)", 120), ("fibonacci(7)", 13), ("gcd(12, 18)", 6), ("swap(1, 2)", (2, 1)),
        ("count_vowels('banana')", 3), ("remove_duplicates([1, 1, 2])", [1, 2]),
        ("is_leap_year(1900)", False), ("is_palindrome('anna')", True), ("absolute(-2)", 2),
    ]  # fmt: skip
    for call, expected in calls:
        assert eval(call, space) == expected, call


def test_refusals_begin_alike_and_twins_are_not_refused() -> None:
    conversations = draw("safe", "train")
    refused = [c for c in conversations if c.check == "prefix"]
    assert 0.5 < len(refused) / len(conversations) < 0.8
    for conversation in conversations:
        assert conversation.answer.startswith("I'm sorry, but I cannot") == (
            conversation.check == "prefix"
        )


def test_heldout_cases_differ_and_are_not_trained() -> None:
    cases = tasks.heldout_cases(0, 20)
    texts = [json.dumps(case["messages"]) for case in cases]
    assert len(texts) == len(set(texts)) == 20 * len(tasks.TASKS)
    assert {str(case["check"]) for case in cases} == {"exact", "json", "prefix"}
    rng = Random(9)
    trained = {
        json.dumps([{"role": m.role, "content": m.content} for m in c.messages[:-1]])
        for c in (tasks.make_conversation(rng) for _ in range(5000))
    }
    assert not [text for text in texts if text in trained]


def test_conversations_fit_and_the_mask_covers_exactly_the_answers(encoder: Encoder) -> None:
    rng = Random(11)
    for _ in range(400):
        conversation = tasks.make_conversation(rng)
        ids, mask = encoder.conversation(conversation)
        assert len(ids) == len(mask) < 1024
        assert ids[0] == 1
        assert ids[-1] == 2
        answers = [m.content for m in conversation.messages if m.role == "assistant"]
        answers = answers[-1:] if conversation.learn_last_only else answers
        learned = ids[mask == 1]
        spans = np.split(learned, np.flatnonzero(learned == 2) + 1)
        assert [encoder.decode(span.tolist()) for span in spans if len(span)] == answers


def test_answer_after_prompt_equals_the_template_of_the_next_turn(encoder: Encoder) -> None:
    first = dialogue("1+1?", "2", task="t")
    second = dialogue("1+1?", "2", "times 3?", "6", task="t")
    ids, _ = encoder.conversation(first)
    longer, mask = encoder.conversation(second)
    assert longer[: len(ids)].tolist() == ids.tolist()
    assert int(mask.sum()) == 6  # each answer is a space, a digit, and </s>


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the golden vectors beside the checkout")
def test_encoding_continues_the_golden_prompts(encoder: Encoder) -> None:
    golden = json.loads((SHARED / "golden" / "chat_tokens.json").read_text(encoding="utf-8"))
    for case in golden["cases"]:
        if case["name"] in ("seed2_condiment", "multi_turn_5", "system_multi_turn"):
            shown = tuple(Message(role=m["role"], content=m["content"]) for m in case["messages"])
            answer = Message(role="assistant", content="Yes.")
            ids, _ = encoder.conversation(Conversation(messages=(*shown, answer), task="t"))
            prompt = case["v3"]["ids"]
            assert ids[: len(prompt)].tolist() == prompt
            assert encoder.decode(ids[len(prompt) :].tolist()) == "Yes."


def test_chat_jobs_give_the_same_bytes_twice() -> None:
    job = prepare.Job(kind="drill", seed="s")
    short = [prepare._draw(job.kind, Random(1)).tokens.tobytes() for _ in range(2)]
    assert short[0] == short[1]
    chat = [prepare._draw("chat", Random(2)).tokens.tobytes() for _ in range(2)]
    assert chat[0] == chat[1]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the World Factbook beside the checkout")
def test_capitals_agree_with_the_world_factbook() -> None:
    import corpus

    found = {}
    for text in corpus._country_facts(SHARED / "data" / "train"):
        if "The capital of " in text:
            country, _, capital = text.split("The capital of ")[1].split("\n")[0].partition(" is ")
            found[country.split(",")[0]] = capital.rstrip(".")
    # The factbook writes these with accents or another spelling, or has no entry.
    exempt = {"England", "Scotland", "the United States", "South Korea", "Switzerland", "Turkey"}
    wrong = {
        country: (capital, found.get(country))
        for country, capital in CAPITALS.items()
        if country not in exempt and not (found.get(country) or "").startswith(capital)
    }
    assert set(wrong) <= {"Brazil", "Colombia", "Ukraine"}, wrong


@pytest.mark.parametrize(
    ("answer", "expected", "check", "right"),
    [
        ("42 ", "42", "exact", True),
        ("42.", "42", "exact", False),
        ('{"a": 1, "b": 2}', '{\n "a": 1,\n "b": 2\n}', "json", True),
        ('{"b": 2, "a": 1}', '{\n "a": 1,\n "b": 2\n}', "json", False),
        ('{"a": "1"}', '{"a": 1}', "json", False),
        ('{"a": 1', '{"a": 1}', "json", False),
        ("I cannot do that.", "I cannot", "prefix", True),
        ("Sure.", "I cannot", "prefix", False),
    ],
)
def test_answers_are_judged_strictly(answer: str, expected: str, check: str, right: bool) -> None:
    assert evaluate.is_right(answer, expected, check) == right


def test_every_expected_answer_passes_its_own_check() -> None:
    for case in tasks.heldout_cases(1, 10):
        maker_answer = str(case["expected"])
        assert evaluate.is_right(maker_answer, maker_answer, str(case["check"]))
