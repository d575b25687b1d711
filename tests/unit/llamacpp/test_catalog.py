"""Which models there are: found in folders, added by reference; what is wrong with one is no trouble for the others."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from allod.extensions.llamacpp.catalog import Catalog, ModelFile, embedded_model
from allod.extensions.llamacpp.gguf import Header, read_header
from allod.sdk.errors import BadRequest, ModelNotFound
from tests.unit.llamacpp.gguf_files import BERT, LLAMA, PROJECTOR, Tensor, gguf, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


@pytest.fixture
def catalog(folder: Path, tmp_path: Path) -> Catalog:
    folder.mkdir()
    return Catalog([folder], tmp_path / "models.json")


def ids(catalog: Catalog) -> list[str]:
    return [model.id for model in catalog.scan()]


def only(catalog: Catalog) -> ModelFile:
    (model,) = catalog.scan()
    return model


def part(number: int, count: int, name: str = "m") -> str:
    return f"{name}-{number:05}-of-{count:05}.gguf"


def write_parts(folder: Path, count: int) -> list[Path]:
    return [
        write(folder / part(number, count), gguf(LLAMA, split__count=count)) for number in range(1, count + 1)
    ]


# finding


def test_models_are_found_in_folders_below_by_name(catalog: Catalog, folder: Path) -> None:
    for name in ("b.gguf", "a.GGUF", "deep/er/c.gguf", "notes.txt", ".hidden.gguf", ".cache/d.gguf"):
        write(folder / name)
    assert ids(catalog) == ["a", "b", "c"]
    assert all(model.problem == "" for model in catalog.scan())


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Catalog([tmp_path / "none"], tmp_path / "models.json").scan() == []


def test_folders_inside_one_another_list_a_model_once(folder: Path, tmp_path: Path) -> None:
    write(folder / "inner" / "m.gguf")
    assert ids(Catalog([folder, folder / "inner", folder], tmp_path / "models.json")) == ["m"]


def test_single_files_are_found_too(elsewhere: Path, tmp_path: Path) -> None:
    path = write(elsewhere / "m.gguf")
    write(elsewhere / "other.gguf")
    assert ids(Catalog([], tmp_path / "models.json", extra=[path])) == ["m"]


def test_new_files_appear_and_removed_ones_disappear_at_the_next_scan(catalog: Catalog, folder: Path) -> None:
    assert ids(catalog) == []
    path = write(folder / "m.gguf")
    assert ids(catalog) == ["m"]
    path.unlink()
    assert ids(catalog) == []


def test_a_file_is_read_again_only_when_it_has_changed(
    catalog: Catalog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder / "m.gguf")
    asked: list[Path] = []

    def read(path: Path) -> Header:
        asked.append(path)
        return read_header(path)

    monkeypatch.setattr("allod.extensions.llamacpp.catalog.read_header", read)
    for _ in range(3):
        catalog.scan()
    assert asked == [path]
    write(path, gguf(llama__context_length=99))
    assert only(catalog).card().context_tokens == 99
    assert asked == [path, path]


def test_a_model_is_found_by_its_id_in_any_case(catalog: Catalog, folder: Path) -> None:
    write(folder / "Model-A.gguf")
    found = catalog.find("mODEL-a")
    assert found is not None and found.id == "Model-A"
    assert catalog.find("model") is None


def test_two_models_of_one_name_get_ids_of_their_own(catalog: Catalog, folder: Path) -> None:
    for name in ("m.gguf", "x/M.gguf", "y/m.gguf"):
        write(folder / name)
    assert ids(catalog) == ["m", "M~2", "m~3"]


def test_a_name_that_is_no_utf8_still_gives_a_readable_id(catalog: Catalog, folder: Path) -> None:
    write(Path(os.fsdecode(os.fsencode(folder) + b"/m\xff.gguf")))
    assert ids(catalog) == ["m\ufffd"]
    json.dumps(ids(catalog)).encode()


# links


def test_a_link_is_a_model_by_its_own_name(catalog: Catalog, folder: Path, elsewhere: Path) -> None:
    blob = write(elsewhere / "blobs" / "0123abcd")
    (folder / "nice-name.gguf").symlink_to(blob)
    assert (only(catalog).id, only(catalog).problem) == ("nice-name", "")


def test_links_to_folders_are_followed_and_loops_end(catalog: Catalog, folder: Path, elsewhere: Path) -> None:
    write(elsewhere / "m.gguf")
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "itself.gguf").symlink_to("itself.gguf")
    assert "m" in ids(catalog)


def test_a_link_to_nowhere_is_listed_with_its_problem(catalog: Catalog, folder: Path) -> None:
    (folder / "gone.gguf").symlink_to(folder / "nowhere")
    assert "cannot be read: No such file" in only(catalog).problem


# what is wrong with a file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (gguf()[:200], "cut short"),
        (gguf(general__architecture=None), "does not say of what architecture"),
        (gguf(LLAMA, ()), "vocabulary only"),
        (gguf(split__count=3), "part of a model in 3 parts, but its name"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_the_others_go_on(
    catalog: Catalog, folder: Path, content: bytes, words: str
) -> None:
    write(folder / "bad.gguf", content)
    write(folder / "good.gguf")
    bad, good = catalog.scan()
    assert (bad.id, good.id, good.problem) == ("bad", "good", "")
    assert words in bad.problem
    assert words in bad.card().problem
    assert str(folder) not in bad.problem


def test_a_pipe_is_named_and_not_waited_for(catalog: Catalog, folder: Path) -> None:
    os.mkfifo(folder / "pipe.gguf")
    assert only(catalog).problem == "it is not a regular file"


def test_a_repaired_file_is_read_again(catalog: Catalog, folder: Path) -> None:
    path = write(folder / "m.gguf", b"GGUF")
    assert only(catalog).problem
    write(path)
    assert only(catalog).problem == ""


def test_adapters_and_matrices_are_no_models(catalog: Catalog, folder: Path) -> None:
    for kind in ("adapter", "imatrix"):
        write(folder / f"{kind}.gguf", gguf(general__type=kind))
    assert catalog.scan() == []


# split files


def test_the_parts_of_a_split_model_are_one_model(catalog: Catalog, folder: Path) -> None:
    paths = write_parts(folder, 3)
    model = only(catalog)
    assert (model.id, model.path, model.parts, model.problem) == ("m", paths[0], tuple(paths), "")
    assert model.size_bytes == sum(path.stat().st_size for path in paths)
    assert model.card().parameters == 3 * 32


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_named(catalog: Catalog, folder: Path, missing: int) -> None:
    write_parts(folder, 3)[missing - 1].unlink()
    assert only(catalog).problem == f"part {missing} of 3 is missing (1 missing in all)"


def test_a_damaged_part_is_named(catalog: Catalog, folder: Path) -> None:
    write(write_parts(folder, 2)[1], b"GGUF")
    assert only(catalog).problem.startswith("part 2 of 2: the file is cut short")


def test_parts_of_one_name_but_of_different_counts_are_different_models(
    catalog: Catalog, folder: Path
) -> None:
    write_parts(folder, 2)
    write_parts(folder, 1)
    assert [model.problem for model in catalog.scan()] == ["", ""]


# projectors


def test_a_projector_lets_the_model_beside_it_see_and_is_no_model(catalog: Catalog, folder: Path) -> None:
    write(folder / "a" / "m.gguf")
    projector = write(folder / "a" / "mmproj-m.gguf", gguf(PROJECTOR))
    write(folder / "b" / "other.gguf")
    seeing, blind = catalog.scan()
    assert (seeing.mmproj, seeing.mmproj_bytes) == (projector, projector.stat().st_size)
    assert "vision" in seeing.card().capabilities
    assert (blind.mmproj, blind.card().capabilities) == (None, ("chat", "completion"))


def test_a_projector_belongs_to_the_model_of_its_width(catalog: Catalog, folder: Path) -> None:
    write(folder / "narrow.gguf", gguf(llama__embedding_length=32))
    write(folder / "wide.gguf")
    write(folder / "mmproj.gguf", gguf(PROJECTOR))
    assert {model.id: model.mmproj is not None for model in catalog.scan()} == {"narrow": False, "wide": True}


def test_of_two_projectors_the_one_of_the_likest_name_is_taken(catalog: Catalog, folder: Path) -> None:
    for name in ("alpha-7b", "beta-7b"):
        write(folder / f"{name}-Q4.gguf")
        write(folder / f"mmproj-{name}-f16.gguf", gguf(PROJECTOR))
    assert [model.mmproj and model.mmproj.name for model in catalog.scan()] == [
        "mmproj-alpha-7b-f16.gguf",
        "mmproj-beta-7b-f16.gguf",
    ]


# what a model can do


@pytest.mark.parametrize(
    ("content", "capabilities"),
    [
        (gguf(), ("chat", "completion")),
        (gguf(tokenizer__chat_template="{% if tools %}"), ("chat", "completion", "tools")),
        (gguf(tokenizer__chat_template="<think>"), ("chat", "completion", "reasoning")),
        (gguf(BERT), ("embedding",)),
        (gguf(BERT, bert__pooling_type=4), ("rerank",)),
        (gguf(llama__pooling_type=3), ("embedding",)),
    ],
)
def test_a_card_says_what_a_model_can_do(
    catalog: Catalog, folder: Path, content: bytes, capabilities: tuple[str, ...]
) -> None:
    write(folder / "m.gguf", content)
    assert only(catalog).card().capabilities == capabilities


def test_the_embedded_model_is_found_without_importing_its_package() -> None:
    path = embedded_model()
    assert path is not None and path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"


# adding and removing


def test_an_added_file_stays_where_it_is_and_is_there_after_a_restart(
    catalog: Catalog, elsewhere: Path, tmp_path: Path
) -> None:
    path = write(elsewhere / "m.gguf")
    assert catalog.add(path).path == path
    references = tmp_path / "models.json"
    assert json.loads(references.read_text()) == [str(path)]
    assert stat.S_IMODE(references.stat().st_mode) == 0o600
    assert ids(Catalog([], references)) == ["m"]


def test_adding_twice_changes_nothing(
    catalog: Catalog, elsewhere: Path, folder: Path, tmp_path: Path
) -> None:
    path = write(elsewhere / "m.gguf")
    link = elsewhere / "n.gguf"
    link.symlink_to(path)
    inside = write(folder / "inside.gguf")
    for each in (path, elsewhere / ".." / "elsewhere" / "m.gguf", path, link, inside):
        catalog.add(each)
    assert json.loads((tmp_path / "models.json").read_text()) == [str(path)]


def test_adding_one_part_adds_all(catalog: Catalog, elsewhere: Path) -> None:
    paths = write_parts(elsewhere, 2)
    assert catalog.add(paths[1]).parts == tuple(paths)
    assert catalog.add(paths[0]).id == "m"


def test_a_relative_path_is_made_absolute(
    catalog: Catalog, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(elsewhere / "m.gguf")
    monkeypatch.chdir(elsewhere)
    assert catalog.add(Path("m.gguf")).path == elsewhere / "m.gguf"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".", "is a folder"),
        ("none.gguf", "There is no file"),
        ("bad.gguf", "cannot be used: the file is cut short"),
        ("mmproj-x.gguf", "of the kind 'projector'"),
        ("adapter.gguf", "of the kind 'adapter'"),
        (part(1, 2), "part 2 of 2 is missing"),
        ("nul\0/m.gguf", "There is no file"),
        ("nul\0.gguf", "There is no file"),
        ("x" * 300, "There is no file"),
        ("loop/m.gguf", "There is no file"),
        ("bad.gguf/m.gguf", "There is no file"),
    ],
)
def test_what_is_no_whole_model_is_not_added(
    catalog: Catalog, elsewhere: Path, tmp_path: Path, name: str, words: str
) -> None:
    write(elsewhere / "bad.gguf", b"GGUF")
    write(elsewhere / "mmproj-x.gguf", gguf(PROJECTOR))
    write(elsewhere / "adapter.gguf", gguf(general__type="adapter"))
    write(elsewhere / part(1, 2), gguf(split__count=2))
    (elsewhere / "loop").symlink_to("loop")
    with pytest.raises(BadRequest) as caught:
        catalog.add(elsewhere / name)
    assert words in caught.value.detail
    assert caught.value.param == "path"
    assert not (tmp_path / "models.json").exists()


def test_a_home_folder_that_nobody_has_is_no_file(catalog: Catalog) -> None:
    with pytest.raises(BadRequest, match="There is no file"):
        catalog.add(Path("~nobody-of-this-name/m.gguf"))


def test_folders_and_files_of_the_settings_may_be_impossible(tmp_path: Path) -> None:
    strange = [Path("~nobody-of-this-name/x"), Path("nul\0"), Path("x" * 300)]
    models = Catalog(strange, tmp_path / "models.json", extra=[each / "m.gguf" for each in strange]).scan()
    assert all("cannot be read" in model.problem for model in models)


def test_a_removed_reference_is_offered_no_longer_but_its_file_stays(
    catalog: Catalog, elsewhere: Path
) -> None:
    path = write(elsewhere / "m.gguf")
    catalog.add(path)
    catalog.remove("M")
    assert (ids(catalog), path.exists()) == ([], True)


def test_a_model_of_a_folder_cannot_be_removed(catalog: Catalog, folder: Path) -> None:
    write(folder / "m.gguf")
    with pytest.raises(BadRequest, match="was not added by its path"):
        catalog.remove("m")


def test_a_model_that_is_not_there_cannot_be_removed(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="'m'"):
        catalog.remove("m")


def test_a_reference_whose_file_is_gone_is_listed_with_its_problem_and_can_be_removed(
    catalog: Catalog, elsewhere: Path
) -> None:
    path = write(elsewhere / "m.gguf")
    catalog.add(path)
    path.unlink()
    assert "cannot be read: No such file" in only(catalog).problem
    catalog.remove("m")
    assert ids(catalog) == []


@pytest.mark.parametrize("content", ["", "{", "null", "5", '{"a": 1}', "[1, null]", '["\\u0000"]', "\udcff"])
def test_damaged_references_are_none(folder: Path, tmp_path: Path, content: str) -> None:
    write(folder / "m.gguf")
    (tmp_path / "models.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert [
        model.id for model in Catalog([folder], tmp_path / "models.json").scan() if not model.problem
    ] == ["m"]


def test_a_tensor_type_that_is_too_new_is_left_to_llama_cpp(catalog: Catalog, folder: Path) -> None:
    write(folder / "m.gguf", gguf(LLAMA, [Tensor(kind=200)]))
    assert only(catalog).problem == ""
