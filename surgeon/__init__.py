"""surgeon: transfer learning on any pretrained ONNX file.

::

    model   = surgeon.load("model.onnx")
    operated = surgeon.operate(model, case="small-similar", classes=5)
    outcome = surgeon.finetune(operated, "photos/")
    outcome.model.save("tuned.onnx")

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.version import __version__

if TYPE_CHECKING:  # what the table below names, for type checkers: `as` exports a name
    from surgeon.advice.advice import Advice as Advice
    from surgeon.advice.advise import advise as advise
    from surgeon.blending import blend as blend
    from surgeon.comparing import diff as diff
    from surgeon.conversion import to_torch as to_torch
    from surgeon.conversion import write_tensors as write_back
    from surgeon.exporting import export as export
    from surgeon.job.beside import Beside as Beside
    from surgeon.job.kept import apply as apply
    from surgeon.model import Model as Model
    from surgeon.model import load as load
    from surgeon.operation import evaluate as evaluate
    from surgeon.operation import finetune as finetune
    from surgeon.operation import inspect as inspect
    from surgeon.operation import operate as operate
    from surgeon.operation import predict as predict
    from surgeon.operation import verify as verify
    from surgeon.ops.registry import op as op
    from surgeon.outcome import Outcome as Outcome
    from surgeon.outcome import Prediction as Prediction
    from surgeon.outcome import Verification as Verification
    from surgeon.own_weights import prove as prove
    from surgeon.plugin.hooks import hookimpl as hookimpl
    from surgeon.records import Case as Case
    from surgeon.records import Head as Head
    from surgeon.records import Plan as Plan
    from surgeon.records import Stage as Stage
    from surgeon.reporting import report as report
_NAMES = {
    "Advice": "surgeon.advice.advice:Advice",
    "Beside": "surgeon.job.beside:Beside",
    "Case": "surgeon.records:Case",
    "Head": "surgeon.records:Head",
    "Model": "surgeon.model:Model",
    "Outcome": "surgeon.outcome:Outcome",
    "Plan": "surgeon.records:Plan",
    "Prediction": "surgeon.outcome:Prediction",
    "Stage": "surgeon.records:Stage",
    "Verification": "surgeon.outcome:Verification",
    "advise": "surgeon.advice.advise:advise",
    "apply": "surgeon.job.kept:apply",
    "blend": "surgeon.blending:blend",
    "diff": "surgeon.comparing:diff",
    "evaluate": "surgeon.operation:evaluate",
    "export": "surgeon.exporting:export",
    "finetune": "surgeon.operation:finetune",
    "hookimpl": "surgeon.plugin.hooks:hookimpl",
    "inspect": "surgeon.operation:inspect",
    "load": "surgeon.model:load",
    "onnx_backend": "surgeon.torch_graph.backend:SurgeonBackend",
    "op": "surgeon.ops.registry:op",
    "operate": "surgeon.operation:operate",
    "predict": "surgeon.operation:predict",
    "prove": "surgeon.own_weights:prove",
    "report": "surgeon.reporting:report",
    "tensors": "surgeon.torch_graph.module:tensors",
    "to_torch": "surgeon.conversion:to_torch",
    "verify": "surgeon.operation:verify",
    "write_back": "surgeon.conversion:write_tensors",
}

__all__ = [  # noqa: PLE0604 - the table above is the list
    "__version__",
    *_NAMES,
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _NAMES:
        raise AttributeError(f"module 'surgeon' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _NAMES[name].split(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
