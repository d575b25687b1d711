"""Who may come in: names of this server, web pages of others, keys, sessions, rights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.gateway.auth import Doors, host_name, is_loopback, key_in, leaves_machine
from allod.kernel.api_keys import ApiKey, ApiKeys
from allod.kernel.server_settings import ServerSettings
from allod.kernel.sessions import Sessions
from allod.kernel.storage import Database
from allod.sdk.chat import Caller
from allod.sdk.errors import Forbidden, Unauthorized
from tests.unit.kernel.database import kernel_database

LOCAL, AFAR = "127.0.0.1", "192.168.1.9"


COOKIE = "allod-test"


class Known:
    """Keys and sessions, made without an event loop around."""

    def __init__(self, database: Database) -> None:
        self.keys = ApiKeys()
        self.sessions = Sessions()
        asyncio.run(self.keys.attach(database, database.file.with_name("none")))
        asyncio.run(self.sessions.attach(database))

    def create(self, name: str, *rights: str) -> tuple[ApiKey, str]:
        return asyncio.run(self.keys.create(name, rights or ("admin",)))

    def remove(self, key_id: str) -> None:
        asyncio.run(self.keys.remove(key_id))

    def open(self) -> dict[str, str]:
        """A new session's headers."""
        _, cookie, header = asyncio.run(self.sessions.open("a test"))
        return {"cookie": f"other=1; {COOKIE}={cookie}", "allod_session": header}

    def doors(self, settings: Any) -> Doors:
        found = ServerSettings(**(settings or {}))
        return Doors(lambda: found, self.keys, self.sessions, lambda: COOKIE)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Known]:
    with kernel_database(tmp_path) as database:
        yield Known(database)


def enter(
    keys: Known,
    *,
    path: str = "/v1/models",
    method: str = "GET",
    client: str = LOCAL,
    settings: Any = None,
    **headers: str,
) -> Caller:
    given_ = {"host": "localhost:1337", **headers}
    raw = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in given_.items()}
    return keys.doors(settings).enter(method, path, client, raw)


def of(key: ApiKey) -> Caller:
    return Caller(key.id, key.rights)


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
def test_names_of_this_machine(keys: Known, host: str) -> None:
    assert enter(keys, host=host) == Caller()


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "localhost.evil.example", "evil.example:1337", "notlocalhost", "0.0.0.0:1337"),
        *("192.168.1.5:1337", "[2001:db8::1]:1337", "127.0.0.1.evil.example", "127.1", "2130706433", "[::]"),
        *("localhost@evil.example", "localhost:1337:1", "[::1].evil.example", ".localhost.evil", "a b"),
    ],
)
def test_a_name_that_leads_here_by_rebinding_is_refused(keys: Known, host: str) -> None:
    _, secret = keys.create("test")
    for path in ("/v1/models", "/health"):
        with pytest.raises(Forbidden) as caught:
            enter(keys, path=path, host=host, x_api_key=secret)
        assert "allowed_hosts" in caught.value.fix


def test_an_allowed_name_needs_a_key(keys: Known) -> None:
    key, secret = keys.create("test")
    settings = {"allowed_hosts": ["Allod.Example"]}
    with pytest.raises(Unauthorized):
        enter(keys, settings=settings, host="allod.example:443")
    assert enter(keys, settings=settings, host="ALLOD.example:443", x_api_key=secret) == of(key)


def test_a_server_for_others_answers_to_its_addresses(keys: Known) -> None:
    key, secret = keys.create("test")
    for host in ("0.0.0.0", "192.168.1.5", "::"):
        for name in ("192.168.1.5:1337", "[2001:db8::1]:1337"):
            found = enter(keys, settings={"host": [host]}, client=AFAR, host=name, x_api_key=secret)
            assert found == of(key)
        with pytest.raises(Forbidden):
            enter(keys, settings={"host": [host]}, client=AFAR, host="evil.example", x_api_key=secret)


def test_a_name_to_listen_on_is_a_name_to_answer_to(keys: Known) -> None:
    key, secret = keys.create("test")
    found = enter(keys, settings={"host": ["Box.lan"]}, client=AFAR, host="box.LAN:1337", x_api_key=secret)
    assert found == of(key)


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
def test_pages_that_may_ask(keys: Known, origin: str | None, site: str | None) -> None:
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
def test_pages_that_may_not(keys: Known, origin: str | None, site: str | None) -> None:
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


def test_only_an_allowed_page_may_read_the_answer(keys: Known) -> None:
    doors = keys.doors(TRUSTED)
    allowed = dict(doors.cors({b"origin": b"http://localhost:3000"}))
    assert allowed[b"access-control-allow-origin"] == b"http://localhost:3000"
    assert allowed[b"vary"] == b"Origin"
    assert b"access-control-allow-credentials" not in allowed
    for origin in (b"null", b"*", b"https://evil.example", b"http://localhost:1337"):
        assert doors.cors({b"origin": origin}) == ()
    assert doors.cors({}) == ()


# keys


def test_a_key_in_either_header(keys: Known) -> None:
    key, secret = keys.create("test")
    for headers in (
        {"authorization": f"Bearer {secret}"},
        {"authorization": f"bearer   {secret} "},
        {"x_api_key": secret},
        {"authorization": "Basic abc", "x_api_key": secret},
        {"authorization": "Bearer ", "x_api_key": f" {secret}"},
    ):
        assert enter(keys, settings={"require_key": True}, **headers) == of(key)


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
def test_without_a_key_where_one_is_needed(keys: Known, headers: dict[str, str], said: str) -> None:
    keys.create("test")
    for settings, client in (({"require_key": True}, LOCAL), ({}, AFAR), ({}, "")):
        with pytest.raises(Unauthorized, match=said):
            enter(keys, settings=settings, client=client, **headers)


def test_any_key_will_do_on_this_machine(keys: Known) -> None:
    assert enter(keys, authorization="Bearer whatever") == Caller()


def test_a_removed_key_is_worth_nothing(keys: Known) -> None:
    key, secret = keys.create("test")
    keys.remove(key.id)
    with pytest.raises(Unauthorized):
        enter(keys, client=AFAR, x_api_key=secret)


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_clients_on_this_machine(keys: Known, client: str) -> None:
    assert enter(keys, client=client) == Caller()


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_whether_it_lives_is_told_to_all(keys: Known, path: str) -> None:
    assert enter(keys, path=path, client=AFAR, settings={"require_key": True}) == Caller()


@pytest.mark.parametrize(
    "path", ["/metrics", "/docs", "/openapi.json", "/v1/models", "/api/keys", "/health/x", "/pages"]
)
def test_all_else_is_not(keys: Known, path: str) -> None:
    with pytest.raises(Unauthorized):
        enter(keys, path=path, client=AFAR)


# rights


STATELESS = [
    "/v1/models",
    "/v1/models/x",
    "/v1/chat/completions",
    "/docs",
    "/openapi.json",
    "/api/tags",
    "/api/chat",
]
KEPT = [
    *("/metrics", "/api/settings", "/api/extensions", "/api/jobs", "/api/events", "/api/llamacpp/models"),
    *("/api/doctor", "/api/tools", "/api/keys", "/api/sessions", "/api/vault", "/api/egress", "/api/backup"),
]


@pytest.mark.parametrize("path", STATELESS)
def test_what_touches_nothing_is_free_on_this_machine_only(keys: Known, path: str) -> None:
    for method in ("GET", "POST"):
        assert enter(keys, path=path, method=method) == Caller()
        with pytest.raises(Unauthorized):
            enter(keys, path=path, method=method, client=AFAR)
        with pytest.raises(Unauthorized):
            enter(keys, path=path, method=method, settings={"require_key": True})


@pytest.mark.parametrize("path", KEPT)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "PUT"])
def test_what_is_kept_needs_a_key_or_a_session(keys: Known, path: str, method: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        enter(keys, path=path, method=method)
    assert "allod open" in refused.value.fix
    key, secret = keys.create("all", "admin")
    assert enter(keys, path=path, method=method, x_api_key=secret) == of(key)
    assert enter(keys, path=path, method=method, **keys.open()).may("anything")


@pytest.mark.parametrize(
    ("right", "may", "may_not"),
    [
        (
            "read",
            [
                ("GET", "/api/settings"),
                ("GET", "/api/llamacpp/models"),
                ("GET", "/metrics"),
                ("GET", "/v1/models"),
            ],
            [("PATCH", "/api/settings/server"), ("POST", "/api/llamacpp/models"), ("GET", "/api/keys")],
        ),
        (
            "chat",
            [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/api/chat")],
            [
                ("GET", "/api/settings"),
                ("POST", "/api/llamacpp/models"),
                ("GET", "/api/backup"),
                ("GET", "/metrics"),
            ],
        ),
        (
            "llamacpp",
            [("GET", "/api/llamacpp/models"), ("POST", "/api/llamacpp/models")],
            [("POST", "/v1/chat/completions"), ("GET", "/api/terminal/history"), ("GET", "/api/settings")],
        ),
        ("keysmith", [("GET", "/api/keysmith/x"), ("POST", "/api/keysmith/x")], [("GET", "/api/keys")]),
    ],
)
def test_a_key_opens_what_it_was_made_for(
    keys: Known, right: str, may: list[tuple[str, str]], may_not: list[tuple[str, str]]
) -> None:
    key, secret = keys.create("some", right)
    for method, path in may:
        assert enter(keys, method=method, path=path, client=AFAR, x_api_key=secret) == of(key)
    for method, path in may_not:
        with pytest.raises(Forbidden) as refused:
            enter(keys, method=method, path=path, client=AFAR, x_api_key=secret)
        assert "--right" in refused.value.fix


def test_a_cookie_alone_gains_nothing_nor_does_the_header(keys: Known) -> None:
    halves = keys.open()
    for name, value in halves.items():
        with pytest.raises(Unauthorized):
            enter(keys, path="/api/settings", **{name: value})
    foreign = {**halves, "cookie": halves["cookie"].replace(COOKIE, "allod-other")}
    with pytest.raises(Unauthorized):
        enter(keys, path="/api/settings", **foreign)
    assert enter(keys, path="/api/settings", **halves).may("admin")


def test_the_page_may_be_come_to_from_anywhere_but_nothing_else(keys: Known) -> None:
    arriving = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert enter(keys, path="/", client=AFAR, host="localhost", **arriving) == Caller()
    with pytest.raises(Forbidden):
        enter(keys, path="/", sec_fetch_site="cross-site", sec_fetch_mode="cors")
    with pytest.raises(Forbidden):
        enter(keys, path="/v1/models", **arriving)
    with pytest.raises(Forbidden):
        enter(keys, path="/", method="POST", **arriving)


def test_changed_settings_are_heeded_at_once(keys: Known) -> None:
    current = [ServerSettings()]
    doors = Doors(lambda: current[0], keys.keys, keys.sessions, lambda: COOKIE)
    headers = {b"host": b"localhost"}
    assert doors.enter("GET", "/v1/models", LOCAL, headers) == Caller()
    current[0] = ServerSettings(require_key=True, allowed_hosts=["box.lan"])
    with pytest.raises(Unauthorized):
        doors.enter("GET", "/v1/models", LOCAL, headers)
    with pytest.raises(Unauthorized):
        doors.enter("GET", "/v1/models", LOCAL, {b"host": b"box.lan"})


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
