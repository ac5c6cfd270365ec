"""Reading and writing `.onnx` files: one clear error for what is wrong, nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError

from surgeon.errors import EnvironmentLacksError, ModelError, OutputError
from surgeon.graph import external, gate
from surgeon.graph.reading import misnamed, read_bytes, what_lies_at
from surgeon.graph.walk import all_graphs
from surgeon.graph.weights import hash_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx import ModelProto, TensorProto

ONE_FILE_LIMIT = 2**31 - 2**20
"""Bytes one protobuf file may hold, with room for what is not a weight."""

SMALL = 1024
"""Bytes up to which a tensor stays in the graph's file when the others lie beside it."""

PAGE = 4096
"""Where tensors of a page or more begin in the file beside the graph."""


def read_model(path: str | os.PathLike[str]) -> ModelProto:
    """Read an `.onnx` file; see `read_hashed`."""
    return read_hashed(path)[0]


def read_hashed(path: str | os.PathLike[str]) -> tuple[ModelProto, str]:
    """Read an `.onnx` file and return it with the sha256 of the file's bytes.

    Large external data stay where they are, see `surgeon.graph.external`.

    Raises:
        ModelError: the file is absent, empty, truncated, not ONNX, or its external data is absent,
            too short, or outside the model's folder.
    """
    file = Path(path)
    where = str(file)
    if what_lies_at(file) == "a folder":
        raise ModelError(
            "the model is a folder, not a file", where=where, remedy="name the .onnx file inside"
        )
    try:
        content = read_bytes(file)
    except FileNotFoundError:
        raise ModelError("no such model file", where=where, remedy="check the path") from None
    except OSError as error:
        raise ModelError(
            f"the file cannot be read: {error.strerror}",
            where=where,
            remedy="check the path and its permissions",
        ) from error
    if not content:
        raise ModelError("the file is empty", where=where, remedy="download or export it again")
    wrong = misnamed(content)
    if wrong is not None:
        raise ModelError(f"this is {wrong[0]}", where=where, remedy=wrong[1])
    model = onnx.ModelProto()
    digest = _HashedAside(content)
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
    gate.check(model, where)
    external.attach(model, file)
    return model, digest.result()


class _HashedAside(Thread):
    """The sha256 of bytes, computed on another core while they are parsed."""

    def __init__(self, content: bytes) -> None:
        super().__init__(daemon=True)
        self._content = content
        self._digest = ""
        self.start()

    def run(self) -> None:
        self._digest = hashlib.sha256(self._content).hexdigest()

    def result(self) -> str:
        """Return the digest, in hexadecimal."""
        self.join()
        return self._digest


def check_model(model: ModelProto, where: str, *, read: bool = False) -> None:
    """Refuse a graph that cannot mean anything: no opset, no outputs, weights left elsewhere.

    Args:
        model: the graph.
        where: what messages call it.
        read: it was read by `read_hashed`, and has passed the gate there.

    Raises:
        ModelError: saying which of these it is.
    """
    if not read:
        gate.check(model, where)
    outside = [
        tensor.name
        for tensor in external.all_tensors(model)
        if external.is_external(tensor) and not external.is_attached(tensor)
    ]
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


def weight_bytes(model: ModelProto) -> int:
    """Return the bytes of all initializers' dense values, wherever they lie."""
    return sum(
        external.dense_size(tensor)
        for graph in all_graphs(model.graph)
        for tensor in graph.initializer
    )


def sha256_model(model: ModelProto) -> str:
    """Return the sha256 of a model that has no file: of its bytes, or of what stands for them.

    What lies outside, or does not fit into one message, enters by the hash of its tensors.
    """
    outside = any(external.is_external(tensor) for tensor in model.graph.initializer)
    if not outside and weight_bytes(model) <= ONE_FILE_LIMIT:
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    light, pairs = external.light_copy(model, _is_large)
    digest = hashlib.sha256(light.SerializeToString(deterministic=True))
    digest.update(hash_tensors(tensor for _, tensor in pairs).encode())
    return digest.hexdigest()


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


def save_model(
    model: ModelProto,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    check: Callable[[Path], None] | None = None,
    apart: bool = False,
) -> Path:
    """Write a model atomically: temporary files beside it, then renames.

    A model past protobuf's 2 GB keeps its weights in `NAME.data` beside it, and so does one whose
    weights lie outside already (see `external.INLINE_TOTAL`). They are copied tensor by tensor,
    by the operating system where they come from a file, and are not forced to the disk as the graph
    is. If anything fails, both files are what they were.

    Args:
        model: what to write.
        path: where to.
        force: overwrite.
        check: given the path of the written file before it takes its place; what it raises keeps
            it from doing so.
        apart: whether weights lie beside it, however small it is.

    Raises:
        OutputError: see `check_output`; or `NAME.data` exists.
        EnvironmentLacksError: the disk is full.
    """
    file = check_output(path, force=force)
    folder = file.resolve().parent
    beside = folder / f"{file.name}.data"
    apart = apart or _lies_apart(model)
    if apart and beside.exists() and not force:
        raise OutputError(
            "the file for the model's weights exists",
            where=str(beside),
            remedy="choose another name, or pass --force",
        )
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=folder) as name:
            scratch = Path(name)
            part = scratch / file.name
            if apart:
                light, pieces = _laid_out(model, beside.name)
                _write_graph(light, part)
                _write_weights(pieces, scratch / beside.name)
                _checked(part, check)
                _put_in_place([(scratch / beside.name, beside), (part, file)], scratch)
            else:
                _write_graph(external.loaded(model), part)
                _checked(part, check)
                part.replace(file)
    except OSError as error:
        raise write_error(error, file) from error
    return file


def _checked(part: Path, check: Callable[[Path], None] | None) -> None:
    if check is not None:
        check(part)


def _lies_apart(model: ModelProto) -> bool:
    size = weight_bytes(model)
    outside = any(external.is_external(tensor) for tensor in model.graph.initializer)
    return size > (external.INLINE_TOTAL if outside else ONE_FILE_LIMIT)


def _is_large(tensor: TensorProto) -> bool:
    """Say whether a tensor goes into the file beside the graph."""
    if external.is_external(tensor):
        return True
    return tensor.HasField("raw_data") and external.dense_size(tensor) > SMALL


def _laid_out(model: ModelProto, location: str) -> tuple[ModelProto, list[tuple[TensorProto, int]]]:
    """Return the graph that refers to a file of weights, and what stands where in that file."""
    light, pairs = external.light_copy(model, _is_large)
    pieces = []
    end = 0
    for entry, tensor in pairs:
        size = external.dense_size(tensor)
        # Whole pages, so that they can be mapped, and shared by file systems that do.
        start = -(-end // PAGE) * PAGE if size >= PAGE else end
        external.point(entry, location, start, size)
        pieces.append((tensor, start))
        end = start + size
    return light, pieces


def _write_graph(model: ModelProto, part: Path) -> None:
    with part.open("wb") as stream:
        stream.write(model.SerializeToString(deterministic=True))
        stream.flush()
        os.fsync(stream.fileno())


def _write_weights(pieces: list[tuple[TensorProto, int]], part: Path) -> None:
    with part.open("wb", buffering=0) as stream:
        for tensor, start in pieces:
            external.copy_bytes(tensor, stream, start)


def _put_in_place(files: list[tuple[Path, Path]], scratch: Path) -> None:
    """Rename new files over old ones; where a later one fails, the earlier are put back."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for new, place in files:
            kept = None
            if place.exists():
                kept = scratch / f"{place.name}.before"
                _keep(place, kept)
            done.append((place, kept))
            new.replace(place)
    except BaseException:
        for place, kept in reversed(done):
            if kept is not None:
                kept.replace(place)
            else:
                place.unlink(missing_ok=True)
        raise


def _keep(place: Path, kept: Path) -> None:
    """Give a file a second name, so that it can be put back; a rename where there are no links."""
    try:
        os.link(place, kept)
    except OSError:
        place.replace(kept)


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
