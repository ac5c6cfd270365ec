"""The proof a tuned file carries.

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
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

from surgeon.errors import ModelError
from surgeon.graph import envelope, parts
from surgeon.graph.shapes import declared, fixed_batch, input_infos, input_sizes
from surgeon.graph.weights import hash_tensors, tuned_names
from surgeon.runtime.observe import random_array, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    from surgeon.records import Plan
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

Feeds = dict[str, "NDArray[Any]"]


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
        **sums(model, plan),
        "parity": dict(parity),
        "golden": list(golden),
        **({} if exported is None else {"exported": dict(exported)}),
    }
    return document | {"parts": parts.as_document(parts.parts_of(model, document))}


def restated(model: ModelProto, plan: Plan, proof: Mapping[str, Any]) -> dict[str, Any]:
    """Return a proof whose hashes are those of a model; what it says of runs stays."""
    document = {**proof, **sums(model, plan)}
    if "parts" in proof:
        document["parts"] = parts.as_document(parts.parts_of(model, document))
    return document


def sums(model: ModelProto, plan: Plan) -> dict[str, Any]:
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
