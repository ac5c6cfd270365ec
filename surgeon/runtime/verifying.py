"""Checking the proof that a file carries, on another machine or provider.

Hashes of the whole say that something was changed, those of the parts say what; golden inputs say
whether this machine answers as the other did. What must not enter: making a proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError, ModelError, SurgeonError
from surgeon.graph import envelope, parts
from surgeon.graph.precision import BOUNDS, precision_of
from surgeon.graph.weights import same_values, tuned_names
from surgeon.records import Plan
from surgeon.runtime import converted
from surgeon.runtime.observe import head_rounding, relative_error
from surgeon.runtime.proof import VERSION, decode, golden_feeds, sums
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.runtime.proof import Feeds
    from surgeon.runtime.sessions import Session

ROUNDED = 0.25
"""How far apart two ways of computing a quantised graph may be at most."""
SEEDED = 2
"""Golden inputs that are drawn by a seed: every proof has as many."""


@dataclass(frozen=True)
class ProofCheck:
    """One check of a proof. `measured` and `bound` are numbers or hashes, None where absent."""

    name: str
    passed: bool
    measured: Any = None
    bound: Any = None
    detail: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Result of `verify`: all checks, and whether every one passed."""

    passed: bool
    checks: tuple[ProofCheck, ...]
    providers: tuple[str, ...] = ()
    exported: Mapping[str, Any] | None = None


def verify_proof(
    model: ModelProto,
    *,
    source: ModelProto | None = None,
    source_sha256: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Verdict:
    """Check the proof a file carries, on this machine and provider.

    Args:
        model: the file as stored.
        source: the original, normalized, whose tensors the frozen ones must equal.
        source_sha256: sha256 of the original's file.
        device: where golden inputs run.
        threads: of that run.

    Raises:
        ModelError: the file carries no proof, or one of a version that is not known.
    """
    proof = envelope.get(model, envelope.PROOF)
    plan = envelope.plan(model)
    stated = _version(proof, planned=plan is not None)
    plan = plan or Plan(trainable=())
    checks = _checksums(model, plan, proof, parts=stated > 1)
    try:
        session = open_session(model, device=device, threads=threads)
    except ModelError as error:  # what was changed may not run
        checks.append(ProofCheck("golden", passed=False, detail=error.message))
        providers: tuple[str, ...] = ()
    else:
        checks.append(_check_golden(model, plan, session, proof))
        providers = session.providers
    if source is not None:
        if _part(proof, "exported"):
            told = converted.judge(model, plan, source, proof, source_sha256)
            checks.append(ProofCheck("source", told[0], told[1], 0, told[2]))
        else:
            checks.append(_check_source(model, plan, source, proof, source_sha256))
    passed = all(check.passed for check in checks)
    return Verdict(passed, tuple(checks), providers, _exported(proof))


def _exported(proof: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return of which file in which forms an exported one says that it is."""
    found = _part(proof, "exported")
    keys = ("from_sha256", "forms", "precision")
    return {key: found.get(key) for key in keys} if found else None


def _version(proof: dict[str, Any] | None, *, planned: bool) -> int:
    """Return the version of a proof.

    Raises:
        ModelError: there is no proof, or none that is known.
    """
    version = (proof or {}).get("version")
    if proof is None or (not planned and version == 1):
        raise ModelError(
            "the file carries no proof",
            where="metadata surgeon.proof",
            remedy="files written by `surgeon finetune` carry one; `surgeon.prove` makes one for "
            "weights of a loop of your own",
        )
    if type(version) is int and version == 1 and "parts" in proof:
        return VERSION  # which then differs from what the parts say of the proof itself
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ModelError(
            f"the proof is of version {version!r}, and only 1 to {VERSION} are known",
            where="metadata surgeon.proof",
            remedy="update surgeon: a newer one wrote the file; else the proof was changed",
        )
    return version


def _checksums(
    model: ModelProto, plan: Plan, proof: Mapping[str, Any], *, parts: bool
) -> list[ProofCheck]:
    """Compare all hashes, and those of the parts where the proof states them."""
    again = sums(model, plan)
    tuned = set(tuned_names(model, plan.trainable)) | set(plan.trainable)
    named = _Named(model, proof) if parts else None
    checks = []
    for name in ("frozen", "tuned"):
        words = named.tensors(tuned, tuned=name == "tuned") if named else None
        checks.append(
            _same(
                name, again[name]["sha256"], _part(proof, name).get("sha256"), words,
                f"{again[name]['count']} initializers",
            )
        )  # fmt: skip
    for name in ("structure", "labels", "preprocess"):
        groups = ("nodes", "graph") if name == "structure" else (name,)
        words = named.groups(*groups) if named else None
        checks.append(_same(name, again[f"{name}_sha256"], proof.get(f"{name}_sha256"), words))
    if "statistics_sha256" in {**again, **proof}:
        carried, stated = (one.get("statistics_sha256") for one in (again, proof))
        checks.append(_same("statistics", carried or "", stated))
    if named:
        checks += [named.check(name) for name in ("plan", "decoding", "metadata", "proof")]
    return checks


class _Named:
    """The parts of a file beside those that its proof states: what differs has a name."""

    def __init__(self, model: ModelProto, proof: Mapping[str, Any]) -> None:
        self.model, self.stated = model, _part(proof, "parts")
        self.carried = parts.parts_of(model, proof)

    def groups(self, *names: str) -> str | None:
        """Say which parts of some groups are not as stated; None where all are."""
        told = [
            parts.named(name, parts.moved(self.carried[name], self.stated.get(name)), self.model)
            for name in names
        ]
        return "; ".join(words for words in told if words) or None

    def tensors(self, names: set[str], *, tuned: bool) -> str | None:
        """Say which of the tuned or of the other tensors are not as stated."""
        moved = parts.moved(self.carried["tensors"], self.stated.get("tensors"))
        own = {name: how for name, how in moved.items() if (name in names) == tuned}
        return parts.named("tensors", own, self.model)

    def check(self, name: str) -> ProofCheck:
        """Compare a group that has no hash but those of its parts."""
        words = self.groups(name)
        double = parts.doubled(self.model) if name == "metadata" else []
        if double:
            words = f"{words}; " if words else ""
            words += f"twice in the file: {', '.join(map(repr, double))}"
        carried, stated = self.carried[name], self.stated.get(name)
        sums = [envelope.hash_json(one) for one in (carried, stated)]
        detail = words or (f"{len(carried)} entries" if carried else "none")
        return ProofCheck(name, words is None, sums[0], sums[1], detail)


def _part(proof: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return one object of the proof; a damaged one is empty, and its check fails."""
    found = proof.get(name)
    return found if isinstance(found, dict) else {}


def _same(
    name: str,
    measured: str,
    wanted: str | None,
    words: str | None = None,
    detail: str | None = None,
) -> ProofCheck:
    """Compare a hash with the stated one; `words` say which parts differ, if any does."""
    passed = measured == wanted and words is None
    told = "; ".join(one for one in (detail, words) if one)
    return ProofCheck(name, passed, measured, wanted, told or None)


def bound_of(model: ModelProto, proof: Mapping[str, Any]) -> float:
    """Return how far golden outputs may lie apart: ours, or less where the proof states that."""
    stated = _part(proof, "parity").get("bound")
    ours = BOUNDS[precision_of(model)]
    return min(stated, ours) if isinstance(stated, float) and stated > 0 else min(ours, 1e-4)


def _check_golden(
    model: ModelProto, plan: Plan, session: Session, proof: Mapping[str, Any]
) -> ProofCheck:
    """Run the golden inputs again. Two seeded ones are always written: fewer were taken out."""
    bound = bound_of(model, proof)
    entries = proof.get("golden") or []
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = []
    fed: list[Feeds] = []
    seeds = set()
    try:
        for entry in entries:
            fed.append(golden_feeds(model, entry["inputs"]))
            (got,) = session.run(fed[-1], [model.graph.output[0].name])
            pairs.append((got.ravel(), _shaped(decode(entry["logits"]), got).ravel()))
            seeds.add(entry["inputs"].get("seed"))
        apart = relative_error(*map(np.concatenate, zip(*pairs, strict=True))) if pairs else 0.0
    except (ModelError, DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        said = error.message if isinstance(error, SurgeonError) else str(error)
        words = f"golden {len(pairs)}: {said}"
        return ProofCheck("golden", passed=False, measured=None, bound=bound, detail=words)
    worst = float("inf") if np.isnan(apart) else apart
    if worst > bound and precision_of(model) == "int8":
        bound = max(bound, _rounded(model, fed))
    elif worst > bound and plan.head.solves and len(plan.head.weights) == 2:
        bound = max(bound, _lost(model, plan, fed, proof))
    enough = len(seeds - {None}) >= SEEDED
    few = "" if enough else f": not {SEEDED} that a seed draws, as were written"
    passed = worst <= bound and enough
    return ProofCheck("golden", passed, worst, bound, f"{len(entries)} golden inputs{few}")


def _shaped(wanted: NDArray[Any], got: NDArray[Any]) -> NDArray[Any]:
    """Return stored outputs, if they have the shape of those that came out.

    Raises:
        ValueError: another.
    """
    if got.shape != wanted.shape or not got.size:
        raise ValueError(f"outputs are {list(got.shape)}, those stored {list(wanted.shape)}")
    return wanted


def _rounded(model: ModelProto, fed: Sequence[Feeds]) -> float:
    """Return how far two ways of computing a quantised graph are apart here, within a limit.

    As it is written, and by integer kernels: where one value falls on the next step, what follows
    may be many steps apart, by the weights that it meets.
    """
    name = model.graph.output[0].name
    answers = []
    for optimised in (True, False):
        session = open_session(model, device="cpu", optimised=optimised)
        answers.append(np.concatenate([session.run(one, [name])[0].ravel() for one in fed]))
    apart = relative_error(*answers)
    return apart if apart <= ROUNDED else 0.0


def _lost(model: ModelProto, plan: Plan, fed: Sequence[Feeds], proof: Mapping[str, Any]) -> float:
    """Return what float32 loses in the head, by its weights; no more than was stated."""
    stated = _part(proof, "parity").get("bound")
    if not isinstance(stated, float):
        return 0.0
    try:
        return min(stated, head_rounding(model, plan.head.weights, fed))
    except (SurgeonError, KeyError, ValueError):  # the head is not as the plan has it
        return 0.0


def _check_source(
    model: ModelProto,
    plan: Plan,
    source: ModelProto,
    proof: Mapping[str, Any],
    source_sha256: str | None,
) -> ProofCheck:
    """Compare the frozen tensors with the original's of the same name, byte for byte."""
    tuned = set(tuned_names(model, plan.trainable))
    originals = {tensor.name: tensor for tensor in source.graph.initializer}
    compared, differing, new = 0, [], []
    for tensor in model.graph.initializer:
        if tensor.name in tuned:
            continue
        original = originals.get(tensor.name)
        if original is None:
            new.append(tensor.name)
            continue
        compared += 1
        if not same_values(original, tensor):
            differing.append(tensor.name)
    for tensor in model.graph.initializer:
        original = originals.get(tensor.name)
        if tensor.name in tuned and (original is None or original.dims != tensor.dims):
            new.append(tensor.name)
    own = [
        name
        for name in new
        if name.startswith("surgeon.")
        or name.rstrip(".").endswith(".batch")
        or name in plan.head.weights
    ]
    foreign = len(new) - len(own)
    named = source_sha256 is None or source_sha256 == proof.get("source_sha256")
    detail = f"{compared} frozen tensors compared"
    if own:
        detail += f"; {len(own)} are the operation's own: {', '.join(own[:3])}"
    if foreign:
        detail += f"; {foreign} are not in the source"
    if differing:
        detail += f"; {len(differing)} differ: {', '.join(differing[:5])}"
    if not named:
        detail += "; not the very file the proof names (sha256 differs)"
    # With nothing frozen to compare, only the source's own hash can tell it from another.
    passed = not differing and not foreign and (named or compared > 0)
    return ProofCheck("source", passed, len(differing) + foreign, 0, detail)
