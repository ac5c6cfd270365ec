"""Running a graph to look at it: shapes where inference is blind, and proofs of rewrites.

Random inputs come from numpy's PCG64 by seed; integers are 0 or 1, so that they index any table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from surgeon.errors import ModelError, SurgeonError
from surgeon.graph.schema import STANDARD
from surgeon.graph.shapes import Concrete, declared, input_infos
from surgeon.graph.walk import data_inputs
from surgeon.graph.weights import head_input, to_array
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.runtime.places import Device

SAMPLES = 3
"""Samples of a rebatching proof."""
OLDEST = 13
"""Opset of a Shape in a graph that has no operators of ONNX's own."""


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
    known: frozenset[str] = frozenset(),
) -> Concrete:
    """Run a graph and look at every value that is not known; return types and dims.

    What the run gives are dims alone: the values themselves are let go as soon as they were read,
    so that memory is that of an ordinary run. Types are ONNX Runtime's own.

    Returns what could be learnt; an empty mapping where ONNX Runtime does not run the graph at
    these sizes.
    """
    settled = {value.name for value in model.graph.output} | known
    made = [n for node in model.graph.node for n in node.output if n and n not in settled]
    asked = list(dict.fromkeys([*made, *(value.name for value in model.graph.output)]))
    try:
        kinds = _element_types(model, asked)
        looking, ends = _giving_dims(model, [name for name in asked if name in kinds])
        session = open_session(looking, device="cpu", optimised=False)
        dims = session.run(random_feeds(model, sizes, 0, constants), list(ends))
    except SurgeonError:
        return {}
    return {
        name: (kinds[name], tuple(int(dim) for dim in found))
        for name, found in zip(ends.values(), dims, strict=True)
    }


def _element_types(model: ModelProto, names: Sequence[str]) -> dict[str, int]:
    """Return the element types of those of the values that are tensors."""
    everything = ModelProto()
    everything.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    everything.graph.output.extend(
        ValueInfoProto(name=name) for name in names if name not in outputs
    )
    found = open_session(everything, device="cpu", optimised=False).output_types()
    return {name: kind for name, kind in found.items() if name in names}


def _giving_dims(model: ModelProto, names: Sequence[str]) -> tuple[ModelProto, dict[str, str]]:
    """Return a graph that gives the dims of values, and {its output: the value}."""
    looking = ModelProto()
    looking.CopyFrom(model)
    if not any(item.domain in STANDARD for item in looking.opset_import):
        looking.opset_import.add(domain="", version=OLDEST)
    ends = {f"surgeon.dims.{place}": name for place, name in enumerate(names)}
    # ONNX Runtime computes what leads to the last node first: in this order every shape is read as
    # soon as its value is there, and the value need not be kept for that.
    for end, name in reversed(ends.items()):
        looking.graph.node.add(op_type="Shape", input=[name], output=[end])
    del looking.graph.output[:]
    looking.graph.output.extend(ValueInfoProto(name=end) for end in ends)
    return looking, ends


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


def head_rounding(
    model: ModelProto,
    weights: Sequence[str],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    *,
    threads: int | None = None,
) -> float:
    """Return what float32 may lose where a linear head sums up, on these feeds.

    Args:
        model: the graph.
        weights: the head's weight and bias.
        feeds: inputs.
        threads: of ONNX Runtime.

    Raises:
        ModelError: the head reads no value.
    """
    weight, bias = weights
    name = head_input(model, weight)
    if name is None:
        raise ModelError(f"nothing is multiplied with {weight!r}", where=weight)
    shown = ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = open_session(shown, device="cpu", threads=threads)
    made = (session.run(one, [name])[0] for one in feeds)
    made = (np.moveaxis(one, 1, -1) if one.ndim == 4 else one for one in made)  # maps
    features = np.concatenate([one.reshape(-1, one.shape[-1]) for one in made])
    values = {t.name: to_array(t) for t in model.graph.initializer if t.name in (weight, bias)}
    return rounding_of_head(features, values[weight].reshape(len(values[bias]), -1), values[bias])


class Singles:
    """What single batches of a graph give, for comparing candidates of a larger batch with.

    Attributes:
        apart: the value compared, for each batch.
    """

    def __init__(
        self,
        model: ModelProto,
        sizes: Mapping[str, tuple[int, ...]],
        output: str,
        *,
        count: int = SAMPLES,
        constants: Mapping[str, NDArray[Any]] | None = None,
        device: str | Device = "cpu",
    ) -> None:
        """Run single batches of random inputs.

        Args:
            model: the graph as it is.
            sizes: input sizes of one batch.
            output: the value to compare.
            count: batches.
            constants: values of inputs that are the same for every sample.
            device: where to run.

        Raises:
            SurgeonError: the graph does not run at this size.
        """
        self._axes = {info.name: info.batch_axis for info in input_infos(model)}
        self._output, self._device = output, device
        self._feeds = [random_feeds(model, sizes, seed, constants) for seed in range(count)]
        for feeds in self._feeds:
            # What has no batch axis is the same for every sample.
            same = {k: v for k, v in self._feeds[0].items() if self._axes.get(k) is None}
            feeds.update(same)
        session = open_session(_with_output(model, output), device=device)
        self.apart = [session.run(feeds, [output])[0] for feeds in self._feeds]
        if not all(isinstance(part, np.ndarray) for part in self.apart):
            raise ModelError(f"value {output!r} is no tensor", where=output)

    def agree(
        self,
        candidate: ModelProto,
        *,
        bound: float = 1e-4,
        exact: bool = False,
        counts: Sequence[int] = (),
    ) -> tuple[bool, str]:
        """Compare joint batches of a candidate with the single ones.

        Args:
            candidate: a graph with the same inputs, whose batch is open.
            bound: relative error allowed.
            exact: whether the value must have the same rank at every batch; a rewritten graph may
                keep the batch's axis where the graph dropped it for one sample.
            counts: how many single batches are joined; one and all of them where none is said.

        Returns:
            Whether it holds, and the largest error measured or the reason in words.
        """
        worst = 0.0
        try:
            session = open_session(_with_output(candidate, self._output), device=self._device)
            ranks: set[int] = set()
            for count in counts or (1, len(self._feeds)):
                joint = session.run(self._together(count), [self._output])[0]
                if not isinstance(joint, np.ndarray):
                    return False, f"the output {self._output!r} is no tensor"
                ranks.add(joint.ndim)
                if len(ranks) > 1:
                    return False, "one sample gives another rank than several"
                wanted = self._joined(joint, count, exact=exact)
                if wanted is None:
                    return False, f"the output does not grow with the batch: {list(joint.shape)}"
                worst = max(worst, relative_error(joint, wanted))
        except SurgeonError as error:
            return False, error.message
        return worst <= bound, f"relative error {worst:.1e} (bound {bound:.0e})"

    def _together(self, count: int) -> dict[str, NDArray[Any]]:
        return {
            name: value
            if self._axes.get(name) is None
            else np.concatenate([feeds[name] for feeds in self._feeds[:count]], self._axes[name])
            for name, value in self._feeds[0].items()
        }

    def _joined(self, joint: NDArray[Any], count: int, *, exact: bool) -> NDArray[Any] | None:
        """Return the single values as one that looks like a joint one, or None."""
        apart = self.apart[:count]
        if len({part.shape for part in apart}) != 1:
            return None
        if not exact and joint.shape == (count, *apart[0].shape):
            return np.stack(apart)
        axes = range(joint.ndim if joint.ndim == apart[0].ndim else 0)
        axis = next((a for a in axes if joint.shape[a] == count * apart[0].shape[a]), None)
        return None if axis is None else np.concatenate(apart, axis)


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
