"""Plugins as third parties install them: loaded one by one, named when broken, told apart."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import networks as nw
import onnx
import pytest

import surgeon
from surgeon.errors import PluginError, UnknownNameError, UsageError
from surgeon.plugin.manager import load_plugins
from surgeon.records import Case

FIXTURES = Path(__file__).parent.parent / "fixtures"
OURS = [
    "small-similar", "small-different", "large-similar", "large-different", "features",
    "features-in",
]  # fmt: skip

MULTI = "surgeon-multi"

CASE = """
from surgeon.plugin import hookimpl
from surgeon.records import Case, Plan

@hookimpl
def surgeon_cases():
    yield Case({name!r}, "one line", lambda evidence: 0.0, lambda context: {plan})
"""


@pytest.fixture(autouse=True)
def _without_our_own_plugin(monkeypatch):
    """Leave out the plugin of this repository, which the Makefile installs and others may not."""
    monkeypatch.setenv("SURGEON_DISABLE_PLUGINS", MULTI)


def test_the_four_come_first_and_from_our_own_distribution():
    found = load_plugins().offers(Case)
    assert list(found)[: len(OURS)] == OURS
    assert {found[name].distribution for name in OURS} == {"onnx-surgeon"}
    assert {found[name].version for name in OURS} == {surgeon.__version__}


def test_a_case_of_another_distribution(install):
    install("their-case", "mine", CASE.format(name="mine", plan='Plan(cut="@0.5")'))
    plugins = load_plugins()
    assert plugins.warnings == ()
    case = plugins.offers(Case)["mine"]
    assert (case.distribution, case.version) == ("their-case", "1.0")
    patient = surgeon.operate(nw.residual(), case="mine", classes=3, plugins=plugins)
    assert patient.plan.case == "mine"
    assert patient.plan.cut == "b1.sum"
    assert patient.trainable == ["surgeon.head.weight", "surgeon.head.bias"]


def test_a_case_may_name_what_is_trained(install):
    # The old head's weights are parameters of the source too; the cut takes them away.
    wanted = "Plan(trainable=tuple(p.name for p in context.parameters if p.depth >= 0.5))"
    install("their-case", "deep", CASE.format(name="deep", plan=wanted))
    patient = surgeon.operate(nw.residual(), case="deep", classes=3)
    assert {"b2.c1.weight", "b2.c2.weight", "surgeon.head.weight"} <= set(patient.trainable)
    assert not {"stem.weight", "b1.c1.weight"} & set(patient.trainable)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("{'cut': 'late'}", "dict"),
        ("Plan(trainable=('nothing.like.it',))", "nothing.like.it"),
        ("Plan(trainable='most')", "most"),
        ("Plan(cut='nowhere')", "nowhere"),
    ],
)
def test_a_case_that_decides_nonsense_is_a_usage_error(install, plan, words):
    install("their-case", "odd", CASE.format(name="odd", plan=plan))
    with pytest.raises(UsageError, match=words) as caught:
        surgeon.operate(nw.residual(), case="odd", classes=3)
    assert caught.value.exit == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("this is no python", "SyntaxError"),
        (
            "from surgeon.plugin import hookimpl\n@hookimpl\ndef surgeon_casess():\n    yield 1",
            "surgeon_casess",
        ),
        ("def surgeon_case():\n    yield 1", "surgeon_case"),
        (
            "from surgeon.plugin import hookimpl\n@hookimpl\ndef surgeon_cases(bogus):\n    yield",
            "bogus",
        ),
    ],
)
def test_a_broken_plugin_is_one_line_that_names_its_distribution(install, content, words):
    install("their-broken", "broken", content)
    install("their-case", "mine", CASE.format(name="mine", plan="Plan()"))
    plugins = load_plugins()
    (line,) = plugins.warnings
    assert "their-broken" in line
    assert words in line
    assert "\n" not in line
    assert [*OURS, "mine"] == list(plugins.offers(Case))
    assert plugins.hook.surgeon_open_data(uri="nothing") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("SURGEON_API = 99", "upgrade onnx-surgeon"),
        ("SURGEON_API: int = 99  # newer\nfrom surgeon.records import NotYetThere", "upgrade"),
        ("SURGEON_API = 0", "a later version"),
        ("SURGEON_API = '1'", "whole number"),
    ],
)
def test_a_plugin_for_another_version_of_the_hooks_is_one_line_with_the_remedy(
    install, content, words
):
    install("their-case", "mine", f"{content}\n{CASE.format(name='mine', plan='Plan()')}")
    plugins = load_plugins()
    (line,) = plugins.warnings
    assert words in line
    assert "their-case 1.0" in line
    assert list(plugins.offers(Case)) == OURS


def test_a_plugin_may_state_its_version_and_forget_the_mark_of_a_hook(install):
    unmarked = CASE.replace("@hookimpl\n", "").format(name="mine", plan="Plan()")
    install("their-case", "mine", f"from surgeon.plugin import API\nSURGEON_API = API\n{unmarked}")
    plugins = load_plugins()
    assert plugins.warnings == ()
    assert "mine" in plugins.offers(Case)


def test_strict_makes_errors_of_warnings(install, monkeypatch):
    monkeypatch.setenv("SURGEON_STRICT_PLUGINS", "1")
    install(
        "their-broken",
        "broken",
        "from surgeon.plugin import hookimpl\ndef surgeon_cases():\n    yield 3",
    )
    plugins = load_plugins()
    with pytest.raises(PluginError, match="their-broken"):
        plugins.offers(Case)
    install("worse-broken", "worse", "1 / 0")
    with pytest.raises(PluginError, match="worse-broken"):
        load_plugins()


def test_a_hook_that_fails_when_it_is_asked_does_not_end_the_others(install, caplog):
    content = "from surgeon.plugin import hookimpl\n@hookimpl\ndef surgeon_cases():\n    yield 3"
    install("their-broken", "broken", content)
    with caplog.at_level(logging.WARNING):
        assert list(load_plugins().offers(Case)) == OURS
    assert "their-broken" in caplog.text


@pytest.mark.parametrize("entries", [("one", "two"), ("same", "same")])
def test_equal_case_names_are_an_error_naming_both_distributions(install, entries):
    for distribution, entry in zip(("first-dist", "second-dist"), entries, strict=True):
        install(distribution, entry, CASE.format(name="twin", plan="Plan()"))
    plugins = load_plugins()
    assert list(plugins.offers(Case)) == OURS
    with pytest.raises(PluginError, match="twin") as caught:
        plugins.offer(Case, "twin")
    assert {"first-dist", "second-dist"} <= set(caught.value.where.replace(",", " ").split())


def test_nobody_takes_the_place_of_our_own_cases(install, caplog):
    install("aaa-dist", "small-similar", CASE.format(name="other", plan="Plan()"))
    plugins = load_plugins()
    assert plugins.offers(Case)["small-similar"].distribution == "onnx-surgeon"
    assert plugins.offers(Case)["other"].distribution == "aaa-dist"
    install("bbb-dist", "mine", CASE.format(name="small-similar", plan="Plan()"))
    plugins_now = load_plugins()
    with caplog.at_level(logging.WARNING):
        assert plugins_now.offer(Case, "small-similar").distribution == "onnx-surgeon"
    assert "bbb-dist 1.0" in caplog.text
    assert "ours is used" in caplog.text
    assert list(load_plugins(enabled=False).offers(Case)) == OURS


@pytest.mark.parametrize("word", ["mine", "their-case", "Their_Case"])
def test_plugins_are_left_out_by_entry_point_or_distribution(install, monkeypatch, word):
    install("their-case", "mine", CASE.format(name="mine", plan="Plan()"))
    install("their-broken", "broken", "raise RuntimeError")
    monkeypatch.setenv("SURGEON_DISABLE_PLUGINS", f"{word}, broken, {MULTI}")
    plugins = load_plugins()
    assert list(plugins.offers(Case)) == OURS
    assert plugins.warnings == ()
    monkeypatch.delenv("SURGEON_DISABLE_PLUGINS")
    assert "mine" not in load_plugins(disabled=[word]).offers(Case)
    assert list(load_plugins(enabled=False).offers(Case)) == OURS
    assert load_plugins(enabled=False).warnings == ()


def test_an_unknown_case_names_the_nearest(install):
    install("their-case", "mine", CASE.format(name="small-simple", plan="Plan()"))
    with pytest.raises(UnknownNameError) as caught:
        load_plugins().offer(Case, "small-simpel")
    assert "small-simple" in str(caught.value)
    install("their-broken", "broken", "raise RuntimeError('no luck')")
    with pytest.raises(UnknownNameError) as caught:
        load_plugins().offer(Case, "theirs")
    assert "their-broken 1.0" in caught.value.remedy


# ── installed with pip, run by the command line ──────────────────────────────────────────────────


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Both fixture distributions, installed by pip from their sources."""
    target = tmp_path_factory.mktemp("plugins") / "site"
    # Where hatchling is at hand nothing is downloaded; else pip fetches it, as it does for anyone.
    offline = ["--no-build-isolation", "--no-index"] if find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *offline]
    command += ["--disable-pip-version-check", "--target", str(target)]
    sources = [str(FIXTURES / "case_plugin"), str(FIXTURES / "broken_plugin")]
    done = subprocess.run([*command, *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(site, *arguments, **environment):
    command = [
        sys.executable,
        "-c",
        "import sys; from surgeon.cli import main; sys.exit(main())",
        *map(str, arguments),
    ]
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def names(done):
    assert done.returncode == 0, done.stderr
    return [case["name"] for case in json.loads(done.stdout)["cases"]]


def test_an_installed_case_appears_and_a_broken_plugin_is_one_line(site):
    done = run(site, "cases", "--json")
    assert names(done) == [*OURS, "half-way"]
    document = json.loads(done.stdout)
    mine = document["cases"][-1]
    assert mine["distribution"] == "surgeon-half-way"
    assert mine["version"] == "1.2.3"
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert "surgeon-broken" in line


def test_no_plugins_hides_both(site):
    for done in (
        run(site, "--no-plugins", "cases", "--json"),
        run(site, "cases", "--json", SURGEON_DISABLE_PLUGINS=f"half-way,surgeon-broken,{MULTI}"),
    ):
        assert names(done) == OURS
        assert "surgeon-broken" not in done.stderr


def test_an_installed_case_runs_by_name(site, tmp_path):
    onnx.save(nw.residual(), str(tmp_path / "net.onnx"))
    out = tmp_path / "out.onnx"
    done = run(
        site, "operate", tmp_path / "net.onnx", "--case", "half-way", "--classes", "3", "-o", out,
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["plan"]["case"] == "half-way"
    assert document["plan"]["cut"] == "b1.sum"
    assert [v.name for v in onnx.load(str(out)).graph.output] == ["logits"]
    refused = run(
        site, "--no-plugins", "operate", tmp_path / "net.onnx", "--case", "half-way", "--classes",
        "3", "-o", tmp_path / "other.onnx",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "half-way" in refused.stderr
