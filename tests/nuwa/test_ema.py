"""The averaged weights against their closed form."""

import pytest
import torch
from torch import nn

from nuwa.train.ema import Ema


def test_average_equals_the_closed_form() -> None:
    module = nn.Linear(1, 1, bias=False).double()
    values = [3.0, -1.0, 4.0, 1.0, 5.0]
    nn.init.constant_(module.weight, 2.0)
    ema = Ema(module, decay=0.9)
    for value in values:
        nn.init.constant_(module.weight, value)
        ema.update()
    decays = [min(0.9, (1 + n) / (10 + n)) for n in range(1, 6)]
    expected = 2.0
    for number, value in enumerate(values):
        expected = decays[number] * expected + (1 - decays[number]) * value
    assert ema.average["weight"].item() == pytest.approx(expected, abs=1e-12)


def test_an_old_average_decays_by_its_own_rate() -> None:
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(module.weight, 1.0)
    ema = Ema(module, decay=0.9)
    ema.num_updates = 1000
    nn.init.constant_(module.weight, 0.0)
    for _ in range(7):
        ema.update()
    assert ema.average["weight"].item() == pytest.approx(0.9**7, abs=1e-12)


def test_swap_is_its_own_inverse() -> None:
    module = nn.Linear(2, 2)
    ema = Ema(module, decay=0.5)
    nn.init.zeros_(module.weight)
    ema.update()
    before, average = module.weight.clone(), ema.average["weight"].clone()
    ema.swap()
    assert torch.equal(module.weight, average)
    ema.swap()
    assert torch.equal(module.weight, before)
    assert torch.equal(ema.average["weight"], average)


def test_frozen_weights_are_left_out() -> None:
    module = nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    assert set(Ema(module, 0.9).average) == {"weight"}
