"""What is wrong with a plugin's verb is said of the plugin, never called a defect of surgeon."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import click
import pluggy
import pytest

from surgeon.cli import main
from surgeon.plugin import hookimpl, hooks, manager


@pytest.fixture
def adds(monkeypatch):
    """Let one plugin, `mine` of `their-dist`, add verbs by a function."""

    def install(commands):
        class Mine:
            @hookimpl
            def surgeon_commands(self, cli):
                commands(cli)

        def loading(**_):
            found = pluggy.PluginManager(hooks.PROJECT)
            found.add_hookspecs(hooks)
            found.register(Mine(), name="mine")
            return manager.Plugins(found, (manager.Loaded("mine", "their-dist", "1.0"),))

        monkeypatch.setattr(manager, "load_plugins", loading)

    return install


@pytest.fixture
def theirs(monkeypatch):
    """A module of the plugin's with things that are commands and things that are not."""
    module = ModuleType("their_module")
    module.function = lambda: None
    module.number = 3

    @click.command()
    def good():
        click.echo("ran", err=True)

    @click.command()
    @click.option("--times", type=int)
    def breaks(times):
        raise RuntimeError("no\nluck")

    module.good, module.breaks = good, breaks
    monkeypatch.setitem(sys.modules, "their_module", module)
    return module


@pytest.mark.parametrize(
    "target",
    ["their_module:function", "their_module:number", "their_module:absent", "no_such_module:main"],
)
def test_what_is_no_command_is_the_plugins_error(adds, theirs, capsys, target):
    adds(lambda cli: cli.add("mine", target, "do it"))
    assert main(["--help"]) == 0
    assert "do it" in capsys.readouterr().out
    assert main(["mine", "--json"]) == 2
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["error"]["kind"] == "plugin"
    assert "internal" not in said.err
    told = " ".join(str(part) for part in document["error"].values())
    assert "their-dist" in told
    assert main(["plugins", "check"]) == 1
    assert "mine" in capsys.readouterr().out
    assert main(["cases"]) == 0


@pytest.mark.parametrize("wrong", [lambda: None, 3, "text", None])
def test_what_is_added_as_a_command_and_is_none_is_one_line(adds, capsys, wrong):
    adds(lambda cli: cli.add_command(wrong, "mine"))
    assert main(["--help"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "their-dist" in line
    assert "click" in line


@pytest.mark.parametrize("name", ["inspect", "finetune", "doctor"])
def test_a_name_that_is_taken_is_said_and_the_rest_goes_on(adds, theirs, capsys, name):
    def commands(cli):
        cli.add(name, "their_module:good", "not this")
        cli.add_command(theirs.good, name)
        cli.add("other", "their_module:good", "this one")

    adds(commands)
    assert main(["--help"]) == 0
    said = capsys.readouterr()
    assert "not this" not in said.out
    assert "this one" in said.out
    assert "their-dist" in said.err
    assert repr(name) in said.err
    assert main(["other"]) == 0
    assert "ran" in capsys.readouterr().err


def test_a_plugin_that_exits_or_gives_no_target_is_one_line(adds, capsys):
    for commands in (lambda _: sys.exit(3), lambda cli: cli.add("mine", "no_colon", "")):
        adds(commands)
        assert main(["--help"]) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert "their-dist" in line


def test_a_verb_that_fails_is_not_a_defect_of_surgeon(adds, theirs, capsys):
    adds(lambda cli: cli.add("mine", "their_module:breaks", "fails"))
    assert main(["--json", "mine"]) == 1
    said = capsys.readouterr()
    error = json.loads(said.out)["error"]
    assert error["kind"] == "plugin"
    assert "their-dist" in error["where"]
    assert "no luck" in error["message"]
    assert main(["mine", "--tims", "3"]) == 2
    assert "--times" in capsys.readouterr().err
