"""Complete programs from picture or text to answer, for one file, in one of several languages.

A language is a template in `templates/`, filled with the facts of the file, and a line here. What
must not enter: the facts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2

from surgeon.errors import UnknownNameError, UsageError
from surgeon.records import Preprocess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgeon.clients.facts import Facts

KINDS = ("classification", "multi-label", "values", "embedding")
"""What programs can tell of outputs."""
WAYS = ("softmax", "sigmoid", "exp", "nothing")
"""What they can make answers of outputs by."""


@dataclass(frozen=True)
class Language:
    """A language or runtime.

    Attributes:
        name: the word behind `--code`; its template has the same.
        ending: of the program's file.
        needs: what must be installed.
        bare: whether the program itself resizes and scales: then the file need not do it.
        texts: whether it reads texts, too.
        pixels: whether it runs a file that resizes and scales itself.
    """

    name: str
    ending: str
    needs: str
    bare: bool = False
    texts: bool = False
    pixels: bool = True


LANGUAGES = {
    one.name: one
    for one in (
        Language("python", ".py", "pip install onnxruntime numpy pillow", bare=True, texts=True),
        Language("openvino", ".py", "pip install openvino numpy pillow", bare=True, texts=True),
        Language("opencv", ".py", "pip install opencv-python-headless pillow", True, pixels=False),
        Language("node", ".mjs", "npm install onnxruntime-node sharp"),
        Language("web", ".html", "npm install onnxruntime-web"),
        Language("csharp", ".cs", "NuGet: Microsoft.ML.OnnxRuntime, SixLabors.ImageSharp"),
        Language("java", ".java", "Maven: com.microsoft.onnxruntime:onnxruntime"),
        Language("rust", ".rs", "cargo add ort ndarray, and image@0.25"),
        Language("cpp", ".cpp", "ONNX Runtime's C++ archive, and OpenCV"),
    )
}  # fmt: skip
"""Those there are, in the order of the pages."""


def known(names: Sequence[str]) -> list[Language]:
    """Return languages by their names.

    Raises:
        UnknownNameError: there is none of a name.
    """
    for name in names:
        if name not in LANGUAGES:
            raise UnknownNameError("language", name, LANGUAGES, where="--code")
    return [LANGUAGES[name] for name in dict.fromkeys(names)]


def program(facts: Facts, language: Language, file: str, tokenizer: str) -> str:
    """Return the program of a file.

    Args:
        facts: of the file.
        language: of the program.
        file: name of the program's own file.
        tokenizer: name of the file of the tokenizer, for texts.

    Raises:
        UsageError: no program of this language can be written for such a file.
    """
    _require(facts, language)
    template = _templates().get_template(f"{language.name}.jinja")
    text = template.render(
        facts=facts, language=language, rule=facts.rule, program=file,
        tokenizer=tokenizer,
        input=facts.inputs[0], labels=None if facts.labels is None else list(facts.labels),
        texts=facts.medium == "texts",
    )  # fmt: skip
    return text.rstrip("\n") + "\n"


def _require(facts: Facts, language: Language) -> None:
    """Refuse what the templates cannot tell, saying what can be done."""
    where = f"--code {language.name}"
    described = "--describe says what a program of your own must do"
    if facts.medium == "arrays" or (facts.medium == "texts" and not language.texts):
        able = [one.name for one in LANGUAGES.values() if one.texts]
        what = "texts" if facts.medium == "texts" else "neither pictures nor texts as they come"
        raise UsageError(
            f"the file takes {what}, of which this program would know nothing",
            where=where,
            remedy=f"--code {' or '.join(able)}" if facts.medium == "texts" else described,
        )
    if facts.output is None or facts.apply not in WAYS or facts.kind not in KINDS:
        raise UsageError(
            f"what the file answers is more than a program here can tell: {facts.task}",
            where=where, remedy=described,
        )  # fmt: skip
    if facts.batch not in {None, 1}:
        raise UsageError(
            f"the program shows one sample at a time, the file takes {facts.batch}",
            where=where, remedy="leave out --batch",
        )  # fmt: skip
    if facts.embedded and not language.pixels:
        raise UsageError(
            "this runtime has no float64, in which the file resizes pictures",
            where=where, remedy="export the file without --embed-preprocess",
        )  # fmt: skip
    if facts.medium == "pictures" and not (facts.embedded or language.bare):
        raise UsageError(
            "the program leaves resizing and scaling to the file, which does not do it",
            where=where, remedy="--embed-preprocess puts it in",
        )  # fmt: skip


@cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("surgeon.clients"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,  # noqa: S701 - programs, and text in them is quoted as JSON
    )  # fmt: skip
    made.filters |= {"quoted": _quoted, "numbers": _numbers, "html": _html}
    made.tests["picture_rule"] = lambda rule: isinstance(rule, Preprocess)
    return made


def _quoted(value: Any) -> str:
    """Return text, or a list of texts, as a literal that all of the languages read."""
    return json.dumps(value, ensure_ascii=False)


def _html(value: Any) -> str:
    """Return the same inside a page's script."""
    return _quoted(value).replace("<", "\\u003c")


def _numbers(values: Any) -> str:
    """Return numbers as literals of all languages, one alone without brackets."""
    listed = [repr(float(one)) for one in values]
    return listed[0] if len(set(listed)) == 1 else f"[{', '.join(listed)}]"
