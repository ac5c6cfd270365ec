"""That a tuned graph is what was trained: torch and ONNX Runtime agree, and the file proves it.

What must not enter: training.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from surgeon.errors import CheckError, UnsupportedError
from surgeon.graph import precision as halves
from surgeon.graph.frontier import split as split_graph
from surgeon.graph.weights import roles
from surgeon.job.run import Job, head_weights
from surgeon.runtime.observe import head_rounding, relative_error
from surgeon.runtime.proof import fill_batch, make_proof, seeded_input
from surgeon.runtime.proof import golden_samples as make_golden
from surgeon.runtime.saturation import saturating
from surgeon.runtime.sessions import open_session
from surgeon.torch_graph.module import to_module
from surgeon.torch_graph.stepwise import Agreement, compare, quantised_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.runtime.sessions import Session


@dataclass(frozen=True)
class Proven:
    """The proof of a tuned graph, what ran it for that, and what people should know."""

    document: dict[str, Any]
    providers: tuple[str, ...]
    notes: tuple[str, ...]


def prove(
    job: Job,
    tuned: ModelProto,
    *,
    golden_samples: bool,
    constants: Mapping[str, Any] | None = None,
) -> Proven:
    """Compare torch with ONNX Runtime before and after tuning, and write the proof.

    Raises:
        CheckError: they differ by more than the bound.
    """
    plan = job.plan
    seen = _real_samples(job)
    real = seen if golden_samples else []
    sizes, ranges = dict(job.operated.sizes), _integer_ranges(seen)
    feeds = [seeded_input(tuned, seed, constants, sizes, ranges) for seed in (0, 1)] + seen
    worst, rounded = 0.0, None
    made: list[dict[str, Any]] = []
    notes: list[str] = []
    before = parity(job, job.operated.proto, feeds, made=made)
    session = open_session(tuned, device="cpu", threads=job.to.place.threads)
    for found in (before, parity(job, tuned, feeds, session=session, made=made)):
        if isinstance(found, Agreement):
            rounded = found
        worst = max(worst, _apart(found))
    bound = job.operated.bound
    if rounded is not None and rounded.optimised > bound:
        notes.append(
            "ONNX Runtime's optimised 8-bit kernels give logits that differ by "
            f"{rounded.optimised:.0e} relative from the graph computed as written; the metrics are "
            "those of the optimised ones"
        )
    if not worst <= bound and rounded is None and plan.head.weights and plan.head.solves:
        lost = head_rounding(tuned, head_weights(job), feeds, threads=job.to.place.threads)
        if lost > bound:
            bound = lost
            notes.append(
                "features with means far larger than their spread: float32 sums of the head are "
                f"exact to {lost:.0e} of the largest logit, which is the bound here"
            )
    if not worst <= bound:
        require_exact(_trained_part(job))
        raise CheckError(
            f"torch and ONNX Runtime differ by {worst:.2e} relative, the bound is {bound:.0e}",
            where="parity",
            remedy="nothing was written; report the model's operators",
        )
    document = make_proof(
        tuned,
        plan,
        source_sha256=job.operated.source_sha256,
        parity={"samples": len(feeds), "max_relative": worst, "bound": bound}
        | ({} if rounded is None else {"quantised": asdict(rounded)}),
        golden=make_golden(tuned, session, real, constants, sizes, ranges),
    )
    return Proven(document, session.providers, tuple(notes))


def require_alike(job: Job, trained: ModelProto) -> None:
    """Refuse to train what ONNX Runtime computes inexactly on this processor, before it is trained.

    Raises:
        UnsupportedError: naming the nodes.
    """
    if not saturating(trained):
        return
    found = parity(job, job.operated.proto, _real_samples(job))
    if not _apart(found) <= job.operated.bound:
        require_exact(trained)


def _apart(found: float | Agreement) -> float:
    """Return how far torch and ONNX Runtime differ, by what `parity` found."""
    if isinstance(found, Agreement):
        return found.relative if found.rounds_alike else math.inf
    return found


def require_exact(trained: ModelProto) -> None:
    """Say which nodes explain that torch and ONNX Runtime differ, if this processor does.

    Raises:
        UnsupportedError: naming them.
    """
    nodes = saturating(trained)
    if nodes:
        raise UnsupportedError(
            "ONNX Runtime cuts off sums of 8-bit products on this processor, which has no VNNI: "
            "the file computes other values than its weights say",
            where=", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if nodes[3:] else ""),
            remedy="train the head only (`--case small-similar`), quantise the weights to 7 bits "
            "(`reduce_range=True` of ONNX Runtime's quantisation), or train on a processor with "
            "VNNI",
        )


def _trained_part(job: Job) -> ModelProto:
    patient = job.operated
    shapes = patient.anatomy().shapes
    return split_graph(patient.proto, patient.trainable, shapes, keep_weightless=False).trained


def parity(
    job: Job,
    model: ModelProto,
    feeds: Sequence[Mapping[str, Any]],
    *,
    session: Session | None = None,
    made: list[dict[str, Any]] | None = None,
) -> float | Agreement:
    """Return the relative error between torch (behind the frontier) and ONNX Runtime.

    Where values are quantised behind the frontier: how far both agree step by step.

    The samples' logits are one tensor, as in a batch: a sample whose logits happen to lie near zero
    is measured by the size that logits have.

    Half-precision weights are computed with in float32, as ONNX Runtime's CPU provider does.

    Args:
        job: what is trained on what.
        model: the patient or what came of it.
        feeds: samples.
        session: of `model`, if one is open.
        made: what the frozen part makes of the feeds, the same before and after; filled if empty.
    """
    names = job.operated.trainable
    front = split_graph(model, names, job.operated.anatomy().shapes, keep_weightless=False)
    graph = halves.widen(front.trained) if halves.is_half(front.trained) else front.trained
    half, quantised = graph is not front.trained, quantised_values(graph)
    if quantised:
        return compare(
            model, to_module(graph, roles=roles(graph)), quantised, feeds,
            threads=job.to.place.threads, as_tensor=lambda values: _tensor(values, half=half),
        )  # fmt: skip
    made = [] if made is None else made
    if not made and front.frozen is not None:
        frozen = open_session(front.frozen, device="cpu", threads=job.to.place.threads)
        made += [dict(zip(frozen.outputs, frozen.run(one), strict=True)) for one in feeds]
    wanted = _first_outputs(job, model, feeds, session)  # a session ends before torch holds weights
    module, got = to_module(graph, roles=roles(graph)), []
    for place, one in enumerate(feeds):
        values = {**one, **(made[place] if made else {})}
        inputs = [_tensor(values[name], half=half) for name in module.input_names]
        with torch.no_grad():
            got.append(module(*inputs).float().numpy())
    # A sequence may have another length than the next.
    return relative_error(
        *(np.concatenate([one.ravel() for one in each]) for each in (got, wanted))
    )


def _first_outputs(
    job: Job,
    model: ModelProto,
    feeds: Sequence[Mapping[str, Any]],
    session: Session | None,
) -> list[NDArray[Any]]:
    session = session or open_session(model, device="cpu", threads=job.to.place.threads)
    output = model.graph.output[0].name
    return [session.run(one, [output])[0] for one in feeds]


def _tensor(values: NDArray[Any], *, half: bool) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(values))
    return tensor.float() if half and tensor.dtype == torch.float16 else tensor


def _integer_ranges(feeds: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, tuple[int, int]]:
    """Return the least and the most of every integer input, over some samples."""
    found: dict[str, tuple[int, int]] = {}
    for one in feeds:
        for name, values in one.items():
            if np.issubdtype(values.dtype, np.integer) and values.size:
                least, most = found.get(name, (int(values.min()), int(values.max())))
                found[name] = (min(least, int(values.min())), max(most, int(values.max())))
    return found


def _real_samples(job: Job) -> list[dict[str, NDArray[Any]]]:
    found: list[dict[str, NDArray[Any]]] = []
    for index in job.given.parts.validation[:8]:
        if len(found) == 2:
            break
        loaded = job.given.samples.load(int(index))
        if isinstance(loaded, dict):
            found.append(fill_batch(job.operated.proto, loaded))
    return found
