"""Several runs on one ruler: what is ranked with what, what is certain, and the report of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from corpora import write
from raising import raises

import textus
from textus import api
from textus.core.errors import DataError, UsageError
from textus.data.loader import TokenLoader
from textus.data.token_dataset import in_memory_dataset
from textus.evaluation import comparison
from textus.evaluation.comparison import ComparedRun, compare
from textus.evaluation.perplexity import evaluate
from textus.models.contract import Capabilities
from textus.models.ngram import NGram, NGramConfig
from textus.models.registry import build
from textus.models.testing import Fake, FakeConfig
from textus.tokenizers import Tokenizer, load, train

TEXT = "the cat sat on the mat, the dog ate the cat's hat; 春江潮水连海平。\n" * 12


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train("char", [TEXT], 200)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train("bpe", [TEXT], 300)


def fake(tokenizer: Tokenizer, margin: float = 0.0, context: int | None = 8) -> Fake:
    return Fake(FakeConfig(tokenizer.vocab_size, context, margin))


def ngram(tokenizer: Tokenizer) -> NGram:
    model = NGram(NGramConfig(tokenizer.vocab_size, tokenizer.end_id, order=4))
    store = in_memory_dataset([tokenizer.end_id, *tokenizer.encode(TEXT)])
    model.count(TokenLoader(store, batch_size=1, context_length=4000, shuffle=False).batch(0))
    model.update()
    return model


class Pseudo(Fake):
    """A family whose figure is no probability of the text."""

    capabilities = Capabilities(likelihood="pseudo")


def test_runs_are_ranked_and_certain_differences_are_marked(tokenizer: Tokenizer, bpe: Tokenizer) -> None:
    runs = [
        ComparedRun("uniform", fake(tokenizer), tokenizer, {"cpu_seconds": 12.5}),
        ComparedRun("ngram", ngram(tokenizer), tokenizer, {"family": "ngram"}),
        ComparedRun("twin", ngram(tokenizer), tokenizer),
        ComparedRun("bpe", fake(bpe), bpe),
        ComparedRun("pseudo", Pseudo(FakeConfig(tokenizer.vocab_size, 8, 0.1)), tokenizer),
    ]
    comparison = compare(runs, TEXT)
    names = [row["name"] for row in comparison["rows"]]
    assert names[-1] == "pseudo"
    assert set(names[:2]) == {"ngram", "twin"}
    assert [row["rank"] for row in comparison["rows"]] == [1, 2, 3, 4, 1]
    assert [row["kind"] for row in comparison["rows"]] == ["exact"] * 4 + ["pseudo"]
    assert all("pseudo" not in (pair["better"], pair["worse"]) for pair in comparison["pairs"])
    twins, clear = comparison["pairs"][:2]
    assert not twins["certain"]
    assert twins["difference"]["value"] == 0
    assert clear["certain"]
    assert clear["difference"]["low"] > 0
    assert "do not differ significantly" in comparison["verdict"][0]
    assert "is better than" in comparison["verdict"][1]
    assert "not ranked against each other" in comparison["verdict"][-1]
    row = next(row for row in comparison["rows"] if row["name"] == "uniform")
    assert row["bits_per_byte"] == evaluate(fake(tokenizer), tokenizer, TEXT)["bits_per_byte"]
    assert row["training_cpu_seconds"] == 12.5
    assert row["parameters"] == 1
    assert row["weights_bytes"] == 4
    assert row["peak_memory_bytes"] > 1_000_000


def test_there_must_be_a_run(tokenizer: Tokenizer) -> None:
    with raises(UsageError, "missing_argument"):
        compare([], TEXT)


@pytest.mark.promise("Families", "Fewer than six blocks make nobody better")
def test_a_few_blocks_make_nobody_better(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5 blocks all lie on one side by chance in 1 of 16 cases: that is no 95 %."""
    runs = [
        ComparedRun("ngram", ngram(tokenizer), tokenizer),
        ComparedRun("uniform", fake(tokenizer), tokenizer),
    ]
    short, longer = (compare(runs, TEXT[:n]) for n in (240, 420))
    assert [row["pairs"][0]["difference"]["n"] for row in (short, longer)] == [5, 9]
    assert all(row["pairs"][0]["difference"]["low"] > 0 for row in (short, longer))
    assert [row["pairs"][0]["certain"] for row in (short, longer)] == [False, True]
    assert "too short to compare" in short["verdict"][0]
    monkeypatch.setattr(comparison, "MIN_BLOCKS", 2)  # the planted fault
    assert compare(runs, TEXT[:240])["pairs"][0]["certain"]


def lossy(folder: Path) -> Tokenizer:
    """A BERT's tokenizer, of small letters only; of all words of TEXT."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set(re.findall(r"\w|[^\w\s]", TEXT.lower())))]
    pieces = words + [f"##{word}" for word in words[4:]]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    backend.add_special_tokens(words[:4])
    write(folder, {"tokenizer.json": backend.to_str(), "tokenizer_config.json": '{"eos_token": "[SEP]"}'})
    return load(folder)


@pytest.mark.promise("Families", "A tokenizer that changes the text is not ranked with those that do not")
def test_a_tokenizer_that_changes_the_text_is_not_ranked_with_those_that_do_not(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    small = lossy(tmp_path)
    text = "The CAT sat on the mat, the   dog ate it. " * 20
    assert evaluate(fake(tokenizer), tokenizer, text)["keeps_text"]
    assert not evaluate(fake(small), small, text)["keeps_text"]
    strange = evaluate(fake(tokenizer), tokenizer, "the ☃ cat 猫é")
    assert strange["unknown_bytes"] == 8
    assert strange["keeps_text"], "what is unknown is paid for"
    comparison = compare(
        [ComparedRun("small", fake(small), small), ComparedRun("chars", fake(tokenizer), tokenizer)], text
    )
    assert [row["rank"] for row in comparison["rows"]] == [1, 1]
    assert [row["likelihood"] for row in comparison["rows"]] == ["exact", "exact, of a changed text"]
    assert not comparison["pairs"]
    assert any("tokenizer of small changes the text" in line for line in comparison["verdict"])


# ── every family, by the commands' own functions ───────────────────────────────────────────────

SAYINGS = [f"the {who} {does} the {what}." for who in ("cat", "dog", "hen") for does in ("sees", "eats")
           for what in ("mat", "hat", "egg", "hay")]  # fmt: skip
PLAIN = ("ngram", "hmm", "rnn", "gru", "lstm", "decoder", "vae", "gan", "encoder")
PAIRED = ("seq2seq", "encoder-decoder")
SMALL = {
    "hmm": ["model.n_state=4", "model.passes=2"],
    "ngram": ["model.order=3"],
    "vae": ["model.d_model=16", "model.d_latent=4"],
    "gan": ["model.d_model=16", "model.d_critic=8", "model.warmup_steps=1", "model.critic_steps=1"],
    "decoder": ["model.n_layer=1", "model.d_model=16", "model.n_head=2"],
    "encoder": ["model.n_layer=1", "model.d_model=16", "model.n_head=2"],
    "encoder-decoder": ["model.n_layer=1", "model.d_model=16", "model.n_head=2"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, api.Run]:
    """A run of every family after a few steps, those that need pairs on pairs of the same texts."""
    folder = tmp_path_factory.mktemp("families")
    pairs = [{"source": text.upper(), "target": text} for text in SAYINGS]
    write(folder, {
        "plain.jsonl": "".join(json.dumps({"text": item}) + "\n" for item in SAYINGS),
        "pairs.jsonl": "".join(json.dumps(pair) + "\n" for pair in pairs),
    })  # fmt: skip
    made = {}
    for name, families in (("plain", PLAIN), ("pairs", PAIRED)):
        corpus = textus.build_corpus(folder / f"{name}.jsonl", out=folder / name, overrides=["min_chars=1"])
        for family in families:
            steps = None if family in ("ngram", "hmm") else 3
            settings = SMALL.get(family, ["model.n_layer=1", "model.d_model=16"])
            made[family] = textus.train(
                corpus, model=family, tokenizer="char", steps=steps, overrides=settings, out=folder / family
            )
    return made


@pytest.mark.promise(
    "Families",
    "Every family labels its likelihood (exact, bound, pseudo; given a source), and only like figures "
    "are ranked",
)
def test_every_family_shows_what_its_figure_is(runs: dict[str, api.Run], tmp_path: Path) -> None:
    comparison = api.compare([runs[family] for family in PLAIN], out=tmp_path / "out")
    values = {row["name"]: row["likelihood"] for row in comparison["rows"]}
    assert values == dict.fromkeys(PLAIN, "exact") | {"vae": "bound", "encoder": "pseudo"}
    ranks = {row["name"]: row["rank"] for row in comparison["rows"]}
    assert ranks["vae"] == ranks["encoder"] == 1
    assert sorted(ranks[name] for name in PLAIN if values[name] == "exact") == [1, 2, 3, 4, 5, 6, 7]
    kept = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert {row["name"]: row["kind"] for row in kept["rows"]} == values
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert all(f"<td>{kind}</td>" in page for kind in ("exact", "bound", "pseudo"))


def test_the_order_of_the_runs_changes_nothing(runs: dict[str, api.Run], tmp_path: Path) -> None:
    table = runs["seq2seq"].path.parent / "pairs.jsonl"
    chosen = [runs[name] for name in ("vae", "seq2seq", "decoder", "encoder-decoder")]
    one, other = (api.compare(order, on=table) for order in (chosen, chosen[::-1]))
    figures = [{row["name"]: row["bits_per_byte"] for row in item["rows"]} for item in (one, other)]
    assert figures[0] == figures[1]
    assert one["bytes"] == sum(len(item) for item in SAYINGS), "the targets are what is measured on"
    values = {row["name"]: (row["likelihood"], row["rank"]) for row in one["rows"]}
    assert values["decoder"] == ("exact", 1)
    assert {values[name][0] for name in PAIRED} == {"exact, given a source"}
    assert {values[name][1] for name in PAIRED} == {1, 2}
    (tmp_path / "plain.txt").write_text("the cat sees the mat.")
    with raises(DataError, "incompatible_data"):
        api.compare(chosen, on=tmp_path / "plain.txt")


def test_the_source_is_what_makes_the_figure(runs: dict[str, api.Run], tmp_path: Path) -> None:
    run = runs["encoder-decoder"]
    pairs = [{"source": "X" * n, "target": SAYINGS[0]} for n in (1, 2)]
    write(tmp_path, {f"{n}.jsonl": json.dumps(item) for n, item in enumerate(pairs)})
    bits = [run.evaluate(tmp_path / f"{n}.jsonl", samples=False)["bits_per_byte"]["value"] for n in (0, 1)]
    assert bits[0] != bits[1]


def test_a_source_beyond_the_context_is_cut_as_in_training_and_reported(
    runs: dict[str, api.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["encoder-decoder"]
    context = run.model.config.context_length
    long, cut = ("the cat " * context)[: 3 * context], ("the cat " * context)[: context - 1]
    write(tmp_path, {
        "long.jsonl": json.dumps({"source": long, "target": SAYINGS[0]}),
        "cut.jsonl": json.dumps({"source": cut, "target": SAYINGS[0]}),
    })  # fmt: skip
    whole, short = (run.evaluate(tmp_path / f"{name}.jsonl", samples=False) for name in ("long", "cut"))
    assert whole["bits_per_byte"] == short["bits_per_byte"]
    assert capsys.readouterr().err.count("1 sources are longer than the context and were truncated") == 1
    assert whole["given"] == "a source"


def test_samples_of_a_family_that_needs_a_source_are_given_one(runs: dict[str, api.Run]) -> None:
    """Their own texts from an empty source are of a model that nobody asks for."""
    prompts: list[Any] = []
    run = api.Run(runs["seq2seq"].path)
    read = run.model.new_cache

    def noting(*args: Any, **kwargs: Any) -> Any:
        prompts.extend(args[2:] or [kwargs.get("source")])
        return read(*args, **kwargs)

    run.model.new_cache = noting  # type: ignore[method-assign]
    assert run.evaluate()["samples"]["samples"] == 16
    assert prompts
    assert all(bool((prompt != run.tokenizer.end_id).any()) for prompt in prompts)


def test_without_sources_it_is_reported_that_they_are_empty(
    runs: dict[str, api.Run], tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["encoder-decoder"]
    scores = evaluate(run.model, run.tokenizer, SAYINGS)
    assert scores["likelihood"] == "exact, given an empty source"
    assert "has no sources: it is scored with an empty one" in capsys.readouterr().err
    assert evaluate(fake(tokenizer), tokenizer, TEXT)["given"] is None


# ── the report ─────────────────────────────────────────────────────────────────────────────────


def test_a_log_that_is_being_written_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "sample": "x"}\n{"step": 3, "lo')
    assert comparison.training_log(log) == [{"step": 1, "loss": 2.5}]
    assert comparison.training_log(tmp_path / "none") == []


def test_a_model_in_training_is_not_changed_by_being_measured(runs: dict[str, api.Run]) -> None:
    _ = runs["decoder"].tokenizer  # read now
    torch.manual_seed(0)
    model = build("decoder", {"vocab_size": 40, "n_layer": 1, "n_head": 2, "d_model": 8, "dropout": 0.5})
    model.train()
    before = torch.random.get_rng_state()
    evaluate(model, runs["decoder"].tokenizer, SAYINGS[:2])
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_demonstration_calls_no_run_better_than_the_figures_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """U21: never "Better: ngram. ngram and decoder do not differ significantly"."""
    from textus.cli.demo import print_summary

    (tmp_path / "report").mkdir()
    rows = [{"name": name, "bits_per_byte": {"value": 2.0}} for name in ("ngram", "decoder")]
    verdict = ["ngram and decoder do not differ significantly on this text: 0.0100 bits per byte."]
    (tmp_path / "report" / "comparison.json").write_text(json.dumps({"rows": rows, "verdict": verdict}))
    print_summary(tmp_path, 60)
    shown = capsys.readouterr().out
    assert verdict[0] in shown
    assert "Better" not in shown
