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

if TYPE_CHECKING:  # what the table below names, for type checkers
    from surgeon.advice.advice import Advice
    from surgeon.advice.advise import advise
    from surgeon.blending import blend
    from surgeon.conversion import to_torch
    from surgeon.conversion import write_tensors as write_back
    from surgeon.model import Model, load
    from surgeon.operation import (
        evaluate,
        finetune,
        inspect,
        operate,
        predict,
        verify,
    )
    from surgeon.outcome import Outcome, Prediction, Verification
    from surgeon.own_weights import prove
    from surgeon.plugin.hooks import hookimpl
    from surgeon.records import Case, Head, Plan, Stage
    from surgeon.torch_graph.backend import SurgeonBackend as onnx_backend  # noqa: N813 - the contract's name
    from surgeon.torch_graph.module import tensors

_NAMES = {
    "Advice": "surgeon.advice.advice:Advice",
    "Case": "surgeon.records:Case",
    "Head": "surgeon.records:Head",
    "Model": "surgeon.model:Model",
    "Outcome": "surgeon.outcome:Outcome",
    "Plan": "surgeon.records:Plan",
    "Prediction": "surgeon.outcome:Prediction",
    "Stage": "surgeon.records:Stage",
    "Verification": "surgeon.outcome:Verification",
    "advise": "surgeon.advice.advise:advise",
    "blend": "surgeon.blending:blend",
    "evaluate": "surgeon.operation:evaluate",
    "finetune": "surgeon.operation:finetune",
    "hookimpl": "surgeon.plugin.hooks:hookimpl",
    "inspect": "surgeon.operation:inspect",
    "load": "surgeon.model:load",
    "onnx_backend": "surgeon.torch_graph.backend:SurgeonBackend",
    "operate": "surgeon.operation:operate",
    "predict": "surgeon.operation:predict",
    "prove": "surgeon.own_weights:prove",
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
