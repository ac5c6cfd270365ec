"""Training in less memory: a program in segments, each computed again when its gradient is wanted.

Of a segment only what enters and leaves it is kept between the two passes (Chen et al. 2016, arXiv
1604.06174: with √n segments about √n of the memory, for one forward pass more). The numbers are the
same bit for bit: random operators draw the same again, statistics move once.

What must not enter: the meaning of operators, when to save memory.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint

from surgeon.torch_graph.chains import name_of
from surgeon.torch_graph.fuse import IN_PLACE
from surgeon.torch_graph.program import RANDOM, Context, Program, Step, execute, results, run_step

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Segment:
    """Some steps in a row.

    Attributes:
        steps: what is done.
        enters: names it reads that were there before, without the statistics.
        leaves: names it makes that are read later.
        frees: names nobody reads after it.
        statistics: names it reads that its steps move in training.
        draws: whether a step may draw random numbers, which the second time have to be the same.
    """

    steps: tuple[Step, ...]
    enters: tuple[str, ...]
    leaves: tuple[str, ...]
    frees: tuple[str, ...]
    statistics: tuple[str, ...]
    draws: bool


@dataclass(frozen=True, eq=False)
class Segments:
    """A program's steps in segments."""

    parts: tuple[Segment, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> Segments:
        return self  # immutable

    def run(self, program: Program, environment: dict[str, Any], context: Context) -> list[Any]:
        """Run as `surgeon.torch_graph.program.run` does, keeping less for the backward pass."""
        for part in self.parts:
            values = [environment[name] for name in part.enters]
            # Not among the values: those may not change until the gradient is computed.
            moving = {name: environment[name] for name in part.statistics}
            made = checkpoint(
                _Pass(part, moving, context),
                *values,
                use_reentrant=False,
                preserve_rng_state=part.draws,
            )
            del values
            environment.update(zip(part.leaves, made, strict=True))
            for name in part.frees:
                environment.pop(name, None)
        return results(program, environment, context)


class _Pass:
    """One segment in one step of training: called once forward, and once again for its gradient."""

    def __init__(self, part: Segment, moving: dict[str, Any], context: Context) -> None:
        self.part, self.moving, self.context = part, moving, context
        self.calls = 0

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        environment = dict(zip(self.part.enters, values, strict=True)) | self.moving
        self.calls += 1
        if self.calls > 1:  # the statistics have moved already: what moves now is a copy
            for name, value in self.moving.items():
                environment[name] = value.detach().clone()
            for step in self.part.steps:  # ended from inside, by torch, when it has enough
                run_step(step, environment, self.context)
        else:
            execute(self.part.steps, environment, self.context)
        return tuple(environment[name] for name in self.part.leaves)


def segments(program: Program, count: int | None = None) -> Segments:
    """Divide a program where few values cross, into about √n parts of the n steps with tensors.

    Args:
        program: of a whole graph.
        count: of segments; None = √n.
    """
    steps = program.steps
    heavy = [place for place, step in enumerate(steps) if step.hosted is None]
    count = count or max(round(math.sqrt(len(heavy))), 1)
    crossing = _crossing(program)
    cuts = [0]
    for number in range(1, count):
        wanted = heavy[number * len(heavy) // count]
        reach = len(steps) // (2 * count) + 1
        near = [
            place
            for place in range(wanted - reach, wanted + reach + 1)
            if cuts[-1] < place < len(steps) and crossing[place] is not None
        ]
        if near:
            cuts.append(min(near, key=lambda place: (crossing[place], abs(place - wanted))))
    return Segments(_parts(program, [*cuts, len(steps)]))


def _crossing(program: Program) -> list[int | None]:
    """Count the values alive in front of each step; None where a later step overwrites one."""
    made = {name: place for place, step in enumerate(program.steps) for name in step.outputs}
    last: dict[str, int] = {}
    alive: list[int | None] = [0] * len(program.steps)
    for place, step in enumerate(program.steps):
        for name in _reads(step):
            last[name] = place
    for name, start in made.items():
        for place in range(start + 1, last.get(name, start) + 1):
            alive[place] = (alive[place] or 0) + 1
    for place, step in enumerate(program.steps):
        if name_of(step) in IN_PLACE:
            for between in range(made[step.arguments[0].source or ""] + 1, place + 1):
                alive[between] = None
    return alive


def _reads(step: Step) -> list[str]:
    names = [a.source for a in step.arguments if a.source is not None]
    for subgraph in step.subgraphs.values():
        names += subgraph.captures
    return names


def _may_draw(step: Step) -> bool:
    name = name_of(step)  # empty where ONNX does not say what it is
    return not name or name in RANDOM or bool(step.subgraphs)


def _parts(program: Program, cuts: Sequence[int]) -> tuple[Segment, ...]:
    outputs = {a.source for a in program.outputs if a.source is not None}
    kept = {*outputs, *program.weights}
    last: dict[str, int] = {}
    for place, step in enumerate(program.steps):
        for name in _reads(step):
            last[name] = place
    parts = []
    for start, end in itertools.pairwise(cuts):
        steps = program.steps[start:end]
        made = {name for step in steps for name in step.outputs if name}
        reads = dict.fromkeys(name for step in steps for name in _reads(step))
        enters = [name for name in reads if name not in made]
        leaves = tuple(n for n in made if n in outputs or last.get(n, -1) >= end)
        moved = {
            argument.source
            for step in steps
            if name_of(step) == "BatchNormalization"
            for argument in step.arguments[3:5]
            if argument.source in enters
        }
        parts.append(
            Segment(
                steps=steps,
                enters=tuple(name for name in enters if name not in moved),
                leaves=tuple(sorted(leaves)),
                frees=tuple(n for n in enters if n not in kept and last[n] < end),
                statistics=tuple(sorted(n for n in moved if n)),
                draws=any(_may_draw(step) for step in steps),
            )
        )
    return tuple(parts)
