"""Attention as ONNX has it since opset 23, and rotary position embeddings.

What must not enter: the attention operators of other domains (`contrib`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.convert import torch_dtype
from surgeon.ops.registry import op, refuse


def _split_heads(x: Tensor, heads: int | None) -> Tensor:
    """Bring [n, length, heads · size] to [n, heads, length, size]; four axes stay."""
    if x.dim() == 4:
        return x
    if not heads:
        refuse("Attention of three axes without the number of heads")
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _bias(
    like: Tensor,
    keys: int,
    attn_mask: Tensor | None,
    offset: Tensor | int,
    nonpad: Tensor | None,
    *,
    is_causal: bool,
    left: int,
    right: int,
) -> Tensor | None:
    """Return what is added to the scores: 0 or −inf, and the mask's own values."""
    queries = like.shape[2]
    shut = torch.full((), -math.inf, dtype=like.dtype, device=like.device)
    open_ = torch.zeros((), dtype=like.dtype, device=like.device)
    total: Tensor | None = None
    if attn_mask is not None:
        missing = keys - attn_mask.shape[-1]
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, open_, shut)
        total = F.pad(attn_mask, [0, missing], value=-math.inf) if missing > 0 else attn_mask
    if is_causal or left >= 0 or right >= 0:
        row = torch.arange(queries, device=like.device).unsqueeze(1)
        column = torch.arange(keys, device=like.device)
        shift = offset.reshape(-1, 1, 1, 1) if isinstance(offset, Tensor) else offset
        ahead = column - row - shift  # how far a key lies behind the query's own place
        allowed = torch.ones_like(ahead, dtype=torch.bool)
        if is_causal:
            allowed = allowed & (ahead <= 0)
        if left >= 0:
            allowed = allowed & (-ahead <= left)
        if right >= 0:
            allowed = allowed & (ahead <= right)
        window = torch.where(allowed, open_, shut)
        total = window if total is None else total + window
    if nonpad is not None:
        valid = torch.arange(keys, device=like.device) < nonpad.reshape(-1, 1, 1, 1)
        padding = torch.where(valid, open_, shut)
        total = padding if total is None else total + padding
    return total


@op("Attention", 23, 24, 25)
def attention(
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    attn_mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    nonpad_kv_seqlen: Tensor | None = None,
    *,
    is_causal: bool,
    kv_num_heads: int | None,
    left_window_size: int = -1,
    q_num_heads: int | None,
    qk_matmul_output_mode: int,
    right_window_size: int = -1,
    scale: float | None,
    softcap: float,
    softmax_precision: int | None,
    outputs: int,
) -> Tensor | tuple[Tensor, ...]:
    """Scaled dot-product attention with cache, shared key heads, masks, windows and softcap.

    Q [n, heads, queries, size] or [n, queries, heads · size]; K and V likewise. Returns Y in the
    form of Q, the keys and values with the cache, and the scores at the stage that
    `qk_matmul_output_mode` names.
    """
    if (past_key is None) != (past_value is None):
        refuse("Attention with only one of past_key and past_value")
    flat = Q.dim() == 3
    q, k, v = (
        _split_heads(Q, q_num_heads),
        _split_heads(K, kv_num_heads),
        _split_heads(V, kv_num_heads),
    )
    offset: Tensor | int = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    elif nonpad_kv_seqlen is not None:
        offset = nonpad_kv_seqlen.reshape(-1) - q.shape[2]
    present = (k, v)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    if q.shape[1] != k.shape[1]:
        shared = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    bias = _bias(
        q, k.shape[2], attn_mask, offset, nonpad_kv_seqlen, is_causal=is_causal,
        left=left_window_size, right=right_window_size,
    )  # fmt: skip
    if bias is None and outputs == 1 and not softcap and q.dtype == torch.float32:
        y = F.scaled_dot_product_attention(q, k, v, scale=factor)
        return y.transpose(1, 2).flatten(2) if flat else y
    # The root on both sides and in the type of Q, as the specification has it for half precision.
    root = torch.full((), math.sqrt(factor), dtype=q.dtype, device=q.device)
    scores = torch.matmul(q * root, (k * root).mT)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    biased = scores if bias is None else scores + bias
    shown = scores
    if qk_matmul_output_mode == 2 or (qk_matmul_output_mode == 1 and not softcap):
        shown = biased
    wide = biased.to(torch_dtype(softmax_precision)) if softmax_precision else biased
    weights = _softmax(wide, bias)
    if qk_matmul_output_mode == 3:
        shown = weights.to(q.dtype)
    y = torch.matmul(weights.to(q.dtype), v)
    if flat:
        y = y.transpose(1, 2).flatten(2)
    return y, *present, shown


def _softmax(scores: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax over the keys; a query that may attend to none gets zeros."""
    if scores.dtype == torch.float16 and scores.device.type == "cpu":
        top = scores.amax(-1, keepdim=True)
        powers = (scores - torch.where(top == -math.inf, torch.zeros_like(top), top)).exp()
        weights = powers / powers.sum(-1, keepdim=True)
    else:
        weights = scores.softmax(-1)
    if bias is None:
        return weights
    alone = bias.amax(-1, keepdim=True) == -math.inf
    return torch.where(alone, torch.zeros_like(weights), weights)


@op("RotaryEmbedding")
def rotary_embedding(
    X: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: bool,
    num_heads: int | None,
    rotary_embedding_dim: int,
) -> Tensor:
    """Turn pairs of features by the angles of their position.

    X [n, heads, length, size] or [n, length, heads · size]; the caches hold [positions, size / 2],
    or [n, length, size / 2] without position_ids.
    """
    x = _split_heads(X, num_heads)
    width = rotary_embedding_dim or x.shape[-1]
    cos = cos_cache if position_ids is None else cos_cache[position_ids.long()]
    sin = sin_cache if position_ids is None else sin_cache[position_ids.long()]
    y = rotate(x, cos, sin, interleaved=interleaved, width=width)
    return y.transpose(1, 2).flatten(2) if X.dim() == 3 else y


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, width: int = 0) -> Tensor:
    """Turn pairs of features by the angles of their position.

    Args:
        x: [n, heads, length, size].
        cos: cosines, [n or 1, length, width / 2].
        sin: sines, likewise.
        interleaved: pairs are neighbours; else they lie half a width apart.
        width: features that turn, 0 = all; the rest stays.
    """
    size = width or x.shape[-1]
    turned, kept = x[..., :size], x[..., size:]
    c, s = cos.unsqueeze(1)[..., : size // 2], sin.unsqueeze(1)[..., : size // 2]
    if interleaved:
        real, imaginary = turned[..., ::2], turned[..., 1::2]
    else:
        real, imaginary = turned.chunk(2, -1)
    first, second = real * c - imaginary * s, real * s + imaginary * c
    if interleaved:
        result = torch.stack([first, second], -1).flatten(-2)
    else:
        result = torch.cat([first, second], -1)
    return torch.cat([result, kept], -1) if kept.shape[-1] else result
