"""TensorFlow 2 checkpoints (``<prefix>.index`` and ``<prefix>.data-*``) without TensorFlow.

The index is a sorted table in LevelDB's format: 48 bytes of footer point to the index block, whose values point to
data blocks, whose values are protobuf messages with dtype, shape, place and CRC-32C of each tensor. All checksums
are verified.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from m3pot.io.checkpoint import CheckpointError

_MAGIC = 0xDB4775248B80FB57
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}
_STRING = 7
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # a string that describes Python objects, not a variable


def read_bundle(index: Path) -> dict[str, np.ndarray]:
    """All variables of the checkpoint ``<prefix>.index`` under their object paths.

    Raises CheckpointError for a damaged or unsupported checkpoint.
    """
    try:
        return _read(index)
    except (CheckpointError, FileNotFoundError):
        raise
    except Exception as error:  # damaged bytes may raise anything
        raise CheckpointError(
            f"{index} is not an intact TensorFlow checkpoint ({type(error).__name__}: {error}); copy it again."
        ) from error


def _read(index: Path) -> dict[str, np.ndarray]:
    table = index.read_bytes()
    if len(table) < 48 or struct.unpack("<Q", table[-8:])[0] != _MAGIC:
        raise CheckpointError(f"{index} is not the index of a TensorFlow checkpoint; give the folder that holds one.")
    place = 0
    footer = []
    for _ in range(4):
        value, place = _varint(table[-48:], place)
        footer.append(value)
    entries: dict[str, bytes] = {}
    for _, block in _entries(_block(table, footer[2], footer[3])):
        offset, after = _varint(block, 0)
        entries |= {key.decode(): value for key, value in _entries(_block(table, offset, _varint(block, after)[0]))}
    header = _message(entries.pop(""))
    if _one(header, 2):
        raise ValueError("big-endian tensors")
    shards = _one(header, 1)
    prefix = str(index).removesuffix(".index")
    data = [Path(f"{prefix}.data-{k:05d}-of-{shards:05d}").read_bytes() for k in range(shards)]
    return {
        name.removesuffix(_SUFFIX): _tensor(name, _message(value), data)
        for name, value in entries.items()
        if name != _OBJECT_GRAPH
    }


def _tensor(name: str, entry: dict[int, list], data: list[bytes]) -> np.ndarray:
    dtype = _one(entry, 1)
    if dtype not in _DTYPES or 7 in entry:
        kind = "text" if dtype == _STRING else "a partitioned variable" if 7 in entry else f"data type {dtype}"
        raise ValueError(f"{name} is {kind}")
    shape = [_one(_message(axis), 1) for axis in _message(_one(entry, 2, b"")).get(2, [])]
    offset, size = _one(entry, 4), _one(entry, 5)
    raw = data[_one(entry, 3)][offset : offset + size]
    if len(raw) != size or _masked_crc(raw) != _one(entry, 6):
        raise ValueError(f"{name} fails its checksum")
    return np.frombuffer(raw, _DTYPES[dtype]).reshape(shape).copy()


def _block(table: bytes, offset: int, size: int) -> bytes:
    body = table[offset : offset + size]
    kind, checksum = struct.unpack("<BI", table[offset + size : offset + size + 5])
    if kind:
        raise ValueError("compressed blocks")
    if _masked_crc(body + b"\0") != checksum:
        raise ValueError("the index fails its checksum")
    return body


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; each key repeats the beginning of the one before."""
    restarts = struct.unpack("<I", block[-4:])[0]
    end = len(block) - 4 * (restarts + 1)
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        size, place = _varint(block, place)
        key = key[:shared] + block[place : place + own]
        place += own
        yield key, block[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number longer than 64 bits")


def _message(data: bytes) -> dict[int, list]:
    """Fields of a protobuf message: number -> values (int or bytes)."""
    fields: dict[int, list] = {}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        if tag & 7 == 0:
            value, place = _varint(data, place)
        elif tag & 7 == 2:
            size, place = _varint(data, place)
            value, place = data[place : place + size], place + size
        elif tag & 7 in (1, 5):
            code = "<Q" if tag & 7 == 1 else "<I"
            value, place = struct.unpack_from(code, data, place)[0], place + struct.calcsize(code)
        else:
            raise ValueError(f"protobuf wire type {tag & 7}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _one(fields: dict[int, list], number: int, default=0):
    return fields.get(number, [default])[-1]


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def _masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated right by 15 and shifted by a constant, as LevelDB stores it."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
