"""What every value of a graph looks like: element type, shape, and the axis samples lie along.

Shapes come from ONNX's own shape inference over a skeleton (no weights), run at two batch sizes and
two sizes of every other open dimension; what moves with the batch *is* the batch axis. Declared
shapes of inner values are not believed: files get them wrong. Where inference stays blind (unknown
operators, data-dependent shapes), the caller may pass `observe`, which runs the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from surgeon.graph.bounds import GUESSED, infer_shapes, runs_small, stripped
from surgeon.graph.fold import evaluate
from surgeon.graph.samples import unbatched
from surgeon.graph.schema import STANDARD, type_name
from surgeon.graph.walk import FLOATS, attribute, data_inputs, producers, reads
from surgeon.graph.weights import to_array
from surgeon.records import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from surgeon.records import Dim, Shape

Concrete = dict[str, tuple[int, tuple[int, ...]]]
"""{value: (element type, dims)}"""

if TYPE_CHECKING:
    Observe = Callable[[ModelProto, Mapping[str, tuple[int, ...]], frozenset[str]], Concrete]

BATCHES = (3, 5)
"""The two batch sizes of the inference; odd primes, so that no other dimension looks like them."""

BATCH_SYMBOLS = frozenset({"n", "batch", "batch_size", "batchsize", "bs"})
"""What exporters call the batch, in lower case."""

ROUNDS = 12
"""Times folding may uncover further shapes."""

SMALL = 1024
"""Elements up to which an integer initializer is kept in the skeleton: it may be a shape."""


def declared(value: onnx.ValueInfoProto) -> tuple[int, Shape | None]:
    """Return (element type, declared shape or None) of a tensor value."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return TensorProto.UNDEFINED, None
    if not kind.HasField("shape"):
        return kind.elem_type, None
    dims: list[Dim] = []
    for dim in kind.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value > 0:
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or None)
    return kind.elem_type, tuple(dims)


def input_infos(model: ModelProto) -> list[TensorInfo]:
    """Return the data inputs in graph-input order, each with the axis samples lie along.

    The batch axis of the first input that has one is the axis whose symbol is called like a batch,
    else the one a recurrent operator takes it from, else axis 0; other inputs follow the same
    symbol, or the same fixed size. An input that gets its batch axis inside the graph has none: it
    is one sample.
    """
    values = {value.name: value for value in model.graph.input}
    shapes = {name: declared(values[name]) for name in data_inputs(model.graph)}
    recurrent = _recurrent_axes(model)
    batch: Dim = None
    anchored = False
    infos = []
    for name, (kind, shape) in shapes.items():
        axis = _batch_axis(shape, batch, anchored=anchored)
        if axis is not None and not _called_batch(shape, axis) and unbatched(model, name, shape):
            axis = None
        if name in recurrent and shape is not None and not _called_batch(shape, axis):
            axis = recurrent[name] if recurrent[name] < len(shape) else axis
        if axis is not None and not anchored and shape is not None:
            batch, anchored = shape[axis], True
        infos.append(TensorInfo(name, type_name(kind), shape, axis))
    return infos


def output_infos(model: ModelProto) -> list[TensorInfo]:
    """Return the outputs as they are declared."""
    found = [(value.name, *declared(value)) for value in model.graph.output]
    return [TensorInfo(name, type_name(kind), shape) for name, kind, shape in found]


def _called_batch(shape: Shape | None, axis: int | None) -> bool:
    dim = None if axis is None or shape is None else shape[axis]
    return isinstance(dim, str) and dim.lower() in BATCH_SYMBOLS


def _recurrent_axes(model: ModelProto) -> dict[str, int]:
    """Return {data input: axis of the batch} of inputs that reach a recurrent operator as they are.

    X is [time, batch, features] and the state [directions, batch, hidden]; with `layout` 1 the
    batch comes first.
    """
    nodes = [node for node in model.graph.node if node.op_type in ("LSTM", "GRU", "RNN")]
    if not nodes:
        return {}
    inputs = set(data_inputs(model.graph))
    makers = producers(model.graph)
    found: dict[str, int] = {}
    for node in nodes:
        layout = attribute(node, "layout")
        for slot in (0, 5, 6):
            name = node.input[slot] if slot < len(node.input) else ""
            axis = 0 if layout is not None and layout.i else 1
            while (maker := makers.get(name)) is not None:
                if maker.op_type == "Transpose":
                    perm = attribute(maker, "perm")
                    axis = perm.ints[axis] if perm is not None else 2 - axis
                elif maker.op_type not in ("Identity", "Cast", "Dropout", "Slice", "Split"):
                    break
                name = maker.input[0]
            if name in inputs:
                found.setdefault(name, axis)
    return found


def _batch_axis(shape: Shape | None, batch: Dim, *, anchored: bool) -> int | None:
    if not shape:
        return None
    for axis, dim in enumerate(shape):
        if isinstance(dim, str) and dim.lower() in BATCH_SYMBOLS:
            return axis
    if anchored and batch is not None:
        # [2, N, 128]: recurrent state carries the batch where the first input's size stands.
        for axis, dim in enumerate(shape):
            if dim == batch:
                return axis
        if isinstance(batch, int):
            return None
    if not isinstance(shape[0], int):
        return 0
    return None if anchored else 0


def skeleton(model: ModelProto) -> ModelProto:
    """Return a copy without weights' values, inner declarations and output shapes."""
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(stripped(node, SMALL) for node in model.graph.node)
    graph.input.extend(model.graph.input)
    for value in model.graph.output:
        output = graph.output.add(name=value.name)
        if not value.type.HasField("tensor_type"):
            output.type.CopyFrom(value.type)
        elif value.type.tensor_type.elem_type:
            output.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= (SMALL if tensor.data_type not in FLOATS else 16):
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    result = ModelProto(ir_version=max(model.ir_version, 8), graph=graph)
    result.opset_import.extend(model.opset_import)
    result.functions.extend(model.functions)
    _fold_shapes(result)
    return result


def _fold_shapes(bones: ModelProto, shapes: Concrete | None = None) -> int:
    """Compute what follows from small constants and known shapes alone; return how many nodes."""
    graph = bones.graph
    known = {
        t.name: to_array(t)
        for t in graph.initializer
        if prod(t.dims) <= (SMALL if t.data_type not in FLOATS else 16)
    }
    versions = {item.domain: item.version for item in bones.opset_import}
    folded: list[int] = []
    for index, node in enumerate(graph.node):
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant":
            if value is not None and prod(value.t.dims) <= SMALL:
                known[node.output[0]] = numpy_helper.to_array(value.t)
            continue
        if node.op_type.startswith("Random") or not node.input or len(node.output) != 1:
            continue
        if node.op_type == "Shape" and shapes is not None and node.input[0] in shapes:
            dims = shapes[node.input[0]][1]
            start = next((a.i for a in node.attribute if a.name == "start"), 0)
            end = next((a.i for a in node.attribute if a.name == "end"), len(dims))
            known[node.output[0]] = np.asarray(dims[start:end], np.int64)
            folded.append(index)
            continue
        if not all(name in known or not name for name in node.input) or any(
            True for a in node.attribute if a.type in (a.GRAPH, a.GRAPHS)
        ):
            continue
        results = evaluate(node, known, versions)
        if results is not None and results[0].size <= SMALL:
            known[node.output[0]] = results[0]
            folded.append(index)
    for index in reversed(folded):
        name = graph.node[index].output[0]
        del graph.node[index]
        graph.initializer.append(numpy_helper.from_array(known[name], name))
    return len(folded)


def infer(bones: ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> Concrete:
    """Run shape inference with every input at the given size; blind spots are simply absent.

    Where shape arithmetic hides a shape from ONNX's inference, what is already known is folded into
    constants and the inference is asked again.
    """
    copy = ModelProto()
    copy.CopyFrom(bones)
    for value in copy.graph.input:
        if value.name in sizes:
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            for size in sizes[value.name]:
                shape.dim.add(dim_value=size)
    found = _infer_once(copy)
    for entry in copy.opset_import:
        if entry.domain in STANDARD and entry.version < 7:
            # Operators before opset 7 come without inference; their later forms have the shapes.
            newer = ModelProto()
            newer.CopyFrom(copy)
            next(e for e in newer.opset_import if e.domain in STANDARD).version = 7
            found = {**_infer_once(newer), **found}
    for _ in range(ROUNDS):
        blind = any(name not in found for node in copy.graph.node for name in node.output if name)
        if not blind or not _fold_shapes(copy, found):
            break
        found = {**found, **_infer_once(copy)}
    return found


def _infer_once(copy: ModelProto) -> Concrete:
    try:
        inferred = infer_shapes(copy)
    except Exception:  # noqa: BLE001 - inference may refuse what runs; the caller can observe
        inferred = copy
    found: Concrete = {}
    graph = inferred.graph
    for value in [*graph.input, *graph.value_info, *graph.output]:
        kind, shape = declared(value)
        if shape is not None and all(isinstance(dim, int) for dim in shape):
            found[value.name] = (kind, shape)  # type: ignore[assignment]
        elif shape is not None and any(
            d.HasField("dim_value") and d.dim_value == 0 for d in value.type.tensor_type.shape.dim
        ):
            dims = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            found[value.name] = (kind, dims)
    for tensor in graph.initializer:
        found[tensor.name] = (tensor.data_type, tuple(tensor.dims))
    return found


def input_sizes(
    infos: list[TensorInfo],
    batch: int,
    *,
    larger: bool = False,
    known: Mapping[str, int] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return a concrete size for every input: `batch` on the batch axis, typical sizes elsewhere.

    Open dimensions are assumed (and only used to count and to trace): 224 for the sides of
    pictures, 16 for token sequences, 64 for other sequences, less where there are so many that an
    input would grow large; `larger` takes the next size up.
    """
    symbols: dict[str, int] = dict(known or {})
    most = _most(infos, batch)
    sizes: dict[str, tuple[int, ...]] = {}
    for info in infos:
        if info.shape is None:
            continue
        dims = []
        for axis, dim in enumerate(info.shape):
            place = f"{info.name}:{axis}"
            if axis == info.batch_axis:
                dims.append(batch)
            elif place in symbols and not isinstance(dim, int):
                dims.append(symbols[place])
            elif isinstance(dim, int):
                dims.append(dim)
            else:
                size = min(_typical(info, axis, larger=larger), most)
                dims.append(symbols.setdefault(dim, size) if isinstance(dim, str) else size)
        sizes[info.name] = tuple(dims)
    return sizes


def _most(infos: list[TensorInfo], batch: int) -> int:
    """Return the largest guess for an open dimension with which every input stays small."""
    least = GUESSED
    for info in infos:
        dims = [dim for axis, dim in enumerate(info.shape or ()) if axis != info.batch_axis]
        open_dims = sum(not isinstance(dim, int) for dim in dims)
        room = GUESSED // max(batch * prod(dim for dim in dims if isinstance(dim, int)), 1)
        if open_dims:
            least = min(least, max(int(room ** (1 / open_dims)), 1))
    return least


def _typical(info: TensorInfo, axis: int, *, larger: bool) -> int:
    assert info.shape is not None
    if len(info.shape) == 4:
        channels_last = info.shape[3] in (1, 3)
        if axis == (3 if channels_last else 1):
            return 3
        return 256 if larger else 224
    if info.dtype in {"int64", "int32"}:
        return 24 if larger else 16
    if len(info.shape) == 2:
        return 1536 if larger else 1024
    return 96 if larger else 64


@dataclass(frozen=True)
class Shapes:
    """Shapes of all values of a graph.

    Attributes:
        one: element type and dims of every value at a batch of `batches[0]`.
        batch_axes: the axis samples lie along; absent for values without one.
        symbolic: shape with the batch's symbol and open dimensions (None) put back.
        batches: batch sizes of the two runs.
        data: values that carry what the inputs say (not only their shapes).
    """

    one: Concrete
    batch_axes: dict[str, int]
    symbolic: dict[str, Shape]
    batches: tuple[int, int]
    data: frozenset[str]

    def elements(self, name: str) -> int:
        """Return the number of elements of a value at the first batch size, 0 if unknown."""
        entry = self.one.get(name)
        return prod(entry[1]) if entry else 0

    def dtype(self, name: str) -> int:
        """Return the element type of a value, UNDEFINED if unknown."""
        entry = self.one.get(name)
        return entry[0] if entry else TensorProto.UNDEFINED


def data_values(model: ModelProto, constants: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the values that carry what the inputs say; shapes and weights do not count."""
    carried = set(data_inputs(model.graph)) - constants
    for node in model.graph.node:
        if node.op_type in ("Shape", "Size"):
            continue
        if carried.intersection(reads(node)):
            carried |= {name for name in node.output if name}
    return frozenset(carried)


def trace(
    model: ModelProto,
    *,
    observe: Observe | None = None,
    needed: Callable[[Concrete], bool] | None = None,
    known: Mapping[str, int] | None = None,
) -> Shapes:
    """Infer the shapes of all values and where the batch lies.

    Args:
        model: normalized model; its batch should be a symbol (see `surgeon.graph.batch`).
        observe: runs the graph at given input sizes; asked only where inference is blind.
        needed: says of an inference's result whether it is enough; default: every data value.
        known: sizes of symbols that are known, such as a picture's side.
    """
    infos = input_infos(model)
    bones = skeleton(model)
    data = data_values(model)

    def enough(found: Concrete) -> bool:
        return needed(found) if needed else all(name in found for name in data)

    def at(batch: int, *, larger: bool) -> Concrete:
        sizes = input_sizes(infos, batch, larger=larger, known=None if larger else known)
        found = infer(bones, sizes)
        if observe is None or enough(found):
            return found
        for factor in FACTORS[:1] if larger or known else FACTORS:
            scaled = _scaled(infos, sizes, factor)
            inferred = found if scaled == sizes else infer(bones, scaled)
            if max(map(prod, scaled.values()), default=0) > GUESSED and scaled != sizes:
                continue
            seen = observe(model, scaled, frozenset(inferred)) if runs_small(inferred) else {}
            if seen:
                return {**inferred, **seen}
        return found

    fixed = fixed_batch(infos)
    if fixed is not None:
        return _nailed(at(fixed, larger=False), infos, fixed, data)
    one = at(BATCHES[0], larger=False)
    two = at(BATCHES[1], larger=True)
    if any(name in one and name not in two for name in data):
        two = at(BATCHES[1], larger=False)
    axes, symbolic = _compared(one, two, data, _batch_symbol(infos))
    for info in infos:
        if info.batch_axis is not None:
            axes[info.name] = info.batch_axis
        if info.shape is not None:
            symbolic[info.name] = info.shape
    return Shapes(one, axes, symbolic, BATCHES, data)


def _compared(
    one: Concrete, two: Concrete, data: Collection[str], symbol: Dim
) -> tuple[dict[str, int], dict[str, Shape]]:
    """Return batch axes and symbolic shapes, by comparing the shapes at two batches."""
    axes: dict[str, int] = {}
    symbolic: dict[str, Shape] = {}
    for name, (_, dims) in one.items():
        other = two.get(name)
        if other is None or len(other[1]) != len(dims):
            if other is None:
                symbolic[name] = dims
            continue
        moving = [
            axis for axis, pair in enumerate(zip(dims, other[1], strict=True)) if pair == BATCHES
        ]
        if name in data and len(moving) == 1:
            axes[name] = moving[0]
        shape: list[Dim] = []
        for axis, (a, b) in enumerate(zip(dims, other[1], strict=True)):
            if axes.get(name) == axis:
                shape.append(symbol)
            else:
                shape.append(a if a == b else None)
        symbolic[name] = tuple(shape)
    return axes, symbolic


FACTORS = (1.0, 0.5, 0.25, 2.0, 4.0, 16.0)
"""Sizes tried for open dimensions where a graph does not run at the typical ones."""


def _scaled(
    infos: list[TensorInfo], sizes: Mapping[str, tuple[int, ...]], factor: float
) -> dict[str, tuple[int, ...]]:
    """Return input sizes with every open dimension but the batch multiplied."""
    result = dict(sizes)
    for info in infos:
        if info.shape is not None and info.name in sizes:
            result[info.name] = tuple(
                size
                if axis == info.batch_axis or isinstance(dim, int)
                else max(1, round(size * factor))
                for axis, (size, dim) in enumerate(zip(sizes[info.name], info.shape, strict=True))
            )
    return result


def fixed_batch(infos: list[TensorInfo]) -> int | None:
    """Return the number a graph's batch is nailed to, or None where it is a symbol."""
    for info in infos:
        if info.batch_axis is not None and info.shape is not None:
            dim = info.shape[info.batch_axis]
            if isinstance(dim, int):
                return dim
    return None


def _nailed(one: Concrete, infos: list[TensorInfo], fixed: int, data: frozenset[str]) -> Shapes:
    """Read shapes off a graph whose batch is a number: the first axis of that size carries it."""
    axes = {
        name: dims.index(fixed) for name, (_, dims) in one.items() if name in data and fixed in dims
    }
    for info in infos:
        if info.batch_axis is not None:
            axes[info.name] = info.batch_axis
    symbolic: dict[str, Shape] = {name: tuple(dims) for name, (_, dims) in one.items()}
    return Shapes(one, axes, symbolic, (fixed, fixed), data)


def _batch_symbol(infos: list[TensorInfo]) -> Dim:
    for info in infos:
        if info.batch_axis is not None and info.shape is not None:
            dim = info.shape[info.batch_axis]
            return dim if dim is not None else "batch"
    return "batch"


MACS_BY_WEIGHT = frozenset({"Conv", "FusedConv", "ConvInteger", "QLinearConv", "NhwcFusedConv"})
MATRIX = frozenset(
    {"MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat",
     "DynamicQuantizeMatMul"}
)  # fmt: skip


def macs(node: onnx.NodeProto, shapes: Concrete) -> int:
    """Return the multiply-adds of one node at the given shapes; others count their outputs.

    Element-wise operators, pooling and data movement count one per output element.
    """

    def dims(slot: int) -> tuple[int, ...] | None:
        if slot >= len(node.input) or not node.input[slot]:
            return None
        entry = shapes.get(node.input[slot])
        return entry[1] if entry else None

    out = sum(prod(shapes[name][1]) for name in node.output if name and name in shapes)
    kind = node.op_type
    if kind in MACS_BY_WEIGHT:
        weight = dims(3 if kind == "QLinearConv" else 1)
        return out * prod(weight[1:]) if weight else out
    if kind == "ConvTranspose":
        data, weight = dims(0), dims(1)
        return prod(data) * prod(weight[1:]) if data and weight else out
    if kind in MATRIX:
        left = dims(0)
        return out * left[-1] if left else out
    if kind in ("Gemm", "FusedGemm", "QGemm"):
        left = dims(0)
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        return out * left[0 if turned else -1] if left else out
    if kind in ("LSTM", "GRU", "RNN"):
        data, weight, recurrent = dims(0), dims(1), dims(2)
        if data and weight and recurrent:
            return data[0] * data[1] * (prod(weight) + prod(recurrent))
    if kind in ("Attention", "MultiHeadAttention") and (data := dims(0)):
        weight = dims(1)
        length = data[-2] if len(data) > 1 else 1
        return (out * weight[0] if weight else out) + 2 * out * length
    return max(out, 0)


def tensor_info(name: str, shapes: Shapes) -> TensorInfo:
    """Return the description of one value."""
    return TensorInfo(
        name,
        type_name(shapes.dtype(name)),
        shapes.symbolic.get(name),
        shapes.batch_axes.get(name),
    )


def make_value(name: str, kind: int, shape: Shape | None) -> onnx.ValueInfoProto:
    """Return a ValueInfoProto; None dims are left open."""
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))
