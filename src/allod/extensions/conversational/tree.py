"""What can be done to the tree of a thread: grow it, show another branch, cut one off, fork. Wherever it is kept.

A message has one parent and any number of children; of these one is `chosen`. The active branch is what one sees by
following the chosen ones. An edited question and a regenerated answer are new children beside the old.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from allod.extensions.conversational.attachments import moved, own_parts, take_in
from allod.extensions.conversational.events import MessageChanged, ThreadChanged
from allod.extensions.conversational.parts import Part
from allod.extensions.conversational.records import Attachment, Message, Outline, Role, Thread, new_id
from allod.extensions.conversational.rows import Rows
from allod.sdk.errors import BadRequest, NotFound


def grow(
    rows: Rows, thread: Thread, parent: str | None, role: Role, parts: Sequence[Part], **facts: Any
) -> tuple[Thread, Message]:
    """Add a message below `parent` (None: as a first message), and show it.

    Raises NotFound, and BadRequest for a file that is not the thread's.
    """
    above = None if parent is None else message_of(rows, thread.id, parent)
    made = Message(
        id=new_id("msg"),
        thread=thread.id,
        parent=parent,
        depth=above.depth + 1 if above is not None else 1,
        role=role,
        parts=own_parts(rows, thread.id, parts),
        created_at=time.time(),
        **facts,
    )
    rows.add_message(made)
    if above is not None:
        rows.put_message(replace(above, chosen=made.id))
    if parent is None or parent == thread.active:
        changed = replace(thread, active=made.id)
    else:
        changed = replace(_shown(rows, thread, made), active=made.id)
    changed = replace(changed, messages=thread.messages + 1, changed_at=made.created_at)
    rows.put_thread(changed)
    rows.tell(MessageChanged(thread.id, made.id, "created"))
    return changed, made


def message_of(rows: Rows, thread: str, id: str) -> Message:
    """A message of this thread. Raises NotFound."""
    found = rows.message(id)
    if found.thread != thread:
        raise NotFound(f"The thread {thread!r} has no message {id[:60]!r}.", fix="Look at the thread again.")
    return found


def change(rows: Rows, before: Message, **fields: Any) -> Message:
    """Change what is said of a message, and tell of it."""
    after = replace(before, **fields)
    if after != before:
        rows.put_message(after)
        rows.tell(MessageChanged(after.thread, after.id, "changed"))
    return after


def show(rows: Rows, thread: Thread, id: str) -> Thread:
    """Let the active branch lead through this message, and on as it did when it was last seen. Raises NotFound."""
    message = message_of(rows, thread.id, id)
    changed = _shown(rows, thread, message)
    rows.put_thread(changed)
    rows.tell(ThreadChanged(thread.id, "changed"))
    return changed


def _shown(rows: Rows, thread: Thread, message: Message) -> Thread:
    below = message
    while below.parent is not None:
        above = rows.message(below.parent)
        if above.chosen != below.id:
            rows.put_message(replace(above, chosen=below.id))
        below = above
    return replace(thread, active=_end_of(rows, message).id)


def _end_of(rows: Rows, message: Message) -> Message:
    while message.chosen is not None:
        message = rows.message(message.chosen)
    return message


def cut(rows: Rows, thread: Thread, id: str) -> tuple[Thread, list[str]]:
    """Delete a message and all that hangs on it. Gives the ids that are gone. Raises NotFound."""
    message = message_of(rows, thread.id, id)
    children = _by_parent(rows.outline(thread.id))
    gone, waiting = [], [message.id]
    while waiting:
        next_id = waiting.pop()
        gone.append(next_id)
        waiting += [child.id for child in children[next_id]]
    rows.drop_messages(gone)
    changed = replace(thread, messages=thread.messages - len(gone), changed_at=time.time())
    siblings = [each for each in children[message.parent] if each.id != message.id]
    if message.parent is not None:
        above = rows.message(message.parent)
        if above.chosen == message.id:
            rows.put_message(replace(above, chosen=siblings[-1].id if siblings else None))
    if thread.active in gone:
        nearest = siblings[-1].id if siblings else message.parent
        changed = replace(changed, active=nearest and _end_of(rows, rows.message(nearest)).id)
    if thread.kept_from in gone:
        changed = replace(changed, kept_from=None)
    if thread.summary_upto in gone:  # it tells of what is no longer there
        changed = replace(changed, summary="", summary_upto=None)
    rows.put_thread(changed)
    rows.tell(MessageChanged(thread.id, message.id, "deleted"))
    return changed, gone


def fork(rows: Rows, thread: Thread, id: str, files: Mapping[str, Attachment]) -> Thread:
    """A new thread that holds what leads to this message. `files` are copies, by their blobs. Raises NotFound."""
    message_of(rows, thread.id, id)
    now = time.time()
    made = replace(
        thread,
        id=new_id("thread"),
        created_at=now,
        changed_at=now,
        is_favourite=False,
        archived_at=None,
        deleted_at=None,
        draft="",
        kept_from=None,
        summary="",
        summary_upto=None,
    )
    copies: list[Message] = []
    path = rows.path(id)
    ids = {message.id: new_id("msg") for message in path}
    for message, below in zip(path, [*path[1:], None], strict=True):
        copies.append(
            replace(
                message,
                id=ids[message.id],
                thread=made.id,
                parent=None if message.parent is None else ids[message.parent],
                parts=moved(message.parts, files),
                chosen=None if below is None else ids[below.id],
                status="interrupted" if message.status == "writing" else message.status,
            )
        )
    made = replace(made, active=copies[-1].id, messages=len(copies))
    rows.add_thread(made)
    take_in(rows, made.id, files.values())
    for copy in copies:
        rows.add_message(copy)
    rows.tell(ThreadChanged(made.id, "created"))
    return made


def siblings_of(rows: Rows, thread: str, messages: Sequence[Message]) -> dict[str, list[str]]:
    """For each of `messages` the ids of all children of its parent, itself among them, oldest first."""
    found = _by_parent(rows.children(thread, list({message.parent for message in messages})))
    return {message.id: [each.id for each in found[message.parent]] for message in messages}


def _by_parent(outline: Sequence[Outline]) -> defaultdict[str | None, list[Outline]]:
    found: defaultdict[str | None, list[Outline]] = defaultdict(list)
    for each in outline:
        found[each.parent].append(each)
    return found


def check_role(thread: str, above: Message | None, role: Role) -> None:
    """Raises BadRequest where an answer would follow an answer, or a question a question."""
    if (above.role if above is not None else "assistant") == role:
        said = "A question" if role == "user" else "An answer"
        raise BadRequest(
            f"{said} of the thread {thread!r} cannot follow another one.",
            fix="Name the message that it follows as `parent`.",
            param="parent",
        )
