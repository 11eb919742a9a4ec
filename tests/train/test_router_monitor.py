"""Loads and entropies of routers, and the warning of an expert that starves."""

import logging
import math

import pytest
import torch
from torch import Tensor

from mixtral.kernels.reference import route
from mixtral.model.router_trace import RouterRecorder
from mixtral.train.router_monitor import RouterMonitor


def record(*layers: Tensor) -> RouterRecorder:
    recorder = RouterRecorder()
    for logits in layers:
        weights, ids = route(logits, 2)
        recorder.add(ids, weights, logits)
    return recorder


def test_load_and_entropy_of_known_routing() -> None:
    even = torch.zeros(4, 4)
    even[:2, :2] = 1e-4  # two tokens to experts 0 and 1, two to experts 2 and 3
    even[2:, 2:] = 1e-4
    sure = torch.tensor([[100.0, 50.0, 0.0, -50.0]]).repeat(4, 1)
    monitor = RouterMonitor(4, starving_load=0)
    monitor.observe(record(even, sure))
    summary = monitor.summarize(0)
    assert summary is not None
    assert summary.expert_load == [[0.25] * 4, [0.5, 0.5, 0, 0]]
    assert summary.router_entropy == pytest.approx([math.log(4), 0], abs=1e-6)
    assert monitor.summarize(1) is None


def test_two_passes_count_as_one_of_all_tokens() -> None:
    logits = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    parts, whole = (RouterMonitor(4, starving_load=0) for _ in range(2))
    parts.observe(record(logits[:10]))
    parts.observe(record(logits[10:]))
    whole.observe(record(logits))
    one, two = parts.summarize(0), whole.summarize(0)
    assert one is not None
    assert two is not None
    assert one.expert_load == two.expert_load
    assert one.router_entropy == pytest.approx(two.router_entropy)


def test_starving_expert_is_named_once_until_it_recovers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generator = torch.Generator().manual_seed(0)
    fair = torch.randn(400, 4, generator=generator)
    starved = fair.clone()
    starved[:, 2] = -9
    monitor = RouterMonitor(4, starving_load=0.1)
    with caplog.at_level(logging.WARNING):
        for step, logits in enumerate((fair, starved, starved, fair, starved)):
            monitor.observe(record(logits))
            monitor.summarize(step)
    messages = [entry.getMessage() for entry in caplog.records]
    assert [message.split(":")[0] for message in messages] == ["step 2", "step 5"]
    assert "expert 2 of layer 0 starves: it got 0.00 %" in messages[0]


def test_few_tokens_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    monitor = RouterMonitor(4, starving_load=0.1)
    monitor.observe(record(torch.tensor([[3.0, 2.0, 1.0, 0.0]])))
    with caplog.at_level(logging.WARNING):
        monitor.summarize(0)
    assert not caplog.records
