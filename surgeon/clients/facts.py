"""What a client must know of a file: what it is fed, what comes out, what that means.

It is found by running the file once, on an input that anyone can make again, and reading its answer
as `predict` does. What must not enter: the syntax of any language.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.answering import Output
from surgeon.data.elements import numpy_dtype
from surgeon.data.media.pictures import image_input
from surgeon.data.media.texts import TextSamples, text_inputs
from surgeon.data.samples import Given
from surgeon.errors import SurgeonError
from surgeon.graph.shapes import fixed_batch, output_infos
from surgeon.model import load
from surgeon.options import Options
from surgeon.records import Preprocess, TensorInfo, TextEncoding
from surgeon.runtime.proof import fill_batch, seeded_input
from surgeon.runtime.sessions import open_session
from surgeon.targets import task_of
from surgeon.tasks.find import find_task
from surgeon.tasks.metrics import softmax

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins
    from surgeon.tasks.base import Decoded, TaskCode

    Arrays = dict[str, NDArray[Any]]

SIDES = (48, 64)
"""Height and width of the example where the file takes pictures of any size."""
TEXT = "An example sentence, short and plain."
PIXELS = "the pixel in row y and column x has the value (7 x + 3 y + 50 c) mod 256 in channel c"
NUMBERS = "element i of each float input is ((7 i) mod 13 - 6) / 6, of each other one i mod 2"


@dataclass(frozen=True)
class Facts:
    """What a client must know of a file.

    Attributes:
        file: its name.
        task: name of its task.
        labels: of the outputs; None where they have no names.
        inputs: of the graph.
        outputs: the same.
        medium: `pictures`, `texts`, or `arrays` for all else.
        embedded: whether the graph itself makes values of pixels.
        rule: how pictures or texts become inputs, as the file states it; None = as they are.
        roles: what each input of a text takes: ids, mask or types.
        output: the output that is read; None where what is read is none.
        kind: what its numbers are: `classification`, `multi-label`, `values`, or a task's own.
        apply: what makes answers of its numbers: `softmax`, `sigmoid`, `exp`, `nothing`, or None
            where it is more than that.
        stored: what the file stores of its task: thresholds, widths of intervals.
        batch: samples that it takes at once; None = any number.
        tokenizer: the file of the tokenizer, with cutting and padding in it, as JSON text.
        example: an input that anyone can make again, and what the file answers; None without.
    """

    file: str
    task: str
    labels: tuple[str, ...] | None
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    medium: str = "pictures"
    embedded: bool = False
    rule: Preprocess | TextEncoding | None = None
    roles: dict[str, TensorInfo] = field(default_factory=dict)
    output: str | None = None
    kind: str = "classification"
    apply: str | None = "softmax"
    stored: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None
    tokenizer: str | None = None
    example: dict[str, Any] | None = None

    @property
    def thresholds(self) -> list[float] | None:
        """The probability above which each label is given, of several labels."""
        if self.kind != "multi-label" or self.labels is None:
            return None
        stored = self.stored.get("thresholds") or {}
        return [float(stored.get(name, 0.5)) for name in self.labels]


def find_facts(
    made: onnx.ModelProto, file: str, plugins: Plugins | None = None
) -> tuple[Facts, list[str]]:
    """Return what a client must know of a graph, and what people should know of that."""
    model = load(made, hashed=False)
    name = task_of(model, Options().reading)
    task = find_task(name, plugins, model.decoding)
    rule = model.preprocess
    told: dict[str, Any] = {
        "file": file, "task": name, "rule": rule, "stored": dict(model.decoding),
        "labels": None if model.labels is None else tuple(model.labels),
        "inputs": tuple(model.inputs), "outputs": tuple(output_infos(model.proto)),
        "embedded": isinstance(rule, Preprocess) and rule.embedded,
        "batch": fixed_batch(model.inputs),
    }  # fmt: skip
    try:
        said, feeds = _fed(model, told)
        return Facts(**told | _read(model, task, said, feeds)), []
    except SurgeonError as error:
        note = f"no example is told: {error.message}"
        return Facts(**told | {"output": None, "apply": None}), [note]


def _fed(model: Model, told: dict[str, Any]) -> tuple[dict[str, Any], Arrays]:
    """Return what is said of the example's input, and the feeds; tell which medium it is of."""
    rule, info = told["rule"], image_input(model.inputs, {})
    roles = text_inputs(model.inputs, {})
    if isinstance(rule, Preprocess) and info is not None:
        told["medium"] = "pictures"
        height, width = SIDES if told["embedded"] else rule.size
        y, x, c = np.ogrid[:height, :width, : 1 if rule.channels == "L" else 3]
        pixels = ((7 * x + 3 * y + 50 * c) % 256).astype(np.uint8)
        said = {"picture": PIXELS, "height": height, "width": width, "channels": "RGB"}
        if told["embedded"]:
            return said, {info.name: np.broadcast_to(pixels, (height, width, 3))[None]}
        return said | {"channels": rule.channels}, {info.name: _values(pixels, rule, info)}
    if isinstance(rule, TextEncoding) and roles is not None:
        given = Given(model.inputs, [TEXT], sources=[TEXT.encode()], rule=rule)
        samples = TextSamples(given)
        told |= {"medium": "texts", "roles": roles, "tokenizer": samples.configured()}
        feeds = samples.batch([0])
        said = {"text": TEXT} | {role: feeds[one.name][0].tolist() for role, one in roles.items()}
        return said, feeds
    told["medium"] = "arrays"
    entries: list[dict[str, Any]] = (model.proof or {}).get("golden") or [{}]
    golden = entries[0].get("inputs", {})
    feeds = {
        name: _numbered(array)
        for name, array in seeded_input(model.proto, 0, None, golden.get("sizes")).items()
    }
    shapes = {name: list(array.shape) for name, array in feeds.items()}
    return {"numbers": NUMBERS, "shapes": shapes}, feeds


def _values(pixels: NDArray[np.uint8], rule: Preprocess, info: TensorInfo) -> NDArray[Any]:
    """Return a picture of the file's own size as its input; channels are in the rule's order."""
    values = ((pixels * rule.scale - rule.mean) / rule.std).astype(numpy_dtype(info.dtype))
    return (values.transpose(2, 0, 1) if rule.layout == "NCHW" else values)[None]


def _numbered(array: NDArray[Any]) -> NDArray[Any]:
    place = np.arange(array.size).reshape(array.shape)
    if array.dtype.kind == "f":
        return ((7 * place % 13 - 6) / 6).astype(array.dtype)
    return (place % 2).astype(array.dtype)


def _read(model: Model, task: TaskCode, said: dict[str, Any], feeds: Arrays) -> dict[str, Any]:
    """Run the example, and say what is read and what it means."""
    read = Output.of(model, {}, keeps=bool(task.keeps))
    session = open_session(read.proto, device="cpu", threads=1)
    raw = session.run(fill_batch(model.proto, feeds), [read.value])[0]
    numbers = read.rows(model, raw)[:1]
    labels = model.labels
    names = {one.name for one in output_infos(model.proto)}
    decoded = _decoded(read, task, numbers, labels)
    # Of sure answers, softmax and sigmoid say the same; of small numbers they do not.
    modest = numbers / max(1.0, float(np.abs(numbers).max(initial=0.0)))
    answers = decoded.answers[:1]
    found = {
        "output": read.value if read.value in names else None,
        "kind": decoded.kind,
        "apply": _applied(modest, _decoded(read, task, modest, labels).answers[:1]),
    }
    teller = task if decoded.task is None else find_task(decoded.task)
    said["output"] = _rounded(numbers[0]) if numbers[0].size <= 10_000 else None
    if not task.keeps:
        known = labels if labels is not None and len(labels) == answers.shape[1] else None
        row = teller.rows(answers, known)[0]
        said |= json.loads(json.dumps({k: v for k, v in row.items() if v is not None}))
    return found | {"example": said}


def _decoded(read: Output, task: TaskCode, numbers: Any, labels: list[str] | None) -> Decoded:
    from surgeon.tasks.answers import decode

    if read.classifier or read.activation is not None:
        return task.decode(numbers, read.activation, labels)
    return decode(numbers, None, classifier=False)


def _applied(numbers: NDArray[np.float64], answers: NDArray[np.float64]) -> str | None:
    """Return what makes answers of numbers, found by doing it."""
    if numbers.shape != answers.shape:
        return None
    ways = {"nothing": numbers, "exp": np.exp(numbers), "sigmoid": 1 / (1 + np.exp(-numbers))}
    if numbers.ndim == 2:
        ways["softmax"] = softmax(numbers)
    return next(
        (name for name, way in ways.items() if np.allclose(way, answers, 1e-9, 1e-12)), None
    )


def _rounded(numbers: NDArray[np.float64]) -> Any:
    """Return numbers with the digits that engines agree in."""
    return np.vectorize(lambda one: float(f"{one:.7g}"), otypes=[float])(numbers).tolist()
