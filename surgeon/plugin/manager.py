"""Loading plugins: each entry point on its own, so that a broken one is a warning, not an end.

What they offer is found by its kind and by name, ours by the same way as anyone's.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pluggy

from surgeon.errors import PluginError, SurgeonError, UnknownNameError
from surgeon.plugin import calls, hooks
from surgeon.plugin.calls import LOGGER, Loaded
from surgeon.plugin.points import Point, entry_points

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from surgeon.records import Case, Files, Known, Offer

T = TypeVar("T", bound="Case | Offer")

GROUP = "surgeon"
DISABLE = "SURGEON_DISABLE_PLUGINS"
LEAVE_OUT = f"repair it or uninstall it, or set {DISABLE}"
PREFIX = "surgeon_"
STATED = "SURGEON_API"
"""Where a plugin may state the version of the hooks that it is written for."""
DISTRIBUTION = "onnx-surgeon"
"""Our own, whose plugins `--no-plugins` keeps."""
KINDS: dict[str, tuple[str, str, str]] = {
    "Case": ("case", "surgeon_cases", "--case"),
    "Task": ("task", "surgeon_tasks", "--task"),
    "HeadKind": ("head", "surgeon_heads", "--head"),
    "Loss": ("loss", "surgeon_losses", "--loss"),
    "Adapter": ("adapter", "surgeon_adapters", "--adapter"),
    "Medium": ("medium", "surgeon_media", "data"),
    "Tracker": ("tracker", "surgeon_trackers", "--track"),
    "Exporter": ("exporter", "surgeon_exporters", "--to"),
    "Check": ("check", "surgeon_checks", "checks"),
}
"""{kind of offer in `records`: (its word, the hook that yields it, where people name it)}."""


@dataclass(frozen=True, eq=False, repr=False)
class Found(Generic[T]):
    """What a plugin offers, and where it comes from: distribution, version and entry point."""

    offer: T
    distribution: str
    version: str
    named: set[str] = field(default_factory=set)
    plugin: str = ""

    @property
    def own(self) -> bool:
        """Whether it comes with surgeon."""
        return _is_own(self.distribution)

    @property
    def said(self) -> str:
        """The offer in words, with whose it is."""
        kind = KINDS[type(self.offer).__name__][0]
        return f"the {kind} {self.offer.name!r} of distribution {self.distribution} {self.version}"

    def wrong(self, problem: str | BaseException) -> PluginError:
        """Return the error that an offer made, which names its distribution and what to do."""
        if isinstance(problem, BaseException):
            problem = f"{type(problem).__name__}: {' '.join(str(problem).split())}"
        return PluginError(
            f"{self.said}: {problem}",
            where=f"{KINDS[type(self.offer).__name__][2]} {self.offer.name}",
            remedy=f"tell its author, who runs `surgeon plugins check {self.offer.name}`; or use "
            f"another, or leave it out: {DISABLE}={self.distribution}",
        )

    def use(self) -> T:
        """Return the offer; a distribution that is not ours is named before its first use."""
        what = f"{KINDS[type(self.offer).__name__][0]} {self.offer.name}"
        _name(self.distribution, self.version, what, self.named)
        return self.offer

    def load(self, code: str = "") -> Any:
        """Import the code behind an offer, or another that it names.

        Raises:
            EnvironmentLacksError: a package that it imports is not installed.
            PluginError: there is no such code, or importing it fails.
        """
        offer = self.use()
        code = code or getattr(offer, "code", "")
        module, _, attribute = code.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except SurgeonError:
            raise
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything
            absent = error.name if isinstance(error, ModuleNotFoundError) else None
            if absent and absent.partition(".")[0] != module.partition(".")[0]:
                from surgeon.extras import lacking

                raise lacking(absent, self.said) from error
            raise PluginError(
                f"{self.said} cannot be loaded: {type(error).__name__}: {error}",
                where=code,
                remedy="tell its author; `surgeon plugins check` looks at all of them",
            ) from error


@dataclass(frozen=True, eq=False, repr=False)
class Plugins:
    """The loaded plugins: what they offer, and a warning line for each that failed."""

    manager: pluggy.PluginManager
    loaded: tuple[Loaded, ...]
    warnings: tuple[str, ...] = ()
    _offers: dict[type, dict[str, Found[Any]]] = field(default_factory=dict, repr=False)
    _clashes: dict[type, dict[str, PluginError]] = field(default_factory=dict, repr=False)
    _named: set[str] = field(default_factory=set, repr=False)

    @property
    def hook(self) -> Any:
        """The pluggy hook relay."""
        return self.manager.hook

    def offers(self, kind: type[T]) -> dict[str, Found[T]]:
        """Return {name: offer} of one kind, those of our own distribution first.

        A name that two distributions offer is ours where one of them is ours, else nobody's.
        """
        if kind not in self._offers:
            self._offers[kind], self._clashes[kind] = self._ask(kind)
            for clash in self._clashes[kind].values():
                calls.warn(f"{clash.message}: {clash.where}; {clash.remedy}")
        return self._offers[kind]

    def clashes(self, kind: type[T]) -> dict[str, PluginError]:
        """Return what is wrong with names of one kind that several distributions offer."""
        self.offers(kind)
        return self._clashes[kind]

    def offer(self, kind: type[T], name: str) -> Found[T]:
        """Return an offer by name.

        Raises:
            PluginError: two distributions offer it, neither of them ours; both are named.
            UnknownNameError: there is none; names the nearest.
        """
        found = self.offers(kind)
        if name not in found and name in self._clashes[kind]:
            raise self._clashes[kind][name]
        if name not in found:
            word, _, where = KINDS[kind.__name__]
            error = UnknownNameError(word, name, found, where=where)
            if self.warnings:  # it may be of one that was not loaded
                error.remedy = "; ".join([str(error.remedy), *self.warnings])
            raise error
        return found[name]

    def known(self, sha256: str, model: Any) -> Known | None:
        """Return what the first model zoo that knows a file says of it; see `surgeon_known`."""
        from surgeon.records import Known

        for origin, ask in self._asking("surgeon_known", sha256=sha256, model=model):
            try:
                found = ask()
                if not isinstance(found, Known | None):
                    raise TypeError(f"it returns a {type(found).__name__}, not a Known")  # noqa: TRY301
            except Exception as error:  # noqa: BLE001 - whatever a plugin does wrong, we go on
                calls.warn(_failed(origin, "surgeon_known", error))
                continue
            if found is not None:
                return found
        return None

    def open_data(self, uri: str) -> Any:
        """Return what the first plugin that knows a data URI makes of it; see `surgeon_open_data`.

        Raises:
            PluginError: one fails, or returns what is neither arrays by name nor a path.
        """
        for origin, ask in self._asking("surgeon_open_data", uri=uri):
            try:
                found = ask()
            except SurgeonError:
                raise
            except (Exception, SystemExit) as error:
                raise origin.failed(f"surgeon_open_data({uri!r})", error) from error
            if found is None:
                continue
            wrong = _no_data(found)
            if wrong is not None:
                raise origin.failed(f"surgeon_open_data({uri!r})", f"it returns {wrong}")
            _name(origin.distribution, origin.version, uri, self._named)
            return found
        return None

    def declare_operators(self, load: Callable[[str], None]) -> None:
        """Let plugins declare their operators; see `surgeon_ops`.

        Args:
            load: imports `"module:attribute"`, which declares.

        Raises:
            PluginError: one fails.
        """
        for origin, ask in self._asking("surgeon_ops"):
            reference: Any = None
            try:
                for reference in ask() or ():
                    if not isinstance(reference, str):
                        raise TypeError(f"it yields {reference!r}, not 'module:attribute'")  # noqa: TRY301
                    _name(origin.distribution, origin.version, "operators", self._named)
                    load(reference)
            except (Exception, SystemExit) as error:
                what = f"surgeon_ops ({reference})" if reference else "surgeon_ops"
                raise origin.failed(what, error) from error

    def _asking(self, hook: str, **given: Any) -> Iterator[tuple[Loaded, Callable[[], Any]]]:
        """Yield each implementation of a hook, ready to be called with what it takes."""
        for one in getattr(self.hook, hook).get_hookimpls():
            origin = self._origin(one.plugin_name)
            arguments = [given[name] for name in one.argnames]
            yield origin, functools.partial(calls.call, origin, hook, one.function, *arguments)

    def listed(self, path: Path) -> Files | None:
        """Return what the first plugin that knows a path lists; see `surgeon_list_data`.

        Raises:
            PluginError: one fails, or returns what is no `Files`.
            DataError: what lies there is of the form that a plugin knows, and something is wrong.
        """
        from surgeon.records import Files

        for origin, ask in self._asking("surgeon_list_data", path=path):
            what = f"surgeon_list_data({str(path)!r})"
            try:
                found = ask()
            except SurgeonError:
                raise
            except (Exception, SystemExit) as error:
                raise origin.failed(what, error) from error
            if isinstance(found, Files):
                _name(origin.distribution, origin.version, str(path), self._named)
                return found
            if found is not None:
                raise origin.failed(what, f"it returns a {type(found).__name__}, not Files")
        return None

    def announce(self, whose: Loaded, what: str) -> None:
        """Name a plugin that is not ours, once, before its code is used for something."""
        _name(whose.distribution, whose.version, what, self._named)

    def blamed(self, error: BaseException) -> Loaded | None:
        """Return the plugin that is not ours in whose code an error was raised, or None."""
        packages = {
            getattr(plugin, "__name__", type(plugin).__module__): self._origin(name)
            for name, plugin in self.manager.list_name_plugin()
        }
        for found in (one for offers in self._offers.values() for one in offers.values()):
            whose = Loaded(found.offer.name, found.distribution, found.version)
            packages.setdefault(getattr(found.offer, "code", "").partition(":")[0], whose)
        theirs = {
            module.partition(".")[0]: whose
            for module, whose in packages.items()
            if module and not _is_own(whose.distribution)
        }
        blamed, step = None, error.__traceback__
        while step is not None:
            module = str(step.tb_frame.f_globals.get("__name__"))
            blamed, step = theirs.get(module.partition(".")[0], blamed), step.tb_next
        return blamed

    def _origin(self, name: str) -> Loaded:
        origins = (item for item in self.loaded if item.name == name)
        return next(origins, Loaded(name, "unknown", "0"))

    def _ask(self, kind: type[T]) -> tuple[dict[str, Found[T]], dict[str, PluginError]]:
        word, hook, _ = KINDS[kind.__name__]
        every: list[Found[T]] = []
        for name, plugin in self.manager.list_name_plugin():
            implementation = getattr(plugin, hook, None)
            if implementation is not None:
                origin = self._origin(name)
                every += [
                    Found(offer, origin.distribution, origin.version, self._named, name)
                    for offer in _yielded(implementation, kind, hook, origin)
                ]
        every.sort(key=lambda one: (not one.own, getattr(one.offer, "place", 0)))
        found: dict[str, Found[T]] = {}
        clashes: dict[str, PluginError] = {}
        for one in every:
            first = found.setdefault(one.offer.name, one)
            if first is not one:
                ours = "; ours is used" if first.own else ""
                clashes[one.offer.name] = PluginError(
                    f"two plugins offer a {word} called {one.offer.name!r}{ours}",
                    where=f"distributions {first.distribution} {first.version} and "
                    f"{one.distribution} {one.version}",
                    remedy=f"uninstall one, or set {DISABLE} to the entry point of one",
                )
        nobodys = {name for name in clashes if not found[name].own}
        return {name: one for name, one in found.items() if name not in nobodys}, clashes


class Manager(pluggy.PluginManager):
    """Takes a function that is named like a hook for one, marked `@hookimpl` or not."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return how a function of a plugin implements a hook, or None where it is none."""
        found = super().parse_hookimpl_opts(plugin, name)
        spec = getattr(hooks, name, None) if name.startswith(PREFIX) else None
        function = getattr(plugin, name, None)
        if found is None and spec is not None and callable(function) and function is not spec:
            return pluggy.HookimplOpts(
                wrapper=False, hookwrapper=False, optionalhook=False, tryfirst=False,
                trylast=False, specname=None,
            )  # fmt: skip
        return found


def loaded_plugins(plugins: Plugins | None) -> Plugins:
    """Return the plugins given, or load them."""
    return load_plugins() if plugins is None else plugins


def load_plugins(
    *, enabled: bool = True, disabled: Collection[str] = (), verbs: bool = False
) -> Plugins:
    """Load every entry point of the group `surgeon`, each on its own.

    Args:
        enabled: False keeps only those of our own distribution (`--no-plugins`).
        disabled: entry points or distributions to leave out, besides those that the environment
            variable SURGEON_DISABLE_PLUGINS names.
        verbs: load only those that may add verbs, which is all that a help text asks.

    Raises:
        PluginError: some are broken, and SURGEON_STRICT_PLUGINS is set.
    """
    pm = Manager(hooks.PROJECT)
    pm.add_hookspecs(hooks)
    listed = os.environ.get(DISABLE, "").replace(" ", "").split(",")
    blocked = {plain(name) for name in (*disabled, *filter(None, listed))}
    loaded: list[Loaded] = []
    warnings: list[str] = []
    for point in _entry_points():
        distribution, version = point.distribution, point.version
        if verbs and point.lacks("surgeon_commands"):
            continue
        if blocked & {plain(point.name), plain(distribution)} or not (
            enabled or _is_own(distribution)
        ):
            continue
        # Two distributions may use one entry point name; their cases are told apart by their own.
        taken = pm.has_plugin(point.name)
        name = f"{point.name}@{distribution}" if taken else point.name
        error = _load(pm, point, name)
        loaded.append(Loaded(name, distribution, version, error))
        if error is not None:
            said = Loaded(point.name, distribution, version).said
            warnings.append(f"{said} was not loaded: {error}; {LEAVE_OUT}={distribution}")
    if warnings and calls.strict():
        raise calls.refusal(warnings)
    return Plugins(pm, tuple(loaded), tuple(warnings))


def found_once() -> Plugins:
    """Return the plugins that this process finds, loaded once for one path and one setting."""
    return _found_once(tuple(sys.path), os.environ.get(DISABLE, ""))


@functools.lru_cache(maxsize=1)
def _found_once(*_: Any) -> Plugins:
    return load_plugins()


def plain(name: str) -> str:
    """Return a name as package installers compare them: `My_Plugin` is `my-plugin`."""
    return name.lower().replace("_", "-").replace(".", "-")


def _is_own(distribution: str) -> bool:
    return plain(distribution) == DISTRIBUTION


def _yielded(
    implementation: Callable[[], Iterable[T]], kind: type[T], hook: str, origin: Loaded
) -> list[T]:
    """Return what a hook yields; one that fails is a warning that names its distribution."""
    try:
        found = list(calls.call(origin, hook, implementation))
        wrong = [item for item in found if not isinstance(item, kind)]
        if wrong:
            raise TypeError(f"it yields a {type(wrong[0]).__name__}, not a {kind.__name__}")  # noqa: TRY301
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin does wrong, we go on
        calls.warn(_failed(origin, hook, error))
        return []
    return found


def _failed(origin: Loaded, hook: str, error: BaseException) -> str:
    """Say in one line that a hook failed."""
    return f"{origin.said}: {hook} failed: {type(error).__name__}: {' '.join(str(error).split())}"


def _name(distribution: str, version: str, what: str, named: set[str]) -> None:
    """Name a distribution that is not ours, once, before its first use."""
    if distribution not in named and not _is_own(distribution):
        import logging

        named.add(distribution)
        logging.getLogger(LOGGER).info("plugin: %s %s (%s)", distribution, version, what)


def _no_data(found: Any) -> str | None:
    """Say what is wrong with what a plugin opened data as, or None."""
    if isinstance(found, str | os.PathLike):
        return None
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}, neither arrays by name nor a path"
    wrong = [key for key, one in found.items() if not hasattr(one, "dtype") and key != "labels"]
    return f"{wrong[0]!r} as a {type(found[wrong[0]]).__name__}, not an array" if wrong else None


def _entry_points() -> list[Point]:
    """Return the entry points, those of our own distribution first, each once."""
    unique = dict.fromkeys(entry_points(GROUP))
    return sorted(unique, key=lambda point: (not _is_own(point.distribution), point.name))


def _load(pm: pluggy.PluginManager, point: Point, name: str) -> str | None:
    """Register one entry point under a name that is free; return why it failed, or None."""
    try:
        plugin = point.load()
        _check_api(getattr(plugin, STATED, None))
        try:
            pm.register(plugin, name=name)
            pm.check_pending()
            _check_names(plugin)
        except Exception:
            if pm.has_plugin(name):
                pm.unregister(name=name)
            raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin does, we go on
        return _reason(error, point)
    return None


def _reason(error: BaseException, point: Point) -> str:
    """Say why a plugin was not loaded: one that is too new for us may fail before it can say so."""
    try:
        _check_api(point.stated(STATED))
    except PluginError as newer:
        error = newer
    words = " ".join(str(error).split())
    return words if isinstance(error, PluginError) else f"{type(error).__name__}: {words[:300]}"


def _check_api(stated: Any) -> None:
    """Refuse a plugin that is written for another version of the hooks; None = it does not say."""
    if stated is None:
        return
    if isinstance(stated, bool) or not isinstance(stated, int):
        raise TypeError(f"{STATED} is {stated!r}, not a whole number")
    if stated > hooks.API:
        raise PluginError(
            f"it needs version {stated} of the plugin API and this surgeon has {hooks.API}; "
            "upgrade onnx-surgeon or install an earlier version of it"
        )
    if stated < hooks.OLDEST:
        raise PluginError(
            f"it is written for version {stated} of the plugin API, and this surgeon takes "
            f"{hooks.OLDEST} to {hooks.API}: install a later version of it"
        )


def _check_names(plugin: Any) -> None:
    """Refuse a hook that does not exist: pluggy only sees the ones marked as hooks."""
    known = [name for name in dir(hooks) if name.startswith(PREFIX)]
    for name in dir(plugin):
        if name.startswith(PREFIX) and callable(getattr(plugin, name)) and name not in known:
            raise UnknownNameError("hook", name, known)
