"""`surgeon advise MODEL DATA`: which case and which cut suit the data, by measurement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.group import Verb
from surgeon.cli.options import model_argument, takes
from surgeon.cli.progress import progress_for
from surgeon.cli.screen import Screen, many, percent, size
from surgeon.cli.session import Answer, Session
from surgeon.cli.values import check_output
from surgeon.errors import EnvironmentLacksError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLOTS = (".svg", ".png")


@click.command(cls=Verb)
@model_argument
@click.argument("data")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.svg|png",
    help="Draw accuracy over depth, with error bars and the chosen cut.",
)
@takes("init", "seed", "validation", "preprocess", "size", "tokenizer", "max_length", "audio")
@takes("label_column", "inputs", "device", "threads", "force")
@click.pass_obj
def advise(
    session: Session,
    /,
    model: Path,
    data: str,
    *,
    plot: Path | None,
    force: bool,
    **settings: Any,
) -> Answer:
    """Advise a case and a cut for DATA; nothing is trained and nothing is changed.

    One pass over at most 2,000 samples; a linear classifier is probed at several depths.
    `surgeon finetune --case auto` does the same and goes on with it.
    """
    if plot is not None:
        if plot.suffix.lower() not in PLOTS:
            raise UsageError(
                f"{plot} is neither .svg nor .png", where="--plot", remedy="name it so"
            )
        check_output(plot, force=force)
    from surgeon import advice

    with progress_for(session) as progress:
        found = advice.advise(model, data, **settings, progress=progress, plugins=session.plugins)
    body = found.document()
    if plot is not None:
        draw(body, plot)
    return Answer(body, show)


def show(screen: Screen, body: Mapping[str, Any]) -> None:
    """Why in three lines, the cuts compared, and what the pass cost."""
    for line in body["why"]:
        screen.line(line)
    screen.line()
    whole = max((row["macs"] for row in body["candidates"]), default=0) or 1
    screen.table(
        ("depth", "accuracy", "error", "parameters", "multiply-adds", "size", "tensor", ""),
        [
            (
                f"@{row['depth']:.4f}",
                percent(row["accuracy"]),
                f"± {100 * row['accuracy_error']:.1f}",
                many(row["parameters"]),
                f"{many(row['macs'])} ({row['macs'] / whole:.0%})",
                size(row["bytes"]),
                row["tensor"],
                "chosen" if row["chosen"] else "as good" if row["tie"] else "",
            )
            for row in body["candidates"]
        ],
    )
    screen.line()
    measured = body["preprocess"]["measured"]
    seconds = body["seconds"]
    screen.facts(
        {
            "looked at": f"{body['data']['looked_at']} of {body['data']['samples']} samples",
            "learning curve": ", ".join(
                f"{count}: {percent(share)}" for count, share, _ in _curve(body)
            )
            or None,
            "LEEP": (body["evidence"] or {}).get("leep"),
            "preprocessing": None
            if measured is None
            else f"measured: {measured['name']}, {measured['sure']:.0%} sure",
            "seconds": f"{seconds['total']:.1f} (preprocessing {seconds['preprocess']:.1f}, "
            f"pass {seconds['pass']:.1f}, probes {seconds['probes']:.1f})",
        }
    )


def _curve(body: Mapping[str, Any]) -> list[Any]:
    return list((body["evidence"] or {}).get("learning_curve") or ())


def draw(body: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy over depth with error bars and the chosen cut.

    Raises:
        EnvironmentLacksError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentLacksError(
            "matplotlib is not installed", where="--plot", remedy="pip install matplotlib"
        ) from error
    rows = body["candidates"]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.errorbar(
        [row["depth"] for row in rows],
        [row["accuracy"] for row in rows],
        yerr=[row["accuracy_error"] for row in rows],
        marker="o",
        capsize=3,
    )
    for row in rows:
        if row["chosen"]:
            axes.axvline(row["depth"], linestyle="--", linewidth=1, color="tab:red")
            axes.annotate(
                row["tensor"], (row["depth"], 0.02), xycoords=("data", "axes fraction"),
                rotation=90, ha="right", va="bottom", fontsize="x-small",
            )  # fmt: skip
    axes.set_xlabel("depth of the cut (share of the multiply-adds)")
    axes.set_ylabel("accuracy of a linear classifier")
    axes.set_title(body["plan"]["case"])
    figure.savefig(path)
