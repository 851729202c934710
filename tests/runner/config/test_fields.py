"""What was asked of a config.json: one record for the file, shared by all that reads it."""

from __future__ import annotations

from runner.config.fields import Fields


def unread(fields: Fields) -> list[tuple[str, str, object]]:
    return sorted(fields.asked.unread())


def test_what_nobody_asked_for_is_told_with_its_place_and_value() -> None:
    fields = Fields({"a": 1, "b": [2], "c": None})
    fields.integer("a", high=9)
    assert unread(fields) == [("config.json", "b", [2]), ("config.json", "c", None)]
    fields.ignore("b")
    assert "c" in fields
    assert unread(fields) == []


def test_what_is_asked_of_changed_values_is_asked_of_the_file() -> None:
    fields = Fields({"a": 1, "b": 2})
    changed = fields.with_values({**fields.values, "a": 5, "c": 7})
    assert changed.integer("a", high=9) == 5
    assert changed.integer("c", high=9) == 7
    assert fields.integer("a", high=9) == 1, "the file says what it said"
    assert unread(fields) == [("config.json", "b", 2)], "and what it says is told, not what was filled in"


def test_a_section_shares_the_record_of_its_file() -> None:
    fields = Fields({"a": 1, "b": 2, "text_config": {"a": 3, "b": 4}})
    section = fields.section("text_config")
    assert section is not None
    assert section.integer("a", high=9) == 3
    assert unread(fields) == [("config.json", "b", 2), ("config.json: text_config", "b", 4)]
    section.ignore("b")
    assert unread(section) == []


def test_objects_that_are_no_part_of_the_same_file_share_nothing() -> None:
    one, other = Fields({"a": 1}), Fields({"a": 1})
    one.ignore("a")
    assert unread(other) == [("config.json", "a", 1)]
