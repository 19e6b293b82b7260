"""Several runs on one ruler: bits per byte of the same text, what each costs, and which differences are no chance.

Figures are ranked only where they mean the same: likelihoods of one kind (exact, bound, pseudo), given the same (a
source text or nothing), of the text as it is (`evaluation.perplexity.keeps`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from textus.core.errors import UsageError
from textus.core.hardware import peak_memory_bytes, reset_peak_memory
from textus.core.io import write_atomic, write_json
from textus.data.eval_text import EvalText, to_eval_text
from textus.evaluation.perplexity import (
    PerplexityAccumulator,
    measure,
    n_parameters,
    summarize,
    weights_bytes,
)
from textus.metrics.resampling import interval, paired_bootstrap
from textus.models.contract import LanguageModel
from textus.reporting.html import Section, write_report
from textus.reporting.plots import loss_curve, scatter
from textus.runs.store import read_log
from textus.tokenizers import Tokenizer

KINDS = ("exact", "bound", "pseudo")
"""Kinds of likelihood, in the order they are listed."""

SURE = 6
"""Blocks that it takes to call one run better: that all of fewer lie on one side is a chance of over 5 %."""


@dataclass(frozen=True)
class ComparedRun:
    """One run to compare. `record` is its run.json."""

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    record: dict[str, Any] = field(default_factory=dict)


def compare(
    runs: Iterable[ComparedRun | tuple[str, LanguageModel, Any, dict[str, Any]]],
    texts: Any,
    *,
    n_bytes: int | None = None,
    stride: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Every run on the same bytes: {"on", "rows", "pairs", "verdict"}. A run that is loaded when it is its turn, by an
    iterator, is alone in memory.

    `rows`: name, kind, given and keeps_text (and all three in words: likelihood), rank among those with the same,
    bits per byte, parameters, seconds and CPU-seconds to score, bytes of the weights, peak memory of this process
    while scoring, CPU-seconds it was trained for. `pairs`: neighbours in rank, with the paired bootstrap interval of
    their difference. `verdict`: the same in sentences.
    """
    given = to_eval_text(texts, n_bytes)
    measured = []
    for run in runs:
        entry = run if isinstance(run, ComparedRun) else ComparedRun(*run)
        measured.append(_measured(entry, given, stride, seed))
        del run, entry  # before the next is loaded
    if not measured:
        raise UsageError("missing_argument", "there is nothing to compare; name one run or more")
    measured.sort(key=lambda pair: (*_group(pair[0]), pair[0]["bits_per_byte"]["value"]))
    pairs = []
    for _, alike in groupby(measured, key=lambda pair: _group(pair[0])):
        ranked = list(alike)
        for rank, (row, _) in enumerate(ranked, 1):
            row["rank"] = rank
        pairs += [_pair(first, second, seed) for first, second in pairwise(ranked)]
    rows = [row for row, _ in measured]
    about = {"on": given.name, "bytes": given.n_bytes, "stride": stride}
    return {**about, "rows": rows, "pairs": pairs, "verdict": _verdict(rows, pairs)}


def _group(row: dict[str, Any]) -> tuple[Any, ...]:
    """Rows that may be ranked together have the same."""
    return KINDS.index(row["kind"]), row["given"] or "", not row["keeps_text"]


def _measured(
    entry: ComparedRun, given: EvalText, stride: int | None, seed: int
) -> tuple[dict[str, Any], PerplexityAccumulator]:
    reset_peak_memory()
    tally = measure(entry.model, entry.tokenizer, given, stride=stride)
    found = summarize(tally, entry.model, stride=stride, seed=seed)
    row = {
        "rank": 0,
        "name": entry.name,
        "family": entry.record.get("family") or type(entry.model).__name__.lower(),
        "kind": found["kind"],
        "given": found["given"],
        "keeps_text": found["keeps_text"],
        "likelihood": found["likelihood"],
        "bits_per_byte": found["bits_per_byte"],
        "perplexity": found["perplexity"],
        "window": found["window"],
        "parameters": n_parameters(entry.model),
        "seconds": found["seconds"],
        "cpu_seconds": found["cpu_seconds"],
        "weights_bytes": weights_bytes(entry.model),
        "peak_memory_bytes": peak_memory_bytes(),
        "training_cpu_seconds": entry.record.get("cpu_seconds"),
    }
    return row, tally


def _pair(
    first: tuple[dict[str, Any], PerplexityAccumulator],
    second: tuple[dict[str, Any], PerplexityAccumulator],
    seed: int,
) -> dict[str, Any]:
    """How much worse the second is, in bits per byte, and whether that could be chance."""
    (better, weights), (worse, _) = first[1].bits(), second[1].bits()
    difference = interval(paired_bootstrap(worse, better, weights, seed=seed), len(weights))
    certain = len(weights) >= SURE and difference["low"] > 0
    return {
        "better": first[0]["name"],
        "worse": second[0]["name"],
        "difference": difference,
        "certain": certain,
    }


def _verdict(rows: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> list[str]:
    """What the figures say, a sentence a pair."""
    said = []
    for pair in pairs:
        d = pair["difference"]
        spread = f"95 % interval {d['low']:.4f} to {d['high']:.4f}, {d['n']} blocks"
        figure = f"{d['value']:.4f} bits per byte ({spread})"
        if pair["certain"]:
            said.append(f"{pair['better']} is better than {pair['worse']} by {figure}.")
        elif d["n"] < SURE:
            names = f"{pair['better']} and {pair['worse']}"
            said.append(f"{names} cannot be told apart on so little text, {d['n']} blocks: {figure}.")
        else:
            said.append(f"{pair['better']} and {pair['worse']} cannot be told apart on this text: {figure}.")
    kinds = list(dict.fromkeys(row["likelihood"] for row in rows))
    if len(kinds) > 1:
        said.append(f"Likelihoods of different kinds ({'; '.join(kinds)}) are not ranked against each other.")
    if changed := [row["name"] for row in rows if not row["keeps_text"]]:
        said.append(
            f"The tokenizer of {', '.join(changed)} does not keep the text as it is (case, blanks):"
            " what it drops is not paid for."
        )
    return said


# ── the report ─────────────────────────────────────────────────────────────────────────────────

REPORTED = ("rank", "name", "bits_per_byte", "likelihood", "parameters", "seconds", "training_cpu_seconds")
"""Columns of the report's table; comparison.json has all of them."""


def write_comparison(
    out: Path, result: dict[str, Any], samples: Mapping[str, tuple[str, str]], logs: Mapping[str, Path]
) -> None:
    """The report of a comparison: figures as JSON, a picture, and a page with both, by run a sample (what it was
    given, and its text) and loss curves of its log.
    """
    out.mkdir(parents=True, exist_ok=True)
    picture = scatter(
        result["rows"],
        name="name",
        x="cpu_seconds",
        y="bits_per_byte",
        group="likelihood",
        title="bits per byte against CPU-seconds to score the text",
    )
    alt = "bits per byte and CPU-seconds of each run, marked by the kind of its likelihood"
    sections = [
        Section(
            "Which is better", text="\n\n".join(result["verdict"]), rows=result["rows"], columns=REPORTED
        ),
        Section("Quality and cost", picture=picture, alt=alt),
    ]
    for name, log in logs.items():
        if name in samples:
            sections.append(sample_section(name, *samples[name]))
        sections += training_curves({name: log})
    write_json(out / "comparison.json", result)
    write_atomic(out / "comparison.png", picture)
    write_report(out / "comparison.html", "Comparison", sections)


def sample_section(name: str, given: str, text: str) -> Section:
    """A text a run wrote, and what it was given, where it makes a text from another."""
    if given:
        return Section(f"A sample of {name}", text=f"Source: {given}", code=text)
    return Section(f"A sample of {name}", code=text)


def training_curves(logs: Mapping[str, Path], *, per: str = "nats per token") -> list[Section]:
    """How each run was trained, by its log, where there is one."""
    found = []
    for name, log in logs.items():
        if lines := training_log(log):
            curve = loss_curve(lines, title=name, per=per)
            alt = "loss and what the rows held out gave, by step"
            found.append(Section(f"Training of {name}", picture=curve, alt=alt))
    return found


def write_evaluation(
    out: Path, found: dict[str, Any], sample: tuple[str, str] | None, logs: Mapping[str, Path]
) -> None:
    """The result of `evaluate` for a model of text, as evaluation.json and as a page: figures, a sample, training."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"figure": name.replace("_", " "), "value": value}
        for name, value in found.items()
        if name not in ("run", "on", "findings", "samples") and value is not None
    ]
    sections = [Section("Figures", f"{found['on']}; intervals are of 95 %.", rows=rows)]
    for title, name in (("Of its own kind", "findings"), ("Its own texts", "samples")):
        if own := found.get(name):
            shown = [{"figure": key.replace("_", " "), "value": value} for key, value in own.items()]
            sections.append(Section(title, rows=shown))
    if sample is not None:
        sections.append(sample_section(found["run"], *sample))
    write_json(out / "evaluation.json", found)
    write_report(
        out / "evaluation.html", f"{found['run']} on {found['on']}", [*sections, *training_curves(logs)]
    )


def training_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that hold a loss; none where there is no log."""
    return [line for line in read_log(path) if "loss" in line or "validation" in line]
