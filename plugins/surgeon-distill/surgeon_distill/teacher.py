"""What a teacher says of the training samples, in the outputs of what is trained.

What must not enter: torch, and how a student learns from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import UsageError
from surgeon.tasks.labels import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from surgeon import Beside, Model

ORIGINAL, LOGITS = "original", "logits"
LEAST = 1e-30
"""Below it no probability is told from another."""
CLASSES = {"classification": 1, "tokens": 2, "segmentation": 1}
"""On which axis probabilities of classes lie, by what a teacher's answers are."""


def teach(
    given: Beside,
    *,
    teacher: str = ORIGINAL,
    features: str | None = None,
    preprocess: str | None = None,
) -> NDArray[Any]:
    """Return what a student is to say as the teacher does, or to hold in its features.

    Args:
        given: the training samples.
        teacher: a file, or `original`: the file that is tuned, as it came.
        features: None = its answers; else what the student's features are to tell: `logits` (what
            it says of classes of its own), `late`, a tensor or `@x`.
        preprocess: how pictures become inputs of the teacher, where its file does not say it.

    Returns:
        [n, …] logarithms of probabilities, log-odds of labels, numbers in units of training; or
        [n, d] features, each standardised.

    Raises:
        UsageError: the teacher is no one to learn from here.
        SurgeonError: it does not run, or not over these data.
    """
    model = given.original if teacher == ORIGINAL else given.load(teacher)
    if model.file_sha256 == given.original.file_sha256:
        model = given.original
        if given.goes_on:
            raise _refused("the teacher is the very file that is trained", "give another file")
    if features is None:
        return _answers(given, model, preprocess)
    if not given.reaches:
        raise _refused(
            "the features come from weights that stay as they are: nothing could learn them",
            "train more than the head (--case large-different, --from @x), or leave features out",
        )
    if features == LOGITS:
        found = _logarithms(given.answers(model, preprocess=preprocess).answers)
        found = found.reshape(len(found), -1)
    else:
        found = given.features(model, features, preprocess=preprocess)
    told = np.isfinite(found).all(axis=1)
    if not told.any():
        return found  # which samples these are is said by whoever asked
    spread = found[told].std(axis=0)
    moves = spread > 1e-6 * max(spread.max(), LEAST)
    if not moves.any():
        raise _refused("the teacher says the same of every sample", "give another, or its features")
    mean = found[told].mean(axis=0)
    standard: NDArray[Any] = (found[:, moves] - mean[moves]) / spread[moves]
    return standard


def _answers(given: Beside, model: Model, preprocess: str | None) -> NDArray[Any]:
    """Return what a teacher of the same task says, in the student's outputs."""
    said = given.answers(model, preprocess=preprocess)
    kind, names = said.kind, list(model.labels or ())
    if kind == "values" and given.task == "regression":
        named = names and given.labels
        found = _columns(given, model, said.answers, names, 1) if named else said.answers
        return given.in_units(_as_many(given, found))
    wanted = "multi-label" if given.task == "multi-label" else given.task
    alike = {"ordinal": "classification"}.get(wanted, wanted)
    if kind != alike or kind not in {*CLASSES, "multi-label"}:
        raise _refused(
            f"the teacher's answers are {kind}, those that are learnt {given.task}"
            + (": these are learnt by features alone" if kind == alike else ""),
            f"give a teacher of that task, or features={LOGITS}",
        )
    if kind == "multi-label":
        found = _columns(given, model, said.answers, names, 1)
        odds: NDArray[Any] = _logarithms(found) - _logarithms(1 - found)
        return odds
    found = _columns(given, model, said.answers, names, CLASSES[kind])
    places = tuple(np.delete(found.shape, CLASSES[kind]).tolist())
    if places != given.targets.shape:
        raise _refused(
            f"the teacher answers for {places[1:]} positions a sample, {given.targets.shape[1:]} "
            "are learnt",
            "give a teacher whose input and output are of the same size",
        )
    return _logarithms(found)


def _columns(
    given: Beside, model: Model, answers: NDArray[Any], names: Sequence[str], axis: int
) -> NDArray[Any]:
    """Return a teacher's answers in the order of the student's labels."""
    where = model.where or "the teacher"
    if len(names) != answers.shape[axis]:
        raise _refused(
            f"{where} carries {len(names) or 'no'} names for {answers.shape[axis]} outputs: which "
            "class is which is not known",
            f"give a file with labels, as `surgeon finetune` writes them, or features={LOGITS}",
        )
    missing = [label for label in given.labels if label not in names]
    if missing:
        raise _refused(
            f"{where} lacks {len(missing)} of {len(given.labels)} labels: {listed(missing)}",
            f"it knows {listed(names)}; a teacher of other classes teaches by features={LOGITS}",
        )
    chosen: NDArray[Any] = np.take(answers, [names.index(one) for one in given.labels], axis)
    return chosen


def _as_many(given: Beside, answers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers without names, if they are as many as those that are learnt."""
    if answers.shape[1:] != (given.outputs,):
        raise _refused(
            f"the teacher gives {answers.shape[1:]} numbers a sample, {given.outputs} are learnt",
            "give a teacher of the same numbers",
        )
    return answers


def _logarithms(probabilities: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = np.log(np.maximum(probabilities, LEAST))
    return found


def _refused(message: str, remedy: str) -> UsageError:
    return UsageError(message, where="--loss distill", remedy=remedy)
