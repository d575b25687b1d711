"""The file that a model's tokens are counted by: what is in it, and how few of them are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from allod.extensions.llamacpp.gguf import read_header
from allod.extensions.llamacpp.vocabulary import vocabulary_file
from allod.sdk.errors import LoadFailed
from tests.unit.llamacpp.gguf_files import BERT, gguf, text, value, write


def test_it_holds_the_tokenizer_byte_by_byte_and_nothing_of_the_model(tmp_path: Path) -> None:
    model = write(tmp_path / "m.gguf")
    file = vocabulary_file(model, tmp_path / "cache")
    content = file.read_bytes()
    for key, kept in (
        ("tokenizer.ggml.tokens", ["a", "b", "c", "分析"]),
        ("tokenizer.chat_template", "{{ messages }}"),
        ("general.name", "A small one"),
    ):
        assert text(key) + value(kept) in content
    header = read_header(file)
    assert (header.architecture, header.block_count, header.vocabulary_tokens) == ("llama", 1, 4)
    assert header.name == "A small one"
    assert read_header(model).block_count == 2
    assert b"general.file_type" not in content


def test_the_same_vocabulary_is_one_file_whatever_the_weights_and_another_template_is_another(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "cache"
    one = vocabulary_file(write(tmp_path / "1.gguf", gguf(data_bytes=128)), folder)
    same = vocabulary_file(write(tmp_path / "2.gguf", gguf(data_bytes=4096, llama__block_count=9)), folder)
    other = vocabulary_file(write(tmp_path / "3.gguf", gguf(tokenizer__chat_template="{{ other }}")), folder)
    assert one == same != other


def test_it_is_made_once_and_only_the_last_few_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    models = [write(tmp_path / f"{n}.gguf", gguf(general__name=f"model {n}")) for n in range(6)]
    made = [vocabulary_file(model, folder) for model in models[:4]]
    for age, file in enumerate(made):
        os.utime(file, (1000 + age, 1000 + age))
    node = made[0].stat().st_ino
    assert vocabulary_file(models[0], folder) == made[0]  # used again, so it is not the oldest any more
    assert made[0].stat().st_ino == node
    last = [vocabulary_file(model, folder) for model in models[4:]]
    assert set(folder.iterdir()) == {made[0], made[3], *last}


def test_a_model_without_tokens_cannot_be_counted_for(tmp_path: Path) -> None:
    model = write(tmp_path / "m.gguf", gguf(BERT))
    with pytest.raises(LoadFailed, match=r"m\.gguf has no vocabulary of its own"):
        vocabulary_file(model, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_damaged_model_and_a_full_disk_are_told_as_what_they_are(tmp_path: Path) -> None:
    damaged = write(tmp_path / "m.gguf", gguf()[:100])
    with pytest.raises(LoadFailed, match="is cut short"):
        vocabulary_file(damaged, tmp_path / "cache")
    (tmp_path / "taken").write_text("no folder")
    with pytest.raises(LoadFailed, match="could not be copied"):
        vocabulary_file(write(tmp_path / "n.gguf"), tmp_path / "taken")
    with pytest.raises(LoadFailed, match="No such file"):
        vocabulary_file(tmp_path / "none.gguf", tmp_path / "cache")
