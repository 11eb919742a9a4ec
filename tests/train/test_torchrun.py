"""A run under torchrun as docs/finetuning.md starts it, killed and started again."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixtral.train.run_folder import read_log
from tests.train import parallel_runs_for_tests as scenarios

TORCHRUN = Path(sys.executable).with_name("torchrun")

RECIPE = """
init_from = "float32"
train_tokens = "tokens.npy"
valid_tokens = "tokens.npy"
dtype = "float32"
max_seq_len = 60
tokens_per_step = 120
micro_batch_tokens = 60
num_epochs = 23
warmup_steps = 1
log_every = 1
eval_every = 50
checkpoint_every = 10
tensorboard = false

[parallel]
expert_parallel = 2
timeout_s = 60
"""

# Each of three runs starts three processes that import torch.
pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    scenarios.write_runs(tmp_path)
    return tmp_path


def start(data: Path, name: str) -> subprocess.Popen[bytes]:
    (data / f"{name}.toml").write_text(f'output = "{name}"\n{RECIPE}')
    command = f"--standalone --nproc-per-node 2 -m mixtral.cli train pretrain {name}.toml"
    return subprocess.Popen(
        [TORCHRUN, *command.split()],
        cwd=data,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # At most 54 lines of steps lie in the pipe: where nobody reads on, the run waits.
        pipesize=4096,
        bufsize=0,
    )


def finish(run: subprocess.Popen[bytes]) -> str:
    _, told = run.communicate(timeout=300)
    assert run.returncode == 0, told.decode()
    return told.decode()


def kill_all(run: subprocess.Popen[bytes]) -> None:
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    for pid in (run.pid, *map(int, children)):  # torchrun first: it would end the others politely
        os.kill(pid, signal.SIGKILL)
    run.communicate(timeout=60)  # until nobody holds the pipe


def losses(folder: Path) -> list[dict[str, Any]]:
    names = ("step", "loss", "valid_loss", "grad_norm", "load_balancing_loss")
    return [{name: record[name] for name in names} for record in read_log(folder / "log.jsonl")]


@pytest.mark.skipif(
    not (TORCHRUN.exists() and Path("/proc/self").exists()),
    reason="torchrun is not beside this Python, or no /proc tells its processes",
)
def test_killed_run_of_torchrun_goes_on_with_the_losses_of_one_that_was_not(data: Path) -> None:
    finish(start(data, "whole"))
    killed = start(data, "killed")
    assert killed.stderr is not None
    # Before the state of step 20 is begun, that of step 10 is there.
    reached = any(line.startswith(b"step 21/92:") for line in killed.stderr)
    kill_all(killed)
    assert reached
    assert not (data / "killed" / "model").exists()
    told = finish(start(data, "killed"))
    assert re.search(r"going on from the checkpoint at step \d+ of 92", told)
    assert losses(data / "killed") == losses(data / "whole")
    assert len(losses(data / "whole")) == 92
