"""Recurrent layers. Where torch has the same cell it runs fused, otherwise step by step.

What must not enter: general loops (`control`).
"""

# ruff: noqa: ARG001 - the specification decides which parameters a function has

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.products import multiply
from surgeon.ops.registry import op, refuse

Activation = Callable[[Tensor], Tensor]

_ACTIVATIONS: dict[str, tuple[tuple[float, ...], Callable[..., Tensor]]] = {
    "relu": ((), torch.relu),
    "tanh": ((), torch.tanh),
    "sigmoid": ((), torch.sigmoid),
    "softsign": ((), F.softsign),
    "softplus": ((), lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "leakyrelu": ((0.01,), F.leaky_relu),
    "thresholdedrelu": ((1.0,), lambda x, a: torch.where(x > a, x, torch.zeros_like(x))),
    "elu": ((1.0,), F.elu),
    "affine": ((1.0, 0.0), lambda x, a, b: a * x + b),
    "scaledtanh": ((1.0, 1.0), lambda x, a, b: a * torch.tanh(b * x)),
    "hardsigmoid": ((0.2, 0.5), lambda x, a, b: (a * x + b).clamp(0, 1)),
}
"""Activation by lower-case name: defaults of alpha and beta as far as it has them."""


def _activations(
    names: list[str], alphas: list[float] | None, betas: list[float] | None
) -> list[Activation]:
    """Bind the parameters, which are consumed in order by the functions that have them."""
    alpha, beta = iter(alphas or ()), iter(betas or ())
    bound: list[Activation] = []
    for name in names:
        entry = _ACTIVATIONS.get(name.lower())
        if entry is None:
            refuse(f"activation {name!r} is not in the specification")
        defaults, function = entry
        values = [
            next(source, default) for source, default in zip((alpha, beta), defaults, strict=False)
        ]
        bound.append(_bind(function, tuple(values)))
    return bound


def _bind(function: Callable[..., Tensor], values: tuple[float, ...]) -> Activation:
    return lambda x: function(x, *values)


def _bounded(x: Tensor, clip: float | None) -> Tensor:
    return x if not clip else x.clamp(-clip, clip)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse time ([steps, batch, …]), every sample within its own length."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    end = lengths.to(torch.int64).unsqueeze(0)
    index = torch.where(steps < end, end - 1 - steps, steps)
    return x.gather(0, index.unsqueeze(-1).expand(x.shape))


State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]


def _unroll(x: Tensor, state: State, lengths: Tensor | None, cell: Cell) -> tuple[Tensor, State]:
    """Apply a cell over time; a sample that ended keeps its state and outputs zeros."""
    outputs = []
    for step in range(x.shape[0]):
        new = cell(x[step], state)
        shown = new[0]
        if lengths is not None:
            alive = (lengths > step).unsqueeze(1)
            shown = torch.where(alive, shown, torch.zeros_like(shown))
            new = tuple(torch.where(alive, n, o) for n, o in zip(new, state, strict=True))
        outputs.append(shown)
        state = new
    if not outputs:
        return x.new_zeros(0, x.shape[1], state[0].shape[-1]), state
    return torch.stack(outputs), state


def _layer(
    X: Tensor,
    direction: str,
    lengths: Tensor | None,
    initial: list[State],
    cells: list[Cell],
) -> tuple[Tensor, list[Tensor]]:
    """Run the directions of a layer: Y [steps, directions, batch, hidden], final states."""
    ys, finals = [], []
    for number, (state, cell) in enumerate(zip(initial, cells, strict=True)):
        backward = direction == "reverse" or number == 1
        sequence = _reversed(X, lengths) if backward else X
        y, final = _unroll(sequence, state, lengths, cell)
        ys.append(_reversed(y, lengths) if backward else y)
        finals.append(final)
    last = [torch.stack(parts) for parts in zip(*finals, strict=True)]
    return torch.stack(ys, 1), last


def _directions(direction: str) -> int:
    if direction in {"forward", "foward", "reverse"}:  # GRU-1 has the typing error in its default
        return 1
    if direction == "bidirectional":
        return 2
    return refuse(f"direction={direction!r} is not in the specification")


def _start(initial: Tensor | None, X: Tensor, directions: int, hidden: int) -> Tensor:
    if initial is not None:
        return initial
    return torch.zeros(directions, X.shape[1], hidden, dtype=X.dtype, device=X.device)


def _reorder(weight: Tensor, order: list[int], hidden: int) -> Tensor:
    """Reorder gate blocks of [gates · hidden, …]."""
    blocks = torch.split(weight, hidden, 0)
    return torch.cat([blocks[i] for i in order], 0)


def _flat_weights(
    W: Tensor, R: Tensor, B: Tensor | None, order: list[int], hidden: int
) -> list[Tensor]:
    """Return weights in torch's order: per direction W, R and the two halves of the bias."""
    flat = []
    gates = len(order)
    for d in range(W.shape[0]):
        flat += [_reorder(W[d], order, hidden), _reorder(R[d], order, hidden)]
        if B is not None:
            half = gates * hidden
            flat += [_reorder(B[d][:half], order, hidden), _reorder(B[d][half:], order, hidden)]
    return flat


def _unstacked(y: Tensor, directions: int) -> Tensor:
    """Turn torch's [steps, batch, directions · hidden] into [steps, directions, batch, hidden]."""
    steps, batch, width = y.shape
    return y.reshape(steps, batch, directions, width // directions).transpose(1, 2)


def _same(names: list[str] | None, wanted: list[str], directions: int) -> bool:
    return not names or [n.lower() for n in names] == wanted * directions


def _time_first(X: Tensor, layout: int, *states: Tensor | None) -> tuple[Tensor | None, ...]:
    if not layout:
        return (X, *states)
    return (X.transpose(0, 1), *(None if s is None else s.transpose(0, 1) for s in states))


def _finish(y: Tensor, layout: int, *states: Tensor) -> tuple[Tensor, ...]:
    if not layout:
        return (y, *states)
    return (y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states))


@op("LSTM")
def lstm(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    P: Tensor | None = None,
    *,
    activation_alpha: list[float] | None,
    activation_beta: list[float] | None,
    activations: list[str] | None,
    clip: float | None,
    direction: str,
    hidden_size: int | None,
    input_forget: bool,
    layout: int = 0,
    output_sequence: int = 0,
    rounded: Activation | None = None,
) -> tuple[Tensor, ...]:
    """X [steps, batch, in], W [directions, 4·hidden, in] in the order i, o, f, c.

    `rounded`, which the specification lacks, is applied to X and to every state before a product.

    Returns Y [steps, directions, batch, hidden], Y_h and Y_c [directions, batch, hidden].
    """
    directions = _directions(direction)
    hidden = hidden_size or R.shape[-1]
    x, h, c = _time_first(X, layout, initial_h, initial_c)
    assert x is not None
    h, c = _start(h, x, directions, hidden), _start(c, x, directions, hidden)
    plain = _same(activations, ["sigmoid", "tanh", "tanh"], directions) and not clip
    plain = plain and rounded is None
    x = x if rounded is None else rounded(x)
    if plain and not input_forget and P is None and sequence_lens is None and x.shape[0] > 0:
        flat = _flat_weights(W, R, B, [0, 2, 3, 1], hidden)
        sequence = x.flip(0) if direction == "reverse" else x
        states = (h.contiguous(), c.contiguous())
        y, hn, cn = _fused(torch.lstm, sequence, states, flat, B is not None, directions)
        y = _unstacked(y, directions)
        return _finish(y.flip(0) if direction == "reverse" else y, layout, hn, cn)
    names = activations or ["Sigmoid", "Tanh", "Tanh"] * directions
    bound = _activations(names, activation_alpha, activation_beta)
    cells = [
        _lstm_cell(
            W[d], R[d], None if B is None else B[d], None if P is None else P[d],
            bound[3 * d : 3 * d + 3], clip, input_forget, hidden, rounded,
        )
        for d in range(directions)
    ]  # fmt: skip
    starts: list[State] = [(h[d], c[d]) for d in range(directions)]
    y, last = _layer(x, direction, sequence_lens, starts, cells)
    return _finish(y, layout, *last)


def _lstm_cell(
    W: Tensor,
    R: Tensor,
    B: Tensor | None,
    P: Tensor | None,
    functions: list[Activation],
    clip: float | None,
    input_forget: bool,
    hidden: int,
    rounded: Activation | None,
) -> Cell:
    f, g, h_ = functions
    bias = None if B is None else B[: 4 * hidden] + B[4 * hidden :]
    peep = torch.split(P, hidden) if P is not None else None

    def cell(x: Tensor, state: State) -> State:
        h, c = state
        seen = h if rounded is None else rounded(h)
        i, o, forget, new = torch.split(multiply(x, W.mT, bias) + multiply(seen, R.mT), hidden, 1)
        if peep is not None:
            i, forget = i + peep[0] * c, forget + peep[2] * c
        i = f(_bounded(i, clip))
        forget = 1 - i if input_forget else f(_bounded(forget, clip))
        c = forget * c + i * g(_bounded(new, clip))
        if peep is not None:
            o = o + peep[1] * c
        return f(_bounded(o, clip)) * h_(c), c

    return cell


@op("GRU")
def gru(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: list[float] | None,
    activation_beta: list[float] | None,
    activations: list[str] | None,
    clip: float | None,
    direction: str,
    hidden_size: int | None,
    layout: int = 0,
    linear_before_reset: bool = False,
    output_sequence: int = 0,
) -> tuple[Tensor, ...]:
    """X [steps, batch, in], W [directions, 3·hidden, in] in the order z, r, h.

    Returns Y [steps, directions, batch, hidden] and Y_h [directions, batch, hidden].
    """
    directions = _directions(direction)
    hidden = hidden_size or R.shape[-1]
    x, h = _time_first(X, layout, initial_h)
    assert x is not None
    h = _start(h, x, directions, hidden)
    plain = _same(activations, ["sigmoid", "tanh"], directions) and not clip
    if plain and linear_before_reset and sequence_lens is None and x.shape[0] > 0:
        flat = _flat_weights(W, R, B, [1, 0, 2], hidden)
        sequence = x.flip(0) if direction == "reverse" else x
        y, hn = _fused(torch.gru, sequence, h.contiguous(), flat, B is not None, directions)
        y = _unstacked(y, directions)
        return _finish(y.flip(0) if direction == "reverse" else y, layout, hn)
    names = activations or ["Sigmoid", "Tanh"] * directions
    bound = _activations(names, activation_alpha, activation_beta)
    cells = [
        _gru_cell(
            W[d], R[d], None if B is None else B[d], bound[2 * d : 2 * d + 2], clip,
            linear_before_reset, hidden,
        )
        for d in range(directions)
    ]  # fmt: skip
    y, last = _layer(x, direction, sequence_lens, [(h[d],) for d in range(directions)], cells)
    return _finish(y, layout, *last)


def _gru_cell(
    W: Tensor,
    R: Tensor,
    B: Tensor | None,
    functions: list[Activation],
    clip: float | None,
    linear_before_reset: bool,
    hidden: int,
) -> Cell:
    f, g = functions
    input_bias = None if B is None else B[: 3 * hidden]
    state_bias = W.new_zeros(3 * hidden) if B is None else B[3 * hidden :]
    zr, new = 2 * hidden, 3 * hidden

    def cell(x: Tensor, state: State) -> State:
        (h,) = state
        projected = multiply(x, W.mT, input_bias)
        gates = projected[:, :zr] + multiply(h, R[:zr].mT, state_bias[:zr])
        z, r = torch.split(f(_bounded(gates, clip)), hidden, 1)
        if linear_before_reset:
            inner = r * multiply(h, R[zr:new].mT, state_bias[zr:])
        else:
            inner = multiply(r * h, R[zr:new].mT, state_bias[zr:])
        candidate = g(_bounded(projected[:, zr:] + inner, clip))
        return ((1 - z) * candidate + z * h,)

    return cell


@op("RNN")
def rnn(
    X: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: list[float] | None,
    activation_beta: list[float] | None,
    activations: list[str],
    clip: float | None,
    direction: str,
    hidden_size: int | None,
    layout: int = 0,
    output_sequence: int = 0,
) -> tuple[Tensor, ...]:
    """X [steps, batch, in], W [directions, hidden, in].

    Returns Y [steps, directions, batch, hidden] and Y_h [directions, batch, hidden].
    """
    directions = _directions(direction)
    hidden = hidden_size or R.shape[-1]
    x, h = _time_first(X, layout, initial_h)
    assert x is not None
    h = _start(h, x, directions, hidden)
    bound = _activations(activations[:directions], activation_alpha, activation_beta)

    def make(d: int) -> Cell:
        bias = None if B is None else B[d][:hidden] + B[d][hidden:]

        def cell(x: Tensor, state: State) -> State:
            total = multiply(x, W[d].mT, bias) + multiply(state[0], R[d].mT)
            return (bound[d](_bounded(total, clip)),)

        return cell

    kinds = {name.lower() for name in activations[:directions]}
    call = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}.get(next(iter(kinds)))
    if call and len(kinds) == 1 and not clip and sequence_lens is None and x.shape[0] > 0:
        flat = _flat_weights(W, R, B, [0], hidden)
        sequence = x.flip(0) if direction == "reverse" else x
        y, hn = _fused(call, sequence, h.contiguous(), flat, B is not None, directions)
        y = _unstacked(y, directions)
        return _finish(y.flip(0) if direction == "reverse" else y, layout, hn)
    cells = [make(d) for d in range(directions)]
    y, last = _layer(x, direction, sequence_lens, [(h[d],) for d in range(directions)], cells)
    return _finish(y, layout, *last)


def _fused(
    call: Callable[..., Any], x: Tensor, state: Any, flat: list[Tensor], biased: bool,
    directions: int,
) -> Any:  # fmt: skip
    """Run torch's own layer.

    cuDNN keeps what a backward pass needs in training mode only, and warns in every call that the
    weights, one Parameter per initializer, do not lie together.
    """
    learning = x.is_cuda and torch.is_grad_enabled()
    options = (biased, 1, 0.0, learning, directions == 2, False)
    if not x.is_cuda or torch.compiler.is_compiling():
        return call(x, state, flat, *options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part")
        return call(x, state, flat, *options)
