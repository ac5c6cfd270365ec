"""Whatever ended a verb, told as one of our errors with an exit code of the contract."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

import click

from surgeon.errors import (
    EnvironmentLacksError,
    OutputError,
    SurgeonError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class InterruptError(SurgeonError):
    """Ctrl-C."""

    kind = "interrupt"
    exit = 130


class InternalError(SurgeonError):
    """Something surgeon did not foresee: a defect of ours."""

    kind = "internal"
    exit = 1


class PluginFailedError(SurgeonError):
    """Code of a plugin raised something that neither it nor surgeon foresaw."""

    kind = "plugin"
    exit = 1


def as_surgeon_error(error: BaseException, plugin: str | None = None) -> SurgeonError:
    """Say what happened, where and what to do, for any exception that reached the top.

    Args:
        error: the exception.
        plugin: whose verb or code it was, if it was not ours.
    """
    match error:
        case SurgeonError():
            return error
        case click.UsageError():
            return _usage(error)
        case click.ClickException():
            return UsageError(error.format_message())
        case KeyboardInterrupt() | click.Abort():
            return InterruptError("interrupted")
        case MemoryError():
            return _out_of_memory(error)
        case ModuleNotFoundError() if not (error.name or "").startswith("surgeon"):
            return EnvironmentLacksError(
                f"the package {error.name!r} is not installed",
                remedy="reinstall onnx-surgeon with its dependencies; `surgeon doctor` shows more",
            )
        case OSError() if error.errno in FULL:
            return EnvironmentLacksError(
                "the disk is full",
                where=_file(error),
                remedy="free some space: `surgeon cache clear` removes cached features",
            )
        case OSError() if error.errno in REFUSED and error.filename is not None:
            return OutputError(
                "no permission", where=_file(error), remedy="choose another place, or change it"
            )
        case OSError() if error.errno == errno.ENAMETOOLONG:
            return UsageError(
                "no file can have a name of this length", where=(_file(error) or "")[:200] or None
            )
        case FileNotFoundError() | IsADirectoryError() | NotADirectoryError() if error.filename:
            return UsageError((error.strerror or "cannot be opened").lower(), where=_file(error))
    if type(error).__name__ == "OutOfMemoryError":  # torch's, whose name is all we may know here
        return _out_of_memory(error)
    if plugin is not None:
        return PluginFailedError(
            f"{type(error).__name__}: {' '.join(str(error).split())}",
            where=plugin,
            remedy="tell its author; --traceback shows where it came from",
        )
    return InternalError(
        f"internal error: {type(error).__name__}: {' '.join(str(error).split())}",
        remedy="run again with --traceback and report what it shows",
    )


def _file(error: OSError) -> str | None:
    return None if error.filename is None else str(error.filename)


def _out_of_memory(error: BaseException) -> SurgeonError:
    detail = " ".join(str(error).split())
    return EnvironmentLacksError(
        f"out of memory: {detail}" if detail else "out of memory",
        remedy="a smaller --batch or --size, or --device cpu",
    )


def _usage(error: click.UsageError) -> SurgeonError:
    """Click's own errors in our manner: the remedy is what was meant, else the command's help."""
    command = error.ctx.command_path if error.ctx else "surgeon"
    unknown = isinstance(error, click.NoSuchOption)
    # What click finds near by spelling is not said: we know more than the spelling.
    message = (error.message if unknown else error.format_message()).rstrip(".")
    return UsageError(
        message[:1].lower() + message[1:],
        where=f"`{command}`",
        remedy=_meant(error) or f"see `{command} --help`",
    )


def _meant(error: click.UsageError) -> str:
    """Say which option, or which value of one, was meant; empty where none comes near."""
    from surgeon.cli import suggest

    remedy: str = getattr(error, "remedy", "")
    if remedy or error.ctx is None:
        return remedy
    command = error.ctx.command
    if isinstance(error, click.NoSuchOption):
        return suggest.option_meant(error.option_name, command, _other_verbs(error.ctx))
    stray = re.search(r"extra arguments? \((.*)\)", error.message)
    found = (
        suggest.assignment_meant(word, command) for word in (stray[1] if stray else "").split()
    )
    return ", ".join(filter(None, found))


def _other_verbs(ctx: click.Context) -> Iterator[click.Command]:
    """Load the verbs beside the one that was run."""
    top = ctx.find_root()
    if isinstance(top.command, click.Group) and ctx.command is not top.command:
        for name in top.command.list_commands(top):
            try:
                verb = top.command.get_command(top, name)
            except SurgeonError:  # one of a plugin that is broken has no options to look at
                continue
            if verb is not None and verb.name != ctx.command.name:
                yield verb
