"""What an adapter learnt, kept apart from the large file it learnt on, and put back into it.

::

    surgeon.finetune("model.onnx", data, "tuned.onnx", adapter="lora", adapter_out="my.safetensors")
    surgeon.apply("model.onnx", "my.safetensors").save("again.onnx")       the bytes of tuned.onnx

One safetensors file: the numbers of the adapters (`adapter/WEIGHT/NUMBERS`), every other tensor
that the base lacks or has otherwise (`tensor/NAME`: the new head), and the delivered file without
its tensors (`file`, compressed: nodes, labels, preprocessing, plan, proof). Never a pickle. What
must not enter: training, what an adapter computes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import safetensors
import safetensors.numpy
from google.protobuf.message import DecodeError

from surgeon.errors import ModelError, UsageError
from surgeon.graph import envelope
from surgeon.graph.adaptable import Adaptable, adaptable
from surgeon.graph.files import check_output, sha256_model, write_error
from surgeon.graph.weights import (
    hash_tensors,
    initializers,
    same_values,
    to_array,
    write_back,
)
from surgeon.job.adapters import find_adapter, fold
from surgeon.model import Model, load
from surgeon.options import explained
from surgeon.runtime.proof import restated
from surgeon.version import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from surgeon.job.done import Trained
    from surgeon.job.run import Job
    from surgeon.plugin.manager import Plugins

    Source = str | os.PathLike[str] | onnx.ModelProto | Model

KEY: Final = "surgeon.adapter"
VERSION: Final = 1
FILE, ADAPTER, TENSOR = "file", "adapter/", "tensor/"
MOST: Final = 2**30
"""Bytes that the delivered file may have without its tensors."""
PLAIN: Final = frozenset("fiu")
"""Kinds of numbers that numpy and safetensors both know."""
LISTED: Final = 5


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────


def require_keepable(job: Job) -> None:
    """Refuse to keep an adapter apart where there is none.

    Raises:
        UsageError: the plan has no adapter of weights.
    """
    text = job.plan.adapter
    if job.to.delivery.adapter_out is None:
        return
    if text is None or find_adapter(text, job.plugins).of != "weight":
        raise UsageError(
            "there is no adapter of weights to keep",
            where=f"--adapter-out {job.to.delivery.adapter_out}",
            remedy="choose one with --adapter, such as lora, or leave --adapter-out out",
        )


def keep(job: Job, trained: Trained, tuned: onnx.ModelProto) -> tuple[str, ...]:
    """Write what was learnt beside the tuned file, and say so; () where nobody asked for it.

    Raises:
        OutputError: it exists (without `force`) or cannot be written.
    """
    path = job.to.delivery.adapter_out
    if path is None:
        return ()
    base = initializers(job.given.model.proto)
    learnt = trained.delivered.adapted
    shell, tensors, shared = _taken_apart(tuned, base, learnt)
    names = [*shared, *learnt]
    known = adaptable(job.operated.proto, learnt, job.operated.quantized())
    content = shell.SerializeToString(deterministic=True)
    tensors[FILE] = np.frombuffer(zlib.compress(content, 9), np.uint8)
    document = {
        "version": VERSION,
        "surgeon": __version__,
        "adapter": job.plan.adapter,
        "base": {
            "sha256": job.given.model.file_sha256,
            "weights": {"count": len(names), "sha256": hash_tensors(base[n] for n in names)},
        },
        "weights": {one.name: {"axis": one.axis, "operator": one.operator} for one in known},
        "size": len(content),
        "kept": _digest(tensors),
        "sha256": sha256_model(tuned),
    }
    size = _write(Path(path), tensors, document, force=job.to.delivery.force)
    numbers = sum(values.size for state in learnt.values() for values in state.values())
    return (f"the adapter is kept in {path}: {size:,} bytes, {numbers:,} numbers of its own",)


def _taken_apart(
    tuned: onnx.ModelProto,
    base: Mapping[str, onnx.TensorProto],
    learnt: Mapping[str, Mapping[str, NDArray[Any]]],
) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]], list[str]]:
    """Return a file without tensors, those that are kept, and the names of those of the base."""
    shell = onnx.ModelProto()
    shell.CopyFrom(tuned)
    tensors = {
        f"{ADAPTER}{name}/{key}": values
        for name, state in learnt.items()
        for key, values in state.items()
    }
    shared = []
    for tensor in shell.graph.initializer:
        name = tensor.name
        if name in base and (name in learnt or same_values(base[name], tensor)):
            if name not in learnt:
                shared.append(name)
            tensor.Clear()
            tensor.name = name
        elif tensor.HasField("raw_data") and (values := to_array(tensor)).dtype.kind in PLAIN:
            tensors[f"{TENSOR}{name}"] = values
            tensor.ClearField("raw_data")
    return shell, tensors, shared


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 of what is kept: of a file that was damaged it is another."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}\0{values.dtype.str}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _write(
    path: Path, tensors: Mapping[str, NDArray[Any]], document: Mapping[str, Any], *, force: bool
) -> int:
    """Write a file beside its place and rename it."""
    check_output(path, force=force)
    dense = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    content = safetensors.numpy.save(dense, {KEY: json.dumps(document)})
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.resolve().parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise write_error(error, path) from error
    return len(content)


# ── putting back ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Kept:
    """What a file of an adapter holds.

    Attributes:
        path: of the file.
        document: what it says of itself.
        shell: the delivered file without its tensors.
        learnt: {initializer: {name in its adapter: values}}.
        tensors: {initializer: values} that the base lacks or has otherwise.
    """

    path: Path
    document: Mapping[str, Any]
    shell: onnx.ModelProto
    learnt: Mapping[str, Mapping[str, NDArray[Any]]]
    tensors: Mapping[str, NDArray[Any]]

    def damaged(self, what: str) -> ModelError:
        """Return the error for a file that nobody wrote like that."""
        return _damaged(self.path, what)


@explained
def apply(
    model: Source,
    adapter: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    plugins: Plugins | None = None,
) -> Model:
    """Put an adapter that was kept apart back: the file that `finetune` delivered comes out.

    Args:
        model: the file that it was learnt on: path, ModelProto or Model.
        adapter: what `finetune(adapter_out=…)` wrote.
        plugins: loaded plugins; None loads them.

    Returns:
        The tuned model.

    Raises:
        ModelError: the adapter's file is damaged, or was learnt on another model.
        UnknownNameError: no plugin offers such an adapter here.
        OutputError: `out` exists (without `force`) or cannot be written.
    """
    if out is not None:
        check_output(out, force=force)
    kept, base = read_kept(adapter), load(model)
    tensors = initializers(base.proto)
    _require_base(kept, base, tensors)
    proto = _put_together(kept, tensors)
    chosen = find_adapter(str(kept.document["adapter"]), plugins)
    forms = [
        Adaptable(name, int(form["axis"]), str(form["operator"]), ())
        for name, form in kept.document["weights"].items()
    ]
    if {one.name for one in forms} != set(kept.learnt):
        raise kept.damaged("adapters and weights differ")
    proto = write_back(proto, fold(chosen, proto, forms, kept.learnt), partial=True)
    note = _settled(proto, str(kept.document["sha256"]))
    tuned = Model(
        proto, str(_source(proto, base)), sha256_model(proto), plan=envelope.plan(proto),
        notes=(note,) if note else (),
    )  # fmt: skip
    if out is not None:
        tuned.save(out, force=force)
    return tuned


def read_kept(path: str | os.PathLike[str]) -> Kept:
    """Read the file of an adapter.

    Raises:
        ModelError: it is damaged, or none.
    """
    file = Path(path)
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            told = (opened.metadata() or {}).get(KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - a method of safe_open, not of a dict
    except (OSError, safetensors.SafetensorError, TypeError, AttributeError) as error:
        raise _damaged(file, f"it cannot be read: {error}") from error
    if told is None:
        raise _damaged(file, "it is no adapter that surgeon kept")
    try:
        document = json.loads(told)
        version, digest, size = document["version"], document["kept"], int(document["size"])
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(file, "what it says of itself cannot be read") from error
    if version != VERSION:
        raise ModelError(
            f"the adapter was kept in form {version}, this surgeon reads {VERSION}",
            where=str(file),
            remedy=f"use surgeon {document.get('surgeon')}, which wrote it",
        )
    if digest != _digest(tensors) or not 0 < size <= MOST:
        raise _damaged(file, "its content is not what was written")
    shell = _unpacked(file, tensors.pop(FILE), size)
    learnt: dict[str, dict[str, NDArray[Any]]] = {}
    for name, values in tensors.items():
        if name.startswith(ADAPTER):
            weight, _, key = name.removeprefix(ADAPTER).rpartition("/")
            learnt.setdefault(weight, {})[key] = values
    own = {n.removeprefix(TENSOR): v for n, v in tensors.items() if n.startswith(TENSOR)}
    return Kept(file, document, shell, learnt, own)


def _unpacked(file: Path, packed: NDArray[Any], size: int) -> onnx.ModelProto:
    shell = onnx.ModelProto()
    try:
        shell.ParseFromString(zlib.decompressobj().decompress(packed.tobytes(), size))
    except (zlib.error, DecodeError) as error:
        raise _damaged(file, f"it cannot be unpacked: {error}") from error
    return shell


def _damaged(file: Path, what: str) -> ModelError:
    return ModelError(
        f"this is no adapter that can be used: {what}",
        where=str(file),
        remedy="give the file that `surgeon finetune --adapter-out` wrote",
    )


def _require_base(kept: Kept, base: Model, tensors: Mapping[str, onnx.TensorProto]) -> None:
    """Make sure that a model has the very weights that an adapter was learnt on.

    Raises:
        ModelError: it has not.
    """
    told = kept.document["base"]
    names = [one.name for one in kept.shell.graph.initializer if not one.dims and not one.data_type]
    lacking = [name for name in names if name not in tensors]
    where = f"{base.where or 'the model'}, {kept.path}"
    remedy = f"give the file whose sha256 is {told['sha256']}"
    if lacking:
        raise ModelError(
            f"the adapter was learnt on another model: {len(lacking)} of {len(names)} weights are "
            f"missing: {_some(lacking)}",
            where=where,
            remedy=remedy,
        )
    if told["weights"]["sha256"] != hash_tensors(tensors[name] for name in names):
        raise ModelError(
            "the adapter was learnt on another model: its weights have the same names and other "
            "values",
            where=where,
            remedy=remedy,
        )


def _some(found: Iterable[str]) -> str:
    listed = list(found)
    more = len(listed) - LISTED
    return ", ".join(listed[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _put_together(kept: Kept, base: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Return the delivered file with the base's weights and all tensors that were kept."""
    proto = onnx.ModelProto()
    proto.CopyFrom(kept.shell)
    for tensor in proto.graph.initializer:
        name = tensor.name
        if name in kept.tensors:
            values = kept.tensors[name]
            if list(values.shape) != list(tensor.dims):
                raise kept.damaged(f"{name!r} is {list(values.shape)}, not {list(tensor.dims)}")
            tensor.raw_data = values.tobytes()
        elif not tensor.dims and not tensor.data_type:
            tensor.CopyFrom(base[name])
    return proto


def _settled(proto: onnx.ModelProto, wanted: str) -> str | None:
    """Let a file's proof be of its weights; what was delivered is the rule, and needs nothing."""
    if sha256_model(proto) == wanted:
        return None
    proof, plan = envelope.get(proto, envelope.PROOF), envelope.plan(proto)
    if proof is not None and plan is not None:
        envelope.put(proto, envelope.PROOF, restated(proto, plan, proof))
    return "this processor rounds otherwise: the weights are the delivered ones but for last digits"


def _source(proto: onnx.ModelProto, base: Model) -> str:
    plan = envelope.get(proto, envelope.PLAN) or {}
    return plan.get("source_sha256") or base.source_sha256


__all__ = ["Kept", "apply", "keep", "read_kept", "require_keepable"]
