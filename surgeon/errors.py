"""Every exception of surgeon. Each says what happened, where, and what to do about it.

::

    SurgeonError                    the root; `exit` is the exit code of the command line
    ├── UsageError            2     an option or argument that cannot be meant
    │   ├── UnknownNameError  2     a name that does not exist; the nearest ones are named
    │   └── PluginError       2     what a plugin offers and that cannot be used
    ├── ModelError            2     a file that is not a model this project can read or operate on
    │   └── UnsupportedError  2     an operator, version or form that is not converted
    ├── DataError             2     samples, labels or preprocessing that do not fit
    ├── OutputError           2     the output exists, or cannot be written where it was asked for
    ├── EnvironmentLacksError 3     disk, memory, GPU, execution provider or package is missing
    └── CheckError            1     a proof, parity or training check failed

This module imports nothing, so that every room may use it.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class SurgeonError(Exception):
    """What (`message`), where (`where`: a node, file, sample, option) and the remedy, in one error.

    Attributes:
        kind: short machine-readable word, the `kind` of the JSON error document.
        exit: exit code of the command line.
    """

    kind: ClassVar[str] = "error"
    exit: ClassVar[int] = 1

    def __init__(
        self, message: str, *, where: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.remedy:
            lines.append(f"  to do: {self.remedy}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the `error` object of a JSON document."""
        return {
            "kind": self.kind,
            "message": self.message,
            "where": self.where,
            "remedy": self.remedy,
            "exit": self.exit,
        }


class UsageError(SurgeonError):
    """An option or argument that cannot be meant."""

    kind = "usage"
    exit = 2


class UnknownNameError(UsageError):
    """A name that does not exist; the message lists the nearest ones that do."""

    kind = "unknown-name"

    def __init__(
        self, what: str, name: str, known: Iterable[str], *, where: str | None = None
    ) -> None:
        known = sorted(set(known))
        near = get_close_matches(name, known, n=3, cutoff=0.4) or known[:5]
        hint = "did you mean " + ", ".join(near) + "?" if near else "there is none at all"
        super().__init__(f"unknown {what} {name!r}", where=where, remedy=hint)


class PluginError(UsageError):
    """What a plugin offers and that cannot be used."""

    kind = "plugin"


class ModelError(SurgeonError):
    """A file that is not a model this project can read or operate on."""

    kind = "model"
    exit = 2


class UnsupportedError(ModelError):
    """An operator, version or form that is not converted. Never approximated, never skipped."""

    kind = "unsupported"


class DataError(SurgeonError):
    """Samples, labels or preprocessing that do not fit the model or each other."""

    kind = "data"
    exit = 2


class OutputError(SurgeonError):
    """The output exists, or cannot be written where it was asked for."""

    kind = "output"
    exit = 2


class EnvironmentLacksError(SurgeonError):
    """Disk, memory, GPU, execution provider or package is missing."""

    kind = "environment"
    exit = 3


class CheckError(SurgeonError):
    """A proof, parity or training check failed."""

    kind = "check"
    exit = 1
