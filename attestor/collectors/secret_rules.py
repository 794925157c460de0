"""Credentials known by their form: a table of what providers say that their tokens look like.

Owns: the rules and finding which of them a text matches. Does not own: what is looked at, or reading it.

Security: what was matched never leaves :func:`match_rules`; a rule's name does. Every pattern begins at a literal or
is tried only where one stands, and every repetition is bounded, so that no text makes matching slow.

The rules are few and specific on purpose. One that fires on harmless text refuses a component that forbids static
secrets; entropy alone is therefore no rule. The two general ones ask for a telling name beside the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LONGEST_MATCH_BYTES: Final = 512  # what two neighbouring chunks of a file must share
_TOKEN = rb"[A-Za-z0-9_-]"
_START, _END = rb"(?<![A-Za-z0-9_-])", rb"(?![A-Za-z0-9_-])"


@dataclass(frozen=True, slots=True)
class SecretRule:
    """One form of credential.

    Args:
        name: stable; what operators see.
        literals: none of them in a text, no match.
        pattern: of the credential.
    """

    name: str
    literals: tuple[bytes, ...]
    pattern: re.Pattern[bytes]


def _rule(name: str, pattern: bytes, *literals: bytes) -> SecretRule:
    return SecretRule(name, literals, re.compile(_START + pattern + _END))


RULES: Final = (
    _rule("age-secret-key", rb"AGE-SECRET-KEY-1[0-9A-Z]{58}", b"AGE-SECRET-KEY-1"),
    _rule("anthropic-api-key", rb"sk-ant-[a-z]{3,10}[0-9]{2}-" + _TOKEN + rb"{40,200}", b"sk-ant-"),
    _rule("aws-access-key-id", rb"(?:AKIA|ASIA)[A-Z2-7]{16}", b"AKIA", b"ASIA"),
    SecretRule("azure-storage-key", (b"AccountKey=",), re.compile(rb"AccountKey=[A-Za-z0-9+/]{86}==")),
    _rule("databricks-token", rb"dapi[0-9a-f]{32}", b"dapi"),
    _rule("digitalocean-token", rb"do[opr]_v1_[0-9a-f]{64}", b"_v1_"),
    _rule("docker-hub-token", rb"dckr_[po]at_" + _TOKEN + rb"{27,64}", b"dckr_"),
    _rule("github-token", rb"gh[pousr]_[A-Za-z0-9]{36,251}", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"),
    _rule("github-fine-grained-token", rb"github_pat_[A-Za-z0-9_]{60,251}", b"github_pat_"),
    _rule("gitlab-token", rb"gl(?:pat|ptt|dt|rt|cbt|agent|ft|imt|oas|soat)-[A-Za-z0-9_.-]{20,251}", b"gl"),
    _rule("google-api-key", rb"AIza" + _TOKEN + rb"{35}", b"AIza"),
    _rule("google-oauth-client-secret", rb"GOCSPX-" + _TOKEN + rb"{28}", b"GOCSPX-"),
    _rule("hugging-face-token", rb"hf_[A-Za-z0-9]{34,64}", b"hf_"),
    SecretRule("jwt", (b".eyJ",), re.compile(_START + rb"eyJ[A-Za-z0-9_-]{10,300}\.eyJ[A-Za-z0-9_-]{10}")),
    _rule("npm-token", rb"npm_[A-Za-z0-9]{36}", b"npm_"),
    _rule("openai-api-key", rb"sk-(?:proj|svcacct|admin)-" + _TOKEN + rb"{40,300}", b"sk-"),
    _rule("openai-legacy-api-key", rb"sk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}", b"T3BlbkFJ"),
    SecretRule(
        "private-key",
        (b"PRIVATE KEY",),
        re.compile(rb"-----BEGIN (?:(?:RSA|EC|DSA|OPENSSH|ENCRYPTED|PGP) )?PRIVATE KEY(?: BLOCK)?-----"),
    ),
    _rule("pypi-token", rb"pypi-AgE" + _TOKEN + rb"{50,400}", b"pypi-AgE"),
    _rule("sendgrid-api-key", rb"SG\." + _TOKEN + rb"{22}\." + _TOKEN + rb"{43}", b"SG."),
    _rule("slack-token", rb"xox[abeoprs]-[A-Za-z0-9-]{24,250}", b"xox"),
    _rule("slack-app-token", rb"xapp-[0-9]-[A-Za-z0-9-]{24,250}", b"xapp-"),
    SecretRule(
        "slack-webhook",
        (b"hooks.slack.com",),
        re.compile(rb"hooks\.slack\.com/services/T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,32}"),
    ),
    _rule("stripe-api-key", rb"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,247}", b"k_live_", b"k_test_"),
    _rule("telegram-bot-token", rb"[0-9]{8,10}:AA" + _TOKEN + rb"{33}", b":AA"),
    _rule("twilio-api-key", rb"SK[0-9a-f]{32}", b"SK"),
    _rule("vault-token", rb"hv[bsr]\.[A-Za-z0-9_-]{24,250}", b"hvs.", b"hvb.", b"hvr."),
)

_URL_PASSWORD: Final = re.compile(rb"://[^\s/:@\"'<>{}$]{1,64}:([^\s/@\"'<>{}$]{3,128})@")
_NAMED: Final = re.compile(
    rb"(?:passwd|password|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|token)"
    rb"[\"']?[ \t]{0,4}[:=][ \t]{0,4}[\"']?([^\s\"',;]{16,256})",
    re.IGNORECASE,
)
_NAME: Final = re.compile(
    r"(?:.{0,64}_)?(?:PASSWD|PASSWORD|PASSPHRASE|SECRET|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|SECRET_?KEY|TOKEN)",
    re.IGNORECASE | re.ASCII,
)
_REFERENCES: Final = (b"/", b"$", b"<", b"{", b"%", b"http:", b"https:", b"file:", b"unix:", b"sha256:", b"vault:")
MIN_ENV_VALUE_BYTES: Final = 8


def match_rules(data: bytes) -> frozenset[str]:
    """The names of the rules that ``data`` matches."""
    found = {
        rule.name
        for rule in RULES
        if any(literal in data for literal in rule.literals) and rule.pattern.search(data) is not None
    }
    if b"://" in data and _URL_PASSWORD.search(data) is not None:
        found.add("url-password")
    if any(_looks_chosen(named[1]) for named in _NAMED.finditer(data)):
        found.add("named-credential")
    return frozenset(found)


def match_variable(name: str, value: bytes) -> frozenset[str]:
    """The names of the rules that an environment variable matches; its name counts as telling."""
    found = set(match_rules(value))
    is_plain = len(value) >= MIN_ENV_VALUE_BYTES and b" " not in value and not value.lower().startswith(_REFERENCES)
    if is_plain and _NAME.fullmatch(name) is not None:
        found.add("named-credential")
    return frozenset(found)


def _looks_chosen(value: bytes) -> bool:
    """Whether a value is neither a reference nor a word: it has letters and digits, and points nowhere else."""
    if value.lower().startswith(_REFERENCES) or b"${" in value or b"{{" in value:
        return False
    return any(byte in b"0123456789" for byte in value) and any(chr(byte).isalpha() for byte in value)
