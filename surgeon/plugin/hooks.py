"""The hooks a plugin may implement. Few, typed, prefixed `surgeon_`; they yield frozen dataclasses.

A plugin is a module named by an entry point in the group `surgeon`::

    # my_case.py; in pyproject.toml: [project.entry-points.surgeon]  my-case = "my_case"
    from surgeon.plugin import hookimpl
    from surgeon.records import Case, Plan

    @hookimpl
    def surgeon_cases():
        yield Case(
            name="half-way",
            summary="cut at half the depth, train the head",
            suits=lambda evidence: 0.1,
            plan=lambda context: Plan(case="half-way", cut="@0.5", trainable="head"),
        )
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from surgeon.records import (
        Adapter,
        Case,
        Check,
        Exporter,
        Files,
        HeadKind,
        Known,
        Loss,
        Medium,
        Task,
        Tracker,
    )

PROJECT = "surgeon"

API = 1
"""Version of the hooks, their records and what the code behind an offer is called with.

A plugin may say which one it is written for, `SURGEON_API = 1`. What is added (a hook, a field
with a default, a parameter that is given by name to those who ask) leaves the number as it is.
"""
OLDEST = 1
"""The oldest version whose plugins still work."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def surgeon_cases() -> Iterable[Case]:  # type: ignore[empty-body]
    """Yield the cases of transfer learning this plugin offers.

    Nothing is imported later: a case holds its two functions itself. Both are pure.

    Example:
        # my_case.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Case, Plan

        def plan(context):
            return Plan(cut="@0.5", trainable="head", why="half of the depth")

        @hookimpl
        def surgeon_cases():
            yield Case("half-way", "cut at half the depth", lambda evidence: 0.1, plan)

        $ surgeon finetune model.onnx data.npz --case half-way -o out.onnx
    """


@hookspec
def surgeon_tasks() -> Iterable[Task]:  # type: ignore[empty-body]
    """Yield tasks: what an answer is, how it is read, judged and told.

    The class is made with what the file stores of its task (a dict, empty for a new one).

    Example:
        # my_task.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Task

        @hookimpl
        def surgeon_tasks():
            yield Task("cautious", "classes, and how sure", "my_task_code:Cautious")

        # my_task_code.py
        from surgeon_tasks.classification import Classification

        class Cautious(Classification):
            def rows(self, decoded, names):
                found = super().rows(decoded, names)
                return [row | {"sure": row["probability"] > 0.9} for row in found]

        $ surgeon finetune model.onnx data.npz --case small-similar --task cautious -o out.onnx
        $ surgeon predict out.onnx data.npz --json
    """


@hookspec
def surgeon_heads() -> Iterable[HeadKind]:  # type: ignore[empty-body]
    """Yield kinds of new heads.

    The code appends nodes with onnx-graphsurgeon and says which weights are trained.

    Example:
        # my_head.py
        from surgeon.plugin import hookimpl
        from surgeon.records import HeadKind

        @hookimpl
        def surgeon_heads():
            yield HeadKind("unit", "length does not count", "my_head_code:build")

        # my_head_code.py
        import numpy as np
        import onnx_graphsurgeon as gs
        from surgeon.records import Built

        def build(graph, value, outputs, random, *, scale: float = 10.0):
            drawn = random.normal(0, value.shape[1] ** -0.5, (outputs, value.shape[1]))
            weight = gs.Constant("weight", drawn.astype(value.dtype))
            bias = gs.Constant("bias", np.zeros(outputs, value.dtype))
            (unit,) = graph.layer(
                op="LpNormalization", inputs=[value], outputs=["unit"], attrs={"axis": 1}
            )
            (scores,) = graph.layer(
                op="Gemm", inputs=[unit, weight, bias], outputs=["scores"],
                attrs={"transB": 1, "alpha": scale},
            )
            return Built(scores, (weight, bias))

        $ surgeon finetune model.onnx data.npz --case small-similar --head unit:scale=16 -o out.onnx
    """


@hookspec
def surgeon_losses() -> Iterable[Loss]:  # type: ignore[empty-body]
    """Yield losses that training may minimise.

    Outputs and targets are tensors of torch, targets as the task codes them: [n] numbers of
    classes for classification. Samples without an answer are gone already.

    Example:
        # my_loss.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Loss

        def poly(outputs, targets, *, weight: float = 1.0):
            chance = outputs.softmax(1).gather(1, targets[:, None])[:, 0]
            return weight * (1 - chance) - chance.log()

        @hookimpl
        def surgeon_losses():
            yield Loss("poly", "hard samples count more", "my_loss:poly", ("classification",))

        $ surgeon finetune model.onnx data.npz --case large-similar --loss poly:weight=2 -o out.onnx
    """


@hookspec
def surgeon_adapters() -> Iterable[Adapter]:  # type: ignore[empty-body]
    """Yield adapters, which train few numbers in place of large weights.

    Example:
        # my_adapter.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Adapter

        @hookimpl
        def surgeon_adapters():
            yield Adapter("scale", "a factor for each output", "my_adapter_code:Scale")

        # my_adapter_code.py
        import torch

        class Scale(torch.nn.Module):
            def __init__(self, weight, axis, *, start: float = 1.0):
                super().__init__()
                shape = [1] * weight.ndim
                shape[axis] = weight.shape[axis]
                self.factor = torch.nn.Parameter(torch.full(shape, start))

            def forward(self, weight):
                return weight * self.factor

        $ surgeon finetune model.onnx data.npz --case large-similar --adapter scale -o out.onnx
    """


@hookspec
def surgeon_media() -> Iterable[Medium]:  # type: ignore[empty-body]
    """Yield media that samples may be of.

    Files with these endings, in folders, tables and `predict`, are read by the class wherever the
    model's inputs are those that it feeds. Endings of another medium are a conflict. With `of` it
    is a further format of another medium, and its code a function of the bytes.

    Example:
        # my_medium.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Medium

        @hookimpl
        def surgeon_media():
            yield Medium("points", "eight numbers a file", "my_medium_code:Points", (".xyz",))

        # my_medium_code.py
        import numpy as np
        from surgeon.media import UnreadableError, ValueSamples

        class Points(ValueSamples):
            def __init__(self, given):
                super().__init__(given)
                (self._info,) = self.inputs

            @classmethod
            def takes(cls, inputs, constants):
                return [one.shape[1:] for one in inputs if one.name not in constants] == [(8,)]

            def _value(self, index):
                try:
                    return np.array(self._content(index).split(), np.float32).reshape(8)
                except ValueError:
                    raise UnreadableError("not eight numbers") from None

            def _nothing(self):
                return np.zeros((0, 8), np.float32)

            def _rule(self):
                return {"points": 8}

        $ surgeon finetune model.onnx points --case small-similar -o out.onnx
    """


@hookspec
def surgeon_trackers() -> Iterable[Tracker]:  # type: ignore[empty-body]
    """Yield trackers, which are told the progress of training.

    Example:
        # my_tracker.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Tracker

        class Lines:
            def __init__(self, *, path: str = "run.txt"):
                self.file = open(path, "w")

            def __call__(self, event):
                print(type(event).__name__, file=self.file)

            def close(self):
                self.file.close()

        @hookimpl
        def surgeon_trackers():
            yield Tracker("lines", "a line per event", "my_tracker:Lines")

        $ surgeon finetune model.onnx data.npz --case small-similar --track lines -o out.onnx
    """


@hookspec
def surgeon_exporters() -> Iterable[Exporter]:  # type: ignore[empty-body]
    """Yield exporters, which write a file in another form.

    Example:
        # my_exporter.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Exporter

        def names(model, path, *, prefix: str = ""):
            lines = [prefix + node.name for node in model.graph.node]
            path.write_text(" ".join(lines))
            return [path]

        @hookimpl
        def surgeon_exporters():
            yield Exporter("names", "names of the nodes", "my_exporter:names")

        $ surgeon operate model.onnx --case small-similar --classes 3 -o operated.onnx --force
        $ surgeon export operated.onnx -o names.txt --to names:prefix=n-
    """


@hookspec
def surgeon_checks() -> Iterable[Check]:  # type: ignore[empty-body]
    """Yield examinations of one's own.

    Those of `before` are asked by `surgeon check` and by `finetune` before it trains, which an
    error among their findings ends with exit 1; those of `after` once the file is written, and an
    error makes the exit 1.

    Example:
        # my_check.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Check, Finding

        def licence(model, outcome):
            if "licence" not in {entry.key for entry in model.proto.metadata_props}:
                yield Finding("warning", "licence", "the file names no licence", "ask its author")

        @hookimpl
        def surgeon_checks():
            yield Check("licence", "may it be used", "my_check:licence", when="before")

        $ surgeon check model.onnx
    """


@hookspec(firstresult=True)
def surgeon_known(sha256: str, model: Any) -> Known | None:
    """Return what a model zoo knows of a file, else None; it may be asked for any file.

    `sha256` is that of the file, `model` its onnx.ModelProto, for files that have no hash of their
    own because whoever builds them gets other last digits. A hook may take `sha256` alone.

    Example:
        # my_zoo.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Known

        @hookimpl
        def surgeon_known(sha256, model):
            if model.producer_name == "my-lab":
                return Known("ours", labels=("ant", "bee", "cat", "dog", "eel"))
            return None

        $ surgeon predict model.onnx data.npz --json
    """


@hookspec
def surgeon_ops() -> Iterable[str]:  # type: ignore[empty-body]
    """Yield `"module:attribute"` strings; importing one declares operators with `@op`.

    They are loaded when a model with operators of a domain that is not ONNX's is converted, never
    before, so the module may import torch. Inputs are positional, attributes keywords.

    Example:
        # my_ops.py
        from surgeon.plugin import hookimpl

        @hookimpl
        def surgeon_ops():
            yield "my_ops_code:snake"

        # my_ops_code.py
        import torch
        from surgeon import op
        from torch import Tensor

        @op("Snake", domain="org.example")
        def snake(X: Tensor, *, alpha: float = 1.0) -> Tensor:
            return X + torch.sin(alpha * X) ** 2 / alpha

        $ surgeon ops snake.onnx
    """


@hookspec(firstresult=True)
def surgeon_open_data(uri: str) -> Any:
    """Return the data that a URI of one's own means, else None.

    Arrays in the `.npz` convention, `{input name: array, "labels": [n]}`, or a path that surgeon
    opens itself. Asked for texts with a colon that are no path.

    Example:
        # my_data.py
        from surgeon.plugin import hookimpl

        @hookimpl
        def surgeon_open_data(uri):
            if not uri.startswith("bumps:"):
                return None
            import numpy as np

            random, n = np.random.default_rng(0), int(uri.partition(":")[2])
            labels = np.arange(n) % 2
            values = random.normal(size=(n, 8)) + labels[:, None]
            return {"x": values.astype(np.float32), "labels": labels}

        $ surgeon finetune model.onnx bumps:200 --case small-similar -o out.onnx
    """


@hookspec(firstresult=True)
def surgeon_list_data(path: Path) -> Files | None:
    """Return the files and answers of a folder, or of a file that names them, else None.

    It is asked for every path of labelled data, before the forms that surgeon knows, and should
    look at no more than it needs to tell that a path is none of its own.

    Example:
        # my_lists.py
        from surgeon.plugin import hookimpl
        from surgeon.records import Files

        @hookimpl
        def surgeon_list_data(path):
            if path.suffix != ".lst":
                return None
            rows = [line.split() for line in path.read_text().splitlines()]
            files = [path.parent / file for file, label in rows]
            return Files(files, [label for file, label in rows])

        $ surgeon finetune photos.onnx photos.lst --case small-similar -o out.onnx
    """


@hookspec
def surgeon_commands(cli: Any) -> None:
    """Add commands: `cli.add("name", "module:command", "one line of help")`.

    `command` is a click command (`@click.command()`), imported when it runs; `cli.add_command`
    takes one that is loaded already. A name that is taken stays with whoever had it first.

    Example:
        # my_verb.py
        from surgeon.plugin import hookimpl

        @hookimpl
        def surgeon_commands(cli):
            cli.add("count", "my_verb_code:count", "Say how many nodes a model has.")

        # my_verb_code.py
        import click

        import surgeon

        @click.command()
        @click.argument("model")
        def count(model):
            click.echo(f"{len(surgeon.load(model).proto.graph.node)} nodes")

        $ surgeon count model.onnx
    """
