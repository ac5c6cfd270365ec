"""The gate: what every file must hold before anything else looks at it.

A file may come from anywhere. What passes here can be trusted behind: texts are UTF-8, every tensor
has exactly the values its shape and type say, attributes are what the specification says they are,
no value is made twice, functions end, and nothing constant asks for more memory than a file of
weights may need. All of it is counted, nothing is computed, and no value of a weight is touched.

What must not enter: anything that ONNX Runtime runs. A file that is odd and runs stays in.
"""

from __future__ import annotations

import functools
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper

from surgeon.errors import ModelError
from surgeon.graph.walk import attribute, subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto

DEPTH = 64
"""Graphs that may lie in each other."""

LARGEST = 2**28
"""Elements that a value made of nothing but a shape may have."""

LARGEST_INPUT = 2**36
"""Elements that the fixed dimensions of a graph input may multiply to."""

LONGEST = 2**20
"""Nodes that a graph may have once its functions stand in it."""

STANDARD = ("", "ai.onnx")

_PER_VALUE: dict[int, int] = {TensorProto.COMPLEX64: 2, TensorProto.COMPLEX128: 2}
"""Entries of a typed field that hold one element, where it is not one."""

_PACKED: dict[int, int] = {
    TensorProto.INT4: 2, TensorProto.UINT4: 2, TensorProto.FLOAT4E2M1: 2,
    TensorProto.INT2: 4, TensorProto.UINT2: 4,
}  # fmt: skip
"""Elements that share a byte."""

_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.COMPLEX64: "float_data",
    TensorProto.DOUBLE: "double_data", TensorProto.COMPLEX128: "double_data",
    TensorProto.INT64: "int64_data", TensorProto.STRING: "string_data",
    TensorProto.UINT32: "uint64_data", TensorProto.UINT64: "uint64_data",
}  # fmt: skip
"""Typed field of every element type; the others are in int32_data."""

_CONTENT: dict[int, str] = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t", AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor", AttributeProto.TYPE_PROTO: "tp",
}  # fmt: skip
"""Field of every kind of attribute that holds one thing; lists may be empty."""


def check(model: ModelProto, where: str) -> None:
    """Refuse what cannot be read as the graph it says it is.

    Raises:
        ModelError: naming the tensor, node or input.
    """
    gate = _Gate(model, where)
    gate.texts()
    gate.functions()
    gate.graph(model.graph, 0)
    for function in model.functions:
        gate.nodes(function.node, 0)


def _refusal(what: str, where: str, remedy: str = "") -> ModelError:
    return ModelError(
        what, where=where, remedy=remedy or "the file is damaged or was edited; export it again"
    )


class _Gate:
    """One pass over a model."""

    def __init__(self, model: ModelProto, where: str) -> None:
        self.model = model
        self.where = where
        self.local: dict[tuple[str, str], tuple[int, int]] = {}
        self.versions: dict[str, int] = {}

    def at(self, what: str) -> str:
        return f"{self.where}: {what}"

    # ── texts ────────────────────────────────────────────────────────────────────────────────────

    def texts(self) -> None:
        """Refuse texts that are not UTF-8, wherever they stand; nothing behind expects them."""
        model = self.model
        graph = model.graph
        parts: list[tuple[str, Iterable[Any]]] = [
            ("initializer", graph.initializer),
            ("sparse initializer", graph.sparse_initializer),
            ("node", graph.node),
            ("input", graph.input),
            ("output", graph.output),
            ("value", graph.value_info),
            ("function", model.functions),
            ("metadata entry", model.metadata_props),
            ("operator set", model.opset_import),
        ]
        for what, messages in parts:
            for index, message in enumerate(messages):
                self._readable(message, f"{what} {index}", 0)
        own = (model.producer_name, model.producer_version, model.domain, model.doc_string)
        if any(isinstance(text, bytes) for text in (*own, graph.name, graph.doc_string)):
            raise self._garbled("the model's own texts")
        self.versions = {
            ("" if item.domain in STANDARD else item.domain): item.version
            for item in model.opset_import
        }
        if not 0 < model.ir_version < 2**31:
            raise _refusal(f"there is no IR version {model.ir_version}", self.at("ir_version"))
        for domain, version in self.versions.items():
            if version < 1 or version > 2**31 - 1:
                raise _refusal(
                    f"there is no operator set {version} of {domain or 'ai.onnx'!r}",
                    self.at("opset_import"),
                )

    def _readable(self, message: Any, what: str, depth: int) -> None:
        if depth > 4 * DEPTH:
            raise _refusal(f"graphs or types lie in each other {DEPTH} deep", self.at(what))
        try:
            fields = message.ListFields()
            texts = [value for field, value in fields if field.type == field.TYPE_STRING]
            # protobuf gives what is no text as bytes, or does not give it
            garbled = any(
                isinstance(text, bytes)
                for value in texts
                for text in (value if _several(value) else (value,))
            )
        except UnicodeDecodeError as error:
            raise self._garbled(what) from error
        if garbled:
            raise self._garbled(what)
        for field, value in fields:
            if field.message_type is None:
                continue
            inner = value if _several(value) else (value,)
            for part in inner:
                self._readable(part, what, depth + 1)

    def _garbled(self, what: str) -> ModelError:
        return _refusal("a name or text is not UTF-8", self.at(what))

    # ── functions ────────────────────────────────────────────────────────────────────────────────

    def functions(self) -> None:
        """Refuse functions that call themselves, or that unfold into a graph without end."""
        table = {(f.domain, f.name, f.overload): f for f in self.model.functions}
        self.local = {
            (f.domain, f.name): (len(f.input), len(f.output)) for f in self.model.functions
        }
        sizes: dict[tuple[str, str, str], int] = {}

        def called(nodes: Iterable[NodeProto]) -> Iterator[tuple[tuple[str, str, str], NodeProto]]:
            for node in nodes:
                yield (node.domain, node.op_type, node.overload), node
                for _, inner in subgraphs(node):
                    yield from called(inner.node)

        def size(key: tuple[str, str, str], open_: tuple[tuple[str, str, str], ...]) -> int:
            if key not in table:
                return 1
            if key in open_:
                names = " → ".join(name for _, name, _ in (*open_, key))
                raise _refusal("a function calls itself", self.at(f"function {names}"))
            if key not in sizes:
                if len(open_) > 4 * DEPTH:
                    raise _refusal("functions call each other too deep", self.at(f"{key[1]!r}"))
                sizes[key] = sum(size(k, (*open_, key)) for k, _ in called(table[key].node))
            return sizes[key]

        if not table:
            return
        total = sum(size(key, ()) for key, _ in called(self.model.graph.node))
        if total > LONGEST:
            raise _refusal(
                f"the functions of the model unfold into {total:,} nodes", self.at("functions")
            )

    # ── graphs ───────────────────────────────────────────────────────────────────────────────────

    def graph(self, graph: GraphProto, depth: int) -> None:
        """Check one graph and those inside it."""
        if depth > DEPTH:
            raise _refusal(f"graphs lie in each other more than {DEPTH} deep", self.at(graph.name))
        for tensor in graph.initializer:
            self.tensor(tensor, f"initializer {tensor.name!r}")
        for sparse in graph.sparse_initializer:
            self.sparse(sparse, f"sparse initializer {sparse.values.name!r}")
        self._made_once(graph)
        for value in graph.input:
            self._input(value)
        self.nodes(graph.node, depth)
        self._bounded(graph)

    def _made_once(self, graph: GraphProto) -> None:
        """Refuse a value that two nodes make: which one is meant, only an order could say."""
        given = {value.name: "an input" for value in graph.input}
        if len(given) < len(graph.input):
            names = [value.name for value in graph.input]
            twice = next(name for name in names if names.count(name) > 1)
            raise _refusal("two graph inputs have one name", self.at(f"input {twice!r}"))
        given |= {tensor.name: "an initializer" for tensor in graph.initializer}
        given |= {tensor.values.name: "an initializer" for tensor in graph.sparse_initializer}
        for index, node in enumerate(graph.node):
            for name in node.output:
                if name and name in given:
                    raise _refusal(
                        f"the value {name!r} is made twice: it is {given[name]} already",
                        self.at(told(node, index)),
                        "export the model again; every value of a graph has a name of its own",
                    )
                given[name] = f"made by {told(node, index)}"

    def _input(self, value: Any) -> None:
        if not value.type.HasField("tensor_type"):
            return
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if prod(dim for dim in dims if dim > 0) > LARGEST_INPUT:
            raise _refusal(
                f"the input {value.name!r} of shape {dims} fits into no memory",
                self.at(f"input {value.name!r}"),
            )
        kind = value.type.tensor_type.elem_type
        if kind not in TensorProto.DataType.values():
            raise _refusal(f"element type {kind} is unknown", self.at(f"input {value.name!r}"))

    def nodes(self, nodes: Iterable[NodeProto], depth: int) -> None:
        """Check the nodes of a graph or function: their attributes, and what the schema wants."""
        for index, node in enumerate(nodes):
            where = self.at(told(node, index))
            if not node.op_type:
                raise _refusal("a node has no operator", where)
            if len({item.name for item in node.attribute}) < len(node.attribute):
                raise _refusal("a node has two attributes of one name", where)
            for item in node.attribute:
                self._attribute(item, f"{told(node, index)}, attribute {item.name!r}")
            self._as_specified(node, where)
            for name, inner in subgraphs(node):
                if node.op_type == "If" and len(inner.output) != len(node.output):
                    raise _refusal(
                        f"{name} makes {len(inner.output)} values, the node {len(node.output)}",
                        where,
                    )
                self.graph(inner, depth + 1)

    def _attribute(self, item: AttributeProto, what: str) -> None:
        if item.ref_attr_name:
            return
        field = _CONTENT.get(item.type)
        if field is None and item.type not in AttributeProto.AttributeType.values():
            raise _refusal(f"attribute type {item.type} is unknown", self.at(what))
        if item.type == AttributeProto.UNDEFINED and self.model.ir_version > 1:
            raise _refusal("the attribute has no type", self.at(what))
        if field is not None and field not in "fis" and not item.HasField(field):
            raise _refusal("the attribute is empty", self.at(what))
        if item.type == AttributeProto.TENSOR:
            self.tensor(item.t, what)
        elif item.type == AttributeProto.TENSORS:
            for tensor in item.tensors:
                self.tensor(tensor, what)
        elif item.type == AttributeProto.SPARSE_TENSOR:
            self.sparse(item.sparse_tensor, what)
        elif item.type == AttributeProto.SPARSE_TENSORS:
            for sparse in item.sparse_tensors:
                self.sparse(sparse, what)

    def _as_specified(self, node: NodeProto, where: str) -> None:
        """Refuse what the operator's own schema excludes, as ONNX Runtime does when it loads."""
        if not node.output:
            raise _refusal("a node makes nothing", where)
        domain = "" if node.domain in STANDARD else node.domain
        local = self.local.get((node.domain, node.op_type))
        if local is not None:
            taken, made = local
            if len(node.input) > taken or len(node.output) > made:
                raise _refusal(
                    f"the function {node.op_type} has {taken} inputs and {made} outputs; the node "
                    f"has {len(node.input)} and {len(node.output)}",
                    where,
                )
            return
        newest = defs.onnx_opset_version()
        version = min(self.versions.get("", newest), newest)
        schema = None if domain else _schema(node.op_type, version)
        if schema is None:
            return
        given = len(node.input)
        if not schema.min_input <= given <= schema.max_input:
            raise _refusal(
                f"{node.op_type} takes {_range(schema.min_input, schema.max_input)} inputs, the "
                f"node has {given}",
                where,
            )
        if not max(schema.min_output, 1) <= len(node.output) <= schema.max_output:
            raise _refusal(f"{node.op_type} does not make {len(node.output)} outputs", where)
        for name, formal in zip(node.input, schema.inputs, strict=False):
            if not name and formal.option == defs.OpSchema.FormalParameterOption.Single:
                raise _refusal(f"{node.op_type} lacks its input {formal.name!r}", where)
        self._attributes_as_specified(node, schema, where)

    def _attributes_as_specified(self, node: NodeProto, schema: Any, where: str) -> None:
        present = {item.name: item for item in node.attribute}
        for name, formal in schema.attributes.items():
            item = present.get(name)
            if item is None:
                if formal.required:
                    raise _refusal(f"{node.op_type} lacks its attribute {name!r}", where)
            elif item.type not in (int(formal.type.value), AttributeProto.UNDEFINED):
                kinds = AttributeProto.AttributeType
                raise _refusal(
                    f"attribute {name!r} of {node.op_type} is {kinds.Name(item.type)}, not "
                    f"{kinds.Name(int(formal.type.value))}",
                    where,
                )
        if node.op_type == "Constant" and not node.attribute:
            raise _refusal("a Constant holds no value", where)

    # ── tensors ──────────────────────────────────────────────────────────────────────────────────

    def tensor(self, tensor: TensorProto, what: str) -> None:
        """Refuse a tensor whose values are more or fewer than its shape says."""
        kind = tensor.data_type
        if kind == TensorProto.UNDEFINED or kind not in TensorProto.DataType.values():
            raise _refusal(f"element type {kind} is unknown", self.at(what))
        dims = list(tensor.dims)
        if any(dim < 0 for dim in dims):
            raise _refusal(f"the shape {dims} has a negative dimension", self.at(what))
        if tensor.data_location == TensorProto.EXTERNAL:
            if kind == TensorProto.STRING:
                raise _refusal("texts cannot lie in another file", self.at(what))
            return  # `external` compares its place with the file
        count = prod(dims)
        if tensor.HasField("raw_data") and kind != TensorProto.STRING:
            found, wanted, unit = len(tensor.raw_data), stored_bytes(kind, count), "bytes"
        else:
            found = len(getattr(tensor, _FIELDS.get(kind, "int32_data")))
            wanted, unit = count * _PER_VALUE.get(kind, 1), "values"
            if kind in _PACKED:
                wanted = -(-count // _PACKED[kind])
        if found != wanted:
            raise _refusal(
                f"a tensor of shape {dims} has {wanted} {unit}; the file holds {found}",
                self.at(what),
            )
        if kind == TensorProto.STRING:
            try:
                for text in tensor.string_data:
                    text.decode()
            except UnicodeDecodeError as error:
                raise self._garbled(what) from error

    def sparse(self, sparse: SparseTensorProto, what: str) -> None:
        """Refuse a sparse tensor whose entries lie outside it, or that is too large when dense."""
        self.tensor(sparse.values, f"{what}, values")
        self.tensor(sparse.indices, f"{what}, indices")
        dims = list(sparse.dims)
        if any(dim < 0 for dim in dims) or prod(dims) > LARGEST:
            raise _refusal(f"no dense tensor can have the shape {dims}", self.at(what))
        values = list(sparse.values.dims)
        shape = list(sparse.indices.dims)
        if (
            sparse.indices.data_type != TensorProto.INT64
            or len(values) != 1
            or (shape not in (values, [*values, len(dims)]))
        ):
            raise _refusal(
                f"{shape} indices do not fit {values} values of a tensor of shape {dims}",
                self.at(what),
            )
        if TensorProto.EXTERNAL in (sparse.values.data_location, sparse.indices.data_location):
            raise _refusal("a sparse tensor lies in another file", self.at(what))
        indices = numpy_helper.to_array(sparse.indices)
        limits = np.asarray(dims if len(shape) == 2 else [prod(dims)], np.int64)
        if indices.size and ((indices < 0).any() or (indices >= limits).any()):
            raise _refusal(f"an index lies outside the shape {dims}", self.at(what))

    # ── memory ───────────────────────────────────────────────────────────────────────────────────

    def _bounded(self, graph: GraphProto) -> None:
        """Refuse a value of a constant shape that no memory would hold."""
        makers = [node for node in graph.node if node.op_type in _GROWING]
        if not makers:
            return
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            value = attribute(node, "value") if node.op_type == "Constant" else None
            if value is not None:
                constants[node.output[0]] = value.t
        for node in makers:
            size = made_elements(node, constants)
            if size is not None and size > LARGEST:
                raise _refusal(
                    f"{node.op_type} makes a value of {size:,} elements",
                    self.at(told(node, 0)),
                    "no machine this is meant for holds it; export the model at its usual size",
                )


def _several(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__len__")


def told(node: NodeProto, index: int) -> str:
    """Return how messages call a node, whatever it lacks."""
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type or "nameless"
    if node.name:
        return f"{kind} node {node.name!r}"
    made = next((name for name in node.output if name), None)
    return f"{kind} node making {made!r}" if made else f"{kind} node {index}"


def stored_bytes(kind: int, count: int) -> int:
    """Return the bytes of `count` elements of a type, as a file stores them."""
    if kind in _PACKED:
        return -(-count // _PACKED[kind])
    return int(count * helper.tensor_dtype_to_np_dtype(kind).itemsize)


@functools.cache
def _schema(name: str, version: int) -> Any:
    """Return the schema of a standard operator, None where that version has none."""
    try:
        return defs.get_schema(name, version, "")
    except defs.SchemaError:
        return None


def _range(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"{low} or more" if high > 2**30 else f"{low} to {high}"


_GROWING = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Range": 1}
"""Operators whose output is as large as the values of an input say: which one."""


def made_elements(node: NodeProto, constants: Mapping[str, TensorProto]) -> int | None:
    """Return how many elements a node makes whose size is constant, None where that is not known.

    Of Expand and Tile at least that many: the shape, or the repeats, alone.
    """
    found = [
        _numbers(constants.get(name)) if name else None
        for name in list(node.input)[: 3 if node.op_type == "Range" else 2]
    ]
    slot = _GROWING.get(node.op_type)
    if slot is None or len(found) <= slot or found[slot] is None:
        return None
    if node.op_type == "Range":
        if len(found) < 3 or any(item is None or len(item) != 1 for item in found):
            return None
        start, limit, delta = (item[0] for item in found if item is not None)
        return max(int((limit - start) // delta), 0) if delta else None
    sizes = found[slot]
    assert sizes is not None
    return prod(int(size) for size in sizes if size > 0)


def _numbers(tensor: TensorProto | None) -> list[Any] | None:
    if tensor is None or prod(tensor.dims) > 64 or tensor.data_type == TensorProto.STRING:
        return None
    if tensor.data_location == TensorProto.EXTERNAL:
        return None
    values: list[Any] = numpy_helper.to_array(tensor).reshape(-1).tolist()
    return values
