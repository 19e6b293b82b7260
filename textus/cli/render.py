"""Results for the terminal: each function turns the JSON result of a command into a few lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from textus.reporting.format import format_bytes, format_value, text_table

MOST_TRIPLES = 30


def corpus(summary: Mapping[str, Any]) -> str:
    """The output of `corpus build` and `corpus show`."""
    rows = [{"split": name, **summary[name]} for name in ("train", "validation")]
    lines = [f"corpus {summary['path']}, fingerprint {summary['fingerprint']}", text_table(rows)]
    lines.append(f"split: {plain(summary['split'])}; {summary['n_files']} files read")
    if summary["dropped"]:
        lines.append(
            f"dropped: {plain(summary['dropped'])}; 'textus corpus trace {summary['path']} DOC' traces one"
        )
    return "\n".join(lines)


def render_trace(trace: Mapping[str, Any]) -> str:
    """The output of `corpus trace`: each document kept and each dropped, with the steps it went through."""
    lines = []
    for item in trace["kept"]:
        steps = " → ".join(item["steps"]) or "nothing had to be changed"
        where = f"{item['source']} at {item['offset']:,}"
        lines.append(f"kept {item['id']} from {where}: {steps}; characters: {plain(item['chars'])}")
    lines += [f"dropped {plain(item)}" for item in trace["dropped"]]
    unseen = trace["n_kept"] + trace["n_dropped"] - len(lines)
    return "\n".join([*lines, f"and {unseen:,} more"] if unseen > 0 else lines)


def figures(title: str, result: Mapping[str, Any]) -> str:
    """A title and one value per line, nested ones indented; for results without a layout of their own."""
    return "\n".join([title, *indented(result)])


def indented(result: Mapping[str, Any], depth: int = 1) -> list[str]:
    width = max((len(label(key)) for key in result), default=0) + 2
    lines = []
    for key, value in result.items():
        if isinstance(value, Mapping) and not {"value", "low", "high"} <= value.keys():
            lines += ["  " * depth + label(key), *indented(value, depth + 1)] if value else []
        else:
            many = isinstance(value, list | tuple)
            shown = (
                " ".join(repr(e) if isinstance(e, str) else format_value(e) for e in value)
                if many
                else format_value(value)
            )
            lines.append("  " * depth + f"{label(key):{width}}{shown}")
    return lines


def label(key: str) -> str:
    return str(key).replace("_", " ")


def plain(value: Any) -> str:
    """A small value in one line: a mapping as 'name value, …', a figure with its interval."""
    if isinstance(value, Mapping) and not {"value", "low", "high"} <= value.keys():
        return ", ".join(
            f"{label(key)} {format_value(item) if not isinstance(item, Mapping) else plain(item)}"
            for key, item in value.items()
        )
    return format_value(value)


def history(result: Mapping[str, Any]) -> str:
    """How a run was made, for `show`: what its record has in addition to the model."""
    facts = (
        "task",
        "labels",
        "extra_tasks",
        "steps",
        "seed",
        "preset",
        "best",
        "corpus",
        "tokenizer",
        "imported",
        "parent",
        "command",
    )
    known = {name: plain(result[name]) for name in facts if name in result}
    return figures(f"run {result['run']}", known)


def evaluation(result: Mapping[str, Any]) -> str:
    """The output of `evaluate`: bits per byte first, then the rest."""
    bits = result["bits_per_byte"]
    stride = f", stride {result['stride']}" if result.get("stride") else ""
    at_most = {"bound": " or less", "pseudo": ", pseudo"}.get(result["kind"], "")
    lines = [
        f"{result['run']} on {result['on']} ({format_bytes(result['bytes'])}, windows of {result['window']}{stride})",
        f"  bits per byte        {bits['value']:.4f}   95 % interval {bits['low']:.4f} to {bits['high']:.4f}"
        f" over {bits['n']} blocks   (likelihood: {result['likelihood']})",
        f"  nats per character   {result['nats_per_character']:.4f}",
        f"  perplexity           {result['perplexity']:.2f}{at_most} per token of its own tokenizer",
        f"  scored in            {result['seconds']:.1f} s",
    ]
    if result.get("unknown_bytes"):
        lines.append(f"  unknown to it        {result['unknown_bytes']:,} bytes, counted as 8 bits each")
    if not result["keeps_text"]:
        lines.append("  not paid for         what its tokenizer drops of the text (case, blanks)")
    if own := result.get("findings"):
        figures = {name: value for name, value in own.items() if name not in ("tokens", "trouble")}
        lines.append(f"  of its own kind      {plain(figures)} (of {own['tokens']:,} tokens)")
        lines += [f"  trouble              {own['trouble']}"] if own["trouble"] else []
    if samples := result.get("samples"):
        varied = ", ".join(
            f"{label(name)} {format_value(samples[name])}"
            for name in samples
            if name.startswith(("dist", "rep"))
        )
        lines.append(f"  its own texts        {varied} (of {samples['samples']} samples)")
    return "\n".join(lines)


MOST_SHOWN = 60
"""Characters shown of a row's text."""


def predictions(results: list[dict[str, Any]], rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """The output of `predict`: one line per prediction, for a file with the row's text."""
    lines = []
    for number, prediction in enumerate(results):
        line = {name: to_cell(value) for name, value in prediction.items() if name != "probabilities"}
        line |= {"label": label_text(line["label"])} if "label" in line else {}
        if rows:
            known = [name for name in ("line", "entry", "record", "id") if name in line]
            places: dict[str, Any] = {name: str(line.pop(name)) for name in known}
            line = {**places, "text": shorten(row_text(rows[number])), **line}
        lines.append(line)
    return text_table(lines) if lines else "no rows"


def label_text(label: Any) -> str:
    """The label of a class as the file has it: 2020 without a thousands separator."""
    return label if isinstance(label, str) else json.dumps(label)


def row_text(row: Mapping[str, Any]) -> str:
    """The text of a row's fields by which a reader recognizes it."""
    for names in (
        ("text", "text_pair"),
        ("question",),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
    ):
        if texts := [row[name] for name in names if isinstance(row.get(name), str)]:
            return " | ".join(texts)
    tokens = row.get("tokens", row.get("token"))
    return " ".join(map(str, tokens)) if isinstance(tokens, list) else ""


def shorten(text: str, most: int = MOST_SHOWN) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def to_cell(value: Any) -> Any:
    """A value as a table cell: a list joined by commas, an entity with its type and offsets."""
    if isinstance(value, list):
        return ", ".join(map(label_text, map(to_cell, value)))
    if isinstance(value, Mapping) and {"text", "label", "start", "end"} <= value.keys():
        return f"{value['text']} ({value['label']} {value['start']}–{value['end']})"
    if isinstance(value, Mapping) and {"head", "relation", "tail"} <= value.keys():
        return f"{to_cell(value['head'])} – {value['relation']} → {to_cell(value['tail'])}"
    return value


def triples(result: Mapping[str, Any]) -> str:
    """The output of `triples`: one line per triple, at most `MOST_TRIPLES`."""
    rows = [
        {"triple": to_cell(triple), "probability": triple["probability"], "document": triple["document"]}
        for triple in result["triples"]
    ]
    more = [f"and {len(rows) - MOST_TRIPLES:,} more"] if len(rows) > MOST_TRIPLES else []
    counts = f"{len(rows):,} triples of {result['entities']:,} entities in {result['texts']:,} texts of {result['on']}"
    return "\n".join([*([text_table(rows[:MOST_TRIPLES])] if rows else []), *more, counts])


def task_scores(result: Mapping[str, Any]) -> str:
    """The output of `evaluate` of fine-tuned runs: figures, baselines, members, slices, classes, first mistakes."""
    apart = (
        "run", "runs", "on", "classes", "targets", "confusion", "mistakes", "baselines", "members", "slices",
        "reliability", "entity_classes", "answers",
    )  # fmt: skip
    main = {name: value for name, value in result.items() if name not in apart and value is not None}
    lines = [figures(f"{result['run']} on {result['on']}", main)]
    tables = [[{"baseline": name, **row} for name, row in result.get("baselines", {}).items()]]
    tables.append(result.get("entity_classes", []))
    tables += [result.get("members", []), *result.get("slices", {}).values(), result.get("targets", [])]
    if len(classes := result.get("classes", [])) <= 30:
        tables.append(classes)
    lines += [text_table(rows) for rows in tables if rows]
    for mistake in result.get("mistakes", [])[:3]:
        forms = {
            "probability": "{:.2f}",
            "times": "{} times",
            "rouge_l": "ROUGE-L {:.2f}",
            "off": "off by {:.4g}",
        }
        how = next((form.format(mistake[name]) for name, form in forms.items() if name in mistake), "")
        line = f"{mistake['label']}, answered {mistake['answer']} ({how})"
        own = f" (id {mistake['id']})" if mistake.get("id") is not None else ""
        lines.append(f"  {mistake['where']}{own}: {line}: {mistake['text'][:80]}")
    return "\n".join(lines)


def robustness(result: Mapping[str, Any]) -> str:
    """The output of `robustness`: the plain figure, then one row per change."""
    name = result["figure"]
    title = f"{result['run']} on {result['on']}: {label(name)} {format_value(result[name])} of {result['rows']:,} rows"
    shown = [{label(key): value for key, value in row.items()} for row in result["changes"]]
    return f"{title}\n{text_table(shown)}\ndrop: how much worse, with its paired 95 % interval in brackets"


def fewshot(result: Mapping[str, Any]) -> str:
    """The output of `fewshot`: a row for each number of examples."""
    title = f"{result['run']} on {result['rows']:,} rows of {result['on']}; commonest class: {result['majority']:.4f}"
    return f"{title}\n{text_table(result['shots'], ('shots', 'accuracy', 'calibrated'))}"


def comparison(result: Mapping[str, Any]) -> str:
    """The output of `compare`: one row per run, and which is better."""
    rows = [
        {
            "rank": row["rank"],
            "run": row["name"],
            "family": row["family"],
            "bits per byte": row["bits_per_byte"],
            "likelihood": row["likelihood"],
            "parameters": row["parameters"],
            "seconds": row["seconds"],
            "memory": format_bytes(row["peak_memory_bytes"]) if row["peak_memory_bytes"] else None,
            "training CPU-s": row["training_cpu_seconds"],
        }
        for row in result["rows"]
    ]
    return "\n".join(
        [f"on {result['on']} ({format_bytes(result['bytes'])})", text_table(rows), *result["verdict"]]
    )


COSTS = ("parameters", "seconds", "weights_bytes", "peak_memory_bytes", "rows_trained_on")


def task_comparison(result: Mapping[str, Any]) -> str:
    """The output of `compare` of fine-tuned runs: one row per run, and which is better."""
    rows = [
        {label(name): value for name, value in row.items() if name not in ("task", *COSTS)}
        | {
            "parameters": row["parameters"],
            "seconds": row["seconds"],
            "memory": format_bytes(row["peak_memory_bytes"]),
        }
        for row in result["runs"]
    ]
    title = f"{result['task']} on {result['on']} ({result['rows']:,} rows)"
    return "\n".join([title, text_table(rows), *result["verdict"]])
