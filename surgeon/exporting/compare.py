"""A new form beside the file it was made from: the same inputs, answers within a bound.

The bound goes by the precision of what computes. What must not enter: what a form is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import CheckError
from surgeon.exporting.given import FLOAT32
from surgeon.graph import envelope
from surgeon.model import BOUND, HALF_BOUND, Model
from surgeon.runtime.observe import relative_error
from surgeon.runtime.proof import encode, golden_feeds, make_proof, seeded_input
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.exporting.given import Given

SEEDED = range(2, 10)
"""Seeds of the inputs that both are run on, beside those of the proof."""


@dataclass(frozen=True)
class Compared:
    """How far the new form's answers lie from the source's."""

    samples: int
    agreement: float | None
    max_difference: float
    relative: float


def compare(given: Given, made: onnx.ModelProto) -> Compared:
    """Run both on the inputs of the proof and on seeded ones.

    Raises:
        CheckError: their answers differ by more than the bound, or the new form does not run.
    """
    stored = given.stored
    before = open_session(stored, device="cpu", where=given.model.where)
    after = open_session(made, device="cpu", where="the exported graph")
    names = stored.graph.output[0].name, made.graph.output[0].name
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for feeds in _feeds(given.model, made, given.golden):
        wanted = given.wanted(before.run(given.before(feeds), [names[0]])[0])
        pairs.append((after.run(feeds, [names[1]])[0], wanted))
    relative = max(relative_error(got, wanted) for got, wanted in pairs)
    bound = bound_of(given)
    if not relative <= bound:
        raise CheckError(
            f"the exported graph answers otherwise: {relative:.1e} relative, the bound is "
            f"{bound:.0e}",
            where="export",
            remedy="nothing was written; leave out one form after another to see which it is",
        )
    alike = [_alike(got, wanted) for got, wanted in pairs]
    return Compared(
        samples=len(pairs),
        agreement=None
        if None in alike
        else float(np.mean([one for one in alike if one is not None])),
        max_difference=max(float(np.abs(got - wanted).max(initial=0.0)) for got, wanted in pairs),
        relative=relative,
    )


def bound_of(given: Given) -> float:
    """Return how far answers may lie apart."""
    model = given.model
    stated = ((model.proof or {}).get("parity") or {}).get("bound")
    usual = max(model.bound, BOUND) if given.precision[-1] == FLOAT32 else HALF_BOUND
    return max(usual, float(stated)) if isinstance(stated, float) else usual


def _alike(got: NDArray[Any], wanted: NDArray[Any]) -> float | None:
    """Return the share of positions whose likeliest class is the same; None without classes."""
    axis = 1 if wanted.ndim == 4 else -1
    if wanted.ndim < 2 or wanted.shape[axis] < 2:
        return None
    return float(np.mean(got.argmax(axis) == wanted.argmax(axis)))


def _entries(model: Model) -> list[Mapping[str, Any]]:
    """Return what the proof says of its golden inputs."""
    return [one["inputs"] for one in (model.proof or {}).get("golden") or ()]


def _feeds(
    model: Model, made: onnx.ModelProto, golden: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, NDArray[Any]]]:
    """Return inputs that both take, the batch of the new form: the proof's, then seeded ones."""
    entries = golden or _entries(model)
    drawn = next((one for one in entries if "seed" in one), {})
    seeded = [{**drawn, "seed": seed} for seed in SEEDED] if drawn else []
    if not entries:
        return [seeded_input(made, seed) for seed in SEEDED]
    return [golden_feeds(made, one) for one in (*entries, *seeded)]


def prove(given: Given, made: onnx.ModelProto, compared: Compared, named: Sequence[str]) -> None:
    """Put a proof of its own into the new form: its weights, and what it answers."""
    model = given.model
    if model.proof is None or model.plan is None:
        return
    session = open_session(made, device="cpu")
    golden = []
    for entry in given.golden or _entries(model):
        (answers,) = session.run(golden_feeds(made, entry), [made.graph.output[0].name])
        golden.append({"inputs": entry, "logits": encode(answers)})
    envelope.put(made, envelope.PROOF, None)
    document = make_proof(
        made, model.plan,
        source_sha256=model.source_sha256,
        parity={
            "samples": compared.samples, "max_relative": compared.relative,
            "bound": bound_of(given),
        },
        golden=golden,
        exported={
            "from_sha256": model.file_sha256, "forms": list(named),
            "precision": given.precision[-1],
        },
    )  # fmt: skip
    envelope.put(made, envelope.PROOF, document)
