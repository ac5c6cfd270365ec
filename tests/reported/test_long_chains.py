"""Conditions behind long chains of nodes, and many of them: no recursion, and one sweep."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.graph import fold
from surgeon.graph.walk import producers
from surgeon.runtime.observe import observe_shapes
from surgeon.runtime.sessions import Session, open_session

F, node = TensorProto.FLOAT, helper.make_node
DEEP = 1500


def value(name, shape=None, kind=F):
    return helper.make_tensor_value_info(name, kind, shape)


def branches(read, name):
    """Return the two branches of an If; both use the same names inside."""
    inner = [node("Neg", [read], ["inside"]), node("Relu", ["inside"], ["then"])]
    yes = helper.make_graph(inner, f"{name}.yes", [], [value("then")])
    other = [node("Tanh", [read], ["inside"])]
    no = helper.make_graph(other, f"{name}.no", [], [value("inside")])
    return {"then_branch": yes, "else_branch": no}


def model(nodes, last, length="time"):
    constants = {"one": np.array(1), "large": np.array(1000), "small": np.array(2)}
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    weights.append(numpy_helper.from_array(np.ones((8, 3), np.float32), "w"))
    nodes = [*nodes, node("MatMul", [last, "w"], ["y"])]
    inputs, outputs = [value("x", ["batch", length, 8])], [value("y", ["batch", length, 3])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conditions(read, name, than="large"):
    return [
        node("Shape", [read], [f"{name}.shape"]),
        node("Gather", [f"{name}.shape", "one"], [f"{name}.length"], axis=0),
        node("Greater", [f"{name}.length", than], [f"{name}.if"]),
        node("If", [f"{name}.if"], [name], **branches(read, name)),
    ]


def chained(nodes=DEEP):
    names = ["x", *(f"v{place}" for place in range(nodes))]
    chain = [node("Tanh", [a], [b]) for a, b in pairwise(names)]
    return [*chain, *conditions(names[-1], "o")]


@pytest.mark.parametrize("length", ["time", 16])
def test_a_condition_behind_a_long_chain_is_looked_at(length):
    loaded = surgeon.load(model(chained(), "o", length))
    assert fold.bind(loaded.proto, {})[0].graph.node[-2].op_type == "If"
    assert len(loaded.cuts()) > DEEP


def many(count, length):
    nodes, last = [], "x"
    for place in range(count):
        # The shape of the graph's own input decides each of them where it is a number.
        made = conditions("x", f"o{place}", "large" if place % 2 else "small")
        nodes += [*made, node("Add", [last, f"o{place}"], [f"s{place}"])]
        last = f"s{place}"
    return model(nodes, last, length)


def test_many_decided_branches_take_their_places_in_one_sweep():
    proto = many(6, 16)
    x = np.linspace(-1, 1, 2 * 16 * 8, dtype=np.float32).reshape(2, 16, 8)
    wanted = surgeon.load(many(6, "time")).proto  # undecided: each If is left as it is
    loaded = surgeon.load(proto)
    assert sum(change.count for change in loaded.changes if "If" in change.what) == 6
    folded = loaded.proto
    assert not [n for n in folded.graph.node if n.op_type in ("If", "Greater", "Shape")]
    assert len(producers(folded.graph)) == len(folded.graph.node)
    (a,) = open_session(folded, device="cpu").run({"x": x})
    (b,) = open_session(wanted, device="cpu").run({"x": x})
    np.testing.assert_array_equal(a, b)


def test_looking_at_conditions_costs_by_nodes_and_not_by_nodes_times_conditions(monkeypatch):
    looked = []
    original = fold.subgraphs
    monkeypatch.setattr(fold, "subgraphs", lambda node: looked.append(node.name) or original(node))

    def counted(count):
        nodes, last = [], "x"
        for place in range(count):
            nodes += [*conditions(last, f"o{place}"), node("Tanh", [f"o{place}"], [f"t{place}"])]
            nodes.append(node("Add", [f"t{place}", "x"], [f"s{place}"]))
            last = f"s{place}"
        loaded = surgeon.load(model(nodes, last))
        looked.clear()
        fold.bind(loaded.proto, {})
        return len(looked)

    few = counted(10)
    assert counted(40) <= 5 * few


def test_shapes_are_seen_without_keeping_values(monkeypatch):
    given = []
    original = Session.run

    def run(self, *arguments):
        found = original(self, *arguments)
        given.append(sum(value.nbytes for value in found))
        return found

    monkeypatch.setattr(Session, "run", run)
    proto = surgeon.load(chained_model := model(chained(50), "o")).proto
    seen = observe_shapes(proto, {"x": (3, 64, 8)})
    assert seen["v49"] == (F, (3, 64, 8))
    assert seen["o"] == (F, (3, 64, 8))
    assert seen["o.shape"] == (TensorProto.INT64, (3,))
    assert seen["o.if"] == (TensorProto.BOOL, ())
    assert max(given) < 8 * 3 * len(chained_model.graph.node)


@pytest.mark.parametrize("dims", [["batch", 512], ["batch", "samples"], [1, 512]])
def test_a_spectrum_of_plain_samples_can_be_cut_and_operated_on(dims):
    constants = {"step": np.array(64), "length": np.array(128), "last": np.array([-1])}
    constants |= {"window": np.hanning(128).astype(np.float32), "time": np.array([1])}
    constants |= {"w": np.ones((65, 8), np.float32), "c": np.ones((8, 3), np.float32)}
    nodes = [
        node("STFT", ["x", "step", "window", "length"], ["spectrum"], onesided=1),
        node("ReduceSumSquare", ["spectrum", "last"], ["power"], keepdims=0),
        node("MatMul", ["power", "w"], ["features"]),
        node("ReduceMean", ["features", "time"], ["pooled"], keepdims=0),
        node("MatMul", ["pooled", "c"], ["y"]),
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [value("x", dims)], [value("y", [dims[0], 3])], weights)
    opset = helper.make_opsetid("", 18)
    loaded = surgeon.load(helper.make_model(graph, opset_imports=[opset], ir_version=8))
    found = {cut.tensor: cut.shape[-1] for cut in loaded.cuts()}
    assert found == {"spectrum": 2, "power": 65, "features": 8, "pooled": 8}
    for case in ("small-similar", "small-different"):
        assert surgeon.operate(loaded, case=case, classes=4).proto.graph.output[0].name == "logits"
