"""`surgeon completion bash|zsh|fish`: the script a shell loads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli import values
from surgeon.cli.group import Verb
from surgeon.cli.session import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.cli.screen import Screen

VARIABLE = "_SURGEON_COMPLETE"  # the name click derives from `surgeon`


@click.command(cls=Verb)
@click.argument("shell", type=values.Word(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> Answer:
    """Print the completion script of SHELL.

    For bash: `surgeon completion bash > ~/.local/share/bash-completion/completions/surgeon`.
    """
    from click.shell_completion import get_completion_class

    completer = get_completion_class(shell)
    if completer is None:
        raise click.UsageError(f"click knows no completion for {shell}", ctx)
    script = completer(ctx.find_root().command, {}, "surgeon", VARIABLE).source()
    return Answer({"shell": shell, "script": script}, show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """The script alone."""
    screen.line(body["script"])
