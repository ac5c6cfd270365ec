"""Options stand once: functions, command line and page are those of `surgeon.options`."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import options_page
import pytest

import surgeon
from surgeon import operation, options
from surgeon.cli.options import takes
from surgeon.errors import UsageError

CONTRIBUTING = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
COMMAND_ONLY = {"operate": {"out", "force", "dry_run"}, "advise": {"force"}}
"""What the command line does with a result that a function returns."""
FUNCTIONS = {
    name: getattr(surgeon, name, None) or getattr(operation, name)
    for name in {verb for one in options.every().values() for verb in one.verbs}
}


@pytest.mark.parametrize("verb", sorted(FUNCTIONS))
def test_keywords_of_functions_are_the_options(verb):
    given = dict(inspect.signature(FUNCTIONS[verb]).parameters)
    if verb == "predict":  # its `inputs` are what is predicted
        given["inputs"] = given.pop("constants")
    if verb == "apply":  # its `adapter` is a file
        del given["adapter"]
    of_verb = {one.name: one for one in options.options_of(verb)}
    here = {name for name in given if name in options.every()}
    assert here == set(of_verb) - COMMAND_ONLY.get(verb, set())
    assert {name: given[name].default for name in here} == {
        name: of_verb[name].default for name in here
    }
    explained = inspect.getdoc(FUNCTIONS[verb]) or ""
    assert all(of_verb[name].help in explained for name in here - {"inputs"})


@pytest.mark.parametrize("verb", sorted(FUNCTIONS))
def test_what_is_not_said_is_the_default(verb):
    @click.command()
    @takes(verb)
    def command(**_: object) -> None: ...

    defaults = {one.name: one.default for one in options.options_of(verb)}
    for name, told in command.make_context(verb, []).params.items():
        assert told is None or told == defaults[name] or not (told or defaults[name])


def test_options_are_gathered_and_keep_python_kinds():
    to = options.Options.of({"model": 1, "epochs": np.int64(3), "lr": np.float32(0.5), "seed": 7})
    assert (to.training.epochs, to.training.lr, to.training.seed) == (3, 0.5, 7)
    assert type(to.training.epochs) is int
    assert to.place == options.Place()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", 1.5), ("epochs", True), ("budget", 0), ("budget", float("nan")),
        ("lr", float("inf")), ("seed", -1), ("seed", 2**32), ("views", 0), ("precision", "fp8"),
        ("augment", None), ("init", "best"), ("cut", 0.5), ("case", 3), ("cache_limit", -1),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_its_option(name, value):
    with pytest.raises(UsageError) as caught:
        options.Options.of({name: value})
    assert caught.value.where == options.every()[name].flag
    assert caught.value.remedy


def test_the_page_is_not_stale():
    assert options_page.PAGE.read_text("utf-8") == options_page.page(), "write it anew: make docs"


def test_the_option_that_contributing_shows_works(monkeypatch):
    text = CONTRIBUTING.read_text("utf-8").split("## An option")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope = {"dataclass": dataclass, "Training": options.Training, "option": options.option}
    exec(f"@dataclass(frozen=True)\nclass More(Training):\n{code}", scope)
    before = set(options.every())
    monkeypatch.setitem(options.GROUPS, "training", scope["More"])
    options.every.cache_clear()
    try:
        (new,) = set(options.every()) - before
        assert getattr(options.Options.of({new: 2}).training, new) == 2
        with pytest.raises(UsageError, match=new):
            options.Options.of({new: 0})

        @click.command
        @takes("finetune")
        def finetune(**_settings):
            """Do nothing."""

        flag = options.every()[new].flag
        assert flag in finetune.get_help(click.Context(finetune))
        assert f"`{flag}`" in options_page.page()
    finally:
        monkeypatch.undo()
        options.every.cache_clear()
