"""Click's options, made of `surgeon.options`; `takes` hands a verb its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from surgeon.cli import values
from surgeon.cli.session import Session
from surgeon.options import Option, options_of
from surgeon.records import Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

F = TypeVar("F", bound="Callable[..., Any]")


def _complete_case(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    cases = (ctx.find_object(Session) or Session()).plugins.offers(Case)
    return [
        CompletionItem(name, help=found.offer.summary)
        for name, found in cases.items()
        if name.startswith(incomplete)
    ]


FORMS: dict[str, Callable[[], Any]] = {
    "cut": values.Cut,
    "size": values.Size,
    "audio": values.Audio,
    "bytes": values.Bytes,
    "device": values.Device,
    "validation": values.Validation,
    "constants": values.Assignment,
    "path": lambda: click.Path(path_type=Path),
    "file": lambda: click.Path(exists=True, dir_okay=False, path_type=Path),
}
"""How the text of an option is read, by `Option.form`."""
MORE: dict[str, dict[str, Any]] = {
    "cut": {"multiple": True, "callback": values.one_or_several, "default": None},
    "case": {"shell_complete": _complete_case},
    "inputs": {"multiple": True, "callback": values.unique_names, "default": None},
}
"""What only the command line knows of an option."""

model_argument = click.argument("model", type=values.ModelFile())


def takes(verb: str) -> Callable[[F], F]:
    """Give a command the options of a verb, in the order in which they are declared."""

    def decorate(command: F) -> F:
        for one in reversed(options_of(verb)):
            command = _made(one)(command)
        return command

    return decorate


def _made(one: Option) -> Callable[[F], F]:
    """Return click's decorator for an option."""
    told: dict[str, Any] = {"help": one.help}
    if one.default is True:
        negative = one.flag.replace("--", "--no-", 1)
        return click.option(f"{one.flag}/{negative}", one.name, default=True, **told)
    if one.default is False and one.flags:
        return click.option("/".join(reversed(one.flags)), one.name, default=False, **told)
    if one.default is False:
        return click.option(one.flag, one.name, is_flag=True, **told)
    if one.default == ():
        told |= {"multiple": True, "default": None}
    elif one.default is not None:
        told |= {"default": one.default, "show_default": True}
    told |= {"type": _type(one), "metavar": one.metavar} | MORE.get(one.name, {})
    return click.option(*(one.flags or (one.flag,)), one.name, **told)


def _type(one: Option) -> Any:
    if one.words:
        return values.Word(list(one.words))
    if one.form in FORMS:
        return FORMS[one.form]()
    if one.least is not None:
        return click.IntRange(one.least, one.most)
    return values.Positive() if one.above is not None else str
