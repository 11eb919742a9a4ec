import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

import tests.recipes.nano_for_tests  # noqa: F401  (before what it makes importable)

import arithmetic_task  # isort: skip
import fewshot_task  # isort: skip
import json_task  # isort: skip
import passkey_task  # isort: skip
import rag_task  # isort: skip
import reading_task  # isort: skip
import safe_task  # isort: skip
import talk_task  # isort: skip
import tools_task  # isort: skip
import values  # isort: skip
import words  # isort: skip
import words_task  # isort: skip
from conversation import Conversation  # isort: skip
from known_tools import KNOWN_TOOLS  # isort: skip
from novels import sample_novels  # isort: skip
from safe_acts import CATEGORIES, MORE_ACTS  # isort: skip
from talk_lines import MORE_TALK, TALK  # isort: skip
from tasks import make_skills  # isort: skip
from words import Split, WordPool, is_heldout  # isort: skip

SPLITS: tuple[Split, ...] = ("train", "heldout")
MAKERS: dict[str, Callable[[Random, Split], Conversation]] = {
    "passkey": lambda rng, split: passkey_task.make_passkey(rng, split, sample_novels()),
    "json": json_task.make_json,
    "json again": json_task.make_json_follow_up,
    "fewshot": fewshot_task.make_fewshot,
    "tools": tools_task.make_tools,
    "no_tool": tools_task.make_no_tool,
    "tool_result": tools_task.make_tool_result,
    "reading": lambda rng, split: reading_task.make_reading(rng, split, sample_novels()),
    "rag": lambda rng, split: rag_task.make_rag(rng, split, sample_novels()),
    "arithmetic": arithmetic_task.make_arithmetic,
    "words": words_task.make_words,
    "refusal": safe_task.make_refusal,
    "twin": safe_task.make_twin,
    "talk": talk_task.make_talk,
}


def draw(task: str, split: Split, count: int = 150) -> list[Conversation]:
    rng = Random(f"test/{task}/{split}")
    return [MAKERS[task](rng, split) for _ in range(count)]


def asked(conversation: Conversation) -> str:
    """Return all that stands before the answer: tools, messages, filler."""
    parts = [str(message.get("content", "")) for message in conversation.messages[:-1]]
    parts += [json.dumps(conversation.tools, ensure_ascii=False)]
    return "\n".join([*parts, str(conversation.filler.get("insert", ""))])


@pytest.mark.parametrize("task", sorted(MAKERS))
def test_same_seed_gives_same_conversations(task: str) -> None:
    assert draw(task, "train", 20) == draw(task, "train", 20)
    assert draw(task, "heldout", 20) == draw(task, "heldout", 20)


@pytest.mark.parametrize("task", sorted(MAKERS))
def test_held_out_questions_are_never_trained(task: str) -> None:
    held = {asked(conversation) for conversation in draw(task, "heldout")}
    assert not held & {asked(conversation) for conversation in draw(task, "train", 600)}


def test_word_pools_share_no_word_between_train_and_heldout() -> None:
    pools = [value for value in vars(words).values() if isinstance(value, WordPool)]
    assert len(pools) > 10
    trained = {word.lower() for pool in pools for word in pool.train}
    held = {word.lower() for pool in pools for word in pool.heldout}
    assert not trained & held
    assert all(pool.train and pool.heldout for pool in pools)


@pytest.mark.parametrize(
    "make",
    [words.key, words.any_word, words.invent_name, words.first_name, words.last_name, words.city],
)
def test_drawn_names_keys_and_words_belong_to_their_half(
    make: Callable[[Random, Split], str],
) -> None:
    for split in SPLITS:
        rng = Random(3)
        drawn = {make(rng, split) for _ in range(300)}
        assert len(drawn) > 10
        assert {is_heldout(each) for each in drawn} == {split == "heldout"}


def test_large_numbers_belong_to_their_half() -> None:
    for split in SPLITS:
        rng = Random(4)
        drawn = {words.number(rng, split, 1000, 9_999_999) for _ in range(200)}
        assert {is_heldout(str(each)) for each in drawn} == {split == "heldout"}


def test_training_shows_no_heldout_name_or_city() -> None:
    held = {*words.FIRST_NAMES.heldout, *words.CITIES.heldout}
    for task in ("json", "tools", "tool_result", "words", "passkey"):
        for conversation in draw(task, "train"):
            assert not held & set(re.findall(r"[A-Za-z]+", asked(conversation)))


def test_json_keys_belong_to_their_half() -> None:
    for split in SPLITS:
        for conversation in draw("json", split, 300):
            keys = {key.lower().replace(" ", "_") for key in json.loads(conversation.answer)}
            usual = {*json_task.USUAL, *sum(json_task.SYNONYMS.values(), ())}
            made_up = keys - usual
            assert {is_heldout(key) for key in made_up} <= {split == "heldout"}


def test_tools_of_the_halves_share_no_name() -> None:
    names = {
        split: {
            tool["function"]["name"]
            for task in ("tools", "no_tool", "tool_result")
            for conversation in draw(task, split)
            for tool in conversation.tools
        }
        for split in SPLITS
    }
    known = {tool.name for tool in KNOWN_TOOLS}
    assert all(is_heldout(name) for name in names["heldout"])
    assert not any(is_heldout(name) for name in names["train"] - known)
    assert not known & names["heldout"]
    assert "get_weather" in names["train"]


def test_formats_of_the_halves_differ() -> None:
    rng = Random(5)
    names = {
        split: {fewshot_task.draw_format(rng, split).name for _ in range(1500)} for split in SPLITS
    }
    assert not names["train"] & names["heldout"]
    assert min(map(len, names.values())) > 900


@pytest.mark.parametrize("split", SPLITS)
def test_passkeys_stand_once_in_the_text(split: Split) -> None:
    for conversation in draw("passkey", split):
        key = str(conversation.answer)
        text = asked(conversation)
        assert 1 <= len(re.findall(rf"\b{key}\b", text)) <= 2
        if split == "heldout":
            assert is_heldout(key)


def test_every_one_of_several_passkeys_stands_in_the_text_and_no_heldout_question_does() -> None:
    rng = Random(21)
    held = {question for question in passkey_task.QUESTIONS if is_heldout(question)}
    assert held
    for _ in range(60):
        made = passkey_task.make_passkeys(rng, sample_novels(), 700)
        turns = [str(message["content"]) for message in made.messages]
        assert len(turns) >= 2
        assert len({*turns[1::2]}) == len(turns) // 2
        for answer in turns[1::2]:
            assert re.search(rf"\b{answer}\b", turns[0])
            assert not is_heldout(answer)
        for name in passkey_task.NAMES:
            assert not {*turns[2::2]} & {question.format(n=name) for question in held}


def test_open_pools_draw_words_outside_of_their_list_for_training_alone() -> None:
    for pool in (words.FOODS, words.CITIES, words.KEYS):
        rng = Random(22)
        trained = {pool.draw(rng, "train") for _ in range(400)}
        trained |= {word for _ in range(100) for word in pool.sample(rng, "train", 3)}
        assert len(trained - {*pool.train}) > 100
        assert not any(is_heldout(word) for word in trained)
        assert len({word[0].isupper() for word in trained}) == 1
        assert {pool.draw(rng, "heldout") for _ in range(200)} <= {*pool.heldout}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", ["json", "json again"])
def test_json_answers_hold_what_the_request_shows(task: str, split: Split) -> None:
    for conversation in draw(task, split):
        record: dict[str, Any] = json.loads(conversation.answer)
        text = asked(conversation)
        assert json.dumps(record, ensure_ascii=False) == conversation.answer
        assert len(record) >= 2
        for key, value in record.items():
            assert key in text or task == "json"
            assert values.as_text(value) in text


def test_heldout_json_has_three_to_six_fields_or_a_chosen_part_of_them() -> None:
    sizes = {len(json.loads(c.answer)) for c in draw("json", "heldout", 400)}
    assert sizes <= {2, 3, 4, 5, 6}
    assert {3, 4, 5, 6} <= sizes


@pytest.mark.parametrize("split", SPLITS)
def test_fewshot_answers_consist_of_the_last_input(split: Split) -> None:
    for conversation in draw("fewshot", split):
        for part in re.findall(r"[A-Za-z]{2,}|[0-9]+", conversation.answer):
            assert part.lower() in asked(conversation).lower()


@pytest.mark.parametrize("split", SPLITS)
def test_calls_name_a_shown_tool_and_copy_their_arguments(split: Split) -> None:
    import jsonschema

    for conversation in draw("tools", split):
        tools = {tool["function"]["name"]: tool["function"] for tool in conversation.tools}
        assert len(tools) == len(conversation.tools)
        for call in conversation.messages[-1]["tool_calls"]:
            function = call["function"]
            arguments = json.loads(function["arguments"])
            jsonschema.validate(arguments, tools[function["name"]]["parameters"])
            request = str(conversation.messages[-2]["content"]).lower()
            for value in arguments.values():
                shown = values.as_text(value).lower()
                assert isinstance(value, bool) or shown in request


def test_heldout_calls_choose_among_two_to_five_tools() -> None:
    assert {len(c.tools) for c in draw("tools", "heldout")} == {2, 3, 4, 5}


def test_requests_without_a_fitting_tool_name_no_thing_of_one() -> None:
    for conversation in draw("no_tool", "heldout"):
        assert "tool_calls" not in conversation.messages[-1]


@pytest.mark.parametrize("split", SPLITS)
def test_results_are_said_in_the_answer(split: Split) -> None:
    for conversation in draw("tool_result", split):
        answers = [m for m in conversation.messages if m["role"] == "assistant" and "content" in m]
        assert str(conversation.expected[0]) in str(answers[-1]["content"])


@pytest.mark.parametrize("split", SPLITS)
def test_reading_answers_are_spans_of_the_text(split: Split) -> None:
    for conversation in draw("reading", split, 300):
        if conversation.answer != reading_task.UNKNOWN:
            text = asked(conversation).lower()
            assert conversation.answer.lower() in text
            assert "{" not in text.replace("{}", "").split("\n[]")[0]


def test_rag_answers_quote_the_passage_whose_number_they_name() -> None:
    for conversation in draw("rag", "train"):
        content = str(conversation.messages[0]["content"])
        passages = re.split(r"^\[\d\] .*$", content.split("-" * 21)[1], flags=re.M)
        question = {*re.findall(r"[a-z]{4,}", content.split("Query: ")[1].lower())}
        if conversation.answer == rag_task.NOT_FOUND:
            continue
        sentence, number = conversation.answer.removesuffix("]").rsplit(" [", 1)
        assert f" {sentence}" in passages[int(number)]
        assert sum(sentence in passage for passage in passages) == 1
        assert len(question & {*re.findall(r"[a-z]{4,}", sentence.lower())}) >= 2


def test_arithmetic_is_right_and_its_heldout_sums_are_never_trained() -> None:
    rng = Random(5)
    problems: dict[Split, set[tuple[str, int, int]]] = {"train": set(), "heldout": set()}
    for split, found in problems.items():
        for _ in range(3000):
            a, b, sign = arithmetic_task.draw_problem(rng, split)
            truth = {"+": a + b, "-": a - b, "*": a * b, "/": a // max(b, 1)}[sign]
            assert arithmetic_task.solve(a, b, sign) == truth
            if sign in "+-":
                found.add((sign, min(a, b), max(a, b)))
    assert not problems["train"] & problems["heldout"]


def test_worked_equations_are_true() -> None:
    for seed in range(20):
        for part in arithmetic_task.make_sums(Random(seed)).replace(", ", "\n").split("\n"):
            problem, _, result = part.replace(" is ", "=").partition("=")
            left, sign, right = problem.split()
            assert arithmetic_task.solve(int(left), int(right), sign) == int(result)


def test_sorted_reversed_and_upper_case_answers_are_those_of_python() -> None:
    rng = Random(6)
    for _ in range(100):
        question, answer = words_task._sort(rng, "train")
        items = re.split(r",? ", answer)
        assert items == sorted(items)
        assert all(item in question for item in items)
        question, answer = words_task._upper(rng, "train")
        assert answer == answer.upper()
        assert answer.lower() in question
        question, answer = words_task._backwards(rng, "train")
        assert answer[::-1] in question


def test_unsafe_requests_are_refused_and_twins_are_not() -> None:
    from mixtral.eval.answers_check import is_refusal

    for split in SPLITS:
        assert all(is_refusal(c.answer) for c in draw("refusal", split))
        assert not any(is_refusal(c.answer) for c in draw("twin", split))
        for conversation in draw("twin", split):
            assert all(word in conversation.answer for word in conversation.expected)


def test_heldout_twins_and_refusals_have_guard_rail_text() -> None:
    rng = Random(7)
    for _ in range(50):
        for made in (
            safe_task.make_refusal(rng, "heldout", is_guarded=True),
            safe_task.make_twin(rng, "heldout"),
        ):
            assert made.safe_prompt or made.messages[0]["role"] == "system"


def test_more_questions_about_nano_are_for_known_answers_and_none_is_a_heldout_one() -> None:
    known = {answers[0] for answers, _ in TALK}
    asked_for = [question for _, questions in TALK for question in questions]
    held = {question.lower() for question in asked_for if is_heldout(question)}
    assert held
    for start, more in MORE_TALK.items():
        assert sum(answer.startswith(start) for answer in known) == 1
        assert len(set(more)) == len(more)
        assert not {question.lower() for question in more} & held


def test_nano_says_that_it_is_a_small_demonstration_model() -> None:
    for conversation in draw("talk", "heldout"):
        assert all(word in conversation.answer.lower() for word in conversation.expected)


def test_more_unsafe_acts_of_training_are_none_of_those_that_the_card_may_ask_for() -> None:
    assert set(MORE_ACTS) == set(CATEGORIES)
    for category, acts in MORE_ACTS.items():
        assert len(set(acts)) == len(acts)
        assert not set(acts) & {act for _, known in CATEGORIES.values() for act in known}
        drawn = {safe_task.draw_unsafe(Random(seed), "heldout", category) for seed in range(200)}
        frames = [act for act in acts if "{" not in act]
        assert not any(act in text.lower() for act in frames for text in drawn)


def test_statements_with_the_key_first_are_training_ones_alone() -> None:
    assert not set(passkey_task._KEY_FIRST) & set(passkey_task.STATEMENTS)
    allowed = {
        statement.format(n=name, k="KEY")
        for statement in passkey_task.STATEMENTS
        for name in passkey_task.NAMES
    }
    for made in draw("passkey", "heldout"):
        assert made.filler["insert"].strip().replace(made.answer, "KEY") in allowed


def test_a_page_of_skills_asks_for_six_small_jobs_or_more_and_answers_each() -> None:
    for seed in range(20):
        page = make_skills(Random(seed))
        assert len(page.messages) >= 12
        assert [m["role"] for m in page.messages] == ["user", "assistant"] * (
            len(page.messages) // 2
        )
        assert all(str(m["content"]) for m in page.messages)
