"""The proof a tuned file carries, and checking it again on another machine or provider.

It says which initializers are the source's own, byte for byte, which were tuned, that the graph,
labels and preprocessing are those of the training, how closely ONNX Runtime followed torch, and
what the file answers on golden inputs. It is an integrity check, not a signature: whoever rewrites
the file can rewrite its proof.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from surgeon.errors import DataError, ModelError, SurgeonError
from surgeon.graph import envelope, parts
from surgeon.graph.precision import BOUNDS, precision_of
from surgeon.graph.shapes import declared, fixed_batch, input_infos, input_sizes
from surgeon.graph.weights import hash_tensors, same_values, tuned_names
from surgeon.records import Plan
from surgeon.runtime import converted
from surgeon.runtime.observe import head_rounding, random_array, relative_error, spread
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.runtime.sessions import Session

VERSION = 2
"""Of the proofs that are written; those of version 1 state no parts."""
GOLDEN_LIMIT = 1_000_000
"""Bytes all golden inputs may take together, as stored."""
ARRAY_LIMIT = 1 << 30
"""Bytes that an array may take whose size a file states."""
TEXT_LIMIT = 1 << 26
"""Bytes that stored text may take."""
DENSEST = 1032
"""zlib makes of a byte no more than this."""
ROUNDED = 0.25
"""How far apart two ways of computing a quantised graph may be at most."""
SEEDED = 2
"""Golden inputs that are drawn by a seed: every proof has as many."""

Feeds = dict[str, "NDArray[Any]"]


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


def make_proof(
    model: ModelProto,
    plan: Plan,
    *,
    source_sha256: str,
    parity: Mapping[str, Any],
    golden: Sequence[Mapping[str, Any]],
    exported: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the proof document of a tuned model, whose other metadata must be in place.

    Args:
        model: the file; a proof that it carries does not count.
        plan: says what was trained.
        source_sha256: of the original.
        parity: how far ONNX Runtime followed torch, and the bound.
        golden: what the file answers on which inputs.
        exported: from which file, in which forms; None of a file that training wrote.
    """
    document = {
        "version": VERSION,
        "source_sha256": source_sha256,
        **_sums(model, plan),
        "parity": dict(parity),
        "golden": list(golden),
        **({} if exported is None else {"exported": dict(exported)}),
    }
    return document | {"parts": parts.as_document(parts.parts_of(model, document))}


def restated(model: ModelProto, plan: Plan, proof: Mapping[str, Any]) -> dict[str, Any]:
    """Return a proof whose hashes are those of a model; what it says of runs stays."""
    document = {**proof, **_sums(model, plan)}
    if "parts" in proof:
        document["parts"] = parts.as_document(parts.parts_of(model, document))
    return document


def _sums(model: ModelProto, plan: Plan) -> dict[str, Any]:
    """Return what a proof says of all weights, the structure and the metadata, in hashes."""
    tuned = set(tuned_names(model, plan.trainable))
    groups: dict[str, list[Any]] = {"frozen": [], "tuned": []}
    for tensor in model.graph.initializer:
        groups["tuned" if tensor.name in tuned else "frozen"].append(tensor)
    return {
        "structure_sha256": envelope.structure_hash(model),
        **{
            name: {"count": len(group), "sha256": hash_tensors(group)}
            for name, group in groups.items()
        },
        "labels_sha256": envelope.hash_json(envelope.get(model, envelope.LABELS)),
        "preprocess_sha256": envelope.hash_json(envelope.get(model, envelope.PREPROCESS)),
        **_statistics(model),
    }


def _statistics(model: ModelProto) -> dict[str, str]:
    """Return the hash of the statistics of classes, where the file carries some."""
    found = envelope.get(model, envelope.STATISTICS)
    return {} if found is None else {"statistics_sha256": envelope.hash_json(found)}


def seeded_input(
    model: ModelProto,
    seed: int,
    constants: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    ranges: Mapping[str, Sequence[int]] | None = None,
) -> Feeds:
    """Return the feeds that a seed means, drawn input by input in graph-input order.

    They are one sample, or as many as a batch holds that is nailed to a number. `sizes` are those
    of open dimensions: {"input:axis": size}; `ranges` bound the integers: {input: [least, most]},
    so that tokens are drawn from those that data have.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    infos = input_infos(model)
    shapes = input_sizes(infos, fixed_batch(infos) or 1, known=sizes)
    kinds = {value.name: declared(value)[0] for value in model.graph.input}
    axes = {info.name: info.batch_axis for info in infos}
    feeds: Feeds = {}
    for name, kind in kinds.items():
        shape = shapes.get(name, ())
        if ranges and name in ranges:
            least, most = ranges[name]
            dtype = helper.tensor_dtype_to_np_dtype(kind)
            feeds[name] = random.integers(least, most + 1, shape).astype(dtype)
        else:
            feeds[name] = random_array(kind, shape, random)
        if constants and name in constants:
            size, axis = shapes.get(name), axes.get(name)
            value = np.asarray(constants[name])
            feeds[name] = value if size is None else spread(value, size, axis)
    return feeds


def fill_batch(model: ModelProto, feeds: Mapping[str, NDArray[Any]]) -> Feeds:
    """Return the feeds of one sample, repeated where the graph's batch is nailed to a number."""
    infos = input_infos(model)
    count = fixed_batch(infos) or 1
    axes = {info.name: info.batch_axis for info in infos}
    filled: Feeds = {}
    for name, values in feeds.items():
        axis = axes.get(name)
        single = axis is not None and values.ndim > axis and values.shape[axis] == 1
        filled[name] = np.repeat(values, count, axis) if single and axis is not None else values
    return filled


def encode(values: NDArray[Any]) -> dict[str, Any]:
    """Return an array as JSON: element type, shape, and its bytes (zlib, base64).

    The bytes of text are those of a JSON list.
    """
    data = np.ascontiguousarray(values)
    if data.dtype.kind in "OUS":
        texts = [_text(item) for item in data.reshape(-1).tolist()]
        listed = json.dumps(texts, ensure_ascii=False).encode("utf-8", "surrogateescape")
        packed = base64.b64encode(zlib.compress(listed, 9)).decode()
        return {"dtype": "string", "shape": list(data.shape), "zlib_base64": packed}
    packed = base64.b64encode(zlib.compress(data.tobytes(), 9)).decode()
    return {"dtype": str(data.dtype), "shape": list(data.shape), "zlib_base64": packed}


def decode(document: Mapping[str, Any]) -> NDArray[Any]:
    """Return the array that `encode` wrote.

    What a file states of sizes is not believed: nothing is unpacked that could not be as large, or
    is larger than `ARRAY_LIMIT`.

    Raises:
        ModelError: the document is damaged, or too large.
    """
    try:
        packed = base64.b64decode(document["zlib_base64"])
        shape = [_dim(size) for size in document["shape"]]
        if document["dtype"] == "string":
            texts = json.loads(_unpacked(packed, None).decode("utf-8", "surrogateescape"))
            return np.array(texts, dtype=object).reshape(shape)
        kind = _plain(np.dtype(document["dtype"]))
        content = _unpacked(packed, kind.itemsize * math.prod(shape))
        return np.frombuffer(content, kind).reshape(shape)
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise ModelError(
            "a golden input of the proof cannot be read", where="surgeon.proof", remedy=REMEDY
        ) from error


def _plain(kind: np.dtype[Any]) -> np.dtype[Any]:
    if kind.hasobject or kind.names is not None or kind.subdtype is not None:
        raise ValueError(kind)
    return kind


def _dim(size: Any) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(size)
    return size


def _unpacked(packed: bytes, wanted: int | None) -> bytes:
    """Return what was packed, of a size that is known or (None, text) within the limit.

    Raises:
        ModelError: it is too large.
        ValueError: it has another size.
    """
    limit = TEXT_LIMIT if wanted is None else ARRAY_LIMIT
    _require_room(wanted or 0, limit)
    if wanted is not None and wanted > DENSEST * len(packed):
        raise ValueError(wanted)
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(packed, (limit if wanted is None else wanted) + 1)
    if wanted is None:
        _require_room(len(content), limit)
    if not unpacker.eof or unpacker.unused_data or wanted not in (None, len(content)):
        raise ValueError(wanted)
    return content


def _require_room(size: int, limit: int) -> None:
    if size > limit:
        raise ModelError(
            f"an array of the proof takes more than {limit >> 20} MiB",
            where="surgeon.proof",
            remedy=REMEDY,
        )


def _text(item: object) -> str:
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)


REMEDY = "the file was changed after training; get it again from where it was made"


def golden_samples(
    model: ModelProto,
    session: Session,
    real: Sequence[Feeds],
    constants: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    ranges: Mapping[str, Sequence[int]] | None = None,
) -> list[dict[str, Any]]:
    """Return two seeded and at most two real inputs with the logits of this machine.

    A seeded input is stored as its seed; a real one as its bytes, while all fit the limit.
    """
    output = model.graph.output[0].name
    found: list[dict[str, Any]] = []
    names = set(constants or {})
    for seed in (0, 1):
        feeds = seeded_input(model, seed, constants, sizes, ranges)
        logits = session.run(feeds, [output])[0]
        fixed = {name: encode(feeds[name]) for name in feeds if name in names}
        meant = {
            "seed": seed,
            "constants": fixed,
            "sizes": dict(sizes or {}),
            "ranges": {name: list(pair) for name, pair in (ranges or {}).items()},
        }
        found.append({"inputs": meant, "logits": encode(logits)})
    room = GOLDEN_LIMIT
    for one in real[:2]:
        feeds = fill_batch(model, one)
        stored = {name: encode(values) for name, values in feeds.items()}
        size = sum(len(item["zlib_base64"]) for item in stored.values())
        if size > room:
            continue
        room -= size
        logits = session.run(feeds, [output])[0]
        found.append({"inputs": {"arrays": stored}, "logits": encode(logits)})
    return found


def golden_feeds(model: ModelProto, inputs: Mapping[str, Any]) -> Feeds:
    """Return what an entry of `golden` means for a graph: drawn by its seed, or stored.

    Of a graph whose batch is fixed, a stored sample is repeated.

    Raises:
        ModelError: the entry is damaged.
    """
    if "seed" not in inputs:
        return fill_batch(model, {key: decode(item) for key, item in inputs["arrays"].items()})
    fixed = {key: decode(item) for key, item in inputs.get("constants", {}).items()}
    sizes = inputs.get("sizes")
    infos = input_infos(model)
    for shape in input_sizes(infos, fixed_batch(infos) or 1, known=sizes).values():
        _require_room(8 * math.prod(_dim(size) for size in shape), ARRAY_LIMIT)
    return seeded_input(model, int(inputs["seed"]), fixed, sizes, inputs.get("ranges"))


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
    checks = _check_sums(model, plan, proof, parts=stated > 1)
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
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ModelError(
            f"the proof is of version {version!r}, and only 1 to {VERSION} are known",
            where="metadata surgeon.proof",
            remedy="update surgeon: a newer one wrote the file; else the proof was changed",
        )
    return version


def _check_sums(
    model: ModelProto, plan: Plan, proof: Mapping[str, Any], *, parts: bool
) -> list[ProofCheck]:
    """Compare all hashes, and those of the parts where the proof states them."""
    again = _sums(model, plan)
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
