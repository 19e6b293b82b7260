"""Compare language models by bits per byte of the same text, their costs, and which differences are significant.

Models are ranked only against those with the same kind of likelihood (exact, bound, pseudo), the same condition (a
source text or none), and a tokenizer that keeps the text unchanged or not (`evaluation.perplexity.is_lossless`).
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
from textus.runs.record import RunRecord
from textus.runs.store import read_log
from textus.tokenizers import Tokenizer

SCORE_COLUMNS = ("kind", "given", "keeps_text", "likelihood", "bits_per_byte", "perplexity", "window")
"""Results of `evaluate` in the table of a comparison."""

KINDS = ("exact", "bound", "pseudo")
"""Kinds of likelihood, in the order of the table."""

MIN_BLOCKS = 6
"""Fewest blocks on which one run can be called better: fewer agree by chance in over 5 % of cases."""


@dataclass(frozen=True)
class ComparedRun:
    """A run to compare; `record` is its run.json."""

    name: str
    model: LanguageModel
    tokenizer: Tokenizer
    record: RunRecord = field(default_factory=RunRecord)


def compare(
    runs: Iterable[ComparedRun | tuple[str, LanguageModel, Any, RunRecord]],
    texts: Any,
    *,
    n_bytes: int | None = None,
    stride: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Every run on the same bytes: {"on", "bytes", "stride", "rows", "pairs", "verdict"}. An iterator that loads each
    run in turn keeps one in memory at a time.

    `rows`: name, kind, text and keeps_text (and `likelihood`, a label of the three), rank among those with the same
    label, bits per byte, parameters, seconds and CPU-seconds to score, bytes of the weights, peak memory while scoring,
    CPU-seconds of training. `pairs`: neighbours in rank, with the paired bootstrap interval of their difference.
    `verdict`: the same as sentences.
    """
    text = to_eval_text(texts, n_bytes)
    measured = []
    for run in runs:
        entry = run if isinstance(run, ComparedRun) else ComparedRun(*run)
        measured.append(_measured(entry, text, stride, seed))
        del run, entry  # before the next is loaded
    if not measured:
        raise UsageError("missing_argument", "nothing to compare; name at least one run")
    measured.sort(key=lambda pair: (*_group(pair[0]), pair[0]["bits_per_byte"]["value"]))
    pairs = []
    for _, group in groupby(measured, key=lambda pair: _group(pair[0])):
        ranked = list(group)
        for rank, (row, _) in enumerate(ranked, 1):
            row["rank"] = rank
        pairs += [_pair(first, second, seed) for first, second in pairwise(ranked)]
    rows = [row for row, _ in measured]
    header = {"on": text.name, "bytes": text.n_bytes, "stride": stride}
    return {**header, "rows": rows, "pairs": pairs, "verdict": _verdict(rows, pairs)}


def _group(row: dict[str, Any]) -> tuple[Any, ...]:
    """The key of rows that may be ranked against each other."""
    return KINDS.index(row["kind"]), row["given"] or "", not row["keeps_text"]


def _measured(
    run: ComparedRun, text: EvalText, stride: int | None, seed: int
) -> tuple[dict[str, Any], PerplexityAccumulator]:
    reset_peak_memory()
    accumulator = measure(run.model, run.tokenizer, text, stride=stride)
    scores = summarize(accumulator, run.model, stride=stride, seed=seed)
    row = {
        "rank": 0,
        "name": run.name,
        "family": run.record.get("family") or type(run.model).__name__.lower(),
        **{key: scores[key] for key in SCORE_COLUMNS},
        "parameters": n_parameters(run.model),
        "seconds": scores["seconds"],
        "cpu_seconds": scores["cpu_seconds"],
        "weights_bytes": weights_bytes(run.model),
        "peak_memory_bytes": peak_memory_bytes(),
        "training_cpu_seconds": run.record.get("cpu_seconds"),
    }
    return row, accumulator


def _pair(
    first: tuple[dict[str, Any], PerplexityAccumulator],
    second: tuple[dict[str, Any], PerplexityAccumulator],
    seed: int,
) -> dict[str, Any]:
    """The paired difference in bits per byte, and whether it is significant."""
    (better, weights), (worse, _) = first[1].bits(), second[1].bits()
    difference = interval(paired_bootstrap(worse, better, weights, seed=seed), len(weights))
    certain = len(weights) >= MIN_BLOCKS and difference["low"] > 0
    return {
        "better": first[0]["name"],
        "worse": second[0]["name"],
        "difference": difference,
        "certain": certain,
    }


def _verdict(rows: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> list[str]:
    """The differences as sentences."""
    sentences = []
    for pair in pairs:
        d, names = pair["difference"], f"{pair['better']} and {pair['worse']}"
        spread = f"95 % interval {d['low']:.4f} to {d['high']:.4f}, {d['n']} blocks"
        difference = f"{d['value']:.4f} bits per byte ({spread})"
        if pair["certain"]:
            sentences.append(f"{pair['better']} is better than {pair['worse']} by {difference}.")
        elif d["n"] < MIN_BLOCKS:
            sentences.append(f"The text is too short to compare {names}, {d['n']} blocks: {difference}.")
        else:
            sentences.append(f"{names} do not differ significantly on this text: {difference}.")
    kinds = list(dict.fromkeys(row["likelihood"] for row in rows))
    if len(kinds) > 1:
        sentences.append(
            f"Likelihoods of different kinds ({'; '.join(kinds)}) are not ranked against each other."
        )
    if changed := [row["name"] for row in rows if not row["keeps_text"]]:
        sentences.append(
            f"The tokenizer of {', '.join(changed)} changes the text (case, whitespace):"
            " what it drops is not scored."
        )
    return sentences


# ── the report ─────────────────────────────────────────────────────────────────────────────────

REPORT_COLUMNS = (
    "rank",
    "name",
    "bits_per_byte",
    "likelihood",
    "parameters",
    "seconds",
    "training_cpu_seconds",
)
"""Columns of the report's table; comparison.json has all."""


def write_comparison(
    out: Path, result: dict[str, Any], samples: Mapping[str, tuple[str, str]], logs: Mapping[str, Path]
) -> None:
    """Write comparison.json, a plot and an HTML report, with a sample (source, text) and the training curve of each
    run.
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
            "Which is better",
            text="\n\n".join(result["verdict"]),
            rows=result["rows"],
            columns=REPORT_COLUMNS,
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


def sample_section(name: str, source: str, text: str) -> Section:
    """A text that a run generated, with its source if it has one."""
    if source:
        return Section(f"A sample of {name}", text=f"Source: {source}", code=text)
    return Section(f"A sample of {name}", code=text)


def training_curves(logs: Mapping[str, Path], *, per: str = "nats per token") -> list[Section]:
    """The training curves of the runs that have a log."""
    sections = []
    for name, log in logs.items():
        if lines := training_log(log):
            curve = loss_curve(lines, title=name, per=per)
            alt = "training and validation loss by step"
            sections.append(Section(f"Training of {name}", picture=curve, alt=alt))
    return sections


def write_evaluation(
    out: Path, result: dict[str, Any], sample: tuple[str, str] | None, logs: Mapping[str, Path]
) -> None:
    """Write the result of `evaluate` for a language model as evaluation.json and as an HTML report."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"figure": name.replace("_", " "), "value": value}
        for name, value in result.items()
        if name not in ("run", "on", "findings", "samples") and value is not None
    ]
    sections = [Section("Figures", f"{result['on']}; 95 % intervals.", rows=rows)]
    for title, name in (("Model metrics", "findings"), ("Samples", "samples")):
        if values := result.get(name):
            shown = [{"figure": key.replace("_", " "), "value": value} for key, value in values.items()]
            sections.append(Section(title, rows=shown))
    if sample is not None:
        sections.append(sample_section(result["run"], *sample))
    write_json(out / "evaluation.json", result)
    write_report(
        out / "evaluation.html", f"{result['run']} on {result['on']}", [*sections, *training_curves(logs)]
    )


def training_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log with a loss; empty if there is no log."""
    return [line for line in read_log(path) if "loss" in line or "validation" in line]
