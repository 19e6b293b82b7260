"""Rows of the results page for `benchmarks.rag`."""

from __future__ import annotations

from typing import Any

from benchmarks._rows import Figure, Row


def share(result: dict[str, Any], part: str, *names: str) -> Figure:
    """A share with its interval; for refusals also the false ones."""
    figures = value = result[part]
    for name in names:
        value = value[name]
    text = f"{value['value']:.3f} (95 %: {value['low']:.3f}–{value['high']:.3f})"
    if names[-1] == "refused_when_removed":
        text += f"; answerable questions refused {figures['calibrated']['false_refusals']['value']:.3f}"
    return Figure(text, value["value"])


ROWS = [
    row
    for part, language, chinese in (("en", "en", "英文"), ("zh", "zh", "中文"))
    for row in (
        Row(f"XQuAD, {language}, retrieval over paragraphs: recall@5", f"XQuAD，{chinese}，段落检索：recall@5",
            "rag", lambda r, p=part: share(r, p, "recall@5"),
            0.90, 0.97, more=True),
        Row(f"XQuAD, {language}, `ask` without a run: the sentence holds the gold answer",
            f"XQuAD，{chinese}，不用模型的 `ask`：句子包含标准答案",
            "rag", lambda r, p=part: share(r, p, "calibrated", "contains_gold"), 0.6, 0.75, more=True),
        Row(f"XQuAD, {language}, `ask` refuses when the paragraph is removed",
            f"XQuAD，{chinese}，删去段落后 `ask` 拒答",
            "rag", lambda r, p=part: share(r, p, "calibrated", "refused_when_removed"), 0.8, 0.9, more=True),
    )
]  # fmt: skip
