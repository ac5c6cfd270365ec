"""Kinds of option values: what is accepted is checked before any work begins."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.errors import OutputError

if TYPE_CHECKING:
    import os

    _Kind = click.ParamType[Any]
else:
    _Kind = click.ParamType  # older clicks do not take a type argument here

_SIZE = re.compile(r"(\d+)[xX×](\d+)")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Cut(_Kind):
    """An exact tensor name, or `@x` with x from 0 to 1."""

    name = "cut"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse a depth outside 0..1; whether a name exists is known only with the model."""
        if value.startswith("@"):
            depth = _number(value[1:])
            if depth is not None and not 0 <= depth <= 1:
                self.fail(f"{value!r}: a depth lies between @0 and @1", param, ctx)
        if not value:
            self.fail("empty: a tensor name or a depth such as @0.5 is needed", param, ctx)
        return value


class Size(_Kind):
    """HxW in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (height, width)."""
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.fail(f"{value!r}: height and width in pixels are needed, as in 96x96", param, ctx)
        height, width = int(match[1]), int(match[2])
        if height == 0 or width == 0:
            self.fail(f"{value!r}: height and width are at least 1 pixel", param, ctx)
        return height, width


class Audio(_Kind):
    """RATE,SECONDS: a whole number of Hz, and a length."""

    name = "RATE,SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (rate, seconds)."""
        if isinstance(value, tuple):
            return value
        rate, comma, text = str(value).partition(",")
        seconds = _number(text)
        good = comma and rate.strip().isdecimal() and int(rate) > 0
        if not good or seconds is None or not math.isfinite(seconds) or seconds <= 0:
            self.fail(f"{value!r}: Hz and seconds are needed, as in 16000,1.5", param, ctx)
        return int(rate), seconds


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
            self.fail(f"{value!r} is not a number above 0", param, ctx)
        return number


class Device(_Kind):
    """auto, cpu, cuda or cuda:n; whether the device is there is seen when it is used."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as given."""
        if not _DEVICE.fullmatch(value):
            self.fail(f"{value!r} is not one of auto, cpu, cuda, cuda:0 …", param, ctx)
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
            if not Path(value).exists():
                self.fail(f"{value!r} is neither a fraction nor a path that exists", param, ctx)
            return Path(value)
        if not 0 < fraction < 1:
            self.fail(f"{value!r}: a fraction lies between 0 and 1, both excluded", param, ctx)
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
            constant = json.loads(text)
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
        if path.is_dir():
            self.fail(f"{str(path)!r} is a folder: an ONNX file is needed", param, ctx)
        if not path.exists():
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
