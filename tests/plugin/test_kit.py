"""The conformance kit: what ships keeps its rules, and what breaks one is found."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from surgeon import testing
from surgeon.errors import CheckError, UnknownNameError
from surgeon.plugin.manager import KINDS
from surgeon.records import Built, Case, Check, Exporter, Finding, HeadKind, Loss, Plan

OURS = testing.offers("onnx-surgeon", "surgeon-multi")
PER_PLACE = {"tokens": "transformer", "linear": "transformer"}


def told(offer):
    return f"{KINDS[type(offer.offer).__name__][0]}-{offer.offer.name}"


def failed(offer, models=("tabular",), **given):
    return {
        one.name: one.detail
        for one in testing.examine(offer, models=models, **given)
        if not one.passed
    }


@pytest.fixture
def code(monkeypatch):
    """Return a function that puts code where an offer finds it."""
    module = ModuleType("fixture_kit_code")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def put(function):
        setattr(module, function.__name__, function)
        return f"{module.__name__}:{function.__name__}"

    return put


@pytest.mark.parametrize("offer", OURS, ids=told)
def test_what_ships_keeps_the_rules(offer):
    testing.check(offer, models=[PER_PLACE.get(offer.offer.name, "convolutional")], count=32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "offer", [one for one in OURS if told(one).startswith(("case", "head"))], ids=told
)
def test_cases_and_heads_keep_them_on_the_other_families(offer):
    testing.check(offer, models=["inverted-residual", "vision-transformer", "recurrent"], count=32)


def test_each_network_is_of_its_family():
    kinds = {
        name: {node.op_type for node in build().graph.node}
        for name, build in testing.NETWORKS.items()
    }
    assert len(kinds) == 9
    assert "BatchNormalization" in kinds["convolutional"]
    assert "LSTM" in kinds["recurrent"]
    assert "Concat" in kinds["dense"]
    assert "HardSigmoid" in kinds["inverted-residual"]


# ── what breaks a rule is found ──────────────────────────────────────────────────────────────────


def test_a_case_that_decides_differently_each_time():
    draws = iter(range(99))
    case = Case(
        "moody", "draws", lambda known: 0.5, lambda context: Plan("moody", why=str(next(draws)))
    )
    assert "what it decides is pure" in failed(case)


def test_a_case_that_does_not_say_how_well_it_suits():
    wrong = failed(Case("much", "too sure", lambda known: 7.0, lambda context: Plan("much")))
    assert "7.0" in wrong["suits says 0 to 1"]


def test_a_case_that_cuts_where_nothing_is():
    wrong = failed(
        Case("lost", "cuts nowhere", lambda known: 0.5, lambda context: Plan("lost", cut="nowhere"))
    )
    assert any("nowhere" in said for said in wrong.values())


def test_a_head_that_draws_by_itself(code):
    def drawing(graph, value, outputs, random):
        import onnx_graphsurgeon as gs

        drawn = np.random.default_rng().normal(size=(outputs, value.shape[1]))
        pair = gs.Constant("w", drawn.astype("f4")), gs.Constant("b", np.zeros(outputs, "f4"))
        made = graph.layer(op="Gemm", inputs=[value, *pair], outputs=["y"], attrs={"transB": 1})
        return Built(made[0], pair)

    wrong = failed(HeadKind("drawing", "draws by itself", code(drawing)))
    assert set(wrong) == {"the same seed gives the same bits"}


def test_a_head_whose_settings_end_in_its_own_errors(code):
    def fussy(graph, value, outputs, random, *, size: int = 3):
        if size < 0:
            raise ZeroDivisionError
        import surgeon_heads.gemm

        return surgeon_heads.gemm.build(graph, value, outputs, random)

    wrong = failed(HeadKind("fussy", "minds its settings", code(fussy), solves=True))
    assert "size=-1" in wrong["bad options are refused in clear words"]


def test_a_name_that_cannot_be_given_on_a_command_line(code):
    def each(outputs, targets):
        return outputs.square().mean(1)

    wrong = failed(Loss("two words", "", code(each)))
    assert {"its name is a word", "its summary is one line"} <= set(wrong)


def test_an_exporter_that_changes_what_it_is_given(code):
    def careless(model, path):
        model.producer_name = "careless"
        path.write_bytes(np.random.default_rng().bytes(9))
        return [path]

    wrong = failed(Exporter("careless", "writes over it", code(careless)))
    assert {"the model stays as it was", "the same file gives the same bytes"} <= set(wrong)


def test_an_examination_is_tried_before_and_after_training(code):
    def finds(model, outcome):
        yield Finding("warning", "kind", f"{outcome is not None} {len(model.proto.graph.node)}")

    def says(model, outcome):
        return ["a text"]

    assert not failed(Check("finds", "says how many nodes", code(finds), when="after"))
    assert "yields findings" in str(failed(Check("says", "says a text", code(says))))


def test_a_check_that_fails_says_all(code):
    case = Case("two words", "two\nlines", lambda known: 0.5, lambda context: Plan("two words"))
    with pytest.raises(CheckError, match=r"its name is a word.*its summary is one line"):
        testing.check(case, models=["tabular"])


def test_a_file_of_ones_own(tmp_path):
    import onnx

    onnx.save(testing.NETWORKS["tabular"](), tmp_path / "m.onnx")
    testing.check("mlp", models=[tmp_path / "m.onnx"])


def test_what_there_is_not():
    with pytest.raises(UnknownNameError, match="small-simila"):
        testing.check("small-simila")
