"""The rows of docs/results.md about tagging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks._rows import Figure, Row, ranged


def entities(name: str) -> Callable[[dict[str, Any]], Figure]:
    """Micro F1 of one trial in points, judged by the median seed."""

    def figure(result: dict[str, Any]) -> Figure:
        found = result[name]
        points = {part: 100 * value for part, value in found["f1"].items()}
        one = found["runs"]["0"]["f1"]
        text = (
            f"{ranged(points)} over {found['f1']['n']} seed(s) (95 % of seed 0:"
            f" {100 * one['low']:.1f}–{100 * one['high']:.1f}); {ranged(found['cpu_seconds'], '{:.0f}')} CPU-seconds"
        )
        return Figure(text, points["median"])

    return figure


def row(what: str, name: str, must: float, aim: float) -> Row:
    """A row about one trial."""
    return Row(f"{what}: entity F1", "tagging", entities(name), must, aim, more=True)


ROWS = [
    row("CoNLL-2003, LSTM-CRF from scratch", "CoNLL-2003, LSTM-CRF", 72, 82),
    row("CoNLL-2003, MiniLM (an uncased model), fine-tuned", "CoNLL-2003, MiniLM", 83, 88),
    row("CLUENER, zh, LSTM-CRF from scratch, dev", "CLUENER, LSTM-CRF", 55, 65),
]
CHINESE = {
    ROWS[0].what: "CoNLL-2003，从零训练的 LSTM-CRF：实体 F1",
    ROWS[1].what: "CoNLL-2003，微调 MiniLM（不分大小写的模型）：实体 F1",
    ROWS[2].what: "CLUENER，从零训练的 LSTM-CRF，dev：实体 F1",
}
