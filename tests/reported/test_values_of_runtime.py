"""Values where ONNX Runtime and this project once differed: ONNX Runtime says what is right."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import surgeon
from surgeon.errors import ModelError


def one(
    op: str,
    opset: int,
    inputs: list[Any],
    outputs: int = 1,
    constant: tuple[int, ...] = (),
    **a: Any,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return a model of one node, and its feeds."""
    names = [f"x{n}" if value is not None else "" for n, value in enumerate(inputs)]
    infos, weights, feeds = [], [], {}
    for n, (name, value) in enumerate(zip(names, inputs, strict=True)):
        if value is None:
            continue
        if n in constant:
            weights.append(numpy_helper.from_array(value, name))
            continue
        kind = 8 if value.dtype == object else helper.np_dtype_to_tensor_dtype(value.dtype)
        infos.append(helper.make_tensor_value_info(name, kind, value.shape))
        feeds[name] = value
    made = [f"y{n}" for n in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, made, **a)], "g", infos,
        [helper.make_empty_tensor_value_info(name) for name in made], weights,
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    ), feeds


def of_runtime(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def agree(model: onnx.ModelProto, feeds: dict[str, Any], rtol: float = 1e-4) -> None:
    expected = of_runtime(model, feeds)
    found = surgeon.onnx_backend.run_model(model, list(feeds.values()))
    for right, ours in zip(expected, found, strict=True):
        value = np.asarray(ours)
        assert value.dtype == right.dtype
        assert value.shape == right.shape
        if right.dtype.kind == "f":
            atol = rtol * max(float(np.abs(right).max(initial=0)), 1e-6)
            np.testing.assert_allclose(value, right, rtol=0, atol=atol)
        else:
            assert (value == right).all()


NUMBERS = [
    1.0, -2.5, 30, 1e-7, 1e7, 1e8, 1e15, 0.1, 1 / 3, 123456789, 1234567.8, -0.0, 1e-4, 1e-5,
    np.nan, np.inf, -np.inf,
]  # fmt: skip


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_become_the_same_texts(kind: Any) -> None:
    with np.errstate(over="ignore"):
        agree(*one("Cast", 13, [np.array(NUMBERS).astype(kind)], to=TensorProto.STRING))


@pytest.mark.parametrize("to", [1, 11, 10, 7, 6, 9, 2, 3])
@pytest.mark.parametrize("text", ["1", "-3", "+5", " 7", "1.5", "1e3", "0x10", "1abc", "5.", "300"])
def test_texts_become_the_same_numbers(text: str, to: int) -> None:
    agree(*one("Cast", 13, [np.array([text], object)], to=to))


@pytest.mark.parametrize("text", ["", "abc", "true"])
def test_texts_that_are_no_numbers_are_refused(text: str) -> None:
    model, feeds = one("Cast", 13, [np.array([text], object)], to=1)
    with pytest.raises(ModelError):
        surgeon.onnx_backend.run_model(model, list(feeds.values()))


TEXTS = [[""], ["", "a"], ["a b  c", " a b ", "x"], ["a,b,,c", ",a", ""], ["a\tb\nc"]]


@pytest.mark.parametrize("options", [{}, {"delimiter": ","}, {"delimiter": " "}, {"maxsplit": 1}])
@pytest.mark.parametrize("texts", TEXTS)
def test_texts_are_split_alike(texts: list[str], options: dict[str, Any]) -> None:
    agree(*one("StringSplit", 20, [np.array(texts, object)], outputs=2, **options))


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.int8, np.uint8])
@pytest.mark.parametrize(
    "op", ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum"]
)
def test_reductions_of_integers_keep_their_type(op: str, kind: Any) -> None:
    values = np.array([[1, 2, 4], [5, 5, 7]], kind)
    model, feeds = one(f"Reduce{op}", 13 if op != "Sum" else 11, [values], axes=[1], keepdims=0)
    try:
        of_runtime(model, feeds)
    except Exception:  # noqa: BLE001 - ONNX Runtime has not every operator for every type
        pytest.skip("ONNX Runtime has no such kernel")
    agree(model, feeds)


@pytest.mark.parametrize(("bias", "lambd"), [(1.5, -5.0), (-9.0, -1.5), (0.5, 1.0), (0.2, -0.5)])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int32])
def test_shrink_with_a_negative_threshold(kind: Any, bias: float, lambd: float) -> None:
    values = np.array([-6, -2, -1.5, -0.3, 0, 0.3, 1.5, 2, 6]).astype(kind)
    agree(*one("Shrink", 9, [values], bias=bias, lambd=lambd))


@pytest.mark.parametrize("opset", [7, 10, 12, 13])
def test_masks_of_dropout(opset: int) -> None:
    agree(*one("Dropout", opset, [np.ones((2, 3), np.float32)], outputs=2))


@pytest.mark.parametrize("size", [[1, 1, 3, 3], [2, 1, 3, 3], [1, 1, 2, 3, 4], [1, 2, 1, 3]])
@pytest.mark.parametrize("constant", [(), (1,)])
def test_affine_grids_of_one_sample_and_of_volumes(size: list[int], constant: Any) -> None:
    axes = len(size) - 2
    theta = np.random.default_rng(0).standard_normal((size[0], axes, axes + 1)).astype(np.float32)
    agree(*one("AffineGrid", 20, [theta, np.array(size)], constant=constant))


def test_a_transform_of_signals_without_a_last_axis() -> None:
    signal = np.random.default_rng(0).standard_normal((2, 400)).astype(np.float32)
    window = np.hanning(128).astype(np.float32)
    agree(*one("STFT", 17, [signal, np.array(64), window, np.array(128)]))


def test_places_of_an_unpooling_lie_in_the_shape_asked_for() -> None:
    values = np.array([[[[1, 2], [3, 4]]]], np.float32)
    places = np.array([[[[5, 7], [13, 24]]]])
    shape = np.array([1, 1, 5, 5])
    agree(*one("MaxUnpool", 11, [values, places, shape], kernel_shape=[2, 2], strides=[2, 2]))


def test_products_with_scales_per_row() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 255, shape).astype(np.uint8) for shape in ((2, 3, 4), (4, 5)))
    scales = np.array([0.01, 0.02, 0.03], np.float32)
    zeros, wanted = np.array([1, 2, 3], np.uint8), np.array([0.5, 0.6, 0.7], np.float32)
    model, feeds = one(
        "QLinearMatMul", 10,
        [a, scales, zeros, b, np.array(0.02, np.float32), np.array(7, np.uint8), wanted, zeros],
    )  # fmt: skip
    column = (scales * np.float32(0.02) / wanted).reshape(-1, 1)
    whole = (a.astype(int) - zeros.reshape(-1, 1).astype(int)) @ (b.astype(int) - 7)
    right = (np.round(whole * column) + zeros.reshape(-1, 1)).clip(0, 255).astype(np.uint8)
    found = surgeon.onnx_backend.run_model(model, list(feeds.values()))[0]
    assert np.abs(found.astype(int) - right.astype(int)).max() <= 1  # a tie of single precision
    assert (found == right).mean() > 0.9


def test_a_loop_whose_body_takes_its_number_as_a_vector() -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c2"]),
            helper.make_node("Squeeze", ["i"], ["i0"], axes=[0]),
            helper.make_node("Cast", ["i0"], ["f"], to=1),
            helper.make_node("Add", ["v", "f"], ["v2"]),
        ],
        "body",
        [info("i", 7, [1]), info("c", 9, [1]), info("v", 1, [1])],
        [info("c2", 9, [1]), info("v2", 1, [1])],
    )
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body)],
            "g", [info("x", 1, [1])], [info("y", 1, [1])],
            [numpy_helper.from_array(np.array([3]), "n"),
             numpy_helper.from_array(np.array([True]), "t")],
        ),
        opset_imports=[helper.make_opsetid("", 11)], ir_version=8,
    )  # fmt: skip
    agree(model, {"x": np.zeros(1, np.float32)})


COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@pytest.mark.parametrize("opset", [13, 18, 19])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_in_every_version(opset: int, mode: str) -> None:
    rng = np.random.default_rng(opset)
    for coordinates, factor in itertools.product(COORDINATES, (0.6, 1.3, 1.6, 2.0)):
        values = rng.standard_normal((1, 2, 4, 5)).astype(np.float32)
        scales = np.array([1, 1, factor, 1], np.float32)
        options = {"mode": mode, "coordinate_transformation_mode": coordinates}
        agree(*one("Resize", opset, [values, None, scales], **options))
        sizes = np.array([1, 2, max(int(4 * factor), 1), 5])
        agree(*one("Resize", opset, [values, None, None, sizes], **options))


@pytest.mark.parametrize("kind", [np.uint8, np.int32])
def test_resize_of_integers_cuts_off(kind: Any) -> None:
    values = np.array([[[[0, 11], [23, 39]]]], kind)
    scales = np.array([1, 1, 1.7, 1.7], np.float32)
    agree(*one("Resize", 13, [values, None, scales], mode="linear"))


# ── whole files ──────────────────────────────────────────────────────────────────────────────────


def trained(model: onnx.ModelProto, width: int, case: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    values = rng.standard_normal((40, width)).astype(np.float32)
    values[np.arange(40), labels] += 3
    outcome = surgeon.finetune(
        model, {"x": values, "labels": labels}, case=case, epochs=1, compile="off", threads=1
    )
    found: dict[str, Any] = outcome.proof
    return found


@pytest.mark.parametrize("case", ["small-similar", "large-similar"])
def test_a_normalization_of_an_optimiser_in_an_old_file_learns(case: str) -> None:
    rng = np.random.default_rng(0)
    weight = {
        name: numpy_helper.from_array(values.astype(np.float32), name)
        for name, values in {
            "w": rng.standard_normal((8, 8)), "s": np.ones(8), "b": np.zeros(8),
            "g": rng.standard_normal((8, 4)),
        }.items()
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("LayerNormalization", ["a", "s", "b"], ["l"], axis=-1),
            helper.make_node("Gemm", ["l", "g"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 8])],
        [helper.make_tensor_value_info("y", 1, ["n", 4])],
        list(weight.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=7)
    assert trained(model, 8, case)["parity"]["max_relative"] <= 1e-4


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16])
def test_half_precision_inside_a_single_precision_file_has_the_bound_of_halves(kind: int) -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Cast", ["x"], ["h0"], to=kind)]
    weights = []
    for i in range(4):
        values = (rng.standard_normal((64, 64)) / 6).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{i}"))
        nodes += [
            helper.make_node("Cast", [f"w{i}"], [f"c{i}"], to=kind),
            helper.make_node("MatMul", [f"h{i}", f"c{i}"], [f"m{i}"]),
            helper.make_node("Relu", [f"m{i}"], [f"h{i + 1}"]),
        ]
    weights.append(numpy_helper.from_array(rng.standard_normal((64, 5)).astype(np.float32), "g"))
    nodes += [
        helper.make_node("Cast", ["h4"], ["f"], to=1),
        helper.make_node("Gemm", ["f", "g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 64])],
        [helper.make_tensor_value_info("y", 1, ["n", 5])], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert surgeon.load(model).bound == 1e-2
    assert trained(model, 64, "large-similar")["parity"]["bound"] == 1e-2


def test_a_file_without_half_precision_keeps_its_bound() -> None:
    model, _ = one("Relu", 17, [np.ones((2, 3), np.float32)])
    assert surgeon.load(model).bound == 1e-4
    half, _ = one("Relu", 17, [np.ones((2, 3), ml_dtypes.bfloat16)])
    assert surgeon.load(half).bound == 1e-2


def test_gradients_pass_where_values_were_changed() -> None:
    model, _ = one("Shrink", 9, [np.ones((2, 3), np.float32)], bias=1.5, lambd=-0.5)
    x = torch.linspace(-2, 2, 6).reshape(2, 3).requires_grad_()
    surgeon.to_torch(model)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.eq(1).all()


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pools_that_pad_by_themselves(op: str, auto_pad: str) -> None:
    values = np.random.default_rng(0).standard_normal((1, 2, 7, 6)).astype(np.float32)
    for kernel, step, gap in (([3, 2], [1, 3], [2, 1]), ([1, 2], [3, 1], [1, 1])):
        options = {"kernel_shape": kernel, "strides": step, "dilations": gap}
        agree(*one(op, 22, [values], auto_pad=auto_pad, **options))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_convolutions_with_steps_longer_than_the_window(auto_pad: str) -> None:
    rng = np.random.default_rng(0)
    values, weight = (rng.standard_normal(s).astype(np.float32) for s in ((1, 4, 6), (4, 4, 1)))
    agree(*one("Conv", 13, [values, weight], auto_pad=auto_pad, strides=[3]))
    agree(*one("ConvTranspose", 13, [values, weight], auto_pad=auto_pad, strides=[2]))
