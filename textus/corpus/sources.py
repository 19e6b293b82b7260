"""Which files there are to read: folders walked in sorted order, archives looked into, everything else named.

A scan yields a `Source` for each thing that can be read and a `Dropped` for each that cannot, so that the
caller can say what was left out. Nothing is held but the names of one folder at a time.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from textus.common import DataError
from textus.corpus.documents import Dropped, Unreadable

BLOCK_BYTES = 1 << 19
"""Bytes read at a time."""

KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".markdown": "text",
    ".html": "html",
    ".htm": "html",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
WRAPPED = (".gz", ".xz")
SUFFIXES = f"{' '.join(KINDS)}, each plain or in .gz, .xz or .zip"

DAMAGE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
)
"""What reading a damaged, locked or unsupported file raises (a zip with a password is a RuntimeError)."""


@dataclass(frozen=True)
class Source:
    """Something to read: its name, its kind (a value of `KINDS`), how to open it, and its gz or xz."""

    name: str
    kind: str
    open: Callable[[], BinaryIO]
    wrapping: str = ""


def scan(
    given: Iterable[str | Path], skip: Path, advance: Callable[..., Any], *, any_suffix: bool = False
) -> Iterator[Source | Dropped]:
    """Every source under the paths given, in order; `skip` is the output, never read into itself.

    `advance` is called with the number of bytes read from the disk. With `any_suffix` a file of another suffix than
    those of `KINDS`, or of none, is a text. Raises DataError for a path that is not there.
    """
    default = "text" if any_suffix else None
    for path in map(Path, given):
        if not os.path.lexists(path):
            raise DataError(f"{path} is not there; give a file or folder of text")
        if path.is_dir():
            yield from scan_folder(path, skip.resolve(), advance, default)
        else:
            yield from scan_file(path, advance, default, given=True)


def scan_folder(
    folder: Path, skip: Path, advance: Callable[..., Any], default: str | None = None
) -> Iterator[Source | Dropped]:
    """Every source in a folder and the folders in it, sorted by name; of `default` kind where no suffix says it."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 — names only: a folder may hold a million
    except OSError as error:
        yield Dropped(str(folder), "unreadable", str(error.strerror))
        return
    for name in names:
        path = folder / name
        if path.name == skip.name and path.resolve() == skip:
            yield Dropped(str(path), "the output itself")
        elif path.name.startswith(f".{skip.name}.") and path.parent.resolve() == skip.parent:
            continue  # where this very build is being written
        elif name.startswith("."):
            yield Dropped(str(path), "hidden", "its name begins with a dot")
        elif path.is_dir() and path.is_symlink():
            yield Dropped(str(path), "link to a folder", "not followed: it could lead in circles")
        elif path.is_dir():
            yield from scan_folder(path, skip, advance, default)
        else:
            yield from scan_file(path, advance, default)


def scan_file(
    path: Path, advance: Callable[..., Any], default: str | None = None, *, given: bool = False
) -> Iterator[Source | Dropped]:
    """One file: itself, or the members of a zip. A file `given` by name is read whatever its suffix."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield Dropped(str(path), "unreadable", str(error.strerror))
        return
    if not stat.S_ISREG(mode):
        yield Dropped(str(path), "unreadable", "not a regular file")  # opening a pipe would wait for ever
    elif path.suffix.lower() == ".zip":
        yield from scan_zip(path, advance, default)
    else:
        meter = Meter(advance)
        yield named(str(path), lambda: metered(path, meter), default="text" if given else default)


def scan_zip(
    path: Path, advance: Callable[..., Any], default: str | None = None
) -> Iterator[Source | Dropped]:
    """The members of a zip archive, sorted by name."""
    try:
        archive = zipfile.ZipFile(metered(path, Meter(advance)))
    except DAMAGE as error:
        yield Dropped(str(path), "unreadable", str(error))
        return
    with archive:
        for member in sorted(archive.infolist(), key=lambda each: each.filename):
            name = f"{path}!{member.filename}"
            if member.is_dir():
                continue
            if any(part.startswith((".", "__MACOSX")) for part in Path(member.filename).parts):
                yield Dropped(
                    name, "hidden", "its name begins with a dot, or it is a Mac's note on another file"
                )
            else:
                yield named(name, lambda member=member: cast(BinaryIO, archive.open(member)), default)  # type: ignore[misc]


def named(name: str, opener: Callable[[], BinaryIO], default: str | None = None) -> Source | Dropped:
    """A source by the suffix of its name, through one layer of gz or xz."""
    inner = Path(name.rpartition("!")[2])
    wrapping = inner.suffix.lower() if inner.suffix.lower() in WRAPPED else ""
    suffix = (inner.with_suffix("") if wrapping else inner).suffix.lower()
    kind = KINDS.get(suffix, default)
    if kind is None:
        return Dropped(name, "suffix not read", suffix or "no suffix")
    return Source(name, kind, opener, wrapping)


def unwrapped(file: BinaryIO, wrapping: str) -> BinaryIO:
    """The plain bytes of a file in gz or xz."""
    if wrapping == ".gz":
        return cast(BinaryIO, gzip.open(file))
    if wrapping == ".xz":
        return cast(BinaryIO, lzma.open(file))
    return file


class Meter:
    """Tells how many bytes of a file were read for the first time, for the progress bar.

    A file is read twice (which encoding, then the text); only the furthest point reached counts.
    """

    def __init__(self, advance: Callable[..., Any]) -> None:
        self.advance, self.furthest = advance, 0

    def reach(self, position: int) -> None:
        if position > self.furthest:
            self.advance(position - self.furthest)
            self.furthest = position


class Metered(io.FileIO):
    """A file on the disk whose reading a meter sees."""

    def __init__(self, path: Path, meter: Meter) -> None:
        super().__init__(path, "rb")
        self.meter = meter

    def readinto(self, buffer: Any) -> int:
        n_read = super().readinto(buffer)
        self.meter.reach(self.tell())
        return n_read


def metered(path: Path, meter: Meter) -> BinaryIO:
    """Open a file on the disk, buffered, its reading seen by `meter`."""
    return cast(BinaryIO, io.BufferedReader(Metered(path, meter), BLOCK_BYTES))


def blocks(source: Source) -> Iterator[bytes]:
    """The plain bytes of a source in blocks. Raises Unreadable with the reason."""
    try:
        with source.open() as outer, unwrapped(outer, source.wrapping) as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except DAMAGE as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error


def total_bytes(given: Iterable[str | Path]) -> int:
    """How many bytes lie under the paths given, read or not: the length of the progress bar."""
    total = 0
    for path in map(Path, given):
        if path.is_dir():
            for folder, _, names in os.walk(path):
                total += sum(size(Path(folder, name)) for name in names)
        else:
            total += size(path)
    return total


def size(path: Path) -> int:
    """The size of a file in bytes; 0 where it cannot be told."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
