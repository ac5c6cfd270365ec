"""The fences and the picture of the rooms are those of the one list."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rooms


def test_the_fences_are_made_of_the_list():
    assert rooms.FENCES.read_text("utf-8") == rooms.fences(), "python tests/rooms.py --write"


def test_the_page_shows_the_list():
    text = rooms.PAGE.read_text("utf-8")
    assert rooms.page(text) == text, "python tests/rooms.py --write"


def test_every_room_is_named_and_none_that_is_not_there():
    house = rooms.HERE / "surgeon"
    there = {path.stem for path in house.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {room.name for room in rooms.ROOMS} == there - {"__init__", "__pycache__"}
