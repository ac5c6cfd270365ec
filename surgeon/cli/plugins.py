"""`surgeon plugins list|check`: which plugins there are, and whether they work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon import records
from surgeon.cli.group import SurgeonGroup, VerbGroup
from surgeon.cli.session import Answer, Session
from surgeon.errors import UsageError
from surgeon.plugin.manager import KINDS

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
    """One row per plugin, one per offer, then what is wrong."""
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
    screen.line("")
    screen.table(
        ("offer", "name", "what it is", "from"),
        [(one["kind"], one["name"], one["summary"], one["distribution"]) for one in body["offers"]],
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
    plugins = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "loaded": plugin.error is None,
            "offers": _hooks(manager, plugin.name) if plugin.error is None else [],
            "problem": plugin.error or broken.get(plugin.name),
        }
        for plugin in manager.loaded
    ]
    conflicts: list[str] = []
    offers = []
    for kind, (word, _, _) in KINDS.items():
        try:
            found: dict[str, Any] = manager.offers(getattr(records, kind))
        except UsageError as error:
            conflicts.append(str(error))
            continue
        offers += [
            {
                "kind": word,
                "name": one.offer.name,
                "summary": one.offer.summary,
                "distribution": one.distribution,
                "version": one.version,
            }
            for one in found.values()
        ]
    ok = not conflicts and all(one["problem"] is None for one in plugins)
    return {
        "ok": ok,
        "plugins": plugins,
        "conflicts": conflicts,
        "offers": offers,
        "loaded": [records.as_json(one) for one in manager.loaded],
    }


def _hooks(manager: Any, name: str) -> list[str]:
    """Names of the hooks a plugin implements, without their prefix."""
    callers = manager.manager.get_hookcallers(manager.manager.get_plugin(name)) or []
    return sorted(caller.name.removeprefix("surgeon_") for caller in callers)
