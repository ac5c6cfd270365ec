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
from surgeon.errors import UsageError
from surgeon.extras import need
from surgeon.tasks.figures import error_of, said, written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

PLOTS = (".svg", ".png")
SHOWN = 10
"""Samples, or sets of them, listed of each finding."""
LEAST_BELIEF = 0.01
"""Share of belief from which a preprocessing is shown."""
LINE, CHOSEN = "tab:blue", "tab:red"


@click.command(cls=Verb)
@model_argument
@click.argument("data")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.svg|png",
    help="Draw accuracy over depth, and over the time of one sample; the chosen cut is marked.",
)
@takes("advise")
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
    from surgeon.advice import advise as advice

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
    quality = body["quality"]
    whole = max((row["macs"] for row in body["candidates"]), default=0) or 1
    screen.table(
        ("depth", said(quality), "error", "multiply-adds", "latency", "size", "tensor", ""),
        [
            (
                f"@{row['depth']:.4f}",
                written(quality, row["accuracy"]),
                error_of(quality, row["accuracy_error"]),
                f"{many(row['macs'])} ({row['macs'] / whole:.0%})",
                None if row["latency"] is None else f"{1000 * row['latency']:.2f} ms",
                size(row["size"]),
                row["tensor"],
                _marks(row),
            )
            for row in body["candidates"]
        ],
        gives_way=("size", "latency", "multiply-adds"),
    )
    screen.line()
    measured = body["preprocess"]["measured"]
    if measured is not None:
        _show_preprocess(screen, measured)
    _show_findings(screen, body["findings"])
    seconds = body["seconds"]
    screen.facts(
        {
            "looked at": f"{body['data']['looked_at']} of {body['data']['samples']} samples",
            "learning curve": ", ".join(
                f"{count}: {written(quality, share)}" for count, share, _ in _curve(body)
            )
            or None,
            "LEEP": (body["evidence"] or {}).get("leep"),
            "preprocessing": None
            if measured is None
            else f"{measured['name']}, {measured['sure']:.0%} sure",
            "seconds": _seconds(seconds),
            "saved by": None
            if not body["preprocess"].get("saves")
            else f"{body['preprocess']['saves']['option']} "
            f"({body['preprocess']['saves']['seconds']:.1f} s less next time)",
        }
    )


PARTS = {
    "model": "understanding the model", "data": "opening the data",
    "preprocess": "measuring the preprocessing", "pass": "features", "probes": "linear probes",
    "latency": "latency", "findings": "faults of the data",
}  # fmt: skip


def _seconds(seconds: Mapping[str, float]) -> str:
    """Write where the time went, the longest first."""
    parts = sorted(((seconds.get(name) or 0, text) for name, text in PARTS.items()), reverse=True)
    told = ", ".join(f"{text} {took:.1f}" for took, text in parts if took >= 0.05)
    return f"{seconds['total']:.1f}" + (f" ({told})" if told else "")


def _show_preprocess(screen: Screen, measured: Mapping[str, Any]) -> None:
    """Write what was tried as preprocessing, best first, as far as there is any belief in it."""
    rows = [
        (
            row["name"],
            percent(row["belief"]),
            percent(row["accuracy"]),
            f"± {100 * row['accuracy_error']:.1f}",
            row["mismatch"],
            None if row["confidence"] is None else percent(row["confidence"]),
            "as accurate" if row["tie"] and place else "",
        )
        for place, row in enumerate(measured["candidates"])
        if row["tie"] or row["belief"] > LEAST_BELIEF
    ]
    if measured["said"] is not None:
        screen.line(f"preprocessing: {measured['said']}")
    if rows:
        columns = ("preprocessing", "belief", "accuracy", "error", "mismatch", "old head", "")
        screen.table(columns, rows)
    screen.line()


def _show_findings(screen: Screen, findings: Sequence[Mapping[str, Any]]) -> None:
    """Write what was found in the data; of many samples the first few, all with `-v`."""
    screen.table(
        ("found in the data", "level", "samples", "what"),
        [(row["kind"], row["level"], len(row["samples"]) or None, row["message"])
         for row in findings],
    )  # fmt: skip
    for row in findings:
        if not row["samples"]:
            continue
        sets = row["groups"] or [[name] for name in row["samples"]]
        shown = len(sets) if screen.verbose else SHOWN
        screen.line()
        screen.line(f"{row['kind']}: {row['remedy']}")
        for names in sets[:shown]:
            screen.line(f"  {' = '.join(names)}")
        if len(sets) > shown:
            screen.line(f"  and {len(sets) - shown} more: -v lists them, --json too")
    screen.line()


def _curve(body: Mapping[str, Any]) -> list[Any]:
    return list((body["evidence"] or {}).get("learning_curve") or ())


def _marks(row: Mapping[str, Any]) -> str:
    """Say what a candidate is: chosen, as good as the best, worth a look for what it costs."""
    words = [word for word, is_so in (("chosen", row["chosen"]), ("as good", row["tie"])) if is_so]
    return ", ".join([*words[:1], *(["Pareto"] if row["pareto"] else [])])


def draw(body: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy over depth and over latency, with error bars and the chosen cut.

    Raises:
        EnvironmentLacksError: matplotlib is not installed.
    """
    figure = need("matplotlib.figure", "--plot").Figure(figsize=(10.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = body["candidates"]
    _draw_depth(left, rows, body["quality"])
    _draw_cost(right, rows)
    chosen = next((row for row in rows if row["chosen"]), None)
    where = "" if chosen is None else f", cut at {chosen['tensor']} (@{chosen['depth']:.2f})"
    figure.suptitle(f"{body['case']}{where}", fontsize="medium")
    figure.savefig(path)


def _draw_depth(axes: Axes, rows: Sequence[Mapping[str, Any]], quality: str) -> None:
    """Draw accuracy over depth, with error bars; what ties with the best is filled."""
    depths = [row["depth"] for row in rows]
    accuracies = [100 * row["accuracy"] for row in rows]
    axes.errorbar(
        depths, accuracies, yerr=[100 * row["accuracy_error"] for row in rows], color=LINE,
        marker="o", markerfacecolor="white", capsize=3, zorder=2,
    )  # fmt: skip
    axes.plot(
        [row["depth"] for row in rows if row["tie"]],
        [100 * row["accuracy"] for row in rows if row["tie"]],
        "o", color=LINE, zorder=3, label="as good as the best",
    )  # fmt: skip
    for row in rows:
        if row["chosen"]:
            axes.axvline(row["depth"], linestyle="--", color=CHOSEN, zorder=1, label="chosen cut")
    axes.set_xlabel("depth of the cut (share of the multiply-adds)")
    kind = "classifier" if quality == "accuracy" else "model"
    axes.set_ylabel(f"{said(quality)} of a linear {kind}, %")
    axes.legend(loc="lower right", fontsize="small")


def _draw_cost(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw accuracy over the time of one sample; a circle's area is the size of the weights."""
    timed = all(row["latency"] is not None for row in rows)
    costs = [1000 * row["latency"] if timed else row["macs"] / 1e6 for row in rows]
    accuracies = [100 * row["accuracy"] for row in rows]
    largest = max(1, *(row["size"] for row in rows))
    axes.scatter(
        costs, accuracies, s=[20 + 380 * row["size"] / largest for row in rows], alpha=0.45,
        color=[CHOSEN if row["chosen"] else LINE for row in rows],
    )  # fmt: skip
    front = sorted(
        (c, a) for c, a, row in zip(costs, accuracies, rows, strict=True) if row["pareto"]
    )
    axes.plot([c for c, _ in front], [a for _, a in front], ":", color=LINE, label="Pareto-optimal")
    # Neighbours in depth often lie close: their names stand below and above in turn.
    places = [("top", -9), ("bottom", 9)] * len(rows)
    for cost, accuracy, row, (side, shift) in zip(costs, accuracies, rows, places, strict=False):
        axes.annotate(
            f"@{row['depth']:.2f}", (cost, accuracy), xytext=(0, shift),
            textcoords="offset points", ha="center", va=side, fontsize="x-small",
        )  # fmt: skip
    axes.set_xlabel("one sample alone, ms" if timed else "multiply-adds of one sample, millions")
    axes.margins(x=0.15, y=0.1)
    axes.legend(loc="lower right", fontsize="small", title="area: size of the weights")
