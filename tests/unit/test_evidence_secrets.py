"""Static secrets: what each rule knows, what it leaves alone, and that no value gets out."""

from __future__ import annotations

import hashlib
import json
import os
import random
import string
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attestor.admin import measurement_json
from attestor.collectors.config import ConfigLimits, measure_config
from attestor.collectors.secret_rules import LONGEST_MATCH_BYTES, RULES, match_rules, match_variable
from attestor.collectors.secrets import MAX_FOUND, SecretScans, find_in_environment
from attestor.digests import DigestCache, FileUnstable
from attestor.engine.errors import EngineInvalid
from attestor.engine.inspect import parse_container
from attestor.explain import item_json
from attestor.facts import ConfigFacts, FoundSecret, PostureFacts, Unreadable
from attestor.items import Item, Outcome, measure_items
from attestor_values import FILES, ROOT, UNREADABLE, container_facts, evidence
from hopseal.documents.model import AttestBlock, ConfigRule
from hopseal.selectors import Posture

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"


def run_of(alphabet: str, length: int) -> str:
    return "".join(random.Random(length).choices(alphabet, k=length))


# Put together here, so that no file of this repository holds anything that looks like a credential.
EXAMPLES = {
    "age-secret-key": "AGE-SECRET-" + "KEY-1" + run_of(string.ascii_uppercase, 58),
    "anthropic-api-key": "sk-" + "ant-api03-" + run_of(ALNUM, 95),
    "aws-access-key-id": "AK" + "IA" + run_of("ABCDEFGH234567", 16),
    "azure-storage-key": "Account" + "Key=" + run_of(ALNUM + "+/", 86) + "==",
    "databricks-token": "da" + "pi" + run_of(HEX, 32),
    "digitalocean-token": "dop" + "_v1_" + run_of(HEX, 64),
    "docker-hub-token": "dckr" + "_pat_" + run_of(ALNUM, 27),
    "github-token": "gh" + "p_" + run_of(ALNUM, 36),
    "github-fine-grained-token": "github" + "_pat_" + run_of(ALNUM, 82),
    "gitlab-token": "gl" + "pat-" + run_of(ALNUM, 20),
    "google-api-key": "AI" + "za" + run_of(ALNUM, 35),
    "google-oauth-client-secret": "GOC" + "SPX-" + run_of(ALNUM, 28),
    "hugging-face-token": "h" + "f_" + run_of(ALNUM, 34),
    "jwt": "ey" + "J" + run_of(ALNUM, 20) + ".ey" + "J" + run_of(ALNUM, 40) + "." + run_of(ALNUM, 43),
    "npm-token": "np" + "m_" + run_of(ALNUM, 36),
    "openai-api-key": "sk-" + "proj-" + run_of(ALNUM, 120),
    "openai-legacy-api-key": "sk-" + run_of(ALNUM, 20) + "T3Blbk" + "FJ" + run_of(ALNUM, 20),
    "private-key": "-----BEGIN EC PRIVATE " + "KEY-----",
    "pypi-token": "pypi-" + "AgE" + run_of(ALNUM, 150),
    "sendgrid-api-key": "S" + "G." + run_of(ALNUM, 22) + "." + run_of(ALNUM, 43),
    "slack-token": "xo" + "xb-" + run_of(ALNUM, 40),
    "slack-app-token": "xa" + "pp-1-" + run_of(ALNUM, 40),
    "slack-webhook": "https://hooks.slack" + ".com/services/T0123456/B0123456/" + run_of(ALNUM, 24),
    "stripe-api-key": "sk_" + "live_" + run_of(ALNUM, 24),
    "telegram-bot-token": "123456789" + ":AA" + run_of(ALNUM, 33),
    "twilio-api-key": "S" + "K" + run_of(HEX, 32),
    "vault-token": "hv" + "s." + run_of(ALNUM, 90),
}


def test_every_rule_has_an_example() -> None:
    assert {rule.name for rule in RULES} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_knows_its_credential_wherever_it_stands(name: str) -> None:
    token = EXAMPLES[name].encode()
    for text in (token, b"x = '" + token + b"'\n", b'{"a": "' + token + b'", "b": 1}', b"\xff\0" + token + b"\0"):
        assert name in match_rules(text), text[:8]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_leaves_alone_what_is_cut_short_or_part_of_a_longer_word(name: str) -> None:
    token = EXAMPLES[name]
    short = token[: len(token) // 4]
    assert match_rules(short.encode()) == frozenset()
    if name not in {"slack-webhook", "private-key", "azure-storage-key"}:
        assert name not in match_rules(b"A" + token.encode())


@pytest.mark.parametrize(
    "text",
    [
        "password: ${DB_PASSWORD}",
        "password: /run/secrets/db",
        "api_key: <your key here 123456789>",
        "api_key = '{{ vault.key1234567890 }}'",
        "token: sha256:" + "ab12" * 16,
        "max_tokens: 4096",
        "secret: correcthorsebatterystaple",
        "token_url: https://login.example.org/oauth2/token",
        "digest: " + run_of(HEX, 64),
        "postgres://db.example.org:5432/crm",
        "postgres://${USER}:${PASSWORD}@db/crm",
        "id: " + "0b0c9d4e-6f1a-4a5d-8a52-0f5e7a1e4c11",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "Never tell anybody the password. The secret of good answers is patience.",
        "glossary-of-terms-for-the-sales-team",
    ],
)
def test_references_placeholders_digests_and_prose_are_no_secrets(text: str) -> None:
    assert match_rules(text.encode()) == frozenset()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("DB: postgres://crm:hunter2hunter2@db/crm", "url-password"),
        ("amqp://guest:guest@mq", "url-password"),
        ("db_password: s3cr3tS3cr3tS3cr3t", "named-credential"),
        ('"apiKey": "0123456789abcdef0123"', "named-credential"),
        ("SECRET=abcdef0123456789", "named-credential"),
        ("access-key : 'abcdef0123456789'", "named-credential"),
    ],
)
def test_a_telling_name_or_a_url_makes_a_value_a_secret(text: str, rule: str) -> None:
    assert match_rules(text.encode()) == {rule}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("OPENAI_API_KEY", "abcdefgh", True),
        ("DB_PASSWORD", "correct-horse", True),
        ("TOKEN", "12345678", True),
        ("aws_secret_access_key", "abcdefghij", True),
        ("DB_PASSWORD", "short", False),
        ("DB_PASSWORD", "", False),
        ("DB_PASSWORD_FILE", "/run/secrets/db", False),
        ("DB_PASSWORD", "/run/secrets/db", False),
        ("TOKEN", "https://login.example.org/token", False),
        ("SECRET", "the secret of it all", False),
        ("MAX_TOKENS", "123456789", False),
        ("PASSWORD_POLICY", "min-length-12", False),
        ("PATH", "/usr/local/bin:/usr/bin", False),
    ],
)
def test_a_variables_name_counts_as_telling(name: str, value: str, found: bool) -> None:
    assert match_variable(name, value.encode()) == ({"named-credential"} if found else frozenset())


def test_an_environment_names_rules_and_variables_and_never_values() -> None:
    token = EXAMPLES["github-token"]
    found = find_in_environment([f"GIT={token}", "PATH=/bin", "NOTHING", "", f"{token}=1", f"A\nB{'x' * 500}={token}"])
    assert [str(each) for each in found] == [
        "github-token in environment",
        f"github-token in environment A?B{'x' * 125}",
        "github-token in environment GIT",
    ]
    assert token not in repr(found)


def test_a_thousand_secrets_are_as_telling_as_the_first() -> None:
    token = EXAMPLES["github-token"]
    assert len(find_in_environment(f"V{each}={token}" for each in range(1000))) == MAX_FOUND


@pytest.mark.parametrize(
    "unit",
    [b"a", b"_", b"://", b"://a:", b"eyJ", b"eyJa.", b".eyJ", b"sk-", b"xox", b"token", b"token=", b"password: ", b"gl",
     b"-----BEGIN ", b"github_pat_", b"SG.", b":AA", b"1234567890", b"\0", b"api_", b"AccountKey=", b"hvs.a"],
)  # fmt: skip
def test_no_text_makes_matching_slow(unit: bytes) -> None:
    data = (unit * (1 << 20))[: 1 << 20]
    started = time.process_time()
    match_rules(data)
    assert time.process_time() - started < 2.0


def measure(folder: Path, *names: str, scans: SecretScans | None = None) -> ConfigFacts | Unreadable:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        paths = tuple(str(folder / name) for name in names)
        limits = ConfigLimits(file_bytes=1 << 24)
        return measure_config(root, paths, limits, DigestCache(), scans or SecretScans())
    finally:
        os.close(root)


def test_a_declared_file_is_searched_and_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("token: " + EXAMPLES["gitlab-token"])
    (tmp_path / "b").write_text("be polite")
    facts = measure(tmp_path, "a", "b")
    assert isinstance(facts, ConfigFacts)
    assert [str(each) for each in facts.secrets] == [
        f"gitlab-token in {tmp_path}/a",
        f"named-credential in {tmp_path}/a",
    ]
    assert EXAMPLES["gitlab-token"] not in repr(facts)


@pytest.mark.parametrize("back", [1, 10, 20, 39])
def test_a_credential_across_two_chunks_is_found(tmp_path: Path, back: int) -> None:
    token = EXAMPLES["github-token"].encode()
    (tmp_path / "a").write_bytes(b"\n" * ((1 << 18) - back) + token + b"\n" * 100)
    facts = measure(tmp_path, "a")
    assert isinstance(facts, ConfigFacts)
    assert [each.rule for each in facts.secrets] == ["github-token"]
    assert max(map(len, EXAMPLES.values())) < LONGEST_MATCH_BYTES


def test_a_file_is_searched_again_only_when_its_content_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    real = match_rules
    monkeypatch.setattr("attestor.collectors.secrets.match_rules", lambda data: searched.append(1) or real(data))
    scans = SecretScans()
    (tmp_path / "a").write_text("one")
    for _ in range(3):
        measure(tmp_path, "a", scans=scans)
    assert len(searched) == 1
    (tmp_path / "a").write_text("api_key: abcdef0123456789")
    facts = measure(tmp_path, "a", scans=scans)
    assert isinstance(facts, ConfigFacts)
    assert (len(searched), len(facts.secrets)) == (2, 1)


def test_what_is_searched_is_what_was_hashed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("harmless")
    with (tmp_path / "a").open("rb") as file, pytest.raises(FileUnstable):
        SecretScans().rules_of(file.fileno(), "sha256:" + hashlib.sha256(b"approved").hexdigest())


def test_scans_are_bounded(tmp_path: Path) -> None:
    scans = SecretScans(entries=3)
    for number in range(10):
        (tmp_path / "a").write_text(str(number))
        measure(tmp_path, "a", scans=scans)
    assert len(scans._rules) == 3


ANSWER: dict[str, Any] = {
    "Id": "a" * 64, "Name": "/x", "Image": "sha256:" + "1" * 64, "State": {"Running": True, "Pid": 5},
    "HostConfig": {"Privileged": False}, "Mounts": [],
}  # fmt: skip


def test_the_engines_environment_leaves_rules_in_the_facts_and_no_value() -> None:
    token = EXAMPLES["openai-api-key"]
    facts = parse_container({**ANSWER, "Config": {"Env": [f"KEY={token}", "A=b"]}}, "a" * 64, "docker")
    assert facts.secrets == (FoundSecret("openai-api-key", "environment KEY"),)
    assert token not in repr(facts)
    assert parse_container({**ANSWER, "Config": {"Env": None}}, "a" * 64, "docker").secrets == ()


@pytest.mark.parametrize("env", ["A=b", {"A": "b"}, ["A=b", 7], [["A", "b"]], ["A=b"] * 5000])
def test_an_environment_of_the_wrong_shape_refuses_the_whole_answer_without_showing_it(env: object) -> None:
    with pytest.raises(EngineInvalid) as caught:
        parse_container({**ANSWER, "Config": {"Env": env}}, "a" * 64, "docker")
    assert "A=b" not in str(caught.value) + caught.value.detail


CONFIG = ConfigRule(FILES, (ROOT,))
IN_ENV, IN_FILE = FoundSecret("jwt", "environment A"), FoundSecret("npm-token", "/etc/agent/prompt.txt")


def item_of(block: AttestBlock, name: str, **changes: Any) -> Item | None:
    return next((each for each in measure_items(evidence(**changes), block) if each.name == name), None)


@pytest.mark.parametrize(
    ("in_env", "in_file", "measured"),
    [
        ((), (), ("none",)),
        ((IN_ENV,), (), ("jwt in environment A",)),
        ((), (IN_FILE,), ("npm-token in /etc/agent/prompt.txt",)),
        ((IN_ENV,), (IN_FILE,), ("jwt in environment A", "npm-token in /etc/agent/prompt.txt")),
    ],
)
def test_a_component_that_forbids_static_secrets_is_refused_with_rule_and_place(
    in_env: tuple[FoundSecret, ...], in_file: tuple[FoundSecret, ...], measured: tuple[str, ...]
) -> None:
    block = AttestBlock(config=CONFIG, forbid_static_secrets=True)
    config = {FILES: ConfigFacts(ROOT, (), in_file)}
    item = item_of(block, "forbid_static_secrets", container=container_facts(secrets=in_env), config=config)
    assert item is not None
    assert (item.approved, item.measured) == (("none",), measured)
    assert item.outcome is (Outcome.DIFFERS if in_env or in_file else Outcome.HOLDS)
    assert item.code == ("forbid_static_secrets_mismatch" if in_env or in_file else "")


@pytest.mark.parametrize("changes", [{"container": UNREADABLE}, {"config": {FILES: UNREADABLE}}, {"config": {}}])
def test_what_could_not_be_searched_is_unreadable_and_not_clean(changes: dict[str, Any]) -> None:
    item = item_of(AttestBlock(config=CONFIG, forbid_static_secrets=True), "forbid_static_secrets", **changes)
    assert item is not None
    assert item.outcome is Outcome.UNREADABLE


def test_without_the_condition_secrets_refuse_nobody_and_posture_names_them() -> None:
    container = container_facts(secrets=(IN_ENV,))
    block = AttestBlock(posture=Posture.BASELINE)
    assert item_of(block, "forbid_static_secrets", container=container) is None
    item = item_of(block, "posture", container=container)
    assert item is not None
    assert (item.outcome, item.detail) == (Outcome.HOLDS, "static secrets: jwt in environment A")
    assert item_json(item)["detail"] == item.detail
    assert item_of(block, "posture", container=container_facts()) == replace(item, detail="")


def test_a_process_outside_containers_is_judged_by_its_files() -> None:
    block = AttestBlock(config=CONFIG, forbid_static_secrets=True)
    item = item_of(block, "forbid_static_secrets", container=None, config={FILES: ConfigFacts(ROOT, (), (IN_FILE,))})
    assert item is not None
    assert item.measured == (str(IN_FILE),)


def test_a_measurement_names_secrets_so_that_an_approval_shows_them() -> None:
    facts = evidence(
        container=container_facts(secrets=(IN_ENV,)),
        config={FILES: ConfigFacts(ROOT, (), (IN_FILE,))},
        posture=PostureFacts(Posture.BASELINE, ()),
    )
    shown = measurement_json(1, facts, FILES)["static_secrets"]
    assert json.loads(json.dumps(shown)) == [
        {"rule": "jwt", "place": "environment A"},
        {"rule": "npm-token", "place": "/etc/agent/prompt.txt"},
    ]
