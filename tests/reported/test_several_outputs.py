"""Of several outputs the deepest head counts, another by name; old class names go."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon import operation
from surgeon.errors import UnknownNameError

NODE = helper.make_node
RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 3, 6, 6)).astype("f4")
DATA = {"x": X, "labels": np.array(["c0", "c1", "c2"] * 8)}


def weight(name, *shape):
    return numpy_helper.from_array(RNG.standard_normal(shape).astype("f4") / 4, name)


def conv(x, w, y):
    return NODE("Conv", [x, w], [y], pads=[1, 1, 1, 1])


def head(x, name):
    return [
        NODE("GlobalAveragePool", [x], [f"{name}.pool"]),
        NODE("Flatten", [f"{name}.pool"], [f"{name}.flat"]),
        NODE("Gemm", [f"{name}.flat", f"{name}.w", f"{name}.b"], [name], transB=1),
    ]


def build(nodes, outputs, weights, metadata=None):
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in outputs]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 6, 6])
    graph = helper.make_graph(nodes, "g", [x], infos, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


def with_auxiliary(order, activated=None):
    nodes = [
        conv("x", "w1", "a1"),
        *head("a1", "aux"),
        conv("a1", "w2", "a2"),
        *head("a2", "main"),
    ]
    names = list(order)
    if activated:
        nodes.append(NODE("Softmax", [activated], ["p"], axis=1))
        names[names.index(activated)] = "p"
    weights = [weight("w1", 8, 3, 3, 3), weight("w2", 8, 8, 3, 3)]
    weights += [
        weight(f"{n}.{v}", *s) for n in ("aux", "main") for v, s in (("w", (5, 8)), ("b", (5,)))
    ]
    return build(nodes, [(name, 5) for name in names], weights)


@pytest.mark.parametrize("order", [("aux", "main"), ("main", "aux")])
@pytest.mark.parametrize("activated", [None, "aux", "main"])
def test_the_deepest_head_counts_and_is_named(order, activated):
    model = with_auxiliary(order, activated)
    patient = surgeon.operate(model, case="small-similar", classes=3)
    assert patient.plan.cut == "main.flat"
    main = "p" if activated == "main" else "main"
    assert any(f"{main} counts" in note for note in patient.notes)
    assert operation.cuts(model)["output"] == main
    assert any(f"{main} counts" in note for note in operation.inspect(model)["warnings"])


def test_an_output_is_chosen_by_name_in_every_verb(tmp_path):
    model = with_auxiliary(("aux", "main"))
    patient = surgeon.operate(model, case="small-similar", classes=3, output="aux")
    assert patient.plan.cut == "aux.flat"
    assert patient.plan.dropped_outputs == ("main",)
    assert operation.cuts(model, output="aux")["late"] == "aux.flat"
    assert operation.inspect(model, output="aux")["head"]["input"] == "aux.flat"
    assert operation.check(model, case="small-similar", output="aux")["ok"]
    assert surgeon.advise(model, DATA, output="aux").plan.cut is not None
    done = surgeon.finetune(
        model, DATA, tmp_path / "o.onnx", case="small-similar", output="aux", threads=1
    )
    assert done.document()["plan"]["cut"] == "aux.flat"
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name in ("aux", "main"):
        raw = session.run([name], {"x": X})[0]
        found = surgeon.predict(model, {"x": X}, output=name).probabilities
        np.testing.assert_array_equal(found.argmax(1), raw.argmax(1))


@pytest.mark.parametrize("verb", ["operate", "cuts", "inspect", "check", "predict", "evaluate"])
def test_an_unknown_output_names_those_there_are(verb):
    model = with_auxiliary(("aux", "main"))
    given = {"operate": ("small-similar", 3), "predict": (DATA,), "evaluate": (DATA,)}.get(verb, ())
    with pytest.raises(UnknownNameError, match="main"):
        getattr(operation, verb)(model, *given, output="mian")


def one_head(metadata):
    nodes = [conv("x", "w1", "a1"), *head("a1", "y"), NODE("Softmax", ["y"], ["prob"], axis=1)]
    weights = [weight("w1", 8, 3, 3, 3), weight("y.w", 2, 8), weight("y.b", 2)]
    return build(nodes, [("prob", 2)], weights, metadata)


FORMS = {
    "names": ("{0: 'tench', 1: 'goldfish'}", "{0: 'c0', 1: 'c1', 2: 'c2'}"),
    "labels": ('["tench", "goldfish"]', '["c0", "c1", "c2"]'),
    "classes": ("['tench', 'goldfish']", "['c0', 'c1', 'c2']"),
    "id2label": ('{"0": "tench", "1": "goldfish"}', '{"0": "c0", "1": "c1", "2": "c2"}'),
    "label2id": ('{"tench": 0, "goldfish": 1}', '{"c0": 0, "c1": 1, "c2": 2}'),
    "class_names": ("tench,goldfish", "c0,c1,c2"),
    "label_names": ("tench\ngoldfish", "c0\nc1\nc2"),
    "nc": ("2", "3"),
}


def test_what_the_old_file_said_of_its_classes_is_replaced_and_said(tmp_path):
    old = {key: before for key, (before, _) in FORMS.items()}
    model = one_head(old | {"licence": "MIT", "task": "classify"})
    done = surgeon.finetune(model, DATA, tmp_path / "o.onnx", case="small-similar", threads=1)
    left = {entry.key: entry.value for entry in onnx.load(tmp_path / "o.onnx").metadata_props}
    assert {key: left[key] for key in FORMS} == {key: after for key, (_, after) in FORMS.items()}
    assert left["licence"] == "MIT"
    assert json.loads(left["surgeon.labels"]) == ["c0", "c1", "c2"]
    told = " ".join(done.document()["warnings"])
    for word in (*FORMS, "Softmax", "logits", "prob"):
        assert word in told
    assert surgeon.verify(tmp_path / "o.onnx").passed


def test_names_in_an_unknown_form_are_removed_and_said(tmp_path):
    model = one_head({"names": "<tench><goldfish>"})
    done = surgeon.finetune(model, DATA, tmp_path / "o.onnx", case="small-similar", threads=1)
    left = {entry.key for entry in onnx.load(tmp_path / "o.onnx").metadata_props}
    assert "names" not in left
    assert any("'names'" in note for note in done.document()["warnings"])
