"""Counts agree with torch's own, and what is missing is said with its remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled import written
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from textus.api import finetune, show
from textus.core import hardware
from textus.data.loader import TokenLoader
from textus.data.token_dataset import in_memory_dataset
from textus.evaluation import inspection
from textus.evaluation.inspection import (
    describe,
    doctor,
    format_description,
    format_doctor,
    format_mermaid,
    measure_disk,
    summarize_modules,
)
from textus.models.contract import Capabilities
from textus.models.decoder import Decoder
from textus.models.ngram import NGram, NGramConfig
from textus.models.nn.attention import DecoderConfig
from textus.models.registry import build
from textus.models.testing import Fake, FakeConfig

SHAPES: list[dict[str, Any]] = [
    {},
    {"tie_head": True, "bias": True, "position": "learned", "norm": "layer"},
    {"n_kv_head": 1, "activation": "gelu", "qk_norm": False},
]


def decoder(**options: Any) -> Decoder:
    return Decoder(DecoderConfig(96, 32, n_layer=4, n_head=2, d_model=16, **options))


def every(layer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield layer
    for child in layer["children"]:
        yield from every(child)


@pytest.mark.promise("Results", "FLOPs shown are those torch counts")
@pytest.mark.parametrize("options", SHAPES)
def test_flops_are_those_torch_counts(options: dict[str, Any]) -> None:
    model = decoder(**options)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 32, dtype=torch.long))
    square = 4 * 4 * 32 * 16  # torch multiplies the whole square of attention, of which a token sees half
    assert describe(model)["flops_per_token"] == counter.get_total_flops() / 32 - square / 2


def test_a_window_costs_less_attention() -> None:
    full, narrow = describe(decoder())["flops_per_token"], describe(decoder(window=4))["flops_per_token"]
    seen = [sum(min(t, 4) for t in range(32)) / 32, sum(range(32)) / 32]  # earlier positions, on average
    assert full - narrow == pytest.approx(4 * 4 * 16 * (seen[1] - seen[0]), rel=0.1)


@pytest.mark.parametrize("options", SHAPES)
def test_parameters_are_all_counted_once(options: dict[str, Any]) -> None:
    model = decoder(**options)
    description = describe(model)
    total = sum(p.numel() for p in model.parameters())
    assert description["parameters"]["total"] == description["layers"]["parameters"] == total
    own = sum(p.numel() for p in model.blocks[0].parameters())
    assert (description["parameters"]["per_block"], description["parameters"]["blocks"]) == (own, 4)
    assert description["weights_bytes"] == sum(
        t.numel() * t.element_size() for t in model.state_dict().values()
    )
    tree = sum(child["parameters"] * child["times"] for child in description["layers"]["children"])
    assert tree == total


def test_blocks_that_differ_are_not_folded() -> None:
    same = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    assert [(c.times, c.parameters) for c in summarize_modules(same).children] == [(6, 20)]
    mixed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 8), nn.Linear(8, 4))
    assert [c.times for c in summarize_modules(mixed).children] == [2, 1, 1]


def test_the_cache_is_as_large_as_keys_and_values() -> None:
    assert describe(decoder())["cache_bytes"] == 2 * 4 * 32 * 16 * 4 + 8  # and the row's length
    assert describe(decoder(n_kv_head=1), context_length=8)["cache_bytes"] == 2 * 4 * 8 * 8 * 4 + 8
    model = decoder()
    model.capabilities = Capabilities(can_generate=False)
    assert describe(model)["cache_bytes"] is None


def test_a_family_of_tables_has_sizes_and_no_flops() -> None:
    model = NGram(NGramConfig(10, 0, order=3))
    model.count(
        TokenLoader(
            in_memory_dataset([0, *range(1, 10)] * 3), batch_size=1, context_length=29, shuffle=False
        ).batch(0)
    )
    model.update()
    description = describe(model, family="ngram")
    assert description["flops_per_token"] is None
    assert description["parameters"]["total"] == sum(t.numel() for t in model.state_dict().values())
    shapes = description["layers"]["shapes"]
    assert shapes["probability_1"] == [10]
    assert shapes["keys_2"][0] > 0
    text = format_description(description)
    assert "any length" in text
    assert "FLOPs" not in text
    assert f"keys_2 {shapes['keys_2'][0]}" in text


def test_text_and_json_of_a_decoder() -> None:
    description = describe(decoder(), name="run", family="decoder")
    assert json.loads(json.dumps(description)) == description
    text = format_description(description)
    assert "Block × 4" in text
    assert "context        32 ids" in text
    assert re.search(r"embedding: Embedding +1,536  weight 96 × 16", text)
    assert text.count("qkv") == 1


@pytest.mark.parametrize("family", ["decoder", "ngram", "fake"])
def test_mermaid_joins_only_nodes_that_are_there(family: str) -> None:
    config = {"decoder": {"vocab_size": 50}, "ngram": {"vocab_size": 50, "end_id": 0}, "fake": {}}[family]
    chart = format_mermaid(describe(build(family, config)))
    lines = chart.splitlines()
    assert lines[0] == "flowchart TD"
    made = {"ids", "logits", *re.findall(r"\b(n[\d_]+)\s?\[", chart)}
    joined = {
        node for line in lines if "-->" in line for node in re.sub(r'\["[^"]*"\]', "", line).split(" --> ")
    }
    assert {node.strip() for node in joined} <= made
    assert lines[-1].strip().startswith("ids --> ")
    assert lines[-1].endswith("logits")
    assert sum("subgraph" in line for line in lines) == sum(line.strip() == "end" for line in lines)
    assert all(line.count('"') in (0, 2) for line in lines)


@pytest.mark.parametrize("family", ["encoder", "lstm", "decoder"])
def test_heads_are_behind_the_layers_they_read_from(family: str, tmp_path: Path) -> None:
    """In the chart side by side, in the tree last: they were before the embedding."""
    rows = [{"text": f"film {n} was {('bad', 'good')[n % 2]}", "label": n % 2} for n in range(20)]
    tags = [{"tokens": ["Anna", f"came{n}"], "tags": ["B-PER", "O"]} for n in range(20)]
    run = finetune(
        written(tmp_path / "rows.jsonl", rows), model=family, out=tmp_path / "run", epochs=4,
        overrides=["model.n_layer=1", "model.d_model=16"],
        extra_tasks=[f"tags:tagging={written(tmp_path / 'tags.jsonl', tags)}"],
    )  # fmt: skip
    summary = show(run)
    assert [layer["name"] for layer in summary["layers"]["children"]][-1] == "heads"
    *boxes, joined = summary["mermaid"].splitlines()
    keys = {name: key for line in boxes for key, name in re.findall(r'(\w+) ?\["(\w+): ', line)}
    chain = joined.strip().split(" --> ")
    assert chain[:2] == ["ids", keys["embedding"]]
    assert chain[-2:] == [f"{keys['classification']} & {keys['tags']}", "logits"]
    assert set(re.findall(r"n\d+", joined)) == {key for key in keys.values() if re.fullmatch(r"n\d+", key)}


def test_any_module_tree_can_be_shown() -> None:
    class Odd(Fake):
        def __init__(self) -> None:
            super().__init__(FakeConfig())
            self.names = nn.ModuleDict({'a"b': nn.LSTM(3, 5), "c": nn.Conv1d(2, 3, 4)})
            self.register_buffer("steps", torch.zeros(7))
            self.register_buffer("scratch", torch.zeros(9), persistent=False)

    description = describe(Odd())
    names = {layer["name"] for layer in every(description["layers"])}
    assert {'a"b', "c"} <= names
    assert description["layers"]["shapes"] == {"margin": [], "steps": [7]}
    assert format_mermaid(description).count('"') % 2 == 0


# ── doctor ──


@pytest.fixture(scope="module")
def health() -> dict[str, Any]:
    return doctor()


def test_doctor_shows_what_is_here(health: dict[str, Any]) -> None:
    assert json.loads(json.dumps(health))["versions"] == hardware.package_versions()
    rates = health["matrix_rates"]
    assert [row["threads"] for row in rates] == sorted({1, hardware.usable_cores()})
    assert all(row["float32"] > 1e8 and row["bfloat16"] > 1e6 for row in rates)
    assert {extra["module"]: extra["version"] for extra in health["extras"]}["matplotlib"]
    text = format_doctor(health)
    for shown in (torch.__version__, "GFLOP/s", "matplotlib", health["machine"]["cpu"], health["isa"]):
        assert shown in text


def test_every_extra_of_the_project_is_looked_for() -> None:
    import tomllib

    project = tomllib.loads(Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())["project"]
    for name, requirements in project["optional-dependencies"].items():
        if name in ("all", "dev"):
            continue
        wanted = {re.split(r"[<>=\[]", requirement)[0].replace("-", "_") for requirement in requirements}
        packages = {"docx": "python_docx"}
        assert {packages.get(module, module) for module in inspection.EXTRAS[name]} == wanted


def test_what_is_missing_is_reported_with_its_remedy(
    health: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(inspection.EXTRAS, "text", ("no_such_module",))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    rates = {1: {"float32": 1e10, "bfloat16": 1e9}, 2: {"float32": 1.1e10, "bfloat16": 1e9}}
    detect_machine = replace(hardware.detect_machine(), cores=2, load=4.0, memory_available=1_000_000_000)
    answer = inspection.recommendations(detect_machine, rates)
    assert any("4.0 processes run on 2 cores" in line for line in answer)
    assert any("hardly faster than one" in line for line in answer)
    assert any("only 1.0 GB of memory" in line for line in answer)
    assert any("pip install 'textus[text]'" in line for line in answer)
    assert any("no C++ compiler" in line for line in answer)
    text = format_doctor({**health, "extras": inspection.optional_packages(), "advice": answer})
    assert re.search(r"no_such_module +missing", text)
    assert "! no C++ compiler" in text


def test_disk_measures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = measure_disk(tmp_path)
    assert result["free"] > 0
    assert result["write_rate"] > 1e5
    assert list(tmp_path.iterdir()) == []
    closed = measure_disk(Path("/proc"))  # a folder nobody can write to, root included
    assert closed["write_rate"] is None
    assert "not writable" in format_doctor(doctor_of(closed))


def doctor_of(drive: dict[str, Any]) -> dict[str, Any]:
    """The smallest findings that can be shown."""
    return {
        "versions": hardware.package_versions(),
        "machine": asdict(hardware.detect_machine()),
        "isa": hardware.isa_name(),
        "matrix_rates": [{"threads": 1, "float32": 1e11}],
        "dtype": "float32",
        "extras": [],
        "disk": drive,
        "advice": [],
    }
