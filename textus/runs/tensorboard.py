"""A log as TensorBoard reads it."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO


class TensorBoardWriter:
    """A run's log as TensorBoard reads it: numbers as scalars, samples as text; nothing where it is not installed.

    Each event is written at once as a record of its own: length, event, and the masked CRC-32C of both
    (TFRecord). Its own writer would import 0.3 s of code and hold events back; its message types cost 0.03 s.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: BinaryIO | None = None

    def restart(self) -> None:
        """Forget what was written."""
        if self.file is not None:
            self.file.close()
        self.file = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, line: dict[str, Any], when: float) -> None:
        """One line of log.jsonl, logged at `when` (seconds since 1970)."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event
        except ImportError:
            return
        if self.file is None:
            self.folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{int(when):010d}.textus"
            self.file = (self.folder / name).open("ab", buffering=0)
            self._write(Event(wall_time=when, file_version="brain.Event:2"))
        event = Event(wall_time=when, step=line.get("step", 0))
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                event.summary.value.add(tag=name, simple_value=value)
            elif isinstance(value, str):
                text = event.summary.value.add(tag=name)
                text.metadata.plugin_data.plugin_name = "text"
                text.tensor.dtype = 7  # DT_STRING
                text.tensor.string_val.append(value.encode())
        self._write(event)

    def _write(self, event: Any) -> None:
        assert self.file is not None
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self.file.write(length + _masked_crc(length) + data + _masked_crc(data))


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C (Castagnoli), rotated and shifted as TFRecord wants it."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
