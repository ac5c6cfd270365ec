"""A program as an nn.Module: one Parameter per initializer, under the initializer's own name.

What must not enter: training (`surgeon.train`), files, the meaning of operators.

Names: an ONNX name is split at its dots into a tree of empty `Scope`s, so that torch's own tools
(strict `load_state_dict`, `functional_call`, parametrizations, `deepcopy`) see exactly those names.
The one exception: torch's `functional_call` refuses a name that begins or ends in a dot.
"""

# ruff: noqa: SLF001 - torch's own containers of members are the interface here

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from surgeon.errors import ModelError, UnknownNameError
from surgeon.graph import precision
from surgeon.graph.learned_scales import find as learned_scales
from surgeon.graph.weights import quantized_weights
from surgeon.ops import convert
from surgeon.torch_graph.build import build
from surgeon.torch_graph.fuse import fuse
from surgeon.torch_graph.program import Context, Program, run
from surgeon.torch_graph.segments import Segments, segments
from surgeon.torch_graph.stored import as_tensor
from surgeon.torch_graph.straight_through import Rounding, stand_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    import onnx

_CONSTANTS: Final = "<constants>"
"""Name of the scope of tensors that are neither parameters nor float initializers."""

_MACHINERY: Final = frozenset(
    {"_apply", "_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "apply",
     "children", "named_children", "modules", "named_modules", "state_dict", "train", "eval",
     "_save_to_state_dict", "_load_from_state_dict", "_named_members", "__dict__", "__class__",
     "_backward_hooks", "_forward_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
     "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "requires_grad_"}
)  # fmt: skip
"""Attributes torch itself calls on a child; a scope of that name is not put in their place."""


class Scope(nn.Module):
    """One component of a dotted name: no behaviour, only members."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training" and isinstance(value, bool):
            # torch's tools assign it; a parameter called `training` may stand beside it.
            if not isinstance(self.__dict__.get(name), nn.Module):
                self.__dict__[name] = value
            return
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Scope:
        """Do nothing but tell the children: a member of a scope may be called `training`."""
        for child in self._modules.values():
            if child is not None:
                child.train(mode)
        return self

    def __repr__(self) -> str:
        members = [*self._parameters, *self._buffers, *self._modules]
        return f"Scope({', '.join(repr(m) for m in members)})"


class GraphModule(Scope):
    """An ONNX graph that torch can run and train.

    `forward` takes positional values in graph-input order (tensor; list for a sequence; None for an
    absent optional) and returns a tensor, or a tuple in output order. `train()` governs Dropout,
    and BatchNormalization whose scale or bias learns.
    """

    # Set through __dict__: assigned plainly, torch would register the scopes a second time.
    _onnx_program: Program
    _onnx_constants: Scope
    _onnx_constant_sites: tuple[tuple[str, str], ...]
    _onnx_sites: dict[str, tuple[Scope, str]]
    _onnx_used: tuple[tuple[str, Scope, str], ...]
    _onnx_wide: Wide | None
    _onnx_roundings: dict[str, Rounding]
    _onnx_segments: Segments | None

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, nn.Parameter | Tensor],
        wide: Wide | None = None,
        roundings: Mapping[str, Rounding] | None = None,
    ) -> None:
        super().__init__()
        sites: dict[str, tuple[Scope, str]] = {}
        for name, tensor in weights.items():
            sites[name] = _insert(self, name, tensor)
        constants = Scope()
        # Numbered: torch.export takes a name apart at its dots, and finds no such scopes here.
        leaves = tuple((name, str(number)) for number, name in enumerate(program.constants))
        for name, leaf in leaves:
            constants._buffers[leaf] = program.constants[name]
            constants._non_persistent_buffers_set.add(leaf)
        self._modules[_CONSTANTS] = constants
        for number, rounding in enumerate((roundings or {}).values()):
            constants._modules[f"rounding {number}"] = rounding
        self.__dict__["_onnx_constants"] = constants
        self.__dict__["_onnx_constant_sites"] = leaves
        self.__dict__["_onnx_sites"] = sites
        self.__dict__["_onnx_used"] = tuple((n, *sites[n]) for n in program.weights)
        self.__dict__["_onnx_program"] = program.without_constants()
        self.__dict__["_onnx_wide"] = wide
        self.__dict__["_onnx_roundings"] = dict(roundings or {})
        self.__dict__["_onnx_segments"] = None

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in the order `forward` takes them."""
        return self._onnx_program.inputs

    def site(self, name: str) -> tuple[nn.Module, str]:
        """Return where a float initializer lies: the module that holds it, and its name in there.

        What torch's parametrizations take; `surgeon.tensors` and `Model.with_weights` fold them::

            parametrize.register_parametrization(*module.site("fc.weight"), LoRA(8))

        Raises:
            UnknownNameError: no such initializer.
        """
        if name not in self._onnx_sites:
            raise UnknownNameError("initializer", name, self._onnx_sites, where="module.site")
        return self._onnx_sites[name]

    def save_memory(self) -> None:
        """In training, keep little for the backward pass and compute the rest again in it."""
        self.__dict__["_onnx_segments"] = segments(self._onnx_program)

    def constants(self) -> dict[str, Any]:
        """Return the tensors that are neither parameters nor float initializers, by name."""
        buffers = self._onnx_constants._buffers
        return {name: buffers[leaf] for name, leaf in self._onnx_constant_sites}

    def _named_members(
        self,
        get_members_fn: Callable[[nn.Module], Iterable[tuple[str, Any]]],
        prefix: str = "",
        recurse: bool = True,
        remove_duplicate: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        """As torch does, but exact for a name that begins with a dot, which torch cuts off."""
        seen: set[Any] = set()

        def walk(module: nn.Module, before: str) -> Iterator[tuple[str, Any]]:
            for name, value in get_members_fn(module):
                if value is None or value in seen:
                    continue
                if remove_duplicate:
                    seen.add(value)
                yield before + name, value
            for name, child in module._modules.items() if recurse else ():
                if child is not None:
                    yield from walk(child, f"{before}{name}.")

        return walk(self, f"{prefix}." if prefix else "")

    def train(self, mode: bool = True) -> GraphModule:
        """Set training or evaluation mode for the whole graph."""
        self.__dict__["training"] = mode
        super().train(mode)
        return self

    def forward(self, *inputs: Any) -> Any:
        """Run the graph.

        Raises:
            ModelError: wrong number of inputs, or an operator failed; with node and shapes.
        """
        program = self._onnx_program
        if len(inputs) != len(program.inputs):
            raise ModelError(
                f"{len(inputs)} inputs were given, the graph has {len(program.inputs)}",
                where=", ".join(program.inputs),
                remedy="give them by position, None for an absent optional one",
            )
        environment: dict[str, Any] = dict(zip(program.inputs, inputs, strict=True))
        wide = self._onnx_wide
        if wide is not None and not self.training and _device(environment).type == "cpu":
            environment.update(self._weights())
            return wide.run(environment)
        environment.update(self.constants())
        environment.update(self._weights())
        context = Context(self.training, _device(environment))
        if self._onnx_segments is not None and self.training and torch.is_grad_enabled():
            outputs = self._onnx_segments.run(program, environment, context)
        else:
            outputs = run(program, environment, context)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _weights(self) -> dict[str, Tensor]:
        """Return what operators read under the names of initializers."""
        weights = {name: read(scope, leaf) for name, scope, leaf in self._onnx_used}
        for name, rounding in self._onnx_roundings.items():
            if name in weights:
                scale = None if rounding.by is None else weights[rounding.by]
                weights[name] = rounding(weights[name], scale)
        return weights


@dataclass(frozen=True)
class Wide:
    """The same graph computed in float32, for half-precision weights in evaluation on a CPU.

    Neither torch nor ONNX Runtime has fast half-precision kernels there; ONNX Runtime computes such
    a graph in float32, and rounding after every operator instead drifts away from it by per cents.

    Attributes:
        program: of the widened graph.
        outputs: element type of every output, as declared.
    """

    program: Program
    outputs: tuple[torch.dtype | None, ...]

    def run(self, environment: Mapping[str, Any]) -> Any:
        """Return the outputs in their declared types."""
        values = {name: _single(value) for name, value in environment.items()}
        values |= self.program.constants
        found = run(self.program, values, Context(training=False, device=torch.device("cpu")))
        results = [
            value.to(dtype) if dtype is not None and isinstance(value, Tensor) else value
            for value, dtype in zip(found, self.outputs, strict=True)
        ]
        return results[0] if len(results) == 1 else tuple(results)


def _single(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _widened(
    proto: onnx.ModelProto, roles: Mapping[str, str], quantized: Collection[str]
) -> Wide | None:
    """Return the graph in float32 where weights that learn are stored in half precision."""
    halves = {t.name for t in proto.graph.initializer if t.data_type in precision.HALVES}
    if not any(roles.get(name) == "parameter" for name in halves):
        return None
    types = [
        convert.torch_dtype(value.type.tensor_type.elem_type)
        if value.type.tensor_type.elem_type in precision.HALVES
        else None
        for value in proto.graph.output
    ]
    return Wide(build(precision.widen(proto), roles, quantized), tuple(types))


def read(scope: Scope, leaf: str) -> Tensor:
    """Return a member of a scope, computed where a parametrization stands in its place."""
    value: Tensor | None = scope._parameters.get(leaf)
    if value is None:
        value = scope._buffers.get(leaf)
    if value is None:
        computed: Tensor = getattr(scope, leaf)
        return computed
    return value


def _device(environment: Mapping[str, Any]) -> torch.device:
    for value in environment.values():
        if isinstance(value, Tensor):
            return value.device
    return torch.device("cpu")


def _insert(root: Scope, name: str, tensor: nn.Parameter | Tensor) -> tuple[Scope, str]:
    """Put a tensor into the tree under its ONNX name; return the scope it lies in and its leaf."""
    *path, leaf = name.split(".")
    scope = root
    for component in path:
        child = scope._modules.get(component)
        if child is None:
            child = Scope()
            scope._modules[component] = child
            if component not in _MACHINERY and (
                hasattr(nn.Module, component)
                or component in scope.__dict__
                or component in scope._parameters
                or component in scope._buffers
            ):
                _unshadow(scope, component, child)
        assert isinstance(child, Scope)
        scope = child
    if isinstance(tensor, nn.Parameter):
        scope._parameters[leaf] = tensor
    else:
        scope._buffers[leaf] = tensor
    beside = scope._modules.get(leaf)
    if beside is not None and leaf not in _MACHINERY:
        _unshadow(scope, leaf, beside)
    return scope, leaf


def _unshadow(scope: Scope, name: str, child: nn.Module) -> None:
    """Let `getattr` find a child that a method or tensor of the same name would hide.

    The root keeps its own attributes: there a child named `forward` is found by torch's tools
    through its tensors' names only, not by `getattr`.
    """
    if isinstance(scope, GraphModule) and (hasattr(nn.Module, name) or name == "training"):
        return
    scope.__dict__[name] = child


def to_module(
    proto: onnx.ModelProto, *, roles: Mapping[str, str], quantized: Collection[str] = ()
) -> GraphModule:
    """Turn a normalized model into a module in evaluation mode on the CPU, dtypes as stored.

    Args:
        proto: the model, with the data of its initializers in it.
        roles: for every float initializer, `parameter` (becomes an nn.Parameter) or `statistics`,
            `setting`, `constant` (become buffers).
        quantized: initializers that learn: those of these names that are quantised weights become
            float32 parameters, what their integers stand for, and those that are scales become
            parameters, too; all others stay constants.

    Raises:
        UnsupportedError: an operator, version or form that is not converted.
        ModelError: the graph is broken.
    """
    known = quantized_weights(proto) if quantized else {}
    latent = {name: known[name] for name in quantized if name in known}
    scales = learned_scales(proto, known) if quantized else {}
    roles = dict(roles) | dict.fromkeys((name for name in quantized if name in scales), "parameter")
    by = {one: name for name, ones in scales.items() if name in quantized for one in ones}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    learning = {name for name, role in roles.items() if role == "parameter"} | set(latent)
    program = fuse(build(proto, roles, latent), shapes, learning)
    weights: dict[str, nn.Parameter | Tensor] = {}
    roundings: dict[str, Rounding] = {}
    for initializer in proto.graph.initializer:
        name = initializer.name
        if name in latent:
            codes = as_tensor(initializer)
            roundings[name] = Rounding(latent[name], codes, by.get(name))
            weights[name] = nn.Parameter(stand_for(latent[name], codes))
        elif initializer.data_type in convert.WEIGHT_TYPES:
            value = as_tensor(initializer)
            weights[name] = nn.Parameter(value) if roles.get(name) == "parameter" else value
    module = GraphModule(program, weights, _widened(proto, roles, latent), roundings)
    module.eval()
    return module


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensor of every float initializer by its ONNX name, detached, on its device.

    Where an adapter (a torch parametrization) stands in a tensor's place, its value is folded.
    A quantised weight that learns comes as the numbers to store: integers (of less than 8 bits in
    8), 8-bit floats.

    Raises:
        ModelError: the module does not come from `to_module`.
    """
    found = module if isinstance(module, GraphModule) else None
    if found is None:
        candidates = [m for m in module.modules() if isinstance(m, GraphModule)]
        if len(candidates) != 1:
            raise ModelError(
                f"{type(module).__name__} holds {len(candidates)} converted graphs",
                remedy="give the module that surgeon.to_torch returned",
            )
        found = candidates[0]
    sites = found._onnx_sites
    with torch.no_grad():
        values = {name: read(scope, leaf).detach() for name, (scope, leaf) in sites.items()}
    for name, rounding in found._onnx_roundings.items():
        scale = None if rounding.by is None else values[rounding.by]
        values[name] = rounding.fold(values[name], scale)
    return values
