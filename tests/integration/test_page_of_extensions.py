"""docs/extensions.md: its two packages, installed by pip as the page has them, do what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allod.cli.failures import Exit
from tests.command_line import allod, lines, refused
from tests.http_client import wait_until
from tests.packages import (
    PACKAGES,
    PAGE,
    Environment,
    code_of,
    commands_of,
    files_of,
    package_of,
    section_of,
)
from tests.packages.serving import Owner, serving
from tests.packages.site import Site, web_site

THIRTY, EACH = "Thirty lines", "One of each"
HARBOUR = "<h1>Harbour</h1><p>It opens <b>in May</b> &amp; closes in October.</p>"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("environment"))
    clippings = package_of(EACH, tmp_path_factory.mktemp("packages") / "allod-clippings")
    made.install(PACKAGES / "allod-echo", clippings)
    return made


@pytest.fixture(scope="module")
def anna(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    with serving(tmp_path_factory.mktemp("page") / "home", environment, default_model="echo") as started:
        yield started


def test_both_languages_have_the_same_code() -> None:
    chinese = PAGE.parent / "zh-CN/extensions.md"
    assert code_of(chinese) == code_of(PAGE)
    assert files_of(chinese.read_text("utf-8")).keys() == files_of(PAGE.read_text("utf-8")).keys()


def test_no_code_of_the_page_is_left_out() -> None:
    run = [text for section in (THIRTY, EACH) for text in files_of(section_of(PAGE, section)).values()]
    assert run == [text for language, text in code_of(PAGE) if language != "sh"]


# the thirty lines


def test_the_thirty_lines_install_into_a_running_server(
    anna: Owner, environment: Environment, tmp_path: Path
) -> None:
    package = package_of(THIRTY, tmp_path / "allod-glossary")
    module = (package / "allod_glossary.py").read_text("utf-8")
    assert len([line for line in module.splitlines() if line.strip()]) <= 32
    environment.install(package)
    try:
        assert anna.state("glossary") == "found"
        assert anna.ask("POST", "/api/extensions/glossary/enable").json["state"] == "active"
        setting, asking = commands_of(THIRTY)
        assert allod(anna.server, *setting).returncode == 0
        assert anna.ask("GET", "/api/settings/glossary").json["sources"] == {"terms": "user"}
        assert "Kranich: our project for the new harbour" in "".join(lines(anna.server, *asking))
        answer = anna.chat("When is kranich due?")
        assert {"stage": "glossary", "words": ["Kranich"]} in answer.json["allod"]["notes"]
        assert "1 passed" in environment.pytest(package, "-p", "no:cacheprovider")
    finally:
        environment.uninstall("allod-glossary")


# one of each


def clip(anna: Owner, *urls: str) -> dict[str, Any]:
    """The job that clips these pages, when it has ended."""
    started = anna.ask("POST", "/api/clippings/pages", {"urls": urls})
    assert started.status == 202, started.body
    return anna.job(started.json["job"])


def resumed(anna: Owner, job: str) -> dict[str, Any]:
    """The same job, when it has ended again."""
    assert anna.ask("POST", f"/api/jobs/{job}/resume").status == 200
    return anna.job(job)


def allow(anna: Owner, *sites: Site) -> None:
    for site in sites:
        grant = {"extension": "clippings", "host": site.host, "purpose": "clipping"}
        assert anna.ask("POST", "/api/egress/grants", grant).status == 201


def clipped(anna: Owner, words: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = anna.ask("GET", f"/api/clippings/pages?words={words}").json["pages"]
    return rows


def test_it_has_one_of_each(anna: Owner) -> None:
    row = anna.ask("GET", "/api/extensions/clippings").json
    assert (row["state"], row["package"]) == ("active", "allod-clippings")
    assert row["contributes"] == {
        "engines": [],
        "stages": [],
        "tools": ["find"],
        "jobs": ["clip_pages"],
        "events": ["JobEnded"],
        "services": [],
        "routes": True,
    }


def test_its_commands_work_as_they_stand(anna: Owner) -> None:
    start, watch, permit, resume = commands_of(EACH)
    with web_site({"/": HARBOUR}) as site:

        def here(command: list[str], job: str = "") -> list[str]:
            words = [
                word.replace("https://", "http://").replace("example.org", site.host) for word in command
            ]
            return [job if word == "ID" else word for word in words]

        (started,) = lines(anna.server, *here(start))
        _, _, job, *_ = started.split()  # The job ... is queued.
        watched = allod(anna.server, *here(watch, job))
        assert watched.returncode != 0
        assert "you have not allowed it" in watched.stderr
        assert f"allod egress allow clippings {site.host}, then: allod jobs resume {job}" in watched.stderr
        assert site.asked == []
        for command in permit, resume:
            lines(anna.server, *here(command, job))
        assert anna.job(job)["state"] == "done"
        assert site.paths == ["/"]


def test_the_model_is_asked_for_the_text_of_a_page_and_the_table_keeps_what_it_said(anna: Owner) -> None:
    with web_site({"/opening": HARBOUR}) as site:
        allow(anna, site)
        url = f"http://{site.host}/opening"
        assert clip(anna, url)["result"] == {"clipped": 1}
    (page, *_) = clipped(anna, "closes")
    assert page["url"] == url
    heard = json.loads(page["summary"])["heard"]
    assert heard.endswith("what this is about:\n\nHarbour It opens in May & closes in October.")
    assert anna.ask("POST", "/api/extensions/clippings/restart").json["state"] == "active"
    assert clipped(anna, "closes")[0] == page
    assert clipped(anna, "nobody wrote this".replace(" ", "%20")) == []


def test_a_job_that_is_resumed_reads_no_page_twice(anna: Owner) -> None:
    with web_site({"/1": "the first"}) as first, web_site({"/2": "the second"}) as second:
        allow(anna, first)
        stopped = clip(anna, f"http://{first.host}/1", f"http://{second.host}/2")
        assert (stopped["state"], stopped["done"], stopped["total"]) == ("failed", 1, 2)
        assert second.host in stopped["error"]
        assert stopped["fix"].endswith(f"{second.host}, then: allod jobs resume {stopped['id']}")
        assert [page["url"] for page in clipped(anna, "the%20first")] == [f"http://{first.host}/1"]
        assert clipped(anna, "the%20second") == []
        allow(anna, second)
        ended = resumed(anna, stopped["id"])
        assert (ended["state"], ended["done"], ended["total"]) == ("done", 2, 2)
        assert (first.paths, second.paths) == (["/1"], ["/2"])
        assert len(clipped(anna, "the%20first")) == len(clipped(anna, "the%20second")) == 1
        log = anna.ask("GET", "/api/egress/log?extension=clippings&limit=3").json["entries"]
    assert [(entry["host"], entry["verdict"], entry["purpose"]) for entry in reversed(log)] == [
        (first.host, "allowed", "clipping"),
        (second.host, "ungranted", "clipping"),
        (second.host, "allowed", "clipping"),
    ]


def test_a_token_goes_to_its_own_host_and_into_no_answer(anna: Owner) -> None:
    token = "kranich-0451"
    with web_site({"/": "for members"}, token) as closed, web_site({"/": "for all"}) as other:
        allow(anna, closed, other)
        pages = (f"http://{other.host}/", f"http://{closed.host}/")
        failed = clip(anna, *pages)
        assert failed["error"] == f"{closed.host} answered 401."
        method, path = failed["fix"].removeprefix("If it asks for a token: ").split()
        wrong = anna.ask(method, path, {"token": [token]})
        assert (wrong.status, wrong.json["param"]) == (400, "token")
        kept = anna.ask(method, path, {"token": token})
        assert (kept.status, kept.body) == (204, b"")
        done = resumed(anna, failed["id"])
        assert done["state"] == "done"
        assert clip(anna, *pages)["state"] == "done"
        assert closed.asked == [("/", ""), *[("/", f"Bearer {token}")] * 2]
        assert other.asked == [("/", "")] * 2
    pages_told = anna.ask("GET", "/api/clippings/pages").body.decode()
    assert "for members" in pages_told
    told = [wrong.body.decode(), json.dumps(done), pages_told, anna.server.log_text()]
    for path in ("extensions/clippings", "settings/clippings", "jobs", "egress/log"):
        told.append(anna.ask("GET", f"/api/{path}").body.decode())
    assert token not in "".join(told)


def test_a_model_finds_what_was_clipped(anna: Owner) -> None:
    with web_site({"/crane": "A crane dances."}) as site:
        allow(anna, site)
        clip(anna, f"http://{site.host}/crane")
    tools = [{"type": "allod", "name": "clippings_find"}]
    answer = anna.chat('call clippings_find {"words": "crane dances"}', tools=tools)
    (found,) = json.loads(answer.text)["results"]
    assert found.startswith(f"http://{site.host}/crane: ")
    assert "A crane dances." in found
    nothing = anna.chat('call clippings_find {"words": "a heron"}', tools=tools)
    assert json.loads(nothing.text)["results"] == ["No page says that."]


def test_it_hears_of_the_end_of_a_job_and_keeps_the_newest_pages_only(anna: Owner) -> None:
    assert anna.ask("PATCH", "/api/settings/clippings", {"keep": 2}).status == 200
    with web_site({"/1": "one", "/2": "two", "/3": "three"}) as site:
        allow(anna, site)
        assert clip(anna, *(f"http://{site.host}/{number}" for number in (1, 2, 3)))["state"] == "done"
    wait_until(lambda: len(clipped(anna, "")) == 2)
    assert [page["url"] for page in clipped(anna, "")] == [f"http://{site.host}/3", f"http://{site.host}/2"]


def test_what_is_no_address_is_refused_before_any_work(anna: Owner) -> None:
    for urls in ([], ["no address"], ["file:///etc/passwd"]):
        answer = anna.ask("POST", "/api/clippings/pages", {"urls": urls})
        assert (answer.status, answer.json["param"].partition(".")[0]) == (400, "urls")
    said = refused(anna.server, Exit.BAD_REQUEST, "jobs", "start", "clippings", "clip_pages", 'urls=["no"]')
    assert "urls" in said


def test_it_keeps_the_contract_by_the_glossarys_test(environment: Environment, tmp_path: Path) -> None:
    test = files_of(section_of(PAGE, THIRTY))["test_glossary.py"]
    its = test.replace("glossary", "clippings").replace("Glossary", "Clippings")
    (tmp_path / "test_clippings.py").write_text(its, "utf-8")
    assert "1 passed" in environment.pytest(tmp_path, "-p", "no:cacheprovider")
