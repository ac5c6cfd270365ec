"""Damaged and hostile files: every verb works or refuses, by the name of what is wrong."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import surgeon
from surgeon import operation
from surgeon.errors import ModelError, SurgeonError

if TYPE_CHECKING:
    from collections.abc import Callable

OPSETS = [helper.make_opsetid("", 17)]
LOCAL = [*OPSETS, helper.make_opsetid("loc", 1)]


def network(
    before: list[Any] = [],  # noqa: B006 - read only
    weights: list[TensorProto] = [],  # noqa: B006 - read only
    functions: list[Any] = [],  # noqa: B006 - read only
    first: str = "x",
) -> ModelProto:
    """Relu and Gemm, with nodes in front."""
    w = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    b = numpy_helper.from_array(np.zeros(3, np.float32), "b")
    nodes = [
        *before,
        helper.make_node("Relu", [first], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w", "b"], ["y"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 4])],
        [helper.make_tensor_value_info("y", 1, ["N", 3])],
        [w, b, *weights],
    )
    opsets = LOCAL if functions else OPSETS
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def changed(change: Callable[[ModelProto], object], **given: Any) -> ModelProto:
    model = network(**given)
    change(model)
    return model


def bias(**fields: Any) -> ModelProto:
    """The network with fields of its bias set."""
    model = network()
    tensor = model.graph.initializer[1]
    for name, value in fields.items():
        if name == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, name, value)
    return model


def sparse(indices: list[int], dims: list[int]) -> ModelProto:
    model = network()
    entry = model.graph.sparse_initializer.add(dims=dims)
    entry.values.CopyFrom(helper.make_tensor("sp", 1, [2], [1.0, 1.0]))
    entry.indices.CopyFrom(helper.make_tensor("", 7, [2], indices))
    return model


def external(location: str, **entries: str) -> ModelProto:
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model


def function(name: str, *calls: tuple[str, str, str]) -> Any:
    nodes = [helper.make_node(op, [a], [b], domain="loc") for op, a, b in calls]
    return helper.make_function("loc", name, ["a"], ["b"], nodes, LOCAL)


def called(*functions: Any) -> ModelProto:
    node = helper.make_node(functions[0].name, ["x"], ["f"], domain="loc")
    return network([node], functions=list(functions), first="f")


def large(op: str, *inputs: str) -> ModelProto:
    nodes = [
        helper.make_node(op, list(inputs), ["big"]),
        helper.make_node("ReduceMax", ["big"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["xx"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([2**15, 2**14], np.int64), "s"),
        numpy_helper.from_array(np.float32(1), "one"),
    ]
    return network(nodes, weights, first="xx")


def garbled(old: bytes, new: bytes) -> bytes:
    return network().SerializeToString().replace(old, new)


UNFOLDING = [function(f"E{i}", (f"E{i + 1}", "a", "c"), (f"E{i + 1}", "c", "b")) for i in range(30)]

REFUSED: dict[str, tuple[ModelProto | bytes, str]] = {
    "too few bytes": (
        changed(lambda m: setattr(m.graph.initializer[0], "raw_data", b"\0" * 47)), "'w'"),
    "too many bytes": (
        changed(lambda m: setattr(m.graph.initializer[0], "raw_data", b"\0" * 49)), "'w'"),
    "a huge dimension": (bias(dims=[2**31 - 1]), "'b'"),
    "a negative dimension": (bias(dims=[-1]), "'b'"),
    "no element type": (bias(data_type=0), "'b'"),
    "an unknown element type": (bias(data_type=99), "'b'"),
    "a sparse tensor of petabytes": (sparse([0, 1], [2**40, 2]), "'sp'"),
    "a sparse tensor of gigabytes": (sparse([0, 1], [2**30 + 2**28, 1]), "'sp'"),
    "a sparse index outside": (sparse([0, 99], [2, 2]), "'sp'"),
    "a negative sparse dimension": (sparse([0, 1], [-1, 2]), "'sp'"),
    "a function that calls itself": (called(function("F", ("F", "a", "b"))), "F"),
    "functions without end": (called(*UNFOLDING, function("E30", ("E29", "a", "b"))), "E0"),
    "functions that double": (
        called(*UNFOLDING, helper.make_function(
            "loc", "E30", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], LOCAL)),
        "functions"),
    "a name that is no text": (garbled(b"relu", b"rel\xff"), "node 0"),
    "an operator that is no text": (garbled(b"Relu", b"Rel\xff"), "node 0"),
    "a value that is no text": (garbled(b"\x12\x01r", b"\x12\x01\xff"), "node 0"),
    "a value of two gigabytes": (large("ConstantOfShape", "s"), "'big'"),
    "a value expanded to gigabytes": (large("Expand", "one", "s"), "'big'"),
    "a cycle": (changed(lambda m: m.graph.node[0].input.__setitem__(0, "y")), "relu"),
    "a loop": (changed(lambda m: m.graph.node[0].input.__setitem__(0, "r")), "relu"),
    "a value made twice": (changed(lambda m: m.graph.node[1].output.__setitem__(0, "r")), "fc"),
    "an input of terabytes": (
        changed(lambda m: setattr(
            m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**40)), "'x'"),
    "opset 0": (changed(lambda m: setattr(m.opset_import[0], "version", 0)), "opset"),
    "a far opset": (changed(lambda m: setattr(m.opset_import[0], "version", 2**62)), "opset"),
    "a far IR version": (changed(lambda m: setattr(m, "ir_version", 2**62)), "ir_version"),
    "an If without a condition": (
        network([helper.make_node(
            "If", [], ["z"], then_branch=helper.make_graph([], "t", [], []),
            else_branch=helper.make_graph([], "e", [], []))], first="z"), "'z'"),
    "a Constant without a value": (network([helper.make_node("Constant", [], ["k"])]), "'k'"),
    "a Gemm without weights": (
        changed(lambda m: m.graph.node[1].input.__delitem__(slice(1, 3))), "fc"),
    "a Dropout without input": (
        network([helper.make_node("Dropout", [], ["f"])], first="f"), "'f'"),
    "a BatchNormalization of one input": (
        network([helper.make_node("BatchNormalization", ["x"], ["f"])], first="f"), "'f'"),
    "data elsewhere": (external("../x"), "'w'"),
    "data at the root": (external("/etc/passwd"), "'w'"),
    "data of a name too long": (external("a" * 5000), "'w'"),
    "data of a name with NUL": (external("d\0x"), "'w'"),
    "data far behind the file": (external("d.bin", offset="9" * 20, length="48"), "'w'"),
    "data before the file": (external("d.bin", offset="-1", length="48"), "'w'"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_damaged_file_is_refused_by_name(what: str, tmp_path: Path) -> None:
    model, name = REFUSED[what]
    path = tmp_path / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    (tmp_path / "d.bin").write_bytes(b"\0" * 64)
    with pytest.raises(ModelError) as caught:
        operation.cuts(path)
    assert caught.value.exit == 2
    assert name in f"{caught.value.where} {caught.value.message}"


@pytest.mark.parametrize("text", ["[" * 200_000, "[" + "9" * 5000 + "]"])
@pytest.mark.parametrize("key", ["labels", "surgeon.preprocess"])
def test_absurd_metadata_end_in_no_traceback(key: str, text: str) -> None:
    model = network()
    model.metadata_props.add(key=key, value=text)
    attempt(model, "inspect")
    attempt(model, "operate")


def test_a_value_of_another_name_is_no_fault() -> None:
    assert operation.cuts(network())["cuts"]


# ── inputs and outputs that are no tensors ───────────────────────────────────────────────────────


def _kinds() -> dict[str, ModelProto]:
    sequence = helper.make_tensor_sequence_value_info
    tensor = helper.make_tensor_value_info
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(1, None))
    sparse_kind = helper.make_sparse_tensor_type_proto(1, [3, 2])
    first = numpy_helper.from_array(np.array(0, np.int64), "i")
    pair = helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, []))
    rows = helper.make_sequence_type_proto(pair)

    def model(node: Any, given: Any, made: Any, *weights: TensorProto) -> ModelProto:
        graph = helper.make_graph([node], "g", [given], [made], list(weights))
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)],
            ir_version=8,
        )

    return {
        "sequence out": model(
            helper.make_node("SplitToSequence", ["x"], ["y"], axis=0),
            tensor("x", 1, [3, 2]), sequence("y", 1, None)),
        "sequence in": model(
            helper.make_node("SequenceAt", ["s", "i"], ["y"]),
            sequence("s", 1, None), tensor("y", 1, None), first),
        "optional in": model(
            helper.make_node("OptionalHasElement", ["o"], ["y"]),
            helper.make_value_info("o", optional), tensor("y", TensorProto.BOOL, [])),
        "maps out": model(
            helper.make_node(
                "ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
            tensor("x", 1, ["n", 2]), helper.make_value_info("y", rows)),
        "sparse in": model(
            helper.make_node("Identity", ["x"], ["y"]),
            helper.make_value_info("x", sparse_kind), tensor("y", 1, [3, 2])),
    }  # fmt: skip


KINDS = _kinds()
VERBS = ("inspect", "cuts", "check", "operate", "finetune", "predict", "verify", "to_torch")


def attempt(model: Any, verb: str) -> str:
    """Run a verb; anything but success and a SurgeonError comes out of here."""
    x = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    data = {"x": x, "labels": np.arange(12) % 2}
    verbs: dict[str, Callable[[], object]] = {
        "inspect": lambda: surgeon.inspect(model),
        "cuts": lambda: operation.cuts(model),
        "check": lambda: operation.check(model),
        "operate": lambda: surgeon.operate(model, case="small-similar", classes=2),
        "finetune": lambda: surgeon.finetune(model, data, case="small-similar", threads=1),
        "predict": lambda: surgeon.predict(model, {"x": x}),
        "verify": lambda: surgeon.verify(model),
        "to_torch": lambda: surgeon.to_torch(model),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            verbs[verb]()
        except SurgeonError as error:
            return error.message
    return ""


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_tensor_ends_in_no_traceback(kind: str, verb: str) -> None:
    reason = attempt(KINDS[kind], verb)
    assert not reason or reason.strip()
    if verb == "inspect":
        assert reason == ""


FILES = sorted((Path(__file__).parents[1] / "fixtures" / "hostile").glob("*.onnx"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_that_once_ended_in_a_traceback(path: Path) -> None:
    """Mutations of real networks; each is called like the exception it ended in, and its place."""
    reasons = {verb: attempt(path, verb) for verb in VERBS}
    assert len(reasons) == len(VERBS)


def test_the_files_are_there() -> None:
    assert len(FILES) == 22


# ── mutations ────────────────────────────────────────────────────────────────────────────────────


def _sites(message: Any) -> list[tuple[Any, Any, int | None]]:
    """Return every field of a message and of those in it: (message, field, place in a list)."""
    found: list[tuple[Any, Any, int | None]] = []
    for field, value in message.ListFields():
        several = not isinstance(value, str | bytes) and hasattr(value, "__len__")
        values = list(value) if several else [value]
        for place, part in enumerate(values):
            found.append((message, field, place if several else None))
            if field.message_type is not None:
                found += _sites(part)
    return found


_NUMBERS = (0, 1, -1, 2, 7, 99, 2**20, 2**31 - 1, -(2**31))


def mutate(model: ModelProto, draw: random.Random) -> ModelProto:
    """Return a copy in which one field is gone or another value of its kind."""
    copy = ModelProto()
    copy.CopyFrom(model)
    message, field, place = draw.choice(_sites(copy))
    if place is not None and draw.random() < 0.3:
        del getattr(message, field.name)[place]
        return copy
    if field.message_type is not None or draw.random() < 0.2:
        message.ClearField(field.name)
        return copy
    value: Any = {
        field.TYPE_STRING: lambda: draw.choice(["", "x", "y", "w", "r", "Relu", "Conv", "If"]),
        field.TYPE_BYTES: lambda: draw.choice([b"", b"\0", b"\xff" * 9, b"SAME_UPPER"]),
        field.TYPE_FLOAT: lambda: draw.choice([0.0, -1.0, float("nan"), 1e38]),
        field.TYPE_DOUBLE: lambda: draw.choice([0.0, -1.0, float("nan"), 1e38]),
        field.TYPE_ENUM: lambda: draw.choice([0, 1, 2, 4, 5, 7]),
    }.get(field.type, lambda: draw.choice(_NUMBERS))()
    try:
        if place is None:
            setattr(message, field.name, value)
        else:
            getattr(message, field.name)[place] = value
    except (ValueError, TypeError):  # not a value of this field
        message.ClearField(field.name)
    return copy


def grown() -> list[ModelProto]:
    """Small networks of many kinds of node."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    def constant(name: str, *values: int) -> TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    node = helper.make_node
    branch = [
        helper.make_graph(
            [node(op, ["a"], [op])], op, [], [helper.make_tensor_value_info(op, 1, None)]
        )
        for op in ("Relu", "Neg")
    ]
    first = [
        node("Reshape", ["x", "to"], ["i"]), node("Conv", ["i", "k"], ["a"], pads=[1, 1, 1, 1]),
        node("If", ["c"], ["bb"], then_branch=branch[0], else_branch=branch[1]),
        node("Resize", ["bb", "", "up"], ["d"], mode="linear"),
        node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["e"], ["f"]), node("Flatten", ["f"], ["x1"]),
        node("Shape", ["x"], ["sh"]), node("Gather", ["sh", "zero"], ["n"]),
        node("Concat", ["n", "four"], ["nn"], axis=0), node("Reshape", ["x1", "nn"], ["x2"]),
    ]  # fmt: skip
    weights = [
        constant("to", -1, 1, 2, 2), weight("k", 4, 1, 3, 3), constant("zero", 0),
        constant("four", 4), numpy_helper.from_array(np.array(True), "c"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "up"),
    ]  # fmt: skip
    call = function("F", ("Relu", "a", "b"))
    call.node[0].domain = ""
    return [network(), network(first, weights, first="x2"), called(call)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_mutated_files_end_in_no_traceback(seed: int) -> None:
    draw = random.Random(seed)
    models = grown()
    for number in range(60):
        model = draw.choice(models)
        for _ in range(draw.choice((1, 1, 2))):
            model = mutate(model, draw)
        for verb in VERBS:
            try:
                attempt(model, verb)
            except Exception as error:
                raise AssertionError(f"seed {seed}, file {number}, {verb}:\n{model}") from error


def test_the_networks_that_are_mutated_are_sound() -> None:
    for model in grown():
        onnx.checker.check_model(model)
        assert {verb: attempt(model, verb) for verb in ("inspect", "operate", "to_torch")} == {
            "inspect": "", "operate": "", "to_torch": "",
        }  # fmt: skip
