"""`--describe`, `--code`: what lies beside the file for those who run it elsewhere.

The file is OUT, or lies in the folder OUT, or beside the program OUT. What must not enter: what a
client must know, and how programs are written (`surgeon.clients`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from surgeon.clients import describe, find_facts, program
from surgeon.clients.programs import known
from surgeon.graph import envelope, files
from surgeon.records import Preprocess

if TYPE_CHECKING:
    import onnx

    from surgeon.clients import Facts, Language
    from surgeon.exporting.given import Given
    from surgeon.model import Model
    from surgeon.options import Delivery, Options

MODEL = ".onnx"


@dataclass(frozen=True)
class Beside:
    """Files beside an exported one, found before anything is written.

    Attributes:
        target: the ONNX file.
        described: the file that describes it, or None.
        programs: by language.
        is_source: whether the ONNX file is the very one that is exported.
    """

    target: Path
    described: Path | None
    programs: tuple[tuple[Language, Path], ...]
    is_source: bool

    def write(self, made: onnx.ModelProto, facts: Facts, texts: dict[Path, str]) -> list[Path]:
        """Write them; the ONNX file is in place, so that its hash is known."""
        if self.described is not None:
            tokenizer = self.tokenizer.name if facts.tokenizer is not None else None
            document = describe(
                facts, files.sha256_file(self.target), envelope.get(made, envelope.PREPROCESS),
                tokenizer,
            )  # fmt: skip
            texts = {
                self.described: json.dumps(document, ensure_ascii=False, indent=1) + "\n"
            } | texts
        for path, text in texts.items():
            try:
                path.write_text(text, "utf-8", newline="\n")
            except OSError as error:
                raise files.write_error(error, path) from error
        return list(texts)

    def implied(self, asked: Options, model: Model, notes: list[str]) -> Options:
        """Return what is asked for: the file's place, and what programs leave to the file."""
        how, to = model.preprocess, replace(asked.delivery, out=self.target)
        thin = [language.name for language, _ in self.programs if not language.bare]
        if thin and isinstance(how, Preprocess) and not (how.embedded or to.embed_preprocess):
            to = replace(to, embed_preprocess=True)
            notes.append(
                f"the program in {' and '.join(thin)} hands over pixels, and the file resizes and "
                "scales them: --embed-preprocess is implied"
            )
        return replace(asked, delivery=to)

    @property
    def tokenizer(self) -> Path:
        """Where the tokenizer of a file of texts goes."""
        return self.target.with_suffix(".tokenizer.json")

    def texts(self, facts: Facts) -> dict[Path, str]:
        """Return the files that need no hash of the written one.

        Raises:
            UsageError: a program in one of the languages cannot be written for such a file.
        """
        found = {
            path: program(facts, language, path.name, self.tokenizer.name)
            for language, path in self.programs
        }
        if facts.tokenizer is not None:
            found[self.tokenizer] = facts.tokenizer
        return found


def beside_of(to: Delivery, source: Path | None) -> Beside | None:
    """Return where the files go that were asked for; None where none was.

    Raises:
        UnknownNameError: a language that there is not.
        OutputError: one of the files exists, or cannot be written.
    """
    if not (to.describe or to.code) or to.out is None:
        return None
    languages = known(to.code)
    out = Path(to.out)
    if out.is_dir() or not out.suffix:
        out.mkdir(parents=True, exist_ok=True)
        target = out / ("model.onnx" if source is None else source.with_suffix(MODEL).name)
    else:
        ours = out.suffix in {one.ending for one in languages}
        target = out.with_suffix(MODEL) if ours else out
    several = len({one.ending for one in languages}) < len(languages)
    programs = tuple(
        (one, target.with_suffix(f".{one.name}{one.ending}" if several else one.ending))
        for one in languages
    )
    described = target.with_name(f"{target.name}.json") if to.describe else None
    for path in (described, *(path for _, path in programs)):
        if path is not None:
            files.check_output(path, force=to.force)
    is_source = source is not None and target.resolve() == source.resolve()
    return Beside(target, described, programs, is_source)


def facts_beside(
    beside: Beside, made: onnx.ModelProto, given: Given
) -> tuple[Facts, dict[Path, str]]:
    """Return what a client must know of the file, and the programs, before anything is written."""
    facts, notes = find_facts(made, beside.target.name, given.plugins)
    given.notes.extend(notes)
    return facts, beside.texts(facts)
