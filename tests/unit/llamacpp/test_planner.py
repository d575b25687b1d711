"""What loading will take, by hand-made headers: the numbers by hand, and the laws that always hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.extensions.llamacpp.catalog import Catalog, ModelFile, embedded_model
from allod.extensions.llamacpp.gguf import Header
from allod.extensions.llamacpp.planner import Wanted, cache_bytes, compute_bytes, mapped_bytes, plan_load
from allod.sdk.engine import CPU
from allod.sdk.errors import LoadFailed

MIB, GIB = 1 << 20, 1 << 30

SMALL = Header(
    architecture="llama",
    name="",
    kind="model",
    quantization="F16",
    context_tokens=4096,
    block_count=2,
    embedding_length=64,
    hidden_length=256,
    head_count=4,
    head_count_kv=2,
    key_length=16,
    value_length=16,
    sliding_window=0,
    windowed_layers=(),
    state_bytes=0,
    vocabulary_tokens=1000,
    chat_template="",
    tool_template="",
    has_infill_tokens=False,
    pooling_type=None,
    modalities=(),
    projection_length=0,
    split_count=1,
    parameters=1,
)
_TOKEN_BYTES = 2 * 2 * (16 + 16) * 2  # layers, heads, keys and values, f16


def a_file(header: Header | None = SMALL, size_bytes: int = 10 * MIB, problem: str = "") -> ModelFile:
    path = Path("/m.gguf")
    return ModelFile("m", path, (path,), header, size_bytes, problem=problem)


def test_the_embedded_model_gets_its_whole_context() -> None:
    path = embedded_model()
    assert path is not None
    (file,) = Catalog([], Path("/none"), extra=[path]).scan()
    plan = plan_load(file, Wanted(), 64 * GIB)
    assert (plan.context_tokens, plan.pool_tokens, plan.slots) == (8192, 4 * 8192, 4)


def test_the_cache_holds_keys_and_values_of_every_token_in_whole_blocks_of_256() -> None:
    assert cache_bytes(SMALL, Wanted(), 1024) == 1024 * _TOKEN_BYTES
    assert cache_bytes(SMALL, Wanted(), 1025) == 1280 * _TOKEN_BYTES


def test_layers_with_a_window_keep_no_more_than_the_windows_of_all_slots() -> None:
    windowed = replace(SMALL, sliding_window=128, windowed_layers=(True, False))
    wanted = Wanted(slots=2, batch_tokens=256)
    assert cache_bytes(windowed, wanted, 4096) == (4096 + 512) * _TOKEN_BYTES // 2
    assert cache_bytes(windowed, wanted, 256) == 256 * _TOKEN_BYTES


def test_smaller_cache_types_take_less() -> None:
    small = Wanted(cache_type_k="q8_0", cache_type_v="q8_0")
    assert cache_bytes(SMALL, small, 1024) == 1024 * _TOKEN_BYTES * 34 // 64


def test_an_encoder_computes_a_whole_text_at_once() -> None:
    encoder = replace(SMALL, architecture="bert")
    assert compute_bytes(encoder, Wanted(), 2048, 2048) > 3 * compute_bytes(SMALL, Wanted(), 2048, 2048)


def test_the_prompt_cache_is_counted() -> None:
    plain = plan_load(a_file(), Wanted(), GIB).total_bytes
    assert plan_load(a_file(), Wanted(cache_ram_bytes=7 * MIB), GIB).total_bytes == plain + 7 * MIB


def test_each_slot_takes_the_scores_of_all_tokens_of_the_vocabulary() -> None:
    four, five = (plan_load(a_file(), Wanted(slots=n, pool_tokens=4096), GIB) for n in (4, 5))
    assert five.total_bytes - four.total_bytes == 4 * 1000


def test_weights_projector_and_states_are_counted() -> None:
    plain = plan_load(a_file(), Wanted(), GIB).total_bytes
    assert plan_load(a_file(size_bytes=11 * MIB), Wanted(), GIB).total_bytes == plain + MIB
    assert plan_load(replace(a_file(), mmproj_bytes=MIB), Wanted(), GIB).total_bytes == plain + MIB
    recurrent = a_file(replace(SMALL, state_bytes=1000))
    assert plan_load(recurrent, Wanted(slots=4), GIB).total_bytes == plain + 8000  # and a copy of each


def test_the_context_is_never_longer_than_trained_and_says_so() -> None:
    plan = plan_load(a_file(), Wanted(context_tokens=10_000), GIB)
    assert plan.context_tokens == 4096
    assert plan.reasons[0] == "The context is 4096 tokens, not 10000: the model was trained for no more."


def test_an_automatic_context_is_8192_at_most() -> None:
    long = replace(SMALL, context_tokens=1 << 20)
    assert plan_load(a_file(long), Wanted(), GIB).context_tokens == 8192
    assert plan_load(a_file(long), Wanted(context_tokens=20_000), GIB).context_tokens == 20_000


def test_a_model_that_does_not_say_its_context_gets_the_one_that_is_wanted() -> None:
    silent = a_file(replace(SMALL, context_tokens=0))
    assert plan_load(silent, Wanted(), GIB).context_tokens == 8192
    assert plan_load(silent, Wanted(context_tokens=99), GIB).context_tokens == 99


def test_each_slot_has_a_whole_context_where_memory_is_plenty() -> None:
    plan = plan_load(a_file(), Wanted(slots=4), GIB)
    assert (plan.pool_tokens, plan.reasons) == (4 * 4096, ())


def test_an_automatic_pool_takes_a_twentieth_of_free_memory_and_says_so() -> None:
    plan = plan_load(a_file(), Wanted(slots=4), 20 * 8192 * _TOKEN_BYTES)
    assert plan.pool_tokens == 8192
    assert "4 requests share 8192 tokens, not 16384" in plan.reasons[0]


def test_a_pool_that_is_wanted_is_never_smaller_than_one_context() -> None:
    assert plan_load(a_file(), Wanted(pool_tokens=5000), 0).pool_tokens == 5000
    plan = plan_load(a_file(), Wanted(pool_tokens=100), GIB)
    assert plan.pool_tokens == 4096
    assert "4096 tokens, not 100" in plan.reasons[0]


def test_a_private_worker_has_a_context_for_one_unless_more_is_wanted() -> None:
    plan = plan_load(a_file(), Wanted(slots=4, purpose="private"), GIB)
    assert (plan.purpose, plan.pool_tokens, plan.slots, plan.reasons) == ("private", 4096, 4, ())
    asked = plan_load(a_file(), Wanted(pool_tokens=9000, purpose="private"), GIB)
    assert asked.pool_tokens == 9000


def test_the_weights_are_shared_unless_a_worker_is_seen_to_have_copied_them() -> None:
    file, wanted = a_file(size_bytes=900 * MIB), Wanted(cache_ram_bytes=256 * MIB)
    plan = plan_load(file, wanted, GIB)
    assert plan.shared_bytes == {CPU: 900 * MIB}
    foreseen = plan.total_bytes - 900 * MIB - 256 * MIB
    for own, mapped in ((0, 900), (foreseen, 900), (foreseen + 100 * MIB, 800), (foreseen + 2 * GIB, 0)):
        assert mapped_bytes(file, wanted, plan, own) == mapped * MIB
    second = plan_load(file, replace(wanted, purpose="private", most_shared_bytes=800 * MIB), GIB)
    assert second.shared_bytes == {CPU: 800 * MIB}


@pytest.mark.parametrize("file", [a_file(problem="the file is cut short"), a_file(None, problem="gone")])
def test_a_file_with_a_problem_is_not_planned(file: ModelFile) -> None:
    with pytest.raises(LoadFailed, match=f"'m' cannot be loaded: {file.problem}"):
        plan_load(file, Wanted(), GIB)


_wishes = st.builds(
    Wanted,
    context_tokens=st.integers(0, 1 << 20),
    pool_tokens=st.integers(0, 1 << 22),
    slots=st.integers(1, 64),
    batch_tokens=st.integers(32, 8192),
)
_free = st.integers(-GIB, 64 * GIB)


@given(_wishes, _free)
def test_what_may_be_used_is_always_within_what_is_there(wanted: Wanted, free_bytes: int) -> None:
    plan = plan_load(a_file(), wanted, free_bytes)
    assert 1 <= plan.context_tokens <= 4096
    assert plan.context_tokens <= plan.pool_tokens
    assert plan.slots == wanted.slots
    assert plan.bytes_by_device.keys() == {CPU}
    assert plan.total_bytes > 10 * MIB + cache_bytes(SMALL, wanted, plan.pool_tokens)
    if not wanted.pool_tokens:
        assert plan.pool_tokens <= plan.slots * plan.context_tokens


@given(_wishes, _free, _free)
def test_more_free_memory_never_gives_a_smaller_pool(wanted: Wanted, one: int, other: int) -> None:
    less, more = (plan_load(a_file(), wanted, free).pool_tokens for free in sorted((one, other)))
    assert less <= more
