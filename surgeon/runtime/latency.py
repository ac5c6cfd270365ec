"""Latency: how long a graph takes for one sample alone.

What must not enter: what is concluded from the times.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

from surgeon.graph.cuts import keep_only
from surgeon.graph.shapes import input_infos, input_sizes
from surgeon.runtime.observe import random_feeds
from surgeon.runtime.proof import fill_batch
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.graph.cuts import Anatomy
    from surgeon.runtime.places import Device

ROUNDS = 10
BUDGET = 0.1
"""Seconds after which no further round is begun."""

CUT_BUDGET = 0.3
"""The same where every cut of a model is measured, with nothing else to wait for."""


def measure_latency(
    model: ModelProto,
    feeds: Mapping[str, NDArray[Any]],
    *,
    device: str | Device = "auto",
    threads: int | None = None,
    budget: float = BUDGET,
    summary: Callable[[list[float]], float] = min,
    where: str | None = None,
) -> float:
    """Return the seconds that one sample takes, the best of at most ten runs after a first one.

    The best, since whatever else a machine does only adds time. A graph of fixed batch n runs n
    copies of the sample, and the time is divided by n.

    Args:
        model: the graph.
        feeds: the inputs of one sample; more names than the graph takes are allowed.
        device: where to run.
        threads: CPU threads; None = ONNX Runtime's own choice.
        budget: seconds after which no further run is begun.
        summary: what is said of the runs' seconds.
        where: what messages call the model.

    Raises:
        ModelError, EnvironmentLacksError: as `open_session`.
    """
    session = open_session(model, device=device, threads=threads, spinning=False, where=where)
    given = {name: value for name, value in feeds.items() if name in session.inputs}
    filled = fill_batch(model, given)
    copies = max((filled[name].size // max(given[name].size, 1) for name in given), default=1)
    session.run(filled)  # the first run also allocates
    seconds: list[float] = []
    started = time.perf_counter()
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        session.run(filled)
        ended = time.perf_counter()
        seconds.append(ended - begun)
        if ended - started > budget:
            break
    return summary(seconds) / max(copies, 1)


def time_cuts(
    anatomy: Anatomy,
    *,
    constants: Mapping[str, NDArray[Any]] | None = None,
    known: Mapping[str, int] | None = None,
    device: str = "auto",
    threads: int | None = None,
    most: int = 64,
    progress: Callable[..., None] | None = None,
) -> dict[str, float]:
    """Return {tensor of a listed cut: median seconds of one sample up to it}.

    Each cut is a graph of its own that ends there, as an operated file does in front of its head:
    outputs in the middle of one graph would keep ONNX Runtime from fusing across them.

    Args:
        anatomy: the graph understood.
        constants: values of constant inputs.
        known: sizes of open dimensions, {"input:axis": size}; others are assumed.
        device: where to run.
        threads: CPU threads; None = ONNX Runtime's own choice.
        most: cuts to measure; of more, as many are chosen evenly, the first and the last included.
        progress: called as `progress(stage, done, total)`.

    Raises:
        ModelError, EnvironmentLacksError: as `open_session`.
    """
    cuts = anatomy.cuts
    if len(cuts) > most:
        places = {round(index * (len(cuts) - 1) / (most - 1)) for index in range(most)}
        cuts = tuple(cuts[place] for place in sorted(places))
    infos = input_infos(anatomy.model)
    feeds = random_feeds(anatomy.model, input_sizes(infos, 1, known=known), 0, constants)
    found: dict[str, float] = {}
    for number, cut in enumerate(cuts):
        if progress is not None:
            progress("timing cuts", number, len(cuts))
        graph = keep_only(anatomy.model, [cut.tensor], anatomy.shapes)
        found[cut.tensor] = measure_latency(
            graph, feeds, device=device, threads=threads, budget=CUT_BUDGET, summary=median
        )
    if progress is not None:
        progress("timing cuts", len(cuts), len(cuts))
    return found
