"""Who hears what a run tells: the caller's progress, and the trackers that were asked for.

A tracker is a stranger's: whatever it raises is one warning, and it hears nothing more. What must
not enter: names of trackers, and anything that changes the run.
"""

from __future__ import annotations

import logging
import platform
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError
from surgeon.events import Failed, Finished, Progressed, Started
from surgeon.options import options_of
from surgeon.plugin.manager import loaded_plugins
from surgeon.plugin.settings import parse, typed
from surgeon.records import Tracker
from surgeon.version import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from surgeon.events import Event
    from surgeon.options import Options
    from surgeon.plugin.manager import Found, Plugins

LIBRARIES = ("onnx", "onnxruntime-gpu", "onnxruntime", "torch", "numpy")
LONGEST = 300
"""Characters of an option's value that are told."""


@dataclass
class _Tracked:
    """One tracker: where it comes from, what hears, and why it no longer does."""

    found: Found[Tracker]
    settings: Mapping[str, Any]
    tracker: Any = None
    where: str | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return its object of the document."""
        return {"name": self.found.offer.name, "where": self.where, "error": self.error}


class Telling:
    """Tells everybody who listens what a run does; the rooms call it as their `progress`."""

    def __init__(self, to: Options, progress: Callable[..., None] | None) -> None:
        """Take the options of the run and the caller's progress."""
        self._options, self._progress = _options(to), progress
        self._trackers: list[_Tracked] = []
        self._begun = False
        self._notes: list[str] = []

    def __call__(self, stage: str, done: float, total: float | None = None, **figures: Any) -> None:
        """Tell how far it is; figures are fields of `Progressed`."""
        event = Progressed(stage, done, total, **figures)
        if self._progress is not None:
            self._progress(event.stage, event.done, event.total, **event.shown)
        if self._begun:
            self._tell(event)

    def started(self, model: str | None, sha256: str, body: Mapping[str, Any], data: str) -> None:
        """Tell that training begins, after which trackers are told everything."""
        # The body is that of the document as far as it is known then.
        data_of = body["data"]
        self._begun = True
        self._tell(
            Started(
                model, sha256, data, data_of["sha256"], body["out"], body["plan"], self._options,
                tuple(body["labels"]), {p: data_of[p] for p in ("train", "validation", "test")},
                body["device"], _versions(),
            )
        )  # fmt: skip

    def finished(self, body: dict[str, Any]) -> None:
        """Tell that it is done, close the trackers, and write into the document where they wrote.

        Args:
            body: of the document; `tracked` and warnings are added.
        """
        if self._begun:
            self._tell(Finished(dict(body)))
        self._close()
        body["tracked"] = [one.as_dict() for one in self._trackers]
        body["warnings"] = list(dict.fromkeys([*body["warnings"], *self._notes]))

    def failed(self, error: BaseException) -> None:
        """Tell that nothing came of it, and close the trackers."""
        if self._begun:
            kind = error.kind if isinstance(error, SurgeonError) else type(error).__name__
            kind = "interrupt" if isinstance(error, KeyboardInterrupt) else kind
            self._tell(Failed(kind, str(error), error))
        self._close()

    def open(self, one: _Tracked) -> None:
        """Make a tracker, which hears what is told from now on.

        Raises:
            SurgeonError: what it was asked for cannot be meant, or is missing here.
        """
        self._trackers.append(one)
        try:
            one.tracker = one.found.load()(**one.settings)
        except SurgeonError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin does, we go on
            self._note(one, error)

    def _tell(self, event: Event) -> None:
        for one in self._trackers:
            self._guarded(one, lambda one=one: one.tracker(event))  # type: ignore[misc] # bound now

    def _close(self) -> None:
        for one in self._trackers:
            close = getattr(one.tracker, "close", None)
            if close is not None:
                self._guarded(one, close, again=True)
            one.tracker = None

    def _guarded(self, one: _Tracked, call: Callable[[], Any], *, again: bool = False) -> None:
        """Call a tracker; one that fails is told of once and hears nothing more.

        Args:
            one: the tracker.
            call: what it does.
            again: whether one that failed before is called, too: it may hold files.
        """
        if one.tracker is None or (one.error is not None and not again):
            return
        try:
            call()
            where = getattr(one.tracker, "where", None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin does, we go on
            if one.error is None:
                self._note(one, error)
        else:
            one.where = one.where if where is None else str(where)

    def _note(self, one: _Tracked, error: BaseException) -> None:
        words = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
        one.error = words
        note = (
            f"the tracker {one.found.offer.name!r} of distribution {one.found.distribution} "
            f"{one.found.version} failed and is told nothing more: {words}"
        )
        self._notes.append(note)
        logging.getLogger("surgeon.tracking").warning("%s", note)


@contextmanager
def telling(
    to: Options, progress: Callable[..., None] | None, plugins: Plugins | None
) -> Iterator[Telling]:
    """Open what a run is told to; close it however the run ends.

    Args:
        to: the options; `track` names the trackers. A dry run tells them nothing.
        progress: called as `progress(stage, done, total, **figures)`.
        plugins: loaded plugins; None loads them.

    Raises:
        UsageError: there is no such tracker or setting.
        EnvironmentLacksError: a package that a tracker needs is not installed.
    """
    told = Telling(to, progress)
    asked = [_asked(text, plugins) for text in to.delivery.track]
    try:
        for one in () if to.delivery.dry_run else asked:
            told.open(one)
        yield told
    except BaseException as error:
        told.failed(error)
        raise


def _asked(text: str, plugins: Plugins | None) -> _Tracked:
    """Return a tracker that was asked for, not opened yet."""
    name, given = parse(text, "--track")
    found = loaded_plugins(plugins).offer(Tracker, name)
    return _Tracked(found, typed(found.load(), given, f"--track {name}"))


def _options(to: Options) -> dict[str, Any]:
    """Return every option of `finetune` as a plain value."""
    groups = (to.surgery, to.training, to.place, to.reading, to.delivery)
    known = {name: value for group in groups for name, value in vars(group).items()}
    return {one.name: _plain(known[one.name]) for one in options_of("finetune")}


def asked_of_run(model: str | None, data: Any, to: Options) -> dict[str, Any]:
    """Return the `asked` object of the document: what makes the run again, and with what.

    Args:
        model: where it lies; None for one that is no file.
        data: as it was given.
        to: the options; those that were left as they are by themselves are not named.
    """
    groups = (to.surgery, to.training, to.place, to.reading, to.delivery)
    given = {name: value for group in groups for name, value in vars(group).items()}
    options = {
        one.name: _numbers(given[one.name])
        for one in options_of("finetune")
        if given[one.name] != one.default and (given[one.name] or one.default)
    }
    return {
        "model": model,
        "data": data_in_words(data),
        "options": options,
        "versions": _versions(),
    }


def _numbers(value: Any) -> Any:
    """Return an option's value as a document has it: several numbers, or named ones, as such."""
    if isinstance(value, dict):
        return {str(name): _numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _plain(value)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return list(value)
    text = str(value) if isinstance(value, str) or hasattr(value, "__fspath__") else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def data_in_words(data: str | os.PathLike[str] | Any) -> str:
    """Return what was given as data, in words: a place, or what kind of object it was."""
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return str(data)
    return f"arrays {', '.join(map(str, data))}" if isinstance(data, dict) else type(data).__name__


def _versions() -> dict[str, str | None]:
    """Return the versions of what computes."""
    found: dict[str, str | None] = {"python": platform.python_version(), "surgeon": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
