"""What plugins offer: one way for every kind, found by name, loaded when it is used."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import pytest

from surgeon.errors import EnvironmentLacksError, PluginError, UnknownNameError, UsageError
from surgeon.plugin import settings
from surgeon.plugin.manager import KINDS, load_plugins
from surgeon.records import (
    Adapter,
    Case,
    Check,
    Exporter,
    HeadKind,
    Known,
    Loss,
    Medium,
    Task,
    Tracker,
)

EIGHT = [Task, HeadKind, Loss, Adapter, Medium, Tracker, Exporter, Check]

OFFER = """
from surgeon.plugin import hookimpl
from surgeon.records import {kind}

@hookimpl
def {hook}():
    yield {kind}({name!r}, "one line", {code!r})
"""


SUITS = """
from surgeon.plugin import hookimpl
from surgeon.records import Case, Plan

@hookimpl
def surgeon_cases():
    yield Case({name!r}, "", lambda evidence: {suits}, lambda context: Plan(case={name!r}))
"""


def offering(kind, name, code="mod:thing"):
    return OFFER.format(kind=kind.__name__, hook=KINDS[kind.__name__][1], name=name, code=code)


@pytest.mark.parametrize("kind", EIGHT)
def test_each_kind_is_offered_by_its_hook_and_found_by_name(install, kind):
    install("their-dist", "mine", offering(kind, "mine"))
    plugins = load_plugins()
    found = plugins.offer(kind, "mine")
    assert (found.offer.name, found.distribution, found.version) == ("mine", "their-dist", "1.0")
    assert all("mine" not in plugins.offers(other) for other in EIGHT if other is not kind)
    with pytest.raises(UnknownNameError, match="mines") as caught:
        plugins.offer(kind, "mines")
    assert "mine" in caught.value.remedy
    assert "mine" not in load_plugins(enabled=False).offers(kind)


@pytest.mark.parametrize("kind", EIGHT)
def test_equal_names_are_an_error_naming_both_distributions(install, kind):
    for distribution in ("first-dist", "second-dist"):
        install(distribution, distribution, offering(kind, "twin"))
    plugins = load_plugins()
    assert "twin" not in plugins.offers(kind)
    with pytest.raises(PluginError, match="twin") as caught:
        plugins.offer(kind, "twin")
    assert {"first-dist", "second-dist"} <= set(caught.value.where.replace(",", " ").split())


def test_what_is_of_another_kind_or_fails_is_one_warning_that_names_its_distribution(
    install, caplog
):
    install("wrong-dist", "wrong", offering(Loss, "x").replace("surgeon_losses", "surgeon_heads"))
    install("good-dist", "good", offering(HeadKind, "good"))
    plugins = load_plugins()
    with caplog.at_level(logging.WARNING):
        assert "good" in plugins.offers(HeadKind)
        plugins.offers(HeadKind)
    (record,) = caplog.records
    assert "wrong-dist" in record.getMessage()
    assert "Loss" in record.getMessage()


def test_code_is_imported_when_it_is_used(install, tmp_path):
    install("their-dist", "mine", offering(Loss, "mine", "fixture_code:thing"))
    (tmp_path / "site" / "fixture_code.py").write_text("thing = 3\n")
    found = load_plugins().offer(Loss, "mine")
    assert "fixture_code" not in sys.modules
    assert found.load() == 3
    sys.modules.pop("fixture_code")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("thing = 1 / 0", PluginError, "ZeroDivisionError"),
        ("other = 3", PluginError, "AttributeError"),
        ("import fixture_broken.deeper", PluginError, "deeper"),
        ("import nothing_of_that_name.deeper", EnvironmentLacksError, "pip install nothing_of"),
        ("import soundfile_ as soundfile", EnvironmentLacksError, "pip install"),
    ],
)
def test_code_that_does_not_load_says_whose_it_is(install, tmp_path, code, kind, words):
    install("their-dist", "mine", offering(Loss, "mine", "fixture_broken:thing"))
    (tmp_path / "site" / "fixture_broken.py").write_text(code)
    with pytest.raises(kind) as caught:
        load_plugins().offer(Loss, "mine").load()
    sys.modules.pop("fixture_broken", None)
    assert words in str(caught.value)
    assert "their-dist" in str(caught.value)
    assert caught.value.exit == (3 if kind is EnvironmentLacksError else 2)


def test_a_missing_package_of_an_extra_is_told_with_that_extra():
    from surgeon.extras import lacking

    error = lacking("tokenizers.models", "text")
    assert error.remedy == "pip install 'onnx-surgeon[text]'"


def test_a_zoo_answers_for_the_files_it_knows(caplog):
    import networks as nw

    from surgeon.plugin import hookimpl

    class Zoo:
        @hookimpl
        def surgeon_known(self, sha256):
            return Known("theirs", labels=("a", "b")) if sha256 == "abc" else None

    class Broken:
        @hookimpl
        def surgeon_known(self, sha256, model):
            raise RuntimeError("no luck")

    plugins = load_plugins()
    plugins.manager.register(Broken())
    plugins.manager.register(Zoo())
    with caplog.at_level(logging.WARNING):
        assert plugins.known("abc", nw.mlp()).name == "theirs"
        assert plugins.known("abd", nw.mlp()) is None
    assert "surgeon_known failed" in caplog.text


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


def takes(
    value,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    bias: bool = False,
    targets: str = "*",
    mode: Literal["sum", "mean"] = "sum",
    limit: int | None = None,
):
    """Stand in for the code of an offer."""


def test_settings_are_typed_by_what_the_code_takes():
    name, given = settings.parse(
        "lora:rank=4,alpha=0.5,bias=yes,targets=*.q,mode=mean,limit=none", "--adapter"
    )
    assert name == "lora"
    assert settings.typed(takes, given, "lora") == {
        "rank": 4, "alpha": 0.5, "bias": True, "targets": "*.q", "mode": "mean", "limit": None,
    }  # fmt: skip
    assert settings.typed(takes, {"rank": 4, "alpha": 2, "limit": 3}, "lora") == {
        "rank": 4, "alpha": 2.0, "limit": 3,
    }  # fmt: skip
    assert settings.parse("lora", "--adapter") == ("lora", {})


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"ranks": "4"}, ["ranks", "rank", "alpha"]),
        ({"rank": "four"}, ["rank", "whole number"]),
        ({"rank": True}, ["rank", "whole number"]),
        ({"rank": "1.5"}, ["rank"]),
        ({"bias": "maybe"}, ["bias", "true"]),
        ({"mode": "max"}, ["mode", "sum", "mean"]),
    ],
)
def test_a_setting_that_cannot_be_meant_says_what_is_legal(given, names):
    with pytest.raises(UsageError) as caught:
        settings.typed(takes, given, "--adapter lora")
    assert all(name in str(caught.value) for name in names)


def test_a_setting_without_a_default_must_be_given():
    def needs(weight, *, rank):
        return weight, rank

    with pytest.raises(UsageError, match="rank"):
        settings.typed(needs, {}, "needs")
    assert settings.typed(needs, {"rank": "4"}, "needs") == {"rank": "4"}


@pytest.mark.parametrize("text", ["lora:rank", "lora:rank=", "lora:=4", "lora:a=1,a=2", ":a=1"])
def test_what_is_of_another_form_is_refused(text):
    with pytest.raises(UsageError) as caught:
        settings.parse(text, "--adapter")
    assert "--adapter" in caught.value.where


def test_our_cases_are_told_apart_by_distribution_alone(install):
    install("aaa-dist", "aaa", offering(HeadKind, "mine"))
    assert list(load_plugins().offers(Case))[:4] == [
        "small-similar", "small-different", "large-similar", "large-different",
    ]  # fmt: skip


def test_every_case_is_asked_whether_it_suits_a_third_partys_too(install, caplog):
    import networks as nw
    import numpy as np

    import surgeon

    install("best-dist", "best", SUITS.format(name="best", suits="2.0"))
    install("even-dist", "even", SUITS.format(name="even", suits="float('nan')"))
    install("odd-dist", "odd", SUITS.format(name="odd", suits="1 / 0"))
    labels = np.arange(60) % 2
    values = np.random.default_rng(0).normal(size=(60, 8)) + labels[:, None]
    data = {"x": values.astype(np.float32), "labels": labels}
    with caplog.at_level(logging.WARNING):
        assert surgeon.advise(nw.mlp(), data, device="cpu").plan.case == "best"
    (record,) = (one for one in caplog.records if "suits" in one.getMessage())
    assert "odd-dist" in record.getMessage()
    ours = surgeon.advise(nw.mlp(), data, device="cpu", plugins=load_plugins(enabled=False))
    assert ours.plan.case != "best"


def test_the_core_imports_no_zoo_and_gets_on_without_one(monkeypatch):
    from pathlib import Path

    import networks as nw

    import surgeon
    from surgeon.plugin import manager

    rooms = Path(surgeon.__file__).parent.rglob("*.py")
    assert not [str(path) for path in rooms if "surgeon_models" in path.read_text("utf-8")]
    monkeypatch.setenv(manager.DISABLE, "models")
    assert surgeon.load(nw.mlp()).known is None
