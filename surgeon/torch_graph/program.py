"""A normalized ONNX graph as ordered steps of torch functions.

The program is built once and run many times, so everything that can be known early is: which
function an operator is, which inputs are values of the host, which nodes compute constants.
What must not enter: the meaning of an operator (`surgeon.ops`), parameters as modules
(`surgeon.torch_graph.module`).
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import onnx
import torch
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, inliner
from torch import Tensor

from surgeon.errors import ModelError, SurgeonError, UnsupportedError
from surgeon.graph.bounds import infer_shapes
from surgeon.ops import convert, host
from surgeon.ops.host import Host
from surgeon.ops.registry import FunctionBody, Operator, Parameter, canonical, lookup
from surgeon.torch_graph.stored import as_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

RANDOM: Final = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Operators whose result is never a constant, whatever their inputs are."""

FOLD_LIMIT: Final = 1 << 24
"""Elements up to which a computed constant is kept instead of computed again in every run."""

_MOVERS: Final = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape",
     "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)  # fmt: skip
"""Operators that give some elements of their first input (all inputs of Concat), unchanged."""

_PLAIN_KINDS: Final = frozenset({"tensor", "number", "any"})


class Context(NamedTuple):
    """What a run knows beyond its values."""

    training: bool
    device: torch.device


class Argument(NamedTuple):
    """One positional input of a step.

    Attributes:
        source: name in the environment, or None where `value` is the input.
        value: a value known when the program was built.
        kind: what the operator's parameter wants.
        host: the constant as a host array, for shape arithmetic.
    """

    source: str | None
    value: Any
    kind: str
    host: Host | None = None


class Step(NamedTuple):
    """One node: a function and where its inputs come from.

    Attributes:
        node: name of the node, or its first output where it has none.
        operator: `domain Operator-version`, for messages.
        call: the function.
        arguments: positional inputs.
        keywords: attributes and what is injected, as far as known.
        injected: keywords filled at run time (`training`, `device`).
        subgraphs: attributes that are graphs.
        outputs: names in the environment, empty where nobody asked.
        frees: names nobody needs afterwards.
        hosted: the same operator on host arrays, where its inputs may be such.
        plain: no input needs a conversion.
    """

    node: str
    operator: str
    call: Callable[..., Any]
    arguments: tuple[Argument, ...]
    keywords: Mapping[str, Any]
    injected: frozenset[str]
    subgraphs: Mapping[str, Program]
    outputs: tuple[str, ...]
    hosted: Callable[..., Any] | None = None
    plain: bool = True
    frees: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order, with the names that enter and leave.

    Attributes:
        inputs: names of the graph's inputs, in order.
        outputs: where the graph's outputs come from, in order.
        steps: what is done.
        weights: initializers read at run time, in order of first use.
        constants: tensors computed or read when the program was built, by name.
        captures: for a subgraph, names it reads from around it.
        declared: for a subgraph, shape (0 where unknown) and dtype of every output.
        takes: for a subgraph, the ones that the shape of every input consists of, if it does.
    """

    inputs: tuple[str, ...]
    outputs: tuple[Argument, ...]
    steps: tuple[Step, ...]
    weights: tuple[str, ...] = ()
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    captures: tuple[str, ...] = ()
    declared: tuple[tuple[tuple[int, ...], torch.dtype], ...] = ()
    takes: tuple[tuple[int, ...], ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self  # immutable; the tensors live in the module

    def without_constants(self) -> Program:
        """Return the program alone, for a module that holds the tensors."""
        return replace(self, constants={})


@dataclass(frozen=True)
class Known:
    """A value known when the program is built, under its name in the environment."""

    key: str
    value: Any


def build(proto: ModelProto, roles: Mapping[str, str], quantized: Collection[str] = ()) -> Program:
    """Turn a normalized model into a program.

    Args:
        proto: the model; local functions are inlined, initializers hold their data.
        roles: role of every float initializer; `parameter` and `statistics` are read at every run,
            the others may be folded into constants.
        quantized: integer initializers that are read at every run too, as whole floats.

    Raises:
        UnsupportedError: an operator, version or form that is not converted, with its node.
        ModelError: the graph is not valid (a value nobody makes, a broken tensor).
    """
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    return _Builder(proto, roles, quantized).main()


def unsupported(proto: ModelProto) -> list[UnsupportedError]:
    """Return an error for every node whose operator or version is not converted, all at once.

    Nodes in subgraphs and local functions count; options that an operator refuses show only when it
    is converted or run.
    """
    found = []
    for node, _, error in unconverted(proto, proto.graph.node):
        label = node.name or next((o for o in node.output if o), node.op_type)
        where = f"node {label!r} ({canonical(node.domain) or 'ai.onnx'} {node.op_type})"
        found.append(UnsupportedError(error.message, where=where, remedy=error.remedy))
    return found


def unconverted(
    proto: ModelProto, nodes: Iterable[NodeProto]
) -> Iterator[tuple[NodeProto, int | None, UnsupportedError]]:
    """Yield what of some nodes of a model is not converted: node, its domain's opset, the error."""
    for node, opset in operators(proto, nodes):
        try:
            lookup(canonical(node.domain), node.op_type, opset or 1)
        except UnsupportedError as error:
            yield node, opset, error


def operators(
    proto: ModelProto, nodes: Iterable[NodeProto]
) -> Iterator[tuple[NodeProto, int | None]]:
    """Yield some nodes of a model, those in their subgraphs and in the functions they call.

    A call of a local function is replaced by the function's nodes, once. With every node comes the
    opset of its domain, None where the model states none.
    """
    local = {(canonical(f.domain), f.name): f for f in proto.functions}
    entered: set[tuple[str, str]] = set()

    def visit(
        some: Iterable[NodeProto], versions: Mapping[str, int]
    ) -> Iterator[tuple[NodeProto, int | None]]:
        for node in some:
            key = (canonical(node.domain), node.op_type)
            function = local.get(key)
            if function is None:
                yield node, versions.get(key[0])
            elif key not in entered:
                entered.add(key)
                own = {canonical(o.domain): o.version for o in function.opset_import}
                yield from visit(function.node, {**versions, **own})
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    yield from visit(graph.node, versions)

    return visit(nodes, {canonical(o.domain): o.version for o in proto.opset_import})


class _Builder:
    """Builds the programs of one model: the main graph and the subgraphs in it."""

    def __init__(
        self, proto: ModelProto, roles: Mapping[str, str], quantized: Collection[str]
    ) -> None:
        self.proto = proto
        self.roles = roles
        self.quantized = frozenset(quantized)
        self.opsets = {canonical(o.domain): o.version for o in proto.opset_import}
        self.constants: dict[str, Tensor] = {}
        self.weights: dict[str, None] = {}
        self.bodies = 0
        self._types: dict[str, int] | None = None
        self._typed: dict[str, onnx.TypeProto | onnx.TensorProto] = {}
        self._inferred = False

    def main(self) -> Program:
        graph = self.proto.graph
        scope = _Scope(self, {}, frozenset(), frozenset())
        scope.add_initializers(graph, top=True)
        given = {i.name for i in graph.initializer}
        given |= {i.values.name for i in graph.sparse_initializer}
        inputs = tuple(i.name for i in graph.input if i.name not in given)
        program = scope.finish(graph, inputs)
        used = set(program.captures)
        return replace(
            program,
            weights=tuple(name for name in self.weights if name in used),
            constants={k: v for k, v in self.constants.items() if k in used},
            captures=(),
        )

    def keep(self, name: str, value: Tensor) -> str:
        """Store a constant tensor under a free name and return it."""
        key, number = name, 1
        while key in self.constants and self.constants[key] is not value:
            number += 1
            key = f"{name}#{number}"
        self.constants[key] = value
        return key

    def element_type(self, name: str) -> int:
        """Return the ONNX element type of a value of the model, 0 where nothing tells."""
        if self._types is None:
            self._types = {}
            self._collect(self.proto.graph)
        if name and name not in self._types and not self._inferred:
            self._inferred = True
            try:
                inferred = infer_shapes(_without_weights(self.proto))
            except Exception:  # noqa: BLE001 - any failure of inference means: unknown
                return 0
            self._collect(inferred.graph)
        return self._types.get(name, 0)

    def type_proto(self, name: str) -> onnx.TypeProto:
        """Return the full type of a value, empty where nothing tells."""
        self.element_type(name)
        known = self._typed.get(name)
        if isinstance(known, onnx.TensorProto):
            return onnx.helper.make_tensor_type_proto(known.data_type, list(known.dims))
        return onnx.TypeProto() if known is None else known

    def _collect(self, graph: GraphProto) -> None:
        assert self._types is not None
        for tensor in graph.initializer:
            self._types[tensor.name] = tensor.data_type
            self._typed[tensor.name] = tensor
        for info in (*graph.input, *graph.output, *graph.value_info):
            kind = info.type
            while (which := kind.WhichOneof("value")) not in {"tensor_type", None}:
                if which == "sequence_type":
                    kind = kind.sequence_type.elem_type
                elif which == "optional_type":
                    kind = kind.optional_type.elem_type
                elif which == "map_type":
                    kind = kind.map_type.value_type
                else:
                    break
            if kind.tensor_type.elem_type:
                self._types[info.name] = kind.tensor_type.elem_type
                self._typed[info.name] = info.type
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    self._collect(attribute.g)


def _without_weights(proto: ModelProto) -> ModelProto:
    """Return a copy whose large initializers are inputs, so that inference moves no data."""
    light = ModelProto()
    light.ir_version = max(proto.ir_version, 4)
    light.opset_import.extend(proto.opset_import)
    graph = light.graph
    graph.name = proto.graph.name or "graph"
    graph.input.extend(proto.graph.input)
    listed = {i.name for i in proto.graph.input}
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) <= 1024 and not tensor.external_data:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    graph.output.extend(proto.graph.output)
    graph.node.extend(proto.graph.node)
    return light


class _Scope:
    """One graph under construction: what is known in it, and its steps so far."""

    def __init__(
        self,
        builder: _Builder,
        known: Mapping[str, Known],
        visible: frozenset[str],
        maybe_host: frozenset[str],
    ) -> None:
        self.builder = builder
        self.known = dict(known)
        self.visible = set(visible)  # names with a value at run time
        self.outer = set(visible)  # of those, the ones from around this graph
        self.maybe_host = set(maybe_host)
        self.renamed: dict[str, str] = {}
        self.steps: list[Step] = []
        self.graph = GraphProto()

    @functools.cached_property
    def carried(self) -> set[str]:
        """Quantised values that may travel as floats; asked for by quantised operators only."""
        return carried(self.graph)

    def add_initializers(self, graph: GraphProto, *, top: bool) -> None:
        builder = self.builder
        for proto in graph.initializer:
            name = proto.name
            if top and (proto.data_type in convert.WEIGHT_TYPES or name in builder.quantized):
                builder.weights[name] = None
                self.outer.add(name)
                self.visible.add(name)
                learns = builder.roles.get(name, "constant") in {"parameter", "statistics"}
                if not learns and name not in builder.quantized:
                    self.known[name] = Known(name, as_tensor(proto))
                continue
            self._know(name, as_tensor(proto))
        for sparse in graph.sparse_initializer:
            self._know(sparse.values.name, convert.sparse_tensor(sparse))

    def finish(self, graph: GraphProto, inputs: tuple[str, ...]) -> Program:
        self.visible.update(inputs)
        for name in inputs:  # a formal input hides what is outside
            self.known.pop(name, None)
            self.outer.discard(name)
            self.maybe_host.discard(name)
        self.graph = graph
        for node in graph.node:
            self.add(node, self.builder.opsets)
        outputs = tuple(self.argument(o.name, "any", f"output {o.name!r}") for o in graph.output)
        return self._program(inputs, outputs)

    def _program(self, inputs: tuple[str, ...], outputs: tuple[Argument, ...]) -> Program:
        last: dict[str, int] = {}
        captures: dict[str, None] = {}
        for index, step in enumerate(self.steps):
            reads = [a.source for a in step.arguments if a.source is not None]
            for subgraph in step.subgraphs.values():
                reads += subgraph.captures
            for name in reads:
                last[name] = index
                if name in self.outer or name in self.builder.constants:
                    captures[name] = None
            for name in step.outputs:
                if name:
                    last.setdefault(name, index)
        wanted = {a.source for a in outputs}
        for source in wanted:
            if source is not None and (source in self.outer or source in self.builder.constants):
                captures[source] = None
        frees: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in wanted and name not in captures:
                frees.setdefault(index, []).append(name)
        steps = tuple(
            step._replace(frees=tuple(frees[index])) if index in frees else step
            for index, step in enumerate(self.steps)
        )
        return Program(inputs, outputs, steps, captures=tuple(captures))

    def _know(self, name: str, value: Any) -> None:
        if isinstance(value, Host):
            value = value.tensor()
        key = self.builder.keep(name, value) if isinstance(value, Tensor) else name
        self.known[name] = Known(key, value)

    def argument(self, name: str, kind: str, where: str) -> Argument:
        """Say where an input comes from, converted now where it can be."""
        name = self.renamed.get(name, name)
        if not name:
            return Argument(None, None, kind)
        known = self.known.get(name)
        if known is None:
            if name not in self.visible:
                raise ModelError(
                    f"value {name!r} is read, but nothing makes it",
                    where=where,
                    remedy="the graph is broken; check it with onnx.checker",
                )
            return Argument(name, None, kind)
        if isinstance(known.value, Tensor):
            small = host.of_tensor(known.value)
            if kind in {"tensor", "any"} or (kind == "number" and known.value.numel() != 1):
                return Argument(known.key, None, kind, small)
            return Argument(None, as_kind(known.value, kind, None), kind, small)
        return Argument(None, known.value, kind)

    def add(self, node: NodeProto, opsets: Mapping[str, int]) -> None:
        """Append the steps of one node, or fold it."""
        domain = canonical(node.domain)
        label = node.name or next((o for o in node.output if o), node.op_type)
        where = f"node {label!r} ({domain or 'ai.onnx'} {node.op_type})"
        try:
            opset = opsets.get(domain)
            if opset is None:
                if domain in {"", "ai.onnx.ml"}:
                    raise ModelError(
                        f"the model imports no opset of domain {domain or 'ai.onnx'!r}"
                    )
                opset = 1
            meaning = lookup(domain, node.op_type, opset)
            if isinstance(meaning, FunctionBody):
                self._inline(node, meaning, opsets)
            else:
                self._step(node, meaning, label, where)
        except SurgeonError as error:
            if error.where is None or where not in error.where:
                error.where = where if error.where is None else f"{where}: {error.where}"
            raise

    def _step(self, node: NodeProto, meaning: Operator, label: str, where: str) -> None:
        keywords = dict(meaning.defaults)
        graphs: dict[str, GraphProto] = {}
        for attribute in node.attribute:
            wanted = meaning.attributes.get(attribute.name)
            if wanted is None:
                if attribute.name == "consumed_inputs":
                    continue
                raise UnsupportedError(
                    f"attribute {attribute.name!r} is not one of {node.op_type}-{meaning.version}",
                    remedy="the file is not valid for the opset it declares",
                )
            if attribute.type == onnx.AttributeProto.GRAPH:
                graphs[attribute.name] = attribute.g
                continue
            keywords[attribute.name] = convert.attribute(attribute, wanted.kind)
        for name, wanted in meaning.attributes.items():
            if name in keywords or name in graphs:
                continue
            if self._must_fill(meaning.function, name):
                if not wanted.optional:
                    raise ModelError(f"attribute {name!r} is missing")
                keywords[name] = None
        parameters = self._parameters(node, meaning)
        names = list(node.input)
        while names and not names[-1]:
            names.pop()
        arguments = tuple(
            self.argument(name, parameter.kind, where)
            for name, parameter in zip(names, parameters, strict=False)
        )
        if len(names) < len(meaning.inputs):
            missing = meaning.inputs[len(names)]
            if not missing.optional and missing.name not in keywords:
                raise ModelError(f"input {missing.name!r} is missing")
        outputs = tuple(node.output)
        if "outputs" in meaning.injected:
            keywords["outputs"] = len(outputs)
        if "input_types" in meaning.injected:
            keywords["input_types"] = tuple(self.builder.element_type(n) for n in node.input)
        if "output_types" in meaning.injected:
            keywords["output_types"] = tuple(self.builder.element_type(n) for n in outputs)
        if "carried" in meaning.injected:
            keywords["carried"] = outputs[0] in self.carried
        leading = {"steps": self._leading(keywords)} if "steps" in meaning.injected else {}
        version = f"-{meaning.version}" if meaning.version else ""
        step = Step(
            node=label,
            operator=f"{meaning.domain or 'ai.onnx'} {meaning.name}{version}",
            call=meaning.function,
            arguments=arguments,
            keywords=keywords,
            injected=meaning.injected & {"training", "device"},
            subgraphs={**{n: self._subgraph(g) for n, g in graphs.items()}, **leading},
            outputs=outputs,
        )
        sources = [a.source for a in arguments if a.source is not None]
        dynamic = [s for s in sources if s in self.maybe_host]
        constant = all(s in self.builder.constants or self._is_known(s) for s in sources)
        foldable = constant and not step.subgraphs and meaning.name not in RANDOM
        if foldable and "training" not in meaning.injected and self._fold(step):
            return
        hosted = None
        if not meaning.domain and dynamic:
            hosted = host.OPERATORS.get(meaning.name)
            others = [a for a in arguments if a.source is not None and a.source not in dynamic]
            if any(a.host is None for a in others):
                hosted = None
        plain = all(
            a.source is None or (a.kind in _PLAIN_KINDS and a.source not in self.maybe_host)
            for a in arguments
        )
        if hosted is not None or not plain:
            step = step._replace(hosted=hosted, plain=False)
        self.steps.append(step)
        made = {o for o in outputs if o}
        self.visible |= made
        self.outer -= made
        for name in made:
            self.known.pop(name, None)
        if hosted is not None or (not meaning.domain and meaning.name in {"Shape", "Size"}):
            self.maybe_host |= made

    @staticmethod
    @functools.cache
    def _must_fill(function: Callable[..., Any], name: str) -> bool:
        """Tell whether an absent attribute is a keyword that the function cannot do without."""
        defaults = getattr(function, "__kwdefaults__", None) or {}
        code = getattr(function, "__code__", None)
        if code is None:
            return False
        only = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        return name in only and name not in defaults

    @staticmethod
    def _parameters(node: NodeProto, meaning: Operator) -> list[Parameter]:
        parameters = list(meaning.inputs)
        surplus = len(node.input) - len(parameters)
        if surplus > 0:
            if meaning.rest is None:
                raise ModelError(f"{len(node.input)} inputs, {len(parameters)} are allowed")
            parameters += [Parameter("rest", meaning.rest, optional=True)] * surplus
        return parameters

    def _leading(self, keywords: Mapping[str, Any]) -> Program:
        """Return the steps made so far that compute the value `y` from the values `xs` and `zs`."""
        start = (*keywords["xs"], *(keywords["zs"] or ()))
        wanted, chosen = {keywords["y"]} - set(start), []
        for step in reversed(self.steps):
            if wanted & set(step.outputs):
                chosen.append(step)
                reads = {a.source for a in step.arguments if a.source is not None}
                wanted |= reads - set(start)
        slice_ = _Scope(self.builder, self.known, frozenset(self.visible), frozenset())
        slice_.outer -= {o for step in chosen for o in step.outputs} | set(start)
        slice_.steps = [step._replace(frees=()) for step in reversed(chosen)]
        return slice_._program(start, (Argument(keywords["y"], None, "any"),))

    def _is_known(self, source: str) -> bool:
        return source in self.known and self.known[source].key == source

    def _subgraph(self, graph: GraphProto) -> Program:
        inner = _Scope(
            self.builder, self.known, frozenset(self.visible), frozenset(self.maybe_host)
        )
        inner.renamed = dict(self.renamed)
        inner.add_initializers(graph, top=False)
        program = inner.finish(graph, tuple(i.name for i in graph.input))
        shapes = (_declared(i.type.tensor_type)[0] for i in graph.input)
        return replace(
            program,
            declared=tuple(_declared(o.type.tensor_type) for o in graph.output),
            takes=tuple(shape if set(shape) == {1} else () for shape in shapes),
        )

    def _fold(self, step: Step) -> bool:
        """Run a step whose inputs are all constants; return whether its results were kept."""
        environment: dict[str, Any] = {}
        for argument in step.arguments:
            if argument.source is not None:
                value = self.builder.constants.get(argument.source)
                if value is None:  # a setting: it is read under its own name
                    value = self.known[argument.source].value
                environment[argument.source] = value
        if step.arguments and all(a.source is None and a.value is None for a in step.arguments):
            return False
        context = Context(training=False, device=torch.device("cpu"))
        with torch.no_grad():
            execute((step._replace(plain=False),), environment, context)
        made = {name: environment[name] for name in step.outputs if name and name in environment}
        for value in made.values():
            if not isinstance(value, Tensor | Host | np.ndarray):
                return False
            if isinstance(value, Tensor) and value.numel() > FOLD_LIMIT:
                return False
        for name, value in made.items():
            kept = value
            if isinstance(value, Tensor) and value.untyped_storage().nbytes() > value.nbytes:
                kept = value.clone()  # an expanded or sliced view would keep more than it shows
            self._know(name, kept.contiguous() if isinstance(kept, Tensor) else kept)
        return True

    def _inline(self, node: NodeProto, body: FunctionBody, opsets: Mapping[str, int]) -> None:
        """Append the nodes of an operator's own definition in its place."""
        function = self._function(node, body)
        builder = self.builder
        builder.bodies += 1
        prefix = f"{node.name or node.op_type}#{builder.bodies}/"
        mapping: dict[str, str] = {"": ""}
        for position, formal in enumerate(function.input):
            mapping[formal] = node.input[position] if position < len(node.input) else ""
        for position, formal in enumerate(function.output):
            actual = node.output[position] if position < len(node.output) else ""
            mapping[formal] = actual or f"{prefix}{formal}"
        attributes = {a.name: a for a in function.attribute_proto}
        for name, default in body.schema.attributes.items():
            if default.default_value.type:
                attributes.setdefault(name, default.default_value)
        attributes.update({a.name: a for a in node.attribute})
        inner = {**opsets, **{canonical(o.domain): o.version for o in function.opset_import}}
        for original in function.node:
            made = _instantiate(original, mapping, attributes, prefix)
            self.add(made, inner)

    def _function(self, node: NodeProto, body: FunctionBody) -> FunctionProto:
        schema = body.schema
        if schema.has_function:
            opset = max((v for v in schema.function_opset_versions), default=schema.since_version)
            chosen = schema.get_function_with_opset_version(opset) or schema.function_body
            return chosen if isinstance(chosen, FunctionProto) else _parse(chosen)
        types = [self.builder.type_proto(self.renamed.get(n, n)) for n in node.input]
        if any(n and t.WhichOneof("value") is None for n, t in zip(node.input, types, strict=True)):
            raise UnsupportedError(
                f"the definition of {node.op_type} needs its inputs' types, which nothing tells",
                remedy="run onnx.shape_inference over the file",
            )
        opset = max(schema.context_dependent_function_opset_versions)
        serialized = schema.get_context_dependent_function_with_opset_version(
            opset, node.SerializeToString(), [t.SerializeToString() for t in types]
        )
        return _parse(serialized)


def carried(graph: GraphProto) -> set[str]:
    """Return the values all of whose readers compute the same on whole numbers stored as floats.

    They move or choose elements, up to a DequantizeLinear or a Cast to a float.
    """
    elsewhere = {value.name for value in graph.output}
    for node in reversed(graph.node):
        kind = node.op_type if canonical(node.domain) in {"", "com.microsoft"} else ""
        to = next((item.i for item in node.attribute if item.name == "to"), 0)
        ends = kind == "DequantizeLinear" or (kind == "Cast" and to in convert.WEIGHT_TYPES)
        moves = kind in _MOVERS and not elsewhere.intersection(node.output)
        taken = len(node.input) if kind == "Concat" else 1
        elsewhere.update(node.input[taken if ends or moves else 0 :])
        for item in node.attribute:
            for inner in (item.g, *item.graphs):
                elsewhere |= _names(inner)
    return {name for node in graph.node for name in node.output} - elsewhere


def _names(graph: GraphProto) -> set[str]:
    """Return all names that a subgraph may read from around it."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for item in node.attribute:
            for inner in (item.g, *item.graphs):
                names |= _names(inner)
    return names


def _declared(kind: onnx.TypeProto.Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    """Return shape (0 where unknown) and dtype that a graph output declares."""
    dtype = convert.TORCH.get(kind.elem_type, torch.float32)
    return tuple(d.dim_value for d in kind.shape.dim), dtype


def _parse(serialized: bytes) -> FunctionProto:
    function = FunctionProto()
    function.ParseFromString(serialized)
    return function


def _instantiate(
    original: NodeProto,
    mapping: dict[str, str],
    attributes: Mapping[str, onnx.AttributeProto],
    prefix: str,
) -> NodeProto:
    """Copy a node of a function body, its values renamed, its attribute references filled."""
    node = NodeProto()
    node.CopyFrom(original)
    node.name = f"{prefix}{original.name or original.op_type}"
    names = [mapping.get(n, n) for n in original.input]
    del node.input[:]
    node.input.extend(names)
    outputs = [mapping.setdefault(n, f"{prefix}{n}") for n in original.output]
    del node.output[:]
    node.output.extend(outputs)
    del node.attribute[:]
    for attribute in original.attribute:
        if attribute.ref_attr_name:
            given = attributes.get(attribute.ref_attr_name)
            if given is None:
                continue
            filled = copy.deepcopy(given)
            filled.name = attribute.name
            node.attribute.append(filled)
        elif attribute.type == onnx.AttributeProto.GRAPH:
            changed = copy.deepcopy(attribute)
            inner = dict(mapping)
            for formal in changed.g.input:
                inner[formal.name] = formal.name
            nodes = [_instantiate(n, inner, attributes, prefix) for n in attribute.g.node]
            del changed.g.node[:]
            changed.g.node.extend(nodes)
            for output in changed.g.output:
                output.name = inner.get(output.name, output.name)
            node.attribute.append(changed)
        else:
            node.attribute.append(attribute)
    return node


def as_kind(value: Any, kind: str, device: torch.device | None) -> Any:
    """Convert a value to what a parameter wants; reading a tensor waits for its device."""
    if value is None:
        return None
    if isinstance(value, Host):
        if kind == "host":
            return value
        if kind in {"tensor", "any"}:
            return value.tensor(device)
        if kind in {"ints", "floats"}:
            return list(value.values)
        number = value.values[0] if value.values else None
        if kind == "int" and number is not None:
            return int(number) if isinstance(number, float | bool) else number
        return number
    if not isinstance(value, Tensor) or kind in {"tensor", "any"}:
        return value
    if kind == "host":
        return Host(tuple(value.flatten().tolist()), tuple(value.shape), value.dtype)
    if kind == "ints":
        return [int(v) for v in value.flatten().tolist()]
    if kind == "floats":
        return [float(v) for v in value.flatten().tolist()]
    if kind == "number":
        return value.item() if device is None and value.numel() == 1 else value
    if value.numel() == 0:
        return None
    number = value.flatten()[0].item()
    return {"int": int, "float": float, "bool": bool}.get(kind, lambda v: v)(number)


class Subgraph:
    """A subgraph bound to the values around it: takes its formal inputs, gives its outputs."""

    def __init__(self, program: Program, outer: Mapping[str, Any], context: Context) -> None:
        self.program = program
        self.captured = {name: outer[name] for name in program.captures}
        self.context = context
        self.declared = program.declared
        self.takes = program.takes

    def __call__(self, *inputs: Any) -> list[Any]:
        """Run the subgraph; see `run`."""
        environment = dict(self.captured)
        environment.update(zip(self.program.inputs, inputs, strict=False))
        return run(self.program, environment, self.context)


def run(program: Program, environment: dict[str, Any], context: Context) -> list[Any]:
    """Run a program in an environment that holds its inputs, weights and constants.

    Returns:
        The outputs in order; host arrays become tensors.

    Raises:
        ModelError: a step failed; with its node, operator and the shapes, the cause chained.
    """
    execute(program.steps, environment, context)
    return results(program, environment, context)


def results(program: Program, environment: Mapping[str, Any], context: Context) -> list[Any]:
    """Return the outputs of a program that was run, in order; host arrays become tensors."""
    outputs = []
    for argument in program.outputs:
        value = environment[argument.source] if argument.source is not None else argument.value
        outputs.append(value.tensor(context.device) if isinstance(value, Host) else value)
    return outputs


def execute(steps: Iterable[Step], environment: dict[str, Any], context: Context) -> None:
    """Run steps in order; see `run`."""
    if torch.compiler.is_compiling():  # a tracer wants no exception handlers in its way
        for step in steps:
            run_step(step, environment, context)
        return
    current: Step | None = None
    try:
        for step in steps:
            current = step
            run_step(step, environment, context)
    except SurgeonError as error:
        if error.where is None and current is not None:
            error.where = f"node {current.node!r} ({current.operator})"
        raise
    except (MemoryError, torch.OutOfMemoryError):
        raise  # the caller halves the batch
    except Exception as error:
        if current is None or "allocate memory" in str(error):
            raise
        raise _failure(current, environment, error) from error


def _failure(step: Step, environment: Mapping[str, Any], error: Exception) -> ModelError:
    shapes = []
    for argument in step.arguments:
        value = argument.value if argument.source is None else environment.get(argument.source)
        if isinstance(value, Tensor):
            text = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        else:
            text = repr(value)[:80]
        shapes.append(f"{argument.source}: {text}" if argument.source else text)
    reason = str(error).strip().splitlines()
    return ModelError(
        f"{step.operator} failed: {reason[0] if reason else type(error).__name__}",
        where=f"node {step.node!r} with inputs " + "; ".join(shapes),
        remedy="check that the inputs have the shapes the model declares (`surgeon inspect`)",
    )


def run_step(step: Step, environment: dict[str, Any], context: Context) -> None:
    """Run one step; what it raises comes as it is."""
    if step.plain:
        result = step.call(
            *[environment[a.source] if a.source is not None else a.value for a in step.arguments],
            **_keywords(step, environment, context),
        )
    else:
        result = _on_host(step, environment)
        if result is None:
            arguments = [
                as_kind(
                    environment[a.source] if a.source is not None else a.value,
                    a.kind,
                    context.device,
                )
                for a in step.arguments
            ]
            result = step.call(*arguments, **_keywords(step, environment, context))
    if type(result) is tuple:
        made = zip(step.outputs, result, strict=False)
        environment.update({name: value for name, value in made if name})
    elif len(step.outputs) > 0:
        environment[step.outputs[0]] = result
    for name in step.frees:
        del environment[name]


def _keywords(step: Step, environment: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if not step.injected and not step.subgraphs:
        return step.keywords
    keywords = dict(step.keywords)
    if "training" in step.injected:
        keywords["training"] = context.training
    if "device" in step.injected:
        keywords["device"] = context.device
    for name, program in step.subgraphs.items():
        keywords[name] = Subgraph(program, environment, context)
    return keywords


def _on_host(step: Step, environment: Mapping[str, Any]) -> Any:
    """Run a step of shape arithmetic on host arrays, or return None where that does not apply."""
    if step.hosted is None:
        return None
    values: list[Any] = []
    for argument in step.arguments:
        if argument.host is not None:
            values.append(argument.host)
            continue
        value = argument.value if argument.source is None else environment[argument.source]
        if value is not None and not isinstance(value, Host) and argument.source is not None:
            return None
        values.append(value)
    return step.hosted(*values, **step.keywords)


def names_of(steps: Sequence[Step]) -> list[str]:
    """Return the operators of some steps, for messages and tests."""
    return [step.operator for step in steps]
