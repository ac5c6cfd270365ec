"""One run of the command line: what was asked about output, what was warned of, what came out.

A verb returns an `Answer`; `entry.main` writes it. Only the answer ever reaches stdout.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from surgeon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from surgeon.cli.screen import Screen
    from surgeon.errors import SurgeonError
    from surgeon.plugin.manager import Plugins

SCHEMA = 1

LOGGER = "surgeon"
"""The root of what our rooms log, and plugins that want it said."""
OF_PLUGINS, TRACE = "surgeon.plugin", "SURGEON_TRACE_PLUGINS"
"""What plugins are told by, and how every call of a hook is wanted: see `surgeon.plugin.calls`."""
TRACED = 2
"""How often `-v` is given to be told of every call of a hook."""

# Said to developers of other libraries, not to whoever runs a command.
NOISE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning)


# Comparing and showing these is never wanted, and each method of a dataclass is compiled at start.
@dataclass(frozen=True, eq=False, repr=False)
class Answer:
    """What a verb found: the body of its document, how it looks to people, and the exit code."""

    body: Mapping[str, Any]
    show: Callable[[Screen, Mapping[str, Any]], None]
    exit: int = 0


@dataclass(eq=False, repr=False)
class Session:
    """The options every verb shares, and the warnings gathered so far.

    `json`, `traceback` and `plugins_enabled` are read from the raw arguments, because they must
    hold even where the arguments cannot be parsed or the parser stops early (`--help`).
    """

    json: bool = False
    traceback: bool = False
    plugins_enabled: bool = True
    quiet: bool = False
    verbose: int = 0
    verb: str | None = None
    warnings: list[str] = field(default_factory=list)
    _plugins: Plugins | None = None

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Session:
        """Read the options that hold wherever they stand, up to `--`."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        given = set(arguments[:end])
        return cls(
            json="--json" in given,
            traceback="--traceback" in given,
            plugins_enabled="--no-plugins" not in given,
        )

    @property
    def plugins(self) -> Plugins:
        """The plugins, loaded on first use; a broken one becomes one warning line."""
        if self._plugins is None:
            from surgeon.plugin.manager import load_plugins

            self._plugins = load_plugins(enabled=self.plugins_enabled)
            for line in self._plugins.warnings:
                self.warn(line)
        return self._plugins

    @property
    def verb_plugins(self) -> Plugins:
        """Those that may add verbs: what a help text needs, and no more."""
        if self._plugins is not None:
            return self._plugins
        from surgeon.plugin.manager import load_plugins

        found = load_plugins(enabled=self.plugins_enabled, verbs=True)
        for line in found.warnings:
            self.warn(line)
        return found

    def blamed(self, error: BaseException) -> str | None:
        """Return the plugin in whose code an error was raised, in words, or None."""
        whose = None if self._plugins is None else self._plugins.blamed(error)
        return None if whose is None else whose.said

    def note(self, text: str) -> None:
        """Tell people something on stderr; `-q` silences it."""
        if not self.quiet:
            say(text)

    def warn(self, text: str) -> None:
        """Keep a warning for the document and say it once, on one line of stderr."""
        line = " ".join(text.split())
        if line not in self.warnings:
            self.warnings.append(line)
            self.note(f"warning: {line}")

    def fault(self, text: str) -> None:
        """Warn of what is wrong with a plugin; an error where people want that strict.

        Raises:
            PluginError: SURGEON_STRICT_PLUGINS is set.
        """
        from surgeon.plugin.calls import refusal, strict

        if strict():
            raise refusal([text])
        self.warn(text)

    @contextlib.contextmanager
    def gathering_warnings(self) -> Iterator[None]:
        """Turn Python's warnings into warnings of the document.

        Filters given by `-W` or PYTHONWARNINGS stand.
        """
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("default")
                for category in NOISE:
                    warnings.simplefilter("ignore", category)
            warnings.showwarning = lambda message, *_, **__: self.warn(str(message))
            yield

    @contextlib.contextmanager
    def hearing(self) -> Iterator[None]:
        """Tell what our rooms log: warnings as those of the document, less is said in passing."""
        import logging

        class ToSession(logging.Handler):
            def emit(_, record: logging.LogRecord) -> None:  # noqa: N805 - `self` is the session
                if record.levelno >= logging.WARNING:
                    self.warn(record.getMessage())
                elif record.levelno < logging.INFO:
                    if self.verbose >= TRACED or os.environ.get(TRACE, "0") not in ("", "0"):
                        say(record.getMessage())
                elif not (self.json and record.name == OF_PLUGINS):
                    self.note(record.getMessage())

        handler, logger = ToSession(logging.DEBUG), logging.getLogger(LOGGER)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    def document(self, body: Mapping[str, Any]) -> str:
        """Write a body as the JSON document of this verb, on one line."""
        import json

        from surgeon.records import as_json

        frame = {"schema": SCHEMA, "verb": self.verb, "surgeon": __version__}
        # The body wins: in that of `inspect`, `surgeon` is what surgeon left in the file.
        whole = {**frame, **body, "warnings": self.warnings}
        text = json.dumps(as_json(whole), default=_as_plain, allow_nan=False)
        return re.sub(_HALVES, _escape, text)

    def failure(self, error: SurgeonError) -> str:
        """Write an error as the failure document."""
        return self.document({"error": error.as_dict()})


_HALVES = r"\\\\|\\ud[89ab]..\\ud[c-f]..|\\u(d[89a-f]..)"
"""What JSON escapes: a backslash, a character in two halves, and a half alone, which strict readers
of JSON refuse: it stands for a byte of a file name that is no UTF-8."""


def _escape(found: re.Match[str]) -> str:
    half = found[1]
    if half is None:
        return found[0]
    return f"\\\\x{half[2:]}" if half >= "dc80" else f"\\\\u{half}"


def say(text: str) -> None:
    """Write a line on stderr; a reader that went away must not end the work."""
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def write_out(text: str) -> None:
    """Write the answer on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def reserved_stdout() -> Iterator[None]:
    """Keep stdout free for the answer: what libraries and child processes print goes to stderr.

    The file descriptor is turned as well, because native libraries do not know `sys.stdout`.
    """
    descriptor = _descriptor(sys.stdout)
    error = _descriptor(sys.stderr)
    with contextlib.ExitStack() as undo:
        undo.enter_context(contextlib.redirect_stdout(sys.stderr))
        if descriptor is not None and error is not None and descriptor != error:
            saved = os.dup(descriptor)
            undo.callback(os.close, saved)
            undo.callback(os.dup2, saved, descriptor)
            os.dup2(error, descriptor)
        yield


def _descriptor(stream: TextIO) -> int | None:
    try:
        stream.flush()
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # replaced by a buffer, or closed
        return None


def _as_plain(value: Any) -> Any:
    """Turn what json does not know into plain values: arrays and numbers of numpy, paths."""
    from surgeon.records import as_json

    return as_json(value.tolist()) if hasattr(value, "tolist") else str(value)
