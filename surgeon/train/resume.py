"""What an interrupted fit leaves, and how a later one goes on from it, bit for bit.

Every part of a fit keeps what it alone changes; a checkpoint collects that. What must not enter:
the meaning of what is kept, the form of the file (`checkpoint`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from surgeon.errors import UsageError
from surgeon.train import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt
    import torch
    from torch import Tensor

    from surgeon.train.objective import Objective
    from surgeon.train.parameters import Parameters
    from surgeon.train.schedule import Schedule
    from surgeon.train.settings import Checkpoint, FitSettings


class Part:
    """A part of a fit, as a checkpoint sees it.

    Attributes:
        keeps: names of the attributes, JSON values, that a run which goes on must know.
    """

    keeps: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Any]:
        """Return the JSON values that are kept."""
        return {name: getattr(self, name) for name in self.keeps}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that are kept, by name."""
        return {}

    def go_on(self, state: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:  # noqa: ARG002 - most have none
        """Stand where an earlier run stood; tensors come on the CPU."""
        for name in self.keeps:
            setattr(self, name, state[name])


class Saved:
    """The checkpoint of one fit; None = none is kept."""

    def __init__(
        self, checkpoint: Checkpoint | None, identity: Callable[[], str], **parts: Part
    ) -> None:
        self._given, self._identity, self._parts = checkpoint, identity, parts

    def write(self) -> None:
        """Write it over the one before."""
        if self._given is None:
            return
        states = {name: part.state() for name, part in self._parts.items()}
        tensors = {
            f"{name}/{own}": tensor
            for name, part in self._parts.items()
            for own, tensor in part.tensors().items()
        }
        checkpoint.save(self._given.folder, tensors, states | {"fingerprint": self._identity()})

    def go_on(self) -> bool:
        """Bring every part to where the run before stood; False where there was none.

        Raises:
            UsageError: the checkpoint is of another run.
        """
        given = self._given
        found = checkpoint.load(given.folder) if given is not None and given.resume else None
        if given is None or found is None:
            return False
        tensors, states = found
        if states["fingerprint"] != self._identity():
            raise UsageError(
                "the checkpoint is of another run: its data, trainable weights or settings differ",
                where=str(given.folder),
                remedy="give the same options as before, or start again without --resume",
            )
        owned: dict[str, dict[str, Tensor]] = {name: {} for name in self._parts}
        for name, tensor in tensors.items():
            owner, _, own = name.partition("/")
            owned[owner][own] = tensor
        for name, part in self._parts.items():
            part.go_on(states[name], owned[name])
        return True


def fingerprint(
    settings: FitSettings,
    schedule: Schedule,
    objective: Objective,
    parameters: Parameters,
    targets: npt.NDArray[Any],
    device: torch.device,
) -> str:
    """Return a hash of what a run that goes on must have in common with the one before."""
    told = dataclasses.asdict(settings)
    for name in ("budget_seconds", "max_steps", "device"):
        del told[name]
    if device.type == "cpu":  # where it chooses no algorithm
        del told["deterministic"]
    shapes = {name: list(p.shape) for name, p in parameters.module.named_parameters()}
    learning = list(parameters.learning)
    text = json.dumps([told, repr(objective), learning, shapes, schedule.epochs, schedule.batch])
    kind = np.dtype(objective.target).newbyteorder("<")
    values = np.asarray(targets).astype(kind).tobytes()
    return hashlib.sha256(text.encode() + b"\0" + values).hexdigest()
