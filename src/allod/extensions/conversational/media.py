"""What kind of file it is: by its bytes first, then by what its sender says, then by its name. Pure."""

from __future__ import annotations

import codecs
import re
import unicodedata

IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""What is an image here: pictures that browsers show and models see. SVG is none: it is a program, and text."""
_TEXTS = frozenset(
    f"application/{name}"
    for name in "json ld+json x-ndjson jsonl xml yaml x-yaml toml sql javascript x-javascript x-sh x-python".split()
)
_DOCUMENTS = (
    (b"%PDF-", "application/pdf"),
    (b"{\\rtf", "application/rtf"),
    (b"%!PS", "application/postscript"),
)
"""Kinds that may be all letters, and yet are no text to be read."""
_OFFICE = "application/vnd.openxmlformats-officedocument"
_BY_NAME = {
    "csv": "text/csv",
    "md": "text/markdown",
    "html": "text/html",
    "json": "application/json",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "toml": "application/toml",
    "docx": f"{_OFFICE}.wordprocessingml.document",
    "xlsx": f"{_OFFICE}.spreadsheetml.sheet",
    "pptx": f"{_OFFICE}.presentationml.presentation",
    "epub": "application/epub+zip",
    "zip": "application/zip",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "mp4": "video/mp4",
}
"""For senders that do not say. The system's own table is another on each machine, and calls Rust XML."""
_UNKNOWN = "application/octet-stream"
_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*")
_LOOKED_AT = 1 << 16
_LONGEST_NAME = 200
_TURNS_TEXT = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def media_type(data: bytes, name: str, claimed: str) -> str:
    """The media type of a file, of at most 128 characters. One of IMAGES only where the bytes begin like one."""
    if image := _image(data):
        return image
    for begin, kind in _DOCUMENTS:
        if data.startswith(begin):
            return kind
    by_name = _BY_NAME.get(name.rpartition(".")[2].lower(), "")
    for kind in (claimed.partition(";")[0].strip().lower(), by_name):
        if _TYPE.fullmatch(kind) and len(kind) <= 128 and kind not in (*IMAGES, _UNKNOWN):
            break
    else:
        kind = _UNKNOWN
    if _is_text(data):
        return kind if reads_as_text(kind) else "text/plain"
    return _UNKNOWN if reads_as_text(kind) else kind


def reads_as_text(media_type: str) -> bool:
    """Whether such a file is text that a model can be given as it stands."""
    kind = media_type.rpartition("+")[2] if "+" in media_type else ""
    return media_type.startswith("text/") or media_type in _TEXTS or kind in ("json", "xml", "yaml")


def clean_name(name: str) -> str:
    """A name to be shown: at most 200 characters, no folders, no line breaks, nothing that turns letters round."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(letter for letter in last if unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp"))
    return shown.translate({ord(letter): None for letter in _TURNS_TEXT}).strip()[-_LONGEST_NAME:] or "file"


def _image(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _is_text(data: bytes) -> bool:
    """Whether its beginning is UTF-8 without a zero byte."""
    begin = data[:_LOOKED_AT]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(begin, final=len(data) <= _LOOKED_AT)
    except UnicodeDecodeError:
        return False
    return b"\0" not in begin
