"""Gradients averaged over workers: their mean, whoever uses which weight, however the batch is cut."""

from pathlib import Path

import pytest
import torch
from torch import nn

from nuwa.train import workers
from nuwa.train.gradient_mean import GradientMean, deal
from nuwa.train.learner import Learner, NotFiniteError
from tests.nuwa.worker_processes import together


class Branches(nn.Module):
    """A weight that all use, one that only the worker of its number uses, and one that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.own = nn.ParameterList(nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
        self.unused = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, rank: int) -> torch.Tensor:
        return (rank + 1.0) * self.shared.sum() + 10.0 * self.own[rank].square().sum()


@pytest.mark.parametrize("bucket_bytes", [1, 30, 10**6], ids=["one weight each", "some", "all in one"])
def test_means_are_those_of_the_closed_form_whoever_uses_a_weight(tmp_path: Path, bucket_bytes: int) -> None:
    def job(rank: int) -> list[torch.Tensor | None]:
        module = Branches()
        mean = GradientMean(list(module.parameters()), bucket_bytes)
        for _ in range(2):
            module.zero_grad()
            mean.expect()
            module(rank).backward()
            mean.finish()
        return [weight.grad for weight in module.parameters()]

    for shared, unused, first, second in together(2, tmp_path, job):
        assert torch.equal(shared, torch.full((3,), 1.5, dtype=torch.float64))
        assert torch.equal(first, torch.full((2,), 10.0, dtype=torch.float64))
        assert torch.equal(second, first)
        assert unused is None


def test_buckets_leave_during_the_backward_pass(tmp_path: Path) -> None:
    def job(rank: int) -> tuple[int, int, int]:
        module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
        mean = GradientMean(list(module.parameters()), bucket_bytes=1)
        loss = module(torch.ones(1, 4)).sum()
        loss.backward(retain_graph=True)
        before = len(mean._sent)
        mean.expect()
        loss.backward()
        during = len(mean._sent)
        mean.finish()
        return before, during, len(mean._sent)

    assert together(2, tmp_path, job) == [(0, 6, 0)] * 2


def test_a_batch_in_parts_on_two_workers_is_the_whole_batch_on_one(tmp_path: Path) -> None:
    rows = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def learned(rank: int, share: int, parts: int) -> torch.Tensor:
        torch.manual_seed(1)
        module = nn.Linear(5, 1).double()
        learner = Learner(module, weight_decay=0.01, clip_norm=0.5)
        for _ in range(3):
            for part in rows[rank * share : (rank + 1) * share].chunk(parts):
                learner.add(module(part).square().mean(), 1.0 / parts)
            learner.take_step(0.1)
        return module.weight.detach()

    expected = learned(0, 8, 1)
    for found in together(2, tmp_path, lambda rank: learned(rank, 4, 2)):
        assert torch.allclose(found, expected, atol=1e-12, rtol=0)


def test_a_loss_that_is_no_number_in_one_worker_stops_all(tmp_path: Path) -> None:
    def job(rank: int) -> tuple[str, bool]:
        module = nn.Linear(2, 1)
        learner = Learner(module, weight_decay=0.0, clip_norm=1.0)
        before = module.weight.detach().clone()
        learner.add(module(torch.ones(1, 2)).sum() + (float("nan") if rank == 1 else 0.0))
        try:
            learner.take_step(0.1)
        except NotFiniteError as error:
            return str(error), torch.equal(before, module.weight)
        return "", False

    for message, untouched in together(2, tmp_path, job):
        assert message.startswith("loss nan")
        assert untouched


def test_a_weight_that_is_no_number_in_one_worker_stops_all(tmp_path: Path) -> None:
    def job(rank: int) -> bool:
        module = nn.Linear(2, 1)
        learner = Learner(module, weight_decay=0.0, clip_norm=1.0)
        learner.check_weights()
        if rank == 1:
            nn.init.constant_(module.bias, float("inf"))
        try:
            learner.check_weights()
        except NotFiniteError:
            return True
        return False

    assert together(2, tmp_path, job) == [True, True]


def test_the_first_worker_says(tmp_path: Path) -> None:
    def job(rank: int) -> tuple[int, int, str, float]:
        mean = workers.mean(torch.tensor(float(rank)))
        return workers.count(), workers.number(), workers.first_says(f"said by {rank}"), float(mean)

    assert together(2, tmp_path, job) == [(2, 0, "said by 0", 0.5), (2, 1, "said by 0", 0.5)]


def test_buckets_are_filled_in_order_and_hold_what_is_too_large_alone() -> None:
    weights = [nn.Parameter(torch.zeros(size)) for size in (2, 3, 10, 1, 1)]
    assert [[weight.numel() for weight in bucket] for bucket in deal(weights, 20)] == [[2, 3], [10], [1, 1]]
    assert deal([], 20) == []
