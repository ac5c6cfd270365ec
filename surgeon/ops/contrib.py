"""Operators of `com.microsoft` that exported and optimised files use.

ONNX Runtime is their only specification.

What must not enter: operators nobody's files carry.
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.attention import rotate
from surgeon.ops.convert import ONNX
from surgeon.ops.convolution import conv, conv_transpose
from surgeon.ops.detection import grid_sample as grid_sample_onnx
from surgeon.ops.indexing import unique as unique_onnx
from surgeon.ops.linear import scale as scaled
from surgeon.ops.normalization import by_root_mean_square, layer_normalization
from surgeon.ops.pooling import average_pool, max_pool
from surgeon.ops.products import multiply
from surgeon.ops.quantized import (
    dequantize,
    matmul_integer,
    quantize,
    requantize,
    saturated,
    through,
)
from surgeon.ops.recurrent import lstm
from surgeon.ops.registry import op, refuse
from surgeon.ops.shape import pad as pad_onnx

if TYPE_CHECKING:
    from collections.abc import Callable

_MS = "com.microsoft"


def _activated(x: Tensor, activation: str | None, parameters: list[float] | None) -> Tensor:
    """Apply the activation that an optimiser fused into another operator."""
    values = parameters or []
    functions: dict[str, Callable[[], Tensor]] = {
        "": lambda: x,
        "Relu": lambda: torch.relu(x),
        "Sigmoid": lambda: torch.sigmoid(x),
        "Tanh": lambda: torch.tanh(x),
        "LeakyRelu": lambda: F.leaky_relu(x, values[0] if values else 0.01),
        "Clip": lambda: x.clamp(values[0], values[1]),
        "HardSigmoid": lambda: (values[0] * x + values[1]).clamp(0, 1),
        "HardSwish": lambda: F.hardswish(x),
    }
    chosen = functions.get(activation or "")
    if chosen is None:
        refuse(f"the fused activation {activation!r}")
    return chosen()


@op("FusedConv", domain=_MS)
def fused_conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    Z: Tensor | None = None,
    *,
    activation: str | None = None,
    activation_params: list[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolution, plus Z, then an activation."""
    y = conv(
        X, W, B, auto_pad=auto_pad, dilations=dilations, group=group,
        kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip
    return _activated(y if Z is None else y + Z, activation, activation_params)


@op("FusedGemm", domain=_MS)
def fused_gemm(
    A: Tensor,
    B: Tensor,
    C: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: bool = False,
    transB: bool = False,
    activation: str | None = None,
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
) -> Tensor:
    """Alpha · A B + beta · C, then an activation."""
    y = scaled(multiply(A.mT if transA else A, B.mT if transB else B), alpha)
    if C is not None:
        y = y + scaled(C, beta)
    given = [activation_alpha, activation_beta, activation_gamma]
    return _activated(y, activation, [v for v in given if v is not None])


@op("FusedMatMul", domain=_MS)
@op("TransposeMatMul", domain=_MS)
def fused_matmul(
    A: Tensor,
    B: Tensor,
    *,
    alpha: float = 1.0,
    transA: bool = False,
    transB: bool = False,
    transBatchA: bool = False,
    transBatchB: bool = False,
) -> Tensor:
    """Alpha · A B with either transposed in its last two axes (or its batch axes moved inside)."""
    if transBatchA:
        A = A.movedim(0, -2)
    if transBatchB:
        B = B.movedim(0, -2)
    return scaled(multiply(A.mT if transA else A, B.mT if transB else B), alpha)


@op("Gelu", domain=_MS)
def gelu(X: Tensor) -> Tensor:
    """x·Φ(x)."""
    return F.gelu(X)


@op("FastGelu", domain=_MS)
def fast_gelu(X: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Φ(x) by tanh, after a bias."""
    return F.gelu(X if bias is None else X + bias, approximate="tanh")


@op("BiasGelu", domain=_MS)
def bias_gelu(A: Tensor, B: Tensor) -> Tensor:
    """(A + B)·Φ(A + B)."""
    return F.gelu(A + B)


@op("QuickGelu", domain=_MS)
def quick_gelu(X: Tensor, *, alpha: float = 1.702) -> Tensor:
    """X · sigmoid(alpha·x)."""
    return X * torch.sigmoid(alpha * X)


@op("BiasSplitGelu", domain=_MS)
def bias_split_gelu(X: Tensor, bias: Tensor) -> Tensor:
    """First half times the Gelu of the second, after a bias."""
    left, right = (X + bias).chunk(2, -1)
    return left * F.gelu(right)


@op("LayerNormalization", 1, domain=_MS)
def ms_layer_normalization(
    X: Tensor,
    Scale: Tensor,
    B: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    outputs: int,
) -> Any:
    """LayerNormalization as ONNX later took it over."""
    return layer_normalization(
        X, Scale, B, axis=axis, epsilon=epsilon, stash_type=stash_type, outputs=outputs
    )


@op("SimplifiedLayerNormalization", domain=_MS)
def simplified_layer_normalization(
    X: Tensor,
    scale: Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Tensor, Tensor]:
    """Division by the root mean square, whose inverse is the second output."""
    return by_root_mean_square(X, scale, axis, epsilon, stash_type)


def _skip_sum(input: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    total = input + skip
    return total if bias is None else total + bias


@op("SkipLayerNormalization", domain=_MS)
def skip_layer_normalization(
    input: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int,
) -> tuple[Tensor | None, ...]:
    """Layer normalisation of a residual sum; then its mean, inverse deviation, and the sum."""
    total = _skip_sum(input, skip, bias)
    normal = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
    if outputs == 1:
        return (normal,)
    kind = torch.promote_types(total.dtype, torch.float32)
    wide = _skip_sum(input.to(kind), skip.to(kind), None if bias is None else bias.to(kind))
    variance, mean = torch.var_mean(wide, -1, correction=0, keepdim=True)
    return normal, mean, torch.rsqrt(variance + epsilon), total


@op("SkipSimplifiedLayerNormalization", domain=_MS)
def skip_simplified_layer_normalization(
    input: Tensor,
    skip: Tensor,
    gamma: Tensor,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Tensor, ...]:
    """Root-mean-square normalisation of a residual sum; the sum is the fourth output.

    The mean, which nothing subtracts, is 0, as in ONNX Runtime.
    """
    total = _skip_sum(input, skip, bias)
    normal, inverse = by_root_mean_square(total, gamma, -1, epsilon)
    return normal, torch.zeros_like(inverse), inverse, total


@op("BiasAdd", domain=_MS)
def bias_add(X: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """X + bias + skip."""
    return X + bias + skip


@op("BiasSoftmax", domain=_MS)
def bias_softmax(data: Tensor, bias: Tensor, *, axis: int = 1, is_inner_broadcast: bool) -> Tensor:
    """Softmax over all axes from `axis` on, after a bias: an Add and a Softmax-11 fused."""
    total = data + bias
    axis %= data.dim()
    return total.flatten(axis).softmax(-1).view_as(total)


@op("BiasDropout", domain=_MS)
def bias_dropout(
    data: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    ratio: float | None = None,
    training_mode: bool | None = None,
    *,
    seed: int | None = None,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """Dropout of data + bias, plus a residual."""
    total = data + bias
    rate = (0.5 if ratio is None else ratio) if training or training_mode else 0.0
    dropped = F.dropout(total, rate, training=rate > 0)
    kept = torch.ones_like(total, dtype=torch.bool) if rate == 0 else dropped != 0
    return (dropped if residual is None else dropped + residual), kept


@op("EmbedLayerNormalization", domain=_MS)
def embed_layer_normalization(
    input_ids: Tensor,
    segment_ids: Tensor | None,
    word_embedding: Tensor,
    position_embedding: Tensor,
    segment_embedding: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of word, position and segment embeddings, normalised; also the length of every mask."""
    length = input_ids.shape[1]
    positions = (
        torch.arange(length, device=input_ids.device).unsqueeze(0)
        if position_ids is None
        else position_ids
    )
    total = F.embedding(input_ids.long(), word_embedding)
    total = total + F.embedding(positions.long(), position_embedding)
    if segment_ids is not None and segment_embedding is not None:
        total = total + F.embedding(segment_ids.long(), segment_embedding)
    normal = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
    if mask is None:
        lengths = torch.zeros(input_ids.shape[0], dtype=torch.int32, device=input_ids.device)
    else:
        lengths = mask.sum(1).to(torch.int32)
    return normal, lengths, total


def _heads(x: Tensor, count: int) -> Tensor:
    """Split [n, length, heads · size] into [n, heads, length, size]."""
    return x.reshape(*x.shape[:-1], count, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    bias: Tensor | None,
) -> Tensor:
    scores = torch.matmul(q, k.mT) * scale
    if bias is not None:
        scores = scores + bias
    return torch.matmul(scores.softmax(-1), v)


def _padding_bias(
    mask: Tensor | None, batch: int, queries: int, keys: int, like: Tensor, filter_value: float
) -> Tensor | None:
    """Turn the forms of mask_index into an additive bias [n, 1, queries or 1, keys]."""
    if mask is None:
        return None
    if mask.dim() == 1 and mask.shape[0] == batch:  # lengths, padding on the right
        allowed = torch.arange(keys, device=mask.device) < mask.unsqueeze(1)
        allowed = allowed[:, None, None, :]
    elif mask.dim() == 1 and mask.shape[0] == 2 * batch:  # ends, then starts
        place = torch.arange(keys, device=mask.device)
        allowed = (place < mask[:batch, None]) & (place >= mask[batch:, None])
        allowed = allowed[:, None, None, :]
    elif mask.dim() == 2:
        allowed = (mask != 0)[:, None, None, :]
    elif mask.dim() == 3:
        allowed = (mask != 0)[:, None]
    elif mask.dim() == 4:
        allowed = (mask != 0)[:, :, :queries, :keys]
    else:
        refuse(f"an attention mask of shape {list(mask.shape)}")
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(allowed, zero, torch.full_like(zero, filter_value))


def _causal(queries: int, keys: int, like: Tensor, value: float) -> Tensor:
    ones = torch.ones(queries, keys, dtype=torch.bool, device=like.device)
    future = ones.triu(keys - queries + 1)
    return torch.where(future, torch.full((), value, dtype=like.dtype, device=like.device), 0)


def _summed(*biases: Tensor | None) -> Tensor | None:
    total = None
    for bias in biases:
        if bias is not None:
            total = bias if total is None else total + bias
    return total


def _attention(
    qkv: Tensor,
    mask_index: Tensor | None,
    past: Tensor | None,
    relative: Tensor | None,
    num_heads: int,
    sizes: list[int],
    scale: float,
    unidirectional: bool,
    filter_value: float,
) -> tuple[Tensor, Tensor]:
    q, k, v = torch.split(qkv, sizes, -1)
    q, k, v = _heads(q, num_heads), _heads(k, num_heads), _heads(v, num_heads)
    if past is not None:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    present = torch.stack([k, v]) if k.shape == v.shape else k
    queries, keys = q.shape[2], k.shape[2]
    bias = _summed(
        _padding_bias(mask_index, q.shape[0], queries, keys, q, filter_value),
        _causal(queries, keys, q, filter_value) if unidirectional else None,
        relative,
    )
    return _joined(_attend(q, k, v, scale or 1 / math.sqrt(q.shape[-1]), bias)), present


@op("Attention", domain=_MS)
def attention(
    input: Tensor,
    weights: Tensor,
    bias: Tensor | None = None,
    mask_index: Tensor | None = None,
    past: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_sequence_length: Tensor | None = None,
    *,
    num_heads: int,
    qkv_hidden_sizes: list[int] | None = None,
    scale: float = 0.0,
    unidirectional: bool = False,
    do_rotary: bool = False,
    mask_filter_value: float = -10000.0,
    past_present_share_buffer: bool = False,
    rotary_embedding_dim: int = 0,
) -> tuple[Tensor, Tensor]:
    """Self-attention with the projections of q, k and v in one weight."""
    if do_rotary or past_present_share_buffer or past_sequence_length is not None:
        refuse("Attention with rotary embeddings or a shared cache")
    qkv = multiply(input, weights)
    if bias is not None:
        qkv = qkv + bias
    sizes = qkv_hidden_sizes or [qkv.shape[-1] // 3] * 3
    return _attention(
        qkv, mask_index, past, attention_bias, num_heads, sizes, scale, unidirectional,
        mask_filter_value,
    )  # fmt: skip


@op("QAttention", domain=_MS)
def quantized_attention(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    input_scale: Tensor,
    weight_scale: Tensor,
    mask_index: Tensor | None = None,
    input_zero_point: Tensor | None = None,
    weight_zero_point: Tensor | None = None,
    past: Tensor | None = None,
    *,
    num_heads: int,
    unidirectional: bool = False,
    do_rotary: bool = False,
    mask_filter_value: float = -10000.0,
    past_present_share_buffer: bool = False,
    scale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Self-attention whose projection is quantised."""
    if do_rotary or past_present_share_buffer:
        refuse("QAttention with rotary embeddings or a shared cache")
    total = matmul_integer(input, weight, input_zero_point, weight_zero_point)
    qkv = total.to(input_scale.dtype) * (input_scale * weight_scale) + bias
    sizes = [qkv.shape[-1] // 3] * 3
    return _attention(
        qkv, mask_index, past, None, num_heads, sizes, scale, unidirectional, mask_filter_value
    )


@op("MultiHeadAttention", domain=_MS)
def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attention_bias: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    past_sequence_length: Tensor | None = None,
    cache_indirection: Tensor | None = None,
    *,
    num_heads: int,
    scale: float = 0.0,
    mask_filter_value: float = -10000.0,
    unidirectional: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of projected q, k and v, separate or packed, heads together or split."""
    if past_sequence_length is not None or cache_indirection is not None:
        refuse("MultiHeadAttention with a shared cache")
    if query.dim() == 5:
        q, k, v = (x.transpose(1, 2) for x in query.unbind(3))
    elif key is not None and key.dim() == 5:
        q = _heads(query, num_heads)
        k, v = (x.transpose(1, 2) for x in key.unbind(3))
    else:
        assert key is not None
        split_bias: list[Tensor | None] = [None, None, None]
        if bias is not None:
            width = query.shape[-1]
            last = bias.shape[0] - 2 * width
            split_bias = list(torch.split(bias, [width, width, last]))
        parts = []
        for x, b in zip((query, key, value), split_bias, strict=True):
            assert x is not None
            if x.dim() == 4:
                parts.append(x)
            else:
                parts.append(_heads(x if b is None else x + b, num_heads))
        q, k, v = parts
    if past_key is not None and past_value is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    queries, keys = q.shape[2], k.shape[2]
    total = _summed(
        _padding_bias(key_padding_mask, q.shape[0], queries, keys, q, mask_filter_value),
        _causal(queries, keys, q, mask_filter_value) if unidirectional else None,
        attention_bias,
    )
    y = _attend(q, k, v, scale or 1 / math.sqrt(q.shape[-1]), total)
    return _joined(y), k, v


@op("RotaryEmbedding", domain=_MS)
def rotary_embedding(
    input: Tensor,
    position_ids: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    *,
    interleaved: bool = False,
    is_packed_batching: bool = False,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """Rotary position embedding of [n, length, hidden] or [n, heads, length, size]."""
    if is_packed_batching:
        refuse("RotaryEmbedding with packed batching")
    if input.dim() == 4:
        x = input
    else:
        size = (
            rotary_embedding_dim
            if num_heads == 0 and rotary_embedding_dim
            else 2 * cos_cache.shape[1]
        )
        x = _heads(input, num_heads or input.shape[-1] // size)
    if position_ids.numel() == 1 and position_ids.dim() == 1:
        steps = torch.arange(x.shape[2], device=input.device)
        positions = (position_ids + steps).unsqueeze(0)
    else:
        positions = position_ids
    y = rotate(
        x, cos_cache[positions], sin_cache[positions], interleaved=interleaved,
        width=rotary_embedding_dim,
    )  # fmt: skip
    return y if input.dim() == 4 else _joined(y)


@op("GroupQueryAttention", domain=_MS)
def group_query_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    seqlens_k: Tensor,
    total_sequence_length: int,
    cos_cache: Tensor | None = None,
    sin_cache: Tensor | None = None,
    position_ids: Tensor | None = None,
    attention_bias: Tensor | None = None,
    head_sink: Tensor | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    do_rotary: bool = False,
    local_window_size: int = -1,
    rotary_interleaved: bool = False,
    scale: float = 0.0,
    smooth_softmax: bool = False,
    softcap: float = 0.0,
    qk_output: int = 0,
    k_quant_type: str = "NONE",
    v_quant_type: str = "NONE",
    kv_cache_bit_width: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention with shared key and value heads; seqlens_k are the last valid positions."""
    if smooth_softmax or head_sink is not None or qk_output or kv_cache_bit_width:
        refuse("GroupQueryAttention with a smooth softmax, sinks, scores or a quantised cache")
    if k_quant_type != "NONE" or v_quant_type != "NONE":
        refuse("GroupQueryAttention with a quantised cache")
    if key is None or value is None:
        size = query.shape[-1] // (num_heads + 2 * kv_num_heads)
        query, key, value = torch.split(
            query, [num_heads * size, kv_num_heads * size, kv_num_heads * size], -1
        )
    q, k, v = _heads(query, num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    batch, _, length, size = q.shape
    past = 0 if past_key is None else past_key.shape[2]
    steps = torch.arange(length, device=q.device)
    total = seqlens_k.reshape(batch, 1).long() + 1
    first_prompt = length == total_sequence_length
    start = torch.zeros_like(total) if first_prompt else total - length
    places = (start + steps) if position_ids is None else position_ids
    if do_rotary:
        assert cos_cache is not None
        assert sin_cache is not None
        width = 2 * cos_cache.shape[1]
        places = places.clamp(min=0)
        cos, sin = cos_cache[places], sin_cache[places]
        q = rotate(q, cos, sin, interleaved=rotary_interleaved, width=width)
        k = rotate(k, cos, sin, interleaved=rotary_interleaved, width=width)
    if past and past_key is not None and past_value is not None:
        room = max(past, int(total_sequence_length))
        where = (start + steps)[:, None, :, None].expand(-1, kv_num_heads, -1, size)
        k = F.pad(past_key, [0, 0, 0, room - past]).scatter(2, where, k)
        v = F.pad(past_value, [0, 0, 0, room - past]).scatter(2, where, v)
    shared = num_heads // kv_num_heads
    keys = torch.arange(k.shape[2], device=q.device)
    mine = (start + steps).unsqueeze(-1)
    allowed = keys <= mine
    if local_window_size > 0:
        allowed = allowed & (keys > mine - local_window_size)
    scores = torch.matmul(q, k.repeat_interleave(shared, 1).mT) * (scale or 1 / math.sqrt(size))
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if attention_bias is not None:
        scores = scores + attention_bias[..., : scores.shape[-1]]
    scores = scores.masked_fill(~allowed.unsqueeze(1), -math.inf)
    y = torch.matmul(scores.softmax(-1), v.repeat_interleave(shared, 1))
    return _joined(y), k, v


# Quantised operators that compute with what the numbers stand for.


@op("QLinearAdd", domain=_MS)
def qlinear_add(
    A: Tensor,
    A_scale: Tensor,
    A_zero_point: Tensor | None,
    B: Tensor,
    B_scale: Tensor,
    B_zero_point: Tensor | None,
    C_scale: Tensor,
    C_zero_point: Tensor | None = None,
) -> Tensor:
    """Sum of quantised numbers.

    In the order of ONNX Runtime's fused multiply-adds, because at a tie the last bit decides.
    """
    ratio_a, ratio_b = (A_scale / C_scale).double(), (B_scale / C_scale).double()
    zeros = [0.0 if z is None else z.double() for z in (A_zero_point, B_zero_point, C_zero_point)]
    fixed = (zeros[2] - (ratio_a * zeros[0] + ratio_b * zeros[1]).float().double()).float()
    inner = (B.double() * ratio_b + fixed.double()).float()
    total = (A.double() * ratio_a + inner.double()).float()
    return saturated(total.round(), A.dtype if C_zero_point is None else C_zero_point.dtype)


@op("QLinearMul", domain=_MS)
def qlinear_mul(
    A: Tensor,
    A_scale: Tensor,
    A_zero_point: Tensor | None,
    B: Tensor,
    B_scale: Tensor,
    B_zero_point: Tensor | None,
    C_scale: Tensor,
    C_zero_point: Tensor | None = None,
) -> Tensor:
    """Product of quantised numbers; the zero point is added before rounding, which ties show."""
    left = A.float() if A_zero_point is None else A.float() - A_zero_point.float()
    right = B.float() if B_zero_point is None else B.float() - B_zero_point.float()
    total = (left * right) * (A_scale * B_scale / C_scale)
    if C_zero_point is not None:
        total = total + C_zero_point.float()
    return saturated(total.round(), A.dtype if C_zero_point is None else C_zero_point.dtype)


@op("QLinearSigmoid", domain=_MS)
def qlinear_sigmoid(
    X: Tensor,
    X_scale: Tensor,
    X_zero_point: Tensor | None,
    Y_scale: Tensor,
    Y_zero_point: Tensor | None = None,
) -> Tensor:
    """Sigmoid of quantised numbers."""
    return through(torch.sigmoid, [(X, X_scale, X_zero_point)], Y_scale, Y_zero_point)


@op("QLinearLeakyRelu", domain=_MS)
def qlinear_leaky_relu(
    X: Tensor,
    X_scale: Tensor,
    X_zero_point: Tensor | None,
    Y_scale: Tensor,
    Y_zero_point: Tensor | None = None,
    *,
    alpha: float = 0.01,
) -> Tensor:
    """LeakyRelu of quantised numbers."""
    return through(
        lambda x: F.leaky_relu(x, alpha), [(X, X_scale, X_zero_point)], Y_scale, Y_zero_point
    )


@op("QLinearSoftmax", domain=_MS)
def qlinear_softmax(
    X: Tensor,
    X_scale: Tensor,
    x_zero_point: Tensor | None,
    y_scale: Tensor,
    y_zero_point: Tensor,
    *,
    axis: int = -1,
    opset: int,
) -> Tensor:
    """Softmax of quantised numbers, flattened at the axis before opset 13."""

    def softmax(x: Tensor) -> Tensor:
        if opset < 13:
            return x.flatten(axis % x.dim()).softmax(-1).view_as(x)
        return x.softmax(axis)

    return through(softmax, [(X, X_scale, x_zero_point)], y_scale, y_zero_point)


@op("QLinearGlobalAveragePool", domain=_MS)
def qlinear_global_average_pool(
    X: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None,
    y_scale: Tensor,
    y_zero_point: Tensor | None,
    *,
    channels_last: bool = False,
) -> Tensor:
    """Mean of every plane of quantised numbers: an exact sum, scaled once."""
    axes = list(range(1, X.dim() - 1)) if channels_last else list(range(2, X.dim()))
    whole = X.double() if x_zero_point is None else X.double() - x_zero_point.double()
    count = math.prod(X.shape[axis] for axis in axes)
    zero = torch.zeros_like(x_scale, dtype=X.dtype) if y_zero_point is None else y_zero_point
    return requantize(whole.sum(axes, keepdim=True), x_scale / (y_scale * count), zero)


@op("QLinearAveragePool", domain=_MS)
def qlinear_average_pool(
    X: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: bool = False,
    channels_last: bool = False,
    count_include_pad: bool = False,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Mean of every window of quantised numbers."""

    def pool(x: Tensor) -> Tensor:
        moved = x.movedim(-1, 1) if channels_last else x
        y = average_pool(
            moved, auto_pad=auto_pad, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
            kernel_shape=kernel_shape, pads=pads, strides=strides,
        )  # fmt: skip
        return y.movedim(1, -1) if channels_last else y

    return through(pool, [(X, x_scale, x_zero_point)], y_scale, y_zero_point, inside=True)


@op("QLinearConcat", domain=_MS)
def qlinear_concat(Y_scale: Tensor, Y_zero_point: Tensor, *inputs: Tensor, axis: int) -> Tensor:
    """Join quantised tensors, each given with its scale and zero point."""
    triples = [inputs[i : i + 3] for i in range(0, len(inputs), 3)]
    floats = [dequantize(x, s, z) for x, s, z in triples]
    return quantize(torch.cat(floats, axis), Y_scale, Y_zero_point, ONNX[Y_zero_point.dtype])


@op("QGemm", domain=_MS)
def quantized_gemm(
    A: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    B: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    C: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero_point: Tensor | None = None,
    *,
    alpha: float = 1.0,
    transA: bool = False,
    transB: bool = False,
) -> Tensor:
    """Gemm of quantised matrices; float where no output scale is given."""
    left = A.double() - a_zero_point.double()
    zero = b_zero_point.double()
    right = B.double() - (
        zero.reshape(-1, 1) if transB and zero.dim() and zero.numel() > 1 else zero
    )
    total = (left.mT if transA else left) @ (right.mT if transB else right)
    if C is not None:
        total = total + C.double()
    real = total.float() * (alpha * a_scale * b_scale).float()
    if y_scale is None or y_zero_point is None:
        return real
    return quantize(real, y_scale, y_zero_point, ONNX[y_zero_point.dtype])


def _dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-low / scale).round().clamp(0, 255)
    return ((x / scale).round() + zero).clamp(0, 255), scale, zero


@op("DynamicQuantizeMatMul", domain=_MS)
def dynamic_quantize_matmul(
    A: Tensor,
    B: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Product with a quantised matrix; A is quantised by its own range."""
    whole, scale, zero = _dynamic(A)
    right = B.double() - (0 if b_zero_point is None else b_zero_point.double())
    product = ((whole - zero).double() @ right).float() * (scale * b_scale)
    return product if bias is None else product + bias


@op("DynamicQuantizeLSTM", domain=_MS)
def dynamic_quantize_lstm(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    P: Tensor | None = None,
    W_scale: Tensor | None = None,
    W_zero_point: Tensor | None = None,
    R_scale: Tensor | None = None,
    R_zero_point: Tensor | None = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: bool = False,
) -> tuple[Tensor, ...]:
    """LSTM of quantised weights [directions, in, 4·hidden]; X and every state are quantised too."""
    if W_scale is None or R_scale is None:
        refuse("DynamicQuantizeLSTM without scales")
    return lstm(
        X, _each(W, W_scale, W_zero_point), _each(R, R_scale, R_zero_point), B, sequence_lens,
        initial_h, initial_c, P, activation_alpha=activation_alpha,
        activation_beta=activation_beta, activations=activations, clip=clip, direction=direction,
        hidden_size=hidden_size, input_forget=input_forget, rounded=_rounded,
    )  # fmt: skip


def _each(weight: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """Return what the weights of every direction stand for, as LSTM has them: outputs first."""
    factor = scale.reshape(weight.shape[0], 1, -1)
    zero = 0 if zero_point is None else zero_point.reshape(weight.shape[0], 1, -1).to(torch.int32)
    return ((weight.to(torch.int32) - zero).to(factor.dtype) * factor).mT


def _rounded(x: Tensor) -> Tensor:
    """Return x as its own 8-bit quantisation stands for it; the gradient passes through."""
    levels, scale, zero = _dynamic(x.detach())
    return x + ((levels - zero) * scale - x).detach()


@op("MatMulIntegerToFloat", domain=_MS)
def matmul_integer_to_float(
    A: Tensor,
    B: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero_point: Tensor | None = None,
    b_zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Product of quantised matrices as real numbers."""
    total = matmul_integer(A, B, a_zero_point, b_zero_point)
    product = total.to(a_scale.dtype) * (a_scale * b_scale)
    return product if bias is None else product + bias


@op("MatMulNBits", domain=_MS)
def matmul_n_bits(
    A: Tensor,
    B: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    accuracy_level: int = 0,
    bits: int = 4,
    block_size: int,
    weight_prepacked: int = 0,
) -> Tensor:
    """Product with a weight of 2, 4 or 8 bits in blocks: B [N, blocks, bytes]."""
    if bits not in {2, 4, 8} or weight_prepacked:
        refuse(f"MatMulNBits of {bits} bits" + (", prepacked" if weight_prepacked else ""))
    blocks = -(-K // block_size)
    levels = _unpacked(B.reshape(N, blocks, -1), bits).to(A.dtype)
    factor = scales.reshape(N, blocks, 1).to(A.dtype)
    if zero_points is None:
        zero: Tensor | float = float(2 ** (bits - 1))
    elif zero_points.dtype == torch.uint8:
        zero = _unpacked(zero_points.reshape(N, -1), bits)[:, :blocks].unsqueeze(-1).to(A.dtype)
    else:
        zero = zero_points.reshape(N, blocks, 1).to(A.dtype)
    if g_idx is not None:
        weight = levels.reshape(N, -1)[:, :K]
        group = g_idx.long()
        picked = zero if isinstance(zero, float) else zero[:, group, 0]
        weight = (weight - picked) * factor[:, group, 0]
    else:
        weight = ((levels - zero) * factor).reshape(N, -1)[:, :K]
    return multiply(A, weight.mT, bias)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Split the last axis of bytes into numbers, low bits first."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, device=packed.device)
    parts = (packed.unsqueeze(-1).to(torch.int32) >> shifts) & (2**bits - 1)
    return parts.flatten(-2)  # type: ignore[no-any-return]


@op("ConvTransposeWithDynamicPads", domain=_MS)
def conv_transpose_with_dynamic_pads(
    X: Tensor,
    W: Tensor,
    Pads: list[int] | None = None,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    output_padding: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Transposed convolution whose pads are an input."""
    return conv_transpose(
        X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
        output_padding=output_padding, output_shape=None, pads=Pads, strides=strides,
    )  # fmt: skip


@op("NhwcMaxPool", domain=_MS)
def nhwc_max_pool(
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: bool = False,
    dilations: list[int] | None = None,
    kernel_shape: list[int],
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """MaxPool with the channels last."""
    y = max_pool(
        x.movedim(-1, 1), auto_pad=auto_pad, ceil_mode=ceil_mode, dilations=dilations,
        kernel_shape=kernel_shape, pads=pads, strides=strides, outputs=1,
    )  # fmt: skip
    assert isinstance(y, Tensor)
    return y.movedim(1, -1)


@op("NhwcConv", domain=_MS)
def nhwc_conv(
    X: Tensor,
    W: Tensor,
    B: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: list[int] | None = None,
    group: int = 1,
    kernel_shape: list[int] | None = None,
    pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:
    """Convolution with the channels last, in data and weight."""
    y = conv(
        X.movedim(-1, 1), W.movedim(-1, 1), B, auto_pad=auto_pad, dilations=dilations,
        group=group, kernel_shape=None, pads=pads, strides=strides,
    )  # fmt: skip
    return y.movedim(1, -1)


@op("Inverse", domain=_MS)
def inverse(X: Tensor) -> Tensor:
    """Inverse of the last two axes."""
    return torch.linalg.inv(X)  # type: ignore[no-any-return]


@op("Rfft", domain=_MS)
def rfft(X: Tensor, *, normalized: int, onesided: int, signal_ndim: int) -> Tensor:
    """Fourier transform of real signals over the last axes; real and imaginary part come last."""
    if normalized or not onesided:
        refuse("Rfft normalized or two-sided")
    axes = list(range(-signal_ndim, 0))
    return torch.view_as_real(torch.fft.rfftn(X, dim=axes))


@op("Irfft", domain=_MS)
def irfft(X: Tensor, *, normalized: int, onesided: int, signal_ndim: int) -> Tensor:
    """Inverse of `Rfft`."""
    if normalized or not onesided:
        refuse("Irfft normalized or two-sided")
    value = torch.view_as_complex(X.contiguous())
    axes = list(range(-signal_ndim, 0))
    return torch.fft.irfftn(value, dim=axes)  # type: ignore[no-any-return]


@op("Pad", domain=_MS)
def pad(
    data: Tensor, pads: list[int], value: float | Tensor | None = None, *, mode: str = "constant"
) -> Tensor:
    """Pad every axis."""
    return pad_onnx(data, pads, value, mode=mode)


@op("Unique", domain=_MS)
def unique(x: Tensor) -> tuple[Tensor, ...]:
    """Distinct elements in order of appearance, which each one is, how often."""
    found, _, inverse_, counts = unique_onnx(x, axis=None, sorted=False, outputs=4)
    return found, inverse_, counts


@op("ExpandDims", domain=_MS)
def expand_dims(X: Tensor, axis: int) -> Tensor:
    """Insert one axis."""
    return X.unsqueeze(axis)


@op("GridSample", domain=_MS)
def grid_sample(
    X: Tensor,
    Grid: Tensor,
    *,
    align_corners: bool = False,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> Tensor:
    """Sample at points in −1..1."""
    return grid_sample_onnx(
        X, Grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode
    )


@op("QuantizeLinear", domain=_MS)
def quantize_linear(
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    input_types: tuple[int, ...],
    carried: bool = False,
) -> Tensor:
    """Quantise per tensor, axis or block."""
    target = 2 if y_zero_point is None else input_types[2] or ONNX[y_zero_point.dtype]
    return quantize(
        x, y_scale, y_zero_point, target, axis=axis, block_size=block_size, carried=carried
    )


@op("DequantizeLinear", domain=_MS)
def dequantize_linear(
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> Tensor:
    """Return what quantised numbers stand for."""
    return dequantize(x, x_scale, x_zero_point, axis=axis, block_size=block_size)


@op("Trilu", domain=_MS)
def triangle(X: Tensor, k: int | None = None, *, upper: bool = True) -> Tensor:
    """Keep the upper or lower triangle of the last two axes."""
    return torch.triu(X, k or 0) if upper else torch.tril(X, k or 0)
