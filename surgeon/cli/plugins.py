"""`surgeon plugins list|new|check`: which there are, a new one, and whether they work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from surgeon import records, starters
from surgeon.cli.cases import whose
from surgeon.cli.group import SurgeonGroup, VerbGroup
from surgeon.cli.progress import progress_for
from surgeon.cli.session import Answer, Session
from surgeon.plugin.manager import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from surgeon.cli.progress import Report
    from surgeon.cli.screen import Screen


@click.group(cls=VerbGroup)
def plugins() -> None:
    """Plugins: distributions with entry points in the group `surgeon`."""


@plugins.command("list")
@click.pass_obj
def list_plugins(session: Session) -> Answer:
    """List the plugins that were found, and what each offers."""
    return Answer(_examine(session), show)


@plugins.command("new")
@click.argument("name")
@click.option(
    "--kind", required=True, metavar="KIND", help=f"What it offers: {', '.join(starters.KINDS)}."
)
@click.option(
    "-o", "--out", metavar="DIR", help="Where to, a folder that is not there or empty; ./NAME."
)
@click.pass_obj
def new_plugin(session: Session, name: str, kind: str, out: str | None) -> Answer:
    """Write a distribution that offers something of a kind: it installs, and its test passes."""
    from surgeon import testing

    taken = {found.offer.name for found in testing.offers(plugins=session.plugins)}
    return Answer(starters.write(name, kind, out, taken=taken), show_new)


def show_new(screen: Screen, body: Mapping[str, Any]) -> None:
    """Every file, then what to do next."""
    for name in body["files"]:
        screen.line(f"{body['path']}/{name}")
    screen.line(f"next: pip install -e {body['path']}, then see its README.md")


@plugins.command("check")
@click.argument("name", required=False)
@click.option(
    "--model", "models", multiple=True, metavar="FILE",
    help="A model to try it on, several times; else a small network of each of nine families.",
)  # fmt: skip
@click.pass_obj
def check_plugins(session: Session, name: str | None, models: tuple[str, ...]) -> Answer:
    """Load every plugin, and try what it offers on nine small networks; exits with 1 if it fails.

    NAME is a distribution, an entry point, or an offer (`NAME:key=value` where it needs settings);
    without it, everything but what comes with surgeon is tried.
    """
    body, checks = _examine(session), []
    if name is not None or body["ok"]:  # what cannot be loaded comes first
        with progress_for(session) as progress:
            checks = _conform(session, name, models, progress)
    passed = all(one["passed"] for one in checks)
    body |= {"ok": body["ok"] and passed, "plugin": name, "passed": passed, "checks": checks}
    return Answer(body, show if name is None else show_checks, exit=0 if body["ok"] else 1)


def _conform(
    session: Session, name: str | None, models: Sequence[str], progress: Report
) -> list[dict[str, Any]]:
    """Try the offers that a name means; see `surgeon.testing`."""
    from surgeon import testing

    given: dict[str, Any] = {"models": models} if models else {}
    return [
        {"kind": KINDS[type(found.offer).__name__][0], "offer": found.offer.name}
        | records.as_json(claim)
        for options, found in testing.meant(name, session.plugins)
        for claim in testing.examine(
            found, options=options, plugins=session.plugins, progress=progress, **given
        )
    ]


def show_checks(screen: Screen, body: Mapping[str, Any]) -> None:
    """The checks of each offer, then the verdict."""
    said = None
    for one in body["checks"]:
        if said != (said := f"{one['kind']} {one['offer']}"):
            screen.line(said)
        found = f"{one['name']}: {one['detail']}" if one["detail"] else one["name"]
        screen.entries([("ok    " if one["passed"] else "FAILED", found)])
    failed = sum(not one["passed"] for one in body["checks"])
    screen.line(f"{len(body['checks'])} checks, {failed} failed")


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """An entry per plugin, one per offer, then what is wrong."""
    screen.entries(
        (
            one["name"],
            f"{one['distribution']} {one['version'] or ''}".rstrip()
            + ": "
            + (", ".join(one["offers"]) if one["loaded"] else "not loaded"),
        )
        for one in body["plugins"]
    )
    screen.line("")
    screen.entries(
        (f"{one['kind']} {one['name']}", one["summary"] + whose(one)) for one in body["offers"]
    )
    for one in body["plugins"]:
        if one["problem"]:
            screen.line(f"{one['name']}: {one['problem']}")
    for problem in body["conflicts"]:
        screen.line(problem)
    if body.get("checks"):
        screen.line("")
        show_checks(screen, body)


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
        found: dict[str, Any] = manager.offers(getattr(records, kind))
        conflicts += map(str, manager.clashes(getattr(records, kind)).values())
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
