"""A witness's configuration, its bounds, and its commands."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hopseal.cli.main import cli
from hopseal.errors import InvalidError
from hopseal.log.note import parse_vkey
from hopseal.log.signers import log_signer
from hopseal.settings import SettingsInvalidError
from hopseal.witness.admission import Admission
from hopseal.witness.config import Listen, WitnessConfig, WitnessLimits, load_config, parse_listen
from tlog_parts import LOG_KEY, ORIGIN, W1, ed25519

LEAST = f"name: w.example/1\nstate_dir: /state\nlogs:\n  - key: {LOG_KEY.key}\n"
LIMITS = WitnessLimits(connections=3, connections_per_peer=2, requests_per_s=5, request_s=1.0, idle_s=1.0)


def load(tmp_path: Path, text: str) -> WitnessConfig:
    (tmp_path / "witness.yaml").write_text(text)
    return load_config(tmp_path / "witness.yaml")


def mistakes(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsInvalidError) as caught:
        load(tmp_path, text)
    return caught.value.message


def test_the_least_configuration_has_a_default_for_everything_else(tmp_path: Path) -> None:
    config = load(tmp_path, LEAST)
    assert (config.name, str(config.listen), config.algorithms) == (
        "w.example/1",
        "127.0.0.1:7380",
        ("ed25519", "ml-dsa-44"),
    )
    assert config.logs == {ORIGIN: (LOG_KEY.key,)}


def test_a_log_may_have_two_keys_and_an_origin_that_is_not_their_name(tmp_path: Path) -> None:
    second = log_signer("another.example/name", ed25519(7))
    config = load(tmp_path, f"{LEAST}  - key: {second.key}\n    origin: {ORIGIN}\n")
    assert config.logs == {ORIGIN: (LOG_KEY.key, second.key)}


def test_every_key_of_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        f"{LEAST}listen: '[::1]:0'\nalgorithms: [ml-dsa-44]\nlimits: {{connections: 1, connections_per_peer: 1, "
        "requests_per_s: 1, request_s: 0.5, idle_s: 0.5}\n",
    )
    assert (config.listen, config.algorithms) == (Listen("::1", 0), ("ml-dsa-44",))
    assert config.limits == WitnessLimits(1, 1, 1, 0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LEAST.replace("w.example/1", "w example"), "cannot be the name"),
        (LEAST.replace("w.example/1", "w+1"), "cannot be the name"),
        (LEAST.replace("/state", "state"), "absolute"),
        (LEAST.split("logs:", maxsplit=1)[0], "no log"),
        (LEAST.split("  - key", maxsplit=1)[0] + "  []\n", "no log"),
        (LEAST.replace(str(LOG_KEY.key), "wrong"), "verifier key"),
        (LEAST.replace(str(LOG_KEY.key), str(W1.key)), "none of a log"),
        (f"{LEAST}  - key: {LOG_KEY.key}\n", "twice"),
        (f"{LEAST}algorithms: [rsa]\n", "none of"),
        (f"{LEAST}listen: localhost:1\n", "address:port"),
        (f"{LEAST}unknown: 1\n", "unknown key"),
        (f"{LEAST}limits: {{connections: 0}}\n", "between"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in mistakes(tmp_path, text)


@pytest.mark.parametrize(("text", "listen"), [("0.0.0.0:0", "0.0.0.0:0"), ("[::]:65535", "[::]:65535")])
def test_addresses_that_can_be_listened_on(text: str, listen: str) -> None:
    assert str(parse_listen(text)) == listen


@pytest.mark.parametrize(
    "text", ["", ":", "1", ":1", "host:1", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:01", "::1:80", "[1.2.3.4]:1"]
)
def test_addresses_that_cannot_be_listened_on(text: str) -> None:
    with pytest.raises(InvalidError):
        parse_listen(text)


def test_connections_are_bounded_for_each_address_and_in_all() -> None:
    admission = Admission(LIMITS)
    assert admission.connect("a")
    assert admission.connect("a")
    assert not admission.connect("a")
    assert admission.connect("b")
    assert not admission.connect("c")
    admission.disconnect("a")
    assert admission.connect("c")
    for peer in ("a", "b", "c"):
        admission.disconnect(peer)
    assert not admission._connections


def test_requests_of_one_address_are_bounded_over_time_and_do_not_touch_those_of_another() -> None:
    admission = Admission(LIMITS)
    assert [admission.request("a", 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert admission.request("b", 0.0)
    assert not admission.request("a", 0.1)
    assert admission.request("a", 0.21)
    assert [admission.request("a", 100.0) for _ in range(11)] == [True] * 10 + [False]


def test_a_flood_of_addresses_is_forgotten_oldest_first() -> None:
    admission = Admission(LIMITS)
    for number in range(10_000):
        assert admission.request(f"peer {number}", 0.0)
    assert len(admission._tokens) == 4_096
    assert "peer 9999" in admission._tokens


def hopseal(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["audit", "witness", *map(str, arguments)])


def init(tmp_path: Path, *arguments: object) -> Result:
    return hopseal(
        "init", "--name", 'w.example/"1\\', "--log", LOG_KEY.key, "--state", tmp_path / "state", "--config",
        tmp_path / "etc" / "witness.yaml", *arguments,
    )  # fmt: skip


def test_init_writes_a_configuration_makes_keys_and_prints_them(tmp_path: Path) -> None:
    result = init(tmp_path)
    assert result.exit_code == 0, result.output
    printed = [parse_vkey(line) for line in result.output.splitlines() if "+" in line]
    assert [key.algorithm for key in printed] == [0x04, 0x06]
    assert load_config(tmp_path / "etc" / "witness.yaml").name == 'w.example/"1\\'
    shown = hopseal("key", "--config", tmp_path / "etc" / "witness.yaml", "--json")
    assert json.loads(shown.output)["keys"] == [str(key) for key in printed]
    plain = hopseal("key", "--config", tmp_path / "etc" / "witness.yaml")
    assert plain.output.split() == [str(key) for key in printed]


def test_init_makes_only_the_keys_that_are_asked_for(tmp_path: Path) -> None:
    result = init(tmp_path, "--algorithm", "ed25519")
    assert [parse_vkey(line).algorithm for line in result.output.splitlines() if "+" in line] == [0x04]


def test_init_never_touches_a_configuration_that_is_there(tmp_path: Path) -> None:
    init(tmp_path)
    before = (tmp_path / "etc" / "witness.yaml").read_bytes()
    result = init(tmp_path, "--listen", "127.0.0.1:1")
    assert (result.exit_code, "witness_config_exists" in result.stderr) == (2, True)
    assert (tmp_path / "etc" / "witness.yaml").read_bytes() == before
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["witness.yaml"]


def test_init_with_a_mistake_writes_nothing(tmp_path: Path) -> None:
    result = init(tmp_path, "--listen", "nowhere")
    assert (result.exit_code, "config_invalid" in result.stderr) == (2, True)
    assert list((tmp_path / "etc").iterdir()) == []
    assert not (tmp_path / "state").exists()


def test_init_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("")
    result = init(tmp_path)
    assert (result.exit_code, "witness_config_unwritable" in result.stderr) == (3, True)


def test_run_with_check_only_reads(tmp_path: Path) -> None:
    init(tmp_path)
    result = hopseal("run", "--check", "--config", tmp_path / "etc" / "witness.yaml")
    assert (result.exit_code, "no mistakes" in result.output) == (0, True)


def test_run_without_aiohttp_names_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: object, **keywords: object) -> object:
        if name == "hopseal.witness.service":
            raise ModuleNotFoundError("No module named 'aiohttp'", name="aiohttp")
        return real(name, *arguments, **keywords)  # type: ignore[arg-type]

    init(tmp_path)
    monkeypatch.setattr(builtins, "__import__", without)
    result = hopseal("run", "--config", tmp_path / "etc" / "witness.yaml")
    assert result.exit_code == 3
    assert "pip install 'hopseal[witness]'" in result.stderr
