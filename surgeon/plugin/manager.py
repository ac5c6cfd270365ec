"""Loading plugins: each entry point on its own, so that a broken one is a warning, not an end."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

import pluggy

from surgeon.errors import UnknownNameError, UsageError
from surgeon.plugin import hooks
from surgeon.records import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

GROUP = "surgeon"
DISABLE = "SURGEON_DISABLE_PLUGINS"
OWN = frozenset({"small-similar", "small-different", "large-similar", "large-different"})
"""Entry points of our own distribution; `--no-plugins` keeps them."""


@dataclass(frozen=True)
class Loaded:
    """One plugin: entry point, distribution, version, and why it failed (None = it did not)."""

    name: str
    distribution: str
    version: str
    error: str | None = None


@dataclass(frozen=True)
class FoundCase:
    """A case and where it comes from."""

    case: Case
    distribution: str
    version: str


@dataclass(frozen=True)
class Plugins:
    """The loaded plugins: what they offer, and a warning line for each that failed."""

    manager: pluggy.PluginManager
    loaded: tuple[Loaded, ...]
    warnings: tuple[str, ...] = ()
    _origins: dict[str, Loaded] = field(default_factory=dict)

    @property
    def hook(self) -> Any:
        """The pluggy hook relay."""
        return self.manager.hook

    def cases(self) -> dict[str, FoundCase]:
        """Return {name: case}, our four first.

        Raises:
            UsageError: two distributions offer a case of the same name; both are named.
        """
        found: dict[str, FoundCase] = {}
        for plugin, name in self._plugins():
            implementation = getattr(plugin, "surgeon_cases", None)
            if implementation is None:
                continue
            origin = self._origins[name]
            for case in _yielded(implementation, origin):
                if case.name in found:
                    other = found[case.name].distribution
                    raise UsageError(
                        f"two plugins offer a case called {case.name!r}",
                        where=f"distributions {other} and {origin.distribution}",
                        remedy=f"uninstall one, or set {DISABLE} to the entry point of one",
                    )
                found[case.name] = FoundCase(case, origin.distribution, origin.version)
        return found

    def case(self, name: str) -> Case:
        """Return a case by name.

        Raises:
            UnknownNameError: there is none; names the nearest.
        """
        cases = self.cases()
        if name not in cases:
            raise UnknownNameError("case", name, cases, where="--case")
        return cases[name].case

    def _plugins(self) -> list[tuple[Any, str]]:
        return [
            (self.manager.get_plugin(item.name), item.name)
            for item in self.loaded
            if item.error is None
        ]


def load_plugins(*, enabled: bool = True, disabled: Collection[str] = ()) -> Plugins:
    """Load every entry point of the group `surgeon`, each on its own.

    Args:
        enabled: False keeps only our own four cases (`--no-plugins`).
        disabled: entry points or distributions to leave out, besides those that the environment
            variable SURGEON_DISABLE_PLUGINS names.
    """
    pm = pluggy.PluginManager(hooks.PROJECT)
    pm.add_hookspecs(hooks)
    listed = os.environ.get(DISABLE, "").replace(" ", "").split(",")
    blocked = {_plain(name) for name in (*disabled, *filter(None, listed))}
    loaded: list[Loaded] = []
    warnings: list[str] = []
    for point in _entry_points():
        distribution, version = _distribution(point)
        if blocked & {_plain(point.name), _plain(distribution)} or not (enabled or _is_own(point)):
            continue
        # Two distributions may use one entry point name; their cases are told apart by their own.
        taken = pm.has_plugin(point.name)
        name = f"{point.name}@{distribution}" if taken else point.name
        error = _load(pm, point, name)
        loaded.append(Loaded(name, distribution, version, error))
        if error is not None:
            warnings.append(
                f"plugin {point.name!r} of distribution {distribution} {version} was not loaded: "
                f"{error}"
            )
    origins = {item.name: item for item in loaded if item.error is None}
    return Plugins(pm, tuple(loaded), tuple(warnings), origins)


def _plain(name: str) -> str:
    """Return a name as package installers compare them: `My_Plugin` is `my-plugin`."""
    return name.lower().replace("_", "-").replace(".", "-")


def _is_own(point: EntryPoint) -> bool:
    return _plain(_distribution(point)[0]) == "onnx-surgeon" and point.name in OWN


def _yielded(implementation: Callable[[], Iterable[Case]], origin: Loaded) -> list[Case]:
    """Return what a hook yields; one that fails is a warning that names its distribution."""
    try:
        found = list(implementation())
        wrong = [item for item in found if not isinstance(item, Case)]
        if wrong:
            raise TypeError(f"it yields a {type(wrong[0]).__name__}, not a Case")  # noqa: TRY301
    except Exception as error:  # noqa: BLE001 - whatever a plugin does wrong, we go on
        logging.getLogger("surgeon.plugin").warning(
            "plugin %r of distribution %s %s: surgeon_cases failed: %s: %s",
            origin.name,
            origin.distribution,
            origin.version,
            type(error).__name__,
            error,
        )
        return []
    return found


def _entry_points() -> list[EntryPoint]:
    """Return the entry points, our own first in the order of the four cases."""
    order = ["small-similar", "small-different", "large-similar", "large-different"]
    unique = {
        (point.name, point.value, _distribution(point)[0]): point
        for point in entry_points(group=GROUP)
    }
    return sorted(
        unique.values(),
        key=lambda point: (order.index(point.name) if _is_own(point) else 4, point.name),
    )


def _distribution(point: EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return "unknown", "0"
    return point.dist.name, point.dist.version


def _load(pm: pluggy.PluginManager, point: EntryPoint, name: str) -> str | None:
    """Register one entry point under a name that is free; return why it failed, or None."""
    try:
        plugin = point.load()
        try:
            pm.register(plugin, name=name)
            pm.check_pending()
            _check_names(plugin)
        except Exception:
            if pm.has_plugin(name):
                pm.unregister(name=name)
            raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin does, we go on
        words = " ".join(str(error).split())
        return f"{type(error).__name__}: {words[:300]}"
    return None


def _check_names(plugin: Any) -> None:
    """Refuse a hook that does not exist: pluggy only sees the ones marked as hooks."""
    known = [name for name in dir(hooks) if name.startswith("surgeon_")]
    for name in dir(plugin):
        if name.startswith("surgeon_") and callable(getattr(plugin, name)) and name not in known:
            raise UnknownNameError("hook", name, known)
