"""Examinations that plugins offer: before training, and of what came out of it.

What must not enter: examinations of our own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.errors import CheckError, PluginError, SurgeonError
from surgeon.job.operate import load_operators
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import Check, Finding, as_json

if TYPE_CHECKING:
    from surgeon.model import Model
    from surgeon.outcome import Outcome
    from surgeon.plugin.manager import Found, Plugins

LEVELS = ("error", "warning")


def examine(
    model: Model, outcome: Outcome | None, plugins: Plugins | None
) -> list[tuple[Found[Check], Finding]]:
    """Return what checks of plugins find, and whose each is.

    Args:
        model: what is examined: before training the operated one, after it the tuned one.
        outcome: of the training, or None: it is before it.
        plugins: loaded plugins; None loads them.

    Raises:
        PluginError: a check fails, or gives no findings.
    """
    when = "before" if outcome is None else "after"
    offered = loaded_plugins(plugins).offers(Check).values()
    return [
        (found, finding)
        for found in offered
        if found.offer.when == when
        for finding in _findings(found, model, outcome)
    ]


def require(model: Model, body: dict[str, Any], plugins: Plugins | None) -> None:
    """Let plugins declare operators and examine what is about to be trained.

    Warnings go into the document.

    Raises:
        CheckError: there are errors among the findings; all are named.
    """
    load_operators(model.proto, plugins)
    found = examine(model, None, plugins)
    _tell(found, body)
    errors = [(whose, one) for whose, one in found if one.level == "error"]
    if errors:
        raise CheckError(
            "; ".join(one.message for _, one in errors),
            where=", ".join(dict.fromkeys(whose.said for whose, _ in errors)),
            remedy="; ".join(one.remedy for _, one in errors if one.remedy) or None,
        )


def examined(outcome: Outcome, plugins: Plugins | None) -> Outcome:
    """Return what came out after plugins examined it; what they find stands in its document."""
    _tell(examine(outcome.model, outcome, plugins), outcome.body)
    return outcome


def _findings(found: Found[Check], model: Model, outcome: Outcome | None) -> list[Finding]:
    """Ask one check."""
    try:
        given = list(found.load()(model, outcome) or ())
    except SurgeonError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise _wrong(found, f"it failed: {what}") from error
    for one in given:
        if not isinstance(one, Finding) or one.level not in LEVELS:
            raise _wrong(found, f"it gives {one!r}, not a Finding of level error or warning")
    return given


def _tell(found: list[tuple[Found[Check], Finding]], body: dict[str, Any]) -> None:
    """Put findings into a document: all into `checks`, warnings where people see them."""
    if found:
        body.setdefault("checks", [])
    for whose, one in found:
        body["checks"].append(
            {
                "check": whose.offer.name,
                "distribution": whose.distribution,
                "when": whose.offer.when,
                **as_json(one),
            }
        )
        if one.level == "warning":
            remedy = f": {one.remedy}" if one.remedy else ""
            body["warnings"].append(f"{one.message}{remedy} (check {whose.offer.name!r})")


def _wrong(found: Found[Check], what: str) -> PluginError:
    return PluginError(
        what, where=found.said, remedy="tell its author, or leave that distribution out"
    )
