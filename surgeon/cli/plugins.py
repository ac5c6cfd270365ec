"""`surgeon plugins list|check`: which plugins there are, and whether they work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import SurgeonGroup, VerbGroup
from surgeon.cli.session import Answer, Session
from surgeon.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.cli.screen import Screen


@click.group(cls=VerbGroup)
def plugins() -> None:
    """Plugins: distributions with entry points in the group `surgeon`."""


@plugins.command("list")
@click.pass_obj
def list_plugins(session: Session) -> Answer:
    """List the plugins that were found, and what each offers."""
    return Answer(_examine(session), show)


@plugins.command("check")
@click.pass_obj
def check_plugins(session: Session) -> Answer:
    """Load every plugin and ask it for what it offers; exits with 1 where one is broken."""
    body = _examine(session)
    return Answer(body, show, exit=0 if body["ok"] else 1)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per plugin, then what is wrong."""
    screen.table(
        ("plugin", "from", "offers"),
        [
            (
                one["name"],
                f"{one['distribution']} {one['version'] or ''}".rstrip(),
                ", ".join(one["offers"]) if one["loaded"] else "not loaded",
            )
            for one in body["plugins"]
        ],
    )
    for one in body["plugins"]:
        if one["problem"]:
            screen.line(f"{one['name']}: {one['problem']}")
    for problem in body["conflicts"]:
        screen.line(problem)


def _examine(session: Session) -> dict[str, Any]:
    manager = session.plugins
    top = click.get_current_context().find_root()
    broken = top.command.broken(top) if isinstance(top.command, SurgeonGroup) else {}
    found = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "loaded": plugin.error is None,
            "offers": _offers(manager, plugin.name) if plugin.error is None else [],
            "problem": plugin.error or broken.get(plugin.name),
        }
        for plugin in manager.loaded
    ]
    conflicts = []
    try:
        manager.cases()
    except UsageError as error:
        conflicts.append(str(error))
    except Exception as error:  # noqa: BLE001 - a stranger's code
        conflicts.append(f"surgeon_cases failed: {type(error).__name__}: {error}")
    ok = not conflicts and all(one["problem"] is None for one in found)
    return {"ok": ok, "plugins": found, "conflicts": conflicts}


def _offers(manager: Any, name: str) -> list[str]:
    """Names of the hooks a plugin implements, without their prefix."""
    callers = manager.manager.get_hookcallers(manager.manager.get_plugin(name)) or []
    return sorted(caller.name.removeprefix("surgeon_") for caller in callers)
