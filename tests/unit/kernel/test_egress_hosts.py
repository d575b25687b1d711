"""Hosts: one normal form for what people, manifests and redirects write, and a look at where addresses lie."""

from __future__ import annotations

import pytest
from yarl import URL

from allod.kernel.egress_hosts import (
    Malformed,
    could_reach,
    is_declared,
    is_local,
    is_public,
    normal_host,
    normal_pattern,
    target_of,
)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("example.org", "example.org"),
        ("Example.ORG.", "example.org"),
        ("example.org:8443", "example.org:8443"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("a_b.example", "a_b.example"),
        ("localhost:8080", "localhost:8080"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("[::1]:8080", "[::1]:8080"),
        ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
    ],
)
def test_a_host_has_one_normal_form(written: str, normal: str) -> None:
    assert normal_host(written) == normal
    assert normal_host(normal) == normal


NO_HOSTS = [
    *(
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a b",
        "a/b",
        "a\\b",
        "a@b",
        "*",
        "*.example.org",
        "%31.example",
    ),
    *(
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.01",
        "1.2.3.4.5",
        "256.1.1.1",
    ),
    *("0.0.0.0", "::", "[::]", "[::ffff:0.0.0.0]", "224.0.0.1", "[ff02::1]", "[fe80::1%eth0]", "fe80::1%1"),
    *(
        "a:0",
        "a:65536",
        "a:",
        "a:http",
        "a:-1",
        "a:١",
        "[::1",
        "[::1]8080",
        "[a]",
        "[]",
        "a.example:80:80",
        "x" * 64,
    ),
    *(
        ".".join(["x" * 60] * 5),
        "https://example.org",
        "a\u00adb.example",
        "a\nb",
        "a\x00b",
    ),
]


@pytest.mark.parametrize("written", NO_HOSTS)
def test_what_only_looks_like_a_host_is_none(written: str) -> None:
    with pytest.raises(Malformed) as told:
        normal_host(written)
    assert len(written) < 4 or written not in str(told.value)


@pytest.mark.parametrize(
    ("address", "host", "sent"),
    [
        ("https://Example.org", "example.org", "https://example.org/"),
        ("https://example.org./a?b=c#d", "example.org", "https://example.org/a?b=c"),
        ("https://example.org:443/", "example.org", "https://example.org/"),
        ("http://example.org:443/", "example.org:443", "http://example.org:443/"),
        ("HTTP://EXAMPLE.org:8080/", "example.org:8080", "http://example.org:8080/"),
        ("http://bücher.example/ä", "xn--bcher-kva.example", "http://xn--bcher-kva.example/%C3%A4"),
        ("http://127。0。0。1/", "127.0.0.1", "http://127.0.0.1/"),
        ("http://１２７.0.0.1/", "127.0.0.1", "http://127.0.0.1/"),
        ("http://[::1]:81/x", "[::1]:81", "http://[::1]:81/x"),
        ("http://[::ffff:7f00:1]/", "127.0.0.1", "http://127.0.0.1/"),
        ("https://e.org/%7Ea%2fb%3B?s=%2B%7e", "e.org", "https://e.org/%7Ea%2fb%3B?s=%2B%7e"),
    ],
)
def test_what_is_sent_is_what_was_judged(address: str, host: str, sent: str) -> None:
    target = target_of(address)
    assert target.host == host
    assert str(target.url).removesuffix("/") == sent.removesuffix("/")


NO_ADDRESSES = [
    *(
        "",
        "x",
        "/x",
        "//example.org/",
        "http:x",
        "http:/x",
        "http:///x",
        "https://",
        "http://:80/",
        "example.org",
    ),
    *(
        "ftp://example.org/",
        "file:///etc/passwd",
        "unix:///run/x",
        "ws://example.org/",
        "data:,x",
        "javascript:x",
    ),
    *("http://user@example.org/", "http://user:secret@example.org/", "https://example.org\\@evil.example/"),
    *("http://example.org:0/", "http://example.org:99999/", "http://example.org:8x/", "http://[::1/"),
    *("http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://0177.0.0.1/", "http://127.0.0.1.0/"),
    *(
        "http://[fe80::1%25eth0]/",
        "http://%31%32%37.0.0.1/",
        "http://a b/",
        "http://0.0.0.0/",
        "http://[::]/",
    ),
    *("http://a\x00b/", "http://ex\u00adample.org/", "http://a%00b/", "http://-a/", "http://a..b/"),
]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_of_the_web_is_refused_without_a_word_of_it(address: str) -> None:
    with pytest.raises(Malformed) as told:
        target_of(address)
    assert len(address) < 9 or address not in str(told.value)


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/c?d", "https://example.org/c?d"),
        ("c", "https://example.org/a/c"),
        ("?c", "https://example.org/a/b?c"),
        ("//other.example/c", "https://other.example/c"),
        ("http://other.example:81/%7e", "http://other.example:81/%7e"),
    ],
)
def test_relative_addresses_are_seen_from_where_they_were_given(location: str, leads_to: str) -> None:
    assert str(target_of(location, URL("https://example.org/a/b?x")).url) == leads_to


def test_a_host_without_port_stands_for_the_scheme_s_own_port_only() -> None:
    assert target_of("https://example.org/").names == ("example.org", "example.org:443")
    assert target_of("http://example.org/").names == ("example.org", "example.org:80")
    assert target_of("http://localhost:8080/").names == ("localhost:8080",)
    assert target_of("https://example.org:80/").names == ("example.org:80",)
    assert target_of("http://[::1]:443/").names == ("[::1]:443",)


@pytest.mark.parametrize(
    ("pattern", "declared", "not_declared"),
    [
        (
            "api.example.org",
            ["api.example.org"],
            ["example.org", "x.api.example.org", "api.example.org.evil.example"],
        ),
        (
            "*.example.org",
            ["a.example.org", "a.b.example.org"],
            ["example.org", "badexample.org", "a.example.org.x"],
        ),
        ("*.Example.org", ["a.example.org"], ["example.org"]),
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.11", "localhost"]),
        ("[::1]", ["::1"], ["::11"]),
        ("user", [], ["example.org", "user", "127.0.0.1"]),
    ],
)
def test_a_manifest_declares_hosts_and_subdomains(
    pattern: str, declared: list[str], not_declared: list[str]
) -> None:
    patterns = [normal_pattern(pattern)]
    assert [name for name in declared if not is_declared(name, 443, patterns)] == []
    assert [name for name in not_declared if is_declared(name, 443, patterns)] == []


@pytest.mark.parametrize(
    ("host", "patterns", "could"),
    [
        ("example.org", ["example.org"], True),
        ("example.org:8443", ["example.org"], True),
        ("example.org", ["example.org:8443"], False),
        ("a.example.org", ["*.example.org"], True),
        ("other.org", ["*.example.org"], False),
        ("[::1]:80", ["user"], True),
        ("example.org", [], False),
    ],
)
def test_what_a_grant_could_be_used_for(host: str, patterns: list[str], could: bool) -> None:
    assert could_reach(host, patterns) is could


def test_a_declared_port_means_that_port_only() -> None:
    patterns = [normal_pattern("localhost:8080"), normal_pattern("*.example.org:81")]
    assert is_declared("localhost", 8080, patterns)
    assert not is_declared("localhost", 8081, patterns)
    assert is_declared("a.example.org", 81, patterns)
    assert not is_declared("a.example.org", 443, patterns)


@pytest.mark.parametrize(
    "pattern", ["*.0.0.1", "*.127.0.0.1", "*.[::1]", "*.*.org", "a*.org", "*", "https://a.example"]
)
def test_a_manifest_cannot_declare_what_is_no_host(pattern: str) -> None:
    with pytest.raises(Malformed):
        normal_pattern(pattern)


@pytest.mark.parametrize("name", ["localhost", "app.localhost", "127.0.0.1", "8.8.8.8", "::1"])
def test_some_names_say_themselves_that_they_may_be_at_home(name: str) -> None:
    assert is_local(name)
    assert not is_local("localhost.example.org")


PRIVATE = [
    *(
        "127.0.0.1",
        "127.8.9.10",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
    ),
    *(
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "::",
        "::1",
        "fe80::1",
    ),
    *(
        "fe80::1%eth0",
        "fc00::1",
        "fd12::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::7f00:1",
    ),
    *(
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::c0a8:101",
        "2002:7f00:1::1",
        "2002:c0a8:101::",
        "2001:db8::1",
    ),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_in_the_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)
