"""The options that several verbs share, each written once; `takes` hands a verb its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from surgeon.cli import values
from surgeon.cli.session import Session
from surgeon.records import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

F = TypeVar("F", bound="Callable[..., Any]")

SEED_LIMIT = 2**32 - 1


def _complete_case(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    cases = (ctx.find_object(Session) or Session()).plugins.offers(Case)
    return [
        CompletionItem(name, help=found.offer.summary)
        for name, found in cases.items()
        if name.startswith(incomplete)
    ]


_OPTIONS = {
    "case": click.option(
        "--case", metavar="NAME", shell_complete=_complete_case, help="One of `surgeon cases`."
    ),
    "cut": click.option(
        "--cut",
        type=values.Cut(),
        metavar="TENSOR|@x",
        help="Where to cut: a tensor of `surgeon cuts`, or a depth @0 … @1. Default: the case's.",
    ),
    "output": click.option(
        "--output",
        metavar="NAME",
        help="Of several outputs of the graph, the one whose head counts. Default: the one with "
        "the deepest head. (-o names the file to write.)",
    ),
    "classes": click.option(
        "--classes", type=click.IntRange(min=1), metavar="N", help="Outputs of the new head."
    ),
    "start": click.option(
        "--start",
        metavar="TENSOR",
        help="Let the graph begin at this tensor; the nodes before it are dropped.",
    ),
    "init": click.option(
        "--init",
        type=values.Word(["pretrained", "random", "race"]),
        help="Start from the file's weights, from random ones, or try both for a short while and "
        "go on with the better. Default: the case's choice.",
    ),
    "epochs": click.option(
        "--epochs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Epochs at most. Default: the method's choice.",
    ),
    "budget": click.option(
        "--budget",
        type=values.Positive(),
        metavar="SECONDS",
        help="Stop training after this long and deliver the best so far.",
    ),
    "device": click.option(
        "--device",
        type=values.Device(),
        default="auto",
        show_default=True,
        metavar="auto|cpu|cuda[:n]",
        help="Where to compute.",
    ),
    "precision": click.option(
        "--precision",
        type=values.Word(["float32", "bf16", "fp16"]),
        default="float32",
        show_default=True,
        help="Arithmetic of training; on a GPU, of the frozen part too.",
    ),
    "seed": click.option(
        "--seed",
        type=click.IntRange(0, SEED_LIMIT),
        default=0,
        show_default=True,
        metavar="N",
        help="The same seed gives the same result.",
    ),
    "batch": click.option(
        "--batch",
        type=click.IntRange(min=1),
        metavar="N",
        help="Samples per batch. Default: chosen to fit.",
    ),
    "lr": click.option(
        "--lr", type=values.Positive(), metavar="RATE", help="Peak learning rate of the head."
    ),
    "validation": click.option(
        "--validation",
        type=values.Validation(),
        default="0.2",
        show_default=True,
        metavar="FRACTION|PATH",
        help="Share of the data held out, or data of its own.",
    ),
    "accumulate": click.option(
        "--accumulate",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Batches whose gradients make one step.",
    ),
    "compile": click.option(
        "--compile",
        type=values.Word(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="torch.compile; auto: where a long run gains by it. Only on and off repeat exactly.",
    ),
    "memory": click.option(
        "--memory",
        type=values.Word(["normal", "low", "lowest"]),
        default="normal",
        show_default=True,
        help="low: train in less memory, in about a third more time; lowest: and with the "
        "optimiser's memory in 8 bits.",
    ),
    "deterministic": click.option(
        "--deterministic",
        is_flag=True,
        help="On a GPU use only what repeats bit for bit, which is slower. On a CPU all else does: "
        "it only turns --compile auto off.",
    ),
    "augment": click.option(
        "--augment",
        type=values.Word(["none", "light", "strong", "auto"]),
        default="auto",
        show_default=True,
        help="Random variation of training images.",
    ),
    "views": click.option(
        "--views",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="K",
        help="Solve the head on every training image as it is and K-1 times augmented.",
    ),
    "preprocess": click.option(
        "--preprocess",
        metavar="NAME|JSON|FILE",
        help="How images become inputs. Default: what the file or the model index says.",
    ),
    "size": click.option(
        "--size", type=values.Size(), metavar="HxW", help="Size of images, in pixels."
    ),
    "tokenizer": click.option(
        "--tokenizer",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="tokenizer.json that turns texts into tokens. Default: what the file says.",
    ),
    "max_length": click.option(
        "--max-length",
        type=click.IntRange(min=1),
        metavar="N",
        help="Tokens kept of each text. Default: what the file says.",
    ),
    "audio": click.option(
        "--audio",
        type=values.Audio(),
        metavar="RATE,SECONDS",
        help="Rate in Hz and length that sounds are brought to. Default: what the file says.",
    ),
    "label_column": click.option(
        "--label-column", metavar="NAME", help="Column of a table that holds the labels."
    ),
    "inputs": click.option(
        "--input",
        "inputs",
        type=values.Assignment(),
        multiple=True,
        callback=values.unique_names,
        metavar="NAME=VALUE",
        help="Constant value of a graph input; may be repeated.",
    ),
    "threads": click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        help="CPU threads. Default: the machine's cores.",
    ),
    "cache_limit": click.option(
        "--cache-limit",
        type=values.Bytes(),
        metavar="BYTES",
        help="Disk that cached features may take (2GB, 500MB).",
    ),
    "force": click.option("--force", is_flag=True, help="Overwrite the output."),
    "resume": click.option(
        "--resume", is_flag=True, help="Go on with an interrupted run of the same settings."
    ),
    "dry_run": click.option("--dry-run", is_flag=True, help="Show the plan and write nothing."),
    "golden_samples": click.option(
        "--golden-samples/--no-golden-samples",
        default=True,
        help="Keep up to two real samples in the file's proof, or none.",
    ),
    "ignore_unknown": click.option(
        "--ignore-unknown", is_flag=True, help="Drop samples whose label the file does not know."
    ),
}

model_argument = click.argument("model", type=values.ModelFile())

output_option = click.option(
    "-o",
    "--out",
    "out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="The ONNX file to write.",
)


def takes(*names: str) -> Callable[[F], F]:
    """Give a command the shared options of these names, shown in this order."""

    def decorate(command: F) -> F:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return decorate
