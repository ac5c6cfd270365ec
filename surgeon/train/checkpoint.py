"""Checkpoints of a training run: one safetensors file, its header carrying JSON. Never a pickle.

One file, so that tensors and counters cannot come from different moments; written beside and
renamed, so that a crash leaves the last whole one. What must not enter: what the tensors mean.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import safetensors
import safetensors.torch

from surgeon.errors import CheckError, EnvironmentLacksError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

FILE: Final = "checkpoint.safetensors"
_KEY: Final = "surgeon.checkpoint"
_VERSION: Final = 2


def save(folder: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint atomically over the one before.

    Args:
        folder: made where it is missing.
        tensors: by name; stored dense, on the CPU.
        state: JSON values; floats survive exactly.

    Returns:
        The file.

    Raises:
        EnvironmentLacksError: the disk is full.
        OutputError: the folder cannot be written.

    """
    path = folder / FILE
    dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # safetensors refuses tensors that share memory; tied ones become two here.
    seen: set[int] = set()
    for name, tensor in dense.items():
        if tensor.data_ptr() in seen:
            dense[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    header = {_KEY: json.dumps({"version": _VERSION, **state})}
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=FILE, suffix=".part")
        os.close(handle)
        safetensors.torch.save_file(dense, temporary, metadata=header)
        Path(temporary).replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        kind = EnvironmentLacksError if full else OutputError
        raise kind(
            f"the checkpoint could not be written: {error}",
            where=str(path),
            remedy="free some space, or give another folder",
        ) from error
    return path


def load(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return (tensors on the CPU, state) of the checkpoint in a folder; None where there is none.

    Raises:
        CheckError: the file is broken or of another version.

    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            state = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a method of safe_open, not of a dict
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise CheckError(
            f"the checkpoint cannot be read: {error}",
            where=str(path),
            remedy="delete it and start again without --resume",
        ) from error
    if state.get("version") != _VERSION:
        raise CheckError(
            f"the checkpoint has version {state.get('version')}, this surgeon reads {_VERSION}",
            where=str(path),
            remedy="delete it and start again without --resume",
        )
    return tensors, state
