"""Writes docs/results.md from results/*.json: every figure, its bounds, its command, date and machine.

`python -m benchmarks.table` writes; tests/test_results.py fails if the page and the files differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _family_rows, _rag_rows, _understanding_rows
from benchmarks._rows import Figure, Row, between, markdown, ranged
from textus.core.io import read_json, write_atomic

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS, PAGE = REPOSITORY / "results", REPOSITORY / "docs" / "results.md"

HEAD = """# Results

Written by `python -m benchmarks.table` from `results/*.json`, which the commands below write: no figure is typed by
hand. Speeds are ratios of sides that took turns in one run; CPU-seconds are user and system time of a command and of
every process it started. Min–max is over repetitions or seeds; "met" is judged by the figure named in the row.

"""


def tiny(result: dict[str, Any]) -> Figure:
    """Judged by the worst seed."""
    nats, cpu, wall = (result[name] for name in ("nats_per_character", "cpu_seconds", "seconds"))
    first = next(iter(result["runs"].values()))["bits_per_byte"]
    text = (
        f"{ranged(nats, '.3f')} nats/char over {nats['n']} seed(s), {result['bits_per_byte']['median']:.3f} bits/byte"
        f" (95 % of seed 0: {first['low']:.3f}–{first['high']:.3f}); {ranged(cpu, '.0f')} CPU-seconds,"
        f" {ranged(wall, '.0f')} s by the clock; worst seed counts"
    )
    return Figure(text, nats["max"])


def within(seconds: float) -> Callable[[dict[str, Any]], bool]:
    """Every seed kept the budget."""
    return lambda result: result["cpu_seconds"]["max"] <= seconds


def to_188(result: dict[str, Any]) -> Figure:
    """Start-up included on both sides."""
    whole, loop = result["with_start_up"], result["loop"]
    text = (
        f"{ranged(result['ratio'])} ×: {ranged(whole['ours'], '.1f')} CPU-seconds ({result['steps']} steps, ends at"
        f" {result['ours_nats']['max']:.3f} or below) against {ranged(whole['recipe'], '.1f')} (ends at"
        f" {ranged(result['recipe_nats'], '.3f')}); loops alone {ranged(loop['ratio'])} ×"
    )
    return Figure(text, result["ratio"]["median"])


def speed(result: dict[str, Any], name: str) -> Figure:
    """Ours with AdamW, as the peer has it."""
    scores = result["vocabularies"][name]
    rates = {side["name"]: side["tokens_per_cpu_second"]["median"] for side in scores["sides"]}
    text = (
        f"{ranged(scores['ratio'])} ×: {rates[scores['ours']]:,.0f} ({scores['ours']}) against"
        f" {rates[scores['peer']]:,.0f} ({scores['peer']}); with muon {ranged(scores['ratio_muon'])} ×;"
        f" peer helped by the allocator's environment {ranged(scores['ratio_to_peer_with_allocator'])} ×"
    )
    return Figure(text, scores["ratio"]["median"])


def share(result: dict[str, Any], name: str) -> Figure:
    """Bare products over the step."""
    scores = result["vocabularies"][name]
    step, products = (scores[f"{side}_flop_per_second"] / 1e9 for side in ("step", "products"))
    text = (
        f"{ranged(scores['share'], '.0%')}, batch {scores['batch']}: {step:,.0f} of {products:,.0f} GFLOP/s"
    )
    return Figure(text, scores["share"]["median"])


def ngram(result: dict[str, Any]) -> Figure:
    """The counting, without the command's start-up."""
    loop, command = (ranged(result[f"{part}_cpu_seconds"], ".1f") for part in ("loop", "command"))
    text = f"{loop} s; the whole command {command} s; {between(result['bits_per_byte'], '.3f')} bits/byte"
    return Figure(text, result["loop_cpu_seconds"]["median"])


def kills(result: dict[str, Any]) -> Figure:
    """How many of the trials gave the same bytes."""
    text = (
        f"{result['passed']} / {result['trials']}: {result['kills']} kills,"
        f" {result['killed_while_saving']} while saving,"
        f" {result['killed_before_first_checkpoint']} before the first checkpoint"
    )
    return Figure(text, result["passed"])


def start_up(result: dict[str, Any]) -> Figure:
    """The slower of the two counts."""
    seconds = {name: result["seconds"][name] for name in ("import textus", "textus --help")}
    text = "; ".join(f"`{name}` {ranged(times, '.3f')} s" for name, times in seconds.items())
    return Figure(text, max(times["median"] for times in seconds.values()))


def saved_often_enough(result: dict[str, Any]) -> bool:
    """Twenty moments, five of them while saving."""
    return result["trials"] >= 20 and result["killed_while_saving"] >= 5


SHAKESPEARE = "tiny Shakespeare, characters, whole last tenth: `--preset"
GPT2 = "training tokens per CPU-second compared with the best of `transformers` GPT-2, 6 × 384 × 6 heads, context 256"
ROWS = [
    Row(f"{SHAKESPEARE} 1min`, empty compile cache",
        "tiny Shakespeare，按字符，在末尾十分之一的全部文本上：`--preset 1min`，编译缓存为空",
        "tiny_shakespeare-1min", tiny, 1.75, 1.60, unit=" nats/char",
        extra=within(150), and_within=" within 150 CPU-seconds"),
    Row(f"{SHAKESPEARE} 10min`", "tiny Shakespeare，按字符，在末尾十分之一的全部文本上：`--preset 10min`",
        "tiny_shakespeare-10min", tiny, 1.53, 1.45, unit=" nats/char",
        extra=within(1200), and_within=" within 1,200 CPU-seconds"),
    Row("CPU-seconds to reach 1.88 nats/char, compared with the known CPU recipe",
        "达到 1.88 nats/字符所需 CPU 秒，与已知 CPU 配方之比",
        "to_188", to_188, 0.5, 0.25, unit=" ×"),
    Row(f"{GPT2}, vocabulary 65",
        "每 CPU 秒训练词元数，与 `transformers` GPT-2 最佳设置之比，6 × 384 × 6 头，上下文 256，词表 65",
        "train_speed", partial(speed, name="65"), 1.2, 2, more=True, unit=" ×"),
    Row(f"{GPT2}, vocabulary 4,096", "同上，词表 4,096",
        "train_speed", partial(speed, name="4096"), 1.2, 2, more=True, unit=" ×"),
    Row("share of the rate of that step's own matrix products, vocabulary 65",
        "训练步速率占其自身矩阵乘法速率的比例，词表 65",
        "matmul_share", partial(share, name="65"), 0.4, 0.6, more=True, unit="%"),
    Row("the same, vocabulary 4,096", "同上，词表 4,096",
        "matmul_share", partial(share, name="4096"), 0.4, 0.6, more=True, unit="%"),
    Row("n-gram, order 5, BPE 4,096, `gutenberg_prose`: CPU-seconds to train",
        "n-gram，5 阶，BPE 4,096，`gutenberg_prose`：训练所需 CPU 秒",
        "ngram", ngram, 60, 15, unit=" s"),
    Row("kill −9 at 20 random moments, resume: final weights byte-identical",
        "随机 20 次 kill −9 后恢复：最终权重逐字节相同",
        "kill9", kills, 20, more=True, unit=" of 20", extra=saved_often_enough),
    Row("`import textus`, `textus --help`", "`import textus`、`textus --help`",
        "start_up", start_up, 0.3, unit=" s"),
    *_family_rows.ROWS,
    *_understanding_rows.ROWS,
    *_rag_rows.ROWS,
]  # fmt: skip

SOURCES = [*dict.fromkeys(row.source for row in ROWS), "families"]
"""The results the page is made of."""


def load(source: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """A result, None if it was never measured; ValueError if its command, date, machine or versions are missing."""
    path = folder / f"{source}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    missing = [name for name in ("command", "date", "machine", "versions") if not result.get(name)]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; measure again with its command")
    return result


def line(row: Row, folder: Path = RESULTS) -> list[str]:
    """One row: what, must, aim, measured, met, command, date."""
    bounds = [row.bound(row.must) + row.and_within, row.bound(row.aim)]
    result = load(row.source, folder)
    figure = row.figure(result)
    if result is None or figure is None:
        return [row.what, *bounds, "not measured yet", "–", "–", "–"]
    kept = row.extra is None or row.extra(result)
    met = "yes" if row.reached(row.must, figure) and kept else "**no**"
    if met == "yes" and row.aim is not None:
        met += ", and the aim" if row.reached(row.aim, figure) else ", not the aim"
    return [row.what, *bounds, figure.text, met, f"`{result['command']}`", result["date"]]


def machines(folder: Path = RESULTS) -> Iterator[str]:
    """Where each file was measured, and with which versions."""
    for source in SOURCES:
        if result := load(source, folder):
            machine, versions = result["machine"], result["versions"]
            shown = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield (
                f"- `{source}`: {machine['cpu']}, {machine['cores']} cores, {machine['isa']};"
                f" load {machine['load']} when written; {shown}"
            )


def render(folder: Path = RESULTS) -> str:
    """The whole page."""
    header = ["what", "must", "aim", "measured, median (min–max)", "met", "command", "date"]
    page = HEAD + markdown(header, [line(row, folder) for row in ROWS])
    page += _family_rows.all_families(load("families", folder))
    if lines := list(machines(folder)):
        page += "\n## Machines and versions\n\n" + "\n".join(lines) + "\n"
    return page


CHINESE = {
    "what": "项目", "measured": "实测", "required": "要求", "status": "状态", "met": "达标", "not measured yet": "尚未测量", "missed": "未达标",
    "reported": "仅报告", **{row.what: row.chinese for row in ROWS},
}  # fmt: skip
"""The short table in README.zh-CN.md."""
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


IN_README = (
    "1min`, empty compile cache",
    "context 256, vocabulary 4,096",
    "kill −9",
    "SmolLM2-135M-Instruct from GGUF",
    "Multi30k",
    "SST-2, MiniLM, all weights",
    "CMRC 2018",
    "three heads",
)
"""A part of what each row of the READMEs' short table measures; two of them miss their requirement, one has none."""


def status(row: Row, result: dict[str, Any], figure: Figure) -> str:
    """Whether a figure meets its requirement, where it has one."""
    if row.must == float("-inf"):
        return "reported"
    return "met" if row.reached(row.must, figure) and (row.extra is None or row.extra(result)) else "missed"


def short(row: Row, words: dict[str, str], folder: Path = RESULTS) -> list[str]:
    """One row of a README: what, measured, required, status."""
    result = load(row.source, folder)
    measured, judged = "not measured yet", "–"
    if result is not None and (figure := row.figure(result)):
        measured = f"{figure.value:.0%}" if row.unit == "%" else f"{figure.value:.3g}{row.unit}"
        judged = status(row, result, figure)
    bound = "–" if row.must == float("-inf") else row.bound(row.must)
    return [words.get(cell, cell) for cell in (row.what, measured, bound, judged)]


def filled(readme: str, words: dict[str, str], folder: Path = RESULTS) -> str:
    """A README with the short table between its two marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    header = [words.get(name, name) for name in ("what", "measured", "required", "status")]
    chosen = [row for part in IN_README for row in ROWS if part in row.what]
    table = markdown(header, [short(row, words, folder) for row in chosen])
    return f"{before}{BEGIN}\n{table}{END}{after}"


READMES: dict[str, dict[str, str]] = {"README.md": {}, "README.zh-CN.md": CHINESE}


def main() -> None:
    """Write the page and the READMEs' short tables, and print the page."""
    page = render()
    write_atomic(PAGE, page)
    for name, words in READMES.items():
        path = REPOSITORY / name
        write_atomic(path, filled(path.read_text(encoding="utf-8"), words))
    print(page)


if __name__ == "__main__":
    main()
