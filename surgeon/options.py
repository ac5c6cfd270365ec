"""Every option once: its default, the values it takes, the verbs that take it, what it means.

The command line (`cli.options`), the checks (`Options.of`), the defaults of the public functions
(a test compares them) and docs/options.md are made of the fields below. Standard library only: the
command line reads this before anything heavy. What must not enter: what an option does.
"""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

from surgeon.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    F = TypeVar("F", bound=Callable[..., Any])

SEED_LIMIT = 2**32 - 1
OPERATES = ("operate", "finetune", "check")
LABELLED = ("finetune", "advise", "evaluate", "prove", "blend")
READS = (*LABELLED, "predict")
RUNS = (*READS, "operate", "cuts", "verify")
LOOKS = ("inspect", "cuts", "check", "operate", "finetune", "advise", "evaluate", "predict")


@dataclass(frozen=True)
class Option:
    """What is known of one option.

    Attributes:
        name: the keyword of the public functions; the command line writes `_` as `-`.
        default: taken where nothing is given; None = chosen by the method, the case or the file.
        help: what it means, and what None stands for.
        verbs: those that take it.
        metavar: how its value is written in a help text.
        words: all values there are, where they are words.
        least: the lowest whole number it takes.
        most: the highest.
        above: numbers, whole or not, above this one.
        form: how its text is read on the command line (`cli.values.FORMS`), where neither words
            nor numbers say it.
        flags: how it is given there, where not by its name; of a switch what turns it off, then
            what turns it on.
    """

    name: str
    default: Any
    help: str
    verbs: tuple[str, ...]
    metavar: str | None = None
    words: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    above: float | None = None
    form: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """How it is given on the command line."""
        return self.flags[-1] if self.flags else f"--{self.name.replace('_', '-')}"

    @property
    def values(self) -> str:
        """What it takes, for people."""
        if isinstance(self.default, bool):
            return "yes or no"
        return "|".join(self.words) or self.metavar or ""

    def checked(self, value: Any) -> Any:
        """Return a value as python's own kind, if it is one that can be meant.

        Raises:
            UsageError: it is none of the words, no such number, or no text.
        """
        if self.words:
            return self._word(value)
        if self.form == "globs":
            several = isinstance(value, list | tuple | set | frozenset)
            return tuple(map(self._text, value if several else () if value is None else [value]))
        if value is None:
            return None
        if self.least is not None or self.above is not None:
            return self._number(value)
        if self.form in ("text", "cut", "device"):
            return self._text(value)
        return value

    def _word(self, value: Any) -> Any:
        if value in self.words or (value is None and self.default is None):
            return value
        raise UsageError(
            f"{self.name} is {value!r}", where=self.flag, remedy=f"one of {', '.join(self.words)}"
        )

    def _number(self, value: Any) -> Any:
        """Return an int or a float; numpy's and torch's own kinds are as welcome."""
        kind: type = Real if self.least is None else Integral
        good = isinstance(value, kind) and not isinstance(value, bool)
        if good and self.above is not None and self.above < value < math.inf:
            return float(value)
        if good and self.least is not None and self.least <= value <= (self.most or math.inf):
            return int(value)
        least = f"a number above {self.above:g}" if self.least is None else f"{self.least} or more"
        remedy = f"give {least}" + ("" if self.most is None else f", at most {self.most}")
        raise UsageError(f"{self.name} is {value!r}", where=self.flag, remedy=remedy)

    def _text(self, value: Any) -> Any:
        if self.form == "device":  # what stands for one may come as its own kind: torch.device
            return str(value)
        if isinstance(value, str):
            return value
        depth = depth_meant(value) if self.form == "cut" else None
        raise UsageError(
            f"{value!r} is not text",
            where=self.flag,
            remedy=f"a depth is text: {depth!r}" if depth else "give a name",
        )


def option(default: Any, help: str, **known: Any) -> Any:
    """Return the field of an option; `known` are attributes of `Option`."""
    return field(default=default, metadata={"help": help, **known})


@dataclass(frozen=True)
class Surgery:
    """Which operation."""

    case: str | None = option(
        None,
        "One of `surgeon cases`; of finetune `auto`, too: what `advise` finds best.",
        verbs=OPERATES,
        metavar="NAME",
        form="text",
    )
    cut: str | None = option(
        None,
        "Where to cut: a tensor of `surgeon cuts`, or a depth @0 … @1. Default: the case's. Of "
        "operate --case features and of predict, which gives the vectors there, several times.",
        verbs=(*OPERATES, "predict"), metavar="TENSOR|@x", form="cut",
    )  # fmt: skip
    pool: str | None = option(
        None,
        "How a value's positions become one vector, where no head is appended; none: they stay. "
        "Default: mean.",
        verbs=("operate", "predict"),
        words=("mean", "max", "gem", "cls", "first", "last", "flatten", "none"),
    )  # fmt: skip
    output: str | None = option(
        None,
        "Of several outputs of the graph, the one whose head counts. Default: the one with the "
        "deepest head. (-o names the file to write.)",
        verbs=LOOKS, metavar="NAME", form="text",
    )  # fmt: skip
    classes: int | None = option(
        None, "Outputs of the new head.", verbs=OPERATES, metavar="N", least=1
    )
    head: str | None = option(
        None,
        "Kind of the new head, with its settings, how it pools (pool=mean, max, gem, cls, first, "
        "last or flatten) and what it reads besides (taps=@0.3+@0.6). Default: the task's.",
        verbs=(*OPERATES, "advise"), metavar="KIND[:key=value,…]", form="text",
    )  # fmt: skip
    loss: str | None = option(
        None,
        "What training by steps minimises, with its settings; the head is then trained by steps, "
        "too, from the solved one. Default: the task's.",
        verbs=("finetune",), metavar="NAME[:key=value,…]", form="text",
    )  # fmt: skip
    adapter: str | None = option(
        None,
        "Train few numbers in place of the weights, with its settings; targets=GLOB chooses among "
        "the weights that train, by their names or their nodes' (none: the weights themselves).",
        verbs=("operate", "finetune"), metavar="NAME[:key=value,…]", form="text",
    )  # fmt: skip
    start: str | None = option(
        None,
        "Let the graph begin at this tensor; the nodes before it are dropped.",
        verbs=("operate", "finetune"), metavar="TENSOR|@x", form="text",
    )  # fmt: skip
    init: str | None = option(
        None,
        "Start from the file's weights, from random ones, or try both for a short while and go on "
        "with the better. Default: the case's choice.",
        verbs=(*OPERATES, "advise"), words=("pretrained", "random", "race"),
    )  # fmt: skip
    train: str | Sequence[str] = option(
        (),
        "Weights that train beside the new head, in place of the case's: names, or patterns such "
        "as 'layer4.*'; may be repeated.",
        verbs=OPERATES, metavar="GLOB", form="globs",
    )  # fmt: skip
    train_from: str | None = option(
        None,
        "Train all weights behind a cut, a tensor or a depth @0 … @1, in place of the case's.",
        verbs=OPERATES, metavar="TENSOR|@x", form="cut", flags=("--from",),
    )  # fmt: skip
    freeze: str | Sequence[str] = option(
        (),
        "Weights that stay as they are, of those that would train; may be repeated.",
        verbs=OPERATES, metavar="GLOB", form="globs",
    )  # fmt: skip
    extend: bool = option(
        False,
        "Add the labels that the file lacks behind its own, and keep those.",
        verbs=("finetune",),
    )


@dataclass(frozen=True)
class Training:
    """How it is trained."""

    epochs: int | None = option(
        None,
        "Epochs at most. Default: the method's choice.",
        verbs=("finetune",), metavar="N", least=1,
    )  # fmt: skip
    budget: float | None = option(
        None,
        "Stop training after this long and deliver the best so far.",
        verbs=("finetune",), metavar="SECONDS", above=0,
    )  # fmt: skip
    seed: int = option(
        0,
        "The same seed gives the same result.",
        verbs=("operate", "finetune", "advise", "prove", "blend"), metavar="N", least=0,
        most=SEED_LIMIT,
    )  # fmt: skip
    batch: int | None = option(
        None,
        "Samples per batch. Default: chosen to fit. Of export: what the file is fixed at.",
        verbs=("finetune", "evaluate", "predict", "export"), metavar="N", least=1,
    )  # fmt: skip
    accumulate: int = option(
        1,
        "Batches whose gradients make one step.",
        verbs=("finetune",), metavar="N", least=1,
    )  # fmt: skip
    lr: float | None = option(
        None,
        "Peak learning rate of the head. Default: the method's choice.",
        verbs=("finetune",), metavar="RATE", above=0,
    )  # fmt: skip
    lr_find: bool = option(
        False,
        "Try a hundred rising rates before training by steps, and train with one that learns "
        "fast and does not diverge; with --dry-run only tell it.",
        verbs=("finetune",),
    )
    compile: str = option(
        "auto",
        "torch.compile; auto: where a long run gains by it. Only on and off repeat exactly.",
        verbs=("finetune",), words=("auto", "on", "off"),
    )  # fmt: skip
    memory: str = option(
        "normal",
        "low: train in less memory, in about a third more time; lowest: and with the optimiser's "
        "memory in 8 bits.",
        verbs=("finetune",), words=("normal", "low", "lowest"),
    )  # fmt: skip
    validation: float | str = option(
        0.2,
        "Share of the data held out, or data of its own.",
        verbs=("finetune", "advise", "prove", "blend"), metavar="FRACTION|PATH", form="validation",
    )  # fmt: skip
    augment: str = option(
        "auto",
        "Random variation of training images.",
        verbs=("finetune",), words=("none", "light", "strong", "auto"),
    )  # fmt: skip
    views: int = option(
        1,
        "Solve the head on every training image as it is and K-1 times augmented.",
        verbs=("finetune",), metavar="K", least=1,
    )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where it is computed, and in which arithmetic."""

    device: str = option(
        "auto", "Where to compute.", verbs=RUNS, metavar="auto|cpu|cuda[:n]", form="device"
    )
    precision: str = option(
        "float32",
        "Arithmetic of training; on a GPU, of the frozen part too.",
        verbs=("finetune",), words=("float32", "bf16", "fp16"),
    )  # fmt: skip
    deterministic: bool = option(
        False,
        "On a GPU use only what repeats bit for bit, which is slower. On a CPU all else does: it "
        "only turns --compile auto off.",
        verbs=("finetune",),
    )  # fmt: skip
    threads: int | None = option(
        None, "CPU threads. Default: the machine's cores.", verbs=RUNS, metavar="N", least=1
    )
    cache_limit: int | None = option(
        None,
        "Disk that cached features may take (2GB, 500MB).",
        verbs=("finetune",), metavar="BYTES", least=0, form="bytes",
    )  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How data become what the graph takes."""

    preprocess: Any = option(
        None,
        "How images become inputs. Default: what the file or the model index says.",
        verbs=READS, metavar="NAME|JSON|FILE",
    )  # fmt: skip
    size: Any = option(
        None,
        "Size of images, in pixels. Of export: what the file takes, no other.",
        verbs=(*READS, "export"), metavar="HxW", form="size",
    )  # fmt: skip
    tokenizer: Any = option(
        None,
        "tokenizer.json that turns texts into tokens. Default: what the file says.",
        verbs=READS, metavar="FILE", form="file",
    )  # fmt: skip
    max_length: int | None = option(
        None,
        "Tokens kept of each text. Default: what the file says.",
        verbs=READS, metavar="N", least=1,
    )  # fmt: skip
    audio: Any = option(
        None,
        "Rate in Hz and length that sounds are brought to. Default: what the file says.",
        verbs=READS, metavar="RATE,SECONDS", form="audio",
    )  # fmt: skip
    label_column: str | None = option(
        None,
        "Column of a table that holds the labels; a,b names several (0 or 1, or numbers).",
        verbs=(*LABELLED, "export"),
        metavar="NAME",
    )
    task: str = option(
        "auto",
        "What the answers are: classification, ordinal, multi-label, regression, tokens, "
        "segmentation, embedding, or what a plugin adds. auto: as the file was made, else as "
        "their form says.",
        verbs=(*READS, "operate", "check"), form="text", metavar="NAME",
    )  # fmt: skip
    group_column: str | None = option(
        None,
        "Column of a table that says which samples belong together (a patient, a recording): "
        "no split or fold tears them apart.",
        verbs=("finetune", "advise", "prove", "blend"), form="text", metavar="NAME",
    )  # fmt: skip
    inputs: Sequence[str] | Mapping[str, Any] = option(
        (),
        "Constant value of a graph input; may be repeated.",
        verbs=(*READS, "operate", "cuts"), metavar="NAME=VALUE", form="constants",
        flags=("--input",),
    )  # fmt: skip
    old_data: Any = option(
        None,
        "With --extend: more data, of the classes that the file knows. Default: what DATA holds of "
        "them, else the statistics that the file carries.",
        verbs=("finetune",), metavar="PATH",
    )  # fmt: skip
    ignore_unknown: bool = option(
        False, "Drop samples whose label the file does not know.", verbs=("evaluate",)
    )

    lines: bool = option(
        False,
        "Each line of a file, or of standard input (-), is a text of its own.",
        verbs=("predict",),
    )

    @property
    def asked_task(self) -> str | None:
        """The task that was named, or None."""
        return None if self.task == "auto" else self.task


@dataclass(frozen=True)
class Delivery:
    """What is written."""

    out: str | os.PathLike[str] | None = option(
        None,
        "The file to write: ONNX; of predict answers as they come, .csv, .jsonl or .parquet; of "
        "report a page of HTML.",
        verbs=("operate", "finetune", "apply", "blend", "export", "predict", "report"),
        metavar="OUT", form="path", flags=("-o", "--out"),
    )  # fmt: skip
    adapter_out: str | os.PathLike[str] | None = option(
        None,
        "Keep what the adapter learnt, and the new head, in a small file of their own, too: "
        "`surgeon apply` makes the tuned file of it and MODEL.",
        verbs=("finetune",), metavar="FILE", form="path",
    )  # fmt: skip
    against: str | os.PathLike[str] | None = option(
        None,
        "Another file, to be judged on the same samples: how much better is this one, and is that "
        "more than chance?",
        verbs=("evaluate",), metavar="FILE", form="path",
    )  # fmt: skip
    top_k: int | None = option(
        None,
        "Tell the N likeliest classes of each input, the likeliest first.",
        verbs=("predict",), metavar="N", least=1,
    )  # fmt: skip
    masks: str | os.PathLike[str] | None = option(
        None,
        "New folder for the masks of a file that segments pictures: a PNG of class numbers each.",
        verbs=("predict",), metavar="DIR", form="path",
    )  # fmt: skip
    golden_samples: bool = option(
        False,
        "Keep up to two real samples, which are someone's data, in the file's proof beside the "
        "two that are drawn.",
        verbs=("finetune", "prove", "blend"), flags=("--no-golden-samples", "--golden-samples"),
    )  # fmt: skip
    keep_statistics: bool = option(
        False,
        "Keep in the file mean and count of each class and one covariance of the features, no "
        "samples: --extend adds classes to it without the data of these.",
        verbs=("finetune",),
    )
    probabilities: bool = option(
        False, "Put Softmax or Sigmoid behind the scores, as the task says.", verbs=("export",)
    )
    embed_preprocess: bool = option(
        False,
        "Prepare pictures within the graph: it takes uint8 [n, H, W, 3] of any size, as they are "
        "decoded.",
        verbs=("export",),
    )
    embed_tokenizer: Any = option(
        None,
        "Make tokens within the graph, which then takes a text, if the ids are those of the "
        "tokenizer on all of these; whoever runs the file needs onnxruntime-extensions.",
        verbs=("export",), metavar="TEXTS",
    )  # fmt: skip
    fp16: bool = option(
        False, "Compute in half precision; inputs and outputs keep their types.", verbs=("export",)
    )
    int8: Any = option(
        None,
        "Compute in 8 bits: convolutions and products as integers, their ranges measured on up to "
        "200 samples of DATA; layers that lose most stay as they are.",
        verbs=("export",), metavar="DATA",
    )  # fmt: skip
    int8_dynamic: bool = option(
        False,
        "Products of a transformer as 8-bit integers, ranges measured as values come; no data.",
        verbs=("export",),
    )
    optimize: str | None = option(
        None,
        "Let ONNX Runtime simplify the graph. basic: standard operators; extended: also ONNX "
        "Runtime's own. Nothing is made for one processor.",
        verbs=("export",), words=("basic", "extended"),
    )  # fmt: skip
    calibrate: Any = option(
        None,
        "Put a temperature behind the scores, measured on DATA the file was not trained on, so "
        "that probabilities are as often right as they say; with --probabilities.",
        verbs=("export",), metavar="DATA",
    )  # fmt: skip
    check: Any = option(
        None,
        "Judge both files on up to 1,000 labelled samples of DATA: agreement, quality, time, size.",
        verbs=("export",), metavar="DATA",
    )  # fmt: skip
    opset: int | None = option(
        None,
        "Bring the file to another opset, by ONNX's version converter.",
        verbs=("export",), metavar="N", least=7,
    )  # fmt: skip
    external_data: bool = option(
        False, "Keep the weights beside the graph, in OUT.data.", verbs=("export",)
    )
    describe: bool = option(
        False,
        "Write OUT.json, too: labels, preprocessing, inputs, outputs, an example and its answer.",
        verbs=("export",),
    )
    code: str | Sequence[str] = option(
        (),
        "Write a program that runs the file: python, openvino, opencv, node, web, csharp, java, "
        "rust or cpp; several times for several.",
        verbs=("export",), metavar="LANGUAGE", form="globs",
    )  # fmt: skip
    to: str | None = option(
        None,
        "Let an exporter that a plugin offers write the files, in a form of its own.",
        verbs=("export",), metavar="NAME[:key=value,…]", form="text",
    )  # fmt: skip
    force: bool = option(
        False,
        "Overwrite the output.",
        verbs=("operate", "finetune", "advise", "apply", "blend", "export", "predict", "report"),
    )
    track: str | Sequence[str] = option(
        (),
        "Tell a tracker the run while it goes on, as in tensorboard:dir=runs; may be repeated.",
        verbs=("finetune",), metavar="NAME[:key=value,…]", form="globs",
    )  # fmt: skip
    report: str | os.PathLike[str] | None = option(
        None, "Tell the run on one page of HTML, too.",
        verbs=("finetune",), metavar="OUT.html", form="path",
    )  # fmt: skip
    resume: bool = option(
        False, "Go on with an interrupted run of the same settings.", verbs=("finetune",)
    )
    dry_run: bool = option(False, "Show the plan and write nothing.", verbs=("operate", "finetune"))


@dataclass(frozen=True)
class Options:
    """All options of one call, in the groups that the rooms are given."""

    surgery: Surgery = field(default_factory=Surgery)
    training: Training = field(default_factory=Training)
    place: Place = field(default_factory=Place)
    reading: Reading = field(default_factory=Reading)
    delivery: Delivery = field(default_factory=Delivery)

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Options:
        """Gather the options among the arguments of a verb (`locals()` in its first line), checked.

        Raises:
            UsageError: a value that cannot be meant; the first, by its option.
        """
        given = {n: one.checked(keywords[n]) for n, one in every().items() if n in keywords}
        return cls(
            **{
                name: group(**{one.name: given[one.name] for one in fields(group)
                               if one.name in given})
                for name, group in GROUPS.items()
            }
        )  # fmt: skip


GROUPS: dict[str, type] = {
    "surgery": Surgery, "training": Training, "place": Place, "reading": Reading,
    "delivery": Delivery,
}  # fmt: skip


@cache
def every() -> dict[str, Option]:
    """Return all options by name, in the order of a help text."""
    return {
        one.name: Option(one.name, one.default, **one.metadata)
        for group in GROUPS.values()
        for one in fields(group)
    }


def options_of(verb: str) -> tuple[Option, ...]:
    """Return the options that a verb takes."""
    return tuple(one for one in every().values() if verb in one.verbs)


def words(name: str) -> tuple[str, ...]:
    """Return all values of an option that are words."""
    return every()[name].words


def explained(verb: F) -> F:
    """Let the docstring of a public function end in what its options mean."""
    names, text = inspect.signature(verb).parameters, inspect.cleandoc(verb.__doc__ or "")
    said = [
        f"    {one.name}: {one.help}" + (f" One of {', '.join(one.words)}." if one.words else "")
        for one in every().values()
        if one.name in names and f"\n    {one.name}: " not in text
    ]
    verb.__doc__ = "\n".join([text, "", "Options:", *said, ""])
    return verb


def depth_meant(cut: Any) -> str | None:
    """Return the depth `@x` that was meant by 0.5, `.5`, `50%`, `@50%` or `1/2`; None if none."""
    match = re.fullmatch(r"@?\s*(\d*\.?\d+)\s*(%|/\s*(\d+))?", str(cut).strip())
    if match is None:
        return None
    parts = 1.0 if not match[2] else 100.0 if match[2] == "%" else float(match[3])
    depth = float(match[1]) / parts if parts else math.inf
    return f"@{depth:.4g}" if depth <= 1 else None
