"""Gradient checkpointing keeps less and changes nothing; attention over folded batches goes in chunks."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch.nn import functional

from nuwa.models.mtd import MaskTemporalUNet
from nuwa.nn.attention import MAX_ROWS, FoldedAttentionProcessor, attend
from tests.nuwa.test_mtd import WIDTH, make_inputs, make_mtd, with_random_weights


def gradients_of(model: MaskTemporalUNet) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**make_inputs()).square().mean()
    loss.backward()
    return loss.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def kept_bytes(model: MaskTemporalUNet) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights aside."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(**make_inputs())
    assert output.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("injection", ["symmetric", "single_scale"])
def test_checkpointing_gives_the_same_loss_and_gradients_bitwise(injection: str) -> None:
    model = with_random_weights(make_mtd(injection=injection)).train()
    loss, gradients = gradients_of(model)
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    again, recomputed = gradients_of(model)
    assert torch.equal(again, loss)
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in gradients.items())


def test_checkpointing_repeats_dropout() -> None:
    model = with_random_weights(make_mtd(dropout=0.5)).train()
    torch.manual_seed(1)
    loss, gradients = gradients_of(model)
    torch.manual_seed(2)
    assert not torch.equal(gradients_of(model)[0], loss)
    model.enable_gradient_checkpointing()
    torch.manual_seed(1)
    again, recomputed = gradients_of(model)
    assert torch.equal(again, loss)
    assert all(torch.equal(recomputed[name], gradient) for name, gradient in gradients.items())


def test_checkpointing_keeps_a_fraction_and_can_be_turned_off() -> None:
    model = make_mtd().train()
    whole = kept_bytes(model)
    model.enable_gradient_checkpointing()
    assert kept_bytes(model) < whole / 3
    model.disable_gradient_checkpointing()
    assert kept_bytes(model) == whole


def test_every_layer_is_computed_again_once() -> None:
    model, calls = make_mtd().train(), []
    for block in [*model.down_blocks, model.mid_block, *model.up_blocks]:
        for resnet in block.resnets:
            resnet.register_forward_pre_hook(lambda *_: calls.append(1))
    model.enable_gradient_checkpointing()
    loss = model(**make_inputs()).square().mean()
    once = len(calls)
    loss.backward()
    assert len(calls) == 2 * once
    with torch.no_grad():
        model(**make_inputs())
    assert len(calls) == 3 * once


def test_checkpointing_function_of_the_user_is_taken() -> None:
    model, parts = make_mtd().train(), []

    def counted(part: Callable[..., torch.Tensor], *inputs: object) -> torch.Tensor:
        parts.append(part)
        return part(*inputs)

    model.enable_gradient_checkpointing(counted)
    model(**make_inputs())
    assert len(parts) == 2 + 2 + 4  # layers of the down blocks, of the middle, of the up blocks


def record_sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(rows, heads) of every fused attention from now on."""
    sizes: list[tuple[int, int]] = []
    plain = functional.scaled_dot_product_attention

    def recorded(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        sizes.append((query.shape[0], query.shape[1]))
        return plain(query, key, value)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recorded)
    return sizes


def test_rows_times_heads_stay_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = record_sizes(monkeypatch)
    tokens = torch.randn(10_000, 8, 2, 1)
    whole = functional.scaled_dot_product_attention(tokens, tokens, tokens)
    sizes.clear()
    assert torch.allclose(attend(tokens, tokens, tokens), whole, atol=1e-6)
    assert [rows for rows, _ in sizes] == [MAX_ROWS // 8, 10_000 - MAX_ROWS // 8]


@pytest.mark.parametrize("per_frame", [True, False])
def test_no_attention_of_the_network_passes_the_limit(monkeypatch: pytest.MonkeyPatch, per_frame: bool) -> None:
    """Spatial attention, to pixels and to prompts, as well as temporal attention."""
    model, inputs = with_random_weights(make_mtd()), make_inputs()
    if not per_frame:
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, 0]
    with torch.no_grad():
        whole = model(**inputs)
        monkeypatch.setattr("nuwa.nn.attention.attend.__defaults__", (6,))
        sizes = record_sizes(monkeypatch)
        chunked = model(**inputs)
    assert len(sizes) > 100
    assert all(rows * heads <= 6 for rows, heads in sizes)
    assert torch.allclose(chunked, whole, atol=1e-5)


@pytest.mark.parametrize("cross", [None, WIDTH])
def test_folded_attention_is_that_of_diffusers(cross: int | None) -> None:
    torch.manual_seed(0)
    attn = Attention(16, cross_attention_dim=cross, heads=4, dim_head=4, upcast_attention=True).double().eval()
    hidden = torch.randn(6, 9, 16).double()
    context = None if cross is None else torch.randn(6, 5, cross).double()
    attn.set_processor(AttnProcessor2_0())
    expected = attn(hidden, encoder_hidden_states=context)
    attn.set_processor(FoldedAttentionProcessor())
    assert (attn(hidden, encoder_hidden_states=context) - expected).abs().max() < 1e-12
    attn.to_q.weight.data += 1
    assert (attn(hidden, encoder_hidden_states=context) - expected).abs().max() > 1e-3


def test_prompts_of_a_window_are_projected_once() -> None:
    model, rows = make_mtd(), []
    for name, module in model.named_modules():
        if name.endswith("attn2.to_k"):
            module.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    inputs = make_inputs()
    with torch.no_grad():
        model(**inputs)
        assert set(rows) == {10}
        rows.clear()
        model(**(inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"][:, 0]}))
    assert set(rows) == {2}
