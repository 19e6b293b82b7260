"""The rows of docs/results.md about fine-tuned models: classes, entities, answers, similarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks._rows import Figure, Row, ranged


def points(found: dict[str, float], form: str = ".1f", scale: float = 100) -> str:
    """A share as points with its 95 % interval."""
    value, low, high = (f"{scale * found[name]:{form}}" for name in ("value", "low", "high"))
    return f"{value} (95 %: {low}–{high})"


def classes(name: str) -> Callable[[dict[str, Any]], Figure | None]:
    """Accuracy of one entry in points, the floors against it; None until all its runs are there."""

    def figure(result: dict[str, Any]) -> Figure | None:
        found = result["entries"].get(name, {})
        if "accuracy" not in found or len(found["runs"]) < found.get("of", 0):
            return None
        runs = {part: 100 * value for part, value in found["over_runs"].items()}
        floors = ", ".join(f"{floor} {100 * value:.1f}" for floor, value in found["baselines"].items())
        rows = found["over_rows"]
        text = (
            f"{ranged(runs, '{:.1f}')} over {found['over_runs']['n']} run(s), 95 % over rows"
            f" {100 * rows['low']:.1f}–{100 * rows['high']:.1f}; next to it {floors}"
        )
        return Figure(text, round(100 * found["accuracy"], 2))

    return figure


def together(result: dict[str, Any]) -> Figure | None:
    """Five LSTMs as one above their mean member, in points; judged by the low end of its interval."""
    found = result["entries"].get("sst2-lstm", {}).get("together")
    if not found:
        return None
    against = found["against_mean_member"]
    text = f"{points(against, '+.1f')}, together {100 * found['accuracy']['value']:.1f}"
    return Figure(text, round(100 * against["low"], 2))


def entities(name: str) -> Callable[[dict[str, Any]], Figure | None]:
    """Micro F1 of one trial in points, judged by the median seed."""

    def figure(result: dict[str, Any]) -> Figure | None:
        if "f1" not in (found := result.get(name, {})):
            return None
        own = {part: 100 * value for part, value in found["f1"].items()}
        text = (
            f"{ranged(own)} over {found['f1']['n']} seed(s), seed 0 {points(found['runs']['0']['f1'])};"
            f" {ranged(found['cpu_seconds'], '{:.0f}')} CPU-seconds"
        )
        return Figure(text, own["median"])

    return figure


def answers(name: str) -> Callable[[dict[str, Any]], Figure | None]:
    """F1 above the best of those who know less, in points; judged by the low end of the paired interval."""

    def figure(result: dict[str, Any]) -> Figure | None:
        if "over_best_baseline" not in (found := result.get(name, {})):
            return None
        ours, over = found["sides"]["ours"], found["over_best_baseline"]
        others = ", ".join(
            f"{side} {each['f1']['value']:.1f}" for side, each in found["sides"].items() if side != "ours"
        )
        text = (
            f"{points(over, '+.1f', 1)}; F1 {points(ours['f1'], scale=1)}, exact {ours['exact_match']['value']:.1f};"
            f" next to it {others}"
        )
        return Figure(text, round(over["low"], 2))

    return figure


def similar(name: str) -> Callable[[dict[str, Any]], Figure | None]:
    """Spearman on STS-B's test pairs."""

    def figure(result: dict[str, Any]) -> Figure | None:
        if name not in result:
            return None
        return Figure(points(result[name]["spearman"], ".4f", 1), result[name]["spearman"]["value"])

    return figure


def speed(part: str) -> Callable[[dict[str, Any]], Figure | None]:
    """Ours over the peer's best, with both sides' accuracy."""

    def figure(result: dict[str, Any]) -> Figure | None:
        if part not in result or "peer_best" not in result:
            return None
        found = result[part]
        sides = "; ".join(
            f"{side} {found[side]['median']:.0f} a CPU-second at {found['test'][side]['median']:.1f} %"
            for side in ("textus", "peer")
        )
        text = f"{ranged(found['ratios'])} of {found['ratios']['n']} pairs; {sides} ({result['peer_best'][part]})"
        return Figure(text, found["ratio"])

    return figure


def augmented(result: dict[str, Any]) -> Figure | None:
    """Points gained by augmenting 200 sentences."""
    if "lstm" not in result:
        return None
    found = result["lstm"]["difference"]
    return Figure(
        f"{points(found, '+.1f', 1)}, {found['n']} seeds; {result['lstm']['way'][0]}", found["value"]
    )


def lost(result: dict[str, Any]) -> Figure | None:
    """Points that defaults lose to the best number of epochs, on average over data sets and sizes."""
    if not (found := result.get("points_lost")):
        return None
    samples = sum(each["draws"] for each in result["lost"].values())
    text = (
        f"mean {found['mean']:.2f}, worst {found['worst']:.2f}; {found['measured']} of {found['of']} data sets and"
        f" sizes, {samples} samples"
    )
    return Figure(text, found["mean"])


def worst_lost(result: dict[str, Any]) -> bool:
    """The worst of them, and whether all are measured."""
    found = result["points_lost"]
    return bool(found["worst"] <= 4 and found["measured"] == found["of"])


def few(result: dict[str, Any]) -> Figure | None:
    """Accuracy from 30 rows above a linear model of the same vectors, mean over draws."""
    if not (found := result.get("few", {}).get("difference")):
        return None
    draws = result["few"]["draws"].values()
    ours, theirs = (
        sum(value) / len(value)
        for value in ([each["ours"]["value"] for each in draws], [each["scikit-learn"] for each in draws])
    )
    spread = f"{found['min']:+.2f} to {found['max']:+.2f}"
    text = f"{found['mean']:+.2f} ({spread}), {found['n']} draws: {ours:.1f} against {theirs:.1f}"
    return Figure(text, found["mean"])


def triples(part: str) -> Callable[[dict[str, Any]], Figure | None]:
    """Micro F1 of triples in points; with entities given, next to it who knows less."""

    def figure(result: dict[str, Any]) -> Figure | None:
        if part not in result:
            return None
        found = result[part]
        if part == "given entities":
            floors = {name: each["f1"] for name, each in found["baselines"].items()}
            floors["reader of adjacent places"] = result["adjacent"]["f1"]
            compared = ", ".join(f"{name} {100 * each['value']:.1f}" for name, each in floors.items())
        else:
            compared = f"entities {points(found['entity_f1'])}"
        return Figure(f"{points(found['f1'])}; next to it {compared}", round(100 * found["f1"]["value"], 2))

    return figure


def beside_alone(result: dict[str, Any]) -> Figure | None:
    """Three tasks by one model: the worst loss of a task, in points, against learning it alone."""
    if len(alone := result.get("alone", {})) < 3:
        return None
    worst, told = 0.0, []
    for task, found in alone.items():
        ((figure, own),) = [(name, each) for name, each in found["test"][task].items() if name != "rows"]
        both = result["together"]["test"][task][figure]
        worst = min(worst, 100 * (both["value"] - own["value"]))
        told.append(f"{task} {100 * both['value']:.1f} against {100 * own['value']:.1f}")
    return Figure("; ".join(told), round(worst, 2))


def by_method(result: dict[str, Any]) -> Figure | None:
    """What each method costs and reaches."""
    methods = result["methods"]
    if "everything" not in methods:
        return None
    told = (
        f"{method} {100 * each['accuracy']['value']:.1f} ({each['learning']:,} weights, {each['cpu_seconds']:.0f}"
        f" CPU-seconds, {each['peak_memory_bytes'] / 2**20:,.0f} MB)"
        for method, each in methods.items()
    )
    return Figure("; ".join(told), 100 * methods["everything"]["accuracy"]["value"])


def tuned(result: dict[str, Any]) -> Figure | None:
    """Points gained by a search."""
    if "difference" not in result:
        return None
    return Figure(points(result["difference"], "+.1f", 1), result["difference"]["value"])


def accuracy(what: str, name: str, must: float, aim: float) -> Row:
    """A row about one entry of `benchmarks.classification`."""
    return Row(f"{what}: accuracy", "classification", classes(name), must, aim, more=True)


ABOVE = "F1 above the best of random span, sliding window, keyword sentence"
SEARCHED = "SST-2, LSTM, 20 trials against the default, points"
TOLD: list[tuple[Row, str]] = [
    (accuracy("SST-2, LSTM from scratch", "sst2-lstm", 80, 83), "SST-2，从零训练的 LSTM：准确率"),
    (accuracy("SST-2, MiniLM, all weights", "sst2-minilm", 89, 91), "SST-2，MiniLM 全量微调：准确率"),
    (accuracy("SST-2, MiniLM, LoRA", "sst2-minilm-lora", 88, 90.5), "SST-2，MiniLM LoRA：准确率"),
    (
        accuracy("film reviews, documents, 5-fold, from scratch", "reviews-linear", 86, 89),
        "影评全文，五折，从零：准确率",
    ),
    (
        accuracy("film reviews, documents, 5-fold, MiniLM", "reviews-minilm", 86, 91),
        "影评全文，五折，MiniLM：准确率",
    ),
    (
        accuracy("online shopping, zh, LSTM from scratch", "shopping-lstm", 93, 95),
        "网购评论，从零训练的 LSTM：准确率",
    ),
    (
        accuracy("THUCNews titles, zh, linear from scratch", "titles-linear", 86, 89),
        "THUCNews 标题，从零训练的线性分类器：准确率",
    ),
    (
        accuracy("THUCNews titles, zh, LSTM from scratch", "titles-lstm", 86, 89),
        "THUCNews 标题，从零训练的 LSTM：准确率",
    ),
    (accuracy("Banking77, MiniLM", "banking-minilm", 91, 93), "Banking77，MiniLM：准确率"),
    (
        accuracy("Banking77, ten a class, MiniLM", "banking-few-minilm", 78, 85),
        "Banking77，每类十条，MiniLM：准确率",
    ),
    (
        Row(
            "SST-2, five LSTMs as one above their mean, points, low end",
            "classification",
            together,
            0,
            1.5,
            more=True,
        ),
        "SST-2，五个 LSTM 合一与平均成员之差，百分点，区间下端",
    ),
    (
        Row(
            "CoNLL-2003, LSTM-CRF from scratch: entity F1",
            "tagging",
            entities("CoNLL-2003, LSTM-CRF"),
            72,
            82,
            more=True,
        ),
        "CoNLL-2003，从零训练的 LSTM-CRF：实体 F1",
    ),
    (
        Row(
            "CoNLL-2003, MiniLM (an uncased model): entity F1",
            "tagging",
            entities("CoNLL-2003, MiniLM"),
            83,
            88,
            more=True,
        ),
        "CoNLL-2003，微调 MiniLM（不分大小写的模型）：实体 F1",
    ),
    (
        Row(
            "CLUENER, zh, LSTM-CRF from scratch, dev: entity F1",
            "tagging",
            entities("CLUENER, LSTM-CRF"),
            55,
            65,
            more=True,
        ),
        "CLUENER，从零训练的 LSTM-CRF，dev：实体 F1",
    ),
    (
        Row(
            "triples from Chinese news by a rule, entities given: F1",
            "triples",
            triples("given entities"),
            float("-inf"),
            more=True,
        ),
        "中文新闻中按规则标注的三元组，给定实体：F1",
    ),
    (
        Row(
            "triples from Chinese news by a rule, from raw text: F1",
            "triples",
            triples("from raw text"),
            float("-inf"),
            more=True,
        ),
        "中文新闻中按规则标注的三元组，从原文：F1",
    ),
    (
        Row(
            f"XQuAD, en, five folds, MiniLM: {ABOVE}, low end",
            "question_answering",
            answers("xquad_en"),
            0,
            more=True,
        ),
        "XQuAD，英文，五折，MiniLM：F1 高出最好的基线，区间下端",
    ),
    (
        Row(
            f"CMRC 2018, zh, own encoder: {ABOVE}, low end",
            "question_answering",
            answers("cmrc2018_trial"),
            0,
            more=True,
        ),
        "CMRC 2018，自己的中文编码器：F1 高出最好的基线，区间下端",
    ),
    (
        Row("STS-B, MiniLM as it comes: Spearman", "similarity", similar("as_it_comes"), 0.82, more=True),
        "STS-B，原样 MiniLM：Spearman",
    ),
    (
        Row("STS-B, MiniLM fine-tuned: Spearman", "similarity", similar("fine_tuned"), 0.85, 0.88, more=True),
        "STS-B，微调 MiniLM：Spearman",
    ),
    (
        Row("200 SST-2 sentences, augmented against not, points", "augmentation", augmented, 0, 2, more=True),
        "200 句 SST-2，增强与不增强之差，百分点",
    ),
    (
        Row(
            "SST-2, STS-B, CoNLL by one MiniLM with three heads, against each alone in as many steps: worst, points",
            "several_tasks",
            beside_alone,
            float("-inf"),
            more=True,
        ),
        "一个 MiniLM 三个头同时学 SST-2、STS-B、CoNLL，与步数相同的单独训练之差：最差一项，百分点",
    ),
    (
        Row(
            "SST-2, MiniLM by method, three epochs: accuracy of everything",
            "methods",
            by_method,
            float("-inf"),
            more=True,
        ),
        "SST-2，MiniLM，各种微调方法，三轮：全部权重的准确率",
    ),
    (
        Row(
            "fine-tuning MiniLM, SST-2, samples a CPU-second against the Trainer's best",
            "finetuning_speed",
            speed("training"),
            1.2,
            2,
            more=True,
            unit=" ×",
        ),
        "微调 MiniLM，SST-2，每 CPU 秒样本数，与 Trainer 最佳设置相比",
    ),
    (
        Row(
            "classifying SST-2 in batches, texts a CPU-second against the best of `transformers`",
            "finetuning_speed",
            speed("classifying"),
            1.2,
            2,
            more=True,
            unit=" ×",
        ),
        "成批分类 SST-2，每 CPU 秒文本数，与 `transformers` 最佳方式相比",
    ),
    (
        Row(
            "few rows: points that defaults lose to the best of 3 to 80 epochs by the test rows, mean",
            "small_data",
            lost,
            1.5,
            extra=worst_lost,
            and_within=", worst ≤ 4",
        ),
        "少量标注：默认设置比 3 至 80 轮中按测试集最好者低多少百分点，平均",
    ),
    (
        Row(
            "30 rows of SST-2, MiniLM: accuracy above scikit-learn's logistic regression on the same vectors, points",
            "small_data",
            few,
            -1,
            more=True,
        ),
        "30 条 SST-2，MiniLM：准确率与 scikit-learn 逻辑回归（同样的向量）之差，百分点",
    ),
    (
        Row(SEARCHED, "tuning", tuned, float("-inf"), 1.5, more=True),
        "SST-2，LSTM，20 次搜索与默认之差，百分点",
    ),
]
"""Rows, and their words in README.zh-CN.md."""
ROWS = [row for row, _ in TOLD]
CHINESE = {row.what: words for row, words in TOLD}
