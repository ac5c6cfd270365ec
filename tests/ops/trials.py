"""What is asked of an exported network: that it converts, agrees, learns, comes back, compiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import surgeon

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx


@dataclass(frozen=True)
class Trial:
    """What was found.

    Attributes:
        nodes: nodes of the file.
        parity: relative error against ONNX Runtime.
        weights: parameters of more than one element.
        unchanged: those that one step of SGD left as they were.
        masks: of those, the exporter's own constants whose gradient is exactly zero.
        gradients: whether every parameter received a finite gradient.
        parity_after: relative error of the written file in ONNX Runtime against the module, after
            the step.
        names: whether the written file has every initializer of the exported one, under its name.
        nodes_kept: whether the written file's nodes are those of the normalized one.
    """

    nodes: int
    parity: float
    weights: int
    unchanged: tuple[str, ...]
    masks: tuple[str, ...]
    gradients: bool
    parity_after: float
    names: bool
    nodes_kept: bool


def of_runtime(proto: onnx.ModelProto, inputs: Sequence[Tensor]) -> np.ndarray[Any, Any]:
    """Return the first output that ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [info.name for info in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    found: np.ndarray[Any, Any] = session.run(None, feeds)[0]
    return found


def relative(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Return the largest difference over the largest value; infinite where either is not finite."""
    if not np.isfinite(found).all() or not np.isfinite(expected).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))


def evaluated(module: torch.nn.Module, inputs: Sequence[Tensor]) -> np.ndarray[Any, Any]:
    """Return the module's output, without a gradient."""
    with torch.no_grad():
        found: np.ndarray[Any, Any] = module(*inputs).numpy()
    return found


def attempt(proto: onnx.ModelProto, inputs: Sequence[Tensor]) -> tuple[Trial, torch.nn.Module]:
    """Convert a file, take one step of SGD at 0.1 with every parameter, write it back.

    Returns:
        What was found, and the module after the step.
    """
    model = surgeon.load(proto)
    module = surgeon.to_torch(model)
    parity = relative(evaluated(module, inputs), of_runtime(proto, inputs))

    parameters = dict(module.named_parameters())
    before = {key: value.detach().clone() for key, value in parameters.items()}
    output = module(*inputs)
    torch.manual_seed(2)
    weighting = torch.randn_like(output) / output.detach().abs().max()
    (output * weighting).sum().backward()
    grads = [value.grad for value in parameters.values()]
    gradients = all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    torch.optim.SGD(parameters.values(), lr=0.1).step()
    weights = {key: value for key, value in parameters.items() if value.numel() > 1}
    unchanged = tuple(key for key, value in weights.items() if torch.equal(value, before[key]))

    tuned = surgeon.write_back(model, module)
    stored = {tensor.name for tensor in tuned.graph.initializer}
    trial = Trial(
        nodes=len(proto.graph.node),
        parity=parity,
        weights=len(weights),
        unchanged=unchanged,
        masks=tuple(k for k in unchanged if k.startswith("val_") and not weights[k].grad.any()),
        gradients=gradients,
        parity_after=relative(of_runtime(tuned, inputs), evaluated(module, inputs)),
        names=stored >= {tensor.name for tensor in proto.graph.initializer},
        nodes_kept=list(tuned.graph.node) == list(model.proto.graph.node),
    )
    return trial, module


def compiled(module: torch.nn.Module, inputs: Sequence[Tensor], backend: str = "eager") -> float:
    """Compile without a graph break allowed; return the relative error against the module."""
    torch.compiler.reset()
    whole = torch.compile(module, fullgraph=True, backend=backend)
    return relative(evaluated(whole, inputs), evaluated(module, inputs))


class _Moves(TorchDispatchMode):
    """Notes every copy between devices."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name in {"aten::_to_copy", "aten::copy_"}:
            tensors = [x for x in tree_leaves((args, result)) if isinstance(x, Tensor)]
            if len({tensor.device for tensor in tensors}) > 1:
                self.found.append(f"copy of {list(tensors[-1].shape)}")
        return result


class _Uploads(TorchFunctionMode):
    """Notes every tensor made of Python numbers on a device: they are copied there, too."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in {torch.tensor, torch.as_tensor, torch.asarray} and result.device.type != "cpu":
            self.found.append(f"upload of {list(result.shape)}")
        return result


def waits(module: torch.nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Return where the host and a device wait for one another in a forward pass.

    The module runs on torch's `meta` device, where tensors have shapes and no data. What reads a
    number there, or has a result whose shape depends on data, raises.

    Raises:
        RuntimeError: a value is read.
    """
    found: list[str] = []
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    moved = {name: value.detach().to("meta") for name, value in state.items()}
    given = tuple(x.to("meta") for x in inputs)
    with torch.no_grad(), _Moves(found), _Uploads(found):
        torch.func.functional_call(module, moved, given)
    return found
