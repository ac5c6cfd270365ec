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


def change(model, place, value):
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values.reshape(-1)[place] = value
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "weight"))


def test_metadata_is_stripped_and_does_not_count(model):
    before = content.structure_sha256(model)
    node = model.graph.node[0]
    node.doc_string = "/made/elsewhere/model.py"
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/made/elsewhere/model.py:3")
    model.graph.doc_string = model.doc_string = "/made/elsewhere"
    assert content.structure_sha256(model) == before
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
    structure, samples = content.structure_sha256(model), content.sample_weights(model)
    onnx.save(
        model, tmp_path / "b.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    again = onnx.load(tmp_path / "b.onnx")
    assert content.structure_sha256(again) == structure
    assert not content.compare_weights(again, samples)


def test_names_that_connect_do_not_count_and_those_of_inputs_do(model):
    structure, samples = content.structure_sha256(model), content.sample_weights(model)
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "other"
    assert content.structure_sha256(model) == structure
    assert not content.compare_weights(model, samples)
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"
    assert content.structure_sha256(model) != structure


def test_attributes_opsets_and_declared_sizes_are_structure(model):
    structure = content.structure_sha256(model)
    for change_it in (
        lambda each: setattr(each.graph.node[0].attribute[0], "f", 2.0),
        lambda each: setattr(each.opset_import[0], "version", 14),
        lambda each: each.graph.initializer[0].dims.__setitem__(1, 4),
        lambda each: each.graph.initializer[0].__setattr__("data_type", onnx.TensorProto.DOUBLE),
    ):
        other = onnx.ModelProto()
        other.CopyFrom(model)
        change_it(other)
        assert content.structure_sha256(other) != structure


def test_weights_are_numbers_up_to_what_processors_differ_by(model):
    structure, samples = content.structure_sha256(model), content.sample_weights(model)
    assert len(samples) == content.count_samples(model) == 2
    change(model, 2, np.float32(2 * (1 + 1e-6)))
    assert not content.compare_weights(model, samples)
    change(model, 2, np.float32(2.01))
    assert "weight[2]" in content.compare_weights(model, samples)
    change(model, 2, np.float32(np.nan))
    assert content.compare_weights(model, samples)
    assert content.structure_sha256(model) == structure


def test_eight_bits_may_round_the_other_way(model):
    node = helper.make_node("DequantizeLinear", ["q", "scales"], ["w"], axis=0)
    model.graph.node.append(node)
    model.graph.initializer.append(
        numpy_helper.from_array(np.arange(4, dtype=np.int8).reshape(2, 2), "q")
    )
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([0.5, 0.25], np.float32), "scales")
    )
    samples = content.sample_weights(model)
    for values, same in (([[0, 2], [3, 3]], True), ([[0, 3], [2, 3]], False)):
        model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(values, np.int8), "q"))
        assert (not content.compare_weights(model, samples)) == same


def test_another_number_of_weights_is_another_model(model):
    samples = content.sample_weights(model)
    assert content.compare_weights(model, [*samples, 1.0, 2.0])
