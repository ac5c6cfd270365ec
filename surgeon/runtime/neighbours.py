"""Whether what a graph gives for a sample depends on its neighbours in the batch, found by running.

Batches of several sizes, of samples from all over the data in random order, are compared with the
same samples one by one. Where they differ, samples go through the graph one at a time, and the file
takes one at a time. A graph that differs from itself is refused. What must not enter: what is done
about it beyond that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from surgeon.errors import CheckError, DataError, SurgeonError
from surgeon.graph.unsteady import refusal, unsteady_nodes
from surgeon.runtime.sessions import OutOfMemoryError, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.data.samples import Samples
    from surgeon.records import TensorInfo
    from surgeon.runtime.stream import Runner

    Rows = dict[str, NDArray[Any]]
    Feeds = Mapping[str, NDArray[Any]]

BOUND: Final = 1e-4
"""Relative error between a batch of n and n batches of one."""
BOUND_HALF: Final = 1e-2
"""The same where values are float16."""
ROUNDING: Final = 0.1
"""What another order of sums may do to values that cancel or are quantised next."""
LIGHT: Final = (2,)
"""Batch sizes tried where no operator gives reason to doubt."""
SEVERAL: Final = (2, 5, 25)
"""Batch sizes tried where one does; the last becomes the size that will be run, up to `MOST`."""
MOST: Final = 64


@dataclass(frozen=True)
class Dependence:
    """A value that depends on which samples share a batch.

    Attributes:
        tensor: its name.
        measured: relative error against the sample alone; None where shapes differ.
    """

    tensor: str
    measured: float | None

    @property
    def said(self) -> str:
        """What was found, in words."""
        told = "its shape" if self.measured is None else f"its values by {self.measured:.2g}"
        return f"{self.tensor!r} depends on which samples share a batch ({told})"

    def error(self) -> CheckError:
        """Return the refusal, for a graph whose batch is fixed at another number than 1."""
        return CheckError(
            f"{self.said}, and the graph takes no sample alone",
            where=f"tensor {self.tensor!r}",
            remedy="export it with a batch of 1 or an open one, or choose a cut in front of what "
            "mixes the samples (`surgeon cuts` lists them)",
        )


def examine(
    runner: Runner, indices: NDArray[np.int64], *, doubtful: bool
) -> tuple[Rows, Dependence | None]:
    """Run some samples in batches and alone.

    Args:
        runner: the graph and its samples.
        indices: those that will be run.
        doubtful: whether operators give reason to try more than a pair.

    Returns:
        What the graph gives for a few samples, and the first dependence found.

    Raises:
        DataError: not one sample can be read.
        CheckError: the graph gives other values for the same sample each time.
    """
    sizes = (*SEVERAL[:-1], min(max(SEVERAL[-1], runner.batch), MOST)) if doubtful else LIGHT
    sizes = (runner.fixed_batch,) if runner.fixed_batch else sizes
    return _Trial(runner, indices, max(sizes)).go(sizes)


class _Trial:
    """Some samples, read once, and what the graph gives for each of them alone."""

    def __init__(self, runner: Runner, indices: NDArray[np.int64], most: int) -> None:
        self.runner = runner
        self.count, self.feeds = _read(runner.samples, indices, most)
        self.alone: dict[int, Rows] = {}

    def go(self, sizes: Sequence[int]) -> tuple[Rows, Dependence | None]:
        random = np.random.default_rng(0)
        for size in sorted({min(size, self.count) for size in sizes} - {1}):
            rows = random.permutation(self.count)[:size]
            try:
                found = self._compare(rows)
            except OutOfMemoryError:
                break  # what does not fit is not run either
            if found is not None:
                self._require_repeatable(int(rows[0]))
                return self._alone(0), found
        return self._alone(0), None

    def _alone(self, row: int) -> Rows:
        if row not in self.alone:
            self.alone[row] = self._run([row])
        return self.alone[row]

    def _run(self, rows: Sequence[int] | NDArray[np.int64]) -> Rows:
        return self.runner.run_whole(self.runner.rows_of(self.feeds, rows), len(rows))

    def _compare(self, rows: NDArray[np.int64]) -> Dependence | None:
        together = self._run(rows)
        for place, row in enumerate(rows):
            for name, wanted in self._alone(int(row)).items():
                got = together[name]
                if got.shape[1:] != wanted.shape[1:]:
                    return Dependence(name, None)
                measured = relative_error(got[place], wanted[0])
                if measured > self._bound(wanted) and not self._rounding(
                    name, got[place], int(row), len(rows), measured
                ):
                    return Dependence(name, measured)
        return None

    def _rounding(self, name: str, got: NDArray[Any], row: int, size: int, measured: float) -> bool:
        """Say whether a difference is that of a batch of one from a larger one, not of neighbours.

        A runtime sums in another order there, and a normalization that cancels makes that visible
        without any mixing of samples. Among copies of itself a sample has other neighbours.
        """
        among = self._run([row] * size)[name]
        alike = among.shape[1:] == got.shape and relative_error(got, among[0]) <= self._bound(got)
        return alike and measured <= ROUNDING

    def _bound(self, values: NDArray[Any]) -> float:
        kinds = {element for element, _ in self.runner.session.inputs.values()}
        return BOUND_HALF if values.dtype == np.float16 or "float16" in kinds else BOUND

    def _require_repeatable(self, row: int) -> None:
        before, again = self._alone(row), self._run([row])
        for name, values in before.items():
            if values.shape != again[name].shape or not np.array_equal(
                values, again[name], equal_nan=values.dtype.kind in "fc"
            ):
                raise CheckError(
                    f"{name!r} has other values each time the same sample is run",
                    where=f"tensor {name!r}",
                    remedy="choose a cut in front of what draws by chance (`surgeon cuts` lists "
                    "them), or export the network in evaluation mode",
                )


def _read(samples: Samples, indices: NDArray[np.int64], most: int) -> tuple[int, Rows]:
    """Read samples from all over the data; where none of them can be read, those from the start."""
    spread = np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).astype(np.int64))
    parts = [indices[spread]]
    parts += [indices[start : start + most] for start in range(0, len(indices), most)]
    for part in parts:
        batch = samples.read(part)
        if len(batch.indices):
            return len(batch.indices), batch.feeds
    raise DataError(
        "not one sample can be read",
        where=samples.names[int(indices[0])],
        remedy="check the format of the pictures",
    )


def relative_error(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return max|a−b| / max(max|b|, 1e-6) in float64; 0 for equal values of any type.

    A NaN in both at the same place is equal: that is the data's fault, not the batch's.
    """
    if np.array_equal(a, b):
        return 0.0
    if a.dtype.kind not in "fiu" or not a.size:
        return float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    differ = (x != y) & ~(np.isnan(x) & np.isnan(y))
    if not differ.any():
        return 0.0
    largest = np.abs(y[np.isfinite(y)]).max(initial=1e-6)
    apart = float(np.abs(x[differ] - y[differ]).max() / largest)
    return float("inf") if np.isnan(apart) else apart


def require_steady(
    model: ModelProto, infos: Sequence[TensorInfo], real: Callable[[], Sequence[Feeds]]
) -> None:
    """Refuse a graph that draws, or trains its statistics, where that shows in what it gives.

    Args:
        model: the graph; its first output is what counts.
        infos: its inputs, each with the axis of samples.
        real: gives a few samples, one by one, of equal shapes.

    Raises:
        UnsupportedError: naming the nodes and the remedy.
    """
    nodes = unsteady_nodes(model)
    if nodes and not _answers_alike(model, infos, real()):
        raise refusal(nodes)


def _answers_alike(model: ModelProto, infos: Sequence[TensorInfo], real: Sequence[Feeds]) -> bool:
    """Say whether samples get the same values every time, alone and together.

    As the graph is written: ONNX Runtime's optimiser takes out a Dropout that trains.
    """
    axes = {info.name: info.batch_axis for info in infos}
    try:
        session = open_session(model, device="cpu", optimised=False)
        output = model.graph.output[0].name
        alone = [session.run(one, [output])[0] for one in real]
        for one, values in zip(real, alone, strict=True):
            if not np.array_equal(values, session.run(one, [output])[0], equal_nan=True):
                return False
        together = {
            name: value
            if axes[name] is None
            else np.concatenate([one[name] for one in real], axes[name])
            for name, value in real[0].items()
        }
        joint = session.run(together, [output])[0]
    except (SurgeonError, ValueError):
        return False  # a batch it does not take is one nobody can compare
    return bool(alone) and relative_error(joint, np.concatenate(alone)) <= BOUND
