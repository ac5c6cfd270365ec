"""Published networks, exported by both exporters: parity, gradients, names, compiling, waiting.

Every network is tried in one export of each exporter here, so that every opset is met with folded
and with kept BatchNormalization; `benchmarks/architectures.py` tries them all.
"""

from __future__ import annotations

import copy
import json
from itertools import cycle, product

import numpy as np
import pytest
import torch
from architectures import networks
from exports import EXPORTERS, OPSETS, export
from measured import PAGE, RESULTS, page, tried
from trials import Trial, attempt, compiled, evaluated, of_runtime, relative, waits

import surgeon

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters warn much

NETWORKS = networks()
FAST = [
    ("mobilenetv3_small_050", "torchscript", 17, True),
    ("convnext_atto", "torchscript", 20, False),
    ("vit", "torchscript", 17, False),
    ("gpt-2", "dynamo", 23, False),
    ("bert", "torchscript", 23, True),
]


def spread() -> list[tuple[str, str, int, bool]]:
    """Deal the combinations of opset and BatchNormalization out, one per network and exporter."""
    hands = {exporter: cycle(product(OPSETS, (True, False))) for exporter in EXPORTERS}
    next(hands["dynamo"])
    return [(name, exporter, *next(hands[exporter])) for name in NETWORKS for exporter in EXPORTERS]


def check(trial: Trial, *, masks: bool) -> None:
    assert trial.parity <= 1e-4
    assert trial.parity_after <= 1e-4
    assert trial.gradients
    assert trial.unchanged == (trial.masks if masks else ())
    assert trial.names
    assert trial.nodes_kept


def as_torch_sees_it(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """The module copies, loads strictly and is called with other weights, to the same result."""
    with torch.no_grad():
        expected = module(*inputs)
        twin = copy.deepcopy(module)
        for value in twin.parameters():
            value.zero_()
        twin.load_state_dict(module.state_dict(), strict=True)
        torch.testing.assert_close(twin(*inputs), expected, rtol=0, atol=0)
        for value in twin.parameters():
            value.zero_()
        called = torch.func.functional_call(twin, module.state_dict(), inputs)
        torch.testing.assert_close(called, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "exporter", "opset", "kept"),
    [
        pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow)
        for case in dict.fromkeys([*FAST, *spread()])
    ],
)
def test_it_converts_learns_and_comes_back(
    name: str, exporter: str, opset: int, kept: bool
) -> None:
    inputs = NETWORKS[name].inputs
    trial, module = attempt(export(name, exporter, opset, kept=kept), inputs)
    check(trial, masks=NETWORKS[name].masks)
    as_torch_sees_it(module, inputs)
    if exporter == "torchscript":
        assert compiled(module, inputs) <= 1e-5
    else:
        program = torch.export.export(module, inputs)
        # Traced products are torch's own, else they may be oneDNN's: other roundings.
        found, expected = evaluated(program.module(), inputs), evaluated(module, inputs)
        assert relative(found, expected) <= 1e-5
    assert waits(module, inputs) == []


@pytest.mark.parametrize("name", ["bert", "gpt-2", "lstm", "gru"])
def test_the_slope_is_that_of_onnx_runtime(name: str) -> None:
    slope_is_right(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", "vit", "swin_t", "efficientnet_b0"])
def test_the_slope_of_a_published_network_is_that_of_onnx_runtime(name: str) -> None:
    slope_is_right(name)


def slope_is_right(name: str) -> None:
    """Smooth networks: a step of all weights changes ONNX Runtime's output as our gradient says."""
    inputs = NETWORKS[name].inputs
    model = surgeon.load(export(name, "torchscript", 17, kept=False))
    module = surgeon.to_torch(model)
    output = module(*inputs)
    torch.manual_seed(3)
    weighting = torch.randn_like(output) / output.detach().abs().max()
    (output * weighting).sum().backward()
    weights = {k: v for k, v in module.named_parameters() if v.numel() > 1}
    way = {k: torch.randn_like(v) * v.detach().abs().mean() for k, v in weights.items()}
    slope = sum(float((way[k] * v.grad).sum()) for k, v in weights.items())

    def loss(step: float) -> float:
        moved = surgeon.tensors(module) | {
            k: v.detach() + step * way[k] for k, v in weights.items()
        }
        found = of_runtime(surgeon.write_back(model, moved), inputs).astype(np.float64)
        return float((found * weighting.numpy()).sum())

    step = 1e-3
    measured = (loss(step) - loss(-step)) / (2 * step)
    assert abs(slope) > 0.1
    assert abs(measured - slope) <= 0.02 * abs(slope) + 1e-2


def test_what_waits_is_found() -> None:
    class Waiting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.tensor([1.0, 2.0], device=x.device)

    assert waits(Waiting(), (torch.ones(2),)) == ["upload of [2]"]

    class Reading(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(x.sum())

    with pytest.raises(RuntimeError, match="meta"):
        waits(Reading(), (torch.ones(2),))


def test_the_error_is_relative() -> None:
    assert relative(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert relative(np.array([np.nan]), np.array([1.0])) == float("inf")


def test_the_page_is_what_was_measured() -> None:
    results = json.loads(RESULTS.read_text("utf-8"))
    assert [row["key"] for row in results["rows"]] == ["-".join(map(str, c)) for c in tried()]
    assert PAGE.read_text("utf-8") == page(results)
