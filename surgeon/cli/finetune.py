"""`surgeon finetune MODEL DATA -o OUT`: the main job."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.failures import InterruptError
from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.progress import progress_for
from surgeon.cli.screen import Screen, head, many, size
from surgeon.cli.session import Answer, Session
from surgeon.cli.values import check_output
from surgeon.errors import UsageError
from surgeon.tasks.figures import gained, said, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

PARTS = ("train", "validation", "test")
# What ended the training → exit code, where it is not 0. The best so far was delivered.
STOPPED_EXIT = {"nan": 1, "interrupt": 130}


@click.command(cls=Verb)
@model_argument
@click.argument("data")
@takes("finetune")
@click.pass_obj
def finetune(
    session: Session, /, model: Path, data: str, *, out: Path | None, dry_run: bool, **settings: Any
) -> Answer:
    """Train MODEL on DATA and write OUT: a tuned ONNX file that carries its proof.

    DATA is a folder with one sub-folder per class, a table (CSV, Parquet, JSON-lines), an .npz,
    or a data set of the `datasets` library. Without --case, a file that carries a plan goes on
    with it; any other needs one, and --case auto chooses it by measurement.
    """
    if out is None and not dry_run:
        raise UsageError(
            "missing: -o OUT", where="`surgeon finetune`", remedy="name a file, or add --dry-run"
        )
    if out is not None and not dry_run:
        # What --resume may replace is seen by the operation, which knows checkpoints.
        check_output(out, force=settings["force"] or settings["resume"])
    from surgeon import operation

    with progress_for(session) as progress, _told_how_to_go_on(out):
        outcome = operation.finetune(
            model,
            data,
            out=None if dry_run else out,
            dry_run=dry_run,
            **settings,
            progress=progress,
            plugins=session.plugins,
        )
    body = outcome.document()
    failed = any(one["level"] == "error" for one in body.get("checks", ()))
    return Answer(body, show, exit=STOPPED_EXIT.get(body["stopped"], int(failed)))


@contextlib.contextmanager
def _told_how_to_go_on(out: Path | None) -> Iterator[None]:
    """Say, when Ctrl-C leaves nothing but a checkpoint, that the run can go on from it."""
    try:
        yield
    except KeyboardInterrupt:
        from surgeon import resumption

        if out is None or not resumption.has_states(resumption.folder_of(out)):
            raise
        raise InterruptError(
            "interrupted: nothing was written",
            where=str(resumption.folder_of(out)),
            remedy="the same command with --resume goes on from there",
        ) from None


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """What was trained on what, how good it is, and where it lies."""
    plan, data = body["plan"], body["data"] or {}
    for line in (body.get("advice") or {}).get("why", ()):
        screen.line(line)
    screen.facts(
        {
            "case": body["case"],
            "cut": plan["cut"] if plan["depth"] is None else f"{plan['cut']} (@{plan['depth']})",
            "head": head(plan["head"]),
            "weights start": plan["init"],
            "stages": ", ".join(_stage(stage) for stage in plan["stages"]) or None,
            "trained": None
            if body["trained_parameters"] is None
            else f"{many(body['trained_parameters'])} parameters",
            "data": _data(data) if data else None,
            "classes added": _added(body.get("extended")),
            "device": _device(body),
            "frozen part": _frontier(body["frontier"]),
        }
    )
    if body["out"] is None or screen.verbose:
        _blocks(screen, body.get("blocks") or ())
        _rates(screen, body.get("lr_find"))
    if body["out"] is None:
        screen.line()
        screen.line("nothing written: a dry run")
        return
    screen.line()
    parts = {name: one for name in PARTS if (one := (body["metrics"] or {}).get(name))}
    figures = _figures(parts.values())
    screen.table(
        ("", "samples", *map(said, figures), "loss"),
        [
            (_named(name, one), one["samples"], *(_cell(f, one[f]) for f in figures), one["loss"])
            for name, one in parts.items()
        ],
    )
    screen.line()
    seconds = body["seconds"]
    parity = (body["proof"] or {}).get("parity") or {}
    screen.facts(
        {
            "seconds": _seconds(seconds),
            "resumed": _resumed(body.get("resumed")),
            "stopped by": body["stopped"],
            "race": _race(body.get("race")),
            "against the probe": _guard(body.get("guard")),
            "delivered": body["delivered"],
            "parity": f"{parity['max_relative']:.2g} relative, bound {parity['bound']:.0e}"
            if parity.get("max_relative") is not None
            else None,
            "written": body["out"],
            "sha256": body["sha256"],
        }
    )

    for one in body.get("checks", ()):
        if one["level"] == "error":  # warnings are said with all others
            screen.line(f"error: {one['message']} (check {one['check']!r})")
            if one["remedy"]:
                screen.line(f"  to do: {one['remedy']}")


WIDEST = 36
"""Characters that the names of a block may take, so that a line keeps within 80."""


def _blocks(screen: Screen, blocks: Iterable[Mapping[str, Any]]) -> None:
    """Show what trains and what stays, by depth."""
    screen.line()
    screen.table(
        ("depth", "weights", "", "parameters", "rate"),
        [
            (
                "–".join(dict.fromkeys(f"@{depth:.2f}" for depth in block["depth"])),
                _short(block["name"], WIDEST),
                "trained" if block["trained"] else "frozen",
                many(block["parameters"]),
                None if block["lr"] is None else f"{block['lr']:.2g}",
            )
            for block in blocks
        ],
    )


def _short(text: str, most: int) -> str:
    """Leave out the middle of a text that is too long."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]} … {text[2 - most // 2 :]}"


def _rates(screen: Screen, found: Mapping[str, Any] | None) -> None:
    """Show the curve of a range test at about a dozen rates, and which one was chosen."""
    if found is None:
        return
    screen.line()
    rows = list(zip(found["rates"], found["smoothed"], strict=True))
    every = max(len(rows) // 12, 1)
    screen.table(("rate", "loss"), [(f"{rate:.2g}", loss) for rate, loss in rows[::every]])
    screen.line(f"learning rate {found['chosen']:.2g}, found in {len(rows)} steps")


def _figures(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the task's own figures: those that are known of some part."""
    others = ("samples", "method", "loss", "quality", "folds")
    names = dict.fromkeys(name for one in parts for name, value in one.items() if value is not None)
    return [name for name in names if name not in others] or ["accuracy"]


def _cell(name: str, value: float | None) -> str | float | None:
    """Return a share as per cent, other numbers and F1 as they are."""
    return value if value is None or name.endswith("f1") else written(name, value)


def _added(extended: Mapping[str, Any] | None) -> str | None:
    """Say which classes were added behind how many, and what those are known by."""
    if extended is None:
        return None
    new, more = extended["new"], len(extended["new"]) - 5
    named = ", ".join(new[:5]) + (f" and {more} more" if more > 0 else "")
    return f"{named} behind {len(extended['old'])} old ones, known by {extended['method']}"


def _resumed(resumed: Mapping[str, Any] | None) -> str | None:
    return None if resumed is None else f"{resumed['stage']!r} after epoch {resumed['epoch']}"


def _named(name: str, part: Mapping[str, Any]) -> str:
    """Say of figures that are not the file's own what they are."""
    crossed = part.get("method") == "cross-validated"
    return f"{name}, cross-validated" if crossed else name


def _race(race: Mapping[str, Any] | None) -> str | None:
    """Say what both starts reached, and where the winner ended."""
    if race is None:
        return None
    legs = [(name, race[name]) for name in ("pretrained", "random") if race[name] is not None]
    quality = next(name for name in race["final"] if name != "loss")
    reached = ", ".join(f"{name} {written(quality, leg[quality])}" for name, leg in legs)
    final = written(quality, race["final"][quality])
    return f"{reached} after {race['budget']['steps']} steps; {race['winner']} ended at {final}"


def _guard(guard: Mapping[str, Any] | None) -> str | None:
    """Say what tuning gained on validation, with its standard error."""
    if guard is None:
        return None
    quality = next(name for name in guard["probe"] if name != "loss")
    gain = gained(quality, guard["gain"], guard["error"])
    return f"{gain} on {guard['samples']} validation samples"


def _stage(stage: Any) -> str:
    return str(stage["name"]) if isinstance(stage, dict) else str(stage)


def _device(body: Mapping[str, Any]) -> str | None:
    return ", ".join(
        [str(body["device"] or "-"), str(body["precision"] or "-"), *(body["providers"] or ())]
    )


def _data(data: Mapping[str, Any]) -> str:
    parts = ", ".join(
        f"{data[name]} {name}" for name in ("train", "validation", "test") if data.get(name)
    )
    within = "" if data["classes"] is None else f" in {len(data['classes'])} classes"
    skipped = f"; {len(data['skipped'])} skipped" if data.get("skipped") else ""
    skipped += f"; {data['ignored']} other files ignored" if data.get("ignored") else ""
    return f"{data['samples']} samples{within} ({parts}){skipped}"


def _frontier(frontier: Mapping[str, Any] | None) -> str | None:
    if not frontier or not frontier["nodes_frozen"]:
        return None
    cache = frontier["cache"] or {}
    held = f", features {size(cache.get('bytes'))}" if cache.get("bytes") is not None else ""
    again = ", from the cache" if cache.get("hit") else ""
    return f"{frontier['nodes_frozen']} of {_nodes(frontier)} nodes{held}{again}"


def _nodes(frontier: Mapping[str, Any]) -> int:
    return int(frontier["nodes_frozen"] + frontier["nodes_trained"])


def _seconds(seconds: Mapping[str, Any] | None) -> str | None:
    if not seconds:
        return None
    parts = ", ".join(
        f"{name} {seconds[name]:.1f}"
        for name in ("features", "train", "write")
        if seconds.get(name) is not None
    )
    return f"{seconds['total']:.1f} ({parts})"
