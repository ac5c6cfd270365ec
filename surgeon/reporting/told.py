"""Documents as templates read them: every number leaves with its whole value and its place.

A number is written as `<data value="0.93125" data-of="finetune#/metrics/test/accuracy">93.1 %`, so
that whoever reads the page by a program has what the document has. What must not enter: rounding
that the eye alone would see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from surgeon.tasks.figures import SHARES, said

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NONE = Markup('<span class="none" title="not known">–</span>')


class Told:
    """A document, or an object in it, that writes its numbers."""

    def __init__(self, verb: str, whole: Mapping[str, Any], *root: str | int) -> None:
        """Take a document, its verb, and where in it the object lies."""
        self.verb, self.whole, self.root = verb, whole, root

    def at(self, *path: str | int) -> Any:
        """Return what stands at a place; None where nothing does."""
        found: Any = self.whole
        for step in (*self.root, *path):
            inside = found is not None and (
                step in found if isinstance(found, dict) else 0 <= int(step) < len(found)
            )
            found = found[step] if inside else None
        return found

    def under(self, *path: str | int) -> Told:
        """Return the object at a place."""
        return Told(self.verb, self.whole, *self.root, *path)

    def n(self, *path: str | int, form: str | None = None, like: str | None = None) -> Markup:
        """Write the number at a place.

        Args:
            path: where it lies.
            form: one of FORMS; None = by the name of the figure.
            like: that name, where it is not the last step of the path.
        """
        value = self.at(*path)
        if value is None:
            return NONE
        text = FORMS[form](value) if form else figure(like or str(path[-1]), value)
        place = "/".join(pointed(step) for step in (*self.root, *path))
        return Markup('<data value="{}" data-of="{}#/{}">{}</data>').format(
            repr(value), self.verb, place, text
        )


def pointed(step: str | int) -> str:
    """Return a step of a JSON pointer."""
    return str(step).replace("~", "~0").replace("/", "~1")


def figure(name: str, value: float) -> str:
    """Write a figure by its name: a share as per cent, F1 and other numbers as they are."""
    if name in SHARES and not name.endswith("f1"):
        return share(value)
    return number(value)


def share(value: float) -> str:
    """Write a fraction as per cent."""
    return f"{100 * value:.1f}\u00a0%"


def number(value: float) -> str:
    """Write a number with four digits; a whole one with all."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("-", "\u2212")


def size(count: float) -> str:
    """Write bytes, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f}\u00a0B" if unit == "B" else f"{count:.1f}\u00a0{unit}"
        count /= 1000
    return f"{count:.1f}\u00a0GB"


def seconds(value: float) -> str:
    """Write a time: milliseconds below one second, minutes from ten on."""
    if value < 1:
        return f"{1000 * value:.3g}\u00a0ms"
    if value < 600:
        return f"{value:.1f}\u00a0s"
    return f"{value / 60:.1f}\u00a0min"


def points(value: float) -> str:
    """Write a difference of shares."""
    return f"{100 * value:+.1f}\u00a0points".replace("-", "\u2212")


FORMS: dict[str, Callable[[Any], str]] = {
    "share": share, "number": number, "bytes": size, "seconds": seconds, "points": points,
    "off": lambda value: f"{100 * value:.1f}",
    "whole": str, "count": lambda value: f"{value:,}", "rate": lambda value: f"{value:.2g}",
    "depth": lambda value: f"@{value:.2f}", "signed": lambda value: f"{value:+.3g}",
}  # fmt: skip
"""How numbers are written, by what they are."""

BESIDE = ("samples", "method", "loss", "quality", "folds", "interval")
"""Keys of metrics that are no figure of the task's own."""


def figures(parts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the figures that are known of some part, in their order."""
    known = (
        name for one in parts.values() for name, value in one.items()
        if isinstance(value, int | float) and name not in BESIDE
    )  # fmt: skip
    return list(dict.fromkeys(known))


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the name of the figure that the task is judged by."""
    names = figures({"": metrics})
    return next((n for n in names if metrics[n] == metrics.get("quality")), (names or ["loss"])[0])


def named(figure: str) -> str:
    """Return the name of a figure as it begins a line."""
    text = said(figure)
    return text[:1].upper() + text[1:] if text != "mIoU" and text[:3] != "mAP" else text
