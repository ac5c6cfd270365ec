"""Every form files come in computes the same after normalization, and keeps what it carries."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from surgeon.errors import ModelError
from surgeon.graph.normalize import normalize
from surgeon.graph.weights import roles


def counts(model):
    return {change.what: change.count for change in normalize(model)[1]}


def check_same(model, inputs=None, *, batch=2):
    """Normalize; compare in ONNX Runtime; normalizing again changes nothing; give the result."""
    before = model.SerializeToString()
    normal, _ = normalize(model)
    assert model.SerializeToString() == before
    inputs = nw.feeds(model, batch) if inputs is None else inputs
    wanted, got = nw.run(model, inputs), nw.run(normal, inputs)
    assert list(wanted) == list(got)
    for name, value in wanted.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)
    again, changes = normalize(normal)
    assert again == normal
    assert changes == ()
    return normal


def names(model):
    return [tensor.name for tensor in model.graph.initializer]


def parse(text, opset=17, ir=8):
    return parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> {text}')


def constant(name, values):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, "inner"))


def to_constants(model, keep=()):
    """Turn initializers into Constant nodes in front of everything else."""
    nodes = []
    for tensor in list(model.graph.initializer):
        if tensor.name not in keep:
            nodes.append(constant(tensor.name, numpy_helper.to_array(tensor)))
            model.graph.initializer.remove(tensor)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model


@pytest.mark.parametrize("name", nw.ZOO)
def test_clean_models_stay_byte_for_byte(name):
    model = nw.ZOO[name]()
    normal = check_same(model)
    if name != "tied":
        assert normal.SerializeToString(deterministic=True) == model.SerializeToString(
            deterministic=True
        )


@pytest.mark.parametrize("position", ["front", "back"])
def test_initializers_as_inputs_are_hidden_wherever_they_are_listed(position):
    model = nw.convnet(opset=8, ir=3)
    data = list(model.graph.input)
    weights = [
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    ]
    del model.graph.input[:]
    model.graph.input.extend([*weights, *data] if position == "front" else [*data, *weights])
    normal = check_same(model)
    assert [value.name for value in normal.graph.input] == ["x"]
    assert counts(model)["initializer taken off the inputs"] == len(weights)
    assert normal.ir_version >= 4
    assert list(normal.graph.initializer) == list(model.graph.initializer)


def test_constants_become_initializers_in_weight_places_only():
    model = to_constants(nw.convnet())
    model.graph.node.insert(0, constant("scale", np.float32([1.0, 2.0, 3.0, 4.0])))
    model.graph.node.append(helper.make_node("Mul", ["y", "scale"], ["z"]))
    model.graph.output[0].name = "z"
    normal = check_same(model)
    assert set(names(normal)) == {
        "c1.weight", "c1.bias", "c2.weight", "c2.bias", "fc.weight", "fc.bias"
    }  # fmt: skip
    # A Constant of a plain Mul is no weight, so it stays a node.
    assert [n.output[0] for n in normal.graph.node if n.op_type == "Constant"] == ["scale"]


def test_a_constant_with_one_element_stays_a_node():
    model = nw.mlp()
    to_constants(model)
    model.graph.node.insert(0, constant("single", np.float32([2.0])))
    model.graph.node.append(helper.make_node("Add", ["y", "single"], ["z"]))
    model.graph.output[0].name = "z"
    assert "single" not in names(check_same(model))


def test_constants_behind_linear_operators_are_biases():
    model = to_constants(nw.matmul_add())
    assert set(names(check_same(model))) == {"w1", "b1", "w2", "b2"}


def test_constants_of_recurrent_embedding_and_normalization_places():
    assert {"w", "r", "b", "fc.w", "fc.b"} <= set(names(check_same(to_constants(nw.lstm()))))
    model = to_constants(nw.transformer())
    assert {"embed.weight", "final.scale", "final.bias", "layer.0.up"} <= set(
        names(check_same(model))
    )
    normal = check_same(to_constants(nw.batchnorm()))
    assert roles(normal)["l1.bn.mean"] == "statistics"
    assert roles(normal)["l1.bn.scale"] == "parameter"


def test_constant_given_as_floats():
    model = parse(
        "g (float[N,3] x) => (float[N,3] y) { b = Constant <value_floats=[1.0,2.0,3.0]> () "
        "m = MatMul(x, w) y = Add(m, b) }".replace("{", "<float[3,3] w = {1,2,3,4,5,6,7,8,9}> {", 1)
    )
    assert set(names(check_same(model))) == {"w", "b"}


def test_constant_of_shape_weights():
    model = parse(
        "g (float[N,3] x) => (float[N,4] y) "
        "<int64[2] s = {3, 4}, int64[1] t = {4}> "
        "{ w = ConstantOfShape <value: tensor = float[1] v {0.25}> (s) b = ConstantOfShape (t) "
        "y = Gemm(x, w, b) }"
    )
    normal = check_same(model)
    tensors = {t.name: t for t in normal.graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(tensors["w"]), np.full((3, 4), 0.25))
    np.testing.assert_array_equal(numpy_helper.to_array(tensors["b"]), np.zeros(4))
    assert roles(normal) == {"w": "parameter", "b": "parameter"}


def test_constant_of_shape_that_is_no_weight_stays():
    model = parse(
        "g (float[2,3] x) => (float[2,3] y) <int64[2] s = {2, 3}> "
        "{ m = ConstantOfShape <value: tensor = float[1] v {0.5}> (s) y = Mul(x, m) }"
    )
    assert [n.op_type for n in check_same(model).graph.node] == ["ConstantOfShape", "Mul"]


def test_identity_shared_weights_become_one_parameter():
    model = nw.tied()
    normal = check_same(model)
    assert names(normal).count("shared") == 1
    assert [n.input[1] for n in normal.graph.node if n.op_type == "MatMul"] == ["shared"] * 3


def test_identity_chain_of_a_weight_and_an_identity_that_is_an_output():
    model = parse(
        "g (float[N,2] x) => (float[N,2] y, float[2,2] out) <float[2,2] w = {1,2,3,4}> "
        "{ a = Identity(w) b = Identity(a) m = MatMul(x, b) n = MatMul(m, a) y = MatMul(n, w) "
        "out = Identity(b) }"
    )
    normal = check_same(model)
    assert [n.op_type for n in normal.graph.node].count("Identity") == 1
    assert normal.graph.node[-1].input[0] == "w"


def test_identity_of_a_constant_weight_is_shared_too():
    model = to_constants(nw.tied())
    normal = check_same(model)
    assert [n.input[1] for n in normal.graph.node if n.op_type == "MatMul"] == ["shared"] * 3
    assert roles(normal)["shared"] == "parameter"


@pytest.mark.parametrize(
    "name",
    ["a;b/c:0", "layer one", '{"k": "v.w"}', "model.0..weight", ".", "a/b.c.d", "ünï", "weight."],
)
def test_odd_names_stay(name):
    model = nw.convnet()
    mapping = {"c1.weight": name, "c2.bias": name + " 2"}
    for tensor in model.graph.initializer:
        tensor.name = mapping.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [mapping.get(item, item) for item in node.input]
    assert {name, name + " 2"} <= set(names(check_same(model)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("features", ["N", 8, 1, 1]), ("relu_1", [3]), ("y", ["N", 4, 1, 1]), ("y", [4])],
)
def test_wrong_declared_ranks_do_not_matter(name, shape):
    model = nw.convnet()
    wrong = helper.make_tensor_value_info(name, nw.F, shape)
    if name == "y":
        model.graph.output[0].CopyFrom(wrong)
    else:
        model.graph.value_info.append(wrong)
    normal = check_same(model)
    inputs = nw.feeds(model)
    np.testing.assert_array_equal(nw.run(normal, inputs)["y"], nw.run(nw.convnet(), inputs)["y"])


@pytest.mark.parametrize("name", ["residual", "transformer", "vit"])
def test_unsorted_nodes_are_sorted(name):
    model = nw.ZOO[name]()
    wanted = nw.run(model, nw.feeds(model))
    nodes = list(model.graph.node)[::-1]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    normal, changes = normalize(model)
    onnx.checker.check_model(normal)
    got = nw.run(normal, nw.feeds(normal))
    np.testing.assert_array_equal(got["y"], wanted["y"])
    assert "node moved into topological order" in {change.what for change in changes}


def test_unsorted_subgraph():
    model = branches()
    inner = model.graph.node[-1].attribute[0].g
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in list(inner.node)[::-1]]
    del inner.node[:]
    inner.node.extend(nodes)
    normal, _ = normalize(model)
    for flag in (True, False):
        inputs = {**nw.feeds(model), "flag": np.array(flag)}
        np.testing.assert_array_equal(nw.run(normal, inputs)["y"], nw.run(branches(), inputs)["y"])


@pytest.mark.parametrize("opset", range(1, 9))
def test_old_opsets(opset):
    net = nw.Net(opset=opset, ir=3)
    x = net.input("x", ["N", 2, 4, 4])
    x = nw.conv(net, x, "c", 4, 2, bias=False)
    x = net.node("Relu", x)
    x = net.node("GlobalAveragePool", x)
    x = net.node("Flatten", x)
    more = {"broadcast": 1} if opset < 7 else {}
    net.node("Gemm", x, net.weight("w", 4, 3), net.weight("b", 3), out="y", **more)
    model = net.model("y", shape=["N", 3])
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    normal = check_same(model) if opset >= 7 else normalize(model)[0]
    assert [item.version for item in normal.opset_import] == [opset]
    assert list(normal.graph.node) == list(model.graph.node)
    assert [value.name for value in normal.graph.input] == ["x"]


def branches(*, clash=False):
    """An If whose branches hold weights of one name as initializer, Constant, or captured."""
    then = (
        "then () => (float[N,3] t) <float[2,3] w = {1,2,3,4,5,6}, float[3] b = {1,1,1}> "
        "{ m = MatMul(x, w) t = Add(m, b) }"
    )
    other = (
        "other () => (float[N,3] o) <float[2,3] w = {6,5,4,3,2,1}> "
        "{ c = Constant <value = float[3] {3,2,1}> () k = MatMul(x, w) o = Add(k, c) }"
    )
    top = "<float[2,2] w = {1,0,0,1}>" if clash else ""
    first = "h = MatMul(z, w)" if clash else "h = Identity(z)"
    return parse(
        f"g (float[N,2] z, bool flag) => (float[N,3] y) {top} "
        f"{{ {first} x = Relu(h) y = If (flag) <then_branch = {then}, else_branch = {other}> }}"
    )


@pytest.mark.parametrize("clash", [False, True])
def test_weights_in_subgraphs_are_lifted_under_their_own_name(clash):
    model = branches(clash=clash)
    normal, _ = normalize(model)
    assert normalize(normal)[0] == normal
    for flag in (True, False):
        inputs = {**nw.feeds(model), "flag": np.array(flag)}
        np.testing.assert_array_equal(nw.run(normal, inputs)["y"], nw.run(model, inputs)["y"])
    own = {"b", "c", "y/else_branch/w"}
    own |= {"w", "y/then_branch/w"} if clash else {"w"}
    assert set(names(normal)) == own
    assert set(roles(normal).values()) == {"parameter"}


def test_a_lifted_name_that_a_sibling_makes_is_told_apart():
    """One branch's initializer is called like a value the other branch computes."""
    then = "then () => (float[N,2] t) <float[2,2] v = {1,2,3,4}> { t = MatMul(x, v) }"
    other = "other () => (float[N,2] o) { v = Relu(x) o = Neg(v) }"
    model = parse(
        "g (float[N,2] x, bool flag) => (float[N,2] y) "
        f"{{ y = If (flag) <then_branch = {then}, else_branch = {other}> }}"
    )
    normal, _ = normalize(model)
    onnx.checker.check_model(normal)
    for flag in (True, False):
        inputs = {**nw.feeds(model), "flag": np.array(flag)}
        np.testing.assert_array_equal(nw.run(normal, inputs)["y"], nw.run(model, inputs)["y"])


def test_loop_bodies_and_nested_branches():
    inner = "inner () => (float[N,2] i) <float[2,2] w = {0,1,1,0}> { i = MatMul(state, w) }"
    skip = "skip () => (float[N,2] s) { s = Identity(state) }"
    body = (
        "body (int64 n, bool go, float[N,2] state) => (bool on, float[N,2] out) "
        "<float[2,2] w = {1,2,3,4}> "
        "{ on = Identity(go) zero = Constant <value_int = 0> () first = Equal(n, zero) "
        f"j = If (first) <then_branch = {inner}, else_branch = {skip}> out = MatMul(j, w) }}"
    )
    model = parse(
        "g (float[N,2] x) => (float[N,2] y) <int64 trips = {3}, bool yes = {1}> "
        f"{{ y = Loop (trips, yes, x) <body = {body}> }}"
    )
    normal = check_same(model)
    assert {"w", "y/body/w"} <= set(names(normal)) or {"w", "j/then_branch/w"} <= set(names(normal))
    assert list(roles(normal).values()).count("parameter") == 2


def test_local_functions_are_inlined():
    function = helper.make_function(
        "mine", "Block", ["a", "w"], ["b"],
        [helper.make_node("MatMul", ["a", "w"], ["m"]), helper.make_node("Relu", ["m"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    net = nw.Net()
    x = net.input("x", ["N", 4])
    x = net.node("Block", x, net.weight("w1", 4, 4), domain="mine")
    net.node("Block", x, net.weight("w2", 4, 3), out="y", domain="mine")
    model = net.model("y", shape=["N", 3], functions=[function])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.metadata_props.add(key="licence", value="MIT")
    normal = check_same(model)
    assert not normal.functions
    assert [n.op_type for n in normal.graph.node] == ["MatMul", "Relu"] * 2
    assert list(normal.graph.initializer) == list(model.graph.initializer)
    assert normal.metadata_props == model.metadata_props


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers_are_made_dense(flat):
    dense = np.zeros((4, 3), np.float32)
    dense[1, 2], dense[3, 0] = 2.0, -1.0
    indices = np.flatnonzero(dense) if flat else np.argwhere(dense)
    values = dense.reshape(-1)[np.flatnonzero(dense)]
    sparse = onnx.SparseTensorProto(dims=dense.shape)
    sparse.values.CopyFrom(numpy_helper.from_array(values, "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(indices.astype(np.int64), "indices"))
    net = nw.Net()
    x = net.input("x", ["N", 4])
    net.nodes.append(helper.make_node("MatMul", [x, "w"], ["y"]))
    model = net.model("y", shape=["N", 3])
    model.graph.sparse_initializer.append(sparse)
    normal = check_same(model)
    np.testing.assert_array_equal(numpy_helper.to_array(normal.graph.initializer[0]), dense)
    assert roles(normal) == {"w": "parameter"}


def test_empty_optional_inputs_stay_empty():
    model = parse(
        "g (float[N,3] x) => (float[N,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9}, float top = {4}> "
        '{ m = MatMul(x, w) y = Clip(m, "", top) }'
    )
    normal = check_same(model)
    assert list(normal.graph.node[1].input) == ["m", "", "top"]
    assert roles(normal) == {"w": "parameter", "top": "setting"}


def test_equal_initializers_under_two_names_stay_two():
    model = nw.matmul_add()
    twin = TensorProto()
    twin.CopyFrom(model.graph.initializer[0])
    twin.name = "twin"
    model.graph.initializer.append(twin)
    assert "twin" in names(check_same(model))


def test_untouched_initializers_keep_their_storage():
    model = nw.mlp()
    plain = helper.make_tensor("plain", nw.F, [8], [float(i) for i in range(8)])
    half = helper.make_tensor("half", TensorProto.FLOAT16, [3], [1.0, 2.0, 3.0])
    text = helper.make_tensor("text", TensorProto.STRING, [2], [b"a", b"\xff"])
    packed = helper.make_tensor("packed", TensorProto.INT4, [3], [1, -2, 3])
    empty = helper.make_tensor("empty", nw.F, [0], [])
    plain.doc_string = "kept"
    model.graph.initializer.extend([plain, half, text, packed, empty])
    normal = check_same(model)
    assert list(normal.graph.initializer) == list(model.graph.initializer)


def test_the_envelope_survives():
    model = to_constants(nw.tied())
    model.producer_name, model.producer_version = "mine", "3"
    model.domain, model.model_version, model.doc_string = "org.mine", 42, "what it is"
    model.metadata_props.add(key="licence", value="MIT")
    model.metadata_props.add(key="names", value='["a", "b", "c"]')
    graph = model.graph
    graph.doc_string, graph.name = "about the graph", "my net"
    graph.metadata_props.add(key="graph", value="entry")
    graph.node[-1].doc_string = "the last node"
    graph.node[-1].metadata_props.add(key="node", value="entry")
    graph.input[0].doc_string = "the input"
    graph.initializer.append(numpy_helper.from_array(np.float32([1, 2, 3]), "unused"))
    annotation = graph.quantization_annotation.add(tensor_name="features")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="unused")
    normal = check_same(model)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(normal, field) == getattr(model, field)
    assert list(normal.metadata_props) == list(model.metadata_props)
    assert normal.opset_import == model.opset_import
    assert normal.graph.doc_string == "about the graph"
    assert normal.graph.name == "my net"
    assert list(normal.graph.metadata_props) == list(graph.metadata_props)
    assert normal.graph.node[-1] == graph.node[-1]
    assert list(normal.graph.input) == list(graph.input)
    assert list(normal.graph.quantization_annotation) == list(graph.quantization_annotation)
    assert "unused" in names(normal)


def test_a_cycle_and_a_value_nobody_makes_are_named():
    model = parse("g (float[2] x) => (float[2] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }")
    with pytest.raises(ModelError, match="cycle"):
        normalize(model)
    model = parse("g (float[2] x) => (float[2] y) { y = Add(x, absent) }")
    with pytest.raises(ModelError) as caught:
        normalize(model)
    assert "absent" in str(caught.value)


def test_node_outputs_left_empty():
    model = parse(
        "g (float[N,4] x) => (float[N,2] y) <int64[1] k = {2}> "
        '{ y, "" = TopK(x, k) a, "" = TopK(y, k) }'
    )
    normal, _ = normalize(model)
    assert isinstance(normal, ModelProto)
    assert len(normal.graph.node) == 2
