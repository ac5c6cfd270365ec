"""What a form is, what it is told of an export, and what it leaves behind.

What must not enter: any form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from surgeon.options import Options
from surgeon.targets import task_of
from surgeon.tasks.find import find_task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins

    Feeds = Mapping[str, NDArray[Any]]
    Pair = tuple[NDArray[Any], NDArray[Any]]
    Report = Callable[..., None]

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"
"""Precisions, as `graph.precision` names and bounds them."""


@dataclass(frozen=True)
class Compared:
    """How far answers lie from those they are compared with.

    Attributes:
        samples: inputs that both were run on.
        agreement: share of positions whose likeliest class, or whose labels, are the same; None
            where there are none.
        max_difference: the largest, as it is.
        relative: the largest, relative to the largest answer.
        error: of all, relative to their spread: root of the mean square over that of the answers.
    """

    samples: int
    agreement: float | None
    max_difference: float
    relative: float
    error: float


@dataclass
class Given:
    """One export: what was asked for, and what its forms say of themselves.

    Attributes:
        model: the source.
        stored: its graph, as the file has it.
        asked: the options.
        plugins: loaded plugins; None loads them.
        progress: called as `progress(stage, done, total)`; None = nobody asks.
        reference: what the new form is compared with: the source, or what a form made of it that
            was judged by data, as it answers otherwise.
        answers: what makes answers of the new form of those of the source, in order.
        inputs: what makes inputs of the source of those of the new form, last form first.
        golden: what a proof says of inputs, where those of the source are of another kind.
        precision: what the new form computes in.
        notes: what people should know.
        judged: answers of a form that answers otherwise, on data, beside those wanted; or None.
        quantised: what is known of layers in 8 bits, for the document.
        stated: what the proof says of the export beside its forms.
    """

    model: Model
    stored: onnx.ModelProto
    asked: Options
    plugins: Plugins | None = None
    progress: Report | None = None
    answers: list[Callable[[NDArray[Any]], NDArray[Any]]] = field(default_factory=list)
    inputs: list[Callable[[Feeds], Feeds]] = field(default_factory=list)
    golden: list[dict[str, Any]] = field(default_factory=list)
    precision: str = FLOAT32
    notes: list[str] = field(default_factory=list)
    judged: Sequence[Pair] | None = None
    quantised: dict[str, Any] | None = None
    stated: dict[str, Any] = field(default_factory=dict)
    reference: onnx.ModelProto = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the source."""
        self.reference = self.stored

    @cached_property
    def link(self) -> str | None:
        """How answers of the task say classes or labels: `softmax`, `logistic`, another or None."""
        model = self.model
        if model.plan is None:
            return "softmax"
        name = task_of(model, Options().reading)
        return find_task(name, self.plugins, model.decoding).link

    def tell(self, stage: str, done: int, total: int) -> None:
        """Say how far it is."""
        if self.progress is not None:
            self.progress(stage, done, total)

    def instead(self, made: onnx.ModelProto, judged: Sequence[Pair]) -> None:
        """Compare what comes behind with this: data judged it."""
        self.reference, self.judged = made, judged
        self.answers, self.inputs = [], []

    def wanted(self, answers: NDArray[Any]) -> NDArray[Any]:
        """Return what the new form should answer where the reference answers this."""
        for change in self.answers:
            answers = change(answers)
        return answers

    def before(self, feeds: Feeds) -> Feeds:
        """Return the reference's inputs that mean the same as these of the new form."""
        for change in reversed(self.inputs):
            feeds = change(feeds)
        return feeds


@dataclass(frozen=True)
class Form:
    """A form that a file can take.

    Attributes:
        option: what asks for it, as people write it.
        named: how it stands in `forms`; None where it was not asked for.
        make: returns the graph in this form. None = it is a matter of writing, not of the graph.
        whole: whether it takes the graph with its weights, in one message of at most 2 GB.
        beside: whether it is a file beside the graph, which may stay as it is.
    """

    option: str
    named: Callable[[Options], str | None]
    make: Callable[[onnx.ModelProto, Given], onnx.ModelProto] | None = None
    whole: bool = False
    beside: bool = False


def asked_for(forms: Sequence[Form], asked: Options) -> list[Form]:
    """Return the forms that were asked for, in their order."""
    return [form for form in forms if form.named(asked) is not None]
