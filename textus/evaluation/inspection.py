"""What is inside a model, and what this machine can do: the content of `textus show` and `textus doctor`.

Nothing here knows a family: layers, shapes and parameters are read from the module tree, and repeated
blocks are shown once with their number. FLOPs are counted as in Kaplan et al. 2020, table 1, a
multiplication and an addition as two: 2 for each weight of a matrix a token meets, and 4 · seen · D for
each layer's attention, where a token sees half the context on average; training costs three times as much.
Families without matrices have tables instead. Shapes: T time, D width.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from textus.core import hardware
from textus.evaluation.perplexity import n_parameters, weights_bytes
from textus.models.contract import LanguageModel
from textus.reporting.format import format_bytes, format_value, text_table

EXTRAS = {
    "text": ("ftfy", "charset_normalizer", "trafilatura", "lxml_html_clean", "pyarrow", "jieba"),
    "report": ("matplotlib", "tensorboard"),
    "serve": ("fastapi", "uvicorn"),
    "import": ("gguf",),
    "vectors": ("gensim",),
    "augment": ("jieba", "pypinyin"),
    "tune": ("optuna",),
    "search": ("usearch", "bm25s"),
}
"""Extra → the modules it brings."""
HEADS = "heads"
"""The layers of a `LanguageModel` that read its states for the tasks it was fine-tuned for."""


# ── a model ────────────────────────────────────────────────────────────────────────────────────


@dataclass
class ModuleSummary:
    """A module: its name, class, what it holds itself, and its children. `times` equal ones stand for each
    other."""

    name: str
    kind: str
    shapes: dict[str, list[int]]
    parameters: int  # of one, children included
    times: int = 1
    children: list[ModuleSummary] = field(default_factory=list)


def summarize_modules(module: nn.Module, name: str = "model") -> ModuleSummary:
    """The module tree with runs of equal neighbours (class, shapes, children) folded into one."""
    shapes = {key: list(p.shape) for key, p in [*module.named_parameters(recurse=False), *_stored(module)]}
    total = sum(p.numel() for p in module.parameters())
    children: list[ModuleSummary] = []
    # heads are made before the layers they read from
    for key, child in sorted(module.named_children(), key=lambda pair: pair[0] == HEADS):
        layer = summarize_modules(child, key)
        if not layer.parameters and not layer.children and not layer.shapes:
            continue  # activations, dropout: nothing is learned there
        if children and _same(children[-1], layer):
            children[-1].times += 1
        else:
            children.append(layer)
    return ModuleSummary(name, type(module).__name__, shapes, total, children=children)


def _stored(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Buffers a run folder stores: the tables of families that count."""
    transient = module._non_persistent_buffers_set
    return [(key, b) for key, b in module.named_buffers(recurse=False) if key not in transient]


def _same(first: ModuleSummary, second: ModuleSummary) -> bool:
    """Whether two neighbours differ in nothing but their numbers."""
    names = first.name.isdigit() and second.name.isdigit()
    equal = (first.kind, first.shapes, first.parameters) == (second.kind, second.shapes, second.parameters)
    return names and equal and first.children == second.children


def describe(
    model: LanguageModel, *, name: str = "model", context_length: int | None = None, family: str | None = None
) -> dict[str, Any]:
    """A model as JSON values: config, layers, parameters, FLOPs a token, bytes of its weights and of its
    cache.

    `context_length` (default: the model's) is what attention FLOPs and the cache are counted for. FLOPs are
    None for families without matrices, the cache is None for those that cannot generate.
    """
    limit = model.config.context_length
    length = context_length or limit
    tree = summarize_modules(model, name)
    flops = flops_per_token(model, length)
    return {
        "name": name,
        "family": family or type(model).__name__.lower(),
        "config": dataclasses.asdict(model.config),
        "parameters": count_parameters(model),
        "flops_per_token": flops,
        "training_flops_per_token": None if flops is None else 3 * flops,
        "weights_bytes": weights_bytes(model),
        "cache_bytes": cache_bytes(model, length or 1),
        "context_length": limit,
        "counted_for_length": length,
        "layers": dataclasses.asdict(tree),
    }


def count_parameters(model: LanguageModel) -> dict[str, int]:
    """Numbers learned: total, in embeddings, in one of the repeated blocks (the largest run), and of how many
    blocks."""
    embedding = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    block = _largest_run(summarize_modules(model))
    found = {"total": n_parameters(model), "embedding": embedding}
    return {**found, "per_block": block.parameters, "blocks": block.times} if block else found


def _largest_run(layer: ModuleSummary) -> ModuleSummary | None:
    """The repeated layer that holds the most."""
    below = [found for child in layer.children if (found := _largest_run(child))]
    own = [child for child in layer.children if child.times > 1 and child.parameters]
    return max([*own, *below], key=lambda each: each.parameters * each.times, default=None)


def flops_per_token(model: LanguageModel, length: int | None) -> int | None:
    """Operations to read one token of a text of `length`; None for families without matrices.

    An embedding that is only looked up costs nothing; one that is also the head costs as a matrix.
    """
    matrices = [p for p in model.parameters() if p.ndim == 2]
    if not matrices:
        return None
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    flops = 2 * sum(p.numel() for p in matrices if id(p) not in looked_up)
    config = model.config
    if getattr(config, "tie_head", False):
        flops += 2 * config.vocab_size * config.d_model
    if length and hasattr(config, "n_head"):
        window = min(length, getattr(config, "window", None) or length)
        seen = window - window**2 / (2 * length)  # fewer at the start of the text
        flops += int(4 * config.n_layer * seen * config.d_model)
    return flops


def cache_bytes(model: LanguageModel, length: int) -> int | None:
    """Bytes one row remembers of `length` ids; None for families that cannot generate."""
    if not model.capabilities.can_generate:
        return None
    one, two = (
        sum(t.numel() * t.element_size() for t in vars(cache).values() if isinstance(t, torch.Tensor))
        for cache in (model.new_cache(1, 1), model.new_cache(1, 2))
    )
    return one + (length - 1) * (two - one)  # not made at its full length: a declared context may be huge


def format_description(found: dict[str, Any]) -> str:
    """A description for the terminal: the figures, then the layers, one a line."""
    p = found["parameters"]
    figures = [
        ("family", found["family"]),
        ("parameters", _parameters_text(p)),
        ("weights", format_bytes(found["weights_bytes"])),
    ]
    if found["flops_per_token"] is not None:
        forward, training = _flops(found["flops_per_token"]), _flops(found["training_flops_per_token"])
        figures.append(("FLOPs a token", f"{forward} reading, {training} training"))
    if found["cache_bytes"] is not None:
        length = found["counted_for_length"]
        figures.append(
            (
                "cache",
                format_bytes(found["cache_bytes"]) + (f" a row of {length:,} ids" if length else " a row"),
            )
        )
    figures.append(
        ("context", f"{found['context_length']:,} ids" if found["context_length"] else "any length")
    )
    settings = ", ".join(f"{key}={value}" for key, value in found["config"].items())
    lines = [f"{name:<14} {text}" for name, text in figures]
    return "\n".join([*lines, f"{'config':<14} {settings}", "", *_tree(found["layers"])])


def _parameters_text(counts: dict[str, int]) -> str:
    text = f"{counts['total']:,}"
    if counts["embedding"]:
        text += f", of them {counts['embedding']:,} in embeddings"
    if "per_block" in counts:
        text += f", {counts['per_block']:,} in each of {counts['blocks']} blocks"
    return text


def _flops(count: int) -> str:
    for unit in ("", " k", " M", " G"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} T"


def _title(layer: dict[str, Any]) -> str:
    times = f" × {layer['times']}" if layer["times"] > 1 else ""
    name = layer["kind"] if layer["name"].isdigit() else f"{layer['name']}: {layer['kind']}"
    return name + times


def _tree(layer: dict[str, Any], indent: int = 0) -> list[str]:
    """One line a layer: name, class, shapes, parameters."""
    shapes = ", ".join(f"{key} {_shape(shape)}" for key, shape in layer["shapes"].items())
    left = "  " * indent + _title(layer)
    counted = f"{layer['parameters'] * layer['times']:,}" if layer["parameters"] else ""
    lines = [f"{left:<44} {counted:>14}  {shapes}".rstrip()]
    return lines + [line for child in layer["children"] for line in _tree(child, indent + 1)]


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape)) or "1"


def format_mermaid(found: dict[str, Any]) -> str:
    """A flow chart in Mermaid: the top layers in order, repeated blocks as a box around their parts; heads side by side
    behind the layers.
    """
    lines, ends = ["flowchart TD"], []
    children = found["layers"]["children"]
    heads = [head for child in children if child["name"] == HEADS for head in child["children"]]
    for number, child in enumerate(child for child in children if child["name"] != HEADS):
        lines += _box(child, f"n{number}")
        ends.append(f"n{number}")
    if not children:  # a family without layers: its tables are one box
        return "\n".join([*lines, f"    ids --> n0[{_quoted(found['layers'])}] --> logits"])
    for number, head in enumerate(heads):
        lines += _box(head, f"head{number}")
    last = " & ".join(f"head{number}" for number in range(len(heads)))
    return "\n".join([*lines, "    " + " --> ".join(["ids", *ends, *([last] if heads else []), "logits"])])


def _box(layer: dict[str, Any], key: str) -> list[str]:
    """A node, or a box with a layer's own parts in order."""
    inside = layer["children"]
    if len(inside) == 1 and inside[0]["name"].isdigit() and not layer["shapes"]:  # a list of equal blocks
        inner = inside[0]
        return _box({**inner, "name": layer["name"], "kind": inner["kind"]}, key)
    if not inside:
        return [f"    {key}[{_quoted(layer)}]"]
    nodes = [f"        {key}_{i}[{_quoted(child)}]" for i, child in enumerate(inside)]
    chain = "        " + " --> ".join(f"{key}_{i}" for i in range(len(inside)))
    return [
        f"    subgraph {key} [{_quoted(layer)}]",
        *nodes,
        *([chain] if len(inside) > 1 else []),
        "    end",
    ]


def _quoted(layer: dict[str, Any]) -> str:
    counted = layer["parameters"] * layer["times"]
    shape = _shape(max(layer["shapes"].values(), key=math.prod, default=[1]))
    details = "<br/>".join(
        each for each in (shape if shape != "1" else "", f"{counted:,} parameters" if counted else "") if each
    )
    text = _title(layer) + (f"<br/>{details}" if details else "")
    return '"' + text.replace('"', "'") + '"'


# ── the machine ────────────────────────────────────────────────────────────────────────────────


def doctor(folder: Path | None = None) -> dict[str, Any]:
    """Versions, machine, measured matrix rates, extras and the disk under `folder` (default: here). Takes
    seconds.

    Rates are FLOP/s of the largest layer of a small decoder, by dtype, for one thread and for all cores.
    """
    folder = Path.cwd() if folder is None else folder
    found = hardware.detect_machine()
    counts = sorted({1, found.cores})
    rates = {n: hardware.matmul_rates(["float32", "bfloat16"], threads=n, seconds=2) for n in counts}
    return {
        "versions": hardware.package_versions(),
        "machine": dataclasses.asdict(found),
        "isa": hardware.isa_name(),
        "matrix_rates": [{"threads": n, **each} for n, each in rates.items()],
        "dtype": "bfloat16" if rates[1]["bfloat16"] > hardware.MARGIN * rates[1]["float32"] else "float32",
        "extras": optional_packages(),
        "disk": measure_disk(folder),
        "advice": recommendations(found, rates),
    }


def optional_packages() -> list[dict[str, Any]]:
    """Each optional package: which extra brings it, its version (None where it is missing), and how to
    install it."""
    return [
        {
            "extra": name,
            "module": module,
            "version": hardware.installed_version(_package(module)),
            "install": _pip(name),
        }
        for name, modules in EXTRAS.items()
        for module in modules
    ]


def _package(module: str) -> str:
    return module.replace("_", "-")


def _pip(name: str) -> str:
    return f"pip install 'textus[{name}]'"


def measure_disk(folder: Path, n_bytes: int = 1 << 25) -> dict[str, Any]:
    """Free bytes under a folder, and bytes a second of writing 32 MB and flushing them; None where it cannot
    be written."""
    free = shutil.disk_usage(folder).free
    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            started = time.perf_counter()
            for _ in range(min(n_bytes, free // 2) >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rate = file.tell() / (time.perf_counter() - started)
    except OSError:
        return {"folder": str(folder), "free": free, "write_rate": None}
    return {"folder": str(folder), "free": free, "write_rate": rate}


def recommendations(found: hardware.Machine, rates: dict[int, dict[str, float]]) -> list[str]:
    """What to do about what was found, a sentence each; empty where all is well."""
    said = []
    if found.compiler is None:
        said.append("no C++ compiler: training steps run uncompiled; Debian and Ubuntu: apt-get install g++")
    if found.load > found.cores + 0.5:
        said.append(
            f"{found.load:.1f} processes run on {found.cores} cores: train with fewer threads, or wait"
        )
    if found.cores > 1 and rates[found.cores]["float32"] < 1.2 * rates[1]["float32"]:
        said.append(f"{found.cores} threads multiply hardly faster than one: other work holds the cores")
    if found.memory_available < 2e9:
        said.append(
            f"only {format_bytes(found.memory_available)} of memory are free: keep models and batches small"
        )
    missing = sorted({each["extra"] for each in optional_packages() if each["version"] is None})
    said += [f"extra {name!r} is incomplete: {_pip(name)}" for name in missing]
    return said


def format_doctor(found: dict[str, Any]) -> str:
    """What `doctor` found, for the terminal."""
    machine, drive = found["machine"], found["disk"]
    memory = f"{format_bytes(machine['memory_total'])}, {format_bytes(machine['memory_available'])} free"
    speed = f"writes {format_bytes(drive['write_rate'])}/s" if drive["write_rate"] else "cannot be written"
    facts = [
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
        ("processor", f"{machine['cpu']}, {machine['cores']} usable cores, load {machine['load']:.1f}"),
        ("instructions", found["isa"]),
        ("memory", memory),
        ("GPU", machine["gpu"] or "none"),
        ("C++ compiler", machine["compiler"] or "none"),
        ("disk", f"{drive['folder']}: {format_bytes(drive['free'])} free, {speed}"),
        (
            "precision",
            f"{found['dtype']} multiplies faster here"
            if found["dtype"] != "float32"
            else "float32: bfloat16 is no faster here",
        ),
    ]
    rates = [
        {
            "threads": row["threads"],
            **{f"{k} GFLOP/s": round(v / 1e9) for k, v in row.items() if k != "threads"},
        }
        for row in found["matrix_rates"]
    ]
    here = [
        {"extra": e["extra"], "package": e["module"], "version": e["version"] or "missing"}
        for e in found["extras"]
    ]
    lines = [f"{name:<13} {format_value(text)}" for name, text in facts]
    parts = [
        "\n".join(lines),
        text_table(rates),
        text_table(here),
        "\n".join(f"! {each}" for each in found["advice"]),
    ]
    return "\n\n".join(part for part in parts if part)
