"""The content of `textus show` and `textus doctor`: a model's layers and costs, and this machine.

Layers, shapes and parameters are read from the module tree of any family; repeated blocks are shown once with their
number. FLOPs are counted as in Kaplan et al. 2020, table 1, a multiplication and an addition as two: 2 for each weight
of a matrix a token meets, and 4 · seen · D for each layer's attention, where a token sees half the context on average;
training costs three times as much. Families without matrices have tables instead. Shapes: T time, D width.
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
    "metrics": ("sacrebleu", "rouge_score"),
    "documents": ("pypdf", "docx"),
}
"""Extra → the modules it installs."""
HEADS = "heads"
"""The submodule of a `LanguageModel` with its task heads."""


# ── a model ────────────────────────────────────────────────────────────────────────────────────


@dataclass
class ModuleSummary:
    """A module: its name, class, own shapes, and children; `times` equal neighbours are folded into one."""

    name: str
    kind: str
    shapes: dict[str, list[int]]
    parameters: int  # of one, children included
    times: int = 1
    children: list[ModuleSummary] = field(default_factory=list)


def summarize_modules(module: nn.Module, name: str = "model") -> ModuleSummary:
    """The module tree, equal neighbours (class, shapes, children) folded into one."""
    shapes = {key: list(p.shape) for key, p in [*module.named_parameters(recurse=False), *_stored(module)]}
    total = sum(p.numel() for p in module.parameters())
    children: list[ModuleSummary] = []
    # heads come last, though they are created first
    for key, child in sorted(module.named_children(), key=lambda pair: pair[0] == HEADS):
        layer = summarize_modules(child, key)
        if not layer.parameters and not layer.children and not layer.shapes:
            continue  # activations, dropout: no parameters
        if children and _same(children[-1], layer):
            children[-1].times += 1
        else:
            children.append(layer)
    return ModuleSummary(name, type(module).__name__, shapes, total, children=children)


def _stored(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Buffers that a run folder stores: the tables of count-based families."""
    transient = module._non_persistent_buffers_set
    return [(key, b) for key, b in module.named_buffers(recurse=False) if key not in transient]


def _same(first: ModuleSummary, second: ModuleSummary) -> bool:
    """Whether two neighbours differ only in their numbers."""
    names = first.name.isdigit() and second.name.isdigit()
    equal = (first.kind, first.shapes, first.parameters) == (second.kind, second.shapes, second.parameters)
    return names and equal and first.children == second.children


def describe(
    model: LanguageModel, *, name: str = "model", context_length: int | None = None, family: str | None = None
) -> dict[str, Any]:
    """A model as JSON values: config, layers, parameters, FLOPs per token, bytes of its weights and its cache.

    `context_length` (default: the model's) is the length for attention FLOPs and the cache. FLOPs are None for families
    without matrices, the cache is None for those that cannot generate.
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
    """Parameters in total, in embeddings, in one of the (largest) repeated blocks, and the number of blocks."""
    embedding = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    block = _largest_run(summarize_modules(model))
    counts = {"total": n_parameters(model), "embedding": embedding}
    return {**counts, "per_block": block.parameters, "blocks": block.times} if block else counts


def _largest_run(layer: ModuleSummary) -> ModuleSummary | None:
    """The repeated layer with the most parameters."""
    below = [layer_below for child in layer.children if (layer_below := _largest_run(child))]
    own = [child for child in layer.children if child.times > 1 and child.parameters]
    return max([*own, *below], key=lambda summary: summary.parameters * summary.times, default=None)


def flops_per_token(model: LanguageModel, length: int | None) -> int | None:
    """FLOPs of one token in a text of `length`; None for families without matrices.

    An embedding lookup costs nothing; one that is also the output head costs as a matrix.
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
    """Bytes of the cache of one row with `length` ids; None for families that cannot generate."""
    if not model.capabilities.can_generate:
        return None
    one, two = (
        sum(t.numel() * t.element_size() for t in vars(cache).values() if isinstance(t, torch.Tensor))
        for cache in (model.new_cache(1, 1), model.new_cache(1, 2))
    )
    return one + (length - 1) * (two - one)  # extrapolated: a declared context may be huge


def format_description(description: dict[str, Any]) -> str:
    """A description as text: the figures, then one line per layer."""
    p = description["parameters"]
    figures = [
        ("family", description["family"]),
        ("parameters", _parameters_text(p)),
        ("weights", format_bytes(description["weights_bytes"])),
    ]
    if description["flops_per_token"] is not None:
        forward, training = (
            _flops(description["flops_per_token"]),
            _flops(description["training_flops_per_token"]),
        )
        figures.append(("FLOPs a token", f"{forward} reading, {training} training"))
    if description["cache_bytes"] is not None:
        length = description["counted_for_length"]
        figures.append(
            (
                "cache",
                format_bytes(description["cache_bytes"])
                + (f" a row of {length:,} ids" if length else " a row"),
            )
        )
    figures.append(
        (
            "context",
            f"{description['context_length']:,} ids" if description["context_length"] else "any length",
        )
    )
    settings = ", ".join(f"{key}={value}" for key, value in description["config"].items())
    lines = [f"{name:<14} {text}" for name, text in figures]
    return "\n".join([*lines, f"{'config':<14} {settings}", "", *_tree(description["layers"])])


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
    """One line per layer: name, class, shapes, parameters."""
    shapes = ", ".join(f"{key} {_shape(shape)}" for key, shape in layer["shapes"].items())
    left = "  " * indent + _title(layer)
    counted = f"{layer['parameters'] * layer['times']:,}" if layer["parameters"] else ""
    lines = [f"{left:<44} {counted:>14}  {shapes}".rstrip()]
    return lines + [line for child in layer["children"] for line in _tree(child, indent + 1)]


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape)) or "1"


def format_mermaid(description: dict[str, Any]) -> str:
    """A Mermaid flow chart: the top layers in order, repeated blocks as a box around their parts, then the heads in
    parallel.
    """
    lines, ends = ["flowchart TD"], []
    children = description["layers"]["children"]
    heads = [head for child in children if child["name"] == HEADS for head in child["children"]]
    for number, child in enumerate(child for child in children if child["name"] != HEADS):
        lines += _box(child, f"n{number}")
        ends.append(f"n{number}")
    if not children:  # a family without layers is one box
        return "\n".join([*lines, f"    ids --> n0[{_quoted(description['layers'])}] --> logits"])
    for number, head in enumerate(heads):
        lines += _box(head, f"head{number}")
    last = " & ".join(f"head{number}" for number in range(len(heads)))
    return "\n".join([*lines, "    " + " --> ".join(["ids", *ends, *([last] if heads else []), "logits"])])


def _box(layer: dict[str, Any], key: str) -> list[str]:
    """A node, or a box with the parts of a layer in order."""
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
        detail
        for detail in (shape if shape != "1" else "", f"{counted:,} parameters" if counted else "")
        if detail
    )
    text = _title(layer) + (f"<br/>{details}" if details else "")
    return '"' + text.replace('"', "'") + '"'


# ── the machine ────────────────────────────────────────────────────────────────────────────────


def doctor(folder: Path | None = None) -> dict[str, Any]:
    """Versions, machine, measured matrix rates, optional packages, and the disk of `folder` (default: the current one).
    Takes a few seconds.

    Rates are FLOP/s of the largest layer of a small decoder, by dtype, for one thread and for all cores.
    """
    folder = Path.cwd() if folder is None else folder
    machine = hardware.detect_machine()
    counts = sorted({1, machine.cores})
    rates = {n: hardware.matmul_rates(["float32", "bfloat16"], threads=n, seconds=2) for n in counts}
    return {
        "versions": hardware.package_versions(),
        "machine": dataclasses.asdict(machine),
        "isa": hardware.isa_name(),
        "matrix_rates": [{"threads": n, **by_dtype} for n, by_dtype in rates.items()],
        "dtype": "bfloat16" if rates[1]["bfloat16"] > hardware.MARGIN * rates[1]["float32"] else "float32",
        "extras": optional_packages(),
        "disk": measure_disk(folder),
        "advice": recommendations(machine, rates),
    }


def optional_packages() -> list[dict[str, Any]]:
    """Each optional package: its extra, its version (None if missing), and the command that installs it."""
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
    return {"docx": "python-docx"}.get(module, module.replace("_", "-"))


def _pip(name: str) -> str:
    return f"pip install 'textus[{name}]'"


def measure_disk(folder: Path, n_bytes: int = 1 << 25) -> dict[str, Any]:
    """Free bytes of a folder's disk, and bytes per second of writing and flushing 32 MB; None if it is not writable."""
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


def recommendations(machine: hardware.Machine, rates: dict[int, dict[str, float]]) -> list[str]:
    """What to improve on this machine, one sentence each."""
    sentences = []
    if machine.compiler is None:
        sentences.append(
            "no C++ compiler: training steps run uncompiled; Debian and Ubuntu: apt-get install g++"
        )
    if machine.load > machine.cores + 0.5:
        sentences.append(
            f"{machine.load:.1f} processes run on {machine.cores} cores: train with fewer threads, or wait"
        )
    if machine.cores > 1 and rates[machine.cores]["float32"] < 1.2 * rates[1]["float32"]:
        sentences.append(
            f"{machine.cores} threads multiply hardly faster than one: other processes use the cores"
        )
    if machine.memory_available < 2e9:
        sentences.append(
            f"only {format_bytes(machine.memory_available)} of memory is free: use small models and batches"
        )
    missing = sorted({package["extra"] for package in optional_packages() if package["version"] is None})
    sentences += [f"extra {name!r} is incomplete: {_pip(name)}" for name in missing]
    return sentences


def format_doctor(report: dict[str, Any]) -> str:
    """The result of `doctor` as text."""
    machine, disk = report["machine"], report["disk"]
    memory = f"{format_bytes(machine['memory_total'])}, {format_bytes(machine['memory_available'])} free"
    speed = f"writes {format_bytes(disk['write_rate'])}/s" if disk["write_rate"] else "not writable"
    facts = [
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
        ("processor", f"{machine['cpu']}, {machine['cores']} usable cores, load {machine['load']:.1f}"),
        ("instructions", report["isa"]),
        ("memory", memory),
        ("GPU", machine["gpu"] or "none"),
        ("C++ compiler", machine["compiler"] or "none"),
        ("disk", f"{disk['folder']}: {format_bytes(disk['free'])} free, {speed}"),
        (
            "precision",
            f"{report['dtype']} is faster here"
            if report["dtype"] != "float32"
            else "float32: bfloat16 is no faster here",
        ),
    ]
    rates = [
        {
            "threads": row["threads"],
            **{f"{k} GFLOP/s": round(v / 1e9) for k, v in row.items() if k != "threads"},
        }
        for row in report["matrix_rates"]
    ]
    packages = [
        {"extra": e["extra"], "package": e["module"], "version": e["version"] or "missing"}
        for e in report["extras"]
    ]
    lines = [f"{name:<13} {format_value(text)}" for name, text in facts]
    parts = [
        "\n".join(lines),
        text_table(rates),
        text_table(packages),
        "\n".join(f"! {advice}" for advice in report["advice"]),
    ]
    return "\n\n".join(part for part in parts if part)
