"""`Model`: an ONNX graph in normalized form together with where it came from and what was planned.

A Model is never changed in place; each operation returns a new one. What is found out about it is
a function of its fields alone, found when it is first asked for and kept with this very object: it
is the same whoever asks first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgeon import shown
from surgeon.errors import SurgeonError, UsageError
from surgeon.graph import envelope, files
from surgeon.graph.learned_scales import find as learned_scales
from surgeon.graph.normalize import normalize
from surgeon.graph.precision import computes_half
from surgeon.graph.shapes import input_infos, output_infos
from surgeon.graph.walk import data_inputs
from surgeon.graph.weights import quantized_weights, roles, sizes
from surgeon.plugin.manager import found_once
from surgeon.records import Change, Encoding, Known, Plan, Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from surgeon.graph.cuts import Anatomy
    from surgeon.graph.quantized_weights import QuantizedWeight
    from surgeon.records import CutPoint, TensorInfo

HALF_BOUND, BOUND = 1e-2, 1e-4
"""Relative error allowed between torch and ONNX Runtime: float16 graphs, and all others."""


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A normalized ONNX graph.

    Attributes:
        proto: the graph; treat it as read-only.
        source_sha256: sha256 of the file whose weights are the frozen ones: the file itself, or,
            for a file that carries a plan, the one it was operated from.
        file_sha256: sha256 of the file it was loaded from (of its bytes, where there was none).
        path: that file, or None.
        changes: what normalization did.
        plan: what a case decided, for operated and tuned models.
        notes: what the user should know (a batch that stays fixed, outputs that were dropped).
        stored: the graph as the file had it.
        bound_inputs: inputs that were constants and are initializers now.
        output: the graph output whose head counts, where one was chosen by name.
        sizes: what is known of open dimensions: {"input:axis": size}.
        constants: what is known of inputs that are the same for every sample: {input: values}.
        before: the graph with the weights it had before `with_weights`, or None.
        indexed: what the model index knows of the file it came from, where that was looked up.
    """

    proto: onnx.ModelProto
    source_sha256: str
    file_sha256: str = ""
    path: Path | None = None
    changes: tuple[Change, ...] = ()
    plan: Plan | None = None
    notes: tuple[str, ...] = ()
    stored: onnx.ModelProto | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    bound_inputs: tuple[str, ...] = ()
    output: str | None = None
    removed_nodes: int = 0
    added_nodes: int = 0
    before: onnx.ModelProto | None = None
    indexed: tuple[Any] | None = None

    def __repr__(self) -> str:
        """Return what it is, in a few lines."""
        plan, graph = self.plan, self.proto.graph
        planned = None
        if plan is not None:
            count = len(self.trainable)
            at = plan.cut if plan.depth is None else f"{plan.cut} (@{plan.depth:.4g})"
            planned = f"{plan.case or 'none'}, cut at {at}, {count} of the initializers train"
        return shown.block(
            f"surgeon.Model {self.where or graph.name}",
            {
                "inputs": shown.values(self.inputs),
                "outputs": shown.values(output_infos(self.proto)),
                "graph": f"{len(graph.node)} nodes, {len(graph.initializer)} initializers",
                "plan": planned,
                "labels": shown.listed(envelope.labels(self.proto, None) or []),
                "proof": "carried" if self.tuned else None,
            },
        )

    @property
    def inputs(self) -> list[TensorInfo]:
        """The graph inputs that are not initializers, in order."""
        return input_infos(self.proto)

    @property
    def where(self) -> str | None:
        """The path messages and documents show, or None."""
        return None if self.path is None else str(self.path)

    @cached_property
    def known(self) -> Known | None:
        """What a model zoo knows of this very file, wherever it was built, or None."""
        if self.indexed is not None:
            known: Known | None = self.indexed[0]
            return known
        if self.stored is None or not self.file_sha256:
            return None
        return found_once().known(self.file_sha256, self.stored)

    @property
    def labels(self) -> list[str] | None:
        """Class names the file carries, or None.

        Of an operated file only our own entry counts: names left by an exporter are the old head's.
        """
        if self.plan is None or self.plan.outputs is None:
            found = envelope.labels(self.proto, None)
            if found is None and self.known is not None and self.known.labels:
                found = list(self.known.labels)
            return found
        own: list[str] | None = envelope.get(self.proto, envelope.LABELS)
        return own

    @property
    def task(self) -> str:
        """Name of the task: the plan's, else that of a file nobody planned anything for."""
        return (self.plan or Plan()).task

    @property
    def decoding(self) -> dict[str, Any]:
        """What the file stores of its task: thresholds, widths of intervals; see `TaskCode`."""
        return envelope.get(self.proto, envelope.DECODING) or {}

    @property
    def trainable(self) -> list[str]:
        """Names of the initializers the plan trains."""
        if self.plan is None or isinstance(self.plan.trainable, str):
            return []
        return list(self.plan.trainable)

    @property
    def preprocess(self) -> Preprocess | Encoding | None:
        """How pictures, texts or sounds become inputs, as the file itself says, or None."""
        document = envelope.get(self.proto, envelope.PREPROCESS)
        if document is None:
            return None
        from surgeon.graph.encodings import parse_option

        return parse_option(document, source="metadata")

    @property
    def tuned(self) -> bool:
        """Whether the file carries a proof, so that its weights are the result of training."""
        return envelope.PROOF in envelope.metadata(self.proto)

    @property
    def proof(self) -> dict[str, Any] | None:
        """The proof the file carries, or None."""
        found: dict[str, Any] | None = envelope.get(self.proto, envelope.PROOF)
        return found

    @cached_property
    def bound(self) -> float:
        """Relative error allowed between torch and ONNX Runtime for this graph."""
        return HALF_BOUND if computes_half(self.proto) else BOUND

    def cuts(self) -> list[CutPoint]:
        """Return the listed cuts by ascending depth."""
        return list(self.anatomy().cuts)

    def anatomy(self) -> Anatomy:
        """Understand the graph; a fixed batch is freed where that is proven.

        The result's `model` is the graph everything further should use. Where the graph must be run
        to be understood, constant inputs have the values that are known of them.
        """
        return self._anatomy

    def sketch(self) -> Anatomy:
        """Understand the graph as it is: a fixed batch stays, and nothing is run to prove more."""
        return self._sketch

    @cached_property
    def _anatomy(self) -> Anatomy:
        from surgeon.runtime.settle import settle

        known = {**_picture_sizes(self), **self.sizes}
        return settle(self.proto, known, self.constants or None, self.bound, output=self.output)

    @cached_property
    def _sketch(self) -> Anatomy:
        from surgeon.runtime.settle import sketch

        return sketch(self.proto, {**_picture_sizes(self), **self.sizes}, self.output)

    @cached_property
    def _roles(self) -> dict[str, str]:
        return dict(roles(self.proto))

    @cached_property
    def _quantized(self) -> dict[str, QuantizedWeight]:
        return quantized_weights(self.proto)

    def as_it_runs(self) -> tuple[onnx.ModelProto, str | None]:
        """Return the graph with its batch pinned where constants hold it, and what to say of it.

        Files written here say of their batch what is true; of others it is tried only where
        something in the graph looks as if it held the batch.
        """
        from surgeon.graph.batch import held_sizes, pinned

        if self.plan is not None or not held_sizes(self.proto, self.sizes):
            return self.proto, None
        try:
            held = self.anatomy().held
        except SurgeonError:  # what cannot be understood can still be run
            held = None
        if held is None:
            return self.proto, None
        note = f"the batch is declared open and held at {held} by constants: runs are of {held}"
        return pinned(self.proto, held), note

    @property
    def batch_note(self) -> str | None:
        """What became of a fixed batch: freed, or why it stays; None where it is free."""
        return self.anatomy().batch_note

    def roles(self) -> dict[str, str]:
        """Return {float initializer: parameter, statistics, setting or constant}."""
        return dict(self._roles)

    def quantized(self) -> dict[str, QuantizedWeight]:
        """Return the integer initializers that can learn as what they stand for."""
        return dict(self._quantized)

    def scales(self) -> dict[str, tuple[str, ...]]:
        """Return {scale that can learn: what it rounds}, values and quantised weights.

        No plan trains them unless they are named: `Rewritten.also` of an adapter does.
        """
        return learned_scales(self.proto, self._quantized)

    def learnable(self) -> list[str]:
        """Return what a plan may train, in graph order: parameters and quantised weights."""
        learns = {name for name, role in self.roles().items() if role == "parameter"}
        learns |= set(self.quantized())
        return [tensor.name for tensor in self.proto.graph.initializer if tensor.name in learns]

    def parameters(self) -> list[str]:
        """Return what `everything` means in a case: what can learn and has several elements."""
        count = sizes(self.proto)
        return [name for name in self.learnable() if count[name] > 1]

    def with_constants(self, constants: Mapping[str, NDArray[Any]]) -> Model:
        """Return the model that knows constant inputs, as initializers where they decide an `If`.

        That becomes the branch it takes, so that there is something to cut.
        """
        known = self.knowing(constants)
        if not constants or all(node.op_type != "If" for node in self.proto.graph.node):
            return known
        from surgeon.graph.fold import bind

        proto, changes = bind(self.proto, constants)
        if not changes:
            return known
        left = set(data_inputs(proto.graph))
        gone = tuple(info.name for info in self.inputs if info.name not in left)
        return known.with_proto(
            proto, changes=(*self.changes, *changes), bound_inputs=gone, stored=self.stored
        )

    def knowing(self, constants: Mapping[str, NDArray[Any]] | None) -> Model:
        """Return the model that knows these values of inputs; itself where it does already."""
        given = {name: np.asarray(value) for name, value in (constants or {}).items()}
        same = given.keys() == self.constants.keys() and all(
            value.dtype == self.constants[name].dtype
            and np.array_equal(value, self.constants[name])
            for name, value in given.items()
        )
        return self if same else self._other(constants=given)

    def sized_like(self, feeds: Mapping[str, NDArray[Any]]) -> Model:
        """Return the model with open dimensions known from one sample of the data."""
        found = {
            f"{info.name}:{axis}": int(feeds[info.name].shape[axis])
            for info in self.inputs
            if info.shape is not None and info.name in feeds
            for axis, dim in enumerate(info.shape)
            if axis != info.batch_axis and not isinstance(dim, int) and axis < feeds[info.name].ndim
        }
        return self._other(sizes=found) if found not in ({}, self.sizes) else self

    def with_output(self, output: str | None) -> Model:
        """Return the model with the output whose head counts; None leaves it as it is."""
        return self if output in (None, self.output) else replace(self, output=output)

    def with_proto(self, proto: onnx.ModelProto, **changes: Any) -> Model:
        """Return a model with another graph and the same origin."""
        return self._other(**{"proto": proto, "stored": None, "before": None, **changes})

    def _other(self, **changes: Any) -> Model:
        """Return a model of the same origin, which need not be looked up once more."""
        return replace(self, indexed=(self.known,), **changes)

    def with_weights(self, weights: Any) -> Model:
        """Return the model with other weights; labels, plan and preprocessing stay.

        Only float initializers and quantised weights change, each in its stored type and shape;
        those that are not named keep their values. A proof is dropped: `surgeon.prove` makes one
        of the new weights.

        Args:
            weights: the module of `surgeon.to_torch`, its adapters folded; `surgeon.tensors` or
                the `state_dict` of it; or {initializer: values} for some of them.

        Raises:
            UnknownNameError: a name that is no such initializer.
            UsageError: values of another shape.
        """
        from surgeon.graph.weights import write_back
        from surgeon.torch_graph.arrays import as_initializers

        arrays = as_initializers(self.proto, self.quantized(), weights)
        shapes = {tensor.name: tuple(tensor.dims) for tensor in self.proto.graph.initializer}
        wrong = [n for n in arrays if n in shapes and arrays[n].shape != shapes[n]]
        if wrong:
            name = wrong[0]
            raise UsageError(
                f"{name!r} is {list(arrays[name].shape)}, the model has {list(shapes[name])}",
                where=f"{len(wrong)} of {len(arrays)} tensors",
                remedy="give values in the shapes of surgeon.tensors(module)",
            )
        proto = write_back(self.proto, arrays, partial=True)
        for key in (envelope.PROOF, envelope.STATISTICS):
            envelope.put(proto, key, None)
        return self.with_proto(proto, before=self.before or self.proto)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        check: Callable[[Path], None] | None = None,
    ) -> Path:
        """Write the file atomically, where `check` of the written file raises nothing.

        Raises:
            OutputError: it exists (without `force`) or cannot be written.
            EnvironmentLacksError: the disk is full.
        """
        return files.save_model(self.proto, path, force=force, check=check)

    def document(self, out: str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Return the body of the `operate` document."""
        plan = self.plan or Plan()
        names = [tensor.name for tensor in self.proto.graph.initializer]
        trains = set(self.trainable)
        return {
            "out": None if out is None else str(out),
            "plan": plan.as_dict(),
            "trainable": self.trainable,
            "frozen": [name for name in names if name not in trains],
            "removed_nodes": self.removed_nodes,
            "added_nodes": self.added_nodes,
            "output": self.proto.graph.output[0].name,
            "normalized": [{"what": item.what, "count": item.count} for item in self.changes],
            "warnings": list(self.notes),
        }


def load(source: str | os.PathLike[str] | onnx.ModelProto | Model, *, hashed: bool = True) -> Model:
    """Load any pretrained network and bring it to normal form.

    Args:
        source: path of an `.onnx` file, or a ModelProto with its weights in it.
        hashed: False leaves a ModelProto without its sha256, which takes longer than all the rest;
            for what is done with the model at once and leaves no file.

    Raises:
        ModelError: the file is absent, damaged, or no ONNX graph.
    """
    if isinstance(source, Model):
        return source
    if isinstance(getattr(source, "model", None), Model):  # an Outcome
        return source.model  # type: ignore[no-any-return, union-attr]
    path: Path | None = None
    if isinstance(source, onnx.ModelProto):
        stored, digest = source, ""
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        stored, digest = files.read_hashed(path)
    else:
        raise UsageError(
            f"a model cannot be loaded from a {type(source).__name__}",
            remedy="pass a path, an onnx.ModelProto or a surgeon Model",
        )
    files.check_model(stored, str(path or "the ModelProto"), read=path is not None)
    if hashed and not digest:
        digest = files.sha256_model(stored)
    proto, changes = normalize(stored)
    if any(node.op_type == "If" for node in proto.graph.node):
        from surgeon.graph.fold import bind

        proto, decided = bind(proto, {})
        changes = (*changes, *decided)
    plan, source_digest = envelope.plan(proto), digest
    if plan is not None:
        document = envelope.get(proto, envelope.PLAN)
        source_digest = str(document.get("source_sha256") or digest)
    return Model(proto, source_digest, digest, path, changes, plan, stored=stored)


def _picture_sizes(model: Model) -> dict[str, int]:
    """Return the open sides of a picture input, as the file or the index states them."""
    document = envelope.get(model.proto, envelope.PREPROCESS)
    if document is None and model.known is not None:
        document = model.known.preprocess
    if not isinstance(document, dict) or not isinstance(document.get("size"), list):
        return {}
    first = 1 if document.get("layout") == "NHWC" or document.get("embedded") else 2
    return {
        f"{info.name}:{first + place}": int(size)
        for info in model.inputs
        if info.shape is not None and len(info.shape) == 4
        for place, size in enumerate(document["size"])
    }
