"""The offers: what a plugin yields beside cases, and what the code behind them returns.

Plugins import them from `surgeon.records`, like all nouns: standard library only, as there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Offer:
    """What a plugin yields beside cases: a name, and where the code behind it is.

    Attributes:
        name: the word behind the option; settings follow it, `name:key=value,key=value`.
        summary: one line for `surgeon plugins list`.
        code: `"module:attribute"`, imported when it is used, so that `--help` stays fast. What it
            is called with stands at each kind; its keyword-only parameters are the settings that
            people may give.
        example: `"module:attribute"`, `(folder) -> Example` or several of them: what it is tried on
            by `surgeon plugins check`, where it needs more than the small networks of the kit. The
            folder is empty, and for files that an example wants.
    """

    name: str
    summary: str
    code: str
    example: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Example:
    """What an offer can be tried on: a model, data, and the settings that these need.

    Attributes:
        model: a ModelProto, or the path of a file.
        data: as `surgeon.finetune` takes them: arrays by name, `labels` among them, or a path.
        options: settings of the offer, `key=value,key=value`.
        task: whose answers the data hold; None = one that fits the offer.
    """

    model: Any
    data: Any
    options: str = ""
    task: str | None = None


@dataclass(frozen=True)
class Task(Offer):
    """What an answer is; the code is a `surgeon.tasks.base.TaskCode`."""


@dataclass(frozen=True)
class HeadKind(Offer):
    """A new head; the code is `(graph, value, outputs, random, *, …) -> Built`.

    `graph` is an onnx-graphsurgeon Graph to append nodes to, `value` its Variable [n, features],
    [n, length, features] or [n, channels, height, width], `random` draws first weights (numpy).
    More positional parameters go by name: `mask` ([n, length] or None), `taps`, `size` (H, W).

    Attributes:
        keeps: axes of the value that are not pooled: (), ("length",), ("height", "width").
        solves: whether weight [outputs, features], bias are all; or the one link it is solved by.
        pools: whether it pools the kept axes itself.
        in_place: whether it takes the place of no head: nothing is cut, and the code is
            `(model, outputs, random, *, …) -> Refitted`. It gives the file's own last layers other
            sizes, in the ModelProto, a copy that it may change. A further positional parameter
            `sizes` has the dims of every value, for one sample.
    """

    keeps: tuple[str, ...] = ()
    solves: bool | str = False
    pools: bool = False
    in_place: bool = False


@dataclass(frozen=True)
class Loss(Offer):
    """What is minimised; the code is `(outputs, targets, *, …) -> [n]` tensor of torch.

    More positional parameters go by name: `features`, the value that the head reads; any other is
    a value of each sample that `beside` makes before training.

    Attributes:
        tasks: names of the tasks it fits; empty = any.
        beside: `"module:attribute"`, `(given, *, …) -> {name: array [n, …]}`, an array alone where
            one is asked for; `given` is a `surgeon.Beside`, its settings are some of the loss's.
    """

    tasks: tuple[str, ...] = ()
    beside: str = ""


@dataclass(frozen=True)
class Adapter(Offer):
    """A way to train few numbers in place of large weights, folded back into the same file.

    Attributes:
        of: what it adapts. `weight`: each on its own, the code is `(weight, *, …) -> nn.Module`, a
            parametrization of torch; `axis` (of its outputs) and `operator` go to who asks for it.
            `part`: the graph of the trained part, before it becomes a module; the code is `(graph,
            trainable, batches, *, …) -> Woven`. `batches(samples)` gives inputs of the graph, batch
            by batch, `{name: array}`; to those who ask for them go `scratch`, whether weights start
            at random, and `batch`, the samples that the graph insists on in a pass, or None.
            `file`: the operated file itself, before it is trained; the code is `(model, feeds, *,
            …) -> Rewritten`. `feeds(count, values)` gives training samples one by one, {input:
            array}, and values of the graph beside them; `trainable` and `head`, names of
            initializers, go to those who ask for them, and `whole`, whether a stage trains all.
        lr: peak learning rate where neither people (`--lr`) nor the case give one: few numbers that
            start at nothing often want a higher one than the weights. None = as without it.
    """

    of: Literal["weight", "part", "file"] = "weight"
    lr: float | None = None


@dataclass(frozen=True)
class Medium(Offer):
    """What samples are made of; the code is a subclass of `surgeon.media.SourceSamples`.

    A further format of a medium is one, too: its code takes the bytes of a file and returns a
    `PIL.Image.Image` for `pictures`, and for `sounds` the rate in Hz and float32 [n] in -1..1.

    Attributes:
        suffixes: of its files, with the dot, in lower case.
        of: the medium whose format it is; empty = one of its own.
        needs: of a format, the module it is read by, where that is not always installed.
        marks: of a format, what its content has at which byte, where its name is not known.
        named: of a format, whether its files are samples only where they are named themselves, not
            where they lie in a folder.
    """

    suffixes: tuple[str, ...] = ()
    of: str = ""
    needs: str = ""
    marks: tuple[tuple[int, bytes], ...] = ()
    named: bool = False


@dataclass(frozen=True)
class Tracker(Offer):
    """Where a run is told while it goes on; the code is a class, `(*, …)`.

    It is called with each event of `surgeon.events`, and `close()` is called at the end. An
    attribute `where` says where what it keeps lies. Whatever it raises ends its tracking alone.
    """


@dataclass(frozen=True)
class Exporter(Offer):
    """Another form of a file; the code is `(ModelProto, Path, *, …) -> list[Path]`."""


@dataclass(frozen=True)
class Check(Offer):
    """An examination of one's own; the code is `(Model, Outcome | None) -> Iterable[Finding]`.

    Attributes:
        when: `before` training, with the operated model and None; or `after` it, with the tuned
            one and the outcome.
    """

    when: Literal["before", "after"] = "before"


@dataclass(frozen=True)
class Built:
    """A head as its code built it.

    Attributes:
        output: the Variable of the answers.
        weights: the Constants that are trained, in the order of the kind's own (weight, bias, …).
        linear: whether one that `solves` is so here; a Resize (linear, half_pixel) may follow.
    """

    output: Any
    weights: tuple[Any, ...]
    linear: bool = True


@dataclass(frozen=True)
class Rewritten:
    """A file as an adapter of files rewrote it.

    Attributes:
        model: the file; what is added to its initializers is called `surgeon.…`.
        instead: initializers that train in place of one, by its name; any other that trains stays.
        also: initializers that train besides.
        notes: what people should know.
    """

    model: Any
    instead: Mapping[str, Sequence[str]] = field(default_factory=dict)
    also: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Refitted:
    """A graph whose own last layers have other sizes now: the same nodes, inputs and outputs.

    Attributes:
        model: the ModelProto.
        weights: names of the initializers that were drawn anew, as a whole or in part; they train.
        stay: names of initializers that never train: constants of what only decodes.
    """

    model: Any
    weights: tuple[str, ...]
    stay: tuple[str, ...] = ()


@dataclass(frozen=True)
class Files:
    """Files of samples with their answers, as a plugin found them in a folder or named by a file.

    Attributes:
        paths: one file per sample, of a medium that is known.
        answers: n of them, as the task reads them. Where they have a `fitted(paths, preprocess)`,
            that is asked for those in the geometry of what the graph is given; `texts`, n of them,
            say each for a hash.
        split: n of `train`, `validation`, `test`; None where nothing says it.
        task: name of the task whose answers these are; None = as their form says.
        remarks: what people should be told of how the data were understood.
        answers_at: where each answer stands, for messages; empty = the sample's name says it.
    """

    paths: Sequence[Path]
    answers: Any
    split: Sequence[str] | None = None
    task: str | None = None
    remarks: tuple[str, ...] = ()
    answers_at: Sequence[str] = ()


@dataclass(frozen=True)
class Woven:
    """The graph of a trained part as an adapter wants it trained; the file keeps its own.

    Attributes:
        graph: a ModelProto of the same inputs and outputs, which computes the same to begin with.
        trainable: {initializer of the part: those of `graph` that learn for it}.
        fold: {initializer of `graph`: array} → {initializer of the part: array}, all that learn.
        notes: what people should know.
    """

    graph: Any
    trainable: Mapping[str, Sequence[str]]
    fold: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What a model zoo knows of a file: plain values, as a JSON document would say them.

    Attributes:
        name: what the zoo calls the model.
        preprocess: how pictures become inputs, see `Preprocess`; None where they do not.
        encoding: how texts, sounds or series do (`kind` and its numbers); None where they do not.
        labels: names of the outputs, in order.
        folders: where files that the encoding names may lie, beside that of the model itself.
    """

    name: str
    preprocess: Mapping[str, Any] | None = None
    encoding: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    folders: tuple[str, ...] = ()
