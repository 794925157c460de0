"""issuers and boundaries in broker.yaml, and key sets as issuers publish them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.commands import describe_config
from broker.config import load_config
from broker.dataplane_api import encode_settings
from broker.issuers import IssuerState, encode_issuers, parse_published
from broker.user_config import IssuerConfig, parse_jwks_url
from broker_parts import write_config
from hopseal.custody.usertoken import TokenType
from hopseal.errors import InvalidError
from hopseal.ids import SpiffeId
from hopseal.settings import SettingsInvalidError
from vectors import tokens

TTS = "{issuer: https://tts.example.org, type: txn, audience: [example.org], jwks_file: /etc/hopseal/tts.json}"


def mistakes(folder: Path, **changes: str) -> list[str]:
    with pytest.raises(SettingsInvalidError) as caught:
        load_config(write_config(folder, **changes))
    return [f"{mistake.message} ({mistake.remedy})" for mistake in caught.value.mistakes]


def test_an_issuer_has_defaults(tmp_path):
    (issuer,) = load_config(write_config(tmp_path, issuers=f"[{TTS}]")).issuers
    assert (issuer.name, issuer.typ, issuer.audiences) == (
        "https://tts.example.org",
        TokenType.TRANSACTION,
        ("example.org",),
    )
    assert issuer.source == Path("/etc/hopseal/tts.json")
    assert (issuer.refresh_s, issuer.max_age_s, issuer.clients) == (300, 86_400, {})


def test_everything_about_an_issuer_can_be_said(tmp_path):
    text = (
        "{issuer: i, type: at, audience: [a, b], jwks_url: 'https://as.example.org/jwks', ca_file: /etc/ca.pem, "
        "clients: {crm-1: 'spiffe://example.org/agents/crm/front'}, refresh_s: 60, max_age_s: 3600}"
    )
    config = load_config(write_config(tmp_path, issuers=f"[{text}]"))
    (issuer,) = config.issuers
    assert issuer == IssuerConfig(
        "i",
        TokenType.ACCESS,
        ("a", "b"),
        "https://as.example.org/jwks",
        Path("/etc/ca.pem"),
        {"crm-1": SpiffeId.parse("spiffe://example.org/agents/crm/front")},
        60,
        3600,
    )
    shown = json.loads(json.dumps(describe_config(config)))
    assert shown["issuers"][0]["source"] == "https://as.example.org/jwks"
    assert shown["issuers"][0]["clients"] == {"crm-1": "spiffe://example.org/agents/crm/front"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("{}", ["issuer: missing", "type: missing", "audience: must list 1 to 16", "needs one of jwks_file"]),
        (TTS.replace("txn", "jwt"), ["type: 'jwt' is none of txn, at"]),
        (TTS.replace("[example.org]", "[]"), ["audience: must list 1 to 16 texts"]),
        (TTS.replace("[example.org]", "example.org"), ["audience: must be a list", "audience: must list"]),
        (TTS.replace("}", ", jwks_url: 'https://a/'}"), ["needs one of jwks_file and jwks_url"]),
        (TTS.replace("/etc/hopseal/", ""), ["jwks_file: 'tts.json' is not an absolute path"]),
        (
            TTS.replace("jwks_file: /etc/hopseal/tts.json", "jwks_url: 'http://as.example.org/jwks'"),
            ["jwks_url: 'http://as.example.org/jwks' is no https URL (write https://"],
        ),
        (TTS.replace("}", ", refresh_s: 0}"), ["refresh_s: 0.0 is not between"]),
        (TTS.replace("}", ", max_age_s: 999999}"), ["max_age_s: 999999.0 is not between"]),
        (TTS.replace("}", ", clients: {c: x}}"), ["clients.c: "]),
        (TTS.replace("}", ", secret: x}"), ["secret: unknown key"]),
        (TTS.replace("https://tts.example.org", "'" + "x" * 257 + "'"), ["issuer: is longer than 256 bytes"]),
        (f"{TTS}, {TTS}", ["issuer: https://tts.example.org is listed twice (list each issuer once for each type)"]),
    ],
)
def test_each_mistake_about_an_issuer_is_named(tmp_path, change, expected):
    found = mistakes(tmp_path, issuers=f"[{change}]")
    assert len(found) == len(expected), found
    for text in expected:
        assert any(text in each for each in found), (text, found)


@pytest.mark.parametrize(
    "url",
    ["https://a/", "https://a.b:8443/x?y", "http://127.0.0.1:1/", "http://[::1]/", "http://localhost/jwks"],
)
def test_keys_come_over_https_or_from_this_host(url):
    assert parse_jwks_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        *("", "a", "/jwks", "http://a/", "http://128.0.0.1/", "http://localhost.evil/", "ftp://a/", "file:///etc/x"),
        *(
            "https://u@a/",
            "https://u:p@a/",
            "https:///x",
            "https://a:x/",
            "https://a/#f",
            "https://a/\n",
            "https://\u00e4/",
        ),
        "https://[::1/",
    ],
)
def test_other_urls_are_refused(url):
    with pytest.raises(InvalidError, match="url_malformed"):
        parse_jwks_url(url)


def test_boundaries_are_read_and_given_to_the_data_plane(tmp_path):
    text = (
        "{partner.example: {egress: sealed, gateways: ['spiffe://partner.example/gw/*'], unverified_users: true, "
        "components: {crm/tool: 'spiffe://partner.example/crm/tool'}}, "
        "other.example: {}}"
    )
    config = load_config(write_config(tmp_path, boundaries=text))
    tool = SpiffeId.parse("spiffe://partner.example/crm/tool")
    assert config.boundaries["partner.example"].components == {"crm/tool": tool}
    assert json.loads(encode_settings(config))["boundaries"] == {
        "other.example": {"sealed": False, "gateways": [], "unverified_users": False},
        "partner.example": {"sealed": True, "gateways": ["spiffe://partner.example/gw/*"], "unverified_users": True},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{Partner: {}}", "boundaries.Partner: "),
        ("{example.org: {}}", "example.org is our own trust domain"),
        ("{p.example: {egress: strip}}", "egress: 'strip' is none of full, sealed"),
        ("{p.example: {gateways: ['x']}}", "write a SPIFFE ID"),
        ("{p.example: {gateways: ['spiffe://q.example/gw']}}", "is not of trust domain p.example"),
        ("{p.example: {unverified_users: 1}}", "unverified_users: must be true or false"),
        ("{p.example: {ingress: full}}", "ingress: unknown key"),
        ("{p.example: {components: {tool: 'spiffe://p.example/t'}}}", "'tool' is not <agent>/<component>"),
        ("{p.example: {components: {a/tool: x}}}", "components.a/tool: "),
        ("{p.example: {components: {a/tool: 'spiffe://q.example/t'}}}", "is not of trust domain p.example"),
    ],
)
def test_each_mistake_about_a_boundary_is_named(tmp_path, text, expected):
    found = mistakes(tmp_path, boundaries=text)
    assert any(expected in each for each in found), found


def test_a_published_set_is_counted_and_passed_on_as_it_is():
    data = json.dumps(tokens.key_set() | {"issuer": "x"}).encode()
    key_set, count = parse_published(data)
    assert count == 3
    config = IssuerConfig("i", TokenType.ACCESS, ("a",), "https://a/", clients={"c": SpiffeId.parse("spiffe://a/b")})
    states = (IssuerState(config, key_set, count), IssuerState(config))
    first, second = json.loads(encode_issuers(states))
    assert first == {
        "issuer": "i",
        "type": "at",
        "audience": ["a"],
        "jwks": key_set,
        "clients": {"c": "spiffe://a/b"},
    }
    assert second["jwks"] is None


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"keys":[]}', b'{"keys":[],"keys":[]}', b"\xff", b'{"keys":[{"kty":"oct","k":"AA"}]}']
)
def test_a_set_that_nothing_can_be_verified_with_is_refused(data):
    with pytest.raises(InvalidError, match="jwks_invalid"):
        parse_published(data)
