"""Token streams: fixed order, document boundaries, and refusal of wrong files."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mixtral.errors import ConfigError
from mixtral.train.data import TokenStream, TrainBatch


def write_tokens(path: Path, tokens: list[int], dtype: type = np.uint16) -> Path:
    np.save(path, np.array(tokens, dtype=dtype))
    return path


def stream(path: Path, **changes: object) -> TokenStream:
    settings: dict[str, object] = {"tokens_per_step": 8, "max_seq_len": 5, "vocab_size": 512}
    return TokenStream(path, **(settings | changes))  # type: ignore[arg-type]


def test_steps_take_whole_documents_and_long_ones_are_cut(tmp_path: Path) -> None:
    tokens = [9, 1, 20, 2, 1, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 2, 5, 6]
    data = stream(write_tokens(tmp_path / "t.npy", tokens))
    (first,), (second,), (third,) = (data.step(index) for index in range(data.num_steps))
    assert first.batch.input_ids.tolist() == [9, 1, 20, 2]
    assert list(first.batch.starts) == [0, 1, 4]
    assert first.batch.positions.tolist() == [0, 0, 1, 2]
    assert first.targets.tolist() == [-1, 20, 2, -1]
    assert second.batch.input_ids.tolist() == tokens[4:12]  # as much as fits into a step
    assert list(second.batch.starts) == [0, 5, 8]  # cut by max_seq_len, too
    assert third.batch.input_ids.tolist() == tokens[12:17]
    assert third.targets.tolist() == tokens[13:18]


def test_mask_leaves_out_tokens_that_do_not_count(tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "t.npy", [1, 3, 20, 4, 40, 41, 2, 1, 3, 5])
    mask = write_tokens(tmp_path / "m.npy", [0, 0, 0, 0, 1, 1, 1, 0, 0, 1], np.uint8)
    (only,) = stream(tokens, mask_path=mask).step(0)
    assert only.targets.tolist() == [-1, -1, -1, 40, 41, 2, -1]


def test_steps_past_the_end_begin_anew(tmp_path: Path) -> None:
    data = stream(write_tokens(tmp_path / "t.npy", list(range(10, 37))))
    assert data.num_steps == 4
    assert data.step(4)[0].batch.input_ids.tolist() == data.step(0)[0].batch.input_ids.tolist()


@pytest.mark.parametrize(
    ("tokens", "dtype", "message"),
    [
        ([1, 2, 3], np.uint16, "holds 3 tokens"),
        ([600] * 20, np.uint16, "token 600; the model knows 0 to 511"),
        ([1] * 20, np.int64, "must be a line of uint16"),
    ],
)
def test_wrong_token_file_is_refused(
    tmp_path: Path, tokens: list[int], dtype: type, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        stream(write_tokens(tmp_path / "t.npy", tokens, dtype))


def test_missing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        stream(tmp_path / "none.npy")
    (tmp_path / "bad.npy").write_bytes(b"not numpy")
    with pytest.raises(ConfigError, match="not a NumPy array file"):
        stream(tmp_path / "bad.npy")
    good = write_tokens(tmp_path / "t.npy", [1] * 20)
    short = write_tokens(tmp_path / "m.npy", [1] * 19, np.uint8)
    with pytest.raises(ConfigError, match="equally long"):
        stream(good, mask_path=short)
    empty = write_tokens(tmp_path / "e.npy", [1] + [0] * 19, np.uint8)
    with pytest.raises(ConfigError, match="marks no token"):  # the first token is no target
        stream(good, mask_path=empty)


def random_documents(path: Path, count: int = 40) -> Path:
    rng = np.random.default_rng(3)
    documents = [[1, *rng.integers(3, 500, rng.integers(1, 9))] for _ in range(count)]
    return write_tokens(path, [token for document in documents for token in document])


def test_micro_batches_are_the_step_cut_between_sequences(tmp_path: Path) -> None:
    path = random_documents(tmp_path / "t.npy")
    (whole,) = stream(path, tokens_per_step=40, max_seq_len=9).step(1)
    parts = stream(path, micro_batch_tokens=12, tokens_per_step=40, max_seq_len=9).step(1)
    assert len(parts) > 1
    assert max(part.batch.input_ids.numel() for part in parts) <= 12
    assert all(part.batch.positions[0] == 0 for part in parts)
    assert sum(part.size for part in parts) == whole.size
    rows = {tuple(row) for row in _sequences([whole])}
    assert {tuple(row) for row in _sequences(parts)} == rows


def _sequences(batches: Sequence[TrainBatch]) -> Iterator[list[int]]:
    for micro in batches:
        for begin, end in pairwise(micro.batch.starts):
            yield [*micro.batch.input_ids[begin:end].tolist(), *micro.targets[begin:end].tolist()]


def test_an_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", np.arange(40, dtype=np.uint16))
    with pytest.raises(ConfigError, match=r"t\.npz is an archive of arrays"):
        stream(tmp_path / "t.npz")
