import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

import tests.recipes.nano_for_tests  # noqa: F401  (before what it makes importable)
from mixtral.eval.answers_check import Call, is_right
from mixtral.eval.cases import read_pairs
from mixtral.tokenizer import load_tokenizer
from mixtral.train.chat_data import encode_conversation, encode_preference
from mixtral.train.records import parse_conversation, parse_preference

import drills  # isort: skip
import make_cases  # isort: skip
import prepare  # isort: skip
import tasks  # isort: skip
import words  # isort: skip
from conversation import Conversation, answer_text, dialogue  # isort: skip
from corpus import TextDocument  # isort: skip
from encoding import EOS_ID, Encoder  # isort: skip
from novels import sample_novels  # isort: skip


JOB = prepare.Job(
    kind="text", seed="s", longest=4096, data=Path(), times=prepare._times("pretrain")
)


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    rng = Random(11)
    return [tasks.make_conversation(rng, sample_novels()) for _ in range(150)]


def test_encoding_is_the_official_template_with_the_answer_behind(
    conversations: list[Conversation],
) -> None:
    encoder, tokenizer = Encoder(), load_tokenizer("v3")
    for conversation in conversations:
        ids, mask = encoder.conversation(conversation)
        record = conversation.record()
        prompt = tokenizer.encode_chat(record["messages"][:-1], tools=record.get("tools"))
        assert ids[: len(prompt)].tolist() == prompt
        assert mask[len(prompt) :].all()
        assert ids[-1] == 2
        assert len(mask) == len(ids)


def test_the_mask_covers_answers_alone(conversations: list[Conversation]) -> None:
    encoder = Encoder()
    for conversation in conversations:
        ids, mask = encoder.conversation(conversation)
        answers = [m for m in conversation.messages if m["role"] == "assistant"]
        answers = answers[-1:] if conversation.learn_last_only else answers
        learned = ids[mask == 1]
        spans = np.split(learned, np.flatnonzero(learned == 2) + 1)
        texts = [encoder.decode(span.tolist()) for span in spans if len(span)]
        assert texts == [answer_text(answer) for answer in answers]


def test_records_are_accepted_by_the_trainer_and_learn_the_same_answer(
    conversations: list[Conversation],
) -> None:
    encoder, tokenizer = Encoder(), load_tokenizer("v3")
    for conversation in conversations[:60]:
        examples = encode_conversation(parse_conversation(conversation.record()), tokenizer)
        ids, _ = encoder.conversation(conversation)
        assert examples[-1].token_ids == ids.tolist()


def test_pairs_are_accepted_by_the_trainer() -> None:
    tokenizer = load_tokenizer("v3")
    for pair in tasks.preference_pairs("t", "train", 40, sample_novels()):
        chosen, rejected = encode_preference(parse_preference(pair), tokenizer)
        assert chosen.token_ids != rejected.token_ids


def test_pairs_are_seeded_and_their_halves_share_no_prompt() -> None:
    def prompts(split: words.Split) -> list[str]:
        pairs = tasks.preference_pairs("t", split, 200, sample_novels())
        return [json.dumps(pair["messages"]) for pair in pairs]

    assert prompts("train") == prompts("train")
    assert not set(prompts("train")) & set(prompts("heldout"))


def test_committed_cases_are_those_that_the_recipe_makes(tmp_path: Path) -> None:
    made = tasks.heldout_cases(make_cases.SEED, 3, sample_novels())
    lines = (make_cases.PACKAGE / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    committed = [json.loads(line) for line in lines]
    for case in made:
        assert case in committed
    pairs = tasks.preference_pairs(str(make_cases.SEED), "heldout", 20, sample_novels())
    shipped = [pair.messages for pair in read_pairs(20)]
    assert [pair["messages"] for pair in pairs] == shipped


def test_expected_answers_pass_their_own_checks() -> None:
    rng = Random(12)
    for make in tasks._heldout_makers(sample_novels()).values():
        for _ in range(3):
            made = make(rng)
            case = made.case()
            calls = [
                Call(name=call["function"]["name"], arguments=call["function"]["arguments"])
                for call in made.messages[-1].get("tool_calls", [])
            ]
            text = "" if calls else made.answer
            assert is_right(case["check"], text, calls, case["expected"]), case


def test_heldout_keys_hide_in_text_of_the_promised_length() -> None:
    encoder, rng = Encoder(), Random(13)
    made = tasks._key_in(rng, sample_novels(), encoder, 1000)
    assert 940 <= encoder.length_of(made) <= 1000


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_drills_repeat_what_they_show(level: float) -> None:
    rng, encoder = Random(14), Encoder()
    shares = []
    for _ in range(60):
        tokens = encoder.document(drills.make_drill(rng, level))
        shares.append(prepare.repeated_mask(tokens).mean())
    assert 0.3 < np.mean(shares) < 0.9


def test_drills_grow_with_their_level() -> None:
    def mean_length(level: float) -> float:
        rng = Random(15)
        return float(np.mean([len(drills.make_drill(rng, level)) for _ in range(80)]))

    assert mean_length(0.0) < mean_length(0.5) < mean_length(1.0)


def test_drills_of_marks_write_the_same_words_twice_and_no_heldout_name() -> None:
    rng = Random(18)
    heldout = {*words.FIRST_NAMES.heldout, *words.LAST_NAMES.heldout, *words.CITIES.heldout}
    num_objects = 0
    for _ in range(300):
        lines = drills.make_marks(rng).split("\n")
        # What is within marks is one line, the first or the last.
        splits = ((lines[:1], lines[1:]), (lines[:-1], lines[-1:]))
        one, two = min(map(_counted, splits), key=_num_different)
        assert one == two
        assert not {word for word in one if word[0].isupper()} & heldout
        num_objects += any(line.startswith("{") for line in (lines[0], lines[-1]))
    assert num_objects > 30


def _counted(halves: tuple[list[str], list[str]]) -> tuple[Counter[str], Counter[str]]:
    one, two = (Counter(re.findall("[A-Za-z]+", " ".join(half))) for half in halves)
    for joint in ("and", "is"):
        del one[joint], two[joint]
    return one, two


def _num_different(counts: tuple[Counter[str], Counter[str]]) -> int:
    one, two = counts
    return ((one - two) + (two - one)).total()


def test_of_sums_only_the_results_are_learned() -> None:
    encoder = Encoder()
    for text, learned in (("3+4=7\n12 + 1 = 13", "7\n 13"), ("5 is 6, 8 is 9", " 6, 9")):
        tokens = encoder.document(text)
        kept = tokens[prepare.results_mask(tokens) == 1].tolist()
        assert kept[-1] == EOS_ID
        assert encoder.decode(kept[:-1]).split() == learned.split()


def test_spelling_pages_spell_right() -> None:
    for line in drills.make_spelling(Random(16)).split("\n"):
        if "backwards" in line:
            word = line.split(":")[0]
            assert line.endswith(word[::-1])


def test_jobs_give_the_same_bytes_twice() -> None:
    for kind in ("drill", "spelling", "sums"):
        job = replace(JOB, kind=kind)
        first, second = (prepare._draw(job, Random(1)) for _ in range(2))
        assert first.tokens.tobytes() == second.tokens.tobytes()
        assert first.time == second.time


def test_files_are_sorted_by_time_and_begin_with_short_drills(tmp_path: Path) -> None:
    rng = Random(2)
    job = replace(JOB, kind="drill")
    made = [prepare._draw(job, rng) for _ in range(50)]
    text = TextDocument(kind="novels", text="A man. " * 20, is_long=False, is_valid=False)
    made += [prepare._encode_text(rng, text, job) for _ in range(50)]
    prepare._write(tmp_path, "pretrain", made, seed=0, with_mask=True)
    tokens = np.load(tmp_path / "pretrain.tokens.npy")
    mask = np.load(tmp_path / "pretrain.mask.npy")
    assert len(tokens) == len(mask) == sum(len(each.tokens) for each in made)
    first = min(made, key=lambda each: each.time)
    assert first.kind == "drill"
    assert tokens[: len(first.tokens)].tolist() == first.tokens.tolist()


def test_documents_are_cut_at_the_longest(tmp_path: Path) -> None:
    text = TextDocument(kind="novels", text="word " * 500, is_long=False, is_valid=False)
    assert len(prepare._encode_text(Random(0), text, replace(JOB, longest=128)).tokens) == 128


def test_long_texts_come_last_in_pretraining_and_all_the_time_in_fine_tuning() -> None:
    text = TextDocument(kind="long novels", text="word " * 50, is_long=True, is_valid=False)
    times = {
        name: [
            prepare._encode_text(Random(i), text, replace(JOB, times=prepare._times(name))).time
            for i in range(60)
        ]
        for name in ("pretrain", "sft")
    }
    assert min(times["pretrain"]) >= 0.7
    assert min(times["sft"]) < 0.2


def test_a_missing_source_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "does not exist" in error
    assert error.count("\n") == 1


def test_an_answer_not_learned_has_weight_zero() -> None:
    made = dialogue("a", "b", "c", "d", task="t", learn_last_only=True)
    weights = [message.get("weight") for message in made.record()["messages"]]
    assert weights == [None, 0, None, None]
