"""Plugins on the command line."""

from __future__ import annotations

import json
import sys

import click
import jsonschema
import networks as nw
import onnx
import pytest

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
    assert line.startswith("warning: plugin 'mine' of distribution their-dist 1.0 could not add")
    assert line.endswith("RuntimeError: no luck")


def test_plugins_can_be_turned_off(run, plugins, operation):
    run("cases")
    run("cases", "--no-plugins")
    run("--no-plugins", "cases")
    run("--help", "--no-plugins")
    assert plugins.asked == [True, False, False, False]


def test_the_cases_are_plugins_that_work(run):
    for what in ("list", "check"):
        done = run("plugins", what, "--json", "--no-plugins")
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


# ── what a verb of a plugin may be ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("fixture_verbs:plain", "decorate it with @click.command()"),
        ("fixture_verbs:number", "a int"),
        ("fixture_verbs:nothing", "AttributeError"),
        ("fixture_verbs_absent:main", "ModuleNotFoundError"),
        ("fixture_verbs_broken:main", "ZeroDivisionError"),
        ("fixture_verbs_leaving:main", "SystemExit"),
    ],
)
def test_what_is_no_command_is_one_error_that_names_its_distribution(
    run, plugins, tmp_path, monkeypatch, target, words
):
    (tmp_path / "fixture_verbs.py").write_text("number = 3\n\ndef plain():\n    pass\n")
    (tmp_path / "fixture_verbs_broken.py").write_text("main = 1 / 0\n")
    (tmp_path / "fixture_verbs_leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.commands = lambda cli: cli.add("mine", target, "do what I need")
    assert "do what I need" in run("--help").out
    done = run("mine", "--json")
    assert done.code == 2
    error = json.loads(done.out)["error"]
    assert error["kind"] == "plugin"
    assert words in error["message"]
    assert "their-dist 1.0" in error["where"]
    assert len([line for line in done.err.splitlines() if "their-dist" in line]) == 1
    # An option that is sought in other verbs meets the broken one, and passes over it.
    assert "internal" not in run("inspect", "--nonsense").err


@pytest.mark.parametrize(
    "commands",
    [
        lambda cli: cli.add("mine", 3),
        lambda cli: cli.add("mine", "module"),
        lambda cli: cli.add("", "module:main"),
        lambda cli: cli.add_command(print),
        lambda cli: cli.add(None, "module:main"),
        lambda cli: cli.nonsense(),
        lambda cli: sys.exit(3),
    ],
)
def test_what_cannot_be_added_is_one_warning(run, plugins, commands):
    plugins.commands = commands
    done = run("--help")
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert "their-dist 1.0" in line


# ── strict, named, traced ────────────────────────────────────────────────────────────────────────


def test_strict_makes_an_error_of_what_is_a_warning(run, plugins, monkeypatch):
    plugins.commands = lambda cli: cli.add("cases", "a:b")
    assert run("--help").code == 0
    monkeypatch.setenv("SURGEON_STRICT_PLUGINS", "0")
    assert run("--help").code == 0
    monkeypatch.setenv("SURGEON_STRICT_PLUGINS", "1")
    done = run("--help")
    assert done.code == 2
    assert "their-dist" in done.err
    assert "SURGEON_STRICT_PLUGINS" in done.err


def test_strict_refuses_plugins_that_were_not_loaded_all_at_once(run, monkeypatch):
    from surgeon.plugin import manager
    from surgeon.plugin.points import Point

    broken = [Point(name, f"surgeon_no_such_{name}", f"{name}-dist") for name in ("one", "two")]
    monkeypatch.setattr(manager, "entry_points", lambda group: broken)
    assert run("plugins", "list").code == 0
    monkeypatch.setenv("SURGEON_STRICT_PLUGINS", "1")
    done = run("plugins", "list", "--json")
    assert done.code == 2
    error = json.loads(done.out)["error"]
    assert {"one-dist", "two-dist"} <= set(error["message"].replace("'", " ").split())


def test_a_plugin_is_named_before_its_first_use_and_no_more_often(run, tmp_path):
    onnx.save(nw.residual(), tmp_path / "net.onnx")
    to = ("--classes", "3", "-o", tmp_path / "out.onnx", "--force")
    theirs = ("operate", tmp_path / "net.onnx", "--case", "small-different-multi", *to)
    (line,) = [one for one in run(*theirs).err.splitlines() if one.startswith("plugin: ")]
    assert "surgeon-multi" in line
    for quiet in ([*theirs, "-q"], [*theirs, "--json"], ["cases"]):
        assert "plugin: " not in run(*quiet).err
    ours = [*theirs[:3], "small-similar", *to]
    assert "plugin: " not in run(*ours).err


def test_calls_of_hooks_are_traced_where_that_is_wanted(run, monkeypatch):
    def lines(*arguments):
        return [one for one in run(*arguments).err.splitlines() if one.startswith("trace: ")]

    assert lines("cases", "-v") == []
    (line,) = [one for one in lines("cases", "-vv") if "surgeon-multi" in one]
    assert "surgeon_cases" in line
    assert "small-different-multi" in line
    monkeypatch.setenv("SURGEON_TRACE_PLUGINS", "1")
    assert line.split(" in ")[0] in [one.split(" in ")[0] for one in lines("cases", "--json")]


def test_a_verb_of_a_plugin_is_named_before_it_runs(run, plugins):
    plugins.commands = lambda cli: cli.add_command(
        click.Command("mine", callback=lambda: click.echo("done"))
    )
    done = run("mine")
    assert done.out.strip() == "done"
    assert "plugin: their-dist 1.0 (verb mine)" in done.err
    assert "their-dist" not in run("cases").err


@pytest.mark.parametrize("words", [("cases",), ("plugins", "list")])
def test_lists_fit_eighty_columns_where_nobody_sees_them(run, words):
    told = run(*words).out.splitlines()
    assert len(told) > 4
    assert max(map(len, told)) <= 80
    assert any("small-similar " in line for line in told)


def test_a_task_that_cannot_be_made_is_its_plugins_error(monkeypatch):
    import sys
    import types

    from surgeon.errors import PluginError
    from surgeon.plugin import hookimpl
    from surgeon.plugin.manager import load_plugins
    from surgeon.records import Task
    from surgeon.tasks.find import find_task

    class Theirs:
        @hookimpl
        def surgeon_tasks(self):
            yield Task("odd", "cannot be made", "fixture_odd_task:Odd")

    def broken(stored):
        raise FileNotFoundError(2, "no such file", "weights.bin")

    monkeypatch.setitem(sys.modules, "fixture_odd_task", types.SimpleNamespace(Odd=broken))
    found = load_plugins()
    found.manager.register(Theirs(), name="odd")
    with pytest.raises(PluginError, match=r"the task 'odd'.*FileNotFoundError"):
        find_task("odd", found)
