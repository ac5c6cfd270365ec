"""Data sets with an answer per place: parts of speech of words, classes of pixels.

Tags are people's; masks follow from how pictures are put together, of real ones. Random numbers are
of numpy's frozen generator, so that arrays are the same everywhere. What must not enter: downloads.
"""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SIDE = 96
"""Pixels along each side of the pictures that are put together."""
NONE = 255
"""Mask where the class is not told: the soft edge of an emoji."""
PICTURES = ("astronaut", "chelsea", "coffee", "motorcycle_left", "motorcycle_right", "ihc")
TEXTURES = ("brick", "grass", "gravel")
PARTS = {
    "PROPN": "np nps",
    "NOUN": "nn nns nr nrs",
    "VERB": "vb vbd vbg vbn vbz be bed bedz beg bem ben ber bez do dod doz hv hvd hvg hvn hvz md",
    "ADJ": "jj jjr jjs jjt",
    "ADV": "rb rbr rbt rn ql qlp wrb wql *",
    "ADP": "in",
    "PRT": "to rp",
    "DET": "at dt dti dts dtx abl abn abx ap wdt",
    "CONJ": "cc cs",
    "PRON": "pn pp ppl ppls ppo pps ppss wp wpo wps ex",
    "NUM": "cd od",
    "X": "uh fw nil",
}
"""Universal parts of speech (Petrov et al., arXiv 1104.2086, proper nouns apart): Brown's tags."""
_PART = {tag: part for part, tags in PARTS.items() for tag in tags.split()}


def read_brown(archive: Path, each: int, words: range) -> Iterator[tuple[str, str]]:
    """Give sentences of the tagged Brown corpus: words, parts of speech, both joined by blanks.

    Args:
        archive: the package.
        each: sentences taken of each of the 500 texts, the first.
        words: how many a sentence may have.
    """
    with tarfile.open(archive, "r:gz") as package:
        members = [one for one in package if one.name[-4:-2].isalpha() and one.name[-2:].isdigit()]
        for member in sorted(members, key=lambda one: one.name):
            stream = package.extractfile(member)
            taken = 0
            for line in (stream.read() if stream else b"").decode("ascii", "replace").splitlines():
                pairs = [item.rpartition("/") for item in line.split()]
                if taken < each and len(pairs) in words and all(word for word, _, _ in pairs):
                    taken += 1
                    parts = [_part_of(tag) for *_, tag in pairs]
                    yield " ".join(word for word, _, _ in pairs), " ".join(parts)


def _part_of(tag: str) -> str:
    """Return the universal part of speech of a tag: `nn-tl`, `ppss+bez` or `md*` is its first."""
    first = tag.lower().split("+")[0].split("-")[0]
    plain = first.rstrip("$") if first == "*" else first.rstrip("*$")
    return _PART.get(plain, ".")


def overlay(
    emoji: Sequence[tuple[np.ndarray, int]], pictures: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Lay each emoji on a piece of a picture: RGB and masks, 0 = picture, 1 … = class of emoji."""
    random = np.random.RandomState(0)
    images = np.empty((len(emoji), SIDE, SIDE, 3), np.uint8)
    masks = np.zeros((len(emoji), SIDE, SIDE), np.uint8)
    for row, (pixels, code) in enumerate(emoji):
        images[row] = _piece(pictures[random.randint(len(pictures))], random)
        size = len(pixels)
        top, left = random.randint(0, SIDE - size + 1, 2)
        place = (row, slice(top, top + size), slice(left, left + size))
        colour, opacity = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
        images[place] = (colour * opacity + images[place] * (255 - opacity) + 127) // 255
        seen = opacity[..., 0]
        masks[place] = np.where(seen >= 192, code + 1, np.where(seen > 32, NONE, 0))
    return images, masks


def mosaic(
    textures: Sequence[np.ndarray], number: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fill the cells of random points with pieces of textures: grey pictures and masks."""
    random = np.random.RandomState(seed)
    images = np.empty((number, SIDE, SIDE), np.uint8)
    masks = np.empty((number, SIDE, SIDE), np.uint8)
    grid = np.indices((SIDE, SIDE)).reshape(2, 1, -1)
    for row in range(number):
        points = random.randint(0, SIDE, (2, 5, 1))
        nearest = ((grid - points) ** 2).sum(0).argmin(0).reshape(SIDE, SIDE)
        masks[row] = random.randint(0, len(textures), 5)[nearest]
        pieces = np.stack([_piece(texture, random) for texture in textures])
        images[row] = np.take_along_axis(pieces, masks[row][None].astype(np.int64), 0)[0]
    return images, masks


def _piece(picture: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    top, left = (random.randint(0, side - SIDE + 1) for side in picture.shape[:2])
    return picture[top : top + SIDE, left : left + SIDE]


def read_emoji(archive: Path, vendor: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return RGBA uint8 [64, 64, 4] of emoji by file name, those that the vendor has drawn."""
    from PIL import Image

    folder, found = f"package/img/{vendor}/64/", {}
    wanted = {folder + name: name for name in names}
    with tarfile.open(archive, "r:gz") as package:
        for member in package:
            stream = package.extractfile(member) if member.name in wanted else None
            if stream is not None:
                with Image.open(io.BytesIO(stream.read())) as picture:
                    found[wanted[member.name]] = np.asarray(picture.convert("RGBA"))
    return found


def read_table(archive: Path) -> list[dict[str, str]]:
    """Return the rows of the table of emoji, without skin tones."""
    import json

    with tarfile.open(archive, "r:gz") as package:
        stream = package.extractfile("package/emoji.json")
        rows = json.loads(stream.read()) if stream else []
    return [row for row in rows if row["category"] != "Component"]


def read_pictures(folder: Path, names: Sequence[str], mode: str) -> list[np.ndarray]:
    """Return pictures of scikit-image as uint8."""
    from PIL import Image

    found = []
    for name in names:
        with Image.open(folder / f"skimage/data/{name}.png") as picture:
            found.append(np.asarray(picture.convert(mode)))
    return found
