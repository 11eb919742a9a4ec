"""The formats of JSON Schema that an answer is held to, as patterns.

A pattern here may match less than the format allows, never more: an answer that it lets through is
right for every reader. Left out on purpose are, for example, leap seconds (``:60``), the year 0,
``e-mail`` addresses in quotes, and internationalised names (an ASCII name is a valid one, so
``idn-email``, ``idn-hostname``, ``iri`` and ``iri-reference`` hold too).

Sources: RFC 3339 (date-time, date, time, duration), RFC 5321 (email), RFC 1123 (hostname), RFC 4291
(ipv6), RFC 3986 (uri), RFC 6570 (uri-template), RFC 6901 (json-pointer), RFC 4122 (uuid).
"""

from mixtral.structured.patterns import Pattern

_YEAR = "(?:[1-9][0-9]{3})"
# Divisible by 4, and by 400 where it ends a century.
_LEAP_YEAR = "(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DURATION = (
    "P(?:[0-9]{1,9}W|(?:[0-9]{1,9}Y(?:[0-9]{1,9}M(?:[0-9]{1,9}D)?)?|[0-9]{1,9}M(?:[0-9]{1,9}D)?"
    "|[0-9]{1,9}D)(?:T{time})?|T{time})"
).replace(
    "{time}",
    "(?:[0-9]{1,9}H(?:[0-9]{1,9}M(?:[0-9]{1,9}S)?)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|[0-9]{1,9}S)",
)
# A label of 1 to 63 characters; no two hyphens in a row, which IDNA keeps for itself.
_LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9]|-[a-zA-Z0-9]){0,30}"
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"
_EMAIL = rf"{_ATOM}(?:\.{_ATOM}){{0,2}}@{_HOSTNAME}"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_H16 = "[0-9a-fA-F]{1,4}"
_IPV6 = (
    "(?:"
    + "|".join(
        [f"(?:{_H16}:){{7}}{_H16}"]
        + [
            f"(?:{_H16}(?::{_H16}){{0,{left - 1}}})?::(?:{_H16}(?::{_H16}){{0,{6 - left}}})?"
            for left in range(1, 7)
        ]
    )
    + ")"
)
_UUID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_HEX = "%[0-9a-fA-F]{2}"
_PCHAR = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|{_HEX})"
_TAIL = rf"(?:\?(?:{_PCHAR}|[/?])*)?(?:\#(?:{_PCHAR}|[/?])*)?"
_HOST = rf"(?:{_HOSTNAME}|\[{_IPV6}\])"
_AUTHORITY = rf"//(?:[a-zA-Z0-9._~-]{{1,40}}@)?{_HOST}(?::[0-9]{{1,5}})?(?:/{_PCHAR}*)*"
_URI = rf"[a-zA-Z][a-zA-Z0-9+.-]{{0,20}}:(?:{_AUTHORITY}|/?{_PCHAR}+(?:/{_PCHAR}*)*){_TAIL}"
_SEGMENT_NO_COLON = rf"(?:[a-zA-Z0-9._~!$&'()*+,;=@-]|{_HEX})+"
_URI_REFERENCE = (
    rf"(?:{_URI}|{_AUTHORITY}{_TAIL}|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?{_TAIL}"
    rf"|(?:{_SEGMENT_NO_COLON}(?:/{_PCHAR}*)*)?{_TAIL})"
)
_VARIABLE = r"[a-zA-Z0-9_]+(?:\.[a-zA-Z0-9_]+)*(?::[1-9][0-9]{0,3}|\*)?"
_URI_TEMPLATE = (
    rf"(?:[a-zA-Z0-9._~!$&()*+,;=:@/?\#\[\]-]|{_HEX}"
    rf"|\{{[+\#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
)
_REFERENCE_TOKENS = r"(?:/(?:[^/~\x{0}-\x{1f}]|~[01])*)*"

FORMATS: dict[str, Pattern] = {
    name: Pattern(regex=regex, examples=tuple(examples))
    for name, regex, *examples in (
        ("date-time", f"{_DATE}T{_TIME}", "2000-01-01T00:00:00Z", "2000-01-01T00:00:00.0+00:00"),
        ("date", _DATE, "2000-01-01"),
        ("time", _TIME, "00:00:00Z", "00:00:00.0+00:00"),
        ("duration", _DURATION, "P1D", "P1W", "PT1S", "P1Y", "P1M", "PT1H", "PT1M"),
        ("email", _EMAIL, "a@a"),
        ("idn-email", _EMAIL, "a@a"),
        ("hostname", _HOSTNAME, "a"),
        ("idn-hostname", _HOSTNAME, "a"),
        ("ipv4", _IPV4, "0.0.0.0"),
        ("ipv6", _IPV6, "::", "1:1:1:1:1:1:1:1"),
        ("uri", _URI, "a:a", "a://a", "a://[::]", "a:%00", "a://[1:1:1:1:1:1:1:1]"),
        ("iri", _URI, "a:a", "a://a", "a://[::]", "a:%00", "a://[1:1:1:1:1:1:1:1]"),
        ("uri-reference", _URI_REFERENCE, "", "//a", "//[::]", "a:a", "%00", "//[1:1:1:1:1:1:1:1]"),
        ("iri-reference", _URI_REFERENCE, "", "//a", "//[::]", "a:a", "%00", "//[1:1:1:1:1:1:1:1]"),
        ("uri-template", _URI_TEMPLATE, "", "{a}", "%00", "{a:1}"),
        ("uuid", _UUID, "00000000-0000-0000-0000-000000000000"),
        ("json-pointer", _REFERENCE_TOKENS, "", "/~0"),
        ("relative-json-pointer", rf"(?:0|[1-9][0-9]{{0,8}})(?:\#|{_REFERENCE_TOKENS})", "0"),
    )
}
"""Formats that are enforced, by name."""

REFUSED_FORMATS = frozenset({"regex"})
"""Formats of the standard that no pattern describes; every other name is an annotation."""
