"""The standard backend interface of ONNX, so that its official test runner can run ours.

What must not enter: operators, training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from surgeon.errors import UsageError
from surgeon.graph import gate
from surgeon.ops import convert
from surgeon.torch_graph.module import GraphModule, to_module


class Rep(BackendRep):
    """A model made ready: `run` takes numpy arrays in graph-input order and returns a tuple."""

    def __init__(self, module: GraphModule, model: onnx.ModelProto, device: torch.device) -> None:
        self.module = module
        self.device = device
        self.outputs = [(info.name, _element_type(info.type)) for info in model.graph.output]

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model.

        Args:
            inputs: arrays in graph-input order, or by name; a list is a sequence, None an optional.
            kwargs: ignored, as the interface asks.
        """
        del kwargs
        names = self.module.input_names
        if isinstance(inputs, Mapping):
            values = [inputs.get(name) for name in names]
        else:
            given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            values = given + [None] * (len(names) - len(given))
        with torch.no_grad():
            results = self.module(*(self._to_torch(v) for v in values))
        results = results if len(self.outputs) != 1 else (results,)
        arrays = [
            _to_numpy(value, number)
            for value, (_, number) in zip(results, self.outputs, strict=True)
        ]
        make: Any = namedtupledict("Outputs", [name for name, _ in self.outputs])
        return make(*arrays)  # type: ignore[no-any-return]

    def _to_torch(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._to_torch(v) for v in value]
        if value is None or isinstance(value, dict):
            return value
        if isinstance(value, onnx.TensorProto):
            converted = convert.tensor(value)
        else:
            converted = convert.from_numpy(np.asarray(value))
        return converted.to(self.device) if isinstance(converted, torch.Tensor) else converted


class SurgeonBackend(Backend):
    """`surgeon` as an `onnx.backend.base.Backend`."""

    devices: ClassVar[Mapping[Any, str]] = {DeviceType.CPU: "cpu", DeviceType.CUDA: "cuda"}

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Rep:
        """Convert a model.

        Raises:
            UnsupportedError: an operator, version or form that is not converted.
            UsageError: the device is not there.
        """
        del kwargs
        if not cls.supports_device(device):
            raise UsageError(f"device {device!r} is not supported", remedy="use CPU or CUDA")
        parsed = Device(device)
        gate.check(model, "the model")
        name = cls.devices[parsed.type]
        place = torch.device(name, parsed.device_id) if name == "cuda" else torch.device(name)
        module = to_module(model, roles={})
        return Rep(module.to(place), model, place)

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """Convert and run a model once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run a single node; `opset_version` chooses the version, the newest by default."""
        given = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        formal = [name for name in node.input if name]
        arrays = [np.asarray(v) for v in given if v is not None]
        graph = onnx.helper.make_graph(
            [node],
            "node",
            [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for name, array in zip(formal, arrays, strict=False)
            ],
            [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name],
        )
        for info, expected in zip(graph.output, outputs_info or (), strict=False):
            number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(expected[0]))
            info.type.tensor_type.elem_type = number
        opset = kwargs.get("opset_version") or onnx.defs.onnx_opset_version()
        opsets = [onnx.helper.make_opsetid("", opset)]
        if node.domain:
            opsets.append(onnx.helper.make_opsetid(node.domain, kwargs.get("domain_version", 1)))
        return cls.run_model(onnx.helper.make_model(graph, opset_imports=opsets), arrays, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Tell whether a device (`CPU`, `CUDA`, `CUDA:1`) can be used here."""
        kind = device.split(":", maxsplit=1)[0].upper()
        return kind == "CPU" or (kind == "CUDA" and torch.cuda.is_available())


def _element_type(kind: onnx.TypeProto) -> int:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return _element_type(kind.sequence_type.elem_type)
    if which == "optional_type":
        return _element_type(kind.optional_type.elem_type)
    return kind.tensor_type.elem_type if which == "tensor_type" else 0


def _to_numpy(value: Any, number: int) -> Any:
    if value is None or isinstance(value, dict | str):
        return value
    if isinstance(value, list):
        return [_to_numpy(v, number) for v in value]
    return convert.to_numpy(value, number)


prepare = SurgeonBackend.prepare
run_model = SurgeonBackend.run_model
run_node = SurgeonBackend.run_node
supports_device = SurgeonBackend.supports_device
