"""Twelve odd files, one function each: what exporters and hands really leave behind.

`ODD` holds the builders; run as a script it writes the files: `python tests/odd/make.py FOLDER`.
Each network takes 8 numbers, 8 token ids, or a small picture per sample, so that all can be tuned.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

import networks as nw
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

ODD_NAMES = (
    "model/dense;model/dense/MatMul:0",
    '{"layer": [0, "kernel"], "path": "a/b:c"}',
    "with blanks and\ttab",
    "trailing.dot.",
    "..",
    ".leading",
    "Größe/重み",
)


def unsorted_nodes():
    """Every node stands in front of what it reads, inside the subgraph too."""
    net = nw.Net()
    x = net.input("x", ["N", 8])
    x = net.node("Relu", net.node("Gemm", x, net.weight("w1", 8, 12), net.weight("b1", 12)))
    positive = net.node("Greater", net.node("ReduceSum", x, keepdims=0), net.weight("z", values=0))
    inner = nw.Net(seed=1)
    y = inner.node("MatMul", x, inner.weight("inner.w", 12, 12), out="inner_product")
    inner.node("Relu", y, out="inner_y")
    then = inner.model("inner_y").graph
    other = helper.make_graph(
        [helper.make_node("Tanh", [x], ["other_y"])],
        "other",
        [],
        [helper.make_tensor_value_info("other_y", nw.F, None)],
    )
    _reverse(then)
    x = net.node("If", positive, then_branch=then, else_branch=other, out="chosen")
    net.node("Gemm", x, net.weight("w2", 12, 5), net.weight("b2", 5), out="y")
    model = net.model("y", shape=["N", 5])
    _reverse(model.graph)
    return model


def _reverse(graph):
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in reversed(graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)


def declared_rank_wrong():
    """The output and an inner value are declared with ranks they do not have.

    The target of the Reshape is computed, so that no shape inference notices.
    """
    net = nw.Net()
    x = net.input("x", ["N", 8])
    x = net.node("Relu", net.node("Gemm", x, net.weight("w1", 8, 12), net.weight("b1", 12)))
    target = net.node("Concat", net.node("Shape", x), net.ints("more", 1), axis=0)
    x = net.node("Reshape", x, target, out="column")
    x = net.node("Reshape", x, net.node("Slice", target, net.ints("s", 0), net.ints("e", 2)))
    x = net.node("Mul", x, net.weight("gain", 12), out="features")
    net.node("Gemm", x, net.weight("w2", 12, 5), net.weight("b2", 5), out="scores")
    net.node("Reshape", "scores", net.node("Shape", "scores"), out="y")
    model = net.model("y", shape=["N", 5, 1, 1])
    for name, shape in (("column", ["N", 4]), ("features", ["N", 3, 3, 3])):
        model.graph.value_info.append(helper.make_tensor_value_info(name, nw.F, shape))
    return model


def odd_names():
    """Weights, values and inputs whose names are paths, JSON, lists, blanks, dots."""
    net = nw.Net()
    x = net.input("serving:0/x y", ["N", 8])
    for number, name in enumerate(ODD_NAMES):
        x = net.node(
            "MatMul", x, net.weight(name, 8, 8), out=f'{{"value": "{number};a/b:{number}"}}'
        )
        x = net.node("Tanh", x, out=f"act;{number}:/ .")
    net.node("Gemm", x, net.weight("fc/w:0", 8, 4), net.weight("fc/b:0;fc", 4), out="logits")
    return net.model("logits", shape=["N", 4])


def same_names_in_subgraphs():
    """A weight called `w` outside and another one in each branch, one level deeper too.

    And a Constant called `v` in both branches.
    """

    def branch(name, seed, inner=None):
        net = nw.Net(seed=seed)
        y = net.node("MatMul", "h", net.weight("w", 6, 6), out=f"{name}_first")
        if inner is None:
            constant = numpy_helper.from_array(net.random.standard_normal((6, 6)).astype("f4"))
            y = net.node("MatMul", y, net.node("Constant", out="v", value=constant))
        else:
            other = branch(f"{name}_other", seed + 10)
            net.node("If", "flag", then_branch=inner, else_branch=other, out=f"{name}_chosen")
            y = net.node("Add", y, f"{name}_chosen", out=f"{name}_sum")
        net.node("Tanh", y, out=name)
        return net.model(name).graph

    net = nw.Net()
    x = net.node("MatMul", net.input("x", ["N", 8]), net.weight("front", 8, 6))
    net.node("MatMul", x, net.weight("w", 6, 6), out="h")
    # True for any data, so that samples do not decide for each other, but not known beforehand.
    total = net.node("ReduceSum", net.node("Abs", "h"), keepdims=0)
    net.node("Greater", total, net.weight("threshold", values=-1), out="flag")
    then = branch("then", 1, branch("deep", 3))
    x = net.node("If", "flag", then_branch=then, else_branch=branch("else", 2), out="features")
    net.node("Gemm", x, net.weight("fc.w", 6, 3), net.weight("fc.b", 3), out="y")
    return net.model("y", shape=["N", 3])


def tied_embedding_head():
    """A language model whose classifier is its embedding, transposed."""
    net = nw.Net()
    ids = net.input("input_ids", ["N", "T"], nw.I64)
    x = net.node("Gather", net.weight("embed.weight", 20, 8), ids, out="embedded")
    x = net.node("Tanh", net.node("MatMul", x, net.weight("mix.weight", 8, 8)), out="hidden")
    turned = net.node("Transpose", "embed.weight", perm=[1, 0], out="embed.weight.T")
    net.node("MatMul", x, turned, out="scores")
    return net.model("scores", shape=["N", "T", 20])


def identity_chains():
    """One weight that three layers read through chains of Identity, as torch's exporter writes."""
    net = nw.Net()
    x = net.input("x", ["N", 8])
    shared = net.weight("layer.0.weight", 8, 8)
    bias = net.weight("layer.0.bias", 8)
    for number in (1, 2):
        shared = net.node("Identity", shared, out=f"layer.{number}.weight")
        bias = net.node("Identity", bias, out=f"layer.{number}.bias")
    for number in (2, 0, 1):
        x = net.node("Gemm", x, f"layer.{number}.weight", f"layer.{number}.bias", transB=1)
        x = net.node("Relu", net.node("Identity", x))
    net.node("Gemm", x, net.weight("fc.w", 8, 3), net.weight("fc.b", 3), out="y")
    return net.model("y", shape=["N", 3])


def initializers_as_inputs():
    """IR version 3: every weight is an input too, some twice over, the data input in the middle."""
    model = nw.convnet(ir=3, opset=9)
    data = model.graph.input[0]
    listed = [
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in model.graph.initializer
    ]
    data = onnx.ValueInfoProto.FromString(data.SerializeToString())
    del model.graph.input[:]
    model.graph.input.extend([*listed[:3], data, *listed[3:]])
    # The same numbers once more under a second name, as converters write shared weights.
    again = TensorProto.FromString(model.graph.initializer[1].SerializeToString())
    again.name = "c1.bias.again"
    model.graph.initializer.append(again)
    model.graph.input.append(helper.make_tensor_value_info(again.name, nw.F, list(again.dims)))
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    bent = helper.make_node("Reshape", [again.name, "column"], ["bent"])
    added = helper.make_node("Add", [relu.input[0], "bent"], ["shifted"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([6, 1, 1]), "column"))
    model.graph.input.append(helper.make_tensor_value_info("column", nw.I64, [3]))
    relu.input[0] = "shifted"
    nodes = [NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    place = next(i for i, n in enumerate(nodes) if n.op_type == "Relu")
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], bent, added, *nodes[place:]])
    return model


def empty_optional_inputs():
    """Inputs and outputs left out by an empty name, in front and behind."""
    net = nw.Net()
    x = net.input("x", ["N", 3, 8, 8])
    x = net.node("Conv", x, net.weight("c1", 6, 3, 3, 3), "", pads=[1] * 4)
    x = net.node("Clip", x, "", net.weight("six", values=6.0))
    x = net.node("Resize", x, "", net.weight("scales", values=[1, 1, 0.5, 0.5]))
    x, _ = net.node("Dropout", x, "", "", out=("kept", ""))
    x = net.node("Transpose", net.node("Reshape", x, net.ints("flat", 0, 6, 16)), perm=[2, 0, 1])
    lstm = [net.weight("lstm.W", 1, 16, 6), net.weight("lstm.R", 1, 16, 4)]
    net.node("LSTM", x, *lstm, "", "", "", "", net.weight("peep", 1, 12), hidden_size=4,
             out=("", "last"))  # fmt: skip
    x = net.node("Squeeze", "last", net.ints("axis", 0), out="features")
    net.node("Gemm", x, net.weight("fc.w", 4, 3), "", out="y")
    return net.model("y", shape=["N", 3])


def local_functions():
    """Layers as model-local functions, one inside the other, with attributes given and absent."""
    domain = "local"
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    leaky = helper.make_node("LeakyRelu", ["p"], ["r"])
    slope = leaky.attribute.add()
    slope.name, slope.ref_attr_name, slope.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    inner = helper.make_function(
        domain, "Dense", ["v", "w", "b"], ["r"],
        [helper.make_node("MatMul", ["v", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["p"]),
         leaky],
        opsets, ["slope"],
    )  # fmt: skip
    call = helper.make_node("Dense", ["v", "w", "b"], ["m"], domain=domain)
    passed = call.attribute.add()
    passed.name, passed.ref_attr_name, passed.type = "slope", "s", onnx.AttributeProto.FLOAT
    outer = helper.make_function(
        domain, "Block", ["v", "w", "b"], ["z"],
        [call, helper.make_node("Add", ["m", "v"], ["z"])], opsets, ["s"],
    )  # fmt: skip
    net = nw.Net()
    x = net.input("x", ["N", 8])
    for number, options in enumerate(({"s": 0.25}, {}, {"s": 0.5})):
        x = net.node("Block", x, net.weight(f"block.{number}.w", 8, 8),
                     net.weight(f"block.{number}.b", 8), domain=domain, **options)  # fmt: skip
    net.node("Gemm", x, net.weight("fc.w", 8, 3), net.weight("fc.b", 3), out="y")
    model = net.model("y", shape=["N", 3], functions=[outer, inner])
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def sequence_output():
    """An inner sequence of tensors, which is a graph output beside the scores."""
    net = nw.Net()
    x = net.input("x", ["N", 8])
    x = net.node("Relu", net.node("MatMul", x, net.weight("w1", 8, 12)), out="wide")
    parts = net.node("SplitToSequence", x, net.ints("parts", 4, 4, 4), axis=1, out="parts_of_x")
    first = net.node("SequenceAt", parts, net.ints("zero", *[0]), out="first")
    joined = net.node("ConcatFromSequence", parts, axis=1, out="joined")
    x = net.node("Concat", first, joined, axis=1, out="features")
    net.node("Gemm", x, net.weight("fc.w", 16, 3), net.weight("fc.b", 3), out="y")
    model = net.model("y", shape=["N", 3])
    zero = next(t for t in model.graph.initializer if t.name == "zero")
    zero.CopyFrom(numpy_helper.from_array(np.array(0), "zero"))
    element = helper.make_tensor_type_proto(nw.F, ["N", 4])
    kind = helper.make_sequence_type_proto(element)
    model.graph.output.insert(0, helper.make_value_info(parts, kind))
    return model


def old_opset(version):
    """A convolutional classifier with the forms that opsets 1 to 6 had and later ones dropped.

    Version 7 is the same network in the forms that ONNX Runtime implements.
    """
    net = nw.Net(opset=version, ir=3)
    old = version < 7
    in_place = {"consumed_inputs": [0]} if version < 6 else {}
    test = {"is_test": 1} if old else {}
    legacy = {"broadcast": 1} if old else {}
    x = net.input("x", ["N", 3, 8, 8])
    x = net.node("Conv", x, net.weight("c1.w", 6, 3, 3, 3), net.weight("c1.b", 6), pads=[1] * 4)
    normal = [
        net.weight(f"bn.{what}", values=net.random.uniform(0.5, 1.5, 6))
        for what in ("scale", "bias", "mean", "var")
    ]
    more = {"consumed_inputs": [0, 0, 0, 1, 1]} if version < 6 else {}
    x = net.node("BatchNormalization", x, *normal, **test, **more)
    x = net.node("Relu", x, **in_place)
    gain = net.weight("gain", *([6] if old else [6, 1, 1]))
    x = net.node("Mul", x, gain, **legacy, **in_place, **({"axis": 1} if old else {}))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Dropout", x, **test, **in_place)
    if version < 5:
        x = net.node("Reshape", x, shape=[0, -1], **in_place)
    else:
        x = net.node("Reshape", x, net.ints("flat", 0, -1))
    x = net.node("Gemm", x, net.weight("fc1.w", 96, 8), net.weight("fc1.b", 8), **legacy)
    x = net.node("Sigmoid", x, out="features", **in_place)
    x = net.node("Gemm", x, net.weight("fc2.w", 8, 4), net.weight("fc2.b", 4), **legacy)
    net.node("Softmax", x, out="y")
    model = net.model("y", shape=["N", 4])
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    return model


def thousand_way_split():
    """1,000 slices of a value, each through a node of its own, and joined again."""
    net = nw.Net()
    x = net.input("x", ["N", 8])
    x = net.node("MatMul", x, net.weight("wide", 8, 1000), out="before")
    slices = net.node("Split", x, out=[f"slice.{number}" for number in range(1000)], axis=1)
    ends = [
        net.node(("Relu", "Tanh")[n % 2], part, out=f"act.{n}") for n, part in enumerate(slices)
    ]
    x = net.node("Concat", *ends, axis=1, out="joined")
    net.node("Gemm", x, net.weight("fc.w", 1000, 3), net.weight("fc.b", 3), out="y")
    model = net.model("y", shape=["N", 3])
    split = next(node for node in model.graph.node if node.op_type == "Split")
    split.input.append("sizes")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1000, np.int64), "sizes"))
    return model


ODD = {
    builder.__name__: builder
    for builder in (
        unsorted_nodes, declared_rank_wrong, odd_names, same_names_in_subgraphs,
        tied_embedding_head, identity_chains, initializers_as_inputs, empty_optional_inputs,
        local_functions, sequence_output, thousand_way_split,
    )
}  # fmt: skip
ODD |= {f"opset_{version}": partial(old_opset, version) for version in range(1, 7)}
"""Eleven oddities and the twelfth, opsets 1 to 6, once for each."""


def write(folder):
    """Write every odd file into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in ODD.items():
        onnx.save(build(), folder / f"{name}.onnx")


if __name__ == "__main__":
    write(sys.argv[1])
