"""The rows of docs/results.md about fine-tuned models: classes, entities, answers, similarity."""

from __future__ import annotations

from functools import partial
from statistics import mean
from typing import Any

from benchmarks._rows import REPORTED, Figure, Row, between, ranged

points = partial(between, spec=".1f", scale=100)
"""A share in points with its 95 % interval."""


def classes(result: dict[str, Any], name: str) -> Figure:
    """Accuracy of one entry in points, and its baselines; a KeyError until all its runs are measured."""
    entry = result["entries"][name]
    if len(entry["runs"]) < entry.get("of", 0):
        raise KeyError(name)
    baselines = ", ".join(f"{baseline} {100 * value:.1f}" for baseline, value in entry["baselines"].items())
    runs, rows = entry["over_runs"], entry["over_rows"]
    text = (
        f"{ranged(runs, '.1f', 100)} over {runs['n']} run(s), 95 % over rows"
        f" {100 * rows['low']:.1f}–{100 * rows['high']:.1f}; baselines {baselines}"
    )
    return Figure(text, round(100 * entry["accuracy"], 2))


def ensemble(result: dict[str, Any]) -> Figure:
    """Five LSTMs as one above their mean member, in points; judged by the low end of its interval."""
    scores = result["entries"]["sst2-lstm"]["together"]
    against = scores["against_mean_member"]
    text = f"{between(against, '+.1f', 100)}, together {100 * scores['accuracy']['value']:.1f}"
    return Figure(text, round(100 * against["low"], 2))


def entities(result: dict[str, Any], name: str) -> Figure:
    """Micro F1 of one trial in points, judged by the median seed."""
    trial = result[name]
    f1 = trial["f1"]
    text = (
        f"{ranged(f1, '.2f', 100)} over {f1['n']} seed(s), seed 0 {points(trial['runs']['0']['f1'])};"
        f" {ranged(trial['cpu_seconds'], '.0f')} CPU-seconds"
    )
    return Figure(text, 100 * f1["median"])


def answers(result: dict[str, Any], name: str) -> Figure:
    """F1 above the best baseline, in points; judged by the low end of the paired interval."""
    sides, over = result[name]["sides"], result[name]["over_best_baseline"]
    ours = sides["ours"]
    baselines = ", ".join(
        f"{side} {scores['f1']['value']:.1f}" for side, scores in sides.items() if side != "ours"
    )
    text = (
        f"{between(over, '+.1f')}; F1 {between(ours['f1'], '.1f')}, exact {ours['exact_match']['value']:.1f};"
        f" baselines {baselines}"
    )
    return Figure(text, round(over["low"], 2))


def similar(result: dict[str, Any], name: str) -> Figure:
    """Spearman on STS-B's test pairs."""
    spearman = result[name]["spearman"]
    return Figure(between(spearman, ".4f"), spearman["value"])


def speed(result: dict[str, Any], name: str) -> Figure:
    """Ours over the peer's best, with both sides' accuracy."""
    scores, peer = result[name], result["peer_best"][name]
    sides = "; ".join(
        f"{side} {scores[side]['median']:.0f} a CPU-second at {scores['test'][side]['median']:.1f} %"
        for side in ("textus", "peer")
    )
    text = f"{ranged(scores['ratios'])} of {scores['ratios']['n']} pairs; {sides} ({peer})"
    return Figure(text, scores["ratio"])


def augmented(result: dict[str, Any]) -> Figure:
    """Points gained by augmenting 200 sentences."""
    difference = result["lstm"]["difference"]
    text = f"{between(difference, '+.1f')}, {difference['n']} seeds; {result['lstm']['way'][0]}"
    return Figure(text, difference["value"])


def lost(result: dict[str, Any]) -> Figure:
    """Points that defaults lose to the best number of epochs, on average over data sets and sizes."""
    summary = result["points_lost"]
    samples = sum(cell["draws"] for cell in result["lost"].values())
    text = (
        f"mean {summary['mean']:.2f}, worst {summary['worst']:.2f}; {summary['measured']} of {summary['of']} data sets"
        f" and sizes, {samples} samples"
    )
    return Figure(text, summary["mean"])


def worst_lost(result: dict[str, Any]) -> bool:
    """The worst of them, and whether all are measured."""
    summary = result["points_lost"]
    return bool(summary["worst"] <= 4 and summary["measured"] == summary["of"])


def few(result: dict[str, Any]) -> Figure:
    """Accuracy from 30 rows above a linear model of the same vectors, mean over draws."""
    difference, draws = result["few"]["difference"], result["few"]["draws"].values()
    ours, theirs = mean(d["ours"]["value"] for d in draws), mean(d["scikit-learn"] for d in draws)
    spread = f"{difference['min']:+.2f} to {difference['max']:+.2f}"
    text = f"{difference['mean']:+.2f} ({spread}), {difference['n']} draws: {ours:.1f} against {theirs:.1f}"
    return Figure(text, difference["mean"])


def triples(result: dict[str, Any], name: str) -> Figure:
    """Micro F1 of triples in points; with entities given, also of the baselines."""
    scores = result[name]
    context = f"entities {points(scores['entity_f1'])}" if name == "from raw text" else ""
    if name == "given entities":
        baselines = {baseline: values["f1"] for baseline, values in scores["baselines"].items()}
        baselines["reader of adjacent places"] = result["adjacent"]["f1"]
        values = (f"{baseline} {100 * f1['value']:.1f}" for baseline, f1 in baselines.items())
        context = f"baselines {', '.join(values)}"
    return Figure(f"{points(scores['f1'])}; {context}", round(100 * scores["f1"]["value"], 2))


def joint_against_alone(result: dict[str, Any]) -> Figure:
    """Three tasks by one model: the worst loss of a task, in points, against training it alone."""
    losses, texts = [], []
    for task in ("classification", "similarity", "tagging"):
        alone, joint = (side["test"][task] for side in (result["alone"][task], result["together"]))
        ((figure, own),) = [(name, score) for name, score in alone.items() if name != "rows"]
        losses.append(100 * (joint[figure]["value"] - own["value"]))
        texts.append(f"{task} {100 * joint[figure]['value']:.1f} against {100 * own['value']:.1f}")
    return Figure("; ".join(texts), round(min(0.0, *losses), 2))


def by_method(result: dict[str, Any]) -> Figure:
    """What each method costs and reaches."""
    texts = (
        f"{method} {100 * run['accuracy']['value']:.1f} ({run['learning']:,} weights, {run['cpu_seconds']:.0f}"
        f" CPU-seconds, {run['peak_memory_bytes'] / 2**20:,.0f} MB)"
        for method, run in result["methods"].items()
    )
    return Figure("; ".join(texts), 100 * result["methods"]["everything"]["accuracy"]["value"])


def tuned(result: dict[str, Any]) -> Figure:
    """Points gained by a search."""
    return Figure(between(result["difference"], "+.1f"), result["difference"]["value"])


def accuracy(what: str, chinese: str, name: str, must: float, aim: float) -> Row:
    """A row about one entry of `benchmarks.classification`."""
    measure = partial(classes, name=name)
    return Row(f"{what}: accuracy", chinese, "classification", measure, must, aim, more=True)


ABOVE = "F1 above the best of random span, sliding window, keyword sentence"
CLASSIFICATION = [
    accuracy("SST-2, LSTM from scratch", "SST-2，从零训练的 LSTM：准确率",
        "sst2-lstm", 80, 83),
    accuracy("SST-2, MiniLM, all weights", "SST-2，MiniLM 全量微调：准确率",
        "sst2-minilm", 89, 91),
    accuracy("SST-2, MiniLM, LoRA", "SST-2，MiniLM LoRA：准确率",
        "sst2-minilm-lora", 88, 90.5),
    accuracy("film reviews, documents, 5-fold, from scratch", "影评全文，五折，从零：准确率",
        "reviews-linear", 86, 89),
    accuracy("film reviews, documents, 5-fold, MiniLM", "影评全文，五折，MiniLM：准确率",
        "reviews-minilm", 86, 91),
    accuracy("online shopping, zh, LSTM from scratch", "网购评论，从零训练的 LSTM：准确率",
        "shopping-lstm", 93, 95),
    accuracy("THUCNews titles, zh, linear from scratch", "THUCNews 标题，从零训练的线性分类器：准确率",
        "titles-linear", 86, 89),
    accuracy("THUCNews titles, zh, LSTM from scratch", "THUCNews 标题，从零训练的 LSTM：准确率",
        "titles-lstm", 86, 89),
    accuracy("Banking77, MiniLM", "Banking77，MiniLM：准确率",
        "banking-minilm", 91, 93),
    accuracy("Banking77, ten a class, MiniLM", "Banking77，每类十条，MiniLM：准确率",
        "banking-few-minilm", 78, 85),
    Row("SST-2, five LSTMs as one above their mean, points, low end",
        "SST-2，五个 LSTM 合一与平均成员之差，百分点，区间下端",
        "classification", ensemble, 0, 1.5, more=True),
]  # fmt: skip
ROWS = [
    *CLASSIFICATION,
    Row("CoNLL-2003, LSTM-CRF from scratch: entity F1", "CoNLL-2003，从零训练的 LSTM-CRF：实体 F1",
        "tagging", partial(entities, name="CoNLL-2003, LSTM-CRF"), 72, 82, more=True),
    Row("CoNLL-2003, MiniLM (an uncased model): entity F1", "CoNLL-2003，微调 MiniLM（不分大小写的模型）：实体 F1",
        "tagging", partial(entities, name="CoNLL-2003, MiniLM"), 83, 88, more=True),
    Row("CLUENER, zh, LSTM-CRF from scratch, dev: entity F1", "CLUENER，从零训练的 LSTM-CRF，dev：实体 F1",
        "tagging", partial(entities, name="CLUENER, LSTM-CRF"), 55, 65, more=True),
    Row("triples from Chinese news by a rule, entities given: F1", "中文新闻中按规则标注的三元组，给定实体：F1",
        "triples", partial(triples, name="given entities"), REPORTED, more=True),
    Row("triples from Chinese news by a rule, from raw text: F1", "中文新闻中按规则标注的三元组，从原文：F1",
        "triples", partial(triples, name="from raw text"), REPORTED, more=True),
    Row(f"XQuAD, en, five folds, MiniLM: {ABOVE}, low end", "XQuAD，英文，五折，MiniLM：F1 高出最好的基线，区间下端",
        "question_answering", partial(answers, name="xquad_en"), 0, more=True),
    Row(f"CMRC 2018, zh, own encoder: {ABOVE}, lower end of the 95 % interval, points",
        "CMRC 2018，自行训练的中文编码器：F1 超出最佳基线（随机片段、滑动窗口、关键词句）的幅度，置信区间下限",
        "question_answering", partial(answers, name="cmrc2018_trial"), 0, more=True),
    Row("STS-B, MiniLM as it comes: Spearman", "STS-B，原样 MiniLM：Spearman",
        "similarity", partial(similar, name="as_it_comes"), 0.82, more=True),
    Row("STS-B, MiniLM fine-tuned: Spearman", "STS-B，微调 MiniLM：Spearman",
        "similarity", partial(similar, name="fine_tuned"), 0.85, 0.88, more=True),
    Row("200 SST-2 sentences, augmented against not, points", "200 句 SST-2，增强与不增强之差，百分点",
        "augmentation", augmented, 0, 2, more=True),
    Row("SST-2, STS-B, CoNLL by one MiniLM with three heads compared with each alone in as many"
        " steps: worst, points",
        "一个 MiniLM 带三个任务头同时学习 SST-2、STS-B、CoNLL，与相同步数的单独训练相比：最差的一项，百分点",
        "several_tasks", joint_against_alone, REPORTED, more=True),
    Row("SST-2, MiniLM by method, three epochs: accuracy of everything",
        "SST-2，MiniLM，各种微调方法，三轮：全部权重的准确率",
        "methods", by_method, REPORTED, more=True),
    Row("fine-tuning MiniLM, SST-2, samples a CPU-second compared with the Trainer's best",
        "微调 MiniLM，SST-2，每 CPU 秒样本数，与 Trainer 最佳设置相比",
        "finetuning_speed", partial(speed, name="training"), 1.2, 2, more=True, unit=" ×"),
    Row("classifying SST-2 in batches, texts a CPU-second compared with the best of `transformers`",
        "成批分类 SST-2，每 CPU 秒文本数，与 `transformers` 最佳方式相比",
        "finetuning_speed", partial(speed, name="classifying"), 1.2, 2, more=True, unit=" ×"),
    Row("few rows: points that defaults lose to the best of 3 to 80 epochs by the test rows, mean",
        "少量标注：默认设置比 3 至 80 轮中按测试集最好者低多少百分点，平均",
        "small_data", lost, 1.5, extra=worst_lost, and_within=", worst ≤ 4"),
    Row("30 rows of SST-2, MiniLM: accuracy above scikit-learn's logistic regression on the same"
        " vectors, points",
        "30 条 SST-2，MiniLM：准确率与 scikit-learn 逻辑回归（同样的向量）之差，百分点",
        "small_data", few, -1, more=True),
    Row("SST-2, LSTM, 20 trials against the default, points", "SST-2，LSTM，20 次搜索与默认之差，百分点",
        "tuning", tuned, REPORTED, 1.5, more=True),
]  # fmt: skip
