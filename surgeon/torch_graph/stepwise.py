"""Parity of a graph that quantises what flows through it, one quantisation at a time.

Sums of floats differ in their last digit from one engine to the other; beside a tie such a digit
moves a value by a whole step of int8, and everything behind it by per cents. So torch goes on from
ONNX Runtime's own numbers behind every quantisation, and what is compared is each of them, and the
logits that follow from the last. The reference computes the operators as written: ONNX
Runtime's optimised integer kernels are a third opinion, which is reported, not judged (theirs
overflow in 32 bits where a bias was saturated). What must not enter: training, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import torch
from torch import Tensor

from surgeon.runtime.observe import relative_error
from surgeon.runtime.sessions import open_session
from surgeon.torch_graph.initialize import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.torch_graph.module import GraphModule
    from surgeon.torch_graph.program import Step

    Feeds = Mapping[str, NDArray[Any]]

SHARE: Final = 1e-3
"""Share of the quantised values that may round to the neighbouring step."""


@dataclass(frozen=True)
class Agreement:
    """How torch and ONNX Runtime agree on a quantising graph.

    Attributes:
        relative: error of the logits, from the same quantised values; and of scales that follow
            from the range of what is quantised.
        values: quantised values compared.
        differing: how many of them differ.
        steps: by how many steps at most.
        optimised: relative difference of the logits between ONNX Runtime with its integer kernels
            and ONNX Runtime computing the operators as written.
    """

    relative: float
    values: int
    differing: int
    steps: int
    optimised: float

    @property
    def rounds_alike(self) -> bool:
        """Whether the quantised values are the same but for ties."""
        return self.steps <= 1 and self.differing <= max(1.0, SHARE * self.values)


def quantised_values(model: ModelProto) -> list[str]:
    """Return what the nodes of a graph make that round to integers.

    Of a DynamicQuantizeLinear its scale and zero point, too: they are rounded from the range of
    the values.
    """
    found = []
    for node in model.graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            found += node.output
        elif node.op_type in ("QuantizeLinear", "QGemm") or node.op_type.startswith("QLinear"):
            found.append(node.output[0])
    return [name for name in found if name]


def compare(
    model: ModelProto,
    module: GraphModule,
    quantised: Sequence[str],
    feeds: Sequence[Feeds],
    *,
    as_tensor: Callable[[NDArray[Any]], Tensor],
    threads: int | None = None,
) -> Agreement:
    """Compare torch with ONNX Runtime behind every quantisation.

    Args:
        model: the whole graph.
        module: of the part that is compared; its inputs are inputs or inner values of `model`.
        quantised: `quantised_values` of that part.
        feeds: samples, one by one.
        as_tensor: how an array becomes an input of the module.
        threads: of ONNX Runtime.
    """
    output = model.graph.output[0].name
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    given = {value.name for value in model.graph.input} | {output}
    extra = [name for name in [*module.input_names, *quantised] if name not in given]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(extra))
    written = open_session(shown, device="cpu", threads=threads, optimised=False)
    optimised = open_session(model, device="cpu", threads=threads)
    counts = np.zeros(2, np.int64)
    steps = 0
    scales = 0.0
    logits: list[NDArray[Any]] = []
    references: list[NDArray[Any]] = []
    deployed: list[NDArray[Any]] = []
    for one in feeds:
        wanted = {**one, **dict(zip(written.outputs, written.run(one), strict=True))}
        judge = _Judge(wanted, set(quantised), output)
        observe(module, [as_tensor(wanted[name]) for name in module.input_names], judge.seen)
        counts += (judge.values, judge.differing)
        steps, scales = max(steps, judge.steps), max(scales, judge.scales)
        assert judge.logits is not None
        logits.append(judge.logits)
        references.append(wanted[output])
        deployed.append(optimised.run(one, [output])[0])
    reference = np.concatenate(references)
    return Agreement(
        relative=max(relative_error(np.concatenate(logits), reference), scales),
        values=int(counts[0]),
        differing=int(counts[1]),
        steps=steps,
        optimised=relative_error(np.concatenate(deployed), reference),
    )


class _Judge:
    """Compares values as they are made, and puts ONNX Runtime's in the place of torch's."""

    def __init__(self, wanted: Feeds, quantised: set[str], output: str) -> None:
        self.wanted, self.quantised, self.output = wanted, quantised, output
        self.values = self.differing = self.steps = 0
        self.scales = 0.0
        self.logits: NDArray[Any] | None = None

    def seen(self, step: Step, environment: dict[str, Any]) -> None:
        judged = [name for name in step.outputs if name in self.quantised]
        made = [environment[name] for name in judged]
        wanted = [torch.from_numpy(np.array(self.wanted[name])) for name in judged]
        environment.update(zip(judged, wanted, strict=True))
        if len(judged) == 3:
            self.scales = max(self.scales, relative_error(made[1].numpy(), wanted[1].numpy()))
            # Integers count from the zero point, which may round the other way, too.
            made, wanted = ([x[0].to(torch.int64) - x[2], x[2]] for x in (made, wanted))
        for got, reference in zip(made, wanted, strict=True):
            if reference.is_floating_point():
                self.scales = max(self.scales, relative_error(got.numpy(), reference.numpy()))
                continue
            apart = (got.to(torch.int64) - reference.to(torch.int64)).abs()
            self.values += apart.numel()
            self.differing += int((apart > 0).sum())
            self.steps = max(self.steps, int(apart.max()) if apart.numel() else 0)
        if self.output in step.outputs:
            self.logits = environment[self.output].float().numpy()
