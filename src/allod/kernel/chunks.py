"""Sealed streams of any length, of which each byte and the end are checked. Numbers are big-endian:

    length(4) | final(1) | sealed     chunks of 1 MiB, AES-256-GCM; the last one is final, and nothing follows it

Nonce: the chunk's number, so each stream has a key of its own. Bound to each: what the caller says it is, and `final`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from allod.kernel import crypto
from allod.kernel.keyslots import Damaged

CHUNK_BYTES = 1 << 20

_FRAME = struct.Struct(">IB")
_TAG_BYTES = 16


def sealed_chunks(key: bytes, context: bytes, plain: Iterable[bytes]) -> Iterator[bytes]:
    """The stream that holds `plain`. `key` seals nothing else; under another `context` the stream does not open."""
    cipher, number, held = AESGCM(key), 0, bytearray()

    def chunk(final: int) -> bytes:
        data = cipher.encrypt(_nonce(number), bytes(held[:CHUNK_BYTES]), context + bytes([final]))
        return _FRAME.pack(len(data), final) + data

    for piece in plain:
        held += piece
        while len(held) > CHUNK_BYTES:  # more than one, so that something is left to be the last
            yield chunk(0)
            del held[:CHUNK_BYTES]
            number += 1
    yield chunk(1)


def plain_chunks(key: bytes, context: bytes, source: BinaryIO) -> Iterator[bytes]:
    """What the chunks hold, each of them checked, and after the last that it is the end. Raises Damaged."""
    cipher, number, is_final = AESGCM(key), 0, False
    while not is_final:
        length, is_final = read_frame(source)
        data = source.read(length)
        if len(data) < length:
            raise Damaged("it is cut short")
        try:
            yield cipher.decrypt(_nonce(number), data, context + bytes([is_final]))
        except (InvalidTag, ValueError) as error:
            raise Damaged("a chunk is not what was written, or not where it was") from error
        number += 1
    if source.read(1):
        raise Damaged("something was appended to it")


def read_frame(source: BinaryIO) -> tuple[int, bool]:
    """The length of the next chunk, and whether it is the last. Raises Damaged."""
    frame = source.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        raise Damaged("it is cut short")
    length, final = _FRAME.unpack(frame)
    if final > 1 or not _TAG_BYTES <= length <= CHUNK_BYTES + _TAG_BYTES:
        raise Damaged("a chunk is not what was written")
    return length, bool(final)


def _nonce(number: int) -> bytes:
    return number.to_bytes(crypto.NONCE_BYTES, "big")
