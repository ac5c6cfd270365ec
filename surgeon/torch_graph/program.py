"""A normalized ONNX graph as ordered steps of torch functions, and how they are run.

A program is built once (`surgeon.torch_graph.build`) and run many times.
What must not enter: the meaning of an operator (`surgeon.ops`), parameters as modules
(`surgeon.torch_graph.module`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from surgeon.errors import ModelError, SurgeonError
from surgeon.ops.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


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


def names_of(steps: Sequence[Step]) -> list[str]:
    """Return the operators of some steps, for messages and tests."""
    return [step.operator for step in steps]
