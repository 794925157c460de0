"""A configuration file as sections to ask for values.

Owns: what a file as a whole must be. Does not own: its values (``hopseal.settings``).
"""

from __future__ import annotations

from pathlib import Path

import yaml

from hopseal.errors import UnavailableError
from hopseal.settings import Section, Settings
from hopseal.yaml_nodes import MAX_SETTINGS_BYTES, mapping_of, node_line, read_node


def parse_settings(file: str, data: bytes) -> tuple[Settings, Section]:
    """The file's bookkeeping and its top section.

    Raises:
        SettingsInvalidError: the bytes are too many, no UTF-8, no YAML, or no mapping.
    """
    settings = Settings(file)
    node = read_node(data, settings.add)
    if node is None and not settings.mistakes:
        settings.add(1, "empty", "see docs for the keys it needs")
    if node is None:
        settings.finish()
    return settings, Section(settings, "", 1, mapping_of(node, "", settings.add))


def parse_settings_list(file: str, data: bytes) -> tuple[Settings, tuple[Section, ...]]:
    """A file that is a list of mappings: its bookkeeping and one section for each; an empty file is an empty list.

    Raises:
        SettingsInvalidError: the bytes are too many, no UTF-8, or no YAML.
    """
    settings = Settings(file)
    node = read_node(data, settings.add)
    if node is None:
        if settings.mistakes:
            settings.finish()
        return settings, ()
    if not isinstance(node, yaml.SequenceNode):
        settings.add(node_line(node), "the file: must be a list of mappings")
        return settings, ()
    return settings, tuple(
        Section(settings, f"[{index}].", node_line(each), mapping_of(each, f"[{index}].", settings.add))
        for index, each in enumerate(node.value)
    )


def load_settings(path: Path) -> tuple[Settings, Section]:
    """:func:`parse_settings` on a file.

    Raises:
        UnavailableError: the file cannot be read (``config_unreadable``).
        SettingsInvalidError: see :func:`parse_settings`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
    except OSError as error:
        raise UnavailableError(
            "config_unreadable",
            f"{path}: {error.strerror}",
            remedy="name a readable file with --config; working examples are in deploy/systemd",
        ) from error
    return parse_settings(str(path), data)
