"""What benchmarks.denoisers compares is comparable: parameters, shapes, and weights that stay what they are."""

import dataclasses

import pytest
import torch

from benchmarks.denoiser_contenders import (
    LARGER,
    TOY,
    Contender,
    Size,
    call_3d,
    call_ours,
    call_ours_per_frame,
    call_spatio_temporal,
    inputs_of,
    ours,
    peer_3d,
    peer_spatio_temporal,
)
from benchmarks.denoisers import Benchmark, check_equal, lay_out, main
from nuwa.hierarchy import NuwaError


@pytest.mark.parametrize("size", [TOY, LARGER], ids=lambda size: size.name)
def test_parameters_are_equal_within_five_percent(size: Size) -> None:
    with torch.device("meta"):
        for peer, channels in ((peer_3d, size.beside_3d), (peer_spatio_temporal, size.beside_spatio_temporal)):
            other, mine = Contender("peer", peer(size), call_3d), Contender("ours", ours(size, channels), call_ours)
            check_equal([other, mine])
            with pytest.raises(AssertionError, match="parameters beside"):
                check_equal([other, Contender("ours", ours(size, size.peer_channels), call_ours)])


@pytest.mark.parametrize("size", [TOY, LARGER], ids=lambda size: size.name)
def test_all_have_the_same_heads_at_every_resolution(size: Size) -> None:
    with torch.device("meta"):
        networks = [ours(size, size.beside_3d), peer_3d(size), peer_spatio_temporal(size)]
    for network in networks:
        blocks = [block.attentions[0].transformer_blocks[0] for block in network.down_blocks]
        assert [block.attn1.heads for block in blocks] == list(size.heads)


def test_all_predict_the_same_shape_and_none_is_a_trivial_function() -> None:
    small = dataclasses.replace(TOY, latent_px=4)
    given = inputs_of(small, 1, torch.empty(0))
    mine = ours(small, small.beside_3d)
    calls = [(mine, call_ours), (mine, call_ours_per_frame), (peer_3d(small), call_3d)]
    with torch.no_grad():
        for module, call in calls:
            assert call(module, given).shape == given.sample.shape
        frames = call_spatio_temporal(peer_spatio_temporal(small), given)
        assert frames.shape == given.sample.transpose(1, 2).shape
        # every part of ours has an effect: condition, mask, frames before and after
        changed = dataclasses.replace(given, mask=1 - given.mask)
        assert not torch.equal(call_ours(mine, changed), call_ours(mine, given))


def test_a_layout_changes_memory_and_no_value() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv3d(4, 4, 3))
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    lay_out(module, channels_last=True)
    assert module[0].weight.stride() != before["0.weight"].stride()
    assert module[1].weight.stride() != before["1.weight"].stride()
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())
    lay_out(module, channels_last=False)
    assert module[0].weight.stride() == before["0.weight"].stride()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_one_line() -> None:
    with pytest.raises(NuwaError, match="offers no CUDA device; use --device cpu"):
        main(Benchmark(device="cuda"))
