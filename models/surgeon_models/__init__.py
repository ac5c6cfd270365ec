"""The index of real models and real data that surgeon is built and tested on.

This package knows *where* a pretrained file comes from (a named package, a file in it, its hash,
its licence) and how to make it (`recipes`, `random_weights`); it carries no weights itself.
What must not enter: binaries, network addresses, anything that operates on a model. Importing the
package costs the standard library only; everything heavier is imported by the call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, TensorProto

    from surgeon_models.index import Entry

__all__ = ["clear", "entry", "find_by_sha256", "folder", "get", "names", "recognise", "sample_data"]


def names() -> list[str]:
    """Return the names of all indexed models, in the order of the index."""
    from surgeon_models.index import load

    return list(load().models)


def entry(name: str) -> Entry:
    """Return what the index says about one model.

    Raises:
        UnknownNameError: the index has no model of that name.
    """
    from surgeon_models.index import find

    return find(name)


def get(name: str, *, refresh: bool = False) -> Path:
    """Return the path of a model's ONNX file in the cache, fetching or building it if absent.

    Args:
        name: a name of the index.
        refresh: fetch or build again even though the cache holds the file.

    Raises:
        UnknownNameError: the index has no model of that name.
        EnvironmentLacksError: pip, a package or the network is missing.
        CheckError: a downloaded file is not the indexed one, or the weights of a built one are not
            those of the package.
    """
    from surgeon_models.store import get as get_from_store

    return get_from_store(name, refresh=refresh)


def folder(name: str) -> Path:
    """Return the folder of the cache that a model's files are in once it was fetched."""
    from surgeon_models.store import models_folder

    return models_folder() / name


def find_by_sha256(digest: str) -> Entry | None:
    """Return the indexed model whose ONNX file has this sha256 (hexadecimal), or None.

    Knows the files that packages ship and the files built in this cache. A file that was built
    elsewhere has other last digits and so another sha256: `recognise` knows it by its content.
    """
    from surgeon_models.store import find_by_sha256 as find_in_store

    return find_in_store(digest)


def recognise(
    model: ModelProto,
    digest: str = "",
    read: Callable[[TensorProto], NDArray[Any]] | None = None,
) -> Entry | None:
    """Return the indexed model that a graph is, wherever and on whatever processor it was built.

    A file is the indexed one if its sha256 is, or if its structure is the same and its weights are
    equal up to what processors differ by. A cut, tuned or quantised file is another model.

    Args:
        model: the graph as its file has it.
        digest: the file's sha256, "" where there is none.
        read: gives a tensor's values; needed where tensors lie in another file.
    """
    from surgeon_models.store import recognise as find_in_store

    return find_in_store(model, digest, read)


def sample_data(name: str, *, samples: int = 120) -> dict[str, np.ndarray]:
    """Return labelled data of a model's own kind, as the arrays its graph takes.

    Real where the index has real data (see `samples`). One array per graph input, samples along
    that input's batch axis, constant inputs as they are, and `labels` (text [n]): what surgeon
    takes as `data`, and what `numpy.savez` makes an `.npz` file of.

    Args:
        name: a name of the index.
        samples: at most so many, between 4 and 300.

    Raises:
        UnknownNameError: the index has no model of that name.
        UsageError: `samples` is not between 4 and 300.
        EnvironmentLacksError: a package manager, package or library is missing.
    """
    from surgeon_models.samples import sample_data as make

    return make(name, samples=samples)


def clear() -> int:
    """Delete every cached model and data set; return how many bytes that freed."""
    from surgeon_models.store import clear as clear_store

    return clear_store()
