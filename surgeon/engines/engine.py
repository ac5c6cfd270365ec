"""The two that compute a frozen part on a device: ONNX Runtime and torch.

Both take a batch that lies on the device and leave theirs there. What must not enter: which of them
is faster (`surgeon.engines.choice`), how samples come (`surgeon.engines.conveyor`).
"""

from __future__ import annotations

import copy
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from surgeon.errors import ModelError
from surgeon.graph.weights import roles
from surgeon.ops import convert
from surgeon.runtime.sessions import Block
from surgeon.torch_graph.chains import name_of
from surgeon.torch_graph.module import to_module
from surgeon.train.device import arithmetic, autocast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onnx import ModelProto

    from surgeon.runtime.sessions import Session
    from surgeon.torch_graph.module import GraphModule


#: Types of the reduced precisions.
REDUCED: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}


#: Steps that autocast computes in the reduced type; their first two inputs are the factors.
_PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "MatMul+Add"})


class OnnxEngine:
    """ONNX Runtime, on values that lie on its device; nothing is copied."""

    def __init__(self, session: Session, outputs: Sequence[str] | None = None) -> None:
        """Wrap a session.

        Args:
            session: best opened on the stream that the values are made on (`Device.stream`): then
                everything is in the order of that stream, and memory of one run is not taken by
                the next before it has been read. With another stream the host waits before it runs.
            outputs: names; None = all.
        """
        self.name = f"ONNX Runtime on {session.device.upper()}"
        self.providers = session.providers
        self.session = session
        self.outputs = list(session.outputs if outputs is None else outputs)

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs.

        Raises:
            OutOfMemoryError, DataError, ModelError: as `Session.run_bound`.
        """
        session = self.session
        # Held until the run is over: blocks are addresses only.
        tensors = {name: self._dense(name, values[name]) for name in session.inputs}
        if session.device == "cuda":
            current = torch.cuda.current_stream(session.index)
            if session.stream != current.cuda_stream:
                current.synchronize()
        blocks = {name: _block(tensor) for name, tensor in tensors.items()}
        found = session.run_bound(blocks, self.outputs)
        return {n: from_dlpack(v) for n, v in zip(self.outputs, found, strict=True)}

    def _dense(self, name: str, value: Tensor) -> Tensor:
        if name in self.session.on_host and value.is_cuda:
            value = value.cpu()  # rare and small: an input that says how a shape is to be
        return value.contiguous()


class TorchEngine:
    """The frozen graph as a torch module, channels last, without gradients."""

    def __init__(
        self,
        frozen: ModelProto,
        device: torch.device,
        *,
        precision: str = "float32",
        one_shape: bool = True,
        whole: bool = False,
    ) -> None:
        """Convert.

        Args:
            frozen: normalized graph, its weights in it or in files that `surgeon.load` found.
            device: where to run.
            precision: `float32` (TF32 stays off), `bf16` or `fp16` by autocast.
            one_shape: whether all batches will have one shape, so that the fastest algorithm for
                it is worth looking for.
            whole: reduced precision is that of every operator, as networks of torch run, instead of
                autocast. What mixes types does not run so.

        Raises:
            UnsupportedError, ModelError: what `surgeon.to_torch` cannot convert.
        """
        self.name = f"torch {'wholly ' if whole else ''}in {precision}"
        self.providers: tuple[str, ...] = (f"torch:{device}",)
        self.device = device
        self.precision = precision
        self.outputs = [value.name for value in frozen.graph.output]
        self.module = to_module(frozen, roles=roles(frozen)).to(device)
        self._one_shape = one_shape
        self._forward: Any = self.module
        self._autocast = "float32" if whole else precision
        self._inputs = REDUCED.get(precision) if whole else None
        if self._inputs is not None:
            self.module.to(self._inputs)
        reduced = REDUCED.get(self._autocast)
        factors = frozenset[str]() if reduced is None else factors_of(self.module)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(False)
            if name in factors:
                parameter.data = parameter.data.to(reduced)
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        # All of this is the default stream's work, and runs compute on one that does not wait.
        wait(device)

    def run(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs.

        Raises:
            ModelError: an operator failed.
        """
        with ExitStack() as contexts:
            contexts.enter_context(torch.inference_mode())
            contexts.enter_context(_looking(self.device, self._one_shape))
            contexts.enter_context(arithmetic(self.device, exact=True))
            contexts.enter_context(autocast(self._autocast, self.device))
            found = self._forward(*(self._taken(values[n]) for n in self.module.input_names))
        results = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.outputs, results, strict=True))

    def _taken(self, value: Tensor) -> Tensor:
        if self._inputs is None or not value.is_floating_point():
            return value
        return value.to(self._inputs)

    def compiled(self, *, tuned: bool = False) -> TorchEngine:
        """Return the same engine compiled, which happens in its first run.

        Args:
            tuned: also try many ways of computing each product, which takes minutes.
        """
        engine = copy.copy(self)
        engine.name = f"{'autotuned' if tuned else 'compiled'} {self.name}"
        mode = "max-autotune-no-cudagraphs" if tuned else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler, about itself
            engine._forward = torch.compile(  # noqa: SLF001 - its own
                self.module, dynamic=False, mode=mode
            )
        return engine


def factors_of(module: GraphModule) -> frozenset[str]:
    """Return the weights in float32, of two axes and more, that products alone read.

    Autocast would make a copy of each in the reduced type in every run: it keeps copies only of
    what gets a gradient.
    """
    program = module._onnx_program  # noqa: SLF001 - who reads a weight stands nowhere else
    read = {argument.source for argument in program.outputs}
    factors: set[str | None] = set()
    for step in program.steps:
        sources = [argument.source for argument in step.arguments]
        count = 2 if name_of(step) in _PRODUCTS else 0
        factors.update(sources[:count])
        read.update(sources[count:])
        for subgraph in step.subgraphs.values():
            read.update(subgraph.captures)
    return frozenset(
        name
        for name, weight in module.named_parameters()
        if name in factors - read and weight.dim() >= 2 and weight.dtype == torch.float32
    )


@contextmanager
def _looking(device: torch.device, wanted: bool) -> Iterator[None]:
    """Let cuDNN look for the fastest algorithm of every shape that it meets, or not."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def wait(device: torch.device) -> None:
    """Wait until a device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _block(tensor: Tensor) -> Block:
    element = convert.ONNX.get(tensor.dtype)
    if element is None:
        raise ModelError(f"a tensor of {tensor.dtype} cannot be fed", remedy="use another export")
    shape, device = tuple(tensor.shape), tensor.device
    return Block(tensor.data_ptr(), element, shape, device.type, device.index or 0)
