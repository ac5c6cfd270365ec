"""The tree of verbs: names and help are known at once, a verb's module is loaded when it runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.session import Session, reserved_stdout
from surgeon.errors import PluginError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from surgeon.plugin.calls import Loaded


def _raise_count(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        session = ctx.find_object(Session)
        if session is not None:
            setattr(session, name, getattr(session, name) or value)

    return store


def common_options() -> list[click.Parameter]:
    """Return the options that every verb takes, and that may also stand in front of the verb."""

    def flag(name: str, text: str) -> click.Option:
        # Read from the raw arguments by `Session.from_arguments`; declared for parsing and help.
        return click.Option([name], is_flag=True, expose_value=False, help=text)

    return [
        flag("--json", "The JSON document alone on stdout."),
        flag("--traceback", "Show where an error came from."),
        flag("--no-plugins", "Load no plugins."),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_raise_count("quiet"),
            help="No progress, notes or warnings on stderr.",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_raise_count("verbose"),
            help="Show more.",
        ),
    ]


def _note_verb(ctx: click.Context) -> None:
    session = ctx.find_object(Session)
    if session is not None and ctx.parent is not None:
        session.verb = ctx.command_path.split()[1]


class Verb(click.Command):
    """A command that takes the common options and leaves stdout to its answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after noting whose arguments they are: a usage error names the verb."""
        _note_verb(ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb and return its `Answer`."""
        with reserved_stdout():
            return super().invoke(ctx)


class VerbGroup(click.Group):
    """A group whose unknown commands are answered with the nearest names."""

    command_class = Verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after noting the verb, if this is a verb with commands of its own."""
        _note_verb(ctx)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or raise `UnknownNameError`."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            what = "verb" if ctx.parent is None else f"{ctx.info_name} command"
            error = UnknownNameError(
                what, name, self.list_commands(ctx), where=f"`{ctx.command_path}`"
            )
            if ctx.parent is None:
                from surgeon.cli.suggest import verb_meant

                meant = verb_meant(name)
                error.remedy = f"did you mean {meant}?" if meant else error.remedy
            raise error
        session = ctx.find_object(Session)
        if session is not None and ctx.parent is None and not name.startswith("-"):
            session.verb = name  # a plugin's command may be no `Verb` that notes itself
        return super().resolve_command(ctx, args)


class SurgeonGroup(VerbGroup):
    """The top of the tree: verbs of our own, loaded on use, and those of plugins."""

    def __init__(self, verbs: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._lazy = dict(verbs)
        self._own = frozenset(verbs)
        self._plugins_asked = False
        self._adding: Origin | None = None
        self._origins: dict[str, Origin] = {}
        self.params.extend(common_options())

    def add(self, name: str, target: str, summary: str = "") -> None:
        """Add a verb by `module:attribute`, imported when it runs: for `surgeon_commands`."""
        if not (isinstance(target, str) and target.partition(":")[2]):
            raise TypeError(f"{target!r} is not of the form 'module:command'")
        if self._is_free(name):
            self._lazy[name] = (target, str(summary or ""))

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a verb that is loaded already."""
        _check_command(cmd)
        if self._is_free(name or cmd.name or ""):
            super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return our verbs in the order of a working day, then those of plugins by name."""
        self._ask_plugins(ctx)
        added = (set(self._lazy) - self._own) | set(self.commands)
        return [*(name for name in self._lazy if name in self._own), *sorted(added - self._own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb; plugins are asked only for a name that is not ours.

        Raises:
            PluginError: what a plugin offers is no command, or cannot be imported.
        """
        if cmd_name not in self._own:
            self._ask_plugins(ctx)
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        if cmd_name in self._own:
            return _load(self._lazy[cmd_name][0])
        try:
            command = _load(self._lazy[cmd_name][0])
            _check_command(command)
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything
            origin = self._origins[cmd_name]
            problem = f"{type(error).__name__}: {error}"
            session = ctx.find_object(Session)
            if session is not None:
                session.verb = session.verb or cmd_name
            raise PluginError(
                f"the verb {cmd_name!r} cannot be loaded: {problem}",
                where=origin.said,
                remedy="tell its author; `surgeon plugins check` looks at all of them",
            ) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a plugin's is named before it runs."""
        found = super().resolve_command(ctx, args)
        origin = self._origins.get(found[0] or "")
        if origin is not None:
            origin.session.verb_plugins.announce(origin.plugin, f"verb {found[0]}")
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb, and tell what it logs."""
        with ctx.ensure_object(Session).hearing():
            return super().invoke(ctx)

    def origin(self, name: str) -> Origin | None:
        """Return the plugin that a verb comes from; None for our own."""
        return self._origins.get(name)

    def broken(self, ctx: click.Context) -> dict[str, str]:
        """Load every verb of plugins; return {plugin: what is wrong with its first broken one}."""
        problems: dict[str, str] = {}
        for name in self.list_commands(ctx):
            if name not in self._own:
                try:
                    self.get_command(ctx, name)
                except PluginError as error:
                    problems.setdefault(self._origins[name].plugin.name, error.message)
        return problems

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without loading one."""
        names = self.list_commands(ctx)
        own = [(name, self._lazy[name][1]) for name in names if name in self._own]
        with formatter.section("Verbs"):
            formatter.write_dl(own)
        others = [(name, self._summary(name)) for name in names if name not in self._own]
        if others:
            with formatter.section("Verbs of plugins"):
                formatter.write_dl(others)

    def _summary(self, name: str) -> str:
        if name in self._lazy:
            return self._lazy[name][1]
        return self.commands[name].get_short_help_str(limit=80)

    def _is_free(self, name: str) -> bool:
        """Whether a plugin may have a name; one that is taken is a warning, the rest goes on."""
        if not isinstance(name, str) or not name:
            raise TypeError(f"{name!r} is no name of a verb")
        if name in self._lazy or name in self.commands:
            message = f"there is a verb {name!r} already"
            if self._adding is None:
                raise UsageError(message)
            self._adding.session.fault(f"{self._adding.said}: {message}")
            return False
        if self._adding is not None:
            self._origins[name] = self._adding
        return True

    def _ask_plugins(self, ctx: click.Context) -> None:
        """Let each plugin add its verbs, on its own: one that fails is one warning line."""
        session = ctx.find_object(Session)
        if self._plugins_asked or session is None:
            return
        self._plugins_asked = True
        from surgeon.plugin.calls import Loaded, call, strict

        plugins = session.verb_plugins
        origins = {plugin.name: plugin for plugin in plugins.loaded}
        for implementation in plugins.hook.surgeon_commands.get_hookimpls():
            name = implementation.plugin_name
            self._adding = Origin(origins.get(name, Loaded(name, "unknown", "0")), session)
            try:
                taken = [self] if implementation.argnames else []
                call(self._adding.plugin, "surgeon_commands", implementation.function, *taken)
            except (Exception, SystemExit) as error:
                if strict() and isinstance(error, PluginError):
                    raise
                session.fault(
                    f"{self._adding.said} could not add its verbs: {type(error).__name__}: {error}"
                )
            finally:
                self._adding = None


@dataclass(frozen=True, eq=False, repr=False)
class Origin:
    """Where a verb comes from."""

    plugin: Loaded
    session: Session

    @property
    def said(self) -> str:
        """The plugin in words."""
        return self.plugin.said


def _load(target: str) -> click.Command:
    module, _, attribute = target.partition(":")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


def _check_command(command: Any) -> None:
    """Refuse what click cannot run, a plain function above all."""
    if not isinstance(command, click.Command):
        kind = "a function" if callable(command) else f"a {type(command).__name__}"
        raise TypeError(f"it is {kind}, not a click command: decorate it with @click.command()")
