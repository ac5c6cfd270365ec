"""What the page shows of documents: which parts there are, and what is drawn.

What must not enter: how it looks, which is the templates'.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from surgeon.reporting import command, told
from surgeon.reporting.charts import (
    GAP,
    HEAD,
    NETWORK,
    Box,
    Chart,
    Series,
    boxes,
    chart,
    cut_at,
)
from surgeon.reporting.told import Told
from surgeon.tasks.figures import SHARES, said
from surgeon.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PARTS = {
    "test": "test", "validation": "validation", "cross_validation": "cross-validation",
    "train": "training",
}  # fmt: skip
"""Objects of `metrics`, the most telling first, and what people call them."""
MOST_SQUARE = 24
"""Classes whose confusions fit a table that can be read."""
MOST_ROWS, MOST_LINES = 400, 60
"""Rows of a long table that are shown, and of a list."""


def context(documents: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the templates are filled with.

    Args:
        documents: by verb.
    """
    run, judged, advice, file = (
        Told(verb, documents[verb]) if verb in documents else None
        for verb in ("finetune", "evaluate", "advise", "inspect")
    )
    first = next(one for one in (run, file, judged, advice) if one is not None)
    advised = advice or (run.under("advice") if run and run.at("advice") else None)
    plan = _plan(run, file, advice)
    name = next(
        (n for t in (run, file, judged) if t for n in (t.at("out"), t.at("path")) if n), None
    )
    warnings = [w for d in documents.values() for w in d.get("warnings", ())]
    return {
        "run": run, "judged": judged, "file": file, "advised": advised, "plan": plan,
        "proof": _proof(run, file), "first": first,
        "name": name, "shown": shlex.quote(name or ""),
        "title": _title(first, plan),
        "hero": _hero(run, judged), "warnings": list(dict.fromkeys(warnings)),
        "why": (advised and advised.at("why")) or _listed(plan.at("why") if plan else None),
        "evidence": _evidence(advised), "surgery": _surgery(run, plan),
        "curves": _curves(run), "rows": _spread(run.at("history") if run else ()),
        "found_rate": _found_rate(run), **_columns(run),
        "parts": _parts(run), "figures": told.figures((run.at("metrics") and _known(run)) or {})
        if run else [],
        "confusion": _confusion(judged), "per_class": _per_class(judged),
        "findings": (advice.at("findings") or []) if advice else [],
        "classes": _classes(run), "spent": _spent(run),
        **_judged_by(run, judged), "asked": command.told(run), "version": __version__,
        "most": MOST_LINES,
    }  # fmt: skip


def filters() -> dict[str, Callable[..., Any]]:
    """Return what templates call."""
    return {
        "named": told.named,
        "said": said,
        "percent": told.share,
        "settings": _settings,
        "short": _short,
    }


def _listed(text: str | None) -> list[str]:
    return [text] if text else []


def _short(text: str | None, most: int = 12) -> str:
    """Return the beginning of a hash."""
    return "" if text is None else text[:most]


def _settings(head: Mapping[str, Any]) -> str:
    """Return a head of a plan as it is asked for."""
    given = dict(head.get("options") or {})
    if head.get("pool", "mean") != "mean":
        given["pool"] = head["pool"]
    text = ",".join(f"{key}={value}" for key, value in given.items())
    return f"{head['kind']}:{text}" if text else str(head["kind"])


def _plan(run: Told | None, file: Told | None, advice: Told | None) -> Told | None:
    """Return the plan, of the most telling document that has one."""
    places = ((run, ("plan",)), (file, ("surgeon", "plan")), (advice, ("plan",)))
    return next((one.under(*path) for one, path in places if one and one.at(*path)), None)


def _proof(run: Told | None, file: Told | None) -> Told | None:
    places = ((run, ("proof",)), (file, ("surgeon", "proof")))
    return next((one.under(*path) for one, path in places if one and one.at(*path)), None)


def _title(first: Told, plan: Told | None) -> str:
    """Say what the page is about."""
    match first.verb:
        case "finetune":
            return "A plan, not yet trained" if first.at("metrics") is None else "A tuned network"
        case "evaluate":
            return "A network, judged"
        case "advise":
            return "What suits the data"
    return "A tuned network" if plan else "A network"


def _known(run: Told) -> dict[str, dict[str, Any]]:
    """Return the objects of `metrics` that there are, by name."""
    metrics = run.at("metrics") or {}
    return {name: metrics[name] for name in PARTS if metrics.get(name)}


def _parts(run: Told | None) -> list[tuple[str, Told]]:
    """Return parts of the data that the network was judged on, with names for people."""
    if run is None:
        return []
    return [(PARTS[name], run.under("metrics", name)) for name in _known(run)]


def _hero(run: Told | None, judged: Told | None) -> dict[str, Any] | None:
    """Return the figure that a reader looks for first."""
    if run is not None and (parts := _known(run)):
        name = next(iter(parts))
        told_of = run.under("metrics", name)
    elif judged is not None:
        name, told_of = "data", judged.under("metrics")
    else:
        return None
    key = told.headline(told_of.at())
    crossed = told_of.at("method") == "cross-validated"
    return {
        "figure": key, "of": told_of, "part": PARTS.get(name, "given"),
        "samples": told_of if told_of.at("samples") is not None else judged,
        "crossed": crossed,
    }  # fmt: skip


def _judged_by(run: Told | None, judged: Told | None) -> dict[str, Any]:
    """Return the figures that runs and judgements choose by, and how their differences look."""
    guard = (run.at("guard") or {}) if run else {}
    chosen = next((name for name in guard.get("probe", {}) if name != "loss"), "accuracy")
    share = chosen in SHARES
    return {
        "judged_by": told.headline(judged.at("metrics")) if judged else None,
        "gained": "points" if share else "signed", "off": "off" if share else "rate",
    }  # fmt: skip


def _evidence(advised: Told | None) -> dict[str, Any] | None:
    """Draw what a linear classifier reaches at each depth, with the chosen cut."""
    rows = (advised.at("candidates") or []) if advised else []
    if advised is None or not rows:
        return None
    ordered = sorted(range(len(rows)), key=lambda place: rows[place]["depth"])
    known = [rows[place] for place in ordered if rows[place]["accuracy"] is not None]
    quality = advised.at("quality") or "accuracy"
    series = Series(
        said(quality),
        tuple((row["depth"], row["accuracy"]) for row in known),
        tuple(row.get("accuracy_error") or 0.0 for row in known),
    )
    marks = [(row["depth"], "chosen") for row in known if row.get("chosen")]
    drawn = chart(
        "evidence", f"{told.named(quality)} over depth", [series], across="depth of the cut",
        share=quality in SHARES, marks=marks, between=(0.0, 1.0),
    )  # fmt: skip
    return {
        "chart": drawn, "quality": quality, "share": "share" if quality in SHARES else "number",
        "rows": [(advised.under("candidates", place), rows[place]) for place in ordered],
    }  # fmt: skip


def _surgery(run: Told | None, plan: Told | None) -> dict[str, Any] | None:
    """Lay out the network before and after: what went, what stayed frozen, what was trained."""
    if plan is None:
        return None
    depth, blocks = plan.at("depth"), (run.at("blocks") or []) if run else []
    own = [one for one in blocks if not _is_head(one)]
    parts = [
        (one["depth"][0], "trained" if one["trained"] else "frozen", one["name"]) for one in own
    ]
    laid = boxes(parts, depth) if parts else boxes([(0.0, "kept", "kept")], depth)
    end = laid[-1].x + laid[-1].width
    headless = plan.at("head") is None or plan.at("case") == "features"
    head = None if headless else Box(round(end + GAP, 1), HEAD, "head", "new head")
    place = cut_at(depth)
    dropped = Box(place, NETWORK - place, "dropped", "dropped")
    return {
        "boxes": laid, "head": head, "cut": plan.at("cut"), "at": round(place / 10, 1),
        "dropped": dropped if dropped.width > 1 else None, "goes_on": plan.at("cut") is None,
        "kinds": list(dict.fromkeys(one.kind for one in laid)),
        "old": Box(NETWORK + GAP, HEAD, "dropped", "old head"), "network": NETWORK,
        "blocks": [(run.under("blocks", place), one) for place, one in enumerate(blocks)]
        if run else [],
    }  # fmt: skip


def _is_head(block: Mapping[str, Any]) -> bool:
    return all(name.startswith("surgeon.head") for name in block["weights"])


def _curves(run: Told | None) -> list[Chart]:
    """Draw loss, quality and rate over the epochs; none where a head alone was solved."""
    history = (run.at("history") or []) if run else []
    if len(history) < 3:
        return []
    judged = [key for key in dict.fromkeys(k for row in history for k in row)
              if key.startswith("validation_") and key != "validation_loss"
              and any(row.get(key) is not None for row in history)]  # fmt: skip
    stages = [row.get("stage") for row in history]
    marks = [
        (place + 0.5, str(stages[place]))
        for place in range(1, len(history))
        if stages[place] != stages[place - 1]
    ]
    drawn = [
        _curve(
            "loss", "Loss", {"loss": "training", "validation_loss": "validation"}, history, marks
        )
    ]
    for key in judged:
        figure = key.removeprefix("validation_")
        drawn.append(
            _curve(key, told.named(figure), {key: "validation"}, history, marks,
                   share=figure in SHARES)
        )  # fmt: skip
    drawn.append(_curve("lr", "Learning rate", {"lr": "rate"}, history, marks))
    return [one for one in drawn if one is not None]


def _columns(run: Told | None) -> dict[str, Any]:
    """Return the columns of the history of which some row knows a number, and their forms."""
    history = (run.at("history") or []) if run else []
    known = [
        key for key in dict.fromkeys(key for row in history for key in row)
        if key not in ("epoch", "stage", "start", "step", "converged")
        and any(isinstance(row.get(key), int | float) for row in history)
    ]  # fmt: skip
    forms = {"lr": "rate", "seconds": "seconds", "regularisation": "rate"}
    share = {k: "share" for k in known if k.removeprefix("validation_") in SHARES}
    return {"columns": known, "forms": dict.fromkeys(known, "number") | share | forms}


def _curve(
    key: str, title: str, columns: Mapping[str, str], history: list[dict[str, Any]],
    marks: list[tuple[float, str]], *, share: bool = False,
) -> Chart | None:  # fmt: skip
    """Draw columns of the history, apart for the starts of a race."""
    starts = list(dict.fromkeys(row.get("start") for row in history))
    series = [
        Series(
            name if len(starts) == 1 else f"{name}, {start or 'after the race'}",
            tuple(
                (place + 1, row[column]) for place, row in enumerate(history)
                if row.get(column) is not None and row.get("start") == start
            ),
        )
        for column, name in columns.items() for start in starts
    ]  # fmt: skip
    return chart(
        key, title, series, across="epochs", share=share, whole=True, marks=marks,
        between=(1, len(history)),
    )  # fmt: skip


def _found_rate(run: Told | None) -> Chart | None:
    """Draw the range test that looked for the rate."""
    found = run.at("lr_find") if run else None
    if not found:
        return None
    import math

    series = Series("loss, smoothed", tuple(
        (math.log10(rate), loss)
        for rate, loss in zip(found["rates"], found["smoothed"], strict=True)
        if rate > 0 and loss is not None
    ))  # fmt: skip
    return chart(
        "found", "Loss over the rate", [series], across="log10 of the rate",
        marks=[(math.log10(found["chosen"]), "chosen")],
    )  # fmt: skip


def _spread(rows: Any) -> list[int]:
    """Return which rows of a long table are shown: all, or some spread evenly, the last too."""
    count = len(rows or ())
    if count <= MOST_ROWS:
        return list(range(count))
    return [round(k * (count - 1) / (MOST_ROWS - 1)) for k in range(MOST_ROWS)]


def _confusion(judged: Told | None) -> dict[str, Any] | None:
    """Return the confusion matrix as a table with shares of its rows, or its largest entries."""
    matrix = judged.at("confusion") if judged else None
    if not matrix or judged is None:
        return None
    labels = judged.at("labels") or [str(place) for place in range(len(matrix))]
    sums = [sum(row) or 1 for row in matrix]
    if len(matrix) <= MOST_SQUARE:
        shares = [[value / total for value in row] for row, total in zip(matrix, sums, strict=True)]
        return {"labels": labels, "shares": shares, "pairs": None}
    pairs = sorted(
        ((value, i, j) for i, row in enumerate(matrix) for j, value in enumerate(row)
         if i != j and value), key=lambda one: (-one[0], one[1], one[2]),
    )  # fmt: skip
    return {"labels": labels, "shares": None, "pairs": pairs[:MOST_SQUARE]}


def _per_class(judged: Told | None) -> dict[str, Any] | None:
    """Return the figures of each class, the worst first."""
    rows = judged.at("per_class") if judged else None
    if not rows:
        return None
    keys = [key for key in rows[0] if key not in ("label", "support")]
    by = next((key for key in ("f1", "average_precision", "iou") if key in keys), keys[0])
    worst = sorted(range(len(rows)), key=lambda p: (rows[p][by] is None, rows[p][by], p))
    return {"keys": keys, "by": by, "rows": worst[:MOST_ROWS], "count": len(rows)}


def _classes(run: Told | None) -> dict[str, Any] | None:
    """Return how many samples each class has, the most first."""
    counts = run.at("data", "classes") if run else None
    if not counts:
        return None
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return {"names": ordered[:MOST_LINES], "more": len(ordered) - MOST_LINES,
            "most": max(*counts.values(), 1)}  # fmt: skip


def _spent(run: Told | None) -> list[tuple[str, str, float]]:
    """Return the phases of the run: name, key, share of all time."""
    spent = (run.at("seconds") or {}) if run else {}
    total = spent.get("total") or 0.0
    if not total:
        return []
    names = {"features": "frozen part", "train": "training", "write": "writing and proof"}
    return [
        (name, key, min(spent[key] / total, 1.0)) for key, name in names.items()
        if spent.get(key) is not None
    ]  # fmt: skip
