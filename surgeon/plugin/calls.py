"""Calls of hooks: timed and told where that is asked for, and whose fault a failure is.

What must not enter: which hooks there are.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from surgeon.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STRICT = "SURGEON_STRICT_PLUGINS"
"""Set, and not to 0, what is wrong with a plugin is an error, not a warning."""
TRACE = "SURGEON_TRACE_PLUGINS"
"""Set, and not to 0, every call of a hook is told on stderr."""
LOGGER = "surgeon.plugin"
TOLD = 6
"""Names of what a hook gave that a line of the trace has room for."""


@dataclass(frozen=True)
class Loaded:
    """One plugin: entry point, distribution, version, and why it failed (None = it did not)."""

    name: str
    distribution: str
    version: str
    error: str | None = None

    @property
    def said(self) -> str:
        """The plugin in words."""
        return f"plugin {self.name!r} of distribution {self.distribution} {self.version}"

    def failed(self, what: str, error: BaseException | str) -> PluginError:
        """Return the error that a plugin made, which names its distribution and what to do."""
        if isinstance(error, BaseException):
            error = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return PluginError(
            f"{what} failed: {error}",
            where=self.said,
            remedy=f"tell its author, or leave it out: SURGEON_DISABLE_PLUGINS={self.distribution}",
        )


def call(whose: Loaded, hook: str, function: Callable[..., Any], *given: Any) -> Any:
    """Call an implementation of a hook and return what it gives; what it yields is gathered."""
    started, told = time.perf_counter(), ""
    try:
        found = function(*given)
        if isinstance(found, GeneratorType):
            found = list(found)
        told = _shown(found)
    except BaseException as error:
        told = f"raised {type(error).__name__}"
        raise
    else:
        return found
    finally:
        trace(f"{hook} of {whose.distribution} {whose.version}", started, told)


def trace(what: str, started: float, told: str) -> None:
    """Tell of a call that began at a time of `time.perf_counter`, where somebody wants it told."""
    line = f"trace: {what}: {told} in {1e3 * (time.perf_counter() - started):.2f} ms"
    logging = sys.modules.get("logging")  # where nobody has it, nobody listens
    heard = logging is not None and logging.getLogger(LOGGER).hasHandlers()
    if heard and logging is not None:
        logging.getLogger(LOGGER).debug("%s", line)
    elif traced():
        sys.stderr.write(line + "\n")


def warn(line: str) -> None:
    """Say what is wrong with a plugin.

    Raises:
        PluginError: where SURGEON_STRICT_PLUGINS is set.
    """
    if strict():
        raise refusal([line])
    import logging

    logging.getLogger(LOGGER).warning("%s", line)


def refusal(lines: list[str]) -> PluginError:
    """Return what is an error because SURGEON_STRICT_PLUGINS is set: all lines at once."""
    return PluginError(
        "; ".join(lines), where=STRICT, remedy=f"repair it or uninstall it, or unset {STRICT}"
    )


def strict() -> bool:
    """Say whether warnings about plugins are errors."""
    return _is_set(STRICT)


def traced() -> bool:
    """Say whether calls of hooks are told."""
    return _is_set(TRACE)


def _is_set(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


def _shown(found: Any) -> str:
    """Return what a hook gave, short."""
    if found is None:
        return "nothing"
    if isinstance(found, list | tuple):
        names = [str(getattr(one, "name", one)) for one in found[:TOLD]]
        more = f" and {len(found) - TOLD} more" if len(found) > TOLD else ""
        return ", ".join(names) + more or "nothing"
    keys: Mapping[Any, Any] = found if isinstance(found, dict) else {}
    return type(found).__name__ + (f" of {', '.join(map(str, keys))}" if keys else "")
