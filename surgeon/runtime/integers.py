"""A graph in 8 bits, by ONNX Runtime's own quantiser, but for layers that are left out.

Weights are symmetric, one scale per output channel, of seven bits: the products of two pairs then
fit into 16 bits, so that processors without VNNI, which add them there and saturate, compute the
same as those with it. Whether the graph still answers well is for the caller to see. What must not
enter: reading of data.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from surgeon.errors import ModelError, UnsupportedError
from surgeon.graph.forms import like, opset_of
from surgeon.graph.weights import initializers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators with weights that are multiplied as integers."""
BETWEEN = (
    "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool",
    "Mul", "Relu", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators between convolutions that take integers, too, so that these need not become floats."""
_FINE = frozenset(
    ("Erf", "Gelu", "InstanceNormalization", "LayerNormalization", "ReduceMean", "Softmax")
)
"""Where these stand, values between layers have a range that integers do not hold well."""
FINE_OPSET, DYNAMIC_OPSET = 13, 11
"""Opsets from which a scale may be one of a channel, and ranges be measured as values come."""
_NARROW = {"per_channel": True, "reduce_range": True}


class Quantiser:
    """A graph that is quantised, as a whole or but for some of its layers.

    Attributes:
        layers: names of the nodes with weights that can be integers, in graph order.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Prepare the graph: shapes are found, nodes without a name get one.

        Raises:
            UnsupportedError: of its opset no scale may be one of a channel; or nothing in it has
                weights that can be integers.
        """
        _require_opset(model, FINE_OPSET, "--int8")
        self._model = model
        self._prepared = _prepared(model)
        self._ranges: Any = None
        weights = initializers(self._prepared)
        self.layers = [
            node.name
            for node in self._prepared.graph.node
            if node.op_type in LAYERS and any(name in weights for name in node.input[1:2])
        ]
        if not self.layers:
            raise UnsupportedError(
                "no convolution or product in the graph has weights",
                where="--int8",
                remedy="leave it out",
            )
        kinds = {node.op_type for node in self._prepared.graph.node}
        convolves = not kinds.isdisjoint(LAYERS[:2])
        attends = not kinds.isdisjoint(_FINE)
        self._kinds = [*LAYERS, *(BETWEEN if convolves and not attends else ())]

    def calibrate(self, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        """Measure the range of every value over some inputs."""
        from onnxruntime.quantization.calibrate import (
            CalibrationDataReader,
            CalibrationMethod,
            create_calibrator,
        )

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
            def __init__(self) -> None:
                self.left = iter(feeds)

            def get_next(self) -> Any:
                return next(self.left, None)

        with _scratch(self._prepared) as (folder, path):
            calibrator = create_calibrator(
                path, self._kinds, augmented_model_path=str(folder / "augmented.onnx"),
                calibrate_method=CalibrationMethod.MinMax, extra_options={},
            )  # fmt: skip
            calibrator.set_execution_providers(["CPUExecutionProvider"])
            calibrator.collect_data(Reader())
            self._ranges = calibrator.compute_data()

    def quantised(
        self, *, floats: Collection[str] = (), only: Collection[str] = ()
    ) -> onnx.ModelProto:
        """Return the graph in 8 bits.

        Args:
            floats: layers that stay as they are.
            only: nothing else is quantised; empty = all is.
        """
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        copy = onnx.ModelProto()
        copy.CopyFrom(self._prepared)
        with _quiet():
            quantiser = QDQQuantizer(
                copy, _NARROW["per_channel"], _NARROW["reduce_range"], QuantType.QInt8,
                QuantType.QUInt8, self._ranges, list(only), list(floats), self._kinds,
                {"WeightSymmetric": True, "ActivationSymmetric": False, "MatMulConstBOnly": True},
            )  # fmt: skip
            quantiser.quantize_model()
            quantiser.model.topological_sort()
        return _restored(quantiser.model.model, self._model)


def to_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose products measure the range of what they multiply as it comes.

    Tables of embeddings become integers, too.

    Raises:
        UnsupportedError: the opset has no such operators.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _require_opset(model, DYNAMIC_OPSET, "--int8-dynamic")
    prepared = _prepared(model)
    with _scratch(prepared) as (folder, path), _quiet():
        quantize_dynamic(
            path, folder / "made.onnx", op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": True}, **_NARROW,
        )  # fmt: skip
        made = onnx.load(folder / "made.onnx")
    return _restored(made, model)


def _require_opset(model: onnx.ModelProto, least: int, option: str) -> None:
    if opset_of(model) < least:
        raise UnsupportedError(
            f"opset {opset_of(model)} lacks what {option} needs",
            where=option,
            remedy=f"add --opset {least}",
        )


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with shapes, and a name for every node.

    Only where a BatchNormalization stands behind weights is the graph rewritten: it is folded.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    seen: set[str] = set()
    for place, node in enumerate(copy.graph.node):
        if not node.name or node.name in seen:
            node.name = f"surgeon.node.{place}"
        seen.add(node.name)
    folds = any(node.op_type == "BatchNormalization" for node in copy.graph.node)
    with _scratch(copy) as (folder, path):
        try:  # its symbolic shapes, which are not needed here, leave files where it runs
            quant_pre_process(
                path, folder / "prepared.onnx", skip_optimization=not folds,
                skip_symbolic_shape=True,
            )  # fmt: skip
            return onnx.load(folder / "prepared.onnx")
        except Exception as error:  # it raises whatever comes up
            words = " ".join(str(error).split())[:300]
            raise ModelError(
                f"ONNX Runtime's quantiser does not understand the graph: {words}",
                where="--int8",
                remedy="leave it out; --fp16 may do",
            ) from error


def _restored(made: onnx.ModelProto, before: onnx.ModelProto) -> onnx.ModelProto:
    """Return what the quantiser made with the envelope of the file, and without its notes."""
    del made.graph.value_info[:]
    made.graph.value_info.extend(before.graph.value_info)
    return like(made, before)


@contextlib.contextmanager
def _scratch(model: onnx.ModelProto) -> Iterator[tuple[Path, Path]]:
    """Give a folder and the graph as a file in it, as the tools want it."""
    with tempfile.TemporaryDirectory(prefix="surgeon-") as name, _quiet():
        path = Path(name) / "model.onnx"
        onnx.save(model, path)
        yield Path(name), path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the tools log while they work; errors still raise."""
    import onnxruntime

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        logging.disable(disabled)
        onnxruntime.set_default_logger_severity(2)
