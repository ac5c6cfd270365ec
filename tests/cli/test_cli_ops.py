"""`surgeon ops`: which operators convert, of all there are or of one model."""

from __future__ import annotations

import json

import jsonschema
import onnx
import pytest
from onnx import TensorProto, helper

from surgeon import schemas


def asked(run, *arguments):
    done = run("ops", *arguments, "--json")
    document = json.loads(done.out)
    jsonschema.Draft202012Validator(schemas.load("ops")).validate(document)
    return done.code, document


@pytest.fixture
def strange(tmp_path):
    """A model with a native operator, one with a function body, and one nobody knows."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 3]) for n in "xy")
    branch = helper.make_graph(
        [helper.make_node("Thing", ["x"], ["b"], domain="org.example")],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 3])],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("ReduceMax", ["r"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "m"], ["g"]),
        helper.make_node("If", ["g"], ["y"], then_branch=branch, else_branch=branch),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 3)]
    path = tmp_path / "strange.onnx"
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets), path
    )
    return path


def test_all_operators_are_listed(run, plugins):
    code, document = asked(run)
    assert code == 0
    found = {(o["domain"], o["operator"], o["version"]): o for o in document["operators"]}
    gemm = found["ai.onnx", "Gemm", 13]
    assert (gemm["status"], gemm["file"], gemm["nodes"]) == (
        "native",
        "surgeon/ops/linear.py",
        None,
    )
    assert gemm["line"] > 1
    assert ("com.microsoft", "FusedConv", 0) in found
    assert document["counts"]["missing"] == 0
    assert sum(document["counts"].values()) == len(document["operators"])


def test_of_a_model_only_its_own_with_the_number_of_nodes(run, plugins, strange):
    code, document = asked(run, strange)
    assert code == 1
    rows = {o["operator"]: (o["version"], o["status"], o["nodes"]) for o in document["operators"]}
    assert rows == {
        "Relu": (14, "native", 2),
        "ReduceMax": (13, "native", 1),
        "Greater": (13, "native", 1),
        "If": (16, "native", 1),
        "Thing": (3, "missing", 2),
    }


def test_missing_alone(run, plugins, strange):
    code, document = asked(run, "--missing", strange)
    assert code == 1
    assert [o["operator"] for o in document["operators"]] == ["Thing"]
    assert document["counts"] == {"native": 4, "function": 0, "missing": 1}
    assert asked(run, "--missing")[1]["operators"] == []


def test_people_read_a_table(run, plugins, strange):
    page = run("ops", strange).out
    assert "org.example::Thing" in page
    assert page.endswith("4 native, 0 by their definition, 1 missing\n")
    assert "linear.py:" in run("ops").out


def test_operators_of_a_plugin_count(run, plugins, strange, monkeypatch, tmp_path):
    from surgeon.ops import registry
    from surgeon.plugin import hookimpl, manager

    monkeypatch.setattr(registry, "_declared", dict(registry._declared))
    registry.lookup.cache_clear()
    (tmp_path / "their_operators.py").write_text(
        "from surgeon.ops.registry import op\n"
        "@op('Thing', domain='org.example')\n"
        "def thing(x):\n    return 2 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    class Theirs:
        @hookimpl
        def surgeon_ops(self):
            return ["their_operators:thing"]

    loading = manager.load_plugins

    def with_theirs(**settings):
        found = loading(**settings)
        found.manager.register(Theirs(), name="theirs")
        return found

    monkeypatch.setattr(manager, "load_plugins", with_theirs)
    code, document = asked(run, strange)
    thing = next(o for o in document["operators"] if o["operator"] == "Thing")
    assert (code, thing["status"]) == (0, "native")
    assert thing["file"].endswith("their_operators.py")
    registry.lookup.cache_clear()
