"""A new head under construction with onnx-graphsurgeon.

The only file of ours that knows the library. What must not enter: which nodes a head is made of.
"""

from __future__ import annotations

import inspect
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgeon.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from onnx import NodeProto, TensorProto

    from surgeon.records import Built


class HeadNodes:
    """The head under construction: chains of graphsurgeon nodes, exported at the end."""

    last: Any
    kind: int

    def __init__(self, taken: set[str], opset: int) -> None:
        import onnx_graphsurgeon  # looking at a model needs no builder

        self._gs: Any = onnx_graphsurgeon
        self.opset = opset
        self._taken = set(taken)
        self._nodes: list[Any] = []
        self._inputs: dict[str, Any] = {}
        self._constants: list[Any] = []
        self.linear = True

    def begin(self, tensor: str, kind: int) -> None:
        """Begin a chain at a value of the graph, of this element type."""
        self.last, self.kind = self.input(tensor, kind), kind

    def input(self, name: str, kind: int) -> Any:
        """Return a value of the graph that the head reads, the same one each time."""
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
        return self._inputs.setdefault(name, self._gs.Variable(name, dtype=dtype))

    def free(self, name: str) -> str:
        """Return the name, or the first of `name.2`, `name.3`, … that is not taken."""
        found = name
        for number in count(2):
            if found not in self._taken:
                break
            found = f"{name}.{number}"
        self._taken.add(found)
        return found

    def apply(self, operator: str, attributes: dict[str, Any], *inputs: Any) -> Any:
        """Append one node; return the value it makes."""
        name = self.free(f"surgeon.head.{operator.lower()}")
        value = self._gs.Variable(self.free(f"{name}.out"))
        self._nodes.append(self._gs.Node(operator, name, attributes, list(inputs), [value]))
        return value

    def add(
        self, operator: str, attributes: dict[str, Any], constants: Mapping[str, Any] | None = None
    ) -> None:
        """Append one node that reads the chain's last value and the named constants."""
        values = [self._gs.Constant(key, item) for key, item in (constants or {}).items()]
        self.last = self.apply(operator, attributes, self.last, *values)

    def over(
        self, operator: str, value: Any, axes: list[int], since: int, **attributes: int
    ) -> Any:
        """Append an operator over axes, which are an attribute before opset `since`."""
        if self.opset < since:
            return self.apply(operator, {"axes": axes, **attributes}, value)
        listed = self._gs.Constant(self.free("surgeon.head.axes"), np.asarray(axes, np.int64))
        return self.apply(operator, dict(attributes), value, listed)

    def constant(self, name: str, values: Any) -> Any:
        """Return a constant of the head."""
        made = self._gs.Constant(self.free(name), values)
        self._constants.append(made)
        return made

    def behind(self, value: Any, axis: int, begin: int, end: int) -> Any:
        """Append a Slice along one axis."""
        if self.opset < 10:
            return self.apply("Slice", {"axes": [axis], "starts": [begin], "ends": [end]}, value)
        places = {"starts": begin, "ends": end, "axes": axis}
        given = [
            self.constant(f"surgeon.head.{name}", np.asarray([place], np.int64))
            for name, place in places.items()
        ]
        return self.apply("Slice", {}, value, *given)

    @property
    def dtype(self) -> Any:
        """The type that the head computes in."""
        return np.dtype(np.float64 if self.kind == onnx.TensorProto.DOUBLE else np.float32)

    @property
    def any(self) -> bool:
        """Whether there is a node yet."""
        return bool(self._nodes)

    def let(
        self,
        build: Callable[..., Built],
        outputs: int,
        random: np.random.Generator,
        options: Mapping[str, Any],
        *,
        name: str,
        beside: Mapping[str, Callable[[], Any]],
    ) -> tuple[str, ...]:
        """Let a head be built on the chain's last value; return the names of its weights.

        Whatever names its author gave, they begin with `surgeon.head.` and are free in the graph.

        Args:
            build: the code of its kind.
            outputs: how many numbers it gives.
            random: what first weights are drawn with.
            options: its settings.
            name: of what it gives.
            beside: makes what the code may read beside the value, by the names of parameters.
        """
        graph = self._gs.Graph(opset=self.opset)
        more = [self._beside(parameter, beside) for parameter in parameters_beside(build)]
        built = build(graph, self.last, outputs, random, *more, **options)
        named = {id(one) for one in self._constants}
        for node in graph.nodes:
            node.name = self.free(f"surgeon.head.{node.op.lower()}")
            for tensor in node.inputs:
                if isinstance(tensor, self._gs.Constant) and id(tensor) not in named:
                    named.add(id(tensor))
                    tensor.name = self.free(f"surgeon.head.{tensor.name}")
            for tensor in node.outputs:
                end = tensor is built.output
                tensor.name = name if end else self.free(f"{node.name}.out")
        self._nodes += graph.nodes
        self.last, self.linear = built.output, built.linear
        return tuple(weight.name for weight in built.weights)

    @staticmethod
    def _beside(name: str, beside: Mapping[str, Callable[[], Any]]) -> Any:
        if name not in beside:
            raise PluginError(
                f"the code of a head asks for {name!r}",
                where="a plugin's head",
                remedy=f"beside (graph, value, outputs, random) there are {', '.join(beside)}; "
                "settings are keyword-only",
            )
        return beside[name]()

    def export(self) -> tuple[list[NodeProto], list[TensorProto]]:
        """Return the chain as ONNX nodes and initializers."""
        graph = self._gs.Graph(self._nodes, outputs=[self.last], opset=self.opset)
        exported = self._gs.export_onnx(graph, do_type_check=False).graph
        return list(exported.node), list(exported.initializer)


def parameters_beside(build: Callable[..., Built]) -> tuple[str, ...]:
    """Return the names of what the code of a head reads beside its value, as `mask`."""
    found = inspect.signature(build).parameters.values()
    given = [
        one.name for one in found if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    return tuple(given[4:])
