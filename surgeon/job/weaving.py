"""The trained part rewritten by an adapter before it becomes a module, and folded back.

What is delivered keeps the graph as it is: an adapter of the part (`Adapter.of == "part"`) gives a
graph that learns better, and says how its tensors become those of the graph again. What must not
enter: what adapters do, torch.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from surgeon.errors import SurgeonError
from surgeon.graph.walk import data_inputs
from surgeon.graph.weights import initializers, roles, to_array, tuned_names
from surgeon.records import Woven

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.job.adapters import Chosen

    Arrays = Mapping[str, NDArray[Any]]

PIECE = 32
"""Samples of a batch that an adapter sees, where the graph takes any number."""
NEAR = 1e-2
"""By how much what is folded without a step may differ from what was there."""
WHERE = "the trained part"


@dataclass(frozen=True)
class Weaving:
    """What an adapter made of the trained part, and whose it is.

    Attributes:
        chosen: the adapter.
        woven: what it made.
        shapes: of all that training may change of the part.
    """

    chosen: Chosen
    woven: Woven
    shapes: Mapping[str, tuple[int, ...]]

    def folded(self, values: Arrays) -> dict[str, NDArray[Any]]:
        """Return tensors of the part.

        Args:
            values: of the initializers of the graph that was made.

        Raises:
            PluginError: the adapter does not fold them.
        """
        try:
            told = self.woven.fold(values)
            found = {name: np.asarray(told[name]) for name in self.shapes}
        except Exception as error:  # a stranger's code may raise anything
            what = f"does not fold: {type(error).__name__}: {error}"
            raise self.chosen.wrong(what, WHERE) from error
        for name, array in found.items():
            if array.shape != self.shapes[name]:
                what = f"folds to {list(array.shape)}, not {list(self.shapes[name])}"
                raise self.chosen.wrong(what, f"initializer {name!r}")
        return found


def weave(
    chosen: Chosen,
    graph: ModelProto,
    trainable: Sequence[str],
    batches: Callable[[int], Iterator[Arrays]],
    *,
    scratch: bool,
    batch: int | None,
) -> Weaving:
    """Let an adapter rewrite the trained part.

    Args:
        chosen: the adapter; its code may ask for `scratch` and `batch` by name.
        graph: the trained part, with the values that it starts from.
        trainable: its initializers that learn.
        batches: gives inputs of so many training samples.
        scratch: whether the values are random.
        batch: samples that each pass must have; None = any number.

    Raises:
        PluginError: the code fails, or what it gives does not stand for this graph.
    """
    asks, given = inspect.signature(chosen.code).parameters, {"scratch": scratch, "batch": batch}
    more = {name: value for name, value in given.items() if name in asks}
    try:
        woven = chosen.code(graph, tuple(trainable), batches, **more, **chosen.settings)
    except SurgeonError:
        raise
    except Exception as error:  # a stranger's code may raise anything
        what = f"fails: {type(error).__name__}: {error}"
        raise chosen.wrong(what, WHERE) from error
    wrong = _wrong(graph, trainable, woven)
    if wrong:
        raise chosen.wrong(wrong, WHERE)
    stored = initializers(graph)
    before = {name: to_array(stored[name]) for name in tuned_names(graph, trainable)}
    made = Weaving(chosen, woven, {name: array.shape for name, array in before.items()})
    values = {name: to_array(tensor) for name, tensor in initializers(woven.graph).items()}
    for name, after in made.folded(values).items():
        wide, was = (one.astype(np.float64) for one in (after, before[name]))
        if not np.allclose(wide, was, NEAR, NEAR):
            what = "changes what the network computes before anything is trained"
            raise chosen.wrong(what, f"initializer {name!r}")
    return made


def _wrong(graph: ModelProto, trainable: Sequence[str], woven: Any) -> str | None:
    """Return what cannot be trained in place of a graph; None = nothing."""
    if not isinstance(woven, Woven) or not isinstance(woven.graph, ModelProto):
        return f"gives a {type(getattr(woven, 'graph', woven)).__name__}, not a Woven of a graph"
    for what, before, after in (
        ("input", data_inputs(graph.graph), data_inputs(woven.graph.graph)),
        ("output", *([one.name for one in each.graph.output] for each in (graph, woven.graph))),
    ):
        if before != after:
            return f"changes the {what}s of the graph, {', '.join(before)}, to {', '.join(after)}"
    foreign = [name for name in woven.trainable if name not in trainable]
    if foreign:
        return f"trains in place of {foreign[0]!r}, which does not train"
    role = roles(woven.graph)
    for names in woven.trainable.values():
        for name in names:
            if role.get(name) != "parameter" and name not in trainable:
                return f"trains {name!r}, through which no gradient flows in its graph"
    return None


def pieces(samples: int, count: int, batch: int | None) -> list[NDArray[np.int64]]:
    """Return the positions of batches of one size, spread evenly over samples.

    Args:
        samples: that there are.
        count: that are wanted.
        batch: samples that each piece must have; None = any number.
    """
    rows = np.unique(np.linspace(0, samples - 1, max(count, 1)).astype(np.int64))
    size = batch or min(PIECE, len(rows))
    whole = math.ceil(len(rows) / size)
    return list(np.resize(rows, (whole, size)))  # what is short is filled from the beginning
