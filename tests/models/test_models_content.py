"""The content hashes see what computes, and nothing else."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from surgeon_models import content


@pytest.fixture
def model():
    float_type = onnx.TensorProto.FLOAT
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "weight")
    node = helper.make_node("Gemm", ["x", "weight"], ["y"], name="gemm", alpha=1.0)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", float_type, ["batch", 2])],
        [helper.make_tensor_value_info("y", float_type, ["batch", 3])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def measure(model, path, **options):
    onnx.save(model, path, **options)
    return content.weights_sha256(path), content.structure_sha256(path)


def test_metadata_is_stripped_and_does_not_count(model, tmp_path):
    before = measure(model, tmp_path / "a.onnx")
    node = model.graph.node[0]
    node.doc_string = "/made/elsewhere/model.py"
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/made/elsewhere/model.py:3")
    model.graph.doc_string = model.doc_string = "/made/elsewhere"
    assert measure(model, tmp_path / "b.onnx") == before
    content.strip(model)
    assert b"/made/elsewhere" not in model.SerializeToString()


def test_metadata_inside_subgraphs_is_stripped(model):
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "branch", [], [])
    branch.node[0].doc_string = "/made/elsewhere/model.py"
    model.graph.node.append(
        helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch)
    )
    content.strip(model)
    assert b"/made/elsewhere" not in model.SerializeToString()


def test_external_data_is_the_same_content(model, tmp_path):
    before = measure(model, tmp_path / "a.onnx")
    assert (
        before[0]
        == measure(
            model, tmp_path / "b.onnx", save_as_external_data=True, location="w", size_threshold=0
        )[0]
    )


def test_weights_count_by_value_not_by_name(model, tmp_path):
    weights, structure = measure(model, tmp_path / "a.onnx")
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "other"
    renamed = measure(model, tmp_path / "b.onnx")
    assert renamed[0] == weights
    assert renamed[1] != structure


def test_one_changed_bit_changes_the_weights(model, tmp_path):
    weights, structure = measure(model, tmp_path / "a.onnx")
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0] = np.nextafter(values[0, 0], np.float32(1))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "weight"))
    changed = measure(model, tmp_path / "b.onnx")
    assert changed[0] != weights
    assert changed[1] == structure


def test_an_attribute_changes_the_structure(model, tmp_path):
    weights, structure = measure(model, tmp_path / "a.onnx")
    model.graph.node[0].attribute[0].f = 2.0
    changed = measure(model, tmp_path / "b.onnx")
    assert changed[0] == weights
    assert changed[1] != structure


def test_eight_bit_weights_count_and_their_scales_do_not(model, tmp_path):
    before = measure(model, tmp_path / "a.onnx")[0]
    node = helper.make_node("DequantizeLinear", ["q", "scales"], ["w"], axis=0)
    model.graph.node.append(node)
    for name, array in {
        "q": np.arange(4, dtype=np.int8).reshape(2, 2),
        "scales": np.array([0.5, 0.25], np.float32),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    quantised = measure(model, tmp_path / "b.onnx")[0]
    assert quantised != before
    other = numpy_helper.from_array(np.array([0.5, 0.26], np.float32), "scales")
    model.graph.initializer[2].CopyFrom(other)
    assert measure(model, tmp_path / "c.onnx")[0] == quantised
    changed = numpy_helper.from_array(np.array([[0, 1], [2, 4]], np.int8), "q")
    model.graph.initializer[1].CopyFrom(changed)
    assert measure(model, tmp_path / "d.onnx")[0] != quantised
