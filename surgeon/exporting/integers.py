"""`--int8 DATA` and `--int8-dynamic`: a graph in 8 bits, judged by data as far as there are some.

What an 8-bit file answers is not what the source does, so that it is compared by samples: how far
answers are off, relative to their spread, and how often the class is the same. Layers that lose
most stay as they are until that is within a bound. What comes behind is compared with the
quantised graph.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from surgeon.errors import CheckError, DataError, UnsupportedError
from surgeon.exporting import compare, samples
from surgeon.exporting.given import INT8
from surgeon.graph.weights import initializers, sizes
from surgeon.runtime.integers import LAYERS, Quantiser, to_dynamic
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.exporting.given import Compared, Feeds, Given, Pair

MOST = 200
"""Samples that ranges are measured on and layers are judged by, together."""
LEAST = 2
JUDGE = 1 / 3
"""Share of them that judges; ranges are measured on the others."""
ALONE = 8
"""Samples by which parts of the graph are judged, each in 8 bits alone."""
TRIES = 40
"""Parts that are judged at most, so that deep networks take no longer than others."""
BOUND = 0.1
"""Error of the answers, relative to their spread, above which layers stay as they are."""
LIMIT = 0.3
"""The same above which nothing is written."""


def make(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """Return the graph in 8 bits, but for layers that lose most.

    Raises:
        CheckError: its answers are off by more than the limit whatever stays.
        DataError: too few samples.
    """
    data = given.asked.delivery.int8
    feeds = samples.feeds_of(given, data, made, MOST)
    if len(feeds) < LEAST:
        raise DataError(
            f"{len(feeds)} sample is too few to measure ranges by",
            where="--int8",
            remedy="give a hundred or more, such as those the file was trained on",
        )
    judging = max(1, int(len(feeds) * JUDGE))
    quantiser = Quantiser(made)
    quantiser.calibrate(_told(given, "ranges", feeds[judging:]))
    judge = _Judge(given, made, feeds[:judging])
    floats = _left(quantiser, judge)
    result = quantiser.quantised(floats=floats)
    found = judge(result)
    _require(found, "--int8")
    if found.error > BOUND:
        given.notes.append(
            f"with {len(floats)} layers in float32 the answers are still off by {found.error:.2f} "
            f"of their spread, more than {BOUND}: --check DATA tells what that costs"
        )
    given.quantised = {
        "samples": len(feeds),
        "layers": len(quantiser.layers) - len(floats),
        "floats": floats,
        "error": found.error,
        "bound": BOUND,
    }
    return _settled(given, result, found, judge)


def make_dynamic(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """Return the graph with products in 8 bits, whose ranges are measured as values come.

    Raises:
        UnsupportedError: most of its weights are those of convolutions.
        CheckError: its answers are off by more than the limit.
    """
    counts, weights = sizes(made), initializers(made)
    shares = dict.fromkeys(LAYERS, 0)
    for node in made.graph.node:
        if node.op_type in shares:
            shares[node.op_type] += sum(counts[name] for name in node.input[1:2] if name in weights)
    convolved = shares["Conv"] + shares["ConvTranspose"]
    if convolved >= max(1, sum(shares.values()) - convolved):
        raise UnsupportedError(
            "the network convolves: with ranges measured as values come it would answer otherwise",
            where="--int8-dynamic",
            remedy="--int8 DATA measures them beforehand",
        )
    result = to_dynamic(made)
    data = given.asked.delivery.check
    if data is None:
        feeds: Sequence[Feeds] = compare.feeds_of(given.model, made)
    else:
        feeds = samples.feeds_of(given, data, made, MOST)
    judge = _Judge(given, made, feeds)
    found = judge(result)
    _require(found, "--int8-dynamic")
    layers = sum(node.op_type == "MatMulInteger" for node in result.graph.node)
    given.quantised = {
        "samples": 0, "layers": layers, "floats": [], "error": found.error, "bound": LIMIT,
    }  # fmt: skip
    return _settled(given, result, found, judge)


class _Judge:
    """How far a quantised graph is off on some samples."""

    def __init__(self, given: Given, made: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
        self._link, self._feeds, self.told = given.link, feeds, given.tell
        self._wanted = self._answers(made, feeds)

    def __call__(self, made: onnx.ModelProto, most: int | None = None) -> Compared:
        """Compare its answers with those of the graph as it was, on the first samples or all."""
        return compare.figures(self.pairs(made, most), self._link)

    def pairs(self, made: onnx.ModelProto, most: int | None = None) -> list[Pair]:
        """Return its answers on the first samples or all, beside those of the graph as it was."""
        return list(zip(self._answers(made, self._feeds[:most]), self._wanted, strict=False))

    @staticmethod
    def _answers(made: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[NDArray[Any]]:
        session = open_session(made, device="cpu", where="the quantised graph")
        name = made.graph.output[0].name
        return [np.asarray(session.run(one, [name])[0], np.float64) for one in feeds]


def _left(quantiser: Quantiser, judge: _Judge) -> list[str]:
    """Return the layers that stay as they are: the fewest of those that lose most."""
    whole = judge(quantiser.quantised()).error
    if whole <= BOUND:
        return []
    most = (len(quantiser.layers) + 1) // 2
    worst: list[str] = []

    def good(count: int) -> bool:
        return judge(quantiser.quantised(floats=worst[:count])).error <= BOUND

    for layer in _by_loss(quantiser, judge, whole):
        worst.append(layer.name)
        if len(worst) == most or (layer.rest <= BOUND and good(len(worst))):
            break
    judge.told("layers", TRIES, TRIES)
    low, count = 0, len(worst)
    while count - low > 1:  # fewer may do
        middle = (low + count) // 2
        low, count = (low, middle) if good(middle) else (middle, count)
    return worst[:count]


class _Layer(NamedTuple):
    """A layer, and the error that all those after it are likely to leave."""

    name: str
    rest: float


def _by_loss(quantiser: Quantiser, judge: _Judge, whole: float) -> Iterator[_Layer]:
    """Give layers, those that lose most first: of the part that loses most each half is judged.

    Losses of parts add up as squares do, so that what the rest will lose is known before all of it
    is judged. Once the tries are used up, layers of a part come in their order.
    """
    parts, tries = [(whole, quantiser.layers)], 0
    while parts:
        parts.sort(key=lambda part: part[0])
        loss, layers = parts.pop()
        if len(layers) > 1 and tries < TRIES:
            middle = len(layers) // 2
            for half in (layers[:middle], layers[middle:]):
                tries += 1
                judge.told("layers", tries, TRIES)
                parts.append((judge(quantiser.quantised(only=half), ALONE).error, half))
            continue
        for place, name in enumerate(layers, 1):
            left = loss * (1 - place / len(layers)) ** 0.5
            yield _Layer(name, math.hypot(left, *(other for other, _ in parts)))


def _told(given: Given, stage: str, feeds: Sequence[Feeds]) -> Iterator[Feeds]:
    """Give inputs one by one, and say how far it is."""
    for done, one in enumerate(feeds, 1):
        yield one
        given.tell(stage, done, len(feeds))


def _require(found: Compared, option: str) -> None:
    if not found.error <= LIMIT:
        raise CheckError(
            f"in 8 bits the answers are off by {found.error:.2f} of their spread, the limit is "
            f"{LIMIT}",
            where=option,
            remedy="nothing was written; --fp16 may do",
        )


def _settled(
    given: Given, made: onnx.ModelProto, found: Compared, judge: _Judge
) -> onnx.ModelProto:
    """Note what was judged, and compare what comes behind with the quantised graph."""
    given.precision = INT8
    given.stated["error"] = found.error
    given.instead(made, judge.pairs(made))
    return made
