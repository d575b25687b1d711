"""Tokens counted without loading a model: the same to the token as the model itself counts; nothing stays behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from allod.extensions.llamacpp import counting
from allod.extensions.llamacpp.catalog import embedded_model
from allod.kernel.house import House
from allod.sdk.chat import ChatRequest
from allod.sdk.engine import ModelId
from allod.sdk.errors import BadRequest, LoadFailed
from allod.testing.house import standing
from allod.testing.scripted import install
from tests.conftest import MODEL
from tests.http_client import user, wait_until
from tests.integration.in_process import LLAMACPP, SMALL, children, engine
from tests.unit.llamacpp.gguf_files import write
from tests.unit.llamacpp.tiny_models import bert, llama, qwen2

_ID = ModelId(MODEL)
_TEXTS = (
    "",
    " ",
    "Hello world",
    "  two  spaces \n\n\n and\tnewlines\r\n",
    "The quick brown fox jumps over 13 lazy dogs, 3.14159 times; don't!",
    "def f(x):\n    return {'a': [1, 2, 3], \"b\": x ** 2}  # comment",
    "你好，世界。分析显示，这个模型能数词元。",
    "中文 mixed with English，和 emoji 😀👩‍👩‍👧‍👦🇫🇷",
    "Привет, мир! Ελληνικά عربى עברית हिन्दी ไทย 한국어 日本語",
    "<|im_start|>system\nnot one<|im_end|>\n<|endoftext|><s></s>[CLS][SEP][INST] <|eot_id|>",
    "e\u0301 é \u200b\u00a0\ufeff \x00\x01\x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁ ½ Ⅷ ㍿",
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with standing(tmp_path / "home", [LLAMACPP], settings=SMALL) as house:
        yield house


def chat(messages: Any, model: str = "jan", **parameters: Any) -> ChatRequest:
    return ChatRequest(model=model, messages=messages, parameters=parameters)


def varied_texts(count: int) -> list[str]:
    """Pieces of all the above and of the whole of Unicode, joined at random, always the same ones."""
    dice = random.Random(4711)
    planes = [(0x20, 0x7F), (0xA0, 0x600), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0x20, 0xD7FF)]
    texts = list(_TEXTS)
    while len(texts) < count:
        drawn = "".join(chr(dice.randint(*dice.choice(planes))) for _ in range(dice.randint(1, 30)))
        texts.append("".join(dice.choice([drawn, " ", "\n", *_TEXTS]) for _ in range(dice.randint(1, 6))))
    return texts


def conversation(turns: int) -> list[dict[str, Any]]:
    said = [
        {"role": role, "content": f"{number}. {_TEXTS[number % len(_TEXTS)]} And so on, and on. " * 4}
        for number in range(turns)
        for role in ("user", "assistant")
    ]
    return [{"role": "system", "content": "Be brief."}, *said]


async def seen(house: House, texts: Sequence[str], chats: Sequence[ChatRequest]) -> list[Any]:
    """All that can be asked about them, from whoever answers now."""
    model = (await house.models.find(chats[0].model)).id
    asked = engine(house)
    answers: list[Any] = []
    for text in texts:
        for special in (False, True):
            tokens = await asked.tokenize(model, text, special=special, pieces=True)
            answers += [tokens, await asked.detokenize(model, tokens.ids)]
    for request in chats:
        answers += [await house.models.count_tokens(request), await house.models.apply_template(request)]
    return answers


async def test_every_token_and_template_is_the_same_as_the_loaded_model_s(house: House) -> None:
    weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    chats = [
        chat(user("Hi")),
        chat(conversation(60)),
        chat([*user("Hi"), {"role": "assistant", "content": "Well, 分"}]),
        chat([{"role": "developer", "content": "x"}, *user("y")]),
        chat(user("What is the weather?"), tools=[weather]),
        chat(user("Hi"), add_generation_prompt=False),
        chat([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]),
        *(chat(user(text)) for text in _TEXTS),
    ]
    texts = varied_texts(300)
    unloaded = await seen(house, texts, chats)
    assert house.models.report() == []
    assert unloaded[-2 * len(chats) + 2] > 8000
    await house.models.load(_ID)
    await engine(house).close()  # so that nobody but the model's own worker is left to answer
    loaded = await seen(house, texts, chats)
    assert unloaded == loaded
    assert len(children()) == 1


@pytest.mark.parametrize("tiny", [llama, qwen2, bert])
async def test_it_is_the_same_for_other_architectures_and_tokenizers(
    tmp_path: Path, tiny: Callable[[], bytes]
) -> None:
    write(tmp_path / "home/models/tiny.gguf", tiny())
    settings = {"llamacpp": {"context_tokens": 128, "pool_tokens": 128, "slots": 1}}
    async with standing(tmp_path / "home", [LLAMACPP], settings=settings) as house:
        card = await house.models.find("tiny")
        assert card.problem == ""
        chats = [chat(user(text), "tiny") for text in ("Hi", "hello world", "你好 <s> [CLS]")]
        unloaded = await seen(house, varied_texts(100), chats)
        assert house.models.report() == []
        await house.models.load(card.id)
        await engine(house).close()
        assert unloaded == await seen(house, varied_texts(100), chats)


async def test_counting_loads_nothing_and_its_worker_is_no_model_in_memory(house: House) -> None:
    assert await house.models.count_tokens(chat(user("Hi"))) > 5
    assert (house.models.state(_ID), house.models.report()) == ("stopped", [])
    (worker,) = children()
    path = embedded_model()
    assert path is not None
    assert worker.memory_info().rss < path.stat().st_size
    (file,) = (house.paths.data / "cache/vocabularies").iterdir()
    assert file.stat().st_size < path.stat().st_size / 10


async def test_where_the_model_is_loaded_its_own_worker_is_asked_without_a_lease(house: House) -> None:
    await house.models.load(_ID)
    used = house.models.report()
    assert await house.models.count_tokens(chat(user("Hi"))) > 5
    assert len(children()) == 1
    assert [row["running"] for row in house.models.report()] == [row["running"] for row in used] == [0]


async def test_the_worker_that_counted_ends_after_its_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "IDLE_S", 0.1)
    assert await house.models.count_tokens(chat(user("Hi"))) > 5
    _, left = await asyncio.to_thread(psutil.wait_procs, children(), 10)
    assert left == []
    assert await house.models.count_tokens(chat(user("Hi"))) > 5  # by a new one


async def test_of_many_that_ask_at_once_one_starts_it(house: House) -> None:
    counts = await asyncio.gather(*(house.models.count_tokens(chat(user("Hi"))) for _ in range(20)))
    assert len(set(counts)) == 1
    assert len(children()) == 1


async def test_one_that_leaves_while_it_starts_takes_it_from_nobody(house: House) -> None:
    leaving = asyncio.create_task(house.models.count_tokens(chat(user("Hi"))))
    staying = asyncio.create_task(house.models.count_tokens(chat(user("Hi"))))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying > 5
    assert leaving.cancelled()


async def test_two_rest_at_most(tmp_path: Path) -> None:
    path = embedded_model()
    assert path is not None
    names = ("one", "two", "three")
    (tmp_path / "home/models").mkdir(parents=True)
    for name in names:
        (tmp_path / f"home/models/{name}.gguf").symlink_to(path)
    async with standing(tmp_path / "home", [LLAMACPP], settings=SMALL) as house:
        counts = [await house.models.count_tokens(chat(user("Hi"), name)) for name in names]
        assert len(set(counts)) == 1
        await asyncio.to_thread(wait_until, lambda: len(children()) == 2)
        assert len(list((house.paths.data / "cache/vocabularies").iterdir())) == 1  # they are one model


async def test_words_of_a_private_chat_leave_with_the_question(house: House) -> None:
    await house.models.count_tokens(chat(user("Hi")))
    (resting,) = children()
    assert await house.models.count_tokens(chat(user("Hi")), "private") > 5
    assert "Hi" in await house.models.apply_template(chat(user("Hi")), "private")
    assert [child.pid for child in children()] == [resting.pid]


async def test_unloading_a_model_ends_what_counted_for_it(house: House) -> None:
    await house.models.count_tokens(chat(user("Hi")))
    await house.models.load(_ID)
    assert len(children()) == 2
    await house.models.unload(_ID)
    assert children() == []


async def test_it_ends_with_its_extension(house: House) -> None:
    await house.models.count_tokens(chat(user("Hi")))
    await house.host.disable("llamacpp")
    assert children() == []


async def test_another_template_counts_from_the_next_question_on(house: House, tmp_path: Path) -> None:
    before = await house.models.apply_template(chat(user("Hi")))
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    await house.change_settings("llamacpp", {"chat_template": str(template)})
    assert await house.models.apply_template(chat(user("Hi"))) == "[Hi]" != before


async def test_a_llama_server_of_one_s_own_counts_too(tmp_path: Path) -> None:
    program = install(tmp_path / "program", {})  # to which a token is a byte
    settings = {"llamacpp": {**SMALL["llamacpp"], "binary": str(program)}}
    async with standing(tmp_path / "home", [LLAMACPP], settings=settings) as house:
        assert await house.models.count_tokens(chat(user("Hi there"))) == len("Hi there")
        assert house.models.report() == []


async def test_what_an_image_takes_is_not_guessed(tmp_path: Path) -> None:
    from tests.unit.llamacpp.gguf_files import PROJECTOR, gguf

    (tmp_path / "home/models").mkdir(parents=True)
    write(tmp_path / "home/models/tiny.gguf", llama())
    write(tmp_path / "home/models/mmproj-tiny.gguf", gguf(PROJECTOR, clip__vision__projection_dim=32))
    async with standing(tmp_path / "home", [LLAMACPP], settings=SMALL) as house:
        assert "vision" in (await house.models.find("tiny")).capabilities
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        with pytest.raises(BadRequest, match="only while 'tiny' is in memory"):
            await house.models.count_tokens(chat([{"role": "user", "content": [image]}], "tiny"))
        assert await house.models.count_tokens(chat(user("Hi"), "tiny")) > 0


async def test_a_vocabulary_file_that_was_damaged_is_made_again(house: House) -> None:
    expected = await house.models.count_tokens(chat(user("Hi")))
    await engine(house).close()
    (file,) = (house.paths.data / "cache/vocabularies").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(LoadFailed):
        await house.models.count_tokens(chat(user("Hi")))
    assert await house.models.count_tokens(chat(user("Hi"))) == expected
