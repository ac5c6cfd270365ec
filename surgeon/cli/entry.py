"""`main`: parse, run the verb, write its answer or its error, return the exit code."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import click

from surgeon.cli.failures import as_surgeon_error
from surgeon.cli.group import SurgeonGroup
from surgeon.cli.session import Answer, Session, say, write_out

if TYPE_CHECKING:
    from collections.abc import Sequence

# verb: (where it lives, its line in `surgeon --help`)
VERBS = {
    "inspect": ("surgeon.cli.inspect:inspect", "What a model is: inputs, operators, size, head."),
    "cuts": ("surgeon.cli.cuts:cuts", "Where the graph may be cut, by depth."),
    "check": ("surgeon.cli.check:check", "Everything that will not convert or train, at once."),
    "cases": ("surgeon.cli.cases:cases", "The cases of transfer learning there are."),
    "advise": ("surgeon.cli.advise:advise", "Which case and cut suit the data, by measurement."),
    "operate": ("surgeon.cli.operate:operate", "Cut a model and give it a new head."),
    "finetune": ("surgeon.cli.finetune:finetune", "Train on data; a proven ONNX file comes out."),
    "evaluate": ("surgeon.cli.evaluate:evaluate", "Metrics and confusion on labelled data."),
    "predict": ("surgeon.cli.predict:predict", "Labels and probabilities for files."),
    "export": ("surgeon.cli.export:export", "The tuned file in another form, proven again."),
    "verify": ("surgeon.cli.verify:verify", "Run the proof a file carries again, here."),
    "apply": ("surgeon.cli.apply:apply", "An adapter kept apart, put back into its file."),
    "report": ("surgeon.cli.report:report", "One page that tells a run or a file."),
    "diff": ("surgeon.cli.diff:diff", "What moved between two files, and how far."),
    "blend": ("surgeon.cli.blend:blend", "Weights between two files of one structure."),
    "ops": ("surgeon.cli.ops:ops", "Which operators convert to torch, in general or of a model."),
    "cache": ("surgeon.cli.cache:cache", "Cached features and models on this machine."),
    "plugins": ("surgeon.cli.plugins:plugins", "Which plugins are loaded, and whether they work."),
    "doctor": ("surgeon.cli.doctor:doctor", "What works on this machine and what does not."),
    "completion": ("surgeon.cli.completion:completion", "The completion script of a shell."),
}


def _version(ctx: click.Context, _: click.Parameter, asked: Any) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from surgeon.cli.versions import show_versions, versions

    body = {"versions": versions()}
    session = ctx.ensure_object(Session)
    session.verb = "version"
    deliver(session, Answer(body, show_versions))
    ctx.exit()


def command_tree() -> SurgeonGroup:
    """Make the tree of verbs: a fresh one per run, because plugins add to it."""
    return SurgeonGroup(
        VERBS,
        name="surgeon",
        help="Transfer learning on any pretrained ONNX file: cut it, give it a new head, "
        "fine-tune it, get a proven ONNX file back.",
        epilog="`surgeon VERB --help` shows the options of a verb.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        subcommand_metavar="VERB [ARGUMENTS]...",
        no_args_is_help=True,
        callback=lambda: None,
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_version,
                help="Show the versions of surgeon and its libraries.",
            )
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `surgeon.errors` and the contract)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file name, or ×, that a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments, Session.from_arguments(arguments))
    except BrokenPipeError:
        # The reader of stdout has seen enough: no error, and python must not say one at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str], session: Session) -> int:
    tree = command_tree()
    with session.gathering_warnings():
        try:
            answer = tree.main(arguments, prog_name="surgeon", standalone_mode=False, obj=session)
            return deliver(session, answer)
        except click.exceptions.NoArgsIsHelpError as help_wanted:
            if session.json:
                return fail(session, help_wanted)
            say(help_wanted.format_message())
            return help_wanted.exit_code
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the top of the program
            origin = tree.origin(session.verb or "")
            return fail(session, error, session.blamed(error) if origin is None else origin.said)


def deliver(session: Session, answer: Any) -> int:
    """Write an answer as the document or for people. A plugin's own command may return anything."""
    if not isinstance(answer, Answer):
        return answer if isinstance(answer, int) else 0
    for text in answer.body.get("warnings", ()):
        session.warn(text)
    if session.json:
        write_out(session.document(answer.body))
    else:
        from surgeon.cli.screen import Screen

        answer.show(Screen(sys.stdout, verbose=session.verbose), answer.body)
        sys.stdout.flush()
    return answer.exit


def fail(session: Session, reason: BaseException, plugin: str | None = None) -> int:
    """Write an error: the document on stdout where one was asked for, the words on stderr."""
    if session.traceback:
        import traceback

        say("".join(traceback.format_exception(reason)).rstrip())
    error = as_surgeon_error(reason, plugin)
    if session.json:
        write_out(session.failure(error))
    say(f"error: {error}")
    return error.exit
