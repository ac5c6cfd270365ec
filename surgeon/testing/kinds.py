"""What is tried of each kind of offer, on one model after another.

`once` are claims that no model is needed for, `each` those on one model. What must not enter:
names of offers.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.errors import PluginError, SurgeonError
from surgeon.model import Model, load
from surgeon.plugin import settings
from surgeon.plugin.manager import KINDS
from surgeon.records import Check, Evidence, Finding, HeadKind, Measurement, Medium, Task
from surgeon.runtime.sessions import open_session
from surgeon.testing import claims
from surgeon.testing.samples import COUNT, answers_for, inputs_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx import ModelProto

    from surgeon.operation import Source
    from surgeon.outcome import Outcome
    from surgeon.plugin.manager import Found, Plugins
    from surgeon.records import Example
    from surgeon.testing.claims import Stated

SAME = "the same seed gives the same bits"


@dataclass(frozen=True)
class Trial:
    """An offer on one model.

    Attributes:
        found: the offer, and whose it is.
        source: the model; None where none is needed.
        plugins: loaded plugins, the offer among them.
        text: how people name it, `name:key=value`.
        place: of the model among all.
        count: samples to train on.
        answers: what the samples' answers are; None = the usual ones.
        example: what the offer brings; its data and settings are taken, then.
    """

    found: Found[Any]
    source: Source
    plugins: Plugins
    text: str
    place: int = 0
    count: int = COUNT
    answers: Any = None
    example: Example | None = None

    @property
    def word(self) -> str:
        """The kind of the offer."""
        return KINDS[type(self.found.offer).__name__][0]

    @property
    def said(self) -> str:
        """How people name the offer, with the settings that it is tried with."""
        given = self.example.options if self.example is not None else ""
        return f"{self.text}:{given}" if given else self.text

    def with_setting(self, pair: str) -> str:
        """Return how people name the offer with another setting."""
        name, given = settings.parse(self.said, self.word)
        key, _, value = pair.partition("=")
        listed = {**given, key: value}
        return f"{name}:{','.join(f'{key}={value}' for key, value in listed.items())}"

    @property
    def name(self) -> str:
        """The name of the offer."""
        return str(self.found.offer.name)

    @cached_property
    def model(self) -> Model:
        """The model, loaded."""
        return load(self.source)

    def data(self, task: str) -> Any:
        """Return samples with answers of a task."""
        if self.example is not None:
            return self.example.data
        code, answers = self.plugins.offer(Task, task).load()({}), self.answers
        if answers is None:
            answers = answers_for(code, self._places(task) if code.keeps else (), self.count)
        return {**inputs_for(self.model, self.count), "labels": answers}

    def _places(self, task: str) -> tuple[int, ...]:
        """Return for how many places of a sample a new head gives answers."""
        from surgeon.operation import operate

        operated = operate(self.model, "small-similar", 3, task=task, plugins=self.plugins, seed=3)
        session = open_session(operated.proto, device="cpu", threads=1)
        (raw,) = session.run(inputs_for(operated, 2))
        return raw.shape[2:] if raw.ndim > 3 else raw.shape[1:-1]

    def tune(self, task: str = "classification", **options: Any) -> Outcome:
        """Tune the model for a moment."""
        from surgeon.operation import finetune

        task = self.told(task)
        given: dict[str, Any] = {"case": "small-similar", "epochs": 1, "task": task} | options
        data = given.pop("data", None) or self.data(task)
        return finetune(
            self.model, data, device="cpu", seed=3, threads=1, plugins=self.plugins, **given
        )

    def told(self, task: str) -> str:
        """Return the task that the offer's example is of, else the one that is given."""
        return (self.example and self.example.task) or task

    def tuned(self, task: str = "classification", **options: Any) -> Iterator[Stated]:
        """Tune the model twice, and yield all claims on what comes out."""
        data = self.data(task)
        outcome, again = (self.tune(task, data=data, **options) for _ in range(2))
        yield from claims.of_file(self.model, outcome.model)
        feeds = inputs_for(outcome.model, self.count)  # a graph that begins inside takes others
        if isinstance(data, dict):
            feeds = {name: data.get(name, values) for name, values in feeds.items()}
            data = {**feeds, "labels": data["labels"]}
        yield from claims.of_training(outcome.model, feeds)
        yield from of_use(outcome, data, feeds, self.plugins)
        yield SAME, claims.same_bits(outcome.model, again.model)


def of_use(
    outcome: Outcome, data: Any, feeds: dict[str, Any], plugins: Plugins
) -> Iterator[Stated]:
    """Yield the claims on a tuned file in use."""
    from surgeon.operation import evaluate, predict, verify

    with tempfile.TemporaryDirectory() as folder:
        path = outcome.save(Path(folder) / "tuned.onnx")
        failed = [check.name for check in verify(path, device="cpu").checks if not check.passed]
        yield "the proof holds", _unless(not failed, f"{', '.join(failed)} failed")
        body = evaluate(path, data, device="cpu", plugins=plugins)
        quality = body["metrics"]["quality"]
        bad = quality is not None and not math.isfinite(quality)
        yield "the file is judged", f"quality is {quality}" if bad else None
        told = predict(path, feeds, device="cpu", plugins=plugins).document()["predictions"]
        yield "answers are told", None if told else "no rows"


# ── each kind ────────────────────────────────────────────────────────────────────────────────────


def case(trial: Trial) -> Iterator[Stated]:
    """A case decides, without looking twice differently, and the core can act on it."""
    from surgeon.job.decide import decide
    from surgeon.operation import operate
    from surgeon.options import Options

    offer, anatomy = trial.found.offer, trial.model.anatomy()
    measured = [
        Measurement(cut.tensor, cut.depth, 0.5 + 0.3 * cut.depth, 0.02, -1.0)
        for cut in anatomy.cuts
    ]
    known = Evidence(500, 3, tuple(measured), 0.4, 0.5, ((100, 0.6, 0.02),), 0.2)
    for evidence in (Evidence(), known):
        said, told = repr(evidence), [offer.suits(evidence) for _ in range(2)]
        fits = isinstance(told[0], int | float) and 0 <= told[0] <= 1
        yield "suits says 0 to 1", None if fits else f"it says {told[0]!r}"
        asked = Options.of({"case": trial.name, "classes": 3}).surgery
        plans = [decide(trial.model, anatomy, asked, evidence, trial.plugins) for _ in range(2)]
        pure = told[0] == told[1] and plans[0] == plans[1] and repr(evidence) == said
        yield "what it decides is pure", None if pure else "asked twice, it says two things"
        yield "the plan is plain data", claims.of_plan(plans[0])
    if offer.headless:
        yield from claims.of_file(trial.model, operate(trial.model, trial.name))
        return
    yield from trial.tuned(case=trial.name)


def task(trial: Trial) -> Iterator[Stated]:
    """A task reads, judges and tells answers, and its head learns."""
    from surgeon.operation import evaluate

    yield from trial.tuned(trial.name)
    outcome = trial.tune(trial.name)
    figures = outcome.metrics["validation"] or {}
    missing = [name for name in ("loss", "quality") if name not in figures]
    yield "scores tell loss and quality", _unless(not missing, f"no {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        body = evaluate(
            outcome.save(Path(folder) / "tuned.onnx"), trial.data(trial.name), device="cpu",
            plugins=trial.plugins,
        )  # fmt: skip
    try:
        json.dumps(body, default=str)
        yield "documents are plain data", None
    except (TypeError, ValueError) as error:
        yield "documents are plain data", str(error)


def head(trial: Trial) -> Iterator[Stated]:
    """A head is built, trained alone, and drawn alike from the same seed."""
    told = _task_of(trial)
    outcome = trial.tune(told, head=trial.said)
    weights = outcome.model.plan.head.weights if outcome.model.plan else ()
    stored = {tensor.name for tensor in outcome.model.proto.graph.initializer}
    lost = [name for name in weights if name not in stored]
    yield "its weights are initializers", _unless(not lost, f"{', '.join(lost)} is none")
    yield from trial.tuned(told, head=trial.said)


def _task_of(trial: Trial) -> str:
    """Return the first task whose answers are of the form that a head gives."""
    if trial.example is not None and trial.example.task:
        return trial.example.task
    kind = trial.found.offer
    wanted = () if kind.pools else tuple(kind.keeps)
    for name, found in trial.plugins.offers(Task).items():
        if _gives(trial.plugins, found.load()({}).head({}).kind) == wanted:
            return name
    raise PluginError(
        f"no task wants answers that keep {' and '.join(wanted) or 'no axes'}",
        where=f"the head {trial.name!r}",
        remedy="offer a task, too, or say `pools=True` where the head pools them",
    )


def _gives(plugins: Plugins, kind: str) -> tuple[str, ...]:
    offer = plugins.offer(HeadKind, kind).offer
    return () if offer.pools else tuple(offer.keeps)


def loss(trial: Trial) -> Iterator[Stated]:
    """A loss trains the tasks that it fits; on each model another one is begun with."""
    tasks = _tasks_of(trial)
    at, refused = trial.place % len(tasks), None
    for name in (*tasks[at:], *tasks[:at]):
        try:
            yield from trial.tuned(name, loss=trial.said)
        except PluginError:
            raise
        except SurgeonError as error:
            refused = refused or error
        else:
            return
    if refused is not None:
        raise refused


def _tasks_of(trial: Trial) -> tuple[str, ...]:
    if trial.example is not None and trial.example.task:
        return (trial.example.task,)
    return trial.found.offer.tasks or ("classification", "regression")


def adapter(trial: Trial) -> Iterator[Stated]:
    """An adapter trains what the plan trains, by fewer numbers, and folds back."""
    yield from trial.tuned(case="large-similar", adapter=trial.said)


def tracker(trial: Trial) -> Iterator[Stated]:
    """A tracker is told of a run, which is the same without it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        told = trial.tune(track=[trial.said])
    plain = trial.tune()
    noted = [text for text in told.body["warnings"] if text not in plain.body["warnings"]]
    yield "it takes every event", "; ".join(noted) or None
    yield "the file is the same without it", claims.same_bits(plain.model, told.model)


def exporter(trial: Trial) -> Iterator[Stated]:
    """An exporter writes files where it is told to, and leaves the model alone."""
    proto = trial.tune().model.proto
    before, made = proto.SerializeToString(deterministic=True), []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            written = _export(trial, trial.said, proto, folder)
            inside = all(
                isinstance(path, Path) and path.is_file() and Path(folder) in path.parents
                for path in written
            )
            yield "it returns the files that it wrote", _unless(inside and written, repr(written))
            made.append([path.read_bytes() for path in written] if inside else [])
    same = proto.SerializeToString(deterministic=True) == before
    yield "the model stays as it was", _unless(same, "it is changed")
    yield "the same file gives the same bytes", _unless(made[0] == made[1], "they differ")


def _export(trial: Trial, text: str, proto: ModelProto, folder: str) -> list[Any]:
    code = trial.found.load()
    given = settings.typed(code, settings.parse(text, "exporter")[1], text)
    return list(code(proto, Path(folder) / "exported", **given))


def medium(trial: Trial) -> Iterator[Stated]:
    """A medium reads the files of its example, and what is tuned on them reads them, too."""
    yield from trial.tuned()


def check(trial: Trial) -> Iterator[Stated]:
    """An examination looks, and says the same twice."""
    code, outcome = trial.found.load(), None
    if trial.found.offer.when == "after":
        outcome = trial.tune()
    model = trial.model if outcome is None else outcome.model
    before = model.proto.SerializeToString(deterministic=True)
    found = [list(code(model, outcome)) for _ in range(2)]
    wrong = [type(one).__name__ for one in found[0] if not isinstance(one, Finding)]
    yield "it yields findings", _unless(not wrong, f"a {', '.join(wrong)}")
    yield "it says the same twice", _unless(found[0] == found[1], "it says two things")
    same = model.proto.SerializeToString(deterministic=True) == before
    yield "the model stays as it was", _unless(same, "it is changed")


def _unless(holds: Any, problem: str) -> str | None:
    return None if holds else problem


WITH_SETTINGS = ("head", "loss", "adapter", "tracker", "exporter")
EACH: dict[str, Callable[[Trial], Iterator[Stated]]] = {
    "case": case,
    "task": task,
    "head": head,
    "loss": loss,
    "adapter": adapter,
    "tracker": tracker,
    "exporter": exporter,
    "check": check,
    "medium": medium,
}
"""{word of a kind: what is tried on each model}."""


# ── its settings ─────────────────────────────────────────────────────────────────────────────────


def _use(trial: Trial, text: str) -> None:
    """Use an offer once, with the settings of a text."""
    word = trial.word
    if word == "exporter":
        with tempfile.TemporaryDirectory() as folder:
            _export(trial, text, trial.model.proto, folder)
    elif word == "tracker":
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            trial.tune(track=[text])
    elif word == "head":
        trial.tune(_task_of(trial), head=text)
    elif word == "loss":
        trial.tune(_tasks_of(trial)[0], loss=text)
    elif word == "adapter":
        trial.tune(case="large-similar", adapter=text)


def bad_options(trial: Trial) -> str | None:
    """Say what is wrong with how settings are refused: those that there are not, and odd values."""
    wanted = settings.wanted(trial.found.load())
    tried = ["no_such_setting=1", *(f"{key}={v}" for key in wanted for v in ("-1", "nonsense"))]
    for pair in tried:
        try:
            _use(trial, trial.with_setting(pair))
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises
            behind = error.__cause__ if isinstance(error, PluginError) else error
            if behind is None or isinstance(behind, SurgeonError):
                continue
            return f"{pair} ends in {type(behind).__name__}: {behind}"
        if pair.startswith("no_such"):
            return f"{pair} is taken"
    return None


# ── without a model ──────────────────────────────────────────────────────────────────────────────


def once(trial: Trial) -> Iterator[Stated]:
    """Yield what is tried of an offer, whatever model."""
    offer = trial.found.offer
    plain = isinstance(offer.name, str) and offer.name.strip() == offer.name
    word = plain and offer.name and not set(offer.name) & set(":, |")
    yield "its name is a word", _unless(word, f"{offer.name!r} cannot be named on a command line")
    told = isinstance(offer.summary, str) and offer.summary and "\n" not in offer.summary
    yield "its summary is one line", _unless(told, repr(offer.summary))
    if not hasattr(offer, "code"):
        return
    code = trial.found.load()
    yield "its code is there", _unless(callable(code), f"{offer.code} is no function or class")
    if isinstance(offer, Medium):
        yield from _medium(offer, code)
        return
    if isinstance(offer, Task | Check):
        return
    wanted = settings.wanted(code)
    missing = [key for key, (_, needed) in wanted.items() if needed and f"{key}=" not in trial.said]
    asked = f"give {trial.name}:{','.join(f'{key}=…' for key in missing)}"
    yield "its settings have defaults, or are given", _unless(not missing, asked)


def _medium(offer: Medium, code: Any) -> Iterator[Stated]:
    from surgeon.data.samples import Samples

    if not offer.of:  # a further format is read by a function
        fits = isinstance(code, type) and issubclass(code, Samples)
        yield "its code is a class of samples", _unless(fits, f"{offer.code} is none")
    wrong = [one for one in offer.suffixes if not (one.startswith(".") and one == one.lower())]
    said = "a suffix has a dot and lower case"
    yield "its files are known by their endings", _unless(offer.suffixes and not wrong, said)
