"""docs/limits.md against the code: every limit, deadline, code and reason, with its default or status."""

from __future__ import annotations

import re
from pathlib import Path

from broker.bounds_config import LIMITS, TIMEOUTS_MS
from broker.config import load_config
from broker_parts import write_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "limits.md"
SOURCE = ROOT / "broker" / "dataplane" / "src"


def rows(heading: str) -> list[list[str]]:
    section = re.split(rf"\n##+ {heading}", PAGE.read_text())[1].partition("\n#")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def named(cell: str) -> list[str]:
    return re.findall(r"`([a-z0-9_]+)`", cell)


def source(*names: str) -> str:
    """Rust without its tests."""
    paths = [SOURCE / name for name in names] or sorted(SOURCE.rglob("*.rs"))
    return "\n".join(path.read_text().partition("#[cfg(test)]")[0] for path in paths if "_tests" not in path.name)


def rust_defaults(name: str) -> dict[str, int]:
    body = re.search(rf"impl Default for {name} \{{.*?Self \{{(.*?)\n        \}}", source("bounds.rs"), re.DOTALL)
    assert body is not None
    pairs = re.findall(r"(\w+): ([\d_]+)(?: << (\d+))?,", body[1])
    return {key: int(number) << int(shift or 0) for key, number, shift in pairs}


def statuses() -> dict[str, int]:
    """Every code with the status that ``problem.rs`` gives it."""
    body = source("problem.rs").partition("fn status_of")[2].partition("\n}")[0]
    known = {
        "BAD_REQUEST": 400,
        "FORBIDDEN": 403,
        "NOT_FOUND": 404,
        "REQUEST_TIMEOUT": 408,
        "CONFLICT": 409,
        "PAYLOAD_TOO_LARGE": 413,
        "URI_TOO_LONG": 414,
        "REQUEST_HEADER_FIELDS_TOO_LARGE": 431,
        "NOT_IMPLEMENTED": 501,
        "BAD_GATEWAY": 502,
        "SERVICE_UNAVAILABLE": 503,
        "GATEWAY_TIMEOUT": 504,
    }
    arms = re.findall(r'((?:"[a-z0-9_]+"\s*\|?\s*)+)=>\s*\{?\s*StatusCode::(?:from_u16\((\d+)\)|(\w+))', body)
    return {code: int(number or known.get(name, 0)) for codes, number, name in arms for code in named_in_rust(codes)}


def named_in_rust(text: str) -> list[str]:
    return re.findall(r'"([a-z0-9_]+)"', text)


def test_every_limit_is_on_the_page_with_its_default(tmp_path: Path) -> None:
    told = {named(row[0])[0]: int(row[1]) for row in rows("Limits")}
    config = load_config(write_config(tmp_path))
    of_python = {key: getattr(config.limits, key) for key in told if hasattr(config.limits, key)}
    assert told == of_python | dict(config.bounds)
    assert set(told) | {"streams"} == {*LIMITS, *config.limits.__dataclass_fields__}


def test_every_deadline_is_on_the_page_with_its_default() -> None:
    told = {named(row[0])[0]: int(row[1]) for row in rows("Deadlines")}
    assert told == {name: bound.default for name, bound in TIMEOUTS_MS.items()} == rust_defaults("Timeouts")


def test_the_configuration_and_the_data_plane_have_the_same_defaults() -> None:
    of_rust = rust_defaults("Limits")
    assert {name: bound.default for name, bound in LIMITS.items()}.items() <= of_rust.items()
    for bound in (*LIMITS.values(), *TIMEOUTS_MS.values()):
        assert bound.minimum <= bound.default <= bound.maximum


def test_every_code_is_on_the_page_with_its_status() -> None:
    told = {named(row[0])[0]: int(row[1]) for row in rows("Codes")}
    assert told == {**statuses(), "internal": 500}
    assert len(rows("Codes")) == len(told)


def test_every_code_in_the_source_has_a_status() -> None:
    used = set(re.findall(r'(?:Refusal|BodyFailed)::new\(\s*"([a-z0-9_]+)"', source()))
    assert len(used) > 40
    of_streams = {named(row[0])[0] for row in rows("What a stream breaks off with")}
    assert used - set(statuses()) == {"internal", *of_streams}


def test_every_remedy_is_said() -> None:
    for row in rows("Codes"):
        assert len(row) == 4
        assert all(row), row


def test_every_reason_of_a_connections_end_is_on_the_page() -> None:
    told = {(why, row[1]) for row in rows("Connections") for why in named(row[0])}
    text = source("inbound.rs", "h2_stream.rs", "handshakes.rs", "server.rs", "unix_server.rs")
    cut = set(re.findall(r'count_cut_connection\("\w+", "([a-z0-9_]+)"', text))
    cut |= set(re.findall(r'"(h2_[a-z]+)"', text))
    refused = set(re.findall(r'count_refused_connection\("\w+", "([a-z0-9_]+)"', text))
    refused |= set(re.findall(r'(?:ok_or\(|map_err\(\|_\| )"([a-z0-9_]+)"\)', source("inbound.rs", "handshakes.rs")))
    refused |= set(re.findall(r'=> "([a-z_]+)",', source("unix_server.rs")))
    assert told == {(why, "cut") for why in cut} | {(why, "refused") for why in refused}
