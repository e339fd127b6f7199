"""Fused attention over a batch that holds all frames or all pixels, in chunks that every kernel accepts."""

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch.nn import functional

# PyTorch's fused attention kernels put the batch, some of them batch × heads, on a CUDA grid axis that ends here.
# Temporal attention has one row per pixel: 64 windows of 32×32 latents already pass it. Spatial attention has one row
# per frame: 512 windows of 16 frames pass it with 8 heads.
MAX_ROWS = 65_535


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, max_rows: int = MAX_ROWS) -> torch.Tensor:
    """Scaled dot-product attention over (rows, heads, tokens, d); rows × heads of one kernel stay within `max_rows`."""
    rows = max(1, max_rows // query.shape[1])
    if len(query) <= rows:
        return functional.scaled_dot_product_attention(query, key, value)
    chunks = zip(query.split(rows), key.split(rows), value.split(rows), strict=True)
    return torch.cat([functional.scaled_dot_product_attention(q, k, v) for q, k, v in chunks])


class FoldedAttentionProcessor:
    """The sums of diffusers' `AttnProcessor2_0` for frames folded into the batch, in chunks (see `attend`).

    Prompts may come once per window: its frames then share them, and they are projected once, not once per frame.
    For the attentions of `BasicTransformerBlock`, which have neither masks nor norms of their own.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """hidden_states: ((b t) p c); encoder_hidden_states: ((b t) n d) or (b n d), None for attention over pixels."""
        assert attention_mask is None, "frames and prompts are never masked here"
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        shared = len(hidden_states) // len(context)  # frames that share a context
        query = rearrange(attn.to_q(hidden_states), "(b t) p (n d) -> b n (t p) d", t=shared, n=attn.heads)
        key = rearrange(attn.to_k(context), "b p (n d) -> b n p d", n=attn.heads)
        value = rearrange(attn.to_v(context), "b p (n d) -> b n p d", n=attn.heads)
        tokens = rearrange(attend(query, key, value), "b n (t p) d -> (b t) p (n d)", t=shared)
        projection, dropout = attn.to_out
        return dropout(projection(tokens))
