"""The passkey grid: models that always or never find the key, order, stop, resume, report."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mixtral import LLM
from mixtral.cli import passkey as command
from mixtral.errors import ConfigError
from mixtral.eval.engine_answerer import EngineAnswerer
from mixtral.eval.passkey import PromptWriter, RepeatedSentences, TextFiller
from mixtral.eval.passkey_cost import Speed, estimate_cost, fit_speed, probe_speed
from mixtral.eval.passkey_grid import (
    GridPlan,
    GridResult,
    Reply,
    Trial,
    is_right,
    order_questions,
    run_grid,
)
from mixtral.eval.passkey_report import grid_as_dict, grid_blocks, heat_map
from mixtral.eval.trial_log import LOG_FILE, TrialLog
from mixtral.reports.markdown import markdown
from mixtral.reports.pictures import draw
from mixtral.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer("v3")
PLAN = GridPlan(lengths=(200, 300), depths=(0.0, 50.0, 100.0), cases=3)


def new_writer() -> PromptWriter:
    return PromptWriter(TOKENIZER, RepeatedSentences(TOKENIZER), style="completion", seed=0)


class Reader:
    """Reads the prompt as a person would, as far back as it can see."""

    def __init__(self, sight: int = 10**9) -> None:
        self.sight = sight
        self.num_asked = 0

    def __call__(self, token_ids: Sequence[int], *, max_tokens: int) -> Reply:
        self.num_asked += 1
        text = TOKENIZER.decode(list(token_ids)[-self.sight :])
        found = re.search(r"The pass key is (\d+)\. Remember", text)
        answer = f" {found[1]}. The" if found else " I see grass."
        return Reply(text=answer, num_reused=0, seconds=0.001 * len(token_ids))


def test_model_that_always_finds_the_key_has_every_cell_at_1() -> None:
    result = run_grid(Reader(), new_writer(), PLAN)
    cells = [result.cell(length, depth) for length in PLAN.lengths for depth in PLAN.depths]
    assert [(cell.right, cell.cases) for cell in cells] == [(3, 3)] * 6
    assert result.left_out == []


def test_model_that_never_finds_it_has_every_cell_at_0() -> None:
    result = run_grid(Reader(sight=10), new_writer(), PLAN)
    cells = [result.cell(length, depth) for length in PLAN.lengths for depth in PLAN.depths]
    assert [(cell.right, cell.cases) for cell in cells] == [(0, 3)] * 6


def test_model_that_sees_near_things_only_finds_deep_keys_only() -> None:
    result = run_grid(Reader(sight=60), new_writer(), PLAN)
    assert [result.cell(300, depth).share for depth in PLAN.depths] == [0, 0, 1]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 12345. Remember it.", True),
        ("The pass key is 12345", True),
        ("12345 67890", True),
        ("123456", False),
        ("1234", False),
        ("No. 7: 12345", False),
        ("", False),
        ("12,345", False),
    ],
)
def test_only_the_first_number_counts(answer: str, right: bool) -> None:
    assert is_right(answer, "12345") is right


def test_every_question_is_asked_once_and_the_deepest_key_first() -> None:
    ordered = order_questions(new_writer(), PLAN, 300)
    places = [(depth, case) for depth, case, _ in ordered]
    assert sorted(places) == [(d, c) for d in PLAN.depths for c in range(3)]
    assert places[:3] == [(100.0, 0), (50.0, 0), (0.0, 0)]
    # Repeated sentences are the same for all cases, so depths stay together.
    assert [depth for depth, _ in places[3:]] == [100.0, 100.0, 50.0, 50.0, 0.0, 0.0]


def test_with_a_real_text_the_questions_of_a_case_stay_together() -> None:
    novel = " ".join(f"Page {n} was dull." for n in range(500))
    filler = TextFiller(TOKENIZER, novel, name="novel")
    writer = PromptWriter(TOKENIZER, filler, style="chat", seed=0)
    cases = [case for _, case, _ in order_questions(writer, PLAN, 300)]
    assert cases in ([0] * 3 + [1] * 3 + [2] * 3, [0] * 3 + [2] * 3 + [1] * 3)


def test_hopeless_length_ends_after_one_case_per_depth_and_longer_ones_are_left_out() -> None:
    plan = replace(PLAN, lengths=(200, 300, 400), stop_below=0.6)  # 0 of 3: at most 56 %
    reader = Reader(sight=10)
    result = run_grid(reader, new_writer(), plan)
    assert reader.num_asked == 3
    assert result.left_out == [200, 300, 400]
    assert result.cell(300, 0.0).share is None
    assert "left out" in markdown(grid_blocks(result))


def test_length_with_hope_is_asked_in_full() -> None:
    reader = Reader(sight=60)
    result = run_grid(reader, new_writer(), replace(PLAN, stop_below=0.6))
    assert result.cell(200).cases == 9
    assert result.left_out == []


def test_killed_run_goes_on_with_the_same_results(tmp_path: Path) -> None:
    whole = run_grid(Reader(sight=150), new_writer(), PLAN)
    log = TrialLog(tmp_path, {"seed": 0})

    def stop_at_five(trial: Trial) -> None:
        log.append(trial)
        if trial == whole.trials[4]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(Reader(sight=150), new_writer(), PLAN, on_trial=stop_at_five)
    log.close()
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write('{"length": 200, "dep')  # what a kill leaves
    again = TrialLog(tmp_path, {"seed": 0})
    assert again.trials == whole.trials[:5]
    reader = Reader(sight=150)
    result = run_grid(reader, new_writer(), PLAN, done=again.trials, on_trial=again.append)
    assert result == whole
    assert reader.num_asked == len(whole.trials) - 5
    again.close()
    assert TrialLog(tmp_path, {"seed": 0}).trials == whole.trials


def test_answers_with_any_characters_come_back_from_disk(tmp_path: Path) -> None:
    trial = replace(run_grid(Reader(), new_writer(), PLAN).trials[0], answer="a\u2028b\nc\x85 ä")
    log = TrialLog(tmp_path, {})
    log.append(trial)
    log.close()
    assert TrialLog(tmp_path, {}).trials == [trial]


def test_folder_with_other_answers_or_another_writer_is_refused(tmp_path: Path) -> None:
    log = TrialLog(tmp_path, {"model": "a", "seed": 0})
    with pytest.raises(ConfigError, match="another run writes to"):
        TrialLog(tmp_path, {"model": "a", "seed": 0})
    log.close()
    with pytest.raises(ConfigError, match="has answers with seed 0, and now it is 1"):
        TrialLog(tmp_path, {"model": "a", "seed": 1})
    (tmp_path / LOG_FILE).write_text('{"settings": {}}\n{"length": 3}\n')
    with pytest.raises(ConfigError, match="line 2 is no answer"):
        TrialLog(tmp_path, {})
    (tmp_path / LOG_FILE).write_text('{"settings": {}}\noh no\n')
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        TrialLog(tmp_path, {})
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="which is a file"):
        TrialLog(tmp_path / "file", {})


@pytest.mark.parametrize("content", [b'{"my": "answers"}', b'{"my": 1}\n{"my": 2}', b"oh\nno"])
def test_file_of_the_user_in_the_folder_is_refused_and_stays_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / LOG_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="is no file of answers"):
        TrialLog(tmp_path, {"seed": 0})
    assert (tmp_path / LOG_FILE).read_bytes() == content


def test_cost_counts_the_questions_that_are_left() -> None:
    whole = run_grid(Reader(), new_writer(), PLAN)
    speed = Speed(answer_s=1.0, token_s=0.0, pair_s=0.0)
    cost = estimate_cost(new_writer(), PLAN, speed)
    assert cost.num_prompts == len(whole.trials) == cost.seconds
    assert cost.num_tokens == sum(trial.num_prompt_tokens for trial in whole.trials)
    left = estimate_cost(new_writer(), PLAN, speed, done=whole.trials[:7])
    assert left.num_prompts == len(whole.trials) - 7


def test_speed_is_that_of_the_model() -> None:
    def slow(token_ids: Sequence[int], *, max_tokens: int) -> Reply:
        seconds = 0.5 + 0.01 * len(token_ids) + 1e-5 * len(token_ids) ** 2
        return Reply(text="", num_reused=0, seconds=seconds)

    speed = probe_speed(slow, vocab_size=10, longest=5000, max_tokens=1)
    assert speed.seconds(30_000) == pytest.approx(0.5 + 300 + 9000)
    # The second half of a prompt costs more than the first.
    assert speed.seconds(1000, 500) == pytest.approx(0.5 + 5 + 7.5)
    assert probe_speed(slow, vocab_size=10, longest=40, max_tokens=1).seconds(40) > 0


def test_times_that_fit_no_curve_still_give_a_speed() -> None:
    assert fit_speed([64, 512, 2048], [3.0, 1.0, 2.0]).seconds(2048) > 0
    assert fit_speed([64], [3.2]).token_s == pytest.approx(0.05)


def tiny_llm(*, enable_prefix_cache: bool) -> LLM:
    return LLM(
        "random:nano",
        layers=1,
        dtype="float32",
        device="cpu",
        max_model_len=512,
        enable_prefix_cache=enable_prefix_cache,
    )


def test_engine_reuses_the_prefix_across_depths_and_answers_the_same() -> None:
    plan = GridPlan(lengths=(400,), depths=(0.0, 50.0, 100.0), cases=1)
    result = run_grid(EngineAnswerer(tiny_llm(enable_prefix_cache=True)), new_writer(), plan)
    deep, middle, first = result.trials
    assert deep.num_reused == 0
    for trial in (middle, first):
        # Whole blocks of 16; where the key comes first, its line begins like that of the filler.
        assert trial.key_position - 17 <= trial.num_reused <= trial.key_position + 1
    assert result.reused_share == (middle.num_reused + first.num_reused) / (3 * (400 - 12))
    plain = run_grid(EngineAnswerer(tiny_llm(enable_prefix_cache=False)), new_writer(), plan)
    assert [trial.answer for trial in plain.trials] == [trial.answer for trial in result.trials]
    assert plain.reused_share == 0


def test_report_names_every_cell_and_the_picture_is_drawn(tmp_path: Path) -> None:
    plan = replace(PLAN, lengths=(200, 300, 400), stop_below=0.75)
    trials = run_grid(Reader(sight=60), new_writer(), replace(PLAN, lengths=(200,))).trials
    result = GridResult(plan=plan, trials=trials)
    table = markdown(grid_blocks(result))
    assert "| 200 | 0/3 | 0/3 | 3/3 | 33% | 12 to 65 % |" in table
    assert "| 400 | left out | left out | left out | - | - |" in table
    values = json.loads(json.dumps(grid_as_dict(result)))
    assert [cell["share"] for cell in values["cells"]] == [0, 0, 1, *[None] * 6]
    (picture,) = draw([heat_map(result, title="a model")], tmp_path) or ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["passkey.png", "passkey.svg"]
    assert draw([heat_map(result, title="a model")], tmp_path) == [picture]
    assert "200 tokens: 33%" in picture.alt


def call(*arguments: object) -> Result:
    fixed = ["--model", "random:nano", "--layers", 1, "--device", "cpu", "--dtype", "float32"]
    return CliRunner().invoke(command.app, [str(each) for each in (*fixed, *arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lengths", "1q"], "lengths is '1q'"),
        (["--depths", "0,200"], "depths is '0,200'"),
        (["--cases", 0], "cases is 0"),
        (["--prompt", "base"], "prompt is 'base'; it must be chat or completion"),
        (["--stop-below", 2], "stop-below is 2"),
        (["--filler", "no/such.txt"], "no/such.txt is not there"),
        (["--out", __file__], "which is a file"),
        (["--lengths", "1k", "--max-model-len", 512], "up to 1024 tokens, and the context"),
        (["--lengths", "50", "--max-model-len", 512], "no room for a text below"),
    ],
)
def test_command_refuses_what_cannot_work_in_one_line(
    arguments: list[object], message: str
) -> None:
    error = call(*arguments).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)
    assert "\n" not in str(error)


def test_command_writes_a_folder_and_a_second_run_asks_nothing_again(tmp_path: Path) -> None:
    arguments = ["--lengths", 256, "--depths", 2, "--cases", 1, "--max-model-len", 256]
    first = call(*arguments, "--out", tmp_path / "grid", "--json")
    assert first.exit_code == 0, first.exception
    values = json.loads(first.stdout)
    assert values["settings"]["model"]["name"] == "random:nano"
    assert [cell["cases"] for cell in values["cells"]] == [1, 1]
    names = {path.name for path in (tmp_path / "grid").iterdir()}
    report = {"results.json", "report.md", "index.html", "passkey.png", "passkey.svg"}
    assert names == {LOG_FILE, *report}
    again = call(*arguments, "--out", tmp_path / "grid", "--json")
    assert json.loads(again.stdout)["trials"] == values["trials"]
    assert "beside 2 answers" in again.stderr


def test_estimate_counts_what_is_left_and_writes_nothing(tmp_path: Path) -> None:
    arguments = ["--lengths", 256, "--depths", 2, "--max-model-len", 256, "--out", tmp_path / "out"]
    before = call(*arguments, "--cases", 2, "--estimate", "--json")
    assert before.exit_code == 0, before.exception
    values = json.loads(before.stdout)
    assert (values["num_prompts"], values["num_answered"]) == (4, 0)
    assert values["seconds"] > 0
    assert not (tmp_path / "out").exists()
    assert call(*arguments, "--cases", 1).exit_code == 0
    written = (tmp_path / "out" / LOG_FILE).read_bytes()
    left = call(*arguments, "--cases", 2, "--estimate", "--json")
    values = json.loads(left.stdout)
    assert (values["num_prompts"], values["num_answered"]) == (2, 2)
    nothing = call(*arguments, "--cases", 1, "--estimate", "--json")
    assert json.loads(nothing.stdout)["num_prompts"] == 0
    assert (tmp_path / "out" / LOG_FILE).read_bytes() == written
