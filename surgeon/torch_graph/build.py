"""How a normalized graph becomes a program.

Everything that can be known early is: which function an operator is, which inputs are values of the
host, which nodes compute constants. What must not enter: how steps are run
(`surgeon.torch_graph.program`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, inliner
from torch import Tensor

from surgeon.errors import ModelError, SurgeonError, UnsupportedError
from surgeon.ops import convert, host
from surgeon.ops.host import Host
from surgeon.ops.registry import FunctionBody, Operator, Parameter, canonical, lookup
from surgeon.torch_graph.stored import as_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
from surgeon.torch_graph.bodies import definition, instantiate
from surgeon.torch_graph.program import RANDOM, Argument, Context, Program, Step, as_kind, execute
from surgeon.torch_graph.value_types import ValueTypes

FOLD_LIMIT: Final = 1 << 24
"""Elements up to which a computed constant is kept instead of computed again in every run."""


_MOVERS: Final = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape",
     "Pad", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)  # fmt: skip
"""Operators that give some elements of their first input (all inputs of Concat), unchanged; and
Pad, whose constant is a whole number, too."""


_PLAIN_KINDS: Final = frozenset({"tensor", "number", "any"})


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
        self.types = ValueTypes(proto)

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
        keywords, graphs = self._attributes(node, meaning)
        arguments = self._arguments(node, meaning, keywords, where)
        keywords |= self._injected(node, meaning)
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
            outputs=tuple(node.output),
        )
        sources = [a.source for a in arguments if a.source is not None]
        constant = all(s in self.builder.constants or self._is_known(s) for s in sources)
        foldable = constant and not step.subgraphs and meaning.name not in RANDOM
        if foldable and "training" not in meaning.injected and self._fold(step):
            return
        self._append(step, meaning)

    def _append(self, step: Step, meaning: Operator) -> None:
        """Append a step, by the host's arithmetic where its inputs may be values of the host."""
        given = [a for a in step.arguments if a.source is not None]
        hosted = None
        if not meaning.domain and any(a.source in self.maybe_host for a in given):
            hosted = host.OPERATORS.get(meaning.name)
            if any(a.host is None for a in given if a.source not in self.maybe_host):
                hosted = None
        plain = all(a.kind in _PLAIN_KINDS and a.source not in self.maybe_host for a in given)
        if hosted is not None or not plain:
            step = step._replace(hosted=hosted, plain=False)
        self.steps.append(step)
        made = {o for o in step.outputs if o}
        self.visible |= made
        self.outer -= made
        for name in made:
            self.known.pop(name, None)
        if hosted is not None or (not meaning.domain and meaning.name in {"Shape", "Size"}):
            self.maybe_host |= made

    def _attributes(
        self, node: NodeProto, meaning: Operator
    ) -> tuple[dict[str, Any], dict[str, GraphProto]]:
        """Return the attributes of a node: values as its function wants them, and subgraphs."""
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
        return keywords, graphs

    def _arguments(
        self, node: NodeProto, meaning: Operator, keywords: Mapping[str, Any], where: str
    ) -> tuple[Argument, ...]:
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
        return arguments

    def _injected(self, node: NodeProto, meaning: Operator) -> dict[str, Any]:
        """Return what the builder tells a function beyond its node's attributes."""
        if not meaning.injected:
            return {}
        type_of = self.builder.types.element_type
        told: dict[str, Callable[[], Any]] = {
            "outputs": lambda: len(node.output),
            "input_types": lambda: tuple(map(type_of, node.input)),
            "output_types": lambda: tuple(map(type_of, node.output)),
            "carried": lambda: node.output[0] in self.carried,
        }
        return {name: tell() for name, tell in told.items() if name in meaning.injected}

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
        builder = self.builder
        named = (self.renamed.get(n, n) for n in node.input)
        function = definition(node, body, map(builder.types.type_proto, named))
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
            made = instantiate(original, mapping, attributes, prefix)
            self.add(made, inner)


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
