"""The proof a tuned file carries, and checking it again on another machine or provider.

It says which initializers are the source's own, byte for byte, which were tuned, that the graph,
labels and preprocessing are those of the training, how closely ONNX Runtime followed torch, and
what the file answers on golden inputs. It is an integrity check, not a signature: whoever rewrites
the file can rewrite its proof.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from surgeon.errors import ModelError
from surgeon.graph import envelope
from surgeon.graph.shapes import declared, fixed_batch, input_infos, input_sizes
from surgeon.graph.weights import hash_tensors, same_values, tuned_names
from surgeon.runtime.observe import random_array, relative_error, spread
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.records import Plan
    from surgeon.runtime.sessions import Session

VERSION = 1
GOLDEN_LIMIT = 1_000_000
"""Bytes all golden inputs may take together, as stored."""

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


def make_proof(
    model: ModelProto,
    plan: Plan,
    *,
    source_sha256: str,
    parity: Mapping[str, Any],
    golden: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the proof document of a tuned model, whose other metadata must be in place."""
    tuned = set(tuned_names(model, plan.trainable))
    groups: dict[str, list[Any]] = {"frozen": [], "tuned": []}
    for tensor in model.graph.initializer:
        groups["tuned" if tensor.name in tuned else "frozen"].append(tensor)
    return {
        "version": VERSION,
        "source_sha256": source_sha256,
        "structure_sha256": envelope.structure_hash(model),
        **{
            name: {"count": len(group), "sha256": hash_tensors(group)}
            for name, group in groups.items()
        },
        "labels_sha256": envelope.hash_json(envelope.get(model, envelope.LABELS)),
        "preprocess_sha256": envelope.hash_json(envelope.get(model, envelope.PREPROCESS)),
        **_statistics(model),
        "parity": dict(parity),
        "golden": list(golden),
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

    Raises:
        ModelError: the document is damaged.
    """
    try:
        data = zlib.decompress(base64.b64decode(document["zlib_base64"]))
        if document["dtype"] == "string":
            texts = json.loads(data.decode("utf-8", "surrogateescape"))
            return np.array(texts, dtype=object).reshape(document["shape"])
        return np.frombuffer(data, np.dtype(document["dtype"])).reshape(document["shape"])
    except (KeyError, ValueError, TypeError, zlib.error) as error:
        raise ModelError(
            "a golden input of the proof cannot be read", where="surgeon.proof", remedy=REMEDY
        ) from error


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
    return seeded_input(
        model, int(inputs["seed"]), fixed, inputs.get("sizes"), inputs.get("ranges")
    )


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
        ModelError: the file carries no proof.
    """
    proof = envelope.get(model, envelope.PROOF)
    plan = envelope.plan(model)
    if proof is None or plan is None:
        raise ModelError(
            "the file carries no proof",
            where="metadata surgeon.proof",
            remedy="files written by `surgeon finetune` carry one; `surgeon.prove` makes one for "
            "weights of a loop of your own",
        )
    again = make_proof(model, plan, source_sha256="", parity={}, golden=[])
    checks = [
        _same(name, again[name]["sha256"], _part(proof, name).get("sha256"), detail)
        for name, detail in (
            ("frozen", f"{again['frozen']['count']} initializers"),
            ("tuned", f"{again['tuned']['count']} initializers"),
        )
    ]
    checks += [
        _same(name, again[f"{name}_sha256"], proof.get(f"{name}_sha256"), None)
        for name in ("structure", "labels", "preprocess")
    ]
    if "statistics_sha256" in {**again, **proof}:
        carried, stated = (one.get("statistics_sha256") for one in (again, proof))
        checks.append(_same("statistics", carried or "", stated, None))
    session = open_session(model, device=device, threads=threads)
    checks.append(_check_golden(model, session, proof))
    if source is not None:
        checks.append(_check_source(model, plan, source, proof, source_sha256))
    return Verdict(all(check.passed for check in checks), tuple(checks), session.providers)


def _part(proof: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return one object of the proof; a damaged one is empty, and its check fails."""
    found = proof.get(name)
    return found if isinstance(found, dict) else {}


def _same(name: str, measured: str, wanted: str | None, detail: str | None) -> ProofCheck:
    return ProofCheck(name, measured == wanted, measured, wanted, detail)


def _check_golden(model: ModelProto, session: Session, proof: Mapping[str, Any]) -> ProofCheck:
    stated = _part(proof, "parity").get("bound")
    bound = float(stated) if isinstance(stated, float) else 1e-4
    wanted, got = [], []
    entries = proof.get("golden") or []
    try:
        for entry in entries:
            feeds = golden_feeds(model, entry["inputs"])
            got.append(session.run(feeds, [model.graph.output[0].name])[0])
            wanted.append(decode(entry["logits"]))
        error = relative_error(np.concatenate(got), np.concatenate(wanted)) if got else 0.0
        worst = float("inf") if np.isnan(error) else error
    except (ModelError, KeyError, TypeError, ValueError, AttributeError) as error:
        return ProofCheck("golden", passed=False, measured=None, bound=bound, detail=str(error))
    # Two seeded ones are always written: a proof without any was robbed of them.
    passed = bool(entries) and worst <= bound
    return ProofCheck("golden", passed, worst, bound, f"{len(entries)} golden inputs")


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
