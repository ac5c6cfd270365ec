"""Exporters of plugins: they write files in forms of their own, which nobody here can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import PluginError, SurgeonError
from surgeon.graph import external
from surgeon.plugin.manager import loaded_plugins
from surgeon.plugin.settings import parse, typed
from surgeon.records import Exporter

if TYPE_CHECKING:
    import onnx

    from surgeon.plugin.manager import Found, Plugins


def exporter(text: str, plugins: Plugins | None) -> tuple[Found[Exporter], Any, dict[str, Any]]:
    """Return an exporter, its code and its settings, before anything is computed."""
    name, given = parse(text, "--to")
    found = loaded_plugins(plugins).offer(Exporter, name)
    code = found.load()
    return found, code, typed(code, given, f"--to {name}")


def written(
    by: tuple[Found[Exporter], Any, dict[str, Any]], made: onnx.ModelProto, out: Path
) -> list[Path]:
    """Let an exporter write, and return its files.

    Raises:
        PluginError: it fails, or does not say which files it wrote.
    """
    found, code, settings = by
    said = f"the exporter {found.offer.name!r} of distribution {found.distribution} {found.version}"
    remedy = "tell its author; `surgeon plugins check` looks at all of them"
    try:
        told = code(external.loaded(made), out, **settings)
    except SurgeonError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        words = f"{type(error).__name__}: {error}"
        raise PluginError(
            f"{said} failed: {words}", where=found.offer.code, remedy=remedy
        ) from error
    if not (isinstance(told, list) and told and all(isinstance(one, Path) for one in told)):
        raise PluginError(
            f"{said} returns {told!r}, not the list of the files it wrote",
            where=found.offer.code, remedy=remedy,
        )  # fmt: skip
    missing = [str(one) for one in told if not one.exists()]
    if missing:
        raise PluginError(
            f"{said} says that it wrote {', '.join(missing)}, which is not there",
            where=found.offer.code, remedy=remedy,
        )  # fmt: skip
    return told
