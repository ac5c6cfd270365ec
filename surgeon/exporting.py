"""A file in another form: with probabilities, in half precision, of one batch, of another opset.

::

    surgeon.export("tuned.onnx", "small.onnx", probabilities=True, fp16=True)

What is written is run beside what it was made from before it takes its place, within a bound for
its precision, and carries a proof of its own. Labels, plan and preprocessing stay. What must not
enter: names of other forms, which plugins offer; changes that the comparison cannot judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgeon.errors import CheckError, ModelError, PluginError, SurgeonError, UsageError
from surgeon.graph import envelope, external, files, forms
from surgeon.graph.shapes import input_infos, output_infos
from surgeon.model import BOUND, HALF_BOUND, Model, load
from surgeon.options import Options, explained
from surgeon.plugin.manager import loaded_plugins
from surgeon.plugin.settings import parse, typed
from surgeon.records import Exporter, as_json
from surgeon.resumption import writable
from surgeon.runtime.halves import to_half
from surgeon.runtime.observe import relative_error
from surgeon.runtime.proof import encode, golden_feeds, make_proof, seeded_input
from surgeon.runtime.sessions import open_session
from surgeon.targets import task_of
from surgeon.tasks.find import find_task

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from surgeon.plugin.manager import Found, Plugins

    Source = str | os.PathLike[str] | onnx.ModelProto | Model

SEEDED = range(2, 10)
"""Seeds of the inputs that both are run on, beside those of the proof."""
ACTIVATIONS = {"softmax": "Softmax", "logistic": "Sigmoid"}
"""What makes probabilities of scores, by the link of a task."""


@dataclass(frozen=True)
class _Compared:
    """How far the new form's answers lie from the source's."""

    samples: int
    agreement: float | None
    max_difference: float
    relative: float


@explained
def export(  # noqa: PLR0913 - a public verb has its options as keywords
    path: Source,
    out: str | os.PathLike[str] | None = None,
    *,
    probabilities: bool = False,
    fp16: bool = False,
    batch: int | None = None,
    opset: int | None = None,
    external_data: bool = False,
    to: str | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Write a file in another form, proven against the one it was made from.

    Args:
        path: a file that surgeon wrote; it stays as it is.
        plugins: loaded plugins; None loads them.

    Returns:
        The body of the document.

    Raises:
        UsageError: no form is asked for, or one that the file cannot have.
        CheckError: what comes out answers otherwise; nothing was written.
        OutputError: the output exists, or cannot be written.
    """
    asked = Options.of(locals())
    if out is None:
        raise UsageError("no file to write is named", where="-o", remedy="name one")
    delivery = writable(asked.delivery)
    named = _named(asked)
    found = None if to is None else _exporter(to, plugins)
    model = load(path)
    stored = model.stored or model.proto
    made, activation = _made(model, stored, asked, plugins)
    compared = _compared(model, stored, made, activation, half=fp16)
    _prove(model, made, compared, named, half=fp16)
    assert delivery.out is not None
    target = Path(delivery.out)
    if found is None:
        files.save_model(made, target, force=delivery.force, apart=external_data)
        beside = target.with_name(f"{target.name}.data")
        written = [target, *([beside] if external_data and beside.exists() else [])]
    else:
        written = _written(found, made, target)
    return {
        "out": str(target),
        "bytes": sum(one.stat().st_size for one in written if one.is_file()),
        "files": [str(one) for one in written],
        "source": model.where,
        "forms": named,
        "inputs": [as_json(info) for info in input_infos(made)],
        "outputs": [as_json(info) for info in output_infos(made)],
        "opset": forms.opset_of(made),
        "comparison": {
            "samples": compared.samples,
            "agreement": compared.agreement,
            "max_difference": compared.max_difference,
            "quality_before": None,
            "quality_after": None,
            "seconds_before": None,
            "seconds_after": None,
        },
        "warnings": [] if model.proof is not None else ["the source carries no proof to go on"],
    }


def _named(asked: Options) -> list[str]:
    """Return the forms that were asked for, in the order in which they are made.

    Raises:
        UsageError: none is.
    """
    to = asked.delivery
    told = {
        f"opset={to.opset}": to.opset is not None,
        "probabilities": to.probabilities,
        f"batch={asked.training.batch}": asked.training.batch is not None,
        "fp16": to.fp16,
        "external-data": to.external_data,
        f"to={to.to}": to.to is not None,
    }
    found = [name for name, given in told.items() if given]
    if not found:
        raise UsageError(
            "no form is asked for",
            where="export",
            remedy="--probabilities, --fp16, --batch N, --opset N, --external-data or --to NAME",
        )
    if to.to is not None and to.external_data:
        raise UsageError(
            "an exporter writes the files itself", where="--external-data", remedy="leave it out"
        )
    return found


def _made(
    model: Model, stored: onnx.ModelProto, asked: Options, plugins: Plugins | None
) -> tuple[onnx.ModelProto, str | None]:
    """Return the file in the forms asked for, and the activation that was put behind it."""
    to, activation = asked.delivery, None
    made = onnx.ModelProto()
    made.CopyFrom(stored)
    if to.opset is not None or to.fp16:
        if files.weight_bytes(stored) > files.ONE_FILE_LIMIT:
            raise ModelError(
                "a file past 2 GB cannot be converted: ONNX's own tools take one message",
                where=model.where,
                remedy="leave out --opset and --fp16",
            )
        made = external.loaded(made)
    if to.opset is not None:
        made = forms.to_opset(made, to.opset)
    if to.probabilities:
        activation, axis = _activation(model, plugins)
        made = forms.with_activation(made, activation, axis)
    if asked.training.batch is not None:
        made = forms.fixed_at(made, asked.training.batch)
    if to.fp16:
        made = forms.like(to_half(made), made)
    files.check_model(made, "the exported graph")
    return made, activation


def _activation(model: Model, plugins: Plugins | None) -> tuple[str, int]:
    """Return what makes probabilities of a file's answers, and the axis of the classes.

    Raises:
        UsageError: its answers are no scores of classes, or what they are is not known.
    """
    if model.plan is None:
        raise UsageError(
            "the file carries no plan, so that what its answers are is not known",
            where="--probabilities",
            remedy="export a file that `surgeon finetune` wrote",
        )
    name = task_of(model, Options().reading)
    task = find_task(name, plugins, model.decoding)
    found = ACTIVATIONS.get(task.link or "")
    if found is None:
        raise UsageError(
            f"answers of the task {name!r} are no probabilities",
            where="--probabilities",
            remedy="leave it out",
        )
    return found, 1 if len(task.keeps) > 1 else -1


def _compared(
    model: Model,
    stored: onnx.ModelProto,
    made: onnx.ModelProto,
    activation: str | None,
    *,
    half: bool,
) -> _Compared:
    """Run both on the inputs of the proof and on seeded ones.

    Raises:
        CheckError: their answers differ by more than the bound, or the new form does not run.
    """
    before = open_session(stored, device="cpu", where=model.where)
    after = open_session(made, device="cpu", where="the exported graph")
    names = stored.graph.output[0].name, made.graph.output[0].name
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for feeds in _feeds(model, made):
        wanted = before.run(feeds, [names[0]])[0]
        axis = 1 if wanted.ndim == 4 else -1
        pairs.append((after.run(feeds, [names[1]])[0], forms.activated(wanted, activation, axis)))
    relative = max(relative_error(got, wanted) for got, wanted in pairs)
    bound = _bound(model, half=half)
    if not relative <= bound:
        raise CheckError(
            f"the exported graph answers otherwise: {relative:.1e} relative, the bound is "
            f"{bound:.0e}",
            where="export",
            remedy="nothing was written; leave out one form after another to see which it is",
        )
    alike = [_alike(got, wanted) for got, wanted in pairs]
    return _Compared(
        samples=len(pairs),
        agreement=None
        if None in alike
        else float(np.mean([one for one in alike if one is not None])),
        max_difference=max(float(np.abs(got - wanted).max(initial=0.0)) for got, wanted in pairs),
        relative=relative,
    )


def _bound(model: Model, *, half: bool) -> float:
    """Return how far answers may lie apart."""
    stated = ((model.proof or {}).get("parity") or {}).get("bound")
    usual = HALF_BOUND if half else max(model.bound, BOUND)
    return max(usual, float(stated)) if isinstance(stated, float) else usual


def _alike(got: NDArray[Any], wanted: NDArray[Any]) -> float | None:
    """Return the share of positions whose likeliest class is the same; None without classes."""
    axis = 1 if wanted.ndim == 4 else -1
    if wanted.ndim < 2 or wanted.shape[axis] < 2:
        return None
    return float(np.mean(got.argmax(axis) == wanted.argmax(axis)))


def _entries(model: Model) -> list[Mapping[str, Any]]:
    """Return what the proof says of its golden inputs."""
    return [one["inputs"] for one in (model.proof or {}).get("golden") or ()]


def _feeds(model: Model, made: onnx.ModelProto) -> list[dict[str, NDArray[Any]]]:
    """Return inputs that both take, the batch of the new form: the proof's, then seeded ones."""
    entries = _entries(model)
    drawn = next((one for one in entries if "seed" in one), {})
    seeded = [{**drawn, "seed": seed} for seed in SEEDED] if drawn else []
    if not entries:
        return [seeded_input(made, seed) for seed in SEEDED]
    return [golden_feeds(made, one) for one in (*entries, *seeded)]


def _prove(
    model: Model, made: onnx.ModelProto, compared: _Compared, named: Sequence[str], *, half: bool
) -> None:
    """Put a proof of its own into the new form: its weights, and what it answers."""
    if model.proof is None or model.plan is None:
        return
    session = open_session(made, device="cpu")
    golden = []
    for entry in _entries(model):
        (answers,) = session.run(golden_feeds(made, entry), [made.graph.output[0].name])
        golden.append({"inputs": entry, "logits": encode(answers)})
    envelope.put(made, envelope.PROOF, None)
    document = make_proof(
        made, model.plan,
        source_sha256=model.source_sha256,
        parity={
            "samples": compared.samples, "max_relative": compared.relative,
            "bound": _bound(model, half=half),
        },
        golden=golden,
    )  # fmt: skip
    exported = {"from_sha256": model.file_sha256, "forms": list(named)}
    envelope.put(made, envelope.PROOF, document | {"exported": exported})


def _exporter(text: str, plugins: Plugins | None) -> tuple[Found[Exporter], Any, dict[str, Any]]:
    """Return an exporter, its code and its settings, before anything is computed."""
    name, given = parse(text, "--to")
    found = loaded_plugins(plugins).offer(Exporter, name)
    code = found.load()
    return found, code, typed(code, given, f"--to {name}")


def _written(
    exporter: tuple[Found[Exporter], Any, dict[str, Any]], made: onnx.ModelProto, out: Path
) -> list[Path]:
    """Let an exporter write, and return its files.

    Raises:
        PluginError: it fails, or does not say which files it wrote.
    """
    found, code, settings = exporter
    said = f"the exporter {found.offer.name!r} of distribution {found.distribution} {found.version}"
    remedy = "tell its author; `surgeon plugins check` looks at all of them"
    try:
        told = code(external.loaded(made), out, **settings)
    except SurgeonError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        words = f"{type(error).__name__}: {error}"
        raise PluginError(
            f"{said} failed: {words}", where=found.offer.code, remedy=remedy
        ) from error
    if not (isinstance(told, list) and told and all(isinstance(one, Path) for one in told)):
        raise PluginError(
            f"{said} returns {told!r}, not the list of the files it wrote",
            where=found.offer.code, remedy=remedy,
        )  # fmt: skip
    missing = [str(one) for one in told if not one.exists()]
    if missing:
        raise PluginError(
            f"{said} says that it wrote {', '.join(missing)}, which is not there",
            where=found.offer.code, remedy=remedy,
        )  # fmt: skip
    return told
