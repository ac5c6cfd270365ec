"""Other forms of one graph: an activation behind it, one batch, another opset.

Each returns a graph that computes the same; that it does is for the caller to prove. What must not
enter: running a graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from surgeon.errors import UnsupportedError, UsageError
from surgeon.graph.batch import pinned
from surgeon.graph.shapes import fixed_batch, input_infos
from surgeon.graph.walk import all_names

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALONG_ONE_AXIS = 13
"""Opset from which Softmax is along one axis, whatever the rank."""
DEFAULT = ("", "ai.onnx")
ENDS = ("Softmax", "LogSoftmax", "Sigmoid")


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the default domain."""
    return max((one.version for one in model.opset_import if one.domain in DEFAULT), default=1)


def like(made: onnx.ModelProto, before: onnx.ModelProto) -> onnx.ModelProto:
    """Give a converted graph back what surrounds it: metadata, name and doc of the file."""
    del made.metadata_props[:]
    made.metadata_props.extend(before.metadata_props)
    for name in ("doc_string", "domain", "model_version"):
        setattr(made, name, getattr(before, name))
    made.producer_name, made.producer_version = before.producer_name, before.producer_version
    made.graph.name, made.graph.doc_string = before.graph.name, before.graph.doc_string
    made.ir_version = max(made.ir_version, before.ir_version)
    return made


def to_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return the graph in another opset, by ONNX's version converter.

    Raises:
        UnsupportedError: the converter does not know how, or it loses weights.
    """
    if version == opset_of(model):
        return model
    try:
        made = version_converter.convert_version(model, version)
    except Exception as error:  # the converter raises plain RuntimeErrors of C++
        words = " ".join(str(error).split()).rpartition("failed: ")[2][:300]  # no line of C++
        raise UnsupportedError(
            f"ONNX's version converter cannot bring opset {opset_of(model)} to {version}: {words}",
            where="--opset",
            remedy="another opset, or none: runtimes take those in between",
        ) from error
    made = like(made, model)
    lost = {one.name for one in model.graph.initializer} - {
        one.name for one in made.graph.initializer
    }
    if lost:
        raise UnsupportedError(
            f"ONNX's version converter does not keep the weights {', '.join(sorted(lost)[:3])}",
            where="--opset",
            remedy="another opset, or none",
        )
    return made


def fixed_at(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return the graph with its batch fixed at a number.

    Raises:
        UsageError: it is fixed at another, or there is no batch.
    """
    infos = input_infos(model)
    fixed = fixed_batch(infos)
    if fixed is not None and fixed != batch:
        raise UsageError(
            f"the file's batch is fixed at {fixed}", where="--batch", remedy="leave it out"
        )
    if all(info.batch_axis is None for info in infos):
        raise UsageError("the file's inputs have no batch", where="--batch", remedy="leave it out")
    return pinned(model, batch)


def cooled(model: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """Divide the first output by a number: the new one has the name of the old with `.cooled`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    output, taken = copy.graph.output[0], all_names(model.graph)
    names = [f"{output.name}.cooled", "surgeon.temperature"]
    while not taken.isdisjoint(names):
        names = [f"{name}.2" for name in names]
    kind = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    copy.graph.initializer.append(numpy_helper.from_array(np.array(temperature, kind), names[1]))
    copy.graph.node.append(
        helper.make_node("Div", [output.name, names[1]], names[:1], name=names[0])
    )
    output.name = names[0]
    return copy


def with_activation(model: onnx.ModelProto, kind: str, axis: int) -> onnx.ModelProto:
    """Put Softmax or Sigmoid behind the first output, which is then called `probabilities`.

    Raises:
        UsageError: there is one already.
        UnsupportedError: Softmax of this opset is not along one axis.
    """
    output = model.graph.output[0]
    made_by = {name: node for node in model.graph.node for name in node.output}
    last = made_by.get(output.name)
    if last is not None and last.op_type in ENDS:
        raise UsageError(
            f"the file ends in {last.op_type} already",
            where="--probabilities",
            remedy="leave it out: its answers are probabilities",
        )
    rank, opset = len(output.type.tensor_type.shape.dim), opset_of(model)
    if kind == "Softmax" and rank > 2 and opset < ALONG_ONE_AXIS:
        raise UnsupportedError(
            f"Softmax of opset {opset} is not along one axis",
            where="--probabilities",
            remedy=f"add --opset {ALONG_ONE_AXIS}",
        )
    name, taken = "probabilities", all_names(model.graph)
    while name in taken:
        name += ".2"
    # Opsets before 13 count the axis from the front.
    along = {"axis": axis % rank} if kind == "Softmax" and rank else {}
    node = helper.make_node(kind, [output.name], [name], name=f"surgeon.{kind.lower()}")
    node.attribute.extend(helper.make_attribute(*pair) for pair in along.items())
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(node)
    copy.graph.output[0].name = name
    return copy


def activated(values: NDArray[Any], kind: str | None, axis: int) -> NDArray[np.float64]:
    """Return what an activation makes of scores, in float64."""
    scores = values.astype(np.float64)
    if kind == "Sigmoid":
        return np.asarray(1 / (1 + np.exp(-np.clip(scores, -500, 500))))
    if kind == "Softmax":
        shifted = np.exp(scores - scores.max(axis, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis, keepdims=True))
    return scores
