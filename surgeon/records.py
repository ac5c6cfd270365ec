"""The nouns of surgeon: frozen dataclasses that travel between the rooms, standard library only.

Plugins import this module and `surgeon.plugin`, nothing else, so that `surgeon --help` stays fast.
What must not enter: behaviour beyond reading one's own fields, and any third-party import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from surgeon.offers import *  # noqa: F403 - plugins import all nouns from here

Dim = int | str | None
Shape = tuple[Dim, ...]
Init = Literal["pretrained", "random", "race"]


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output: element type in lower case (`float`, `int64`), shape, batch axis.

    `shape` holds ints, symbolic names or None (unknown); it is None where the rank is unknown.
    """

    name: str
    dtype: str
    shape: Shape | None
    batch_axis: int | None = None


@dataclass(frozen=True)
class CutPoint:
    """A value at which the graph may be cut.

    Attributes:
        tensor: name of the value.
        depth: multiply-adds needed to compute it ÷ those for the old head's input, 4 decimals.
        shape: its shape, symbolic where the graph is.
        dtype: ONNX element type in lower case.
        batch_axis: the axis along which samples lie.
        parameters: elements of the float initializers needed to compute it.
        macs: multiply-adds needed to compute it, for one sample.
        bytes: size of those initializers on disk.
    """

    tensor: str
    depth: float
    shape: Shape
    dtype: str
    batch_axis: int
    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class OldHead:
    """The classifier a pretrained file ends in, as found: its form, input and weights.

    `form` is Gemm, MatMul+Add, MatMul, Conv, or the operator's own name; `activation` is what
    follows it (Softmax, LogSoftmax, Sigmoid) or None; `output` is the graph output it feeds.
    `also` are the inputs of further heads whose scores are averaged with this one's. `scores` is
    what the weighted operator makes, `passed` the values from there to the output, in order.
    """

    form: str
    input: str
    weights: tuple[str, ...]
    classes: int | None
    activation: str | None
    output: str
    also: tuple[str, ...] = ()
    scores: str = ""
    passed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Head:
    """The new head to append: pool where the value has more than two axes → Flatten → Gemm.

    Attributes:
        kind: name of the head (`gemm`), as `surgeon_heads` offer it.
        pool: how the axes that are neither batch nor channel collapse: `mean`, `max`, `first`,
            `last`, `cls` (first), `gem` (generalised mean), or `flatten` (kept, all enter). A plan
            says `token` afterwards where the old head's token took the place of `mean` or `cls`.
        taps: values in front of the cut that the head reads too: tensor names or `@x`. Those as
            deep as the cut or deeper are left out, so that `--cut` shortens any plan.
        options: settings of its kind, by name.
        weights: names of the initializers it trains, those of its last layer (weight, bias) last.
        solves: whether its optimum is found without steps, filled in likewise.
    """

    kind: str = "gemm"
    pool: Literal["mean", "max", "first", "last", "flatten", "cls", "gem", "token"] = "mean"
    taps: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    solves: bool = True

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Head:
        """Rebuild a head from its JSON form; unknown keys are ignored, so newer files load."""
        values = {f.name: document[f.name] for f in fields(cls) if f.name in document}
        values |= {name: tuple(values.get(name) or ()) for name in ("taps", "weights")}
        return cls(**values | {"options": dict(values.get("options") or {})})


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: what the progress line and the history call it.
        trains: `head`, `all`, or names of initializers.
        epochs: None = the solver's or the schedule's own choice.
        lr: peak learning rate of the head's weights; None = the default of the method.
        method: `solve` (the convex problem to its optimum; only for a head on cached features) or
            `adamw`.
        lr_decay: factor from one tenth of depth to the tenth before it (discriminative rates).
    """

    name: str
    trains: str | tuple[str, ...] = "head"
    epochs: int | None = None
    lr: float | None = None
    method: Literal["solve", "adamw"] = "solve"
    lr_decay: float = 0.9


SOLVE_HEAD = Stage("head", "head", method="solve")
TRAIN_ALL = Stage("all", "all", method="adamw")


@dataclass(frozen=True)
class Plan:
    """What a case decided; plain data, acted on by the core.

    Attributes:
        case: name of the case.
        cut: exact tensor name, `@x` with 0 ≤ x ≤ 1, `late` or `early`. The core resolves it to a
            tensor name.
        classes: number of classes or labels, where outputs have names. None in a case's plan = as
            many as the data has; in a file's = outputs without names (numbers).
        init: `pretrained`, `random` for a start from scratch, or `race`: both for a short while,
            the better one goes on. A tuned file says which one did.
        trainable: `head` (the new Gemm only), `all` (every parameter with more than one element),
            or the names of initializers. The core resolves it to names.
        head: the head to append.
        stages: how to train. Empty = solve the head, then, if more is trainable, train all.
        depth: depth of the cut, filled in by the core.
        dropped_outputs: other graph outputs that the operation removed, filled in by the core.
        dropped_inputs: graph inputs the operated file no longer takes, filled in by the core.
        why: one line for people.
        task: name of the task: what the answers are.
        outputs: number of outputs of the new head, filled in by the core.
        loss: what training by steps minimises, `name:key=value`; None = the task's own.
        adapter: how large weights are trained by few numbers, likewise; None = they themselves.
        start: tensor that the graph begins at: what leads to it is dropped; None = its inputs.
        extended: labels that were added behind those that the file was first made for.
    """

    case: str = ""
    cut: str | None = None
    classes: int | None = None
    init: Init = "pretrained"
    trainable: str | Sequence[str] = "head"
    head: Head = field(default_factory=Head)
    stages: tuple[Stage, ...] = ()
    depth: float | None = None
    dropped_outputs: tuple[str, ...] = ()
    dropped_inputs: tuple[str, ...] = ()
    why: str = ""
    task: str = "classification"
    outputs: int | None = None
    loss: str | None = None
    adapter: str | None = None
    start: str | None = None
    extended: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form kept in the file's metadata and in documents."""
        document: dict[str, Any] = as_json(self)
        if self.head.solves and self.head.kind == Head.kind:  # a file's graph tells its weights
            del document["head"]["weights"], document["head"]["solves"]
        if not self.extended:
            del document["extended"]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from `as_dict`; unknown keys are ignored, so newer files still load."""
        values = {f.name: document[f.name] for f in fields(cls) if f.name in document}
        if isinstance(values.get("head"), Mapping):
            values["head"] = Head.from_dict(values["head"])
        stages = []
        for stage in values.get("stages") or ():
            entry = dict(stage)
            if isinstance(entry.get("trains"), list):
                entry["trains"] = tuple(entry["trains"])
            stages.append(Stage(**entry))
        values["stages"] = tuple(stages)
        if isinstance(values.get("trainable"), list):
            values["trainable"] = tuple(values["trainable"])
        for key in ("dropped_outputs", "dropped_inputs", "extended"):
            values[key] = tuple(values.get(key) or ())
        values.setdefault("outputs", values.get("classes"))
        return cls(**values)


@dataclass(frozen=True)
class Parameter:
    """A float initializer with a differentiable use, as a case sees it.

    `depth` is where it is first used, 0 at the input and 1 at the old head.
    """

    name: str
    shape: tuple[int, ...]
    depth: float

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for dim in self.shape:
            count *= dim
        return count


@dataclass(frozen=True)
class Measurement:
    """What a probe reached at one cut.

    Attributes:
        cut: tensor name.
        depth: of the cut.
        quality: cross-validated, by the task's own figure (accuracy); more is better.
        error: standard error of the quality.
        logme: log maximum evidence per sample and output, nats.
    """

    cut: str
    depth: float
    quality: float
    error: float = 0.0
    logme: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What is known or was measured about the data; every field may be unknown (None).

    `measurements` are by ascending depth, one per cut that was looked at.
    """

    samples: int | None = None
    classes: int | None = None
    measurements: tuple[Measurement, ...] = ()
    similar: float | None = None
    large: float | None = None
    learning_curve: tuple[tuple[int, float, float], ...] = ()
    leep: float | None = None

    @property
    def accuracy_by_depth(self) -> tuple[tuple[float, float], ...]:
        """(depth, quality) of every cut that was looked at."""
        return tuple((one.depth, one.quality) for one in self.measurements)

    @property
    def error_by_depth(self) -> tuple[tuple[float, float], ...]:
        """(depth, standard error of the quality)."""
        return tuple((one.depth, one.error) for one in self.measurements)

    @property
    def logme_by_depth(self) -> tuple[tuple[float, float], ...]:
        """(depth, log maximum evidence)."""
        return tuple((one.depth, one.logme) for one in self.measurements)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of documents: a list of each figure, by depth."""
        names = (
            "samples", "classes", "accuracy_by_depth", "similar", "large", "error_by_depth",
            "logme_by_depth", "learning_curve", "leep",
        )  # fmt: skip
        document: dict[str, Any] = as_json({name: getattr(self, name) for name in names})
        return document


@dataclass(frozen=True)
class Context:
    """What a case may look at when it decides: the model in summary and what the user asked for.

    Attributes:
        classes: number of classes, or None where it is not known yet.
        cut: what the user asked for (`--cut`), or None: the case's own choice.
        init: what the user asked for (`--init`), or None: the case's own choice.
        start: what the user asked for (`--start`), or None.
        late: tensor name of the late cut (the input of the old head's first weighted operator).
        early: tensor name of the early cut (the listed cut nearest `@0.33`).
        cuts: the listed cuts by ascending depth.
        taps: the cuts that evidence is measured at: a pooled head can read them, a few, spread over
            depth, the late one last.
        parameters: every parameter of the graph.
        old_head: the old head, or None where none was found.
        evidence: what is known about the data.
    """

    classes: int | None
    cut: str | None
    init: Init | None
    late: str
    early: str
    start: str | None = None
    cuts: tuple[CutPoint, ...] = ()
    taps: tuple[CutPoint, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    old_head: OldHead | None = None
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True)
class Case:
    """A case of transfer learning: it decides, the core acts.

    Attributes:
        name: the word behind `--case`.
        summary: one line for `surgeon cases`.
        suits: evidence → 0..1, how well the case fits; pure.
        plan: context → Plan; pure, no input or output.
        measures: whether `finetune` measures evidence, in one pass over the data, before it asks
            for the plan; `operate`, which sees no data, asks without.
        place: among those of its distribution where cases are listed, the smallest first.
        headless: whether its plans append no head: the file gives the features at the cut.
        starts: whether its plans have a `start`: it is asked before data are opened, then.
    """

    name: str
    summary: str
    suits: Callable[[Evidence], float]
    plan: Callable[[Context], Plan]
    measures: bool = False
    place: int = 100
    headless: bool = False
    starts: bool = False
    example: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Finding:
    """One thing found by an examination: `level` is error or warning."""

    level: Literal["error", "warning"]
    kind: str
    message: str
    remedy: str | None = None
    node: str | None = None
    operator: str | None = None
    domain: str | None = None
    version: int | None = None


@dataclass(frozen=True)
class DataFinding:
    """One thing found in the data: `level` is note (good to know) or warning (look at it).

    Attributes:
        level: note or warning.
        kind: classes, imbalance, rare-class, similar-labels, joined-labels, unreadable,
            duplicates, near-duplicates, conflict, leak or label.
        message: what was found, in one line.
        remedy: what to do about it.
        samples: names of the samples it is about, in the order of the data or by how sure it is.
        groups: where samples belong together (duplicates of each other): their names, set by set.
        details: what is known of each sample, in the order of `samples`; empty where nothing is.
    """

    level: Literal["note", "warning"]
    kind: str
    message: str
    remedy: str | None = None
    samples: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    details: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Change:
    """One kind of rewrite that normalization did, and how often."""

    what: str
    count: int


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes a graph input, kept in the file as JSON.

    value = (pixel · scale − mean) / std per channel, pixels 0..255 in the order `channels`.

    Attributes:
        layout: NCHW or NHWC.
        channels: RGB, BGR or L.
        size: (height, width) in pixels.
        resize: `bilinear`, `bicubic` or `nearest`.
        fit: `stretch` to the size, or `crop` (shorter side to the size, centre crop).
        mean, std: one number per channel (one number stands for all).
        source: where it came from: option, metadata, index, graph, measured.
        bits: that 16-bit grey values have, 9 to 16, where the file does not say it; None = 16.
        draft: whether a large JPEG may be decoded at a half, a quarter or an eighth.
        embedded: whether the graph does all but decoding and turning upright itself.
    """

    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    size: tuple[int, int] = (224, 224)
    resize: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    fit: Literal["stretch", "crop"] = "stretch"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    source: str | None = None
    bits: int | None = None
    draft: bool = True
    embedded: bool = False


@dataclass(frozen=True)
class TextEncoding:
    """How a text becomes token ids, kept in the file as JSON of kind `text`.

    Attributes:
        tokenizer: the JSON text of a `tokenizers` library's file, whole.
        max_length: tokens kept of each text, special ones included; None = what the tokenizer's
            file says, else all.
        length: tokens every text is padded to; None = the longest of the texts at hand, which is
            right for graphs with a mask only.
        source: where it came from: option, metadata, index.
        embedded: whether the graph makes tokens of texts itself.
    """

    tokenizer: str = field(repr=False)
    max_length: int | None = None
    length: int | None = None
    source: str | None = None
    embedded: bool = False


@dataclass(frozen=True)
class AudioEncoding:
    """How a sound becomes samples in -1..1, kept in the file as JSON of kind `audio`.

    Attributes:
        rate: samples per second (Hz).
        seconds: every sound is cut, or padded with silence behind, to this length.
        source: where it came from: option, metadata, index.
    """

    rate: int
    seconds: float
    source: str | None = None

    @property
    def samples(self) -> int:
        """Samples of one sound."""
        return round(self.rate * self.seconds)


Encoding = TextEncoding | AudioEncoding


def as_json(value: Any) -> Any:
    """Turn records into plain JSON values: tuples to lists, NaN and infinity to None."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN is the value unequal to itself
        return None
    return value
