"""What will not load, convert or train of a network, all at once and without data.

What must not enter: training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.errors import ModelError, SurgeonError, UsageError
from surgeon.job import checks
from surgeon.job.operate import load_operators
from surgeon.records import Finding
from surgeon.runtime.neighbours import require_steady
from surgeon.runtime.observe import require_runs
from surgeon.runtime.proof import seeded_input
from surgeon.torch_graph.preflight import examine

if TYPE_CHECKING:
    from collections.abc import Callable

    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins


def preflight(
    model: Model, operate: Callable[[], Model] | None, plugins: Plugins | None
) -> tuple[Model, list[Finding]]:
    """Return what an operation makes of a network, and everything that is found.

    Args:
        model: the network.
        operate: operates on it; None = it is looked at as it is.
        plugins: loaded plugins; None loads them.

    Raises:
        UsageError: what was asked for cannot be meant.
    """
    findings: list[Finding] = []
    try:
        require_runs(model.stored or model.proto, model.where or "the model")
    except ModelError as error:
        findings.append(Finding("error", "runtime", error.message, error.remedy))
    operated = None
    try:
        operated = None if operate is None else operate()
    except UsageError:
        raise
    except SurgeonError as error:
        findings.append(Finding("error", error.kind, error.message, error.remedy))
    missing = model.anatomy().missing
    if missing is not None:
        remedy = "a new head is put at the cut; `surgeon cuts MODEL` lists the cuts"
        findings.append(Finding("warning", "no-head", missing, remedy))
    shown = operated or model
    try:
        require_steady(
            shown.proto,
            shown.inputs,
            lambda: [seeded_input(shown.proto, seed, sizes=shown.sizes) for seed in (0, 1)],
        )
    except ModelError as error:
        findings.append(Finding("error", "unsteady", error.message, error.remedy, node=error.where))
    load_operators(shown.proto, plugins)
    trainable = None if operated is None else operated.trainable
    findings += examine(shown.proto, trainable, shown.roles())
    return shown, findings + [finding for _, finding in checks.examine(shown, None, plugins)]
