"""Vectors of the canonical form of JSON (RFC 8785), with the RFC's examples; what is expected is written by hand."""

from __future__ import annotations

from collections.abc import Iterator

from vectors.scene import Json, b64, b64u, case, error, sha

MALFORMED = error("malformed")
DEPTH = 64

# RFC 8785 §3.2.2 and §3.2.3, as printed there.
RFC_EXAMPLE = r"""{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}"""
RFC_CANONICAL = (
    '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
    '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
)
RFC_SORTING = (
    r'{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh",'
    r'"1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin"}'
)
RFC_SORTED = (
    '{"\\r":"Carriage Return","1":"One","\x80":"Control","ö":"Latin",'
    '"€":"Euro Sign","😀":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}'
)

# RFC 8785 appendix B where a text is given, and the edges of ECMA-262 Number::toString.
NUMBERS = {
    "0": "0",
    "-0": "0",
    "-0.0": "0",
    "0e7": "0",
    "5e-324": "5e-324",
    "-5e-324": "-5e-324",
    "1.7976931348623157e308": "1.7976931348623157e+308",
    "9007199254740991": "9007199254740991",
    "-9007199254740991": "-9007199254740991",
    "9007199254740992.0": "9007199254740992",
    "9007199254740992": "9007199254740992",
    "-295147905179352830000": "-295147905179352830000",
    "100000000000000000000": "100000000000000000000",
    "295147905179352830000.0": "295147905179352830000",
    "9.999999999999997e22": "9.999999999999997e+22",
    "1e23": "1e+23",
    "1.0000000000000001e23": "1.0000000000000001e+23",
    "1e20": "100000000000000000000",
    "1e21": "1e+21",
    "999999999999999900000.0": "999999999999999900000",
    "0.000001": "0.000001",
    "1e-7": "1e-7",
    "-0.0000033333333333333333": "-0.0000033333333333333333",
    "333333333.33333329": "333333333.3333333",
    "1424953923781206.2": "1424953923781206.2",
    "1E+2": "100",
    "1.50": "1.5",
    "5.0": "5",
    "12e-1": "1.2",
    "0.1": "0.1",
}
NO_FORM = {
    "nothing": b"",
    "white space": b" ",
    "two values": b"1 2",
    "a comma at the end of an array": b"[1,]",
    "a comma at the end of an object": b'{"a":1,}',
    "a name without quotes": b"{a:1}",
    "a name without a value": b'{"a"}',
    "an open array": b"[1",
    "an open object": b'{"a":1',
    "an open string": b'"a',
    "brackets that do not fit": b"[}",
    "a leading zero": b"01",
    "a plus sign": b"+1",
    "no digit before the point": b".5",
    "no digit after the point": b"1.",
    "no digit in the exponent": b"1e",
    "two signs": b"--1",
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "half a word": b"tru",
    "a word with more": b"nulls",
    "a byte order mark": b"\xef\xbb\xbf1",
    "not UTF-8": b'"\xff"',
    "a control character": b'"\x01"',
    "a tab in a string": b'"\t"',
    "an unknown escape": b'"\\x41"',
    "half a surrogate pair": b'"\\ud83d"',
    "half a surrogate pair in a name": b'{"\\ude00":1}',
    "surrogates in the wrong order": b'"\\ude00\\ud83d"',
    "a member twice": b'{"a":1,"a":1}',
    "a member twice, once escaped": b'{"a":1,"\\u0061":2}',
    "a member twice, deep": b'[{"b":{"a":1,"c":2,"a":1}}]',
    "an integer beyond what is exact": b"9007199254740993",
    "an integer that its double is not printed as": b"295147905179352825856",
    "an integer that is printed with an exponent": b"1000000000000000000000",
    "a negative integer beyond what is exact": b"-9007199254740993",
    "an integer of very many digits": b"1" * 5_000,
    "too large for a double": b"1e400",
    "too large for a double, with a huge exponent": b"-1e99999999999999999999",
    "too small to be told from zero": b"1e-400",
    "a fraction too small to be told from zero": b"0." + b"0" * 400 + b"1",
}


def jcs_cases() -> Iterator[Json]:
    yield _good("the RFC's example", "§3.2.2", RFC_EXAMPLE, RFC_CANONICAL)
    yield _good("the RFC's order of members", "§3.2.3: UTF-16 code units", RFC_SORTING, RFC_SORTED)
    for text, canonical in NUMBERS.items():
        yield _good(f"the number {text}", "as ECMAScript prints the nearest double", text, canonical)
    yield _good("empty containers", "no white space", ' { "b" : [ ] , "a" : { } } ', '{"a":{},"b":[]}')
    yield _good("a string alone", "any JSON value has a form", '"\\u007f\\/\\b\\f"', '"\x7f/\\b\\f"')
    yield _good(
        "members in order of their names, at every depth",
        "sorted",
        '[{"b":{"d":1,"c":2},"a":0}]',
        '[{"a":0,"b":{"c":2,"d":1}}]',
    )
    yield _good(
        "a quote behind an escaped backslash", "escapes end where they end", '["\\\\","\\\\\\""]', '["\\\\","\\\\\\""]'
    )
    yield _good("the deepest", "bound", "[" * DEPTH + "]" * DEPTH, "[" * DEPTH + "]" * DEPTH)
    yield case("deeper", "bound", {"json": b64(b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1))}, MALFORMED)
    for name, data in NO_FORM.items():
        yield case(name, "no canonical form", {"json": b64(data)}, MALFORMED)


def _good(name: str, why: str, text: str, canonical: str) -> Json:
    data = canonical.encode()
    return case(
        name, why, {"json": b64(text.encode())}, {"result": "ok", "canonical": b64(data), "hash": b64u(sha(data))}
    )
