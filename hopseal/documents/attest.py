"""Reading what a process must be: one ``attest`` block, of a document or of a daemon's configuration.

Owns: the block's keys and what makes one block sensible. Does not own: comparing blocks with each
other (``hopseal.documents.checks``) or with a process (the attestor).
"""

from __future__ import annotations

from math import prod

from hopseal.documents.grammar import parse_digest, parse_label_name, parse_path, parse_text, parse_unit
from hopseal.documents.model import AttestBlock, ConfigRule
from hopseal.documents.values import parsed_texts
from hopseal.errors import HopsealError
from hopseal.selectors import Posture
from hopseal.settings import Section

MAX_ID = 2**32 - 2  # the last uid is -1, which no process has
MAX_COMBINATIONS = 256  # each combination of any-of digests is one registration entry


def read_attest(section: Section) -> AttestBlock:
    """The block in ``section``; mistakes are recorded there."""
    block = AttestBlock(
        image=parsed_texts(section, "image", parse_digest),
        exe=parsed_texts(section, "exe", parse_digest),
        config=_read_config(section),
        posture=_read_posture(section),
        uid=_read_id(section, "uid"),
        gid=_read_id(section, "gid"),
        unit=section.parsed("unit", parse_unit, None, default="") if "unit" in section else None,
        container_labels=_read_labels(section),
        unsafe_uid_only=section.flag("unsafeUidOnly", default=False),
        children=parsed_texts(section, "children", parse_digest),
        forbid_static_secrets=section.flag("forbidStaticSecrets", default=False),
    )
    _check(section, block)
    return block


def _read_posture(section: Section) -> Posture | None:
    if "posture" not in section:
        return None
    return Posture(section.choice("posture", tuple(Posture)))


def _read_id(section: Section, key: str) -> int | None:
    return section.integer(key, minimum=0, maximum=MAX_ID) if key in section else None


def _read_labels(section: Section) -> tuple[tuple[str, str], ...]:
    labels = section.section("containerLabels")
    for name in sorted(labels.keys()):
        try:
            parse_label_name(name)
        except HopsealError as error:
            labels.mistake(name, error.message, error.remedy)
    return tuple((name, labels.parsed(name, parse_text, "")) for name in sorted(labels.keys()))


def _read_config(section: Section) -> ConfigRule | None:
    config = section.section("config")
    if not config.is_present:
        return None
    files = tuple(sorted(parsed_texts(config, "files", parse_path), key=str.encode))
    digests = parsed_texts(config, "digest", parse_digest)
    if config.is_empty("files"):
        config.mistake("files", "missing", "list the absolute paths of the files that were approved")
    if config.is_empty("digest"):
        config.mistake("digest", "missing", "hopseal agents approve measures and writes it")
    for path in files:
        inside = next((other for other in files if path.startswith(other + "/")), None)
        if inside is not None:
            config.mistake("files", f"{path} is reached twice, it is in {inside}", "name it once")
    return ConfigRule(files, digests)


def _check(section: Section, block: AttestBlock) -> None:
    if not section.is_present:
        return
    digests = [block.image, block.exe, block.config.digests if block.config else ()]
    if prod(max(1, len(each)) for each in digests) > MAX_COMBINATIONS:
        section.report("more than 256 combinations of digests", "hopseal agents approve --prune removes old ones")
    # Judged by the keys, so that a mistake inside one of them is not reported a second time.
    keys = section.keys()
    if block.forbid_static_secrets and not keys & {"image", "config"}:
        section.mistake(
            "forbidStaticSecrets",
            "there is nothing to look for secrets in",
            "name an image, whose container's environment is looked at, or config files, or both",
        )
    if keys & {"image", "exe", "config", "unit", "containerLabels"}:
        return
    if "uid" not in keys:
        section.report("attests nothing that tells this process from others", "name at least one of image, exe, unit")
    elif not block.unsafe_uid_only:
        section.report(
            "attests nothing but a uid, which every program of that user has",
            "name exe, image or unit too, or say unsafeUidOnly: true",
        )
