"""A graph understood with its batch as it really is, whatever the file declares.

A fixed batch is made free, and so is one that is declared open while constants of the graph hold it
at a number: what is claimed was run against one batch after the other. Where that does not hold the
batch stays fixed, which is said.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError
from surgeon.graph.batch import free_batch, free_batch_stepwise, held_sizes, pinned
from surgeon.graph.bounds import runs_small
from surgeon.graph.cuts import Anatomy, study
from surgeon.graph.shapes import fixed_batch, infer, input_infos, input_sizes, skeleton
from surgeon.graph.unsteady import unsteady_nodes
from surgeon.runtime.observe import Singles, observe_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.graph.shapes import Observe

    Constants = Mapping[str, NDArray[Any]] | None

WRITTEN = (1, 2, 5)
"""Batches with which what is said of a written file's batch is tried."""


def settle(
    model: ModelProto, known: Mapping[str, int], constants: Constants, bound: float,
    output: str | None = None,
) -> Anatomy:  # fmt: skip
    """Understand a graph, freeing its batch if the freed graph computes the same.

    Args:
        model: normalized model.
        known: sizes of open dimensions that are known, `{"input:axis": size}`.
        constants: values of inputs that are the same for every sample.
        bound: relative error allowed between single batches and a joint one.
        output: the graph output that counts; None chooses.
    """
    return _Settling(model, known, constants, bound, output).run()


def sketch(model: ModelProto, known: Mapping[str, int], output: str | None = None) -> Anatomy:
    """Understand a graph without proving anything: its batch stays as it is declared."""
    held = held_sizes(model, known)
    if not held:
        note = None if _has_batch(model) or not input_infos(model) else one_sample(model)
        anatomy = study(model, observe=observer(None), known=known, output=output)
        return replace(anatomy, batch_note=note)
    note = "the batch is declared open; constants of the graph seem to hold it at 1"
    anatomy = study(pinned(model, 1), observe=observer(None), known=known, output=output)
    return replace(anatomy, batch_note=note)


class _Settling:
    """The steps of `settle`."""

    def __init__(
        self, model: ModelProto, known: Mapping[str, int], constants: Constants, bound: float,
        output: str | None,
    ) -> None:  # fmt: skip
        self.model = model
        self.known = known
        self.constants = constants
        self.bound = bound
        self.output = output
        self.observe = observer(constants)

    def run(self) -> Anatomy:
        fixed = fixed_batch(input_infos(self.model))
        if fixed is not None:
            return self._freed(self.model, fixed)
        infos = input_infos(self.model)
        if infos and not _has_batch(self.model):
            return replace(self._study(self.model), batch_note=one_sample(self.model))
        if unsteady_nodes(self.model):
            return self._study(self.model)  # nothing can be compared
        for size in held_sizes(self.model, self.known):
            verdict = self._held(size)
            if verdict is not None:
                return verdict
        anatomy = self._study(self.model)
        if not anatomy.shapes.dtype(anatomy.end):  # it does not run at a larger batch
            return self._held(1) or anatomy
        return anatomy

    def _held(self, size: int) -> Anatomy | None:
        """Understand a graph as held at a batch; None where it does not run at that batch."""
        if size > 1 and self._takes_one:
            return None  # what a larger batch changes is the samples' doing, not a constant's
        model = pinned(self.model, size)
        try:
            anatomy = self._study(model)
            singles = self._singles(model, size, anatomy.end)
        except SurgeonError:
            return None
        if singles is None or (size > 1 and size not in singles.apart[0].shape):
            return None
        holds, _ = singles.agree(self.model, bound=self.bound, exact=True)
        if holds:
            return None
        freed = self._freed(model, size, singles)
        if freed.end not in freed.shapes.batch_axes:
            # Not held, but made for another purpose: its output lists what was found in all.
            opened = self._study(self.model)
            if opened.late in opened.shapes.batch_axes:
                return opened
        note = f"the batch is declared open, but a larger one than {size} fails or changes results"
        return replace(freed, held=size, batch_note=f"{note}; {freed.batch_note}")

    @cached_property
    def _takes_one(self) -> bool:
        """Say whether the graph as declared gives one answer for a single sample."""
        try:
            anatomy = self._study(self.model)
            singles = self._singles(self.model, 1, anatomy.end)
        except SurgeonError:
            return False
        return singles is not None and 1 in singles.apart[0].shape[:1]

    def _freed(self, model: ModelProto, fixed: int, singles: Singles | None = None) -> Anatomy:
        """Understand a graph of fixed batch as one whose batch is free, where that is proven."""
        measured = "nothing that states it was found"
        for free in (free_batch, free_batch_stepwise):
            freed = free(model, self.known)
            if freed is None:
                continue
            candidate, claim = freed
            anatomy = self._study(candidate)
            try:
                singles = singles or self._singles(model, fixed, anatomy.end)
            except SurgeonError as error:
                measured = error.message
                break
            if singles is None:
                measured = "its values are too large to run it only to see that"
                break
            proven, measured = singles.agree(candidate, bound=self.bound)
            if proven:
                note = f"{claim}; proven against single batches: {measured}"
                return replace(anatomy, batch_note=note)
        note = f"the batch stays fixed at {fixed}: {measured}"
        return replace(self._study(model), batch_note=note)

    def _singles(self, model: ModelProto, size: int, end: str) -> Singles | None:
        sizes = input_sizes(input_infos(model), size, known=self.known)
        if not runs_small(infer(skeleton(model), sizes)):
            return None
        return Singles(model, sizes, end, constants=self.constants)

    def _study(self, model: ModelProto) -> Anatomy:
        return study(model, observe=self.observe, known=self.known, output=self.output)


def try_written(
    model: ModelProto,
    known: Mapping[str, int],
    constants: Constants,
    bound: float,
) -> str | None:
    """Try a file whose batch is open with several batches; None where each sample is its own.

    Returns:
        Why its batch is not free, in words.
    """
    sizes = input_sizes(input_infos(model), 1, known=known)
    if not runs_small(infer(skeleton(model), sizes)):
        return None
    output = model.graph.output[0].name
    try:
        singles = Singles(model, sizes, output, count=max(WRITTEN), constants=constants)
    except SurgeonError as error:
        return error.message
    holds, why = singles.agree(model, bound=bound, exact=True, counts=WRITTEN)
    return None if holds else why


def one_sample(model: ModelProto) -> str:
    """Say that the inputs of a graph hold one sample and no more."""
    told = ", ".join(f"{info.name!r} {list(info.shape or ())}" for info in input_infos(model)[:5])
    return f"no input has a batch axis: {told} is one sample"


def _has_batch(model: ModelProto) -> bool:
    return any(info.batch_axis is not None for info in input_infos(model))


def observer(constants: Constants) -> Observe:
    """Return what runs a graph to see shapes, with constant inputs as they are."""

    def observe(
        model: ModelProto, sizes: Mapping[str, tuple[int, ...]], known: frozenset[str]
    ) -> Any:
        return observe_shapes(model, sizes, constants, known)

    return observe
