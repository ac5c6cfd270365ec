"""Reading and writing `.onnx` files: one clear error for what is wrong, nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from surgeon.errors import EnvironmentLacksError, ModelError, OutputError
from surgeon.graph.walk import all_graphs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto, TensorProto

ONE_FILE_LIMIT = 2**31 - 2**20
"""Bytes one protobuf file may hold, with room for what is not a weight."""


def read_model(path: str | os.PathLike[str]) -> ModelProto:
    """Read an `.onnx` file with its external data.

    Raises:
        ModelError: the file is absent, empty, truncated, not ONNX, or its external data is absent,
            too short, or outside the model's folder.
    """
    file = Path(path)
    where = str(file)
    if not file.exists():
        raise ModelError("no such model file", where=where, remedy="check the path")
    if file.is_dir():
        raise ModelError(
            "the model is a folder, not a file", where=where, remedy="name the .onnx file inside"
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the file cannot be read: {error.strerror}", where=where, remedy="check permissions"
        ) from error
    if not content:
        raise ModelError("the file is empty", where=where, remedy="download or export it again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelError(
            "this is not an ONNX model, or it is truncated",
            where=where,
            remedy="pass an .onnx file; if it was downloaded, compare its size with the original",
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(
            "this is not an ONNX model: it holds no graph",
            where=where,
            remedy="pass an .onnx file that was exported with its graph",
        )
    _read_external(model, file)
    return model


def check_model(model: ModelProto, where: str) -> None:
    """Refuse a graph that cannot mean anything: no opset, no outputs, weights left elsewhere.

    Raises:
        ModelError: saying which of these it is.
    """
    outside = [tensor.name for tensor in _tensors(model) if uses_external_data(tensor)]
    if outside:
        raise ModelError(
            f"{len(outside)} tensors of the model lie in another file",
            where=f"{where}: {', '.join(map(repr, outside[:5]))}",
            remedy="give the path of the file, or load it with its external data",
        )
    if not model.opset_import:
        raise ModelError("the model states no operator set", where=where, remedy="export it again")
    if not model.graph.output:
        raise ModelError("the graph has no outputs", where=where, remedy="export it with outputs")


def _read_external(model: ModelProto, file: Path) -> None:
    stored = [
        (tensor, {item.key: item.value for item in tensor.external_data}.get("location", ""))
        for tensor in _tensors(model)
        if uses_external_data(tensor)
    ]
    if not stored:
        return
    folder = file.resolve().parent
    for tensor, location in stored:
        target = (folder / location).resolve()
        if Path(location).is_absolute() or not target.is_relative_to(folder):
            raise ModelError(
                f"external data {location!r} lies outside the model's folder",
                where=f"{file}: initializer {tensor.name!r}",
                remedy="put the data file beside the model; other places are refused",
            )
        if not target.is_file():
            raise ModelError(
                f"external data file {location!r} is missing",
                where=f"{file}: initializer {tensor.name!r}",
                remedy=f"put {location!r} beside {file.name}",
            )
    try:
        load_external_data_for_model(model, str(folder))
    except Exception as error:
        raise ModelError(
            f"external data cannot be read: {error}",
            where=f"{file}: {', '.join(sorted({location for _, location in stored}))}",
            remedy="the data file is truncated or does not belong to this model",
        ) from error
    for tensor, location in stored:
        if len(tensor.raw_data) != _dense_bytes(tensor):
            raise ModelError(
                f"external data {location!r} is shorter than the tensor it should hold",
                where=f"{file}: initializer {tensor.name!r}",
                remedy="the data file is truncated or does not belong to this model",
            )


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor a file may keep outside: initializers, and those of attributes."""
    for graph in all_graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            yield from (a.t for a in node.attribute if a.type == AttributeProto.TENSOR)
    for function in model.functions:
        for node in function.node:
            yield from (a.t for a in node.attribute if a.type == AttributeProto.TENSOR)


def _dense_bytes(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    packed = {"INT4": 2, "UINT4": 2, "FLOAT4E2M1": 2, "INT2": 4, "UINT2": 4}
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    if kind in packed:
        return -(-count // packed[kind])
    return int(count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def weight_bytes(model: ModelProto) -> int:
    """Return the bytes of all initializers, as stored."""
    return sum(
        len(tensor.raw_data) or tensor.ByteSize()
        for graph in all_graphs(model.graph)
        for tensor in graph.initializer
    )


def check_output(path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Refuse an output that exists (without `force`) or cannot be written, before any work.

    Raises:
        OutputError: it exists, is a folder, or its folder is absent or not writable.
    """
    file = Path(path)
    if file.is_dir():
        raise OutputError("the output is a folder", where=str(file), remedy="name a file in it")
    if file.exists() and not force:
        raise OutputError(
            "the output exists", where=str(file), remedy="choose another name, or pass --force"
        )
    folder = file.resolve().parent
    if not folder.is_dir():
        raise OutputError(
            "the output's folder does not exist", where=str(folder), remedy=f"mkdir -p {folder}"
        )
    if not os.access(folder, os.W_OK):
        raise OutputError(
            "the output's folder cannot be written", where=str(folder), remedy="choose another"
        )
    return file


def save_model(model: ModelProto, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write a model atomically: a temporary file beside it, then a rename.

    A model past protobuf's 2 GB keeps its weights in `NAME.data` beside it.

    Raises:
        OutputError: see `check_output`.
        EnvironmentLacksError: the disk is full.
    """
    file = check_output(path, force=force)
    folder = file.resolve().parent
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=folder) as scratch:
            part = Path(scratch) / file.name
            if weight_bytes(model) > ONE_FILE_LIMIT:
                data = f"{file.name}.data"
                copy = onnx.ModelProto()
                copy.CopyFrom(model)
                onnx.save_model(copy, str(part), save_as_external_data=True, location=data)
                (Path(scratch) / data).replace(folder / data)
            else:
                with part.open("wb") as stream:
                    stream.write(model.SerializeToString(deterministic=True))
                    stream.flush()
                    os.fsync(stream.fileno())
            part.replace(file)
    except OSError as error:
        raise write_error(error, file) from error
    return file


def write_error(error: OSError, file: Path) -> EnvironmentLacksError | OutputError:
    """Turn an operating-system error met while writing into ours: a full disk is exit 3."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentLacksError(
            "the disk is full; nothing was left behind",
            where=str(file),
            remedy="free space, or write elsewhere",
        )
    return OutputError(
        f"the output cannot be written: {error.strerror or error}",
        where=str(file),
        remedy="check the folder and its permissions",
    )


def chunks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """Yield a file's bytes in pieces."""
    with path.open("rb") as stream:
        while piece := stream.read(size):
            yield piece


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for piece in chunks(Path(path)):
        digest.update(piece)
    return digest.hexdigest()
