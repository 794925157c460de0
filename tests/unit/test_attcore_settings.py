"""The strict reader of configuration files: each kind of value on each side, and every mistake at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopseal.errors import InvalidError
from hopseal.settings import Section, Settings, SettingsInvalidError
from hopseal.settings_file import load_settings, parse_settings, parse_settings_list
from hopseal.yaml_nodes import MAX_SETTINGS_BYTES


def read(text: str) -> tuple[Settings, Section]:
    return parse_settings("f.yaml", text.encode())


def mistakes_of(settings: Settings) -> list[str]:
    with pytest.raises(SettingsInvalidError) as raised:
        settings.finish()
    return [str(each) for each in raised.value.mistakes]


def even(text: str) -> int:
    if not text.isdigit() or int(text) % 2:
        raise InvalidError("odd", f"{text} is not even", remedy="add one")
    return int(text)


GOOD = {
    "text": ("v: some text", lambda s: s.text("v"), "some text"),
    "text in quotes": ("v: '5'", lambda s: s.text("v"), "5"),
    "text left out": ("o: x", lambda s: s.text("v", default="d"), "d"),
    "path": ("v: /etc/x", lambda s: s.path("v"), Path("/etc/x")),
    "choice": ("v: b", lambda s: s.choice("v", ("a", "b")), "b"),
    "choice left out": ("o: x", lambda s: s.choice("v", ("a", "b"), default="b"), "b"),
    "whole number": ("v: 5", lambda s: s.integer("v", minimum=5, maximum=5), 5),
    "negative number": ("v: -5", lambda s: s.integer("v", minimum=-5, maximum=5), -5),
    "number": ("v: 1.5", lambda s: s.number("v", minimum=1, maximum=2), 1.5),
    "number left out": ("o: x", lambda s: s.number("v", default=3, minimum=1, maximum=9), 3),
    "flag": ("v: true", lambda s: s.flag("v", default=False), True),
    "flag left out": ("o: x", lambda s: s.flag("v", default=True), True),
    "texts": ("v: [a, b]", lambda s: s.texts("v"), ("a", "b")),
    "texts left out": ("o: x", lambda s: s.texts("v"), ()),
    "pairs": ("v: {b: '2', a: '1'}", lambda s: s.pairs("v"), (("a", "1"), ("b", "2"))),
    "parsed": ("v: '4'", lambda s: s.parsed("v", even, 0), 4),
    "parsed left out": ("o: x", lambda s: s.parsed("v", even, 0, default=""), 0),
    "section": ("v: {x: y}", lambda s: s.section("v").text("x"), "y"),
    "section left out": ("o: x", lambda s: s.section("v").is_present, False),
    "list of sections": ("v: [{x: a}, {x: b}]", lambda s: [each.text("x") for each in s.section_list("v")], ["a", "b"]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_value_is_read(name):
    text, get, expected = GOOD[name]
    settings, section = read(text)
    section.text("o", default="")
    assert get(section) == expected
    settings.finish()


BAD = {
    "text that is a number": ("v: 5", lambda s: s.text("v"), "must be text"),
    "text that is empty": ("v: ''", lambda s: s.text("v"), "must be text"),
    "text that is a list": ("v: [a]", lambda s: s.text("v"), "must be text"),
    "text that is null": ("v: null", lambda s: s.text("v"), "must be text"),
    "text that is a flag": ("v: yes", lambda s: s.text("v"), "must be text"),
    "text that is missing": ("o: x", lambda s: s.text("v"), "v: missing"),
    "a relative path": ("v: etc/x", lambda s: s.path("v"), "not an absolute path"),
    "a path that climbs": ("v: /etc/../x", lambda s: s.path("v"), "not an absolute path"),
    "another choice": ("v: abb", lambda s: s.choice("v", ("ab", "c")), "(did you mean ab?)"),
    "a whole number in quotes": ("v: '5'", lambda s: s.integer("v", minimum=1, maximum=9), "must be a whole number"),
    "a fraction": ("v: 5.5", lambda s: s.integer("v", minimum=1, maximum=9), "must be a whole number"),
    "a number in octal": ("v: 0o17", lambda s: s.integer("v", minimum=1, maximum=99), "must be a whole number"),
    "no choice at all": ("v: x", lambda s: s.choice("v", ("ab", "cd")), "none of ab, cd (write one of them)"),
    "a long number": ("v: " + 5000 * "9", lambda s: s.integer("v", minimum=1, maximum=9), "must be a whole number"),
    "a number below": ("v: 0", lambda s: s.integer("v", minimum=1, maximum=9), "not between 1 and 9"),
    "a number above": ("v: 10", lambda s: s.integer("v", minimum=1, maximum=9), "not between 1 and 9"),
    "infinity": ("v: .inf", lambda s: s.number("v", minimum=1, maximum=9), "must be a number"),
    "not a number": ("v: .nan", lambda s: s.number("v", minimum=1, maximum=9), "must be a number"),
    "an old word for a flag": ("v: yes", lambda s: s.flag("v", default=False), "must be true or false"),
    "a text for a list": ("v: a", lambda s: s.texts("v"), "must be a list"),
    "a number in a list": ("v: [5]", lambda s: s.texts("v"), "every entry must be text"),
    "an entry twice": ("v: [a, a]", lambda s: s.texts("v"), "listed twice"),
    "a text for a mapping": ("v: a", lambda s: s.section("v"), "must be a mapping"),
    "a text in a list of mappings": ("v: [a]", lambda s: s.section_list("v"), "must be a mapping"),
    "a required section that is missing": ("o: x", lambda s: s.section("v", required=True), "v: missing"),
    "what its parser refuses": ("v: '5'", lambda s: s.parsed("v", even, 0), "5 is not even (add one)"),
    "a key that is a number": ("5: a", lambda s: s.flag("v", default=True), "every key must be text"),
    "an unknown key": ("vv: a", lambda s: s.text("v", default="d"), "unknown key (did you mean v?)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_one_mistake_and_the_getter_still_answers(name):
    text, get, message = BAD[name]
    settings, section = read(text)
    section.text("o", default="")
    get(section)
    found = mistakes_of(settings)
    assert len(found) == 1
    assert message in found[0]


def test_mistakes_come_in_the_order_of_their_lines_each_once():
    settings, section = read("b: 1\na: 1\n")
    for key in ("a", "b", "a"):
        section.text(key)
    assert [each.split(":")[1] for each in mistakes_of(settings)] == ["1", "2"]


def test_mistakes_of_nested_values_name_the_whole_path():
    settings, section = read("a:\n  - b:\n      c: 5\n")
    section.section_list("a")[0].section("b").text("c")
    assert mistakes_of(settings) == ["f.yaml:3: a[0].b.c: must be text (put it in quotes)"]


def test_a_list_file_gives_a_section_for_each_entry():
    settings, sections = parse_settings_list("f.yaml", b"- {a: x}\n- {a: y}\n")
    assert [each.text("a") for each in sections] == ["x", "y"]
    settings.finish()
    assert parse_settings_list("f.yaml", b"")[1] == ()


@pytest.mark.parametrize("data", [b"a: b", b"- 5", b"[", b"\xff"])
def test_a_list_file_that_is_none_is_a_mistake(data):
    with pytest.raises(SettingsInvalidError):
        parse_settings_list("f.yaml", data)[0].finish()


def test_a_file_may_be_as_large_as_the_cap_and_no_larger(tmp_path: Path):
    text = b"v: a\n#"
    (tmp_path / "f.yaml").write_bytes(text + b"x" * (MAX_SETTINGS_BYTES - len(text)))
    assert load_settings(tmp_path / "f.yaml")[1].text("v") == "a"
    (tmp_path / "f.yaml").write_bytes(text + b"x" * (MAX_SETTINGS_BYTES - len(text) + 1))
    with pytest.raises(SettingsInvalidError) as raised:
        load_settings(tmp_path / "f.yaml")
    assert "larger than" in str(raised.value)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_are_mistakes_and_nothing_else(data: bytes):
    with suppress(SettingsInvalidError):
        settings, section = parse_settings("f.yaml", data)
        section.text("v", default="d")
        section.section("w")
        section.section_list("x")
        settings.finish()
