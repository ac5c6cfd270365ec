"""Nine small networks, one of each family that real files have, with seeded random weights.

Each is built by hand in a few kilobytes, so that whatever a plugin offers is tried on all of them
in seconds. What must not enter: reading of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

Batch = int | str


class Net:
    """A graph under construction: `weight`, `ints` and `node` return the name they made."""

    def __init__(
        self, opset: int = 17, dtype: int = TensorProto.FLOAT, seed: int = 0, ir: int = 8
    ) -> None:
        self.opset, self.dtype, self.ir = opset, dtype, ir
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[TensorProto] = []
        self.inputs: list[Any] = []

    def input(self, name: str, shape: list[int | str], dtype: int | None = None) -> str:
        """Declare a graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype or self.dtype, shape))
        return name

    def weight(self, name: str, *shape: int, values: Any = None) -> str:
        """Add an initializer: these values, else normal ones, smaller the more are summed."""
        if values is None:
            fan = max(int(np.prod(shape[1:])), 1)
            values = self.random.standard_normal(shape) / np.sqrt(fan)
        values = np.asarray(values).astype(helper.tensor_dtype_to_np_dtype(self.dtype))
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def ints(self, name: str, *values: int) -> str:
        """Add an initializer of whole numbers."""
        self.weights.append(numpy_helper.from_array(np.asarray(values, np.int64), name))
        return name

    def weight_int(self, name: str, value: int) -> str:
        """Add an initializer of one whole number, without axes."""
        self.weights.append(numpy_helper.from_array(np.asarray(value, np.int64), name))
        return name

    def node(
        self, op: str, *inputs: str, out: Any = None, domain: str = "", **attributes: Any
    ) -> Any:
        """Append a node; return what it makes: a name, or the names of `out`."""
        out = out or f"{op.lower()}_{len(self.nodes)}"
        outs = [out] if isinstance(out, str) else list(out)
        name = f"n{len(self.nodes)}"
        made = helper.make_node(op, list(inputs), outs, name=name, domain=domain, **attributes)
        self.nodes.append(made)
        return out

    def conv(
        self, x: str, name: str, out: int, into: int, kernel: int = 3, *, bias: bool = True,
        **attributes: Any,
    ) -> Any:  # fmt: skip
        """Append a convolution that keeps the size."""
        groups = attributes.get("group", 1)
        inputs = [x, self.weight(f"{name}.weight", out, into // groups, kernel, kernel)]
        if bias:
            inputs.append(self.weight(f"{name}.bias", out))
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.node("Conv", *inputs, **attributes)

    def batch_norm(self, x: str, name: str, size: int, out: str | None = None) -> Any:
        """Append a BatchNormalization."""
        scale = self.weight(f"{name}.scale", values=self.random.uniform(0.5, 1.5, size))
        bias, mean = self.weight(f"{name}.bias", size), self.weight(f"{name}.mean", size)
        variance = self.weight(f"{name}.var", values=self.random.uniform(0.5, 1.5, size))
        return self.node("BatchNormalization", x, scale, bias, mean, variance, out=out)

    def layer_norm(self, x: str, name: str, size: int, out: str | None = None) -> Any:
        """Append a LayerNormalization over the last axis."""
        scale = self.weight(f"{name}.scale", values=self.random.uniform(0.5, 1.5, size))
        return self.node("LayerNormalization", x, scale, self.weight(f"{name}.bias", size), out=out)

    def model(
        self, *outputs: str, shape: list[int | str] | None = None, dtype: int | None = None,
        **envelope: Any,
    ) -> ModelProto:  # fmt: skip
        """Return the model; outputs are names, all of one declared shape (None: rank unknown)."""
        values = [helper.make_tensor_value_info(o, dtype or self.dtype, shape) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.weights)
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain == "com.microsoft" for node in self.nodes):
            opsets.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir, **envelope)

    def classifier(self, x: str, features: int, classes: int, batch: Batch) -> ModelProto:
        """End in GlobalAveragePool, Flatten, Gemm."""
        x = self.node("Flatten", self.node("GlobalAveragePool", x, out="pool"), out="features")
        weight, bias = self.weight("fc.w", features, classes), self.weight("fc.b", classes)
        self.node("Gemm", x, weight, bias, out="y")
        return self.model("y", shape=[batch, classes])


def mlp(batch: Batch = "N", **options: Any) -> ModelProto:
    """Two linear layers on eight numbers."""
    net = Net(**options)
    x = net.input("x", [batch, 8])
    x = net.node("Relu", net.node("Gemm", x, net.weight("w1", 8, 12), net.weight("b1", 12)))
    net.node("Gemm", x, net.weight("w2", 5, 12), net.weight("b2", 5), out="y", transB=1)
    return net.model("y", shape=[batch, 5])


def batchnorm(batch: Batch = "N", **options: Any) -> ModelProto:
    """Convolutions with BatchNormalization behind each."""
    net = Net(**options)
    x = net.input("x", [batch, 3, 8, 8])
    for name, out, into in (("l1", 6, 3), ("l2", 8, 6)):
        x = net.conv(x, name, out, into, bias=False)
        x = net.batch_norm(x, f"{name}.bn", out)
        x = net.node("Relu", x)
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    net.node("Gemm", x, net.weight("fc.w", 8, 4), net.weight("fc.b", 4), out="y")
    return net.model("y", shape=[batch, 4])


def depthwise(batch: Batch = "N", **options: Any) -> ModelProto:
    """Depthwise and pointwise convolutions, BatchNormalization folded away."""
    net = Net(**options)
    x = net.input("x", [batch, 3, 8, 8])
    x = net.node("Relu", net.conv(x, "stem", 6, 3, strides=[2, 2]))
    for name in ("d1", "d2"):
        x = net.node("Relu", net.conv(x, f"{name}.depth", 6, 6, group=6))
        x = net.node("Clip", net.conv(x, f"{name}.point", 6, 6, kernel=1), "", _six(net))
    return net.classifier(x, 6, 4, batch)


def _six(net: Net) -> str:
    name = f"six.{len(net.nodes)}"
    return net.weight(name, values=6.0)


def residual(batch: Batch = "N", **options: Any) -> ModelProto:
    """Two residual blocks; inside a block two values are alive, so no cut lies there."""
    net = Net(**options)
    x = net.input("x", [batch, 3, 8, 8])
    x = net.node("Relu", net.conv(x, "stem", 6, 3), out="stem")
    for block in ("b1", "b2"):
        inner = net.node("Relu", net.conv(x, f"{block}.c1", 6, 6), out=f"{block}.inner")
        inner = net.node("Identity", net.conv(inner, f"{block}.c2", 6, 6), out=f"{block}.branch")
        x = net.node("Relu", net.node("Add", x, inner, out=f"{block}.sum"), out=f"{block}.out")
    return net.classifier(x, 6, 4, batch)


def dense(batch: Batch = "N", **options: Any) -> ModelProto:
    """Each layer reads what all before it made, side by side."""
    net = Net(**options)
    x = net.node("Relu", net.conv(net.input("x", [batch, 3, 8, 8]), "stem", 4, 3))
    for layer, into in enumerate((4, 6)):
        new = net.node("Relu", net.conv(x, f"layer{layer}", 2, into))
        x = net.node("Concat", x, new, axis=1, out=f"dense{layer}")
    return net.classifier(x, 8, 4, batch)


def inverted(batch: Batch = "N", **options: Any) -> ModelProto:
    """An inverted residual with squeeze-and-excitation and hard swish."""
    net = Net(**options)
    x = net.node("HardSwish", net.conv(net.input("x", [batch, 3, 8, 8]), "stem", 4, 3), out="stem")
    wide = net.node("HardSwish", net.conv(x, "expand", 8, 4, kernel=1))
    wide = net.node("HardSwish", net.conv(wide, "depth", 8, 8, group=8))
    gate = net.conv(net.node("GlobalAveragePool", wide), "squeeze", 4, 8, kernel=1)
    gate = net.conv(net.node("Relu", gate), "excite", 8, 4, kernel=1)
    wide = net.node("Mul", wide, net.node("HardSigmoid", gate))
    x = net.node("Add", x, net.conv(wide, "project", 4, 8, kernel=1), out="block")
    x = net.node("HardSwish", net.conv(x, "last", 8, 4, kernel=1), out="maps")
    return net.classifier(x, 8, 4, batch)


def transformer(
    batch: Batch = "N", length: Batch = "T", layers: int = 2, **options: Any
) -> ModelProto:
    """Token ids and an attention mask; the mask is read in every layer."""
    net = Net(**options)
    ids = net.input("input_ids", [batch, length], TensorProto.INT64)
    mask = net.input("attention_mask", [batch, length], TensorProto.INT64)
    wide = 8
    x = net.node("Gather", net.weight("embed.weight", 20, wide), ids, out="embedded")
    negative = net.node("Cast", mask, to=net.dtype)
    negative = net.node("Sub", net.weight("one", values=1.0), negative)
    negative = net.node("Mul", negative, net.weight("minus", values=-1e4))
    negative = net.node("Unsqueeze", negative, net.ints("axis1", 1), out="bias")
    for layer in range(layers):
        p = f"layer.{layer}"
        q, k, v = (
            net.node(
                "Add",
                net.node("MatMul", x, net.weight(f"{p}.{part}.weight", wide, wide)),
                net.weight(f"{p}.{part}.bias", wide),
            )
            for part in "qkv"
        )
        scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
        scores = net.node("Add", scores, negative)
        mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
        x = net.node("Add", x, mixed, out=f"{p}.attended")
        x = net.layer_norm(x, f"{p}.norm", wide)
        inner = net.node("MatMul", x, net.weight(f"{p}.up", wide, 2 * wide))
        inner = net.node("Relu", net.node("Add", inner, net.weight(f"{p}.up_bias", 2 * wide)))
        inner = net.node("MatMul", inner, net.weight(f"{p}.down", 2 * wide, wide))
        x = net.node("Add", x, inner, out=f"{p}.out")
    x = net.layer_norm(x, "final", wide, out="hidden")
    first = net.node("Gather", x, net.weight_int("zero", 0), axis=1, out="first")
    net.node("Gemm", first, net.weight("cls.w", 3, wide), net.weight("cls.b", 3), transB=1, out="y")
    return net.model("y", shape=[batch, 3])


def vit(batch: Batch = "N", **options: Any) -> ModelProto:
    """Patches, a class token expanded by the batch's Shape, position embedding, one block."""
    net = Net(**options)
    wide = 8
    x = net.input("pixel_values", [batch, 3, 8, 8])
    patches = net.conv(x, "patch", wide, 3, kernel=4, strides=[4, 4], pads=[0] * 4)
    size = net.node("Shape", patches)
    size = net.node("Gather", size, net.weight_int("zero", 0))
    size = net.node("Unsqueeze", size, net.ints("axis0", 0), out="batch_size")
    target = net.node("Concat", size, net.ints("wide_rest", wide, -1), axis=0)
    tokens = net.node("Reshape", patches, target)
    tokens = net.node("Transpose", tokens, perm=[0, 2, 1], out="tokens")
    one = net.node("Concat", size, net.ints("one_wide", 1, wide), axis=0)
    cls = net.node("Expand", net.weight("cls_token", 1, 1, wide), one)
    x = net.node("Concat", cls, tokens, axis=1)
    x = net.node("Add", x, net.weight("position", 1, 5, wide), out="embedded")
    y = net.layer_norm(x, "n1", wide)
    y = net.node("MatMul", y, net.weight("mlp.w", wide, wide))
    y = net.node("Relu", net.node("Add", y, net.weight("mlp.b", wide)))
    x = net.node("Add", x, y, out="block")
    x = net.layer_norm(x, "n2", wide, out="normed")
    x = net.node("Gather", x, net.weight_int("zero2", 0), axis=1, out="cls_out")
    net.node("Gemm", x, net.weight("head.w", 3, wide), net.weight("head.b", 3), transB=1, out="y")
    return net.model("y", shape=[batch, 3])


def lstm(batch: Batch = "batch", length: Batch = "time", **options: Any) -> ModelProto:
    """Sequence first: [T, N, D], so that samples lie along axis 1."""
    net = Net(**options)
    x = net.input("x", [length, batch, 6])
    w, r = net.weight("w", 1, 16, 6), net.weight("r", 1, 16, 4)
    net.node("LSTM", x, w, r, net.weight("b", 1, 32), out=["all", "h", "c"], hidden_size=4)
    last = net.node("Squeeze", "h", net.ints("zero_axis", 0), out="last")
    net.node("Gemm", last, net.weight("fc.w", 4, 3), net.weight("fc.b", 3), out="y")
    return net.model("y", shape=[batch, 3])


NETWORKS: dict[str, Callable[..., ModelProto]] = {
    "convolutional": batchnorm,
    "depthwise": depthwise,
    "residual": residual,
    "dense": dense,
    "inverted-residual": inverted,
    "transformer": transformer,
    "vision-transformer": vit,
    "recurrent": lstm,
    "tabular": mlp,
}
"""{family: what builds its network}."""
