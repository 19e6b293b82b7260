"""Which files to read: folders walked in sorted order, archives opened. A scan yields a `Source` for each thing that
can be read and a `SkippedItem` for each that cannot; only the names of one folder are held at a time.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from textus.core.console import to_printable
from textus.core.errors import DataError
from textus.core.names import import_optional, nearest_name
from textus.data.corpus.documents import SkippedItem, UnreadableError

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
    ".pdf": "pdf",
    ".docx": "docx",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TARS = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz2", ".txz")
SUFFIXES = f"{' '.join(KINDS)}, each plain or in .gz, .bz2, .xz, .zst, .zip or .tar"
UNSUPPORTED_SUFFIXES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet: save it as csv"),
    **dict.fromkeys((".doc", ".odt", ".rtf", ".epub"), "save it as plain text or html"),
    **dict.fromkeys((".7z", ".rar", ".lz4", ".lzma", ".z", ".br"), "unpack it first"),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".arrow", ".feather"), "save it as jsonl or parquet"),
}
"""What is often given and never read: by suffix, what to do instead."""

READ_ERRORS = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
)
"""What reading a damaged, locked or unsupported file raises (a zip with a password is a RuntimeError)."""


@dataclass(frozen=True)
class Source:
    """Something to read: its name as shown, its kind (a value of `KINDS`), how to open it, and its packing.

    `member` is its path in an archive, "" for a file on the disk; `on_encoding` gets the encoding.
    """

    name: str
    kind: str
    open: Callable[[], BinaryIO]
    compression: str = ""
    member: str = ""
    on_encoding: Callable[[Any], None] = lambda encoding: None

    @property
    def suffix(self) -> str:
        """The suffix of its name without that of its packing, in lower case."""
        return Path((self.member or self.name).lower().removesuffix(self.compression)).suffix


def scan(
    given: Iterable[str | Path], skip: Path, advance: Callable[..., Any], *, any_suffix: bool = False
) -> Iterator[Source | SkippedItem]:
    """Every source under the paths given, in order, but for `skip`, the output. `advance` is called with the number of
    bytes read. With `any_suffix` a file of an unknown suffix is a text. Raises DataError for a path that is not found.
    """
    default = "text" if any_suffix else None
    for path in map(Path, given):
        if not os.path.lexists(path):
            names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
            near = nearest_name(path.name, names)
            hint = f"did you mean {path.parent / near}?" if near else "give an existing file or folder"
            raise DataError("not_found", f"{path} does not exist; {hint}")
        if path.is_dir():
            yield from scan_folder(path, skip.resolve(), advance, default)
        else:
            yield from scan_file(path, advance, default, given=True)


def scan_folder(
    folder: Path, skip: Path, advance: Callable[..., Any], default: str | None = None
) -> Iterator[Source | SkippedItem]:
    """Every source in a folder of any depth, sorted by name; of `default` kind if the suffix is unknown."""
    pending = [list_folder(folder)]
    while pending:
        path = next(pending[-1], None)
        if path is None:
            pending.pop()
        elif isinstance(path, SkippedItem):
            yield path
        elif path.name == skip.name and path.resolve() == skip:
            yield skipped_path(path, "the output itself")
        elif path.name.startswith(f".{skip.name}.") and path.parent.resolve() == skip.parent:
            continue  # where this very build is being written
        elif path.name.startswith("."):
            yield skipped_path(path, "hidden", "its name begins with a dot")
        elif os.path.isdir(path) and os.path.islink(path):  # noqa: PTH112, PTH114 — Path's raise for a long path
            yield skipped_path(path, "link to a folder", "not followed: it could lead in circles")
        elif os.path.isdir(path):  # noqa: PTH112
            pending.append(list_folder(path))
        else:
            yield from scan_file(path, advance, default)


def list_folder(folder: Path) -> Iterator[Path | SkippedItem]:
    """What is in a folder, sorted by name."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 — names only: a folder may hold a million
    except OSError as error:
        yield skipped_path(folder, "unreadable", str(error.strerror))
        return
    yield from (folder / name for name in names)


def skipped_path(path: Path, reason: str, detail: str = "") -> SkippedItem:
    """A file or folder left out."""
    return SkippedItem(to_printable(str(path)), reason, detail)


def scan_file(
    path: Path, advance: Callable[..., Any], default: str | None = None, *, given: bool = False
) -> Iterator[Source | SkippedItem]:
    """One file: itself, or the members of an archive. A file `given` by name is read whatever its suffix."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield skipped_path(path, "unreadable", str(error.strerror))
        return
    meter = ByteProgress(advance)
    if not stat.S_ISREG(mode):
        yield skipped_path(path, "unreadable", "not a regular file")  # opening a pipe would wait for ever
    elif path.suffix.lower() == ".zip":
        yield from scan_zip(path, advance)
    elif path.name.lower().endswith(TARS):
        yield from scan_tar(path, advance)
    else:
        kind = "text" if given else default
        yield source_for_path(
            to_printable(str(path)), path.name, lambda: open_with_progress(path, meter), default=kind
        )


def scan_zip(path: Path, advance: Callable[..., Any]) -> Iterator[Source | SkippedItem]:
    """The members of a zip archive, sorted by name."""
    try:
        archive = zipfile.ZipFile(open_with_progress(path, ByteProgress(advance)))
    except READ_ERRORS as error:
        yield skipped_path(path, "unreadable", str(error))
        return
    with archive:
        for member in sorted(archive.infolist(), key=lambda info: info.filename):
            if not member.is_dir():
                yield archive_member(path, member.filename, partial(open_member, archive, member))


def open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    """A member of a zip archive. Raises RuntimeError, as zipfile does, for one with a password."""
    if member.flag_bits & ENCRYPTED:
        raise RuntimeError("it is encrypted; unpack the archive with its password first")
    return cast(BinaryIO, archive.open(member))


ENCRYPTED = 1


def scan_tar(path: Path, advance: Callable[..., Any]) -> Iterator[Source | SkippedItem]:
    """The members of a tar archive in order. It is read once: each member is spooled until the next is requested."""
    packing = ".zst" if path.suffix.lower() == ".zst" else ""
    try:
        with (
            open_decompressed(open_with_progress(path, ByteProgress(advance)), packing) as file,
            tarfile.open(fileobj=file, mode="r|" if packing else "r|*") as archive,
        ):
            for member in archive:
                if member.isdir():
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    yield SkippedItem(member_name(path, member.name), "unreadable", "not a regular file")
                    continue
                with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as held:
                    while block := content.read(BLOCK_BYTES):
                        held.write(block)
                    yield archive_member(path, member.name, lambda held=held: NonClosingReader(held))  # type: ignore[misc]
    except READ_ERRORS as error:
        yield skipped_path(path, "unreadable", str(error) or type(error).__name__)


SPOOL_BYTES = 1 << 24


class NonClosingReader(io.RawIOBase):
    """A file that others read after this reader: read from its beginning, and left open."""

    def __init__(self, file: Any) -> None:
        self.file = file
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        self.file.seek(place, whence)
        return int(self.file.tell())

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def member_name(path: Path, member: str) -> str:
    """How a member of an archive is shown."""
    return to_printable(f"{path}!{member}")


def archive_member(path: Path, member: str, opener: Callable[[], Any]) -> Source | SkippedItem:
    """A member of an archive as a source."""
    name = member_name(path, member)
    if any(part.startswith((".", "__MACOSX")) for part in Path(member).parts if part not in (".", "..")):
        return SkippedItem(
            name, "hidden", "its name begins with a dot, or it is a Mac's note on another file"
        )
    return source_for_path(name, member, opener, member=to_printable(member))


def source_for_path(
    name: str, path: str, opener: Callable[[], BinaryIO], *, default: str | None = None, member: str = ""
) -> Source | SkippedItem:
    """A source by the suffix of its path, through one layer of packing; shown as `name`."""
    file = Path(path)
    compression = file.suffix.lower() if file.suffix.lower() in COMPRESSED else ""
    suffix = (file.with_suffix("") if compression else file).suffix.lower()
    if suffix in UNSUPPORTED_SUFFIXES:
        return SkippedItem(name, "suffix not read", f"{suffix}: {UNSUPPORTED_SUFFIXES[suffix]}")
    kind = KINDS.get(suffix, default)
    if kind is None:
        return SkippedItem(name, "suffix not read", to_printable(suffix) or "no suffix")
    return Source(name, kind, opener, compression, member)


def open_decompressed(file: BinaryIO, compression: str) -> BinaryIO:
    """The plain bytes of a packed file."""
    if compression == ".gz":
        return cast(BinaryIO, gzip.open(file))
    if compression == ".bz2":
        return cast(BinaryIO, bz2.open(file))
    if compression == ".xz":
        return cast(BinaryIO, lzma.open(file))
    if compression == ".zst":
        return cast(BinaryIO, import_optional("pyarrow", "text").input_stream(file, compression="zstd"))
    return file


class ByteProgress:
    """Reports how many bytes of a file were read for the first time: a file is read twice (encoding, then text)."""

    def __init__(self, advance: Callable[..., Any]) -> None:
        self.advance, self.furthest = advance, 0

    def reach(self, position: int) -> None:
        if position > self.furthest:
            self.advance(position - self.furthest)
            self.furthest = position


class ProgressReader(io.FileIO):
    """A file on the disk whose reading a meter sees."""

    def __init__(self, path: Path, meter: ByteProgress) -> None:
        super().__init__(path, "rb")
        self.meter = meter

    def readinto(self, buffer: Any) -> int:
        n_read = super().readinto(buffer)
        self.meter.reach(self.tell())
        return n_read


def open_with_progress(path: Path, meter: ByteProgress) -> BinaryIO:
    """Open a file on the disk, buffered, its reading seen by `meter`."""
    return cast(BinaryIO, io.BufferedReader(ProgressReader(path, meter), BLOCK_BYTES))


def read_blocks(source: Source) -> Iterator[bytes]:
    """The plain bytes of a source in blocks. Raises UnreadableError with the reason."""
    try:
        with source.open() as outer, open_decompressed(outer, source.compression) as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except READ_ERRORS as error:
        raise UnreadableError(
            "unreadable_file", getattr(error, "strerror", None) or str(error) or type(error).__name__
        ) from error


def total_bytes(given: Iterable[str | Path]) -> int:
    """How many bytes there are below the given paths, read or not: the length of the progress bar."""
    total, pending = 0, [os.fspath(path) for path in given]
    while pending:
        path = pending.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += file_size(Path(entry.path))
        except OSError:
            total += file_size(Path(path))
    return total


def file_size(path: Path) -> int:
    """The size of a file in bytes; 0 where it is unknown."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
