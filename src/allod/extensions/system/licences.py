"""Under which licence a package stands: what its metadata says, and the texts that it brings.

The fields are those of Python's core metadata (packaging.python.org, "Core metadata specifications").
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageMetadata
from pathlib import Path

UNKNOWN = "unknown"

_SAID_NOWHERE = {
    "sqlcipher3": ("Zlib", "its LICENSE file, the text of the zlib licence; its metadata name none"),
}
"""Licences of packages whose metadata name none, and how they are known."""

_LONGEST_NAME = 100  # some write the whole text where its name belongs
_TEXT = re.compile(r"(licen[cs]e|copying|notice|authors)([-._].*)?", re.IGNORECASE)
_IN_METADATA = re.compile(r"^[^/]+\.dist-info/(licenses/)?")
_HOMEPAGES = ("homepage", "home", "source", "sourcecode", "repository", "github", "documentation")


def licence_of(name: str, metadata: PackageMetadata) -> tuple[str, str]:
    """The licence's name and where it stands: the first of License-Expression, License, Classifier, our own table."""
    for field in ("License-Expression", "License"):
        for said in metadata.get_all(field) or ():
            if 0 < len(said) <= _LONGEST_NAME and "\n" not in said and said.casefold() != UNKNOWN:
                return said, field
    classifiers = [said.split(" :: ") for said in metadata.get_all("Classifier") or ()]
    # the bare "License :: OSI Approved" names none
    named = [parts[-1] for parts in classifiers if parts[0] == "License" and parts[-1] != "OSI Approved"]
    if named:
        return ", ".join(named), "Classifier"
    return _SAID_NOWHERE.get(name, (UNKNOWN, ""))


def homepage_of(metadata: PackageMetadata) -> str:
    """Its home in the web, empty where it names none."""
    for said in metadata.get_all("Home-page") or ():
        if said.startswith("http"):
            return str(said)
    urls = {}
    for line in metadata.get_all("Project-URL") or ():
        label, _, url = line.partition(",")
        urls[re.sub(r"[^a-z0-9]", "", label.lower())] = url.strip()
    return next((urls[label] for label in _HOMEPAGES if label in urls), "")


def texts_of(package: Distribution) -> dict[str, Path]:
    """The files that it brings on its licence, its authors too, whom some licences want to be named."""
    listed = {}
    for file in package.files or ():
        if _TEXT.fullmatch(file.name) and file.suffix not in (".py", ".pyc", ".pyi"):
            listed[_IN_METADATA.sub("", str(file))] = Path(str(package.locate_file(file)))
    return {name: file for name, file in sorted(listed.items()) if file.is_file()}
