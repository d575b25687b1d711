"""What kind of file it is, and what it may be called."""

from __future__ import annotations

import pytest

from allod.extensions.conversational.media import IMAGES, clean_name, media_type, reads_as_text

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF"
GIF = b"GIF89a\1\0\1\0"
WEBP = b"RIFF\x24\0\0\0WEBPVP8 "
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.mark.parametrize(
    ("data", "name", "claimed", "kind"),
    [
        (PNG, "a.png", "image/png", "image/png"),
        (PNG, "a.txt", "text/plain", "image/png"),
        (JPEG, "a.png", "image/png", "image/jpeg"),
        (GIF, "", "", "image/gif"),
        (WEBP, "", "application/octet-stream", "image/webp"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a.wav", "audio/x-wav", "audio/x-wav"),
        (SVG, "a.svg", "image/svg+xml", "image/svg+xml"),
        (SVG, "a.png", "image/png", "text/plain"),
        (b"no image", "a.png", "image/png", "text/plain"),
        (b"\0\1\2\xff", "a.png", "image/png", "application/octet-stream"),
        (b"\0\1\2\xff", "a.json", "application/json", "application/octet-stream"),
        (b"%PDF-1.4 all letters", "a.txt", "text/plain", "application/pdf"),
        (b"{\\rtf1 letters}", "a.rtf", "", "application/rtf"),
        (b'{"a": 1}', "a.json", "", "application/json"),
        (b'{"a": 1}', "a", "application/json; charset=utf-8", "application/json"),
        (b"a,b\n1,2\n", "a.csv", "application/octet-stream", "text/csv"),
        (b"let a: number", "a.ts", "video/mp2t", "text/plain"),
        ("你好".encode(), "笔记.md", "text/markdown", "text/markdown"),
        ("你好".encode("gb18030"), "a.txt", "text/plain", "application/octet-stream"),
        (b"fn main() {}", "main.rs", "", "text/plain"),
        (b"PK\3\4\0\0", "a.docx", "application/vnd.x+zip", "application/vnd.x+zip"),
        (b"\0", "a", "Text/HTML; <script>", "application/octet-stream"),
        (b"\0", "a", "not a type", "application/octet-stream"),
        (b"\0", "a", f"application/{'x' * 200}", "application/octet-stream"),
    ],
)
def test_the_bytes_say_what_it_is(data: bytes, name: str, claimed: str, kind: str) -> None:
    assert media_type(data, name, claimed) == kind


def test_a_character_that_is_cut_where_the_look_ends_is_no_fault() -> None:
    for shift in range(4):
        assert media_type(b"a" * ((1 << 16) - shift) + "你好".encode(), "a.txt", "") == "text/plain"
    assert media_type(b"a" * 100 + "你".encode()[:2], "a.txt", "") == "application/octet-stream"


def test_svg_is_no_image_and_text_all_the_same() -> None:
    assert "image/svg+xml" not in IMAGES
    assert reads_as_text("image/svg+xml")
    assert not any(reads_as_text(kind) for kind in (*IMAGES, "application/pdf", "application/octet-stream"))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Temp\\ann\\a.txt", "a.txt"),
        ("a\r\nSet-Cookie: x", "aSet-Cookie: x"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("", "file"),
        ("  ", "file"),
        ("/", "file"),
        ("小明 的 报告.docx", "小明 的 报告.docx"),
        ("\ud800a", "a"),
        ("👩\u200d💻.md", "👩\u200d💻.md"),
        ("x" * 300 + ".txt", "x" * 196 + ".txt"),
    ],
)
def test_a_name_is_only_a_name(given: str, name: str) -> None:
    assert clean_name(given) == name
