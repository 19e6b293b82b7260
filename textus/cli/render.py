"""Findings in the words of a terminal: each function turns the JSON values of a verb into a few lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from textus.reporting.format import format_bytes, format_value, text_table

MOST_TRIPLES = 30


def corpus(found: Mapping[str, Any]) -> str:
    """What `corpus build` and `corpus show` say."""
    rows = [{"split": name, **found[name]} for name in ("train", "validation")]
    lines = [f"corpus {found['path']}, fingerprint {found['fingerprint']}", text_table(rows)]
    lines.append(f"split: {plain(found['split'])}; {found['n_files']} files read")
    if found["dropped"]:
        lines.append(
            f"dropped: {plain(found['dropped'])}; 'textus corpus trace {found['path']} DOC' tells of one"
        )
    return "\n".join(lines)


def render_trace(found: Mapping[str, Any]) -> str:
    """What `corpus trace` says: each document kept and each dropped, with the steps it went through."""
    lines = []
    for each in found["kept"]:
        steps = " → ".join(each["steps"]) or "nothing had to be changed"
        where = f"{each['source']} at {each['offset']:,}"
        lines.append(f"kept {each['id']} from {where}: {steps}; characters: {plain(each['chars'])}")
    lines += [f"dropped {plain(each)}" for each in found["dropped"]]
    unseen = found["n_kept"] + found["n_dropped"] - len(lines)
    return "\n".join([*lines, f"and {unseen:,} more"] if unseen > 0 else lines)


def figures(title: str, found: Mapping[str, Any]) -> str:
    """A title and a value a line, nested ones indented; the fallback for any finding."""
    return "\n".join([title, *indented(found)])


def indented(found: Mapping[str, Any], depth: int = 1) -> list[str]:
    width = max((len(label(key)) for key in found), default=0) + 2
    lines = []
    for key, value in found.items():
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
    """A small value in one line: mappings as 'name: value', but for a figure with its interval."""
    if isinstance(value, Mapping) and not {"value", "low", "high"} <= value.keys():
        return ", ".join(
            f"{label(key)} {format_value(each) if not isinstance(each, Mapping) else plain(each)}"
            for key, each in value.items()
        )
    return format_value(value)


def history(found: Mapping[str, Any]) -> str:
    """How a run came to be, for `show`: what its record tells beside the model itself."""
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
    known = {name: plain(found[name]) for name in facts if name in found}
    return figures(f"run {found['run']}", known)


def evaluation(found: Mapping[str, Any]) -> str:
    """What `evaluate` says: the ruler first, then what goes with it."""
    bits = found["bits_per_byte"]
    stride = f", stride {found['stride']}" if found.get("stride") else ""
    at_most = {"bound": " or less", "pseudo": ", pseudo"}.get(found["kind"], "")
    lines = [
        f"{found['run']} on {found['on']} ({format_bytes(found['bytes'])}, windows of {found['window']}{stride})",
        f"  bits per byte        {bits['value']:.4f}   95 % interval {bits['low']:.4f} to {bits['high']:.4f}"
        f" over {bits['n']} blocks   (likelihood: {found['likelihood']})",
        f"  nats per character   {found['nats_per_character']:.4f}",
        f"  perplexity           {found['perplexity']:.2f}{at_most} per token of its own tokenizer",
        f"  scored in            {found['seconds']:.1f} s",
    ]
    if found.get("unknown_bytes"):
        lines.append(f"  unknown to it        {found['unknown_bytes']:,} bytes, counted as 8 bits each")
    if not found["keeps_text"]:
        lines.append("  not paid for         what its tokenizer drops of the text (case, blanks)")
    if own := found.get("findings"):
        figures = {name: value for name, value in own.items() if name not in ("tokens", "trouble")}
        lines.append(f"  of its own kind      {plain(figures)} (of {own['tokens']:,} tokens)")
        lines += [f"  trouble              {own['trouble']}"] if own["trouble"] else []
    if samples := found.get("samples"):
        varied = ", ".join(
            f"{label(name)} {format_value(samples[name])}"
            for name in samples
            if name.startswith(("dist", "rep"))
        )
        lines.append(f"  its own texts        {varied} (of {samples['samples']} samples)")
    return "\n".join(lines)


MOST_SHOWN = 60
"""Characters of a row's text beside its answer."""


def answers(found: list[dict[str, Any]], rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """What `predict` says: a row an answer, of a file with the row's text."""
    lines = []
    for number, answer in enumerate(found):
        line = {name: shown(value) for name, value in answer.items() if name != "probabilities"}
        line |= {"label": label_shown(line["label"])} if "label" in line else {}
        if rows:
            known = [name for name in ("line", "entry", "record", "id") if name in line]
            places: dict[str, Any] = {name: str(line.pop(name)) for name in known}
            line = {**places, "text": shortened(text_in(rows[number])), **line}
        lines.append(line)
    return text_table(lines) if lines else "no rows"


def label_shown(label: Any) -> str:
    """The label of a class as its file has it: 2020 is no amount."""
    return label if isinstance(label, str) else json.dumps(label)


def text_in(row: Mapping[str, Any]) -> str:
    """What of a row's fields a person knows it by."""
    for names in (
        ("text", "text_pair"),
        ("question",),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
    ):
        if found := [row[name] for name in names if isinstance(row.get(name), str)]:
            return " | ".join(found)
    tokens = row.get("tokens", row.get("token"))
    return " ".join(map(str, tokens)) if isinstance(tokens, list) else ""


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def shown(value: Any) -> Any:
    """A value of an answer in a cell: lists with commas, an entity with its type and place."""
    if isinstance(value, list):
        return ", ".join(map(label_shown, map(shown, value)))
    if isinstance(value, Mapping) and {"text", "label", "start", "end"} <= value.keys():
        return f"{value['text']} ({value['label']} {value['start']}–{value['end']})"
    if isinstance(value, Mapping) and {"head", "relation", "tail"} <= value.keys():
        return f"{shown(value['head'])} – {value['relation']} → {shown(value['tail'])}"
    return value


def triples(found: Mapping[str, Any]) -> str:
    """What `triples` says: a row a triple, the first of many."""
    rows = [
        {"triple": shown(each), "probability": each["probability"], "document": each["document"]}
        for each in found["triples"]
    ]
    more = [f"and {len(rows) - MOST_TRIPLES:,} more"] if len(rows) > MOST_TRIPLES else []
    counts = f"{len(rows):,} triples of {found['entities']:,} entities in {found['texts']:,} texts of {found['on']}"
    return "\n".join([*([text_table(rows[:MOST_TRIPLES])] if rows else []), *more, counts])


def task_scores(found: Mapping[str, Any]) -> str:
    """What `evaluate` says of fine-tuned runs: figures, baselines, members, slices, classes, first mistakes."""
    apart = (
        "run", "runs", "on", "classes", "targets", "confusion", "mistakes", "baselines", "members", "slices",
        "reliability", "entity_classes",
    )  # fmt: skip
    main = {name: value for name, value in found.items() if name not in apart and value is not None}
    lines = [figures(f"{found['run']} on {found['on']}", main)]
    tables = [[{"baseline": name, **each} for name, each in found.get("baselines", {}).items()]]
    tables.append(found.get("entity_classes", []))
    tables += [found.get("members", []), *found.get("slices", {}).values(), found.get("targets", [])]
    if len(classes := found.get("classes", [])) <= 30:
        tables.append(classes)
    lines += [text_table(rows) for rows in tables if rows]
    for each in found.get("mistakes", [])[:3]:
        how = f"{each['times']} times" if "times" in each else f"off by {format_value(each.get('off'))}"
        how = f"{each['probability']:.2f}" if "probability" in each else how
        said = f"{each['label']}, answered {each['answer']} ({how})"
        own = f" (id {each['id']})" if each.get("id") is not None else ""
        lines.append(f"  {each['where']}{own}: {said}: {each['text'][:80]}")
    return "\n".join(lines)


def robustness(found: Mapping[str, Any]) -> str:
    """What `robustness` says: the plain figure, then a row a change."""
    name = found["figure"]
    title = f"{found['run']} on {found['on']}: {label(name)} {format_value(found[name])} of {found['rows']:,} rows"
    shown = [{label(key): value for key, value in row.items()} for row in found["changes"]]
    return f"{title}\n{text_table(shown)}\ndrop: how much worse, with its paired 95 % interval in brackets"


def fewshot(found: Mapping[str, Any]) -> str:
    """What `fewshot` says: a row for each number of examples."""
    title = f"{found['run']} asked {found['rows']:,} rows of {found['on']}; commonest class: {found['majority']:.4f}"
    return f"{title}\n{text_table(found['shots'], ('shots', 'accuracy', 'calibrated'))}"


def comparison(found: Mapping[str, Any]) -> str:
    """What `compare` says: a row a run, and which is better."""
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
        for row in found["rows"]
    ]
    return "\n".join(
        [f"on {found['on']} ({format_bytes(found['bytes'])})", text_table(rows), *found["verdict"]]
    )


COSTS = ("parameters", "seconds", "weights_bytes", "peak_memory_bytes", "rows_trained_on")


def task_comparison(found: Mapping[str, Any]) -> str:
    """What `compare` says of fine-tuned runs: a row a run, and which is better."""
    rows = [
        {label(name): value for name, value in row.items() if name not in ("task", *COSTS)}
        | {
            "parameters": row["parameters"],
            "seconds": row["seconds"],
            "memory": format_bytes(row["peak_memory_bytes"]),
        }
        for row in found["runs"]
    ]
    title = f"{found['task']} on {found['on']} ({found['rows']:,} rows)"
    return "\n".join([title, text_table(rows), *found["verdict"]])
