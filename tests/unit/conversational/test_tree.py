"""The tree of a thread: whatever is done to it, it stays a tree, and both places agree on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allod.extensions.conversational.parts import Text, text_of
from allod.extensions.conversational.records import Thread
from allod.extensions.conversational.rows import Rows
from allod.extensions.conversational.tree import cut, fork, grow, show, siblings_of
from allod.kernel.storage import Database
from allod.sdk.errors import NotFound
from tests.unit.conversational.places import memory_rows, opened, rows_of


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = opened(tmp_path_factory.mktemp("tree"))
    yield database
    database.dispose()


@pytest.fixture(params=["store", "memory"])
def rows(request: pytest.FixtureRequest, database: Database) -> Iterator[Rows]:
    if request.param == "memory":
        yield memory_rows()
    else:
        with rows_of(database) as rows:
            yield rows


def begun(rows: Rows) -> Thread:
    thread = Thread("thread_a", 1, 1)
    rows.add_thread(thread)
    return thread


def said(rows: Rows, thread: Thread, *texts: str, parent: str | None = None) -> tuple[Thread, list[str]]:
    """Add messages, each below the one before, questions and answers in turn."""
    ids = []
    above = parent if parent is not None else thread.active
    for text in texts:
        role: Any = "user" if above is None or rows.message(above).role == "assistant" else "assistant"
        thread, message = grow(rows, thread, above, role, [Text(text=text)])
        above = message.id
        ids.append(message.id)
    return thread, ids


def active(rows: Rows, thread: Thread) -> list[str]:
    """The texts of the active branch."""
    if thread.active is None:
        return []
    return [text_of(message.parts) for message in rows.path(thread.active)]


def test_a_branch_is_shown_as_it_was_last_seen(rows: Rows) -> None:
    thread, [question, answer, more, last] = said(rows, begun(rows), "q1", "a1", "q2", "a2")
    thread, [other] = said(rows, thread, "a1 again", parent=question)
    assert active(rows, thread) == ["q1", "a1 again"]
    assert siblings_of(rows, thread.id, rows.path(other)) == {question: [question], other: [answer, other]}
    thread = show(rows, thread, answer)
    assert active(rows, thread) == ["q1", "a1", "q2", "a2"]
    thread, [third] = said(rows, thread, "q2 edited", parent=answer)
    assert active(rows, thread) == ["q1", "a1", "q2 edited"]
    thread = show(rows, show(rows, thread, other), question)
    assert active(rows, thread) == ["q1", "a1 again"]
    thread = show(rows, thread, answer)
    assert active(rows, thread) == ["q1", "a1", "q2 edited"]
    assert [each.id for each in rows.outline(thread.id)] == [question, answer, more, last, other, third]


def test_first_messages_have_versions_too(rows: Rows) -> None:
    thread, [first] = said(rows, begun(rows), "one")
    thread, second = grow(rows, thread, None, "user", [Text(text="two")])
    assert active(rows, thread) == ["two"]
    assert siblings_of(rows, thread.id, [second]) == {second.id: [first, second.id]}
    assert active(rows, show(rows, thread, first)) == ["one"]


def test_what_hangs_on_a_deleted_message_goes_too(rows: Rows) -> None:
    thread, [question, answer, *rest] = said(rows, begun(rows), "q1", "a1", "q2", "a2")
    thread, [other] = said(rows, thread, "a1 again", parent=question)
    thread = show(rows, thread, answer)
    thread, gone = cut(rows, thread, answer)
    assert set(gone) == {answer, *rest}
    assert (thread.messages, active(rows, thread)) == (2, ["q1", "a1 again"])
    thread, gone = cut(rows, thread, other)
    assert active(rows, thread) == ["q1"]
    thread, gone = cut(rows, thread, question)
    assert (thread.messages, thread.active, rows.outline(thread.id)) == (0, None, [])


def test_a_fork_is_a_thread_of_its_own(rows: Rows) -> None:
    thread, [_, answer, *_rest] = said(rows, begun(rows), "q1", "a1", "q2", "a2")
    forked = fork(rows, thread, answer, {})
    assert (active(rows, forked), forked.messages) == (["q1", "a1"], 2)
    forked, _ = said(rows, forked, "q3")
    assert active(rows, rows.thread(thread.id)) == ["q1", "a1", "q2", "a2"]
    assert not {each.id for each in rows.outline(forked.id)} & {each.id for each in rows.outline(thread.id)}


def test_a_message_of_another_thread_is_not_found(rows: Rows) -> None:
    thread, [question, *_] = said(rows, begun(rows), "q1", "a1")
    other = Thread("thread_b", 1, 1)
    rows.add_thread(other)
    for work in (show, cut, partial(fork, files={})):
        with pytest.raises(NotFound):
            work(rows, other, question)
        with pytest.raises(NotFound):
            work(rows, thread, "msg_none")


def test_a_thread_goes_with_all_that_is_its_own(rows: Rows) -> None:
    thread, [question, *_] = said(rows, begun(rows), "q1", "a1")
    rows.drop_thread(thread.id)
    with pytest.raises(NotFound):
        rows.thread(thread.id)
    with pytest.raises(NotFound):
        rows.message(question)


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["say", "beside", "show", "cut", "fork"]), st.integers(0, 50)), max_size=25
)


def walked(rows: Rows, steps: Sequence[Step]) -> list[tuple[object, ...]]:
    """Do the steps, check the tree after each; gives what it looks like then, by texts instead of ids."""
    thread = begun(rows)
    seen: list[tuple[object, ...]] = []
    for number, (act, place) in enumerate(steps):
        outline = rows.outline(thread.id)
        target = outline[place % len(outline)].id if outline else None
        if act == "say" or target is None:
            thread, _ = said(rows, thread, f"t{number}")
        elif act == "beside":
            before = rows.message(target)
            thread, _ = grow(rows, thread, before.parent, before.role, [Text(text=f"t{number}")])
        elif act == "show":
            thread = show(rows, thread, target)
        elif act == "cut":
            thread, _ = cut(rows, thread, target)
        else:
            thread = fork(rows, thread, target, {})
        check(rows, rows.thread(thread.id))
        assert rows.thread(thread.id) == thread
        seen.append((thread.messages, *active(rows, thread)))
    return seen


def check(rows: Rows, thread: Thread) -> None:
    outline = rows.outline(thread.id)
    ids = {each.id for each in outline}
    assert len(ids) == len(outline) == thread.messages
    for each in outline:
        message = rows.message(each.id)
        assert message.parent is None or message.parent in ids
        assert message.depth == (rows.message(message.parent).depth + 1 if message.parent else 1)
        if message.chosen is not None:
            assert rows.message(message.chosen).parent == message.id
        else:
            assert not rows.children(thread.id, [message.id])
    if thread.active is None:
        assert not outline
        return
    path = rows.path(thread.active)
    assert path[0].parent is None
    assert [message.chosen for message in path] == [*(message.id for message in path[1:]), None]
    assert rows.path(thread.active, 2) == path[-2:]


@given(STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_it_stays_a_tree_and_both_places_agree(
    database: Database, steps: list[Step]
) -> None:
    with rows_of(database) as kept:
        assert walked(kept, steps) == walked(memory_rows(), steps)
