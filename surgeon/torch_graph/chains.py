"""The steps of a program as a net: who makes and who reads each value; chains of them replaced.

What must not enter: which chains are looked for (`surgeon.torch_graph.fuse`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from surgeon.torch_graph.program import Argument, Program, Step

    _Find = Callable[["View", Step], tuple[list[Step], Step] | None]


CLOSE: Final = 1e-6
"""Relative difference up to which a number in the file is taken as the one of the formula."""


class View:
    """The steps of a program, with who makes and who reads each value."""

    def __init__(
        self, program: Program, shapes: Mapping[str, tuple[int, ...]], learning: frozenset[str]
    ) -> None:
        self.before = program
        self.learning = learning
        self.shapes = shapes
        self.steps: list[Step | None] = list(program.steps)
        self.outputs = {a.source for a in program.outputs}
        self._index()

    def _index(self) -> None:
        self.maker: dict[str, int] = {}
        self.readers: dict[str, int] = {}
        self.places: dict[str, list[int]] = {}
        for place, step in enumerate(self.steps):
            if step is None:
                continue
            self.places.setdefault(name_of(step), []).append(place)
            for name in step.outputs:
                self.maker[name] = place
            for name in names_read(step):
                self.readers[name] = self.readers.get(name, 0) + 1

    def replace_all(self, ends: str, find: _Find) -> None:
        """Put one step in the place of every chain that `find` sees end at an operator.

        `find` returns the steps inside the chain and the one step for all of it.
        """
        changed = False
        for place in self.places.get(ends, ()):
            step = self.steps[place]
            if step is None:
                continue
            found = find(self, step)
            if found is None:
                continue
            inside, one = found
            for gone in inside:
                self.steps[self.maker[gone.outputs[0]]] = None
            self.steps[place] = one._replace(plain=step.plain and all(g.plain for g in inside))
            changed = True
            self._forget(inside, one, step)
        if changed:
            self._index()

    def _forget(self, inside: list[Step], one: Step, step: Step) -> None:
        """Keep the counts right for the chains that follow in the same round."""
        for gone in (*inside, step):
            for name in names_read(gone):
                self.readers[name] -= 1
        for name in names_read(one):
            self.readers[name] = self.readers.get(name, 0) + 1

    def made(self, argument: Argument, *operators: str, reads: int = 1) -> Step | None:
        """Return the step that makes a value read this often in all, if it is one of these."""
        name = argument.source
        if name is None or name in self.outputs or self.readers.get(name) != reads:
            return None
        place = self.maker.get(name)
        step = None if place is None else self.steps[place]
        if step is None or name_of(step) not in operators or step.outputs[0] != name:
            return None
        return step if not any(step.outputs[1:]) else None

    def number(self, argument: Argument) -> float | None:
        """Return the number that an input always is, None where it is none."""
        value = argument.value
        if argument.host is not None and len(argument.host.values) == 1:
            value = argument.host.values[0]
        elif isinstance(argument.source, str):
            constant = self.before.constants.get(argument.source)
            value = constant.item() if constant is not None and constant.numel() == 1 else None
        if isinstance(value, Tensor):
            value = value.item() if value.numel() == 1 else None
        return float(value) if isinstance(value, int | float) else None

    def is_number(self, argument: Argument, wanted: float) -> bool:
        """Tell whether an input is always this number, and a scalar that widens no shape."""
        value = self.number(argument)
        shape = self.shapes.get(argument.source or "", ())
        return value is not None and not shape and math.isclose(value, wanted, rel_tol=CLOSE)

    def with_number(self, step: Step, wanted: float | None = None) -> tuple[Argument, float] | None:
        """Split a step of two inputs of which one is a scalar: the other, and the number."""
        for place in (0, 1):
            value = self.number(step.arguments[place])
            shape = self.shapes.get(step.arguments[place].source or "", ())
            if value is None or shape:
                continue
            if wanted is None or math.isclose(value, wanted, rel_tol=CLOSE):
                return step.arguments[1 - place], value
        return None

    def learns(self, argument: Argument) -> bool:
        """Tell whether a value depends on weights that may get a gradient."""
        seen: set[str] = set()
        todo = [argument.source]
        while todo:
            name = todo.pop()
            if name is None or name in seen:
                continue
            if name in self.learning:
                return True
            seen.add(name)
            place = self.maker.get(name)
            step = None if place is None else self.steps[place]
            todo += [] if step is None else names_read(step)
        return False

    def program(self) -> Program:
        """Return the program of what is left."""
        steps = [step for step in self.steps if step is not None]
        last: dict[str, int] = {}
        for place, step in enumerate(steps):
            for name in (*step.outputs, *names_read(step)):
                last[name] = place
        kept = {*self.before.weights, *self.before.constants, *self.outputs, ""}
        frees: dict[int, list[str]] = {}
        for name, place in last.items():
            if name not in kept:
                frees.setdefault(place, []).append(name)
        return replace(
            self.before,
            steps=tuple(_freeing(s, tuple(frees.get(n, ()))) for n, s in enumerate(steps)),
        )


def _freeing(step: Step, names: tuple[str, ...]) -> Step:
    return step if step.frees == names else step._replace(frees=names)


def name_of(step: Step) -> str:
    """Return the operator of a step without its version; empty for other domains than ONNX's."""
    return _name(step.operator)


@functools.cache
def _name(operator: str) -> str:
    domain, _, name = operator.partition(" ")
    return name.partition("-")[0] if domain == "ai.onnx" else ""


def names_read(step: Step) -> list[str]:
    """Return the values that a step reads, those that its subgraphs capture twice."""
    names = [a.source for a in step.arguments if a.source is not None]
    for subgraph in step.subgraphs.values():
        names += [*subgraph.captures, *subgraph.captures]  # twice: never the only reader
    return names


def in_place_of(
    last: Step,
    name: str,
    call: Callable[..., Any],
    *arguments: Argument,
    injected: Collection[str] = (),
    **keywords: Any,
) -> Step:
    """Return a step in the place of a chain that ended in `last`."""
    return last._replace(
        operator=f"ai.onnx {name}",
        call=call,
        arguments=arguments,
        keywords=keywords,
        injected=frozenset(injected),
        outputs=last.outputs[:1],
        hosted=None,
    )


def is_binary(step: Step | None) -> bool:
    """Tell whether a step is arithmetic with today's broadcasting (from opset 7 on)."""
    return step is not None and len(step.arguments) == 2 and not step.keywords
