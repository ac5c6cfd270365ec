"""What must hold of everything that is tuned, whoever decided and built it.

Each claim is a line of text and what is wrong, None where it holds. They are recomputed here from
the files themselves, by onnx and ONNX Runtime. What must not enter: how a file is tuned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from surgeon.errors import UnsupportedError
from surgeon.graph.weights import roles, same_values
from surgeon.records import Plan
from surgeon.runtime.observe import relative_error
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.model import Model

Stated = tuple[str, str | None]
"""A claim, and what is wrong with it."""
RUNS = "runs, or refuses in clear words"
OWN = "runs on the examples that it brings"


@dataclass(frozen=True)
class Claim:
    """A claim over all models: whether it held, and on which it did not."""

    name: str
    passed: bool
    detail: str | None = None


@dataclass
class Ledger:
    """Which claim held on which model, and which models were refused in clear words."""

    stated: dict[str, dict[str, str | None]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def note(self, model: str, claim: str, problem: str | None) -> None:
        """Note what a claim came to on a model; what was wrong once stays wrong."""
        found = self.stated.setdefault(claim, {})
        found[model] = found.get(model) or problem

    def claims(self) -> list[Claim]:
        """Return the claims over all models."""
        found = []
        for claim, models in self.stated.items():
            wrong = [
                f"{model}: {said}" if model else said for model, said in models.items() if said
            ]
            told = "; ".join(wrong) or _counted(models)
            if claim == RUNS and not wrong and self.refused:
                told += f"; refused: {'; '.join(f'{m}: {w}' for m, w in self.refused.items())}"
            found.append(Claim(claim, not wrong, told or None))
        return found


def _counted(models: Mapping[str, Any]) -> str:
    count = sum(1 for model in models if model)
    return f"{count} model{'s' * (count != 1)}" if count else ""


def of_plan(plan: Plan) -> str | None:
    """Say what is wrong where a plan does not come back from its JSON."""
    try:
        back = Plan.from_dict(json.loads(json.dumps(plan.as_dict())))
    except Exception as error:  # noqa: BLE001 - whatever a plugin put into it
        return f"{type(error).__name__}: {error}"
    return None if back.as_dict() == plan.as_dict() else "it comes back as another one"


def of_file(source: Model, made: Model) -> Iterator[Stated]:
    """Yield the claims on what was made of a file."""
    yield "valid ONNX at the file's opset", _valid(source.proto, made.proto)
    allowed = {*made.trainable, *_statistics(made)}
    moved = _moved(source.proto, made.proto, allowed)
    yield "frozen initializers keep their bytes", _listed(moved)
    yield "the plan is plain data", None if made.plan is None else of_plan(made.plan)


def of_training(tuned: Model, feeds: dict[str, NDArray[Any]]) -> Iterator[Stated]:
    """Yield the claims on a tuned file beside the one it was tuned from."""
    before, allowed = tuned.before or tuned.proto, {*tuned.trainable, *_statistics(tuned)}
    yield "only trainable initializers change", _listed(_moved(before, tuned.proto, allowed))
    same = list(before.graph.node) == list(tuned.proto.graph.node)
    yield "nodes stay the same", None if same else "they are others than those of the operated file"
    finite = [
        tensor.name
        for tensor in tuned.proto.graph.initializer
        if tensor.name in allowed and not np.isfinite(numpy_helper.to_array(tensor)).all()
    ]
    yield "weights are finite", _listed(finite, "hold no numbers")
    yield "parity with ONNX Runtime", parity(tuned, feeds)


def parity(model: Model, feeds: dict[str, NDArray[Any]]) -> str | None:
    """Say how far torch and ONNX Runtime are apart where that is too far."""
    from surgeon.torch_graph.backend import SurgeonBackend
    from surgeon.torch_graph.stepwise import quantised_values

    if quantised := quantised_values(model.proto):
        worst = _step_by_step(model, quantised, feeds)
        return None if worst <= model.bound else f"relative error {worst:.1e} > {model.bound:.0e}"
    session = open_session(model.proto, device="cpu", threads=1)
    given = {name: feeds[name] for name in session.inputs if name in feeds}
    expected = session.run(given)
    try:
        found = SurgeonBackend.run_model(model.proto, list(given.values()))
    except UnsupportedError:
        return None  # frozen parts need not be converted
    worst = max(map(relative_error, found, expected))
    return None if worst <= model.bound else f"relative error {worst:.1e} > {model.bound:.0e}"


def _step_by_step(model: Model, quantised: Sequence[str], feeds: dict[str, NDArray[Any]]) -> float:
    """Compare behind every rounding: one that falls the other way is seen by all behind it."""
    from surgeon.ops.convert import from_numpy
    from surgeon.torch_graph.module import to_module
    from surgeon.torch_graph.stepwise import compare

    try:
        module = to_module(model.proto, roles=roles(model.proto))
    except UnsupportedError:
        return 0.0  # frozen parts need not be converted
    given = {name: feeds[name] for name in module.input_names}
    return compare(model.proto, module, quantised, [given], as_tensor=from_numpy).relative


def same_bits(one: Model, other: Model) -> str | None:
    """Say which initializers differ between two files made with the same seed."""
    return _listed(_moved(one.proto, other.proto, set()), "differ")


def _listed(names: Sequence[str], verb: str = "changed") -> str | None:
    return f"{', '.join(names)} {verb}" if names else None


def _valid(source: ModelProto, made: ModelProto) -> str | None:
    before, after = (
        {one.domain: one.version for one in model.opset_import} for model in (source, made)
    )
    raised = [
        f"opset {before[domain]} of {domain or 'ai.onnx'} became {version}"
        for domain, version in after.items()
        if before.get(domain, version) != version
    ]
    try:
        onnx.checker.check_model(made, full_check=True)
    except Exception as error:  # noqa: BLE001 - the checker's own words
        raised.append(" ".join(str(error).split())[:200])
    return "; ".join(raised) or None


def _statistics(model: Model) -> list[str]:
    return [name for name, role in model.roles().items() if role == "statistics"]


def _moved(before: ModelProto, after: ModelProto, allowed: set[str]) -> list[str]:
    """Return the initializers that both have, that differ, and that may not."""
    stored = {tensor.name: tensor for tensor in before.graph.initializer}
    return [
        tensor.name
        for tensor in after.graph.initializer
        if tensor.name in stored
        if tensor.name not in allowed and not same_values(stored[tensor.name], tensor)
    ]
