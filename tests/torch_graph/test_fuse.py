"""Chains put together: same values, same gradients; what only looks like one is left alone."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from surgeon.torch_graph import module as module_room
from surgeon.torch_graph.chains import name_of
from surgeon.torch_graph.module import GraphModule, to_module

RNG = np.random.default_rng(0)


def number(name, value):
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.float32(value), name)
    )


def ints(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def weight(name, *shape):
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], output, **attributes)


def graph(nodes, weights=(), shape=(3, 5, 8), opset=17, outputs=("y",)):
    info = helper.make_tensor_value_info
    built = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, list(shape))],
        [info(name, TensorProto.FLOAT, None) for name in outputs],
        list(weights),
    )
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", opset)])


def gelu(order: str, *, half=0.5, root=2**0.5, one=1.0):
    scaled = node("Div", "x root", "d") if order != "mul" else node("Mul", "inverse x", "d")
    common = [
        number("root", root), number("inverse", 1 / root), number("one", one), number("half", half),
        scaled, node("Erf", "d", "e"), node("Add", "e one", "p"),
    ]  # fmt: skip
    ends = {
        "last": [node("Mul", "x p", "m"), node("Mul", "m half", "y")],
        "mul": [node("Mul", "x half", "m"), node("Mul", "m p", "y")],
        "first": [node("Mul", "half p", "m"), node("Mul", "x m", "y")],
    }
    return graph([*common, *ends[order]])


def norm(*, axis=-1, square="pow", opset=17):
    squared = node("Pow", "c two", "s") if square == "pow" else node("Mul", "c c", "s")
    mean = {"axes": [axis]} if opset < 18 else {}
    axes = " axes" if opset >= 18 else ""
    nodes = [
        number("two", 2), number("eps", 1e-3),
        node("ReduceMean", f"x{axes}", "mean", **mean), node("Sub", "x mean", "c"), squared,
        node("ReduceMean", f"s{axes}", "v", **mean), node("Add", "v eps", "ve"),
        node("Sqrt", "ve", "r"), node("Div", "c r", "n"), node("Mul", "n w", "nw"),
        node("Add", "nw b", "y"),
    ]  # fmt: skip
    size = (8,) if axis == -1 else (5, 1)
    return graph(nodes, [weight("w", *size), weight("b", *size), ints("axes", axis)], opset=opset)


def attention(*, scale="div", mask=None, axis=-1):
    """x [n, l, 3·h·d] → heads → softmax(q·k)·v."""
    front = [
        node("Reshape", "x split", "r"), node("Transpose", "r", "t", perm=[2, 0, 3, 1, 4]),
        node("Gather", "t i0", "q"), node("Gather", "t i1", "k"), node("Gather", "t i2", "v"),
        node("Transpose", "k", "kt", perm=[0, 1, 3, 2]), number("f", 2.0), number("g", 0.5),
    ]  # fmt: skip
    middle = {
        "div": [node("MatMul", "q kt", "qk"), node("Div", "qk f", "s")],
        "mul": [node("MatMul", "q kt", "qk"), node("Mul", "g qk", "s")],
        "both": [
            node("Mul", "q g", "qs"), node("Mul", "kt g", "ks"), node("MatMul", "qs ks", "s"),
        ],
        "none": [node("MatMul", "q kt", "s")],
    }[scale]  # fmt: skip
    masks = {"after": "s fixed", "before": "fixed s", "learns": "s m"}
    masked = [] if mask is None else [node("Add", masks[mask], "sm")]
    end = [
        node("Softmax", "s" if mask is None else "sm", "p", axis=axis), node("MatMul", "p v", "y"),
    ]  # fmt: skip
    weights = [ints("split", 2, 6, 3, 2, 4), ints("i0", 0), ints("i1", 1), ints("i2", 2)]
    for tensor in weights[1:]:
        tensor.ClearField("dims")
    model = graph([*front, *middle, *masked, *end], weights, shape=(2, 6, 24))
    if mask is not None:
        model.graph.initializer.append(weight("m" if mask == "learns" else "fixed", 1, 1, 6, 6))
    return model


def linear(*, turned=False, flip=False):
    nodes = [node("Transpose", "w", "wt", perm=[1, 0])] if turned else []
    nodes += [
        node("MatMul", "x wt" if turned else "x w", "p"),
        node("Add", "b p" if flip else "p b", "y"),
    ]
    shape = (6, 8) if turned else (8, 6)
    return graph(nodes, [weight("w", *shape), weight("b", 6)])


def convolution(*tail, weights=(), outputs=("y",)):
    return graph(
        [node("Conv", "x w b", "c", pads=[1, 1, 1, 1]), *tail],
        [weight("w", 4, 4, 3, 3), weight("b", 4), *weights],
        shape=(2, 4, 5, 5),
        outputs=outputs,
    )


def clip(low, high, opset=17):
    if opset < 11:
        return [node("Clip", "c", "y", min=low, max=high)]
    return [number("lo", low), number("hi", high), node("Clip", "c lo hi", "y")]


CHAINS = {
    "gelu": (gelu("last"), ["Gelu"]),
    "gelu with Mul": (gelu("mul"), ["Gelu"]),
    "gelu, half inside": (gelu("first"), ["Gelu"]),
    "silu": (graph([node("Sigmoid", "x", "s"), node("Mul", "x s", "y")]), ["Silu"]),
    "silu turned": (graph([node("Sigmoid", "x", "s"), node("Mul", "s x", "y")]), ["Silu"]),
    "hard swish": (
        graph([node("HardSigmoid", "x", "s", alpha=1 / 6, beta=0.5), node("Mul", "x s", "y")]),
        ["HardSwish"],
    ),
    "layer norm": (norm(), ["LayerNormalization"]),
    "layer norm by Mul": (norm(square="mul"), ["LayerNormalization"]),
    "layer norm, axes as input": (norm(opset=18), ["LayerNormalization"]),
    "attention, Div": (attention(), ["Attention"]),
    "attention, Mul": (attention(scale="mul"), ["Attention"]),
    "attention, both scaled": (attention(scale="both"), ["Attention"]),
    "attention, not scaled": (attention(scale="none"), ["Attention"]),
    "attention, mask": (attention(mask="after"), ["Attention"]),
    "attention, mask before": (attention(mask="before", scale="mul"), ["Attention"]),
    "linear": (linear(), ["MatMul+Add"]),
    "linear turned": (linear(turned=True, flip=True), ["MatMul+Add"]),
    "relu": (convolution(node("Relu", "c", "y")), ["ReluInPlace"]),
    "clip": (convolution(*clip(0.0, 6.0)), ["ClipInPlace"]),
    "clip of an input": (
        graph([number("lo", -0.5), number("hi", 0.5), node("Clip", "x lo hi", "y")]), ["Clip"]
    ),
    "residual": (convolution(node("Add", "x c", "y")), ["AddInPlace"]),
    "residual and relu": (
        convolution(node("Add", "c x", "s"), node("Relu", "s", "y")), ["AddInPlace", "ReluInPlace"]
    ),
    "dropout": (
        graph([helper.make_node("Dropout", ["x"], ["y"], "d")]), ["Dropout"]
    ),
}  # fmt: skip


def modules(model: onnx.ModelProto) -> tuple[GraphModule, GraphModule]:
    """The graph as it is, and with its chains put together."""
    roles = {
        t.name: "constant" if t.name == "fixed" else "parameter"
        for t in model.graph.initializer
        if t.data_type == TensorProto.FLOAT
    }
    before = module_room.fuse
    module_room.fuse = lambda program, shapes, learning: program
    try:
        plain = to_module(model, roles=roles)
    finally:
        module_room.fuse = before
    return plain, to_module(model, roles=roles)


def passes(module, x):
    x = x.clone().requires_grad_(True)
    module.zero_grad()
    y = module(x * 1.0)
    torch.manual_seed(1)
    (y * torch.randn(y.shape)).sum().backward()
    return y, x.grad, {name: p.grad for name, p in module.named_parameters()}


def names(module):
    return [name_of(step) for step in module._onnx_program.steps]


@pytest.mark.parametrize("chain", CHAINS)
def test_values_and_gradients_stay(chain):
    model, expected = CHAINS[chain]
    plain, fused = modules(model)
    assert set(expected) <= set(names(fused))
    assert len(names(fused)) <= len(names(plain))
    torch.manual_seed(0)
    x = torch.randn([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])
    for (a, da, wa), (b, db, wb) in [(passes(plain, x), passes(fused, x))]:
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(db, da, rtol=1e-5, atol=1e-5)
        assert wa.keys() == wb.keys()
        for name, gradient in wa.items():
            torch.testing.assert_close(wb[name], gradient, rtol=1e-5, atol=1e-5)
    twin = copy.deepcopy(fused)
    assert torch.equal(twin(x), fused(x))


@pytest.mark.parametrize("chain", CHAINS)
def test_first_derivatives_are_right_in_double_precision(chain):
    model, _ = CHAINS[chain]
    _, fused = modules(model)
    fused.double()
    torch.manual_seed(0)
    x = torch.randn([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])
    assert torch.autograd.gradcheck(lambda v: fused(v * 1.0), x.double().requires_grad_(True))


IMPOSTORS = {
    "another root": gelu("last", root=1.5),
    "another half": gelu("last", half=0.25),
    "another one": gelu("last", one=2.0),
    "sigmoid of another value": graph(
        [node("Neg", "x", "n"), node("Sigmoid", "n", "s"), node("Mul", "x s", "y")]
    ),
    "sigmoid read twice": graph(
        [node("Sigmoid", "x", "s"), node("Mul", "x s", "m"), node("Add", "m s", "y")]
    ),
    "another slope": graph([node("HardSigmoid", "x", "s", alpha=0.2), node("Mul", "x s", "y")]),
    "another axis": norm(axis=-2),
    "softmax over rows": attention(axis=-2),
    "attention with a mask that learns": attention(mask="learns"),
    "relu of a value that is an output": convolution(node("Relu", "c", "y"), outputs=("y", "c")),
    "relu of a value read again": convolution(
        node("Relu", "c", "r"), node("Mul", "r c", "y")
    ),
    "relu of an input": graph([node("Relu", "x", "y")]),
    "relu of a result that its operator reads backward": graph(
        [node("Sigmoid", "x", "s"), node("Relu", "s", "y")]
    ),
    "bounds that cross": convolution(*clip(6.0, 0.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSTORS)
def test_what_only_looks_like_it_is_left_alone(name):
    plain, fused = modules(IMPOSTORS[name])
    assert names(fused) == names(plain)
    freed = [[set(s.frees) for s in m._onnx_program.steps] for m in (plain, fused)]
    assert freed[0] == freed[1]


def test_a_number_that_learns_is_no_constant():
    model = graph(
        [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"),
         node("Mul", "x p", "m"), node("Mul", "m half", "y")],
        [numpy_helper.from_array(np.float32(v), n)
         for n, v in (("root", 2**0.5), ("one", 1.0), ("half", 0.5))],
    )  # fmt: skip
    plain, fused = modules(model)
    assert names(fused) == names(plain)


def test_the_input_of_the_caller_is_never_overwritten():
    model = convolution(node("Add", "x c", "y"))
    _, fused = modules(model)
    x = torch.randn(2, 4, 5, 5)
    before = x.clone()
    fused(x)
    fused.train()(x)
    assert torch.equal(x, before)


def test_shapes_that_broadcast_are_not_added_in_place():
    model = graph(
        [node("Conv", "x w", "c"), node("GlobalAveragePool", "x", "g"), node("Conv", "g w", "h"),
         node("Add", "h c", "y")],
        [weight("w", 4, 4, 1, 1)], shape=(2, 4, 5, 5),
    )  # fmt: skip
    plain, fused = modules(model)
    x = torch.randn(2, 4, 5, 5)
    assert "AddInPlace" in names(fused)
    torch.testing.assert_close(fused(x), plain(x))


def test_dropout_drops_in_training_only():
    _, fused = modules(CHAINS["dropout"][0])
    x = torch.ones(3, 5, 8)
    assert torch.equal(fused(x), x)
    dropped = fused.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("chain", ["attention, both scaled", "residual and relu", "linear"])
def test_a_fused_graph_can_be_exported(chain):
    model, _ = CHAINS[chain]
    _, fused = modules(model)
    x = torch.randn([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim])
    exported = torch.export.export(fused, (x,)).module()
    torch.testing.assert_close(exported(x), fused(x))
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), fused(x))
