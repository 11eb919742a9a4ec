"""Help texts and defaults come from the classes they belong to."""

import dataclasses
from pathlib import Path

import pytest

from mixtral.cli.fields import read_fields
from mixtral.cli.options import ModelOptions, SamplingOptions, with_max_tokens
from mixtral.engine import SamplingParams
from mixtral.whole_file import write_whole
from tests.cli.conftest import Run


def test_options_are_the_fields_of_sampling_params() -> None:
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert {field.name for field in dataclasses.fields(SamplingOptions)} == names - {
        "n",
        "logprobs",
    }


def test_options_that_are_not_given_are_the_defaults() -> None:
    assert SamplingOptions().params() == SamplingParams()


def test_every_field_has_a_string_under_it() -> None:
    for source, name in (
        ("engine/sampling_params.py", "SamplingParams"),
        ("train/recipe.py", "TrainRecipe"),
    ):
        assert all(field.doc for field in read_fields(source, name).values())


def test_help_shows_these_strings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(run("generate", "--help").stdout.split())
    for name, field in read_fields("engine/sampling_params.py", "SamplingParams").items():
        assert field.doc in text
        assert "--" + name.replace("_", "-") in text
    for option in dataclasses.fields(ModelOptions):
        assert "--" + option.name.replace("_", "-") in text


@pytest.mark.parametrize(("room", "wanted"), [(1000, 256), (256, 256), (255, None), (0, None)])
def test_default_length_is_256_where_the_context_has_room(room: int, wanted: int | None) -> None:
    assert with_max_tokens(SamplingParams(), room=room).max_tokens == wanted


def test_length_that_was_asked_for_stays() -> None:
    assert with_max_tokens(SamplingParams(max_tokens=500), room=1).max_tokens == 500


def test_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a", "\ud800")
    assert list(tmp_path.iterdir()) == []
