"""A new form beside the file it was made from: the same inputs, answers within a bound.

The bound goes by the precision of what computes. What must not enter: what a form is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import CheckError
from surgeon.exporting.given import FLOAT32, Compared
from surgeon.graph import envelope
from surgeon.graph.precision import BOUNDS
from surgeon.runtime.observe import relative_error
from surgeon.runtime.proof import encode, golden_feeds, make_proof, seeded_input
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

    from surgeon.exporting.given import Given, Pair
    from surgeon.model import Model

SEEDED = range(2, 10)
"""Seeds of the inputs that both are run on, beside those of the proof."""


def compare(given: Given, made: onnx.ModelProto) -> Compared:
    """Run both on the inputs of the proof and on seeded ones.

    Raises:
        CheckError: their answers differ by more than the bound, or the new form does not run.
    """
    reference = given.reference
    before = open_session(reference, device="cpu", where=given.model.where)
    after = open_session(made, device="cpu", where="the exported graph")
    names = reference.graph.output[0].name, made.graph.output[0].name
    pairs: list[Pair] = []
    for feeds in feeds_of(given.model, made, given.golden):
        wanted = given.wanted(before.run(given.before(feeds), [names[0]])[0])
        pairs.append((after.run(feeds, [names[1]])[0], wanted))
    found = figures(pairs, given.link)
    bound = bound_of(given)
    if not found.relative <= bound:
        raise CheckError(
            f"the exported graph answers otherwise: {found.relative:.1e} relative, the bound is "
            f"{bound:.0e}",
            where="export",
            remedy="nothing was written; leave out one form after another to see which it is",
        )
    return found


def told(given: Given, compared: Compared) -> Compared:
    """Return what people are told: of a form that data judged, what the whole file makes of it."""
    if given.judged is None:
        return compared
    pairs = [(given.wanted(got), given.wanted(wanted)) for got, wanted in given.judged]
    return figures(pairs, given.link)


def figures(pairs: Sequence[Pair], link: str | None) -> Compared:
    """Return how far answers (the first of each pair) lie from what is wanted (the second)."""
    relative = max(relative_error(got, wanted) for got, wanted in pairs)
    if any(got.shape != wanted.shape for got, wanted in pairs):
        return Compared(len(pairs), None, relative, relative, relative)
    same = [alike(got, wanted, link) for got, wanted in pairs]
    off = [np.asarray(got, np.float64) - wanted for got, wanted in pairs]
    squares = np.concatenate([np.ravel(one) for one in off]) ** 2
    spread = np.concatenate([np.ravel(w - w.mean()) for _, w in pairs]) ** 2
    if all(wanted.shape == pairs[0][1].shape for _, wanted in pairs):
        stacked = np.stack([wanted for _, wanted in pairs])
        spread = (stacked - stacked.mean(0)).ravel() ** 2 if len(pairs) > 1 else spread
    largest = max(float(np.abs(one).max(initial=0.0)) for one in off)
    return Compared(
        samples=len(pairs),
        agreement=None
        if None in same
        else float(np.mean([one for one in same if one is not None])),
        max_difference=largest,
        relative=relative,
        error=float(np.sqrt(squares.mean() / max(float(spread.mean()), 1e-12))),
    )


def alike(got: NDArray[Any], wanted: NDArray[Any], link: str | None) -> float | None:
    """Return the share of positions with the same class, or the same labels; None without any."""
    axis = 1 if wanted.ndim == 4 else -1
    if link not in ("softmax", "logistic") or wanted.ndim < 2 or got.shape != wanted.shape:
        return None
    if link == "logistic":
        inside = bool(wanted.min(initial=0) >= 0 and wanted.max(initial=0) <= 1)
        border = 0.5 if inside else 0.0
        return float(np.mean((got > border) == (wanted > border)))
    if wanted.shape[axis] < 2:
        return None
    return float(np.mean(got.argmax(axis) == wanted.argmax(axis)))


def _entries(model: Model) -> list[Mapping[str, Any]]:
    """Return what the proof says of its golden inputs."""
    return [one["inputs"] for one in (model.proof or {}).get("golden") or ()]


def feeds_of(
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
    known = {one.name for one in given.stored.graph.initializer}
    document = make_proof(
        made, model.plan,
        source_sha256=model.source_sha256,
        parity={
            "samples": compared.samples, "max_relative": compared.relative,
            "bound": bound_of(given),
        },
        golden=golden,
        exported={
            "from_sha256": model.file_sha256,
            "forms": list(named),
            "precision": given.precision,
            "made": sorted(one.name for one in made.graph.initializer if one.name not in known),
            **given.stated,
        },
    )  # fmt: skip
    envelope.put(made, envelope.PROOF, document)


def bound_of(given: Given) -> float:
    """Return how far the new form's answers may lie apart on two machines."""
    usual = BOUNDS[given.precision]
    stated = ((given.model.proof or {}).get("parity") or {}).get("bound")
    if given.precision == FLOAT32:
        usual = max(usual, given.model.bound)
    return max(usual, float(stated)) if isinstance(stated, float) else usual
