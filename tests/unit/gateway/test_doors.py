"""Who may come in: names of this server, web pages of others, keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.gateway.auth import Doors, host_name, is_loopback, key_in, leaves_machine
from allod.kernel.api_keys import ApiKeys
from allod.kernel.settings import ServerSettings
from allod.sdk.chat import Caller
from allod.sdk.errors import Forbidden, Unauthorized

LOCAL, AFAR = "127.0.0.1", "192.168.1.9"


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "api_keys.json")


def enter(
    keys: ApiKeys, *, path: str = "/v1/models", client: str = LOCAL, settings: Any = None, **headers: str
) -> Caller:
    given_ = {"host": "localhost:1337", **headers}
    raw = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in given_.items()}
    return Doors(ServerSettings(**(settings or {})), keys).enter(path, client, raw)


# names


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "localhost:1337",
            "LOCALHOST:1337",
            "localhost.:1337",
            "allod.localhost:80",
            "127.0.0.1",
        ),
        *("127.0.0.1:1337", "127.9.9.9", "[::1]", "[::1]:1337", "[::ffff:127.0.0.1]:1337"),
    ],
)
def test_names_of_this_machine(keys: ApiKeys, host: str) -> None:
    assert enter(keys, host=host) == Caller()


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "localhost.evil.example", "evil.example:1337", "notlocalhost", "0.0.0.0:1337"),
        *("192.168.1.5:1337", "[2001:db8::1]:1337", "127.0.0.1.evil.example", "127.1", "2130706433", "[::]"),
        *("localhost@evil.example", "localhost:1337:1", "[::1].evil.example", ".localhost.evil", "a b"),
    ],
)
def test_a_name_that_leads_here_by_rebinding_is_refused(keys: ApiKeys, host: str) -> None:
    _, secret = keys.create("test")
    for path in ("/v1/models", "/health"):
        with pytest.raises(Forbidden) as caught:
            enter(keys, path=path, host=host, x_api_key=secret)
        assert "allowed_hosts" in caught.value.fix


def test_an_allowed_name_needs_a_key(keys: ApiKeys) -> None:
    key, secret = keys.create("test")
    settings = {"allowed_hosts": ["Allod.Example"]}
    with pytest.raises(Unauthorized):
        enter(keys, settings=settings, host="allod.example:443")
    assert enter(keys, settings=settings, host="ALLOD.example:443", x_api_key=secret) == Caller(key.id)


def test_a_server_for_others_answers_to_its_addresses(keys: ApiKeys) -> None:
    key, secret = keys.create("test")
    for host in ("0.0.0.0", "192.168.1.5", "::"):
        for name in ("192.168.1.5:1337", "[2001:db8::1]:1337"):
            found = enter(keys, settings={"host": [host]}, client=AFAR, host=name, x_api_key=secret)
            assert found == Caller(key.id)
        with pytest.raises(Forbidden):
            enter(keys, settings={"host": [host]}, client=AFAR, host="evil.example", x_api_key=secret)


def test_a_name_to_listen_on_is_a_name_to_answer_to(keys: ApiKeys) -> None:
    key, secret = keys.create("test")
    found = enter(keys, settings={"host": ["Box.lan"]}, client=AFAR, host="box.LAN:1337", x_api_key=secret)
    assert found == Caller(key.id)


# web pages

TRUSTED: dict[str, Any] = {"allowed_origins": ["http://localhost:3000/", "https://Chat.Example"]}


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("http://localhost:1337", "same-origin"),
        ("https://localhost:1337", None),
        ("http://localhost:3000", "same-site"),
        ("HTTP://LOCALHOST:3000", "cross-site"),
        ("https://chat.example", "cross-site"),
        (None, "same-origin"),
        (None, "none"),
        (None, None),
    ],
)
def test_pages_that_may_ask(keys: ApiKeys, origin: str | None, site: str | None) -> None:
    headers = {"origin": origin, "sec_fetch_site": site}
    enter(keys, settings=TRUSTED, **{name: value for name, value in headers.items() if value})


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("null", "cross-site"),
        ("null", None),
        ("", None),
        ("https://evil.example", "cross-site"),
        ("http://localhost:8080", "same-site"),
        ("http://localhost", None),
        ("http://localhost:1337.evil.example", None),
        ("http://127.0.0.1:1337", None),
        ("https://chat.example.evil", None),
        ("file://", None),
        (None, "cross-site"),
        (None, "same-site"),
        (None, "anything"),
    ],
)
def test_pages_that_may_not(keys: ApiKeys, origin: str | None, site: str | None) -> None:
    _, secret = keys.create("test")
    headers = {"origin": origin, "sec_fetch_site": site, "x_api_key": secret}
    for path in ("/v1/models", "/health"):
        with pytest.raises(Forbidden) as caught:
            enter(
                keys,
                path=path,
                settings=TRUSTED,
                **{name: value for name, value in headers.items() if value is not None},
            )
        assert "page of a page" not in caught.value.detail


def test_only_an_allowed_page_may_read_the_answer(keys: ApiKeys) -> None:
    doors = Doors(ServerSettings(**TRUSTED), keys)
    allowed = dict(doors.cors({b"origin": b"http://localhost:3000"}))
    assert allowed[b"access-control-allow-origin"] == b"http://localhost:3000"
    assert allowed[b"vary"] == b"Origin"
    assert b"access-control-allow-credentials" not in allowed
    for origin in (b"null", b"*", b"https://evil.example", b"http://localhost:1337"):
        assert doors.cors({b"origin": origin}) == ()
    assert doors.cors({}) == ()


# keys


def test_a_key_in_either_header(keys: ApiKeys) -> None:
    key, secret = keys.create("test")
    for headers in (
        {"authorization": f"Bearer {secret}"},
        {"authorization": f"bearer   {secret} "},
        {"x_api_key": secret},
        {"authorization": "Basic abc", "x_api_key": secret},
        {"authorization": "Bearer ", "x_api_key": f" {secret}"},
    ):
        assert enter(keys, settings={"require_key": True}, **headers) == Caller(key.id)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "is needed"),
        ({"authorization": "Basic abc"}, "is needed"),
        ({"authorization": "Bearer"}, "is needed"),
        ({"authorization": "Bearer wrong"}, "is not known"),
        ({"x_api_key": "wrong"}, "is not known"),
        ({"x_api_key": "\xff\xfe"}, "is not known"),
    ],
)
def test_without_a_key_where_one_is_needed(keys: ApiKeys, headers: dict[str, str], said: str) -> None:
    keys.create("test")
    for settings, client in (({"require_key": True}, LOCAL), ({}, AFAR), ({}, "")):
        with pytest.raises(Unauthorized, match=said):
            enter(keys, settings=settings, client=client, **headers)


def test_any_key_will_do_on_this_machine(keys: ApiKeys) -> None:
    assert enter(keys, authorization="Bearer whatever") == Caller()


def test_a_removed_key_is_worth_nothing(keys: ApiKeys) -> None:
    key, secret = keys.create("test")
    keys.remove(key.id)
    with pytest.raises(Unauthorized):
        enter(keys, client=AFAR, x_api_key=secret)


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_clients_on_this_machine(keys: ApiKeys, client: str) -> None:
    assert enter(keys, client=client) == Caller()


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_whether_it_lives_is_told_to_all(keys: ApiKeys, path: str) -> None:
    assert enter(keys, path=path, client=AFAR, settings={"require_key": True}) == Caller()


@pytest.mark.parametrize(
    "path", ["/metrics", "/docs", "/openapi.json", "/v1/models", "/api/keys", "/health/x", "/"]
)
def test_all_else_is_not(keys: ApiKeys, path: str) -> None:
    with pytest.raises(Unauthorized):
        enter(keys, path=path, client=AFAR)


# the pieces


@pytest.mark.parametrize(
    ("host", "name"),
    [
        *(
            ("a", "a"),
            ("a:1", "a"),
            ("a:", "a"),
            ("[::1]:1", "::1"),
            ("[::1]", "::1"),
            ("::1", "::1"),
            ("", ""),
        ),
        *(("[::1", "::1"), ("a:b:c", "a:b:c")),
    ],
)
def test_names_in_host_headers(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    "address", ["", "evil", "0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1", "localhost2"]
)
def test_what_is_not_this_machine(address: str) -> None:
    assert not is_loopback(address)


def test_addresses_that_others_can_reach() -> None:
    assert leaves_machine(["127.0.0.1", "::1", "localhost"]) == []
    assert leaves_machine(["127.0.0.1", "0.0.0.0", "::", "10.0.0.1"]) == ["0.0.0.0", "::", "10.0.0.1"]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_no_bytes_break_the_reading_of_keys(authorization: bytes, other: bytes) -> None:
    found = key_in({b"authorization": authorization, b"x-api-key": other})
    assert found is None or found
