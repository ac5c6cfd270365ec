"""Running a graph to look at it: shapes where inference is blind, and proofs of rewrites.

Random inputs come from numpy's PCG64 by seed; integers are 0 or 1, so that they index any table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from surgeon.errors import ModelError, SurgeonError
from surgeon.graph.shapes import Concrete, declared, input_infos
from surgeon.graph.walk import data_inputs
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from surgeon.records import TensorInfo
    from surgeon.runtime.sessions import Device

SAMPLES = 3
"""Samples of a rebatching proof."""


def random_array(kind: int, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    """Return random values of an ONNX element type: normal floats, integers 0 or 1, booleans."""
    if kind == TensorProto.UNDEFINED:
        raise ModelError("a graph input is no tensor, and cannot be made up")
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if kind == TensorProto.STRING:
        return np.full(shape, "a", object)
    if kind == TensorProto.BOOL:
        return random.integers(0, 2, shape).astype(bool)
    if np.issubdtype(dtype, np.integer):
        return random.integers(0, 2, shape).astype(dtype)
    return random.standard_normal(shape).astype(np.float32).astype(dtype)


def random_feeds(
    model: ModelProto,
    sizes: Mapping[str, tuple[int, ...]],
    seed: int,
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return random feeds of the given sizes for every data input; constants stay as given."""
    random = np.random.Generator(np.random.PCG64(seed))
    given = constants or {}
    kinds = {value.name: declared(value)[0] for value in model.graph.input}
    axes = {info.name: info.batch_axis for info in input_infos(model)}
    feeds: dict[str, NDArray[Any]] = {}
    for name in data_inputs(model.graph):
        if name in sizes:
            values = random_array(kinds[name], sizes[name], random)
            if name in given:
                values = spread(given[name], sizes[name], axes.get(name)).astype(values.dtype)
            feeds[name] = values
        else:
            feeds[name] = given[name] if name in given else random_array(kinds[name], (), random)
    return feeds


def spread(value: NDArray[Any], size: tuple[int, ...], axis: int | None) -> NDArray[Any]:
    """Return a constant, given for one sample or as a whole, at the size of an input."""
    array = np.asarray(value)
    if axis is not None and array.ndim == len(size) - 1:
        array = np.expand_dims(array, axis)
    try:
        return np.broadcast_to(array, size)
    except ValueError:  # its open dimensions are its own; only the batch is ours to fill
        whole = axis is not None and array.ndim == len(size) and array.shape[axis] == 1
        return np.repeat(array, size[axis], axis) if whole and axis is not None else array


def observe_shapes(
    model: ModelProto,
    sizes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> Concrete:
    """Run a graph with every value as an output; return element types and dims.

    Returns what could be learnt; an empty mapping where ONNX Runtime does not run the graph at
    these sizes.
    """
    everything = ModelProto()
    everything.CopyFrom(model)
    known = {value.name for value in everything.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                known.add(name)
                everything.graph.output.append(ValueInfoProto(name=name))
    try:
        session = open_session(everything, device="cpu")
        values = session.run(random_feeds(model, sizes, 0, constants))
    except SurgeonError:
        return {}
    found: Concrete = {}
    for name, value in zip(session.outputs, values, strict=True):
        if isinstance(value, np.ndarray):
            found[name] = (_element(value.dtype), tuple(value.shape))
    return found


def _element(dtype: np.dtype[Any]) -> int:
    if dtype.hasobject or dtype.kind in "US":
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def relative_error(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return max|a − b| / max(max|b|, 1e-6), NaN where either is not finite."""
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.shape != right.shape:
        return float("inf")
    if not left.size:
        return 0.0
    return float(np.abs(left - right).max() / max(float(np.abs(right).max()), 1e-6))


def rounding_of_head(features: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any]) -> float:
    """Return how far float32 sums may be off, relative to the largest logit as `relative_error`.

    Σ|w·x| times twice the spacing of float32 at 1: where features have means of hundreds of
    spreads, summands of thousands cancel to a logit of ten, and the order of the sum shows.

    Args:
        features: [n, d], what the head reads.
        weight: [classes, d].
        bias: [classes].
    """
    x, w, b = (np.asarray(values, np.float64) for values in (features, weight, bias))
    summands = float((np.abs(x) @ np.abs(w).T + np.abs(b)).max(initial=0.0))
    largest = float(np.abs(x @ w.T + b).max(initial=0.0))
    return 2 * float(np.finfo(np.float32).eps) * summands / max(largest, 1e-6)


def prove_batch(
    fixed: ModelProto,
    freed: ModelProto,
    sizes: Mapping[str, tuple[int, ...]],
    output: str,
    *,
    bound: float = 1e-4,
    constants: Mapping[str, NDArray[Any]] | None = None,
    device: str | Device = "cpu",
) -> tuple[bool, str]:
    """Run single batches of the fixed graph against one batch of the freed one.

    Args:
        fixed: the graph as it was.
        freed: the candidate.
        sizes: input sizes of the fixed graph.
        output: the value to compare.
        bound: relative error allowed.
        constants: values of inputs that are the same for every sample.
        device: where to run.

    Returns:
        Whether it holds, and the measured error or the reason in words.
    """
    infos: list[TensorInfo] = input_infos(fixed)
    axes = {info.name: info.batch_axis for info in infos}
    try:
        singles = [random_feeds(fixed, sizes, seed, constants) for seed in range(SAMPLES)]
    except ModelError as error:
        return False, error.message
    for feeds in singles:
        # What has no batch axis is the same for every sample.
        feeds.update({k: v for k, v in singles[0].items() if axes.get(k) is None})
    together = {
        name: value
        if axes.get(name) is None
        else np.concatenate([feeds[name] for feeds in singles], axes[name])
        for name, value in singles[0].items()
    }
    try:
        one = open_session(_with_output(fixed, output), device=device)
        apart = [one.run(feeds, [output])[0] for feeds in singles]
        many = open_session(_with_output(freed, output), device=device)
        joint = many.run(together, [output])[0]
    except SurgeonError as error:
        return False, error.message
    if not all(isinstance(part, np.ndarray) for part in (*apart, joint)):
        return False, f"the output {output!r} is no tensor"
    alike = len({part.shape for part in apart}) == 1 and joint.ndim == apart[0].ndim
    axis = next(
        (a for a in range(joint.ndim) if alike and joint.shape[a] == SAMPLES * apart[0].shape[a]),
        None,
    )
    if axis is None:
        return False, f"the output does not grow with the batch: {list(joint.shape)}"
    error_measured = relative_error(joint, np.concatenate(apart, axis))
    return error_measured <= bound, f"relative error {error_measured:.1e} (bound {bound:.0e})"


def _with_output(model: ModelProto, name: str) -> ModelProto:
    if any(value.name == name for value in model.graph.output):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(ValueInfoProto(name=name))
    return copy


def require_runs(model: ModelProto, where: str) -> None:
    """Refuse a graph that ONNX Runtime does not load, before anything is trained.

    Raises:
        ModelError: with ONNX Runtime's own words.
    """
    try:
        open_session(model, device="cpu", where=where)
    except ModelError as error:
        raise ModelError(
            error.message,
            where=error.where or where,
            remedy="the file must run in ONNX Runtime; check its operators and opset",
        ) from error
