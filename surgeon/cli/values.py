"""Kinds of option values: what is accepted is checked before any work begins."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from surgeon.errors import OutputError, UsageError
from surgeon.graph.reading import parse_json, what_lies_at
from surgeon.options import depth_meant

if TYPE_CHECKING:
    import os

    _Kind = click.ParamType[Any]
else:
    _Kind = click.ParamType  # older clicks do not take a type argument here

_SIZE = re.compile(r"(\d+)[xX×](\d+)")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class NotMeantError(click.BadParameter):
    """A value that cannot be meant, and what may have been."""

    def __init__(
        self, message: str, ctx: click.Context | None, param: click.Parameter | None, remedy: str
    ) -> None:
        super().__init__(message, ctx, param)
        self.remedy = remedy


class Word(click.Choice):  # type: ignore[type-arg] # older clicks have no such argument
    """One of some words; another tool's word for one is answered with ours."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            from surgeon.cli.suggest import word_meant

            words = [str(word) for word in self.choices]
            meant = word_meant(param.name if param else None, str(value), words)
            raise NotMeantError(
                f"{value!r} is not one of {', '.join(words)}", ctx, param, _remedy(param, meant)
            ) from error


def _remedy(param: click.Parameter | None, meant: str | None) -> str:
    """Write the option with the value that was meant; empty where none comes near."""
    if meant is None or param is None:
        return ""
    return f"{param.opts[0]} {meant}" if isinstance(param, click.Option) else meant


def _refuse(
    message: str, param: click.Parameter | None, ctx: click.Context | None, meant: str | None
) -> NoReturn:
    raise NotMeantError(message, ctx, param, _remedy(param, meant))


def _device(value: str) -> str | None:
    """Return the device that was meant by `gpu`, `0`, `cuda0`, `mps`."""
    match = re.fullmatch(r"(?:gpu|cuda|nvidia)?[:_ ]?(\d*)", value.strip().lower())
    if match is not None:
        return f"cuda:{match[1]}" if match[1] else "cuda"
    return "cpu" if value.strip().lower() in {"none", "host", "x86", "no"} else "auto"


def _seconds(value: str) -> str | None:
    """Return the seconds that were meant by `90s`, `10m`, `1.5 h`."""
    match = re.fullmatch(r"(\d+\.?\d*)\s*(s|sec|m|min|h)\w*", value.strip().lower())
    return f"{float(match[1]) * {'s': 1, 'm': 60, 'h': 3600}[match[2][0]]:g}" if match else None


class Cut(_Kind):
    """An exact tensor name, or `@x` with x from 0 to 1."""

    name = "cut"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse a depth outside 0..1; whether a name exists is known only with the model."""
        if value.startswith("@"):
            depth = _number(value[1:])
            if depth is not None and not 0 <= depth <= 1:
                _refuse(
                    f"{value!r}: a depth lies between @0 and @1", param, ctx, depth_meant(value)
                )
        if not value:
            self.fail("empty: a tensor name or a depth such as @0.5 is needed", param, ctx)
        return value


class Size(_Kind):
    """HxW in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (height, width)."""
        from surgeon.graph.preprocess import parse_size

        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            sides = re.findall(r"\d+", str(value))
            _refuse(
                f"{value!r}: height and width in pixels are needed, as in 96x96", param, ctx,
                f"{sides[0]}x{sides[min(1, len(sides) - 1)]}" if sides else None,
            )  # fmt: skip
        try:
            return parse_size([int(match[1]), int(match[2])])
        except UsageError as error:
            self.fail(error.message, param, ctx)
        except ValueError:  # more digits than an integer is read from
            self.fail("height and width have thousands of digits", param, ctx)


class Audio(_Kind):
    """RATE,SECONDS: a whole number of Hz, and a length."""

    name = "RATE,SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (rate, seconds)."""
        if isinstance(value, tuple):
            return value
        from surgeon.graph.encodings import parse_audio

        try:
            found = parse_audio(str(value))
        except UsageError as error:
            self.fail(f"{error.message}: Hz and seconds are needed, as in 16000,1.5", param, ctx)
        return found.rate, found.seconds


class Bytes(_Kind):
    """A number of bytes: 2GB (powers of 1000), 2GiB (powers of 1024), 500000."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        match = _BYTES.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r}: bytes are needed, as in 500MB, 2GB or 1048576", param, ctx)
        return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWER[match[2].lower()])


class Positive(_Kind):
    """A finite number above zero."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = _number(str(value))
        if number is None or not math.isfinite(number) or number <= 0:
            _refuse(f"{value!r} is not a number above 0", param, ctx, _seconds(str(value)))
        return number


class Device(_Kind):
    """auto, cpu, cuda or cuda:n; whether the device is there is seen when it is used."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as given."""
        if not _DEVICE.fullmatch(value):
            _refuse(
                f"{value!r} is not one of auto, cpu, cuda, cuda:0 …", param, ctx, _device(value)
            )
        return value


class Validation(_Kind):
    """A fraction of the data, or data of its own."""

    name = "fraction|path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | Path:
        """Return a fraction between 0 and 1, or the path of existing data."""
        fraction = _number(str(value))
        if fraction is None:
            share = _number(str(value).strip().removesuffix("%"))
            if share is not None and 0 < share < 100:
                _refuse(f"{value!r} is no fraction", param, ctx, f"{share / 100:g}")
            if what_lies_at(value) is None:
                self.fail(f"{value!r} is neither a fraction nor a path that exists", param, ctx)
            return Path(value)
        if not 0 < fraction < 1:
            _refuse(
                f"{value!r}: a fraction lies between 0 and 1, both excluded", param, ctx,
                f"{fraction / 100:g}" if 1 < fraction < 100 else None,
            )  # fmt: skip
        return fraction


class Assignment(_Kind):
    """NAME=VALUE, VALUE as JSON: a number, true, false, a string or a (nested) list of these."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return (name, value)."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.rpartition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not of the form NAME=VALUE", param, ctx)
        try:
            constant = parse_json(text)
        except ValueError:
            constant = None
        if constant is None or isinstance(constant, dict):
            self.fail(
                f"{value!r}: the value is a number, true, false or a JSON list of these", param, ctx
            )
        return name, constant


class ModelFile(_Kind):
    """The path of an ONNX file."""

    name = "model"

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Return the path of an existing file."""
        path = Path(value)
        what = what_lies_at(path)
        if what == "a folder":
            self.fail(f"{str(path)!r} is a folder: an ONNX file is needed", param, ctx)
        if what is None:
            self.fail(
                f"there is no file {str(path)!r} (`surgeon models list` names some to begin with)",
                param,
                ctx,
            )
        return path

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Let the shell complete file names."""
        return click.Path(dir_okay=False).shell_complete(ctx, param, incomplete)


def one_or_several(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> str | tuple[str, ...] | None:
    """Return what was given: nothing, one, or several where the verb takes several."""
    if len(given) > 1 and ctx.command.name not in ("operate", "predict"):
        raise click.BadParameter(f"given {len(given)} times", ctx, param)
    return (given if len(given) > 1 else given[0]) if given else None


def unique_names(
    ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    """Gather NAME=VALUE pairs; a name given twice is refused."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise click.BadParameter(f"given twice: {', '.join(twice)}", ctx, param)
    return dict(pairs)


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output that exists or cannot be written, before any work is done.

    Raises:
        OutputError: it exists and `force` is not given, is a folder, or its folder is missing or
            may not be written.
    """
    import os

    where = f"-o {out}"
    folder = out.parent
    if out.is_dir():
        raise OutputError("the output is a folder", where=where, remedy="name a file")
    if (out.exists() or out.is_symlink()) and not force:
        raise OutputError(
            "the output exists", where=where, remedy="choose another name, or add --force"
        )
    if not folder.is_dir():
        raise OutputError(
            f"there is no folder {str(folder)!r}", where=where, remedy="make it first"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"the folder {str(folder)!r} may not be written",
            where=where,
            remedy="choose another place",
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
