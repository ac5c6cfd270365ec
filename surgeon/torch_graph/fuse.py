"""Chains of steps that torch has one function for, put together; results written in place.

Exporters take apart what the network's author wrote as one call (GELU, layer normalization,
attention, SiLU), and one call is faster, in both directions, and keeps less for the backward pass.
A chain is replaced only where it matches exactly: the numbers in it, the order of its operands, and
nobody else reads a value inside it. Weights stay inputs under their names.

What must not enter: a rewrite that changes more than the order in which floats are rounded, and one
that was not measured to pay.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from surgeon.ops.broadcast import WIDER
from surgeon.ops.convert import is_autocast
from surgeon.ops.products import multiply
from surgeon.torch_graph.chains import CLOSE, View, in_place_of, is_binary, name_of
from surgeon.torch_graph.program import Argument, Program, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    _Find = Callable[["View", Step], tuple[list[Step], Step] | None]


_FRESH: Final = frozenset({"Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that return memory of their own and whose backward pass does not read their result."""


IN_PLACE: Final = frozenset({"AddInPlace", "ClipInPlace", "ReluInPlace"})
"""Steps made here that overwrite an input (the first, or for a sum one of the two)."""


def fuse(
    program: Program, shapes: Mapping[str, tuple[int, ...]], learning: Collection[str]
) -> Program:
    """Return a program that computes the same in fewer steps and with less memory.

    Args:
        program: of a whole graph; programs of subgraphs inside it are left as they are.
        shapes: of initializers, by name.
        learning: initializers that may get a gradient.
    """
    known = {name: tuple(value.shape) for name, value in program.constants.items()}
    view = View(program, {**known, **shapes}, frozenset(learning))
    for ends, find in _CHAINS:
        view.replace_all(ends, find)
    return view.program()


def _gelu(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """½ · x · (1 + erf(x / √2)), in any order of the product."""
    if not is_binary(step):
        return None
    for outer, inner in ((0, 1), (1, 0)):
        # One operand is the product of two of the three factors, the other is the third.
        pair = view.made(step.arguments[outer], "Mul")
        if pair is None or not is_binary(pair):
            continue
        factors = [*pair.arguments, step.arguments[inner]]
        half = next((f for f in factors if view.is_number(f, 0.5)), None)
        if half is None:
            continue
        rest = [f for f in factors if f is not half]
        for x, one_plus in (rest, rest[::-1]):
            chain = _one_plus_erf(view, x, one_plus)
            if chain is not None:
                return [pair, *chain], in_place_of(step, "Gelu", F.gelu, x)
    return None


def _one_plus_erf(view: View, x: Argument, one_plus: Argument) -> list[Step] | None:
    add = view.made(one_plus, "Add")
    if add is None or not is_binary(add) or (found := view.with_number(add, 1.0)) is None:
        return None
    erf = view.made(found[0], "Erf")
    if erf is None:
        return None
    scaled = view.made(erf.arguments[0], "Div", "Mul")
    if scaled is None or not is_binary(scaled):
        return None
    if name_of(scaled) == "Div":
        inside = scaled.arguments[0] if view.is_number(scaled.arguments[1], 2**0.5) else None
    else:
        product = view.with_number(scaled, 0.5**0.5)
        inside = None if product is None else product[0]
    if inside is None or inside.source is None or inside.source != x.source:
        return None
    return [add, erf, scaled]


def _silu(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """X · sigmoid(x)."""
    if not is_binary(step):
        return None
    for place in (0, 1):
        x, gate = step.arguments[place], view.made(step.arguments[1 - place], "Sigmoid")
        if gate is not None and x.source is not None and gate.arguments[0].source == x.source:
            return [gate], in_place_of(step, "Silu", F.silu, x)
    return None


def _hard_swish(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """X · HardSigmoid(x) with slope 1/6 and offset ½."""
    if not is_binary(step):
        return None
    for place in (0, 1):
        x, gate = step.arguments[place], view.made(step.arguments[1 - place], "HardSigmoid")
        if gate is None or x.source is None or gate.arguments[0].source != x.source:
            continue
        alpha, beta = gate.keywords.get("alpha", 0.0), gate.keywords.get("beta", 0.0)
        if math.isclose(alpha, 1 / 6, rel_tol=CLOSE) and beta == 0.5:
            return [gate], in_place_of(step, "HardSwish", F.hardswish, x)
    return None


def _layer_norm(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """(x − mean) / √(variance + ε) · weight + bias, over the last axis."""
    if not is_binary(step):
        return None
    for place in (0, 1):
        bias, scaled = step.arguments[place], view.made(step.arguments[1 - place], "Mul")
        if scaled is None or not is_binary(scaled):
            continue
        for which in (0, 1):
            weight = scaled.arguments[which]
            shape = view.shapes.get(weight.source or "")
            if shape is None or len(shape) != 1 or view.shapes.get(bias.source or "") != shape:
                continue
            found = _normal(view, scaled.arguments[1 - which])
            if found is not None:
                chain, x, epsilon = found
                one = in_place_of(
                    step, "LayerNormalization", _normalize, x, weight, bias, epsilon=epsilon
                )
                return [scaled, *chain], one
    return None


def _normal(view: View, argument: Argument) -> tuple[list[Step], Argument, float] | None:
    divide = view.made(argument, "Div")
    if divide is None or not is_binary(divide):
        return None
    root = view.made(divide.arguments[1], "Sqrt")
    add = None if root is None else view.made(root.arguments[0], "Add")
    found = view.with_number(add) if add is not None and is_binary(add) else None
    variance = None if found is None else view.made(found[0], "ReduceMean")
    if root is None or add is None or found is None or variance is None or not _over_last(variance):
        return None
    square = view.made(variance.arguments[0], "Pow", "Mul")
    if square is None:
        return None
    if name_of(square) == "Pow":
        reads, squared = 2, view.is_number(square.arguments[1], 2.0)
    else:
        reads, squared = 3, square.arguments[0].source == square.arguments[1].source
    centre = view.made(divide.arguments[0], "Sub", reads=reads)
    if not squared or centre is None or not is_binary(centre):
        return None
    if square.arguments[0].source != divide.arguments[0].source:
        return None
    mean = view.made(centre.arguments[1], "ReduceMean")
    x = centre.arguments[0]
    if mean is None or not _over_last(mean) or x.source is None:
        return None
    if mean.arguments[0].source != x.source:
        return None
    return [divide, root, add, variance, square, centre, mean], x, found[1]


def _over_last(step: Step) -> bool:
    axes = step.keywords.get("axes")
    if axes is None and len(step.arguments) > 1:
        axes = step.arguments[1].value
    return axes == [-1] and bool(step.keywords.get("keepdims"))


def _normalize(x: Tensor, weight: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
    same = x.dtype == weight.dtype == bias.dtype
    if x.shape[-1:] == weight.shape and (same or is_autocast(x)):
        return F.layer_norm(x, weight.shape, weight, bias, epsilon)
    centred = x - x.mean(-1, keepdim=True)  # shapes that broadcast, or types that differ
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + epsilon) * weight + bias


def _attention(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """softmax(q · k · factor [+ mask]) · v, with the factor on the product or on its operands."""
    softmax = view.made(step.arguments[0], "Softmax")
    if softmax is None or softmax.keywords.get("axis") != -1 or "-13" not in softmax.operator:
        return None
    chain, mask = [softmax], Argument(None, None, "tensor")
    found = _scores(view, softmax.arguments[0])
    if found is None:
        masked = view.made(softmax.arguments[0], "Add")
        if masked is None or not is_binary(masked):
            return None
        chain.append(masked)
        for place in (0, 1):
            found = _scores(view, masked.arguments[place])
            if found is not None:
                mask = masked.arguments[1 - place]
                break
        else:
            return None
    assert found is not None
    if view.learns(mask):  # torch's kernel has no gradient for it
        return None
    more, scores, factor = found
    chain += more
    factors: list[Argument] = []
    operands = []
    for operand in scores.arguments:
        scaled = view.made(operand, "Mul")
        split = None if scaled is None or not is_binary(scaled) else _by_host(view, scaled)
        if scaled is None or split is None:
            operands.append(operand)
            factors.append(Argument(None, 1.0, "number"))
        else:
            chain.append(scaled)
            operands.append(split[0])
            factors.append(split[1])
    inputs = [a._replace(kind="tensor") for a in (*operands, step.arguments[1], mask)]
    return chain, in_place_of(step, "Attention", attend, *inputs, *factors, factor=factor)


def _scores(view: View, argument: Argument) -> tuple[list[Step], Step, float] | None:
    """A matrix product, scaled by a number or not: its steps, itself, the number."""
    step = view.made(argument, "Div", "Mul", "MatMul")
    if step is None or name_of(step) == "MatMul":
        return None if step is None else ([step], step, 1.0)
    found = _scaled(view, step) if is_binary(step) else None
    product = None if found is None else view.made(found[0], "MatMul")
    if found is None or product is None:
        return None
    return [step, product], product, found[1]


def _scaled(view: View, step: Step) -> tuple[Argument, float] | None:
    if name_of(step) == "Mul":
        return view.with_number(step)
    value = view.number(step.arguments[1])
    if not value or view.shapes.get(step.arguments[1].source or "", ()):
        return None
    return step.arguments[0], 1 / value


def _by_host(view: View, step: Step) -> tuple[Argument, Argument] | None:
    """Split a product with a number, be it constant or computed from shapes: value, number."""
    found = view.with_number(step)
    if found is not None:
        return found[0], Argument(None, found[1], "number")
    for place in (0, 1):
        factor = step.arguments[place]
        maker = view.maker.get(factor.source or "")
        made = None if maker is None else view.steps[maker]
        if made is not None and made.hosted is not None:
            return step.arguments[1 - place], factor._replace(kind="number")
    return None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    before_q: float | Tensor,
    before_k: float | Tensor,
    *,
    factor: float,
) -> Tensor:
    """softmax(q · k · factor + mask) · v; q [n, heads, l, d], k [n, heads, d, s] (transposed).

    torch's own kernel never holds the scores [n, heads, l, s], but asks for equal leading axes, and
    for a mask that does not learn.
    """
    for number in (before_q, before_k):
        if isinstance(number, Tensor):
            q = q * number
        else:
            factor = factor * number
    kernel = q.dim() == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]
    kernel = kernel and q.dtype == k.dtype == v.dtype and q.shape[-1] == v.shape[-1]
    if mask is not None:
        # Autocast brings the mask to the same type.
        kernel = kernel and (mask.dtype == q.dtype or is_autocast(q)) and not mask.requires_grad
        kernel = kernel and mask.dim() in {2, 4}
    if kernel:
        return F.scaled_dot_product_attention(q, k.transpose(-2, -1), v, mask, scale=factor)
    scores = (q * factor) @ k
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def _linear(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """X · weight + bias, with a weight of two axes and a bias of one."""
    if not is_binary(step):
        return None
    for place in (0, 1):
        bias, product = step.arguments[place], view.made(step.arguments[1 - place], "MatMul")
        if product is None:
            continue
        x, weight = product.arguments
        turned = view.made(weight, "Transpose")
        if turned is not None and turned.keywords.get("perm") == [1, 0]:
            shape = view.shapes.get(turned.arguments[0].source or "", ())
            if len(shape) == 2 and view.shapes.get(bias.source or "") == shape[:1]:
                one = in_place_of(step, "MatMul+Add", multiply_turned, x, turned.arguments[0], bias)
                return [product, turned], one
        shape = view.shapes.get(weight.source or "", ())
        if len(shape) == 2 and view.shapes.get(bias.source or "") == shape[1:]:
            return [product], in_place_of(step, "MatMul+Add", multiply, x, weight, bias)
    return None


def multiply_turned(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """X [..., k] · weight [m, k] transposed + bias [m]."""
    return multiply(x, weight.mT, bias)


def _dropout(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """Dropout whose mask nobody asks for: torch's own holds one byte per element less."""
    if step.keywords.get("seed") is not None:
        return None
    if any(a.source is not None for a in step.arguments[1:]):
        return None
    if any(view.readers.get(name) or name in view.outputs for name in step.outputs[1:]):
        return None
    told = [a.value for a in step.arguments[1:]]
    ratio = step.keywords.get("ratio") if not told else told[0]
    ratio = 0.5 if ratio is None else float(ratio)
    always = bool(told[1]) if len(told) > 1 else False
    if not 0 <= ratio < 1 or step.keywords.get("training_mode"):
        return None
    one = in_place_of(
        step, "Dropout", drop, step.arguments[0], injected={"training"}, ratio=ratio, always=always
    )
    return [], one


def drop(x: Tensor, *, ratio: float, always: bool, training: bool) -> Tensor:
    """Drop elements with this probability in training, or always."""
    return F.dropout(x, ratio, training=True) if ratio and (training or always) else x


def _is_fresh(view: View, argument: Argument) -> bool:
    made = view.made(argument, *_FRESH, "MatMul+Add", "AddInPlace")
    return made is not None


def _relu(view: View, step: Step) -> tuple[list[Step], Step] | None:
    if not _is_fresh(view, step.arguments[0]):
        return None
    return [], in_place_of(step, "ReluInPlace", torch.relu_, *step.arguments)


def _hard_tanh(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """Clip to two numbers: one pass backward instead of four.

    On a bound itself the derivative is 0, as for ReLU at 0 (torch's clamp passes it there).
    """
    bounds = [a.value for a in step.arguments[1:]]
    if any(a.source is not None for a in step.arguments[1:]):
        return None
    low, high = ([*bounds, None, None])[:2]
    low = step.keywords.get("min") if low is None else low
    high = step.keywords.get("max") if high is None else high
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
        return None
    in_place = _is_fresh(view, step.arguments[0])
    name = "ClipInPlace" if in_place else "Clip"
    call = bound_in_place if in_place else bound
    return [], in_place_of(step, name, call, step.arguments[0], low=float(low), high=float(high))


def bound(x: Tensor, *, low: float, high: float) -> Tensor:
    """Return x between two numbers."""
    return F.hardtanh(x, low, high) if x.is_floating_point() else x.clamp(int(low), int(high))


def bound_in_place(x: Tensor, *, low: float, high: float) -> Tensor:
    """Bring x between two numbers, where it lies."""
    if not x.is_floating_point():
        return x.clamp(int(low), int(high))
    return F.hardtanh(x, low, high, inplace=True)


def _residual(view: View, step: Step) -> tuple[list[Step], Step] | None:
    """A sum written over the operand that was made for it alone."""
    if not is_binary(step):
        return None
    for place in (0, 1):
        own, other = step.arguments[place], step.arguments[1 - place]
        if other.source is not None and step.plain and _is_fresh(view, own):
            return [], in_place_of(step, "AddInPlace", add_to, own, other)
    return None


def add_to(own: Tensor, other: Tensor) -> Tensor:
    """Add to a tensor in place where shapes and types are the same."""
    if own.shape == other.shape and own.dtype == other.dtype and own.dtype not in WIDER:
        return own.add_(other)
    return torch.add(own, other)


#: The operator a chain ends in, and what finds it there; in this order.
_CHAINS: Final[tuple[tuple[str, _Find], ...]] = (
    ("Add", _layer_norm),
    ("Mul", _gelu),
    ("Mul", _silu),
    ("Mul", _hard_swish),
    ("MatMul", _attention),
    ("Add", _linear),
    ("Dropout", _dropout),
    ("Clip", _hard_tanh),
    ("Relu", _relu),
    ("Add", _residual),
)
