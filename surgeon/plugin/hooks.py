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

    Example:
        >>> @hookimpl
        ... def surgeon_cases():
        ...     yield Case("mine", "one line", lambda evidence: 0.0, lambda context: Plan("mine"))
    """


@hookspec
def surgeon_tasks() -> Iterable[Task]:  # type: ignore[empty-body]
    """Yield tasks: what an answer is, how it is read, judged and told.

    Example:
        >>> @hookimpl
        ... def surgeon_tasks():
        ...     yield Task("ordinal", "classes with an order", "my_package.ordinal:Ordinal")
    """


@hookspec
def surgeon_heads() -> Iterable[HeadKind]:  # type: ignore[empty-body]
    """Yield kinds of new heads.

    Example:
        >>> @hookimpl
        ... def surgeon_heads():
        ...     yield HeadKind("mlp", "two layers", "my_package.heads:mlp")
    """


@hookspec
def surgeon_losses() -> Iterable[Loss]:  # type: ignore[empty-body]
    """Yield losses that training may minimise.

    Example:
        >>> @hookimpl
        ... def surgeon_losses():
        ...     yield Loss("focal", "hard samples count more", "my_package.losses:focal")
    """


@hookspec
def surgeon_adapters() -> Iterable[Adapter]:  # type: ignore[empty-body]
    """Yield adapters, which train few numbers of a large weight.

    Example:
        >>> @hookimpl
        ... def surgeon_adapters():
        ...     yield Adapter("lora", "low-rank updates", "my_package.lora:LoRA")
    """


@hookspec
def surgeon_media() -> Iterable[Medium]:  # type: ignore[empty-body]
    """Yield media that samples may be of.

    Example:
        >>> @hookimpl
        ... def surgeon_media():
        ...     yield Medium("video", "frames of a film", "my_package.video:Films", (".mp4",))
    """


@hookspec
def surgeon_trackers() -> Iterable[Tracker]:  # type: ignore[empty-body]
    """Yield trackers, which are told the progress of training.

    Example:
        >>> @hookimpl
        ... def surgeon_trackers():
        ...     yield Tracker("mine", "to my server", "my_package.tracker:Tracker")
    """


@hookspec
def surgeon_exporters() -> Iterable[Exporter]:  # type: ignore[empty-body]
    """Yield exporters, which write a file in another form.

    Example:
        >>> @hookimpl
        ... def surgeon_exporters():
        ...     yield Exporter("tflite", "for phones", "my_package.tflite:export")
    """


@hookspec
def surgeon_checks() -> Iterable[Check]:  # type: ignore[empty-body]
    """Yield examinations of one's own.

    Example:
        >>> @hookimpl
        ... def surgeon_checks():
        ...     yield Check("size", "fits our devices", "my_package.checks:size")
    """


@hookspec(firstresult=True)
def surgeon_known(sha256: str, model: Any) -> Known | None:
    """Return what a model zoo knows of a file, else None; it may be asked for any file.

    `sha256` is that of the file, `model` its onnx.ModelProto, for files that have no hash of their
    own because whoever builds them gets other last digits. A hook may take `sha256` alone.

    Example:
        >>> @hookimpl
        ... def surgeon_known(sha256):
        ...     return Known("mine", labels=("cat", "dog")) if sha256 == MINE else None
    """


@hookspec
def surgeon_ops() -> Iterable[str]:  # type: ignore[empty-body]
    """Yield `"module:attribute"` strings; importing one declares operators with `@op`.

    They are loaded when a model is converted, never before, so the module may import torch.

    Example:
        >>> @hookimpl
        ... def surgeon_ops():
        ...     yield "my_package.operators:declare"
    """


@hookspec(firstresult=True)
def surgeon_open_data(uri: str) -> Any:
    """Return arrays in the `.npz` convention for a data URI of one's own, else None.

    `{input name: array, "labels": [n]}`, as `surgeon.finetune` takes them.

    Example:
        >>> @hookimpl
        ... def surgeon_open_data(uri):
        ...     return load_mine(uri) if uri.startswith("mine:") else None
    """


@hookspec(firstresult=True)
def surgeon_list_data(path: Path) -> Files | None:
    """Return the files and answers of a folder, or of a file that names them, else None.

    It is asked for every path of labelled data, before the forms that surgeon knows, and should
    look at no more than it needs to tell that a path is none of its own.

    Example:
        >>> @hookimpl
        ... def surgeon_list_data(path):
        ...     return Files(*read_mine(path)) if (path / "mine.txt").is_file() else None
    """


@hookspec
def surgeon_commands(cli: Any) -> None:
    """Add commands: `cli.add("name", "module:command", "one line of help")`.

    `command` is a click command (`@click.command()`), imported when it runs; `cli.add_command`
    takes one that is loaded already. A name that is taken stays with whoever had it first.

    Example:
        >>> @hookimpl
        ... def surgeon_commands(cli):
        ...     cli.add("mine", "my_package.command:main", "do what I need")
    """
