"""What a form is, what it is told of an export, and what it leaves behind.

What must not enter: any form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.model import Model
    from surgeon.options import Options
    from surgeon.plugin.manager import Plugins

    Feeds = Mapping[str, NDArray[Any]]

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"
"""Precisions by which a proof is judged."""


@dataclass(frozen=True)
class Given:
    """One export: what was asked for, and what its forms say of themselves.

    Attributes:
        model: the source.
        stored: its graph, as the file has it.
        asked: the options.
        plugins: loaded plugins; None loads them.
        answers: what makes answers of the new form of those of the source, in order.
        inputs: what makes inputs of the source of those of the new form, last form first.
        golden: what a proof says of inputs, where those of the source are of another kind.
        precision: what the new form computes in; the last one counts.
        notes: what people should know.
    """

    model: Model
    stored: onnx.ModelProto
    asked: Options
    plugins: Plugins | None = None
    answers: list[Callable[[NDArray[Any]], NDArray[Any]]] = field(default_factory=list)
    inputs: list[Callable[[Feeds], Feeds]] = field(default_factory=list)
    golden: list[dict[str, Any]] = field(default_factory=list)
    precision: list[str] = field(default_factory=lambda: [FLOAT32])
    notes: list[str] = field(default_factory=list)

    def wanted(self, answers: NDArray[Any]) -> NDArray[Any]:
        """Return what the new form should answer where the source answers this."""
        for change in self.answers:
            answers = change(answers)
        return answers

    def before(self, feeds: Feeds) -> Feeds:
        """Return the source's inputs that mean the same as these of the new form."""
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
