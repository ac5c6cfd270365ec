"""What a plugin does wrong is one error that names it, its distribution and version; ours go on."""

from __future__ import annotations

import networks as nw
import numpy as np
import pytest

import surgeon
from surgeon.errors import PluginError

BAD = """
from surgeon.plugin import hookimpl
from surgeon.records import Adapter, Built, Case, Head, HeadKind, Loss, Plan

def short(outputs, targets):
    return outputs.mean()

def none(outputs, targets):
    return None

def broken(outputs, targets):
    return outputs.no_such_thing

def infinite(outputs, targets):
    return outputs.sum(1) / 0

def wide(graph, value, outputs, random):
    import numpy as np, onnx_graphsurgeon as gs
    pair = [gs.Constant(n, np.zeros(s, "f4")) for n, s in
            (("w", (outputs + 1, value.shape[1])), ("b", outputs + 1))]
    made = graph.layer(op="Gemm", inputs=[value, *pair], outputs=["y"], attrs={"transB": 1})
    return Built(made[0], tuple(pair))

def raising(graph, value, outputs, random):
    raise KeyError("lost")

def nothing(graph, value, outputs, random):
    return None

@hookimpl
def surgeon_losses():
    for name in ("short", "none", "broken", "infinite"):
        yield Loss(name, "one line", f"{__name__}:{name}")

@hookimpl
def surgeon_heads():
    for name in ("wide", "raising", "nothing"):
        yield HeadKind(name, "one line", f"{__name__}:{name}")

@hookimpl
def surgeon_cases():
    for name, plan in PLANS.items():
        yield Case(name, "one line", lambda known: 0.1, plan)

PLANS = {
    "no-cut": lambda context: Plan("no-cut", cut="nowhere"),
    "no-name": lambda context: Plan("no-name", trainable=("no.such.weight",)),
    "no-plan": lambda context: {"cut": "late"},
    "no-luck": lambda context: 1 / 0,
    "no-stage": lambda context: Plan("no-stage", stages=("head",)),
}
"""


@pytest.fixture
def bad(install):
    install("their-dist", "bad", BAD, version="2.5")


def samples(n=24):
    random = np.random.default_rng(0)
    return {"x": random.standard_normal((n, 8)).astype(np.float32), "labels": np.arange(n) % 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"case": "no-cut"}, "nowhere"),
        ({"case": "no-name"}, "no.such.weight"),
        ({"case": "no-plan"}, "dict"),
        ({"case": "no-luck"}, "ZeroDivisionError"),
        ({"case": "no-stage"}, "stages"),
        ({"head": "wide"}, "4"),
        ({"head": "raising"}, "KeyError"),
        ({"head": "nothing"}, "NoneType"),
        ({"loss": "short"}, r"not a tensor \[n\]"),
        ({"loss": "none"}, "NoneType"),
        ({"loss": "broken"}, "no_such_thing"),
        ({"loss": "infinite"}, "not finite"),
    ],
)
def test_it_is_named_with_its_version_and_the_remedy(bad, options, words):
    with pytest.raises(PluginError, match=words) as caught:
        surgeon.finetune(nw.mlp(), samples(), device="cpu", **{"case": "small-similar"} | options)
    error, (name,) = caught.value, options.values()
    assert "their-dist 2.5" in error.message
    assert name in error.message
    assert "SURGEON_DISABLE_PLUGINS=their-dist" in error.remedy
    assert error.exit == 2


def test_ours_are_unharmed(bad, tmp_path):
    outcome = surgeon.finetune(nw.mlp(), samples(), case="small-similar", device="cpu")
    assert surgeon.verify(outcome.save(tmp_path / "tuned.onnx")).passed


def test_the_kit_finds_it(bad):
    from surgeon import testing

    for name in ("wide", "infinite", "no-cut"):
        failed = [one for one in testing.examine(name, models=["tabular"]) if not one.passed]
        assert failed, name
