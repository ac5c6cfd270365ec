"""Plugins on the command line."""

from __future__ import annotations

import json

import click
import jsonschema

from surgeon import schemas


def test_a_plugin_adds_a_verb(run, plugins):
    def commands(cli):
        @cli.command("hello", help="Say hello.")
        def hello():
            click.echo("plugin command ran", err=True)

        cli.add("later", "surgeon.cli.cases:cases", "Loaded on use.")

    plugins.commands = commands
    page = run("--help").out
    assert "hello" in page
    assert "Loaded on use." in page
    assert page.index("Verbs of plugins:") > page.index("completion")
    done = run("hello")
    assert (done.code, "plugin command ran" in done.err) == (0, True)


def test_a_verb_that_is_there_cannot_be_replaced(run, plugins, operation):
    plugins.commands = lambda cli: cli.add_command(click.Command("cases"))
    done = run("--help")
    assert "their-dist" in done.err
    assert "'cases'" in done.err
    assert done.out.count("\n  cases ") == 1
    assert "small-similar" in run("cases").out
    plugins.commands = lambda cli: cli.add("inspect", "a:b", "")
    assert "'inspect'" in run("--help").err


def test_a_broken_plugin_is_one_line(run, plugins):
    plugins.warnings = ("plugin 'bad' of distribution bad-dist 1.0 was not loaded: no luck",)
    done = run("--help")
    assert done.code == 0
    assert done.err.splitlines() == [f"warning: {plugins.warnings[0]}"]


def test_a_plugin_that_fails_to_add_its_verbs_is_one_line(run, plugins):
    def commands(cli):
        message = "no\nluck"
        raise RuntimeError(message)

    plugins.commands = commands
    done = run("--help")
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert line.startswith("warning: plugin 'mine' of distribution their-dist could not add")
    assert line.endswith("RuntimeError: no luck")


def test_plugins_can_be_turned_off(run, plugins, operation):
    run("cases")
    run("cases", "--no-plugins")
    run("--no-plugins", "cases")
    run("--help", "--no-plugins")
    assert plugins.asked == [True, False, False, False]


def test_the_cases_are_plugins_that_work(run):
    for what in ("list", "check"):
        done = run("plugins", what, "--json")
        document = json.loads(done.out)
        jsonschema.validate(document, schemas.load("plugins"))
        ours = [one for one in document["plugins"] if one["distribution"] == "onnx-surgeon"]
        assert [one["offers"] for one in ours].count(["cases"]) == 5  # the fifth has two
        assert all(one["error"] is None for one in document["loaded"])
        offered = {(one["kind"], one["name"]): one["distribution"] for one in document["offers"]}
        assert offered["case", "large-different"] == "onnx-surgeon"
        assert offered["task", "classification"] == "onnx-surgeon"
        assert offered["head", "gemm"] == "onnx-surgeon"
    assert "large-different" in run("plugins", "list").out


def test_plugins_check_fails_for_a_broken_one(run, monkeypatch):
    from surgeon.plugin import manager
    from surgeon.plugin.points import Point

    broken = Point("bad", "surgeon_no_such_module")
    monkeypatch.setattr(manager, "entry_points", lambda group: [broken])
    done = run("plugins", "check", "--json")
    assert done.code == 1
    document = json.loads(done.out)
    jsonschema.validate(document, schemas.load("plugins"))
    assert "surgeon_no_such_module" in document["plugins"][0]["problem"]
    assert len([line for line in done.err.splitlines() if "bad" in line]) == 1
