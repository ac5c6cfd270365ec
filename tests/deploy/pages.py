"""The programs on the pages of docs/deploy are those that `export --code` writes.

`python tests/deploy/pages.py --write` puts them there; tests/deploy/test_deploy_pages.py finds them
stale.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from surgeon.clients import LANGUAGES, Facts, program
from surgeon.records import Preprocess, TensorInfo

PAGES = Path(__file__).resolve().parents[2] / "docs" / "deploy"
RULE = {
    "size": (224, 224), "scale": 1 / 255, "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225), "draft": False,
}  # fmt: skip
NAMED = {
    "file": "tuned.onnx", "task": "classification", "labels": ("daisy", "rose", "tulip"),
    "outputs": (TensorInfo("logits", "float", ("N", 3), 0),), "output": "logits",
}  # fmt: skip
PLAIN = Facts(
    inputs=(TensorInfo("input", "float", ("N", 3, 224, 224), 0),), rule=Preprocess(**RULE), **NAMED
)
EMBEDDED = Facts(
    inputs=(TensorInfo("input", "uint8", ("N", "H", "W", 3), 0),), embedded=True,
    rule=Preprocess(**RULE, embedded=True), **NAMED,
)  # fmt: skip
TEXTS = Facts(
    inputs=(TensorInfo("input_ids", "int64", ("N", "L"), 0),), medium="texts", tokenizer="{}",
    roles={
        "ids": TensorInfo("input_ids", "int64", ("N", "L"), 0),
        "mask": TensorInfo("attention_mask", "int64", ("N", "L"), 0),
    },
    **NAMED,
)  # fmt: skip
FACTS = {"": PLAIN, " embedded": EMBEDDED, " texts": TEXTS}
BLOCK = re.compile(r"(<!-- program: (\w+)( \w+)? -->\n```\w+\n).*?(```\n<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return a page with its programs as they are written today."""

    def block(found: re.Match[str]) -> str:
        language, form = LANGUAGES[found[2]], found[3] or ""
        facts = FACTS[form] if language.bare else EMBEDDED
        code = program(facts, language, f"tuned{language.ending}", "tuned.tokenizer.json")
        return f"{found[1]}{code}{found[4]}"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in sorted(PAGES.glob("*.md")):
        made = filled(page.read_text("utf-8"))
        if "--write" in sys.argv:
            page.write_text(made, "utf-8")
        elif made != page.read_text("utf-8"):
            print(f"stale: {page}")
