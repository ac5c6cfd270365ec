"""`surgeon cache list|clear`: what surgeon keeps on this machine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli import values
from surgeon.cli.group import VerbGroup
from surgeon.cli.screen import Screen, size
from surgeon.cli.session import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@click.group(cls=VerbGroup)
def cache() -> None:
    """Cached features, models and data: all can be made again, clearing them loses only time."""


@cache.command("list")
def list_cache() -> Answer:
    """List what is cached."""
    entries = _entries("all")
    return Answer({"entries": entries, "bytes": sum(one["bytes"] for one in entries)}, show_list)


@cache.command("clear")
@click.argument("what", type=values.Word(["all", "features", "models"]), default="all")
def clear_cache(what: str) -> Answer:
    """Remove cached features, models (and their data), or all."""
    entries = _entries(what)
    freed = sum(one["bytes"] for one in entries if one["kind"] != "features")
    if what in {"all", "features"}:
        from surgeon.runtime import cache as features

        freed += features.clear()[1]
    if what in {"all", "models"}:
        for folder in _kept().values():
            shutil.rmtree(folder, ignore_errors=True)
    return Answer({"entries": entries, "bytes": freed}, show_cleared)


def show_list(screen: Screen, body: Mapping[str, Any]) -> None:
    """One row per entry, then the sum."""
    if body["entries"]:
        screen.table(
            ("kind", "size", "path"),
            [(one["kind"], size(one["bytes"]), one["path"]) for one in body["entries"]],
        )
    screen.line(f"{len(body['entries'])} entries, {size(body['bytes'])}")


def show_cleared(screen: Screen, body: Mapping[str, Any]) -> None:
    """What was freed."""
    screen.line(f"{len(body['entries'])} entries removed, {size(body['bytes'])} freed")


def _entries(what: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if what in {"all", "features"}:
        from surgeon.runtime import cache as features

        found += [
            {"kind": "features", "path": str(entry.path), "bytes": entry.bytes}
            for entry in features.list_entries()
        ]
    if what in {"all", "models"}:
        for kind, folder in _kept().items():
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            found += [{"kind": kind, "path": str(path), "bytes": _weigh(path)} for path in paths]
    return found


def _kept() -> dict[str, Path]:
    """Where model zoos keep what they fetched or built, one entry per model and per data set."""
    from surgeon.runtime.cache import cache_root

    return {"model": cache_root() / "models", "data": cache_root() / "data"}


def _weigh(path: Path) -> int:
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)
