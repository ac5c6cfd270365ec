"""A start from scratch: weights drawn by the scheme of the graph, scaled by what flows through.

Exporters fold normalization layers into the weights in front of them; a network drawn at random
without them dies or explodes within a dozen layers. So after drawing, one batch runs through the
program, and every convolution or matrix product is rescaled, in program order, so that its output
has variance 1: LSUV, Mishkin & Matas 2015 (arXiv 1511.06422). One factor for a whole weight: to set
mean and variance channel by channel, as the folded layer did, was measured and trains far worse
(the gradient then grows from layer to layer). What must not enter: training, the scheme itself.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surgeon.errors import UnknownNameError
from surgeon.graph.initialization import scheme
from surgeon.torch_graph import program as programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt
    from onnx import ModelProto

    from surgeon.graph.initialization import Rule
    from surgeon.torch_graph.module import GraphModule

#: Spread below which an output counts as dead on this batch and is left alone.
_DEAD = 1e-6


@dataclass(frozen=True)
class Start:
    """What `randomize` did: names drawn anew, names kept as stored, operators that were scaled."""

    drawn: tuple[str, ...]
    kept: tuple[str, ...]
    scaled: tuple[str, ...]


def randomize(
    module: GraphModule,
    rules: Mapping[str, Rule],
    names: Iterable[str],
    *,
    seed: int = 0,
    inputs: Sequence[Any] | None = None,
) -> Start:
    """Draw weights anew, in place, and scale them by one batch.

    Every tensor has a generator of its own, by seed and name: what is drawn does not depend on the
    others. Weights of one element keep their stored value (temperatures, scales of a formula).

    Args:
        module: converted, on any device.
        rules: from `surgeon.graph.initialization.scheme` of the same graph.
        names: parameters and statistics to draw.
        seed: any integer ≥ 0.
        inputs: one batch, by position, as the module takes it; some 16 to 64 samples. None = drawn
            by the scheme alone.

    Returns:
        What was done.

    Raises:
        UnknownNameError: a name that the module or the scheme lacks.

    """
    state = module.state_dict(keep_vars=True)
    drawn, kept = [], []
    wanted = list(names)
    for name in wanted:
        if name not in state or name not in rules:
            raise UnknownNameError("weight", name, set(state) & set(rules))
        tensor = state[name]
        if rules[name].draw == "keep" or tensor.numel() <= 1:
            kept.append(name)
            continue
        values = draw(rules[name], tuple(tensor.shape), seed=seed, name=name)
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(values))
        drawn.append(name)
    scaled = () if inputs is None else _scale(module, rules, frozenset(drawn), inputs)
    return Start(tuple(drawn), tuple(kept), scaled)


def draw_all(
    model: ModelProto, names: Iterable[str], *, seed: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Draw initializers anew by the scheme of their graph, those that it keeps left out.

    Args:
        model: graph that holds them.
        names: of float initializers, statistics included.
        seed: any integer ≥ 0.
    """
    rules = scheme(model)
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return {
        name: draw(rules[name], dims[name], seed=seed, name=name)
        for name in names
        if rules[name].draw != "keep"
    }


def draw(rule: Rule, shape: tuple[int, ...], *, seed: int, name: str) -> npt.NDArray[np.float32]:
    """Return the values of one weight: a function of rule, shape, seed and name alone."""
    digest = hashlib.sha256(name.encode()).digest()[:8]
    generator = np.random.default_rng((seed, int.from_bytes(digest, "little")))
    if rule.draw == "constant":
        return np.full(shape, rule.value, dtype=np.float32)
    if rule.draw == "forget":
        bias = np.zeros((*shape[:-1], 8, shape[-1] // 8), dtype=np.float32)
        bias[..., 2, :] = 1
        return bias.reshape(shape)
    if rule.draw == "orthogonal":
        hidden = shape[-1]
        squares = generator.standard_normal((math.prod(shape) // hidden**2, hidden, hidden))
        q, r = np.linalg.qr(squares)
        q *= np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]  # uniform over rotations
        return q.reshape(shape).astype(np.float32)
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(rule.std)


def observe(
    module: GraphModule,
    inputs: Sequence[Any],
    seen: Callable[[programs.Step, dict[str, Any]], None],
) -> None:
    """Run the module's program step by step in evaluation mode, without gradients.

    `seen` gets each step and the values by name after it; what it changes there, later steps read.
    """
    program: programs.Program = module.__dict__["_onnx_program"]
    environment: dict[str, Any] = dict(zip(program.inputs, inputs, strict=True))
    environment.update(module.constants())
    weights = module.state_dict(keep_vars=True)
    for name in program.weights:
        environment[name] = weights[name].detach()
    device = next(iter(weights.values())).device
    context = programs.Context(training=False, device=device)
    with torch.no_grad():
        for step in program.steps:
            programs.execute([step._replace(frees=())], environment, context)
            seen(step, environment)
            for name in step.frees:
                environment.pop(name, None)


def _scale(
    module: GraphModule,
    rules: Mapping[str, Rule],
    drawn: frozenset[str],
    inputs: Sequence[Any],
) -> tuple[str, ...]:
    last = {argument.source for argument in module.__dict__["_onnx_program"].outputs}
    weights = module.state_dict(keep_vars=True)
    todo = {name for name in drawn if rules[name].scaled}
    scaled = []
    # A weight may reach its operator through views: the name that arrives is that of the view.
    arrives = {name: name for name in todo}

    def seen(step: programs.Step, environment: dict[str, Any]) -> None:
        sources = [argument.source for argument in step.arguments]
        name = next((arrives[s] for s in sources if s in arrives), None)
        if name is None or name not in todo:
            return
        if step.operator.split(" ")[-1].split("-")[0] in _VIEW_STEPS:
            arrives[step.outputs[0]] = name
            return
        todo.discard(name)
        output = environment[step.outputs[0]]
        if step.outputs[0] in last or not isinstance(output, Tensor):
            return  # the head starts with its own small logits
        spread = output.float().std()
        if float(spread) < _DEAD or not bool(torch.isfinite(spread)):
            return
        weights[name].div_(spread.to(weights[name].dtype))
        # The bias is 0 or still to come, so the output follows the weight.
        environment[step.outputs[0]] = output / spread.to(output.dtype)
        scaled.append(step.node)

    observe(module, inputs, seen)
    return tuple(scaled)


_VIEW_STEPS = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze"})
