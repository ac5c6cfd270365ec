"""Settings of an offer: `name:key=value,key=value`, typed by what the code behind it takes.

What must not enter: names of offers.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from typing import TYPE_CHECKING, Any, NamedTuple

from surgeon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WORDS = {
    "true": True, "yes": True, "on": True, "1": True,
    "false": False, "no": False, "off": False, "0": False,
}  # fmt: skip


class Within(NamedTuple):
    """What a number may be, both ends included: `gamma: Annotated[float, Within(0)]`."""

    least: float
    most: float = math.inf

    def __str__(self) -> str:
        """Say it."""
        return f"from {self.least:g} " + ("on" if math.isinf(self.most) else f"to {self.most:g}")


def parse(text: str, where: str) -> tuple[str, dict[str, str]]:
    """Take `name:key=value,key=value` apart.

    Args:
        text: what was given.
        where: the option, for errors.

    Raises:
        UsageError: it is of another form, or a key stands twice.
    """
    name, _, rest = text.partition(":")
    given: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in given:
            raise UsageError(
                f"{part!r} is given twice" if key in given else f"{part!r} is no key=value",
                where=f"{where} {text}",
                remedy=f"write it as {name or 'name'}:key=value,key=value",
            )
        given[key] = value
    if not name.strip():
        raise UsageError("no name is given", where=f"{where} {text}", remedy="name:key=value")
    return name.strip(), given


def typed(
    code: Callable[..., Any], given: Mapping[str, Any], where: str, *, besides: Sequence[str] = ()
) -> dict[str, Any]:
    """Return settings as the code's keyword-only parameters take them.

    Text becomes what a parameter's annotation, else its default, says: bool, int, float, text, one
    of a `Literal`'s words, or None (`none`). Values that are none of that are refused.

    Args:
        code: what they are for.
        given: {key: text or value}.
        where: what to name in errors.
        besides: settings that whoever asks has taken out of those given: legal, too.

    Raises:
        UsageError: a key that there is not, a value that cannot be meant, or one that is missing;
            says what is legal.
    """
    known = wanted(code)
    for key in given:
        if key not in known:
            legal = ", ".join((*known, *besides)) or "none: it takes no settings"
            raise UsageError(f"there is no setting {key!r}", where=where, remedy=f"one of {legal}")
    missing = [key for key, (_, needed) in known.items() if needed and key not in given]
    if missing:
        raise UsageError(
            f"settings are missing: {', '.join(missing)}",
            where=where,
            remedy=f"give {','.join(f'{key}=…' for key in missing)} behind the name and a colon",
        )
    return {key: _as(value, known[key][0], key, where) for key, value in given.items()}


def wanted(code: Callable[..., Any]) -> dict[str, tuple[Any, bool]]:
    """Return {setting: (what it may be, whether it must be given)}."""
    found, hints = {}, _hints(code)
    for name, parameter in inspect.signature(code).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        default = parameter.default
        needed = default is parameter.empty
        told = parameter.annotation if isinstance(parameter.annotation, str) else None
        simple = {"int": int, "float": float, "bool": bool, "str": str}.get(told or "")
        fallback = str if needed or default is None else type(default)
        found[name] = (hints.get(name, simple or fallback), needed)
    return found


def _hints(code: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the settings; empty where a name is imported for type checkers alone."""
    function: Any = getattr(code, "__init__") if isinstance(code, type) else code  # noqa: B009 - of a class, which type checkers take for that of an instance
    try:
        parameters = inspect.signature(code).parameters.values()
        told = {one.name: one.annotation for one in parameters if one.kind is one.KEYWORD_ONLY}
        told = {name: one for name, one in told.items() if one is not inspect.Parameter.empty}
        alone = types.SimpleNamespace(__annotations__=told)
        spaces = getattr(inspect.unwrap(function), "__globals__", {})
        return typing.get_type_hints(alone, spaces, include_extras=True)
    except NameError:
        return {}


def _as(value: Any, kind: Any, key: str, where: str) -> Any:
    """Return one value as what it is to be."""
    if typing.get_origin(kind) is typing.Annotated:
        kind, *marks = typing.get_args(kind)
        found = _as(value, kind, key, where)
        for limit in (mark for mark in marks if isinstance(mark, Within)):
            if isinstance(found, int | float) and not limit.least <= found <= limit.most:
                raise UsageError(f"{key} is {found:g}", where=where, remedy=f"a number {limit}")
        return found
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = typing.get_args(kind) if union else (kind,)
    if type(None) in kinds and value in (None, "none"):
        return None
    for one in kinds:
        words = typing.get_args(one) if typing.get_origin(one) is typing.Literal else None
        if words is not None:
            told = [word for word in words if word == value or str(word) == value]
            if told:
                return told[0]
        elif one is not type(None) and (found := _simple(value, one)) is not None:
            return found
    raise UsageError(f"{key} is {value!r}", where=where, remedy=f"{key} is {_said(kind)}")


def _simple(value: Any, kind: Any) -> Any:
    """Return a value of one simple type, or None where it is none."""
    if kind is bool:
        return value if isinstance(value, bool) else WORDS.get(str(value).lower())
    if isinstance(value, kind) and not isinstance(value, bool):
        return None if isinstance(value, float) and not math.isfinite(value) else value
    if kind not in (int, float) or isinstance(value, bool):
        return None
    try:
        found = kind(value) if isinstance(value, str) or kind is float else None
        return None if found is None or not math.isfinite(found) else found
    except (TypeError, ValueError, OverflowError):
        return None


def _said(kind: Any) -> str:
    """Return a type in words."""
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(map(_said, typing.get_args(kind)))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return "none" if kind is type(None) else names.get(kind, str(kind))
