"""The GGUF container: metadata and the places of tensors (github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Read here and not by the package `gguf`, whose reader takes seconds for a vocabulary and does not look whether
tensors overlap or exceed the file; its `quants` turn the blocks into numbers.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textus.core.errors import RunError, UsageError
from textus.core.names import import_optional
from textus.interop.validate import integer

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of metadata → struct's letter; 8 is a string, 9 an array."""
STRING, ARRAY = 8, 9
DEPTH = 4
"""Lists may hold lists; no file known has any."""

FLOAT32, FLOAT16 = 0, 1
"""Types of tensors that are numbers as they are; all others are turned into numbers by the package's `quants`."""


class TruncatedFile(Exception):
    """The file ends inside its header, or the header has an impossible value."""


class Header:
    """Reads the values of a header one after the other."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> memoryview:
        """The next `n` bytes."""
        if n > len(self.data) - self.at:
            raise TruncatedFile(f"it ends after {len(self.data):,} bytes, inside its header")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize(letter)))[0]

    def string(self) -> str:
        return bytes(self.take(self.number("Q"))).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of a type: number, string or list."""
        if kind == STRING:
            return self.string()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise TruncatedFile(f"a value has the type {kind}, which GGUF does not have")
        if depth == DEPTH:
            raise TruncatedFile(f"it has lists in lists, {DEPTH} deep and more")
        inner, count = self.number("I"), self.number("Q")
        if inner not in SCALARS:
            if count > len(self.data):
                raise TruncatedFile(f"a list of {count:,} values is longer than the file")
            return [self.value(inner, depth + 1) for _ in range(count)]
        raw = self.take(count * struct.calcsize(SCALARS[inner]))
        return list(struct.unpack(f"<{count}{SCALARS[inner]}", raw))


class Container:
    """A GGUF file: `metadata`, and tensors by name, read in float32 one by one."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self.quants = import_optional("gguf.quants", "import")
        self.types = import_optional("gguf.constants", "import")
        try:
            self.data = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise RunError("unreadable_file", f"{path} cannot be read ({error})") from error
        header = Header(self.data.data)
        try:
            self.metadata, places = read_header(header)
        except (TruncatedFile, struct.error) as error:
            raise RunError("damaged", f"{path} is no whole GGUF file: {error}; fetch it again") from error
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.spans: dict[str, tuple[int, int, int]] = {}
        self._place(header.at, places)

    def _place(self, at: int, places: list[tuple[str, tuple[int, ...], int, int]]) -> None:
        """The offset of each tensor; RunError where one is of an unknown type, past the end, or over another."""
        align = integer(self.where, "general.alignment", self.metadata.get("general.alignment", 32))
        if align & (align - 1):
            raise RunError(
                "damaged", f"{self.where}: its alignment of {align} is no power of two; it is damaged"
            )
        start = -(-at // align) * align
        for name, shape, kind, offset in places:
            if name in self.shapes:
                raise RunError("damaged", f"{self.where} has two tensors of the name {name}; it is damaged")
            block, size = self._block(name, kind)
            if not shape:
                raise RunError(
                    "damaged", f"{self.where}: the tensor {name} has no axes; it is damaged, fetch it again"
                )
            count = int(np.prod([int(n) for n in shape], dtype=object))
            if not count or shape[-1] % block:
                raise RunError(
                    "damaged",
                    f"{self.where}: the tensor {name} of shape {list(shape)} is not in blocks of {block}; it is"
                    " damaged",
                )
            begin = start + offset
            self.shapes[name], self.spans[name] = shape, (begin, begin + count // block * size, kind)
        last = ("the header", start)
        for name, (begin, end, _) in sorted(self.spans.items(), key=lambda span: span[1]):
            if end > len(self.data):
                raise RunError(
                    "damaged",
                    f"{self.where} is cut short: the tensor {name} ends at byte {end:,}, the file at"
                    f" {len(self.data):,}; fetch it again",
                )
            if begin < last[1]:
                raise RunError(
                    "damaged", f"{self.where}: the tensor {name} overlaps {last[0]}; it is damaged"
                )
            last = (name, end)

    def _block(self, name: str, kind: int) -> tuple[int, int]:
        """Numbers in a block of a type, and its bytes; UsageError for a type that is not read."""
        known = {quantization.value: quantization for quantization in self.types.GGMLQuantizationType}
        block, size = self.types.GGML_QUANT_SIZES.get(known.get(kind), (0, 0))
        try:
            if block and kind not in (FLOAT32, FLOAT16):
                self.quants.dequantize(np.zeros((1, size), np.uint8), known[kind])
        except NotImplementedError:
            block = 0
        if not block:
            label = known[kind].name if kind in known else f"number {kind}"
            raise UsageError(
                "unsupported_format",
                f"{self.where}: the tensor {name} is of the type {label}, which the installed package gguf does not"
                " turn into numbers; take a file of another type, such as Q8_0, or a newer gguf",
            )
        return block, size

    def read(self, name: str) -> Tensor:
        begin, end, kind = self.spans[name]
        shape = self.shapes[name]
        raw = np.asarray(self.data[begin:end])
        if kind == FLOAT32:
            numbers = raw.view(np.float32).copy()
        elif kind == FLOAT16:
            numbers = raw.view(np.float16).astype(np.float32)
        else:
            rows = raw.reshape(-1, raw.size * shape[-1] // int(np.prod(shape)))
            numbers = self.quants.dequantize(rows, self.types.GGMLQuantizationType(kind))
        return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float32).reshape(shape))


def read_header(header: Header) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
    """Metadata, and (name, shape, type, offset) of each tensor; shapes as torch has them, rows first."""
    if bytes(header.take(4)) != MAGIC:
        raise TruncatedFile("it does not begin with GGUF")
    version = header.number("I")
    if version not in VERSIONS:
        raise TruncatedFile(f"it is of version {version}, versions {VERSIONS[0]} and {VERSIONS[1]} are known")
    n_tensors, n_values = header.number("Q"), header.number("Q")
    metadata = {}
    for _ in range(n_values):
        name = header.string()
        metadata[name] = header.value(header.number("I"))
    places = []
    for _ in range(n_tensors):
        name, n_axes = header.string(), header.number("I")
        shape = tuple(header.number("Q") for _ in range(n_axes))[::-1]
        places.append((name, shape, header.number("I"), header.number("Q")))
    return metadata, places
