"""Several processes train as one does: same losses, norms and weights, and states that fit all."""

import re
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from mixtral.errors import CheckpointError, ConfigError
from mixtral.train.parallel import ParallelContext
from mixtral.train.parallel_settings import ParallelSettings
from mixtral.train.sharded_state import ShardedState, followed_by
from tests.train import parallel_for_tests as scenarios
from tests.train.parallel_for_tests import run_processes

Results = list[dict[str, Any]]
COMMON = ("equal", "bfloat16", "lora", "low_bit", "resume", "resume_single")


@pytest.fixture(scope="module")
def alone() -> ParallelContext:
    return ParallelContext.from_environment(ParallelSettings())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def single(alone: ParallelContext, folder: Path) -> dict[str, Any]:
    names = (*COMMON[:-1], "tied")
    return {name: scenarios.SCENARIOS[name](alone, folder) for name in names}


@pytest.fixture(scope="module")
def data_parallel(single: dict[str, Any], folder: Path) -> Results:
    return run_processes([*COMMON, "tied"], _copy_of(folder, "data"))


@pytest.fixture(scope="module")
def expert_parallel(single: dict[str, Any], folder: Path) -> Results:
    return run_processes(COMMON, _copy_of(folder, "expert"), expert_parallel=2)


def _copy_of(folder: Path, name: str) -> Path:
    """A folder for other processes, with the state that the single process has written."""
    other = folder / name
    other.mkdir()
    (other / "by_1").symlink_to(folder / "by_1")
    return other


@pytest.fixture(params=["data", "expert"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def several(kind: str, request: pytest.FixtureRequest) -> Results:
    results: Results = request.getfixturevalue(f"{kind}_parallel")
    return results


def assert_same_log(log: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    assert len(log) == len(other) > 0
    for record, expected in zip(log, other, strict=True):
        assert record == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["equal", "lora", "low_bit"])
def test_losses_and_gradient_norms_are_those_of_one_process(
    several: Results, single: dict[str, Any], name: str
) -> None:
    for result in several:
        assert_same_log(result[name]["log"], single[name]["log"])


def test_bfloat16_model_computes_as_in_one_process_over_float32_shards(
    several: Results, single: dict[str, Any]
) -> None:
    for result in several:
        assert result["bfloat16"]["dtypes"] == ["torch.float32"]
        for record, expected in zip(
            result["bfloat16"]["log"], single["bfloat16"]["log"], strict=True
        ):
            assert record == pytest.approx(expected, rel=1e-3)


def test_weights_and_evaluation_are_those_of_one_process(
    several: Results, single: dict[str, Any], folder: Path, kind: str
) -> None:
    ours = torch.load(folder / "equal.pt", weights_only=True)
    theirs = torch.load(folder / kind / "equal.pt", weights_only=True)
    assert list(ours) == list(theirs)
    for name, weight in ours.items():
        # AdamW divides by the root of tiny second moments, which enlarges rounding.
        torch.testing.assert_close(theirs[name], weight, atol=1e-3, rtol=1e-3)
    for result in several:
        assert result["equal"]["valid"] == pytest.approx(single["equal"]["valid"], rel=1e-4)


def test_adapter_of_several_processes_is_that_of_one(
    several: Results, single: dict[str, Any]
) -> None:
    expected = single["lora"]["b"]
    for result in several:
        assert list(result["lora"]["b"]) == list(expected)
        for name, rows in result["lora"]["b"].items():
            torch.testing.assert_close(
                torch.tensor(rows), torch.tensor(expected[name]), atol=1e-4, rtol=1e-3
            )


def test_each_process_keeps_half_of_the_weights(several: Results) -> None:
    for result in several:
        assert result["equal"]["share"] == pytest.approx(0.5, abs=0.01)


def test_run_goes_on_from_a_state_as_if_never_stopped(several: Results) -> None:
    for result in several:
        assert result["resume"]["second"] == result["resume"]["first"]


def test_several_processes_go_on_from_the_state_of_one(
    several: Results, single: dict[str, Any]
) -> None:
    for result in several:
        assert_same_log(result["resume_single"], single["resume"]["first"])


def test_one_process_goes_on_from_the_state_of_several(
    several: Results, single: dict[str, Any], alone: ParallelContext, folder: Path, kind: str
) -> None:
    log = scenarios.resume_from(alone, folder / kind / "by_2")
    assert_same_log(log, single["resume"]["first"])


def test_tied_embeddings_are_trained_as_in_one_process(
    data_parallel: Results, single: dict[str, Any]
) -> None:
    for result in data_parallel:
        assert_same_log(result["tied"]["log"], single["tied"]["log"])
        assert result["tied"]["names"] == single["tied"]["names"]
    parts = [result["tied"]["rows"] for result in data_parallel]
    assert [row for part in parts for row in part] == single["tied"]["rows"]
    assert all(parts)


@pytest.mark.slow
def test_four_processes_in_a_square_train_as_one_does(single: dict[str, Any], folder: Path) -> None:
    results = run_processes(COMMON, _copy_of(folder, "square"), world_size=4, expert_parallel=2)
    for result in results:
        assert result["equal"]["share"] == pytest.approx(0.25, abs=0.01)
        for name in ("equal", "lora", "low_bit"):
            assert_same_log(result[name]["log"], single[name]["log"])
        assert_same_log(result["resume_single"], single["resume"]["first"])


def test_lost_process_ends_the_others_with_one_line(tmp_path: Path) -> None:
    survivor, dead = run_processes(["dying"], tmp_path / "run", may_die=True)
    assert dead == {}
    line = r"EngineError: process 0 lost the others: [^\n]+\. One of them ended or is stuck, .*"
    assert re.fullmatch(line, survivor["error"])
    assert "/" not in survivor["error"]  # no place in a library's source


def test_different_recipes_are_refused_by_every_process(tmp_path: Path) -> None:
    for result in run_processes(["differing"], tmp_path / "run"):
        assert result["error"] == (
            "ConfigError: the recipe of process 1 is not that of process 0; "
            "all processes must be started with the same files and options."
        )


@pytest.mark.parametrize(
    ("expert_parallel", "world_size", "num_experts", "message"),
    [
        (3, 4, 6, "must divide the number of processes, which is 4"),
        (4, 4, 6, "must divide num_local_experts, which is 6"),
        (2, 2, 0, "must divide num_local_experts, which is 0"),
    ],
)
def test_experts_that_cannot_be_split_are_refused(
    expert_parallel: int, world_size: int, num_experts: int, message: str
) -> None:
    settings = ParallelSettings(expert_parallel=expert_parallel)
    with pytest.raises(ConfigError, match=message):
        settings.check(world_size=world_size, num_local_experts=num_experts)


def test_settings_without_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.expert_parallel is 0"):
        ParallelSettings(expert_parallel=0)
    with pytest.raises(ConfigError, match=r"parallel\.timeout_s is -1"):
        ParallelSettings(timeout_s=-1)


def test_variables_that_torchrun_would_not_set_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ConfigError, match="variable WORLD_SIZE is 'two'"):
        ParallelContext.from_environment(ParallelSettings())
    monkeypatch.setenv("WORLD_SIZE", "0")
    with pytest.raises(ConfigError, match="a whole number of at least 1"):
        ParallelContext.from_environment(ParallelSettings())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="cannot join the 1 others"):
        ParallelContext.from_environment(ParallelSettings())


@pytest.mark.parametrize(("num_micros", "world_size"), [(4, 2), (5, 4), (7, 1), (9, 8), (1, 4)])
def test_every_micro_batch_counts_once_and_all_processes_run_equally_often(
    num_micros: int, world_size: int
) -> None:
    shares = [_process(rank, world_size).share(num_micros) for rank in range(world_size)]
    counted = sorted(index for share in shares for index, scale in share if scale == 1)
    assert counted == list(range(num_micros))
    assert all(scale in (0, 1) for share in shares for _, scale in share)
    assert len({len(share) for share in shares}) == 1


def test_fewer_micro_batches_than_processes_are_refused() -> None:
    _process(0, 2).require_enough(2)
    with pytest.raises(ConfigError, match="1 micro-batches for 2 processes"):
        _process(0, 2).require_enough(1)


def _process(rank: int, world_size: int) -> ParallelContext:
    return ParallelContext(torch.device("cpu"), rank=rank, world_size=world_size)


def test_newest_whole_state_counts_and_older_ones_go(
    alone: ParallelContext, tmp_path: Path
) -> None:
    state = ShardedState(tmp_path / "states", alone)
    weight = torch.zeros(3)
    for step in (1, 2):
        weight.fill_(step)
        state.save(step, {"w": weight}, {"step": step})
        weight.fill_(-1)  # the copy is what is written
    state.wait()
    (tmp_path / "states" / "3.new").mkdir()  # as a kill in the middle of writing leaves it
    assert state.newest_step == 2
    assert state.load({"w": weight}) == {"step": 2}
    assert weight.tolist() == [2, 2, 2]
    assert not (tmp_path / "states" / "1").exists()


def test_state_that_is_damaged_or_of_another_model_is_named(
    alone: ParallelContext, tmp_path: Path
) -> None:
    state = ShardedState(tmp_path / "states", alone)
    assert state.load({"w": torch.zeros(3)}) is None
    state.save(1, {"w": torch.zeros(3)}, {})
    state.wait()
    for tensors in ({"v": torch.zeros(3)}, {"w": torch.zeros(4)}):
        with pytest.raises(CheckpointError, match=r"states/1 cannot be read: "):
            state.load(tensors)
    next((tmp_path / "states" / "1").glob("*.distcp")).write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"states/1 cannot be read: "):
        state.load({"w": torch.zeros(3)})


def test_state_that_cannot_get_its_name_is_told_by_the_next_wait(
    alone: ParallelContext, tmp_path: Path
) -> None:
    state = ShardedState(tmp_path / "states", alone)
    in_the_way = tmp_path / "states" / "1" / "file"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    state.save(1, {"w": torch.zeros(3)}, {})
    with pytest.raises(CheckpointError, match=r"a state in .*states cannot be written: "):
        state.wait()


def test_folder_of_a_state_that_cannot_be_made_is_one_line(
    alone: ParallelContext, tmp_path: Path
) -> None:
    (tmp_path / "states").touch()
    state = ShardedState(tmp_path / "states" / "here", alone)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*Not a directory"):
        state.save(1, {"w": torch.zeros(3)}, {})


def test_who_waits_for_a_state_waits_until_it_has_its_name() -> None:
    written: Future[None] = Future()
    may_publish = threading.Event()
    published = followed_by(written, lambda: assert_true(may_publish.wait(timeout=30)))
    writer = threading.Thread(target=written.set_result, args=(None,))
    writer.start()
    written.result(timeout=30)
    assert not published.done()
    may_publish.set()
    published.result(timeout=30)
    writer.join()


def assert_true(value: bool) -> None:
    assert value


def test_failure_of_one_process_to_publish_a_state_is_told_by_all(tmp_path: Path) -> None:
    first, second = run_processes(["unpublished"], tmp_path / "run")
    assert re.fullmatch("CheckpointError: a state in .* cannot be written: .*", first["error"])
    assert "cannot be written: another process failed. Free some space" in second["error"]


def test_processes_that_see_different_folders_are_told_of_a_shared_disk(tmp_path: Path) -> None:
    path = tmp_path / "run" / "machine "
    for rank, result in enumerate(run_processes(["unshared"], tmp_path / "run")):
        share = "Name an output on a disk that all machines share."
        assert result["unshared"]["told"] == [
            f"not every process sees {path}{rank} of process 0. {share}",
            f"of {path}{rank}, process 0 sees the state of step 40 and process 1 no state. {share}",
        ]


def test_state_that_does_not_fit_on_the_disk_is_not_begun(
    alone: ParallelContext, tmp_path: Path
) -> None:
    state = ShardedState(tmp_path / "states", alone)
    huge = torch.zeros(1).expand(2**50)
    with pytest.raises(CheckpointError, match="a state takes"):
        state.save(1, {"w": huge}, {})
    assert state.newest_step is None
