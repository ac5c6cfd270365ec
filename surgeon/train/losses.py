"""The loss that people name in place of a task's own: found, set and put into its objective."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from surgeon.errors import PluginError, SurgeonError, UsageError
from surgeon.plugin.manager import loaded_plugins
from surgeon.plugin.settings import parse, typed
from surgeon.records import Loss
from surgeon.train.objective import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from surgeon.plugin.manager import Plugins
    from surgeon.train.objective import Objective


def asked(code: Any) -> tuple[str, ...]:
    """Return the names of what a loss takes behind outputs and targets.

    Args:
        code: `(outputs, targets, …) -> [n]`, or the class of an objective with such a `loss`.
    """
    whole = hasattr(code, "of")
    parameters = inspect.signature(code.loss if whole else code).parameters.values()
    names = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    return tuple(names[3 if whole else 2 :])


class OtherLoss(nn.Module):
    """A task's objective with another loss of each sample; judged as the task says."""

    def __init__(
        self,
        base: Objective,
        each: Callable[..., Tensor],
        told: str,
        wrong: Callable[[str | BaseException], Exception] = lambda said: PluginError(str(said)),
    ) -> None:
        """Take whose judgement stays, the loss `(outputs, targets, …) -> [n]`, how it was told.

        `wrong` makes the error for a loss that is none.
        """
        super().__init__()
        self.base, self.each, self.told, self.wrong = base, each, told, wrong
        self.tried = False
        self.target = base.target

    def extra_repr(self) -> str:
        """Tell every setting."""
        return self.told

    def total(self, targets: npt.NDArray[Any]) -> float:
        """Return how many samples tell anything."""
        known = (targets == targets) & (targets != UNKNOWN)  # noqa: PLR0124 - NaN is unequal to itself
        return float(max(int(known.reshape(len(known), -1).any(axis=1).sum()), 1))

    def loss(self, outputs: Tensor, targets: Tensor, **more: Tensor) -> Tensor:
        """Return the sum over samples."""
        if targets.is_floating_point():
            outputs = outputs.reshape(targets.shape)
        try:
            each = self.each(outputs, targets, **more)
        except (SurgeonError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise self.wrong(error) from error
        if not isinstance(each, Tensor) or each.shape != targets.shape[:1]:
            gives = list(each.shape) if isinstance(each, Tensor) else f"a {type(each).__name__}"
            raise self.wrong(f"it gives {gives} for {len(targets)} samples, not a tensor [n]")
        if not self.tried:  # later ones that are not finite are what training met with
            self.tried = True
            if outputs.isfinite().all() and not each.isfinite().all():
                raise self.wrong("it gives numbers that are not finite, for outputs that are")
        return each.sum()

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the task's objective judges."""
        return self.base.judge(outputs, targets)


def check_loss(text: str, task: str, plugins: Plugins | None) -> tuple[Any, dict[str, Any]]:
    """Return the code of a loss and its settings, before anything is computed.

    Args:
        text: `name:key=value,key=value`.
        task: name of the task that it is for.
        plugins: loaded plugins; None loads them.

    Raises:
        UsageError: there is no such loss or setting, or it does not fit the task.
    """
    name, given = parse(text, "--loss")
    offered = loaded_plugins(plugins)
    found = offered.offer(Loss, name)
    if found.offer.tasks and task not in found.offer.tasks:
        losses = {name: one.offer.tasks for name, one in offered.offers(Loss).items()}
        fit = [name for name, tasks in losses.items() if not tasks or task in tasks]
        raise UsageError(
            f"the loss {name!r} is for {', '.join(found.offer.tasks)}, the task is {task!r}",
            where="--loss",
            remedy=f"one of {', '.join(fit)}" if fit else "leave it out",
        )
    code = found.load()
    return code, typed(code, given, f"--loss {name}")


def with_loss(
    base: Objective,
    text: str,
    task: str,
    targets: npt.NDArray[Any],
    outputs: int,
    *,
    scratch: bool = False,
    plugins: Plugins | None = None,
    **known: Any,
) -> Objective:
    """Return the objective of a task with the loss that people named.

    A loss is a function of each sample, or the class of a whole objective where it depends on all
    training samples or has weights of its own. The class is told by keyword what its `of` names of
    `names`, `shapes` and `own`, the task's own objective.

    Args:
        base: the task's own objective.
        text: `name:key=value,key=value`.
        task: its name.
        targets: [n, …] of the training samples.
        outputs: of the head.
        scratch: whether weights start at random.
        plugins: loaded plugins; None loads them.
        known: `names` of the outputs; `shapes` of one sample's values that the loss asks for.

    Raises:
        UsageError: see `check_loss`.
    """
    code, settings = check_loss(text, task, plugins)
    if hasattr(code, "of"):
        told = {"names": (), "shapes": {}, "own": base} | known
        wanted = inspect.signature(code.of).parameters
        settings |= {name: value for name, value in told.items() if name in wanted}
        made = code.of(targets, outputs, scratch=scratch, **settings)
    else:
        found = loaded_plugins(plugins).offer(Loss, parse(text, "--loss")[0])
        made = OtherLoss(base, functools.partial(code, **settings), text, found.wrong)
    if asked(code):
        made.asks = asked(code)
    return cast("Objective", made)
