"""Whether a fact from turn 3 is still told at turn 60, and how much of a prompt is read from the cache."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from allod.extensions.conversational.compose import _RECALL_TOKENS
from allod.extensions.conversational.policy import Turn, trim
from allod.extensions.conversational.recall import Said, recalled
from allod.testing.server import running_server
from bench.figures import Figure

_MODEL = "SmolLM2-135M-Instruct.Q4_1"
_CONTEXT = 2048

# (what is said in turn 3, what is asked in turn 60): the question has none of the fact's own words that carry meaning
FACTS: Sequence[tuple[str, str]] = (
    ("My dog Bruno is six now.", "How old is my pet?"),
    ("I moved to Lisbon last spring.", "In which city do I live?"),
    ("We settled on Thursday for the launch.", "When do we go live?"),
    ("My sister Clara works as a nurse.", "What is the profession of my sibling?"),
    ("I can't eat peanuts.", "Which food am I allergic to?"),
    ("The invoice number is 48213.", "What reference did the bill have?"),
    ("My flight leaves at 7:40.", "What time do I take off?"),
    ("I drive a blue Volvo.", "What car have I got?"),
    ("Our budget is 12,000 euros.", "How much money may be spent?"),
    ("My wife's name is Amara.", "What is my spouse called?"),
    ("I studied chemistry in Leeds.", "What was the subject of my degree?"),
    ("The password hint is the street of my first flat.", "What was that clue for logging in?"),
    ("I take 5 mg of lisinopril each morning.", "Which medicine am I on?"),
    ("My landlord is called Mr Okafor.", "Who owns the place that I rent?"),
    ("Our son plays the cello.", "Which instrument does my child have?"),
    ("I'm left-handed.", "Which hand do I write with?"),
    ("The meeting room is 4.17.", "Where do we come together?"),
    ("My favourite colour is teal.", "What shade do I like best?"),
    ("I work for a small law firm.", "Who employs me?"),
    ("We have a table booked under Ivanov.", "Whose name is the reservation in?"),
    ("My shoe size is 43.", "What boots fit me?"),
    ("I was born in 1984.", "What is my age?"),
    ("The Wi-Fi is called Magpie.", "Which network do I join?"),
    ("My boss is Henrike.", "Who do I report to?"),
    ("I quit smoking in March.", "When did I give up cigarettes?"),
    ("Our cat hates thunder.", "What scares my animal?"),
    ("My grandmother came from Odessa.", "Where does my family have its roots?"),
    ("I have two left knees, the doctor jokes; the right one was operated on.", "Which joint had surgery?"),
    ("The contract ends on 30 June.", "Until what date are we bound?"),
    ("My daughter starts school this autumn.", "What is new for my child soon?"),
    ("I run every morning before six.", "What sport do I do?"),
    ("We paint the kitchen in ochre.", "What hue gets the room where we cook?"),
    ("My bicycle was stolen on Friday.", "What did a thief take from me?"),
    ("I speak Tamil at home.", "What is my mother tongue?"),
    ("The client is Northwind Traders.", "For whom is the work done?"),
    ("My blood group is B negative.", "Which type do I have for a transfusion?"),
    ("I parked on level 3.", "Where is my car?"),
    ("Our anniversary is on 9 May.", "What day did we marry?"),
    ("My laptop has 32 GB of RAM.", "How much memory is in my computer?"),
    ("I'm writing a novel about bees.", "What is the topic of my book?"),
    ("我的孩子叫小云。", "我女儿的名字是什么？"),
    ("我住在成都。", "我家在哪个城市？"),
    ("我对花生过敏。", "哪种食物我不能吃？"),
    ("我们的会议改到周四。", "什么时候开会？"),
    ("我爱人是医生。", "我妻子做什么工作？"),
    ("我今年三十八岁。", "我多大年纪了？"),
    ("我开一辆蓝色的车。", "我的汽车是什么颜色？"),
    ("我的老板姓陈。", "我的上司是谁？"),
    ("合同六月到期。", "协议什么时候结束？"),
    ("我每天早上跑步。", "我做什么运动？"),
)
_CHAT = (
    "Could you make this sentence shorter?", "I think the second version reads better.",
    "What does amortised mean?", "Please write three headlines for a bakery.", "That is too formal for me.",
    "How do I centre a div?", "My code prints nothing, why?", "I tried that already and it did not help.",
    "Give me a table of the planets.", "Translate it into French, please.", "Now in the past tense.",
    "I like the first one, but make it warmer.", "Why is the sky blue?", "Explain it to a child.",
    "List five books on gardening.", "We could also start with a question.", "Is there a simpler word for that?",
    "I need it by tomorrow.", "Add a closing line.", "What would you leave out?", "Let us go on with part 2.",
    "Can you check the sum of 14, 27 and 90?", "I prefer metric units.", "Thanks, that works.",
    "How long do I boil an egg?", "Which of the two is cheaper?", "My spelling is poor, please correct it.",
    "Turn it into a list.", "I do not understand the last step.",
    "请把这句话改得短一些。", "再写一个例子。", "谢谢，这样很好。",
)  # fmt: skip
_ANSWERS = (
    "Here is a version that keeps the meaning and drops what is not needed. You may want to read it aloud once.",
    "There are several ways to do that. The first is the simplest: change one thing at a time and look what happens.",
    "Of course. I have put the most important point first, so that a reader who stops early still has it.",
    "当然可以。下面是一个更简短的版本，意思保持不变。",
)


_OTHER_FACTS = 25
"""Facts of the same kind that are said later, and that nobody asks for."""


def remembering(context_tokens: int = 2048, turns: int = 60) -> Iterator[Figure]:
    """How many of the facts are among what is told, with and without retrieval."""
    budget = context_tokens - context_tokens // 4
    kept = {True: 0, False: 0}
    took = []
    for number, (fact, question) in enumerate(FACTS):
        rng = random.Random(number)
        said = [(rng.choice(_CHAT), rng.choice(_ANSWERS)) for _ in range(turns - 1)]
        others = rng.sample([other for other, _ in FACTS if other != fact], _OTHER_FACTS)
        for place, other in zip(rng.sample(range(3, turns - 1), _OTHER_FACTS), others, strict=True):
            said[place] = (other, "I see.")
        said[2] = (fact, "I will remember that.")
        for retrieval in (True, False):
            reserve = min(budget // 4, _RECALL_TOKENS) if retrieval else 0
            sizes = [
                Turn(str(place), 10 + (len(asked.encode()) + len(answer.encode())) // 4)
                for place, (asked, answer) in enumerate(said)
            ]
            trimmed = trim(
                [*sizes, Turn("last", 20)], system_tokens=80, budget_tokens=budget, reserve_tokens=reserve
            )
            if "2" in trimmed.kept:
                raise AssertionError("the chat is too short: nothing is left out")
            if retrieval:
                left = [
                    Said(f"{place}{who}", who == "u", text)
                    for place, turn in enumerate(said)
                    if str(place) in trimmed.left_out
                    for who, text in zip("ua", turn, strict=True)
                ]
                began = time.perf_counter()
                found = recalled(left, question, reserve)
                took.append(time.perf_counter() - began)
                kept[True] += any(passage.message == "2u" for passage in found)
    yield Figure(
        f"a fact from turn 3 told at turn {turns}, retrieval on",
        100 * kept[True] / len(FACTS),
        "%",
        goal=90,
        is_better="higher",
        note=f"{len(FACTS)} probes, {1000 * max(took):.1f} ms at most to find it, budget {budget} tokens",
    )
    yield Figure("the same, retrieval off", 100 * kept[False] / len(FACTS), "%")


def cached(folder: Path, turns: int) -> Iterator[Figure]:
    """A long chat with the embedded model in a small context: what each turn reads from the cache."""
    settings = f'[llamacpp.models."{_MODEL}"]\ncontext_tokens = {_CONTEXT}\n'
    rng = random.Random(3)
    shares, cuts = [], []
    with running_server(folder / "home", settings=settings) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        key = json.loads((server.home / "run/server.json").read_text())["key"]
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

        def ask(method: str, path: str, body: object = None) -> Any:
            connection.request(
                method, f"/api/conversational{path}", None if body is None else json.dumps(body), headers
            )
            said = connection.getresponse().read()
            return said if path.endswith("/events") else json.loads(said)

        fields = {"title": "t", "parameters": {"max_tokens": 48, "temperature": 0}}
        thread = ask("POST", "/threads", fields)["id"]
        for number in range(turns):
            text = f"{rng.choice(_CHAT)} ({number}) {rng.choice(_ANSWERS)}"
            run = ask("POST", f"/threads/{thread}/runs", {"input": text})["run"]
            ask("GET", f"/runs/{run}/events")
            seen = ask("GET", f"/runs/{run}/context")
            usage = ask("GET", f"/runs/{run}")["message"]["usage"]
            if number:
                before = usage["prompt_tokens"] - len(text.encode()) // 4
                shares.append(100 * min(1, usage["cached_tokens"] / max(1, before)))
                cuts.append(bool(seen["is_cut_anew"]))
        connection.close()
    warm = [share for share, cut in zip(shares, cuts, strict=True) if not cut]
    yield Figure(
        f"tokens of what was said before read from the cache, {turns} turns in {_CONTEXT} tokens",
        median(warm),
        "%",
        goal=95,
        is_better="higher",
        note=f"median of turns without a new cut; the least {min(warm):.0f}",
    )
    yield Figure("turns with a new cut", 100 * sum(cuts) / len(cuts), "%", goal=10)
