"""Whatever ended a verb, told as one of our errors with an exit code of the contract."""

from __future__ import annotations

import errno

import click

from surgeon.errors import (
    EnvironmentLacksError,
    OutputError,
    SurgeonError,
    UsageError,
)

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


def as_surgeon_error(error: BaseException) -> SurgeonError:
    """Say what happened, where and what to do, for any exception that reached the top."""
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
        case FileNotFoundError() | IsADirectoryError() | NotADirectoryError() if error.filename:
            return UsageError((error.strerror or "cannot be opened").lower(), where=_file(error))
    if type(error).__name__ == "OutOfMemoryError":  # torch's, whose name is all we may know here
        return _out_of_memory(error)
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
    """Click's own errors in our manner; the help of the same command is always the remedy."""
    command = error.ctx.command_path if error.ctx else "surgeon"
    message = error.format_message().rstrip(".")
    return UsageError(
        message[:1].lower() + message[1:],
        where=f"`{command}`",
        remedy=f"see `{command} --help`",
    )
