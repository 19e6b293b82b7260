"""The rows of docs/results.md about the model families and about weights from elsewhere."""

from __future__ import annotations

from typing import Any

from benchmarks._rows import Figure, Row, markdown, ranged


def between(found: dict[str, float], form: str = "{:.2f}") -> str:
    """A value with its 95 % interval."""
    value, low, high = (form.format(found[name]) for name in ("value", "low", "high"))
    return f"{value} (95 %: {low}–{high})"


def tagging(result: dict[str, Any]) -> Figure:
    """Brown with the universal tags; the others against it."""
    brown, own, chinese = (
        result[name] for name in ("brown_universal", "brown_own_tags_to_universal", "people_daily")
    )
    text = (
        f"{between(brown['accuracy'], '{:.2%}')}; known words {brown['known']:.1%}, unknown {brown['unknown']:.1%};"
        f" each word's most frequent tag {brown['most_frequent_tag']['value']:.1%}; learning Brown's own tags"
        f" {own['accuracy']['value']:.1%}; People's Daily, its own tags {chinese['accuracy']['value']:.1%}"
    )
    return Figure(text, brown["accuracy"]["value"])


def floor(result: dict[str, Any]) -> Figure:
    """The least of ours minus scikit-learn's, in points."""
    pairs = {
        name: [100 * each[side]["accuracy"]["value"] for side in ("ours", "scikit-learn")]
        for name, each in result["sets"].items()
    }
    text = "; ".join(f"{name} {ours:.1f} against {theirs:.1f}" for name, (ours, theirs) in pairs.items())
    return Figure(text, round(min(ours - theirs for ours, theirs in pairs.values()), 2))


def vectors(result: dict[str, Any]) -> Figure:
    """Spearman's correlation over all pairs, missing words as 0."""
    found = result["WordSim-353"]
    text = (
        f"{between(found, '{:.3f}')}, both words known in {found['with_both_words']} of {found['n']} pairs;"
        f" {result['chosen']}, chosen by {result['chosen_by']}"
    )
    return Figure(text, found["value"])


def same_tokens(name: str) -> Any:
    """Greedy tokens that are the oracle's."""

    def figure(result: dict[str, Any]) -> Figure:
        greedy = result[name]["greedy"]
        more = f"; it answers: {result[name]['answer']}" if "answer" in result[name] else ""
        return Figure(f"{greedy['same']} of {greedy['n']}{more}", greedy["same"] / greedy["n"])

    return figure


def minilm(result: dict[str, Any]) -> Figure:
    """The largest difference of a component."""
    found = result["minilm"]
    return Figure(f"{found['vectors']:.1e} over {found['sentences']} sentences", found["vectors"])


def lstm(result: dict[str, Any]) -> Figure:
    """The whole last tenth."""
    text = (
        f"{result['nats_per_character']:.3f} nats/char, {between(result['bits_per_byte'], '{:.3f}')} bits/byte;"
        f" {result['cpu_seconds']:.0f} CPU-seconds, {result['seconds']:.0f} s by the clock"
    )
    return Figure(text, result["nats_per_character"])


def family_speed(result: dict[str, Any]) -> Figure:
    """Ours over the best peer, by family; judged by the worst."""
    found = result["families"]
    texts = []
    for name, each in found.items():
        rates = [f"{side} {rate['median']:,.0f}" for side, rate in each["tokens_per_cpu_second"].items()]
        texts.append(f"{name} {ranged(each['ratio'])} × ({', '.join(rates)})")
    return Figure("; ".join(texts), min(each["ratio"]["median"] for each in found.values()))


def translation(result: dict[str, Any]) -> Figure:
    """sacrebleu."""
    text = (
        f"{between(result['bleu'], '{:.1f}')} BLEU, {result['parameters']:,} weights, {result['steps']} steps;"
        f" {result['cpu_seconds']:.0f} CPU-seconds, {result['seconds']:.0f} s by the clock"
    )
    return Figure(text, result["bleu"]["value"])


def pretraining(result: dict[str, Any]) -> Figure:
    """Judged by the lower end of the paired interval."""
    found = result["difference"]
    text = (
        f"{between(found)} points over {found['n']} seeds: {ranged(result['pretrained'])} against"
        f" {ranged(result['scratch'])} from scratch; pre-trained for {result['pretraining']['seconds']:.0f} s"
    )
    return Figure(text, found["low"])


def latent(result: dict[str, Any]) -> Figure:
    """The variant with the best bound; the others against it."""
    alone = result["no_latent"]["nats_per_token"]["value"]
    texts = [
        f"{name}: {each['active_units']} of {each['d_latent']} units, reconstruction BLEU"
        f" {each['reconstruction_bleu']['value']:.1f}, ELBO {each['nats_per_token']['value']:.3f} nats/token"
        for name, each in result["variants"].items()
    ]
    text = "; ".join(texts) + f"; its decoder without a latent {alone:.3f}"
    return Figure(text, max(each["active_units"] for each in result["variants"].values()))


def game(result: dict[str, Any]) -> Figure:
    """Those that play, at equal distinct-4, judged by the better one's interval: no worse is one that reaches zero.
    What more likelihood alone gives is told against them.
    """
    known = {name: each["at_equal_distinct_4"] for name, each in result["players"].items()}
    known = {name: each for name, each in known.items() if each}
    text = "; ".join(f"{name} {between(each, '{:+.3f}')}" for name, each in known.items())
    players = [each for name, each in known.items() if name != "more likelihood"]
    return Figure(
        f"{text} nats/token; below zero is better", min(players, key=lambda each: each["value"])["low"]
    )


ROWS = [
    Row(
        "HMM tagger, Brown, universal tags, 10 % held out: accuracy",
        "hmm_tagging",
        tagging,
        0.93,
        0.95,
        more=True,
        unit="%",
    ),
    Row(
        "linear classifier minus `scikit-learn`'s on TF-IDF, worst of four sets, points",
        "linear_floor",
        floor,
        -1,
        0,
        more=True,
    ),
    Row(
        "word vectors of 17 books and Brown: Spearman on WordSim-353",
        "word_vectors",
        vectors,
        0.30,
        0.42,
        more=True,
    ),
    Row(
        "SmolLM2-135M-Instruct from GGUF: greedy tokens equal to `transformers`",
        "pretrained",
        same_tokens("smollm2"),
        1,
        more=True,
        unit="%",
    ),
    Row(
        "all-MiniLM-L6-v2: largest difference of a sentence vector to `transformers`",
        "pretrained",
        minilm,
        1e-5,
    ),
    Row(
        "stories260K: greedy tokens equal to a plain loop",
        "pretrained",
        same_tokens("stories260K"),
        1,
        more=True,
        unit="%",
    ),
    Row(
        "`--model lstm --preset 10min`, tiny Shakespeare, whole last tenth",
        "lstm",
        lstm,
        1.65,
        1.52,
        unit=" nats/char",
    ),
    Row(
        "training step of the LSTM, the encoder and the encoder–decoder against the best of `torch.nn` and"
        " `transformers`, worst of the three",
        "family_speed",
        family_speed,
        1,
        1.5,
        more=True,
        unit=" ×",
    ),
    Row(
        "encoder–decoder, Multi30k en→de, test 2016, greedy: BLEU",
        "translation",
        translation,
        24,
        32,
        more=True,
    ),
    Row(
        "SST-2 points gained by pre-training an encoder here",
        "encoder_pretraining",
        pretraining,
        0,
        3,
        more=True,
    ),
    Row("VAE on movie sentences: active units", "vae", latent, 6, more=True),
    Row(
        "GAN on movie sentences: nats/token above its likelihood start at equal distinct-4, low end",
        "gan",
        game,
        0,
    ),
]

CHINESE = {
    ROWS[0].what: "HMM 词性标注，Brown，通用标签，留出 10 %：准确率",
    ROWS[1].what: "线性分类器与 `scikit-learn` TF-IDF 之差，四个数据集中最差者，百分点",
    ROWS[2].what: "17 本书加 Brown 训练的词向量：WordSim-353 的 Spearman 相关",
    ROWS[3].what: "从 GGUF 读入的 SmolLM2-135M-Instruct：与 `transformers` 相同的贪心词元",
    ROWS[4].what: "all-MiniLM-L6-v2：句向量与 `transformers` 的最大差",
    ROWS[5].what: "stories260K：与朴素实现相同的贪心词元",
    ROWS[6].what: "`--model lstm --preset 10min`，tiny Shakespeare，最后十分之一全部",
    ROWS[7].what: "LSTM、编码器、编码器–解码器训练步速率与 `torch.nn`、`transformers` 最佳者之比，三者中最差",
    ROWS[8].what: "编码器–解码器，Multi30k 英→德，test 2016，贪心：BLEU",
    ROWS[9].what: "本机预训练编码器给 SST-2 带来的百分点",
    ROWS[10].what: "VAE，影评句子：活跃隐变量数",
    ROWS[11].what: "GAN，影评句子：distinct-4 相同时比最大似然起点多出的 nats/词元，区间下端",
}
"""The words of the short table in README.zh-CN.md."""


def ruler(result: dict[str, Any] | None) -> str:
    """The section about every family on the same text."""
    page = (
        "\n## Every family by one metric\n\n"
        "`--preset 3min` each, which is three minutes of every core that was used (families that count take what they"
        " need), scored on the same held-out tenth. Kinds of likelihood are not ranked against each other: a bound is"
        " at least the truth, a pseudo-likelihood sees both sides.\n"
    )
    if result is None:
        return page + "\nNot measured yet: `python -m benchmarks.families`.\n"
    header = ["kind", "family", "bits/byte", "parameters", "CPU-seconds to train", "CPU-seconds to score"]
    for text, found in result["texts"].items():
        rows = [
            [row["kind"], row["name"], between(row["bits_per_byte"], "{:.3f}"), f"{row['parameters']:,}",
             f"{row['training']['cpu_seconds']:.0f}", f"{row['cpu_seconds']:.1f}"]
            for row in found["rows"]
        ]  # fmt: skip
        page += f"\n### {text}\n\n{markdown(header, rows)}"
        page += f"\n![bits per byte against the CPU-seconds of scoring](families-{text}.png)\n"
    return page + f"\n`{result['command']}`, {result['date']}\n"
