"""`finetune(report=)`: the page of a run, written when all else is.

What must not enter: templates and what fills them, unless a page was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.errors import SurgeonError

if TYPE_CHECKING:
    from surgeon.options import Delivery
    from surgeon.outcome import Outcome


def reported(outcome: Outcome, delivery: Delivery) -> Outcome:
    """Write the page of a run, where one was asked for and something was trained.

    A page that cannot be written is a warning: what was trained is not lost for it.
    """
    out, body = delivery.report, outcome.body
    if out is None or delivery.dry_run:
        return outcome
    from surgeon.reporting.verb import page, write

    body["report"] = str(out)
    try:
        write(page(body), out, force=delivery.force or delivery.resume)
    except SurgeonError as error:
        body["report"] = None
        body["warnings"] = [*body["warnings"], f"the report was not written: {error.message}"]
    return outcome
