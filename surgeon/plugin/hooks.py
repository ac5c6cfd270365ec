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

    from surgeon.records import Case

PROJECT = "surgeon"

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
