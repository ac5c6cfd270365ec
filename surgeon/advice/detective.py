"""The preprocessing detective: how pictures become inputs of a file that nobody says it of.

What the file itself says comes first (`graph.intake`). What that leaves open is measured: every
candidate preprocessing is run over the same pictures and judged by up to three witnesses, none of
which is believed alone, since each is fooled by other things.

- the *probe*: held-out squared error of a linear classifier on the late features. It needs labels
  and cannot tell apart what the network hardly tells apart.
- the *memory*: where BatchNormalization was kept, how far its inputs are from the mean and variance
  it remembers of training. It needs no labels, and is fooled by pictures of other colours.
- the *confidence* of the old head. It needs a head, and is fooled by plain backgrounds.

What must not enter: the choice of case and cut, training.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import TYPE_CHECKING, Any

import numpy as np

from surgeon.errors import DataError, SurgeonError
from surgeon.graph.apart import doubtful_nodes
from surgeon.graph.moments import add_moments
from surgeon.graph.stated import LIMITS, read_intake
from surgeon.graph.taps import add_taps, late_cut
from surgeon.intake import divide, open_samples, resized, strata_of
from surgeon.probe.detected import Detected
from surgeon.targets import ask, require_learnt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.data.samples import Samples
    from surgeon.graph.stated import Intake
    from surgeon.model import Model
    from surgeon.options import Options
    from surgeon.plugin.manager import Plugins
    from surgeon.probe.evidence import Probe
    from surgeon.records import Preprocess

    Report = Callable[..., None]
    Ints = NDArray[np.int64]

SAMPLES = 256
"""Pictures that are looked at, at most."""
REPETITIONS = 5
"""Cross-validations of each candidate: so few samples depend on their folds."""
RANGES = ("imagenet", "zero-one", "minus-one-one", "raw", "efficientnet-lite", "caffe")
"""Presets of `graph.preprocess` that are tried."""
SHIFT = 0.15
"""Relative difference of a mismatch or a confidence that means nothing, since these pictures are
not those of training: between two orders of channels it was up to 0.08, and either way."""
SMALL = 0.01
"""Relative difference of squared errors that means nothing, however often it repeats."""
LOUDEST = {"probe": 4.0, "memory": 6.0, "confidence": 2.0}
"""Standard errors beyond which a witness is not believed more. Least of all confidence: inputs that
are merely too large make a head sure of anything."""
USUAL = 4.0
"""How much likelier the usual order of channels is beforehand: RGB, with caffe's means BGR."""
USUAL_RANGE = 2.0
"""How much likelier ImageNet's mean and spread are for NCHW: most such files come from PyTorch,
whose model collections all use them."""


@dataclass(frozen=True)
class Trial:
    """One candidate, as measured.

    Attributes:
        name: what it is called.
        preprocess: the candidate.
        probe: the linear classifier on its late features.
        loss: held-out squared error of each picture, [n].
        mismatch: how far BatchNormalization's inputs are from what it remembers, or None.
        confidence: mean probability of the old head's first class, or None.
    """

    name: str
    preprocess: Preprocess
    probe: Probe = field(repr=False)
    loss: NDArray[np.float64] = field(repr=False)
    mismatch: float | None
    confidence: float | None


def detect_preprocess(
    model: Model,
    data: Any,
    to: Options,
    *,
    constants: Mapping[str, NDArray[Any]] | None = None,
    device: Any = "auto",
    most: int = SAMPLES,
    progress: Report | None = None,
    plugins: Plugins | None = None,
) -> Detected | None:
    """Find how pictures become inputs, on at most 256 of them; None where data are no pictures.

    Args:
        model: the model.
        data: labelled pictures; only those that training would learn from are looked at.
        to: how they are read and divided; the size is needed where the graph leaves it open.
        constants: constant inputs.
        device: where candidates run.
        most: pictures to look at.
        progress: called as `progress("preprocessing", done, total)`.
        plugins: loaded plugins; None loads them.

    Raises:
        UsageError: the size of the pictures is not known.
        DataError: data that do not fit, or without labels to judge by.
    """
    from surgeon.data.media.pictures import image_input
    from surgeon.data.read import needs_preprocess
    from surgeon.probe.evidence import stratified

    fixed = dict(constants or {})
    seed, validation = to.training.seed, to.training.validation
    if not needs_preprocess(data, model.inputs, fixed):
        return None
    started = time.perf_counter()
    info = image_input(model.inputs, fixed)
    intake = None if info is None else read_intake(model.proto, info.name)
    candidates = narrowed(preprocess_candidates(info, to.reading.size), intake)
    if not candidates:
        raise DataError("there is no preprocessing to try", where=model.where)
    said = None if intake is None else intake.note
    if len(candidates) == 1:
        name, how = next(iter(candidates.items()))
        whole = intake is not None and intake.range is not None
        how = replace(how, source="metadata" if whole else "graph")
        return Detected(how, name, 1.0, (), 0, time.perf_counter() - started, said)
    sized = resized(model, next(iter(candidates.values())))  # the same size for all
    bench = _Bench(sized, fixed, device, to.place.threads, seed)
    chosen = codes = None
    trials = []
    for done, (name, how) in enumerate(candidates.items()):
        samples = open_samples(data, sized, how, to.reading, fixed, validation)
        if codes is None or chosen is None:
            asked = ask(samples, model, to.reading, planned=False, plugins=plugins)
            asked.task.check(asked.targets)
            codes = strata_of(asked.task, asked.targets)
            parts = divide(samples, asked, validation, seed)
            require_learnt(asked.task, asked.targets, asked.targets[parts.train])
            chosen = stratified(parts.train, codes, most, seed)
        trials.append(bench.try_out(name, how, samples, chosen, codes, parts.groups))
        if progress is not None:
            progress("preprocessing", done + 1, len(candidates))
    seconds = time.perf_counter() - started
    return rank(trials, seconds=seconds, said=said)


class _Bench:
    """A graph set up to listen to all witnesses at once."""

    def __init__(
        self,
        model: Model,
        constants: Mapping[str, Any],
        device: Any,
        threads: int | None,
        seed: int,
    ) -> None:
        self._where, self._device, self._threads, self._seed = model.where, device, threads, seed
        anatomy = model.knowing(constants).anatomy()
        self._cut = late_cut(anatomy)
        self._taps = add_taps(anatomy, [self._cut])
        self._moments = add_moments(self._taps.model, anatomy.shapes)
        self._doubtful = bool(doubtful_nodes(anatomy.model, anatomy.shapes))
        self._activation = None if anatomy.head is None else anatomy.head.activation

    def try_out(
        self,
        name: str,
        how: Preprocess,
        samples: Samples,
        chosen: Ints,
        codes: Ints,
        groups: Ints | None,
    ) -> Trial:
        from surgeon.probe import evidence as measuring
        from surgeon.runtime.extract import extract
        from surgeon.runtime.features import Request

        heard = [
            output for item in self._moments for output in (item.mean_output, item.square_output)
        ]
        outputs = dict.fromkeys([*self._taps.outputs, *filter(None, [self._taps.head]), *heard])
        found = extract(
            self._taps.model, list(outputs), samples, chosen,
            Request(
                device=self._device, threads=self._threads, where=self._where,
                doubtful=self._doubtful,
            ),
        )  # fmt: skip
        labels = codes[found.rows]
        values = found.array(self._taps.outputs[0])
        sought = measuring.Sought.classes(labels)
        probe = measuring.probe(
            measuring.project(values, self._seed), sought, self._cut, values.shape[-1],
            seed=self._seed, repetitions=REPETITIONS,
            groups=None if groups is None else groups[found.rows],
        )  # fmt: skip
        mismatch = None
        if self._moments:
            statistics = {output: found.array(output) for output in heard}
            mismatch = float(np.mean([item.mismatch(statistics) for item in self._moments]))
        return Trial(
            name=name,
            preprocess=how,
            probe=probe,
            loss=((probe.scores - sought.targets) ** 2).sum(axis=1),
            mismatch=mismatch,
            confidence=self._confidence(found, len(labels)),
        )

    def _confidence(self, found: Any, count: int) -> float | None:
        from surgeon.tasks.metrics import softmax

        if self._taps.head is None or self._activation == "Sigmoid":
            return None
        scores = np.asarray(found.array(self._taps.head), np.float64).reshape(count, -1)
        if scores.shape[1] < 2:
            return None
        shares = scores if self._activation == "Softmax" else softmax(scores)
        return float(shares.max(axis=1).mean())


def rank(trials: Sequence[Trial], *, seconds: float = 0.0, said: str | None = None) -> Detected:
    """Rank candidates by what all witnesses say together.

    Each witness says how many of its standard errors a candidate is behind its own favourite; the
    squares add up as logarithms of likelihoods do, and the usual order of channels is likelier by
    `USUAL` beforehand. The shares of belief follow from that.
    """
    from surgeon.probe.evidence import paired

    beliefs = _beliefs(trials)
    order = sorted(range(len(trials)), key=lambda at: beliefs[at], reverse=True)
    first = trials[order[0]]
    rows = []
    for at in order:
        trial = trials[at]
        behind, error = paired(first.probe, trial.probe)
        rows.append(
            {
                "name": trial.name,
                "belief": beliefs[at],
                "tie": bool(behind <= error),
                "accuracy": trial.probe.quality,
                "accuracy_error": trial.probe.error,
                "loss": float(trial.loss.mean()),
                "logme": trial.probe.logme,
                "mismatch": trial.mismatch,
                "confidence": trial.confidence,
            }
        )
    return Detected(
        preprocess=replace(first.preprocess, source="measured"),
        name=first.name,
        sure=beliefs[order[0]],
        ranking=tuple(rows),
        samples=len(first.loss),
        seconds=seconds,
        said=said,
    )


def _beliefs(trials: Sequence[Trial]) -> list[float]:
    """Return each candidate's share of belief; they add up to 1."""
    lowest = min(trials, key=lambda item: float(item.loss.mean()))
    mismatches = [item.mismatch for item in trials]
    confidences = [item.confidence for item in trials]
    scores = []
    for trial in trials:
        behind = trial.loss - lowest.loss
        noise = np.hypot(behind.std() / np.sqrt(len(behind)), SMALL * lowest.loss.mean())
        witnesses = [min(float(behind.mean() / max(noise, 1e-12)), LOUDEST["probe"])]
        if trial.mismatch is not None:
            least = min(value for value in mismatches if value is not None)
            ratio = max(trial.mismatch, 1e-9) / max(least, 1e-9)
            witnesses.append(min(log(ratio) / SHIFT, LOUDEST["memory"]))
        if trial.confidence is not None:
            most = max(value for value in confidences if value is not None)
            ratio = max(most, 1e-9) / max(trial.confidence, 1e-9)
            witnesses.append(min(log(ratio) / SHIFT, LOUDEST["confidence"]))
        scores.append(_beforehand(trial) - 0.5 * sum(value**2 for value in witnesses))
    top = max(scores)
    shares = [exp(score - top) for score in scores]
    return [share / sum(shares) for share in shares]


def _beforehand(trial: Trial) -> float:
    """Return the logarithm of how usual a candidate is."""
    values, how = trial.name.split()[0], trial.preprocess
    order = "BGR" if values == "caffe" else "RGB"
    # Pixels as they are come in either order.
    usual = log(USUAL) if values == "raw" or how.channels == order else 0.0
    torch = values == "imagenet" and how.layout == "NCHW"
    return usual + (log(USUAL_RANGE) if torch else 0.0)


# ── candidates ───────────────────────────────────────────────────────────────────────────────────


def preprocess_candidates(info: Any, size: Any = None) -> dict[str, Preprocess]:
    """Return the candidates by name: ranges of values × orders of channels × layouts left open.

    Args:
        info: the graph input that takes pictures.
        size: what stands behind `--size`, or None.

    Raises:
        UsageError: neither the graph nor `size` says how large pictures are.
    """
    from surgeon.graph.preprocess import PRESETS, infer_layout, parse_preprocess

    ranges = {
        name: {key: PRESETS[name][key] for key in ("scale", "mean", "std")} for name in RANGES
    }
    if info is not None and info.dtype == "uint8":
        ranges = {"raw": ranges["raw"]}
    known = infer_layout(info)
    found: dict[str, Preprocess] = {}
    for layout in [known] if known else ["NCHW", "NHWC"]:
        for name, values in ranges.items():
            for channels in ("RGB", "BGR", "L"):
                try:
                    how = parse_preprocess(
                        {**values, "channels": channels, "layout": layout}, info, size, "measured"
                    )
                except SurgeonError as error:
                    if "channels" in error.message or channels == "L":
                        continue  # the graph takes another number of them
                    raise
                # The presets state numbers in their own order: RGB, caffe's in BGR.
                own = "BGR" if name == "caffe" else "RGB"
                if channels != own:
                    how = replace(how, mean=how.mean[::-1], std=how.std[::-1])
                title = name if known else f"{name} {layout}"
                found[f"{title} {channels}"] = how
    return found


def narrowed(candidates: Mapping[str, Preprocess], intake: Intake | None) -> dict[str, Preprocess]:
    """Leave out the candidates that contradict what the file itself says.

    A graph that normalizes by itself takes plain values, of a range for which its arithmetic makes
    sense. What leaves nothing over is not believed.
    """
    kept = dict(candidates)
    if intake is None:
        return kept
    if intake.range is not None:
        kept = _only(kept, lambda name, _: name.split()[0] == intake.range)
    elif intake.operators:
        plain = set(intake.ranges) & set(LIMITS)
        kept = _only(kept, lambda name, _: name.split()[0] in plain)
    if intake.order is not None:
        kept = _only(kept, lambda _, how: how.channels == intake.order)
    return kept


def _only(
    candidates: dict[str, Preprocess], fits: Callable[[str, Preprocess], bool]
) -> dict[str, Preprocess]:
    return {name: how for name, how in candidates.items() if fits(name, how)} or candidates


__all__ = ["Trial", "detect_preprocess", "narrowed", "preprocess_candidates", "rank"]
