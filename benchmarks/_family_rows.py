"""The rows of docs/results.md about the model families and about weights from elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks._rows import Figure, Row, between, markdown, ranged


def tagging(result: dict[str, Any]) -> Figure:
    """Brown with the universal tags is judged."""
    brown, own, chinese = (
        result[name] for name in ("brown_universal", "brown_own_tags_to_universal", "people_daily")
    )
    text = (
        f"{between(brown['accuracy'], '.2%')}; known words {brown['known']:.1%}, unknown {brown['unknown']:.1%};"
        f" each word's most frequent tag {brown['most_frequent_tag']['value']:.1%}; trained on Brown's own tags"
        f" {own['accuracy']['value']:.1%}; People's Daily, its own tags {chinese['accuracy']['value']:.1%}"
    )
    return Figure(text, brown["accuracy"]["value"])


def linear(result: dict[str, Any]) -> Figure:
    """The least of ours minus scikit-learn's, in points."""
    pairs = {
        name: [100 * scores[side]["accuracy"]["value"] for side in ("ours", "scikit-learn")]
        for name, scores in result["sets"].items()
    }
    text = "; ".join(f"{name} {ours:.1f} against {theirs:.1f}" for name, (ours, theirs) in pairs.items())
    return Figure(text, round(min(ours - theirs for ours, theirs in pairs.values()), 2))


def vectors(result: dict[str, Any]) -> Figure:
    """Spearman's correlation over all pairs, missing words as 0."""
    score = result["WordSim-353"]
    text = (
        f"{between(score, '.3f')}, both words known in {score['with_both_words']} of {score['n']} pairs;"
        f" {result['chosen']}, chosen by {result['chosen_by']}"
    )
    return Figure(text, score["value"])


def same_tokens(result: dict[str, Any], name: str) -> Figure:
    """Greedy tokens that are the oracle's."""
    greedy, answer = result[name]["greedy"], result[name].get("answer")
    more = f"; it answers: {answer}" if answer else ""
    return Figure(f"{greedy['same']} of {greedy['n']}{more}", greedy["same"] / greedy["n"])


def minilm(result: dict[str, Any]) -> Figure:
    """The largest difference of a component."""
    scores = result["minilm"]
    return Figure(f"{scores['vectors']:.1e} over {scores['sentences']} sentences", scores["vectors"])


def cost(result: dict[str, Any]) -> str:
    """What a training took."""
    return f"{result['cpu_seconds']:.0f} CPU-seconds, {result['seconds']:.0f} s by the clock"


def lstm(result: dict[str, Any]) -> Figure:
    """The whole last tenth."""
    nats, bits = result["nats_per_character"], between(result["bits_per_byte"], ".3f")
    return Figure(f"{nats:.3f} nats/char, {bits} bits/byte; {cost(result)}", nats)


def family_speed(result: dict[str, Any]) -> Figure:
    """Ours over the best peer, by family; judged by the worst."""
    texts = []
    for name, scores in result["families"].items():
        rates = [f"{side} {rate['median']:,.0f}" for side, rate in scores["tokens_per_cpu_second"].items()]
        texts.append(f"{name} {ranged(scores['ratio'])} × ({', '.join(rates)})")
    return Figure("; ".join(texts), min(scores["ratio"]["median"] for scores in result["families"].values()))


def translation(result: dict[str, Any]) -> Figure:
    """sacrebleu."""
    part = result["parts"]["encoder-decoder"]
    size = f"{part['parameters']:,} weights, {part['steps']} steps"
    greedy = f"greedy {part['greedy']['bleu']['value']:.1f}"
    return Figure(
        f"{between(part['bleu'], '.1f')} BLEU, {greedy}, {size}; {cost(part)}", part["bleu"]["value"]
    )


def pretraining(result: dict[str, Any]) -> Figure:
    """Judged by the lower end of the paired interval."""
    difference = result["difference"]
    text = (
        f"{between(difference)} points over {difference['n']} seeds: {ranged(result['pretrained'])} against"
        f" {ranged(result['scratch'])} from scratch; pre-trained for {result['pretraining']['seconds']:.0f} s"
    )
    return Figure(text, difference["low"])


def latent(result: dict[str, Any]) -> Figure:
    """The variant with the best bound is judged."""
    texts = [
        f"{name}: {scores['active_units']} of {scores['d_latent']} units, reconstruction BLEU"
        f" {scores['reconstruction_bleu']['value']:.1f}, ELBO {scores['nats_per_token']['value']:.3f} nats/token"
        for name, scores in result["variants"].items()
    ]
    texts.append(f"its decoder without a latent {result['no_latent']['nats_per_token']['value']:.3f}")
    return Figure("; ".join(texts), max(scores["active_units"] for scores in result["variants"].values()))


def game(result: dict[str, Any]) -> Figure:
    """Players at equal distinct-4, judged by the better one's interval: no worse is one that reaches zero."""
    known = {name: player["at_equal_distinct_4"] for name, player in result["players"].items()}
    known = {name: figure for name, figure in known.items() if figure}
    text = "; ".join(f"{name} {between(figure, '+.3f')}" for name, figure in known.items())
    players = [figure for name, figure in known.items() if name != "more likelihood"]
    best = min(players, key=lambda figure: figure["value"])
    return Figure(f"{text} nats/token; below zero is better", best["low"])


ROWS = [
    Row("HMM tagger, Brown, universal tags, 10 % held out: accuracy",
        "HMM 词性标注，Brown，通用标签，留出 10 %：准确率",
        "hmm_tagging", tagging, 0.93, 0.95, more=True, unit="%"),
    Row("linear classifier minus `scikit-learn`'s on TF-IDF, worst of four sets, points",
        "线性分类器与 `scikit-learn` TF-IDF 之差，四个数据集中最差者，百分点",
        "linear_floor", linear, -1, 0, more=True),
    Row("word vectors of 17 books and Brown: Spearman on WordSim-353",
        "17 本书加 Brown 训练的词向量：WordSim-353 的 Spearman 相关",
        "word_vectors", vectors, 0.30, 0.42, more=True),
    Row("SmolLM2-135M-Instruct from GGUF: greedy tokens equal to `transformers`",
        "从 GGUF 读入的 SmolLM2-135M-Instruct：贪心解码的词元与 `transformers` 一致的比例",
        "pretrained", partial(same_tokens, name="smollm2"), 1, more=True, unit="%"),
    Row("all-MiniLM-L6-v2: largest difference of a sentence vector to `transformers`",
        "all-MiniLM-L6-v2：句向量与 `transformers` 的最大差",
        "pretrained", minilm, 1e-5),
    Row("stories260K: greedy tokens equal to a plain loop", "stories260K：贪心解码的词元与朴素实现一致的比例",
        "pretrained", partial(same_tokens, name="stories260K"), 1, more=True, unit="%"),
    Row("`--model lstm --preset 10min`, tiny Shakespeare, whole last tenth",
        "`--model lstm --preset 10min`，tiny Shakespeare，在末尾十分之一的全部文本上",
        "lstm", lstm, 1.65, 1.52, unit=" nats/char"),
    Row("training step of the LSTM, the encoder and the encoder–decoder compared with the best of `torch.nn` and"
        " `transformers`, worst of the three",
        "LSTM、编码器、编码器–解码器训练步速率与 `torch.nn`、`transformers` 最佳者之比，三者中最差",
        "family_speed", family_speed, 1, 1.5, more=True, unit=" ×"),
    Row("encoder–decoder, Multi30k en→de, test 2016, beam 4: BLEU",
        "编码器–解码器，Multi30k 英→德，test 2016，束宽 4：BLEU",
        "translation", translation, 37.5, 40, more=True),
    Row("SST-2 points gained by pre-training an encoder here", "本机预训练编码器给 SST-2 带来的百分点",
        "encoder_pretraining", pretraining, 0, 3, more=True),
    Row("VAE on movie sentences: active units", "VAE，影评句子：活跃隐变量数",
        "vae", latent, 6, more=True),
    Row("GAN on movie sentences: nats/token above its likelihood start at equal distinct-4, low end",
        "GAN，影评句子：distinct-4 相同时比最大似然起点多出的 nats/词元，区间下端",
        "gan", game, 0),
]  # fmt: skip


def all_families(result: dict[str, Any] | None) -> str:
    """The section about every family on the same text."""
    page = (
        "\n## Every family on the same text\n\n"
        "`--preset 3min` each, which is three minutes of every core that was used (families that count take what they"
        " need), scored on the same held-out tenth. Kinds of likelihood are not ranked against each other: a bound is"
        " at least the truth, a pseudo-likelihood sees both sides.\n"
    )
    if result is None:
        return page + "\nNot measured yet: `python -m benchmarks.families`.\n"
    header = ["kind", "family", "bits/byte", "parameters", "CPU-seconds to train", "CPU-seconds to score"]
    for text, comparison in result["texts"].items():
        rows = [
            [row["kind"], row["name"], between(row["bits_per_byte"], ".3f"), f"{row['parameters']:,}",
             f"{row['training']['cpu_seconds']:.0f}", f"{row['cpu_seconds']:.1f}"]
            for row in comparison["rows"]
        ]  # fmt: skip
        page += f"\n### {text}\n\n{markdown(header, rows)}"
        page += f"\n![bits per byte against the CPU-seconds of scoring](families-{text}.png)\n"
    return page + f"\n`{result['command']}`, {result['date']}\n"
