"""What goes into an operation: options checked, preprocessing found, samples opened and divided.

What must not enter: surgery, training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from surgeon.errors import (
    DataError,
    SurgeonError,
    UsageError,
)
from surgeon.graph import cuts as graph_cuts
from surgeon.graph import encodings, envelope
from surgeon.graph.shapes import input_infos
from surgeon.plugin.manager import loaded_plugins
from surgeon.records import (
    Encoding,
    Known,
    Medium,
    Preprocess,
)
from surgeon.tasks.labels import onto

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.data.splits import Splits
    from surgeon.model import Model
    from surgeon.plugin.manager import Plugins
    from surgeon.records import TensorInfo

    Source = str | os.PathLike[str] | onnx.ModelProto | Model
    Report = Callable[..., None]


def check_views(views: int, augment: str, samples: Samples) -> None:
    """Refuse augmented views of what cannot be augmented.

    Raises:
        UsageError: views are asked for, and the samples are no pictures or nothing varies them.
    """
    if views == 1:
        return
    if not samples.is_images:
        raise UsageError(
            f"{views} views of each sample are asked for, and only pictures can be augmented",
            where="--views",
            remedy="leave it out",
        )
    if augment == "none":
        raise UsageError(
            f"{views} views of each sample are asked for, and nothing varies them",
            where="--views",
            remedy="leave it out, or give --augment light or strong",
        )


def offer_media(plugins: Plugins | None) -> None:
    """Let plugins add their media to those that data are opened as."""
    from surgeon.data.media import registry

    for found in loaded_plugins(plugins).offers(Medium).values():
        registry.offer(found.offer, found.load)


def opened_by_plugin(data: Any, plugins: Plugins | None) -> Any:
    """Return what a plugin makes of a data URI; a path, and what no plugin knows, stay as given."""
    offer_media(plugins)
    if not isinstance(data, str) or ":" not in data or Path(data).exists():
        return data
    found = loaded_plugins(plugins).hook.surgeon_open_data(uri=data)
    return data if found is None else found


def find_preprocess(
    model: Model,
    option: Any = None,
    size: Any = None,
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    audio: Any = None,
) -> Preprocess | Encoding | None:
    """Find how pictures, texts or sounds become inputs.

    In this order: option → metadata of the file → the model index → None. `max_length` overrides
    what the file or the index says of texts, as `size` does of pictures.

    Raises:
        UsageError: options that exclude each other, or whose values cannot be meant.
    """
    given = {"--preprocess": option, "--tokenizer": tokenizer, "--audio": audio}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(
            "a model takes pictures, texts or sounds, not several of them",
            where=" and ".join(named),
            remedy="give one of them",
        )
    if tokenizer is not None:
        return encodings.parse_text(tokenizer, max_length)
    found = encodings.parse_audio(audio) if audio is not None else _found(model, option, size)
    return found if max_length is None else encodings.with_max_length(found, max_length)


def _found(model: Model, option: Any, size: Any) -> Preprocess | Encoding | None:
    from surgeon.graph.preprocess import parse_size

    if option is not None:
        return encodings.parse_option(option, _picture(model), size)
    document, source = envelope.get(model.proto, envelope.PREPROCESS), "metadata"
    if document is None:
        entry = model.known
        document, source = (None if entry is None else entry.preprocess), "index"
        if entry is not None and entry.encoding is not None:
            return encodings.from_index(entry.encoding, _folders(model, entry))
    if document is None:
        return None
    if isinstance(document, dict):
        source = document.get("source") or source
    found = encodings.parse_option(document, _picture(model), None, source=source)
    parsed = parse_size(size)
    if parsed is None or not isinstance(found, Preprocess):
        return found
    return replace(found, size=parsed)


def _folders(model: Model, known: Known) -> list[Path]:
    """Return where what belongs to a known model may lie: beside it, where its zoo keeps it."""
    return [*([] if model.path is None else [model.path.parent]), *map(Path, known.folders)]


def _picture(model: Model) -> TensorInfo | None:
    """Return the input that takes pictures, or None."""
    from surgeon.data.media.pictures import image_input

    return image_input(model.inputs, {})


def resized(model: Model, pre: Preprocess) -> Model:
    """Let the graph take pictures of the size that was asked for, if it runs at that size.

    Raises:
        UsageError: the graph works at its own size only.
    """
    info = _picture(model)
    if info is None or info.shape is None or len(info.shape) != 4:
        return model
    places = (2, 3) if pre.layout == "NCHW" else (1, 2)
    declared = tuple(info.shape[place] for place in places)
    wanted = tuple(pre.size)
    fixed = [dim for dim in declared if isinstance(dim, int)]
    if not fixed or all(
        not isinstance(dim, int) or dim == want for dim, want in zip(declared, wanted, strict=True)
    ):
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        if value.name == info.name:
            for place, want in zip(places, wanted, strict=True):
                value.type.tensor_type.shape.dim[place].dim_value = want
    for value in proto.graph.output:
        # Only the batch is known to stay; the rest follows from the picture's size.
        for dim in list(value.type.tensor_type.shape.dim)[1:]:
            dim.Clear()
    from surgeon.runtime.observe import random_feeds
    from surgeon.runtime.sessions import open_session

    note = (
        f"input {info.name!r} resized from {declared[0]}x{declared[1]} to {wanted[0]}x{wanted[1]}"
    )
    other = model.with_proto(proto, stored=model.stored, notes=(*model.notes, note))
    try:
        anatomy = other.anatomy()
        probe = graph_cuts.keep_only(anatomy.model, [anatomy.end], anatomy.shapes)
        shapes = {
            item.name: anatomy.shapes.one[item.name][1]
            for item in input_infos(probe)
            if item.name in anatomy.shapes.one
        }
        open_session(probe, device="cpu").run(random_feeds(probe, shapes, 0))
    except SurgeonError as error:
        raise UsageError(
            f"the graph does not run at {wanted[0]}x{wanted[1]}: {error.message}",
            where=f"input {info.name!r}, made for {declared[0]}x{declared[1]}",
            remedy=f"leave --size out, or give {declared[0]}x{declared[1]}",
        ) from error
    return other


def open_samples(
    data: Any,
    model: Model,
    pre: Preprocess | Encoding | None,
    label_column: str | None,
    constants: Mapping[str, NDArray[Any]],
    validation: float | str,
    group_column: str | None = None,
) -> Samples:
    """Open the data, and the validation data where it is a path of its own."""
    from surgeon.data.read import has_columns, needs_preprocess, open_data
    from surgeon.data.samples import JoinedSamples
    from surgeon.graph.preprocess import missing_preprocess

    infos = model.inputs
    if pre is None and needs_preprocess(data, infos, constants):
        raise missing_preprocess(model.where)
    opened: dict[str, Any] = {
        "preprocess": pre, "label_column": label_column, "constants": dict(constants),
    }  # fmt: skip
    samples = open_data(data, infos, **opened, group_column=group_column)
    if _is_number(validation):
        return samples
    own = group_column if has_columns(validation) else None
    return JoinedSamples(samples, open_data(validation, infos, **opened, group_column=own))


def without(data: Any, names: set[str]) -> Any:
    """Leave out arrays for inputs that became constants of the graph."""
    if not names:
        return data
    if isinstance(data, dict):
        return {key: value for key, value in data.items() if key not in names}
    if isinstance(data, str | Path) and str(data).endswith(".npz") and Path(data).is_file():
        from surgeon.data.media.arrays import read_npz

        return {key: array for key, array in read_npz(Path(data)).items() if key not in names}
    return data


def labels_to_go_on(model: Model, samples: Samples) -> list[str]:
    """Return the labels of a file whose plan is trained on, checked against the data's."""
    assert model.plan is not None
    labels = model.labels
    if labels is None:
        if model.plan.classes != len(samples.classes):
            raise DataError(
                f"the file's head has {model.plan.classes} outputs, the data has "
                f"{len(samples.classes)} labels",
                where=model.where,
                remedy="operate on the original with --case, or give the data it was made for",
            )
        return list(samples.classes)
    known = set(labels)
    unknown = [label for label in samples.classes if label not in known]
    if unknown:
        raise DataError(
            f"{len(unknown)} labels of the data are not known to the file: "
            f"{', '.join(map(repr, unknown[:5]))}",
            where=model.where,
            remedy=f"it knows {', '.join(map(repr, labels[:10]))}; with --case it gets a new head",
        )
    return labels


def label_codes(samples: Samples, labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the position of every label among the labels in their order, [n]."""
    assert samples.targets is not None
    return onto(samples.targets, labels).values


def split_samples(
    samples: Samples, codes: NDArray[np.int64], validation: float | str, seed: int,
    labels: Sequence[str],
) -> Splits:  # fmt: skip
    """Divide the samples: the data's own split wins, else by fraction and seed."""
    from surgeon.data import splits

    fraction = float(validation) if _is_number(validation) else 0.2
    named = not isinstance(validation, float | int) and not _is_number(validation)
    return splits.split_samples(
        samples, codes, fraction=fraction, seed=seed, classes=labels,
        hold_test=samples.n >= splits.TEST_FROM if named else None,
    )  # fmt: skip


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def constant_inputs(model: Model, inputs: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Read constant inputs; what the operation itself dropped is ignored."""
    gone = gone_inputs(model)
    if isinstance(inputs, dict):
        inputs = {name: value for name, value in inputs.items() if name not in gone}
    else:
        inputs = [text for text in inputs if text.partition("=")[0] not in gone]
    if not inputs:
        return {}
    from surgeon.data.constants import parse_constants

    return parse_constants(inputs, model.inputs)


def gone_inputs(model: Model) -> set[str]:
    """Return inputs that data made for the source may have and the operated file does not take."""
    return set() if model.plan is None else set(model.plan.dropped_inputs)
