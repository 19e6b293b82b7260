"""Bits per byte by hand, by a slow reference, by transformers; and what must not change it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from raising import raises
from torch import Tensor

import textus
from textus.api import open_run
from textus.cli.main import main
from textus.core.errors import DataError, RunError, UsageError
from textus.data.corpus import CorpusSettings, build
from textus.data.eval_text import EvalText, TextChunk, corpus_split_text, read_documents, read_text
from textus.data.loader import TokenLoader
from textus.data.token_dataset import in_memory_dataset
from textus.evaluation import perplexity
from textus.evaluation.perplexity import (
    evaluate,
    model_metrics,
    sample_quality,
    score_chunks,
    score_ids,
    score_text,
)
from textus.generation.params import SamplingParams
from textus.models.contract import Capabilities, LanguageModel
from textus.models.decoder import Decoder
from textus.models.ngram import NGram, NGramConfig
from textus.models.nn.attention import DecoderConfig
from textus.models.testing import Fake, FakeConfig
from textus.models.vae import VAE, VAEConfig
from textus.tokenizers import Tokenizer, train

TEXT = "the cat sat on the mat, the dog ate the cat's hat; 春江潮水连海平。\n" * 12
LN2 = math.log(2)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train("char", [TEXT], 200)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train("bpe", [TEXT], 300)


def fake(tokenizer: Tokenizer, margin: float = 0.0, context: int | None = 8) -> Fake:
    return Fake(FakeConfig(tokenizer.vocab_size, context, margin))


def decoder(tokenizer: Tokenizer, context: int = 16) -> Decoder:
    """A small decoder with weights that make it sure of things, so that every mistake shows."""
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(tokenizer.vocab_size, context, n_layer=2, n_head=2, d_model=16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def ngram(tokenizer: Tokenizer) -> NGram:
    model = NGram(NGramConfig(tokenizer.vocab_size, tokenizer.end_id, order=4))
    loader = TokenLoader(
        in_memory_dataset([tokenizer.end_id, *tokenizer.encode(TEXT)]),
        batch_size=1,
        context_length=4000,
        shuffle=False,
    )
    model.count(loader.batch(0))
    model.update()
    return model


# ── by hand ──


@pytest.mark.promise(
    "Results",
    "Bits per byte are those of the definition: known probabilities, unknown characters, windows, "
    "bytes as given",
)
def test_a_uniform_model_costs_log2_v_bits_a_token(tokenizer: Tokenizer, bpe: Tokenizer) -> None:
    for text in (tokenizer, bpe):
        n_tokens, n_bytes = len(text.encode(TEXT)), len(TEXT.encode())
        scores = evaluate(fake(text), text, TEXT)
        expected = math.log2(text.vocab_size) * n_tokens / n_bytes
        assert scores["bits_per_byte"]["value"] == pytest.approx(expected, rel=1e-6)
        assert scores["perplexity"] == pytest.approx(text.vocab_size, rel=1e-5)
        assert scores["nats_per_character"] == pytest.approx(
            math.log(text.vocab_size) * n_tokens / len(TEXT), rel=1e-6
        )
        assert (scores["tokens"], scores["bytes"], scores["characters"]) == (n_tokens, n_bytes, len(TEXT))
        assert scores["kind"] == "exact"


def test_known_probabilities_with_every_target_once_from_end_of_text(tokenizer: Tokenizer) -> None:
    margin, size = 2.5, tokenizer.vocab_size
    ids = [tokenizer.end_id, *tokenizer.encode(TEXT)]
    right = math.log(1 + (size - 1) * math.exp(-margin))
    by_hand = [right if b == (a + 1) % size else right + margin for a, b in pairwise(ids)]
    score = score_text(fake(tokenizer, margin), tokenizer, TEXT)
    assert score.nats == pytest.approx(by_hand, rel=1e-5)
    assert len(set(np.round(by_hand, 3))) == 2  # both cases occur


def test_unknown_characters_cost_their_token_and_8_bits_a_byte(tokenizer: Tokenizer) -> None:
    text = "the 猫é cat"
    assert "猫" not in TEXT
    scores = evaluate(fake(tokenizer), tokenizer, text)
    n_unknown, n_bytes = 3 + 2, len(text.encode())
    bits = math.log2(tokenizer.vocab_size) * len(text) + 8 * n_unknown
    assert scores["unknown_bytes"] == n_unknown
    assert scores["bits_per_byte"]["value"] == pytest.approx(bits / n_bytes, rel=1e-6)
    assert scores["nats_per_character"] == pytest.approx(bits * LN2 / len(text), rel=1e-6)
    assert scores["perplexity"] == pytest.approx(tokenizer.vocab_size, rel=1e-5)


def test_documents_each_begin_after_end_of_text(tokenizer: Tokenizer) -> None:
    model = decoder(tokenizer)
    texts = ["the cat", "sat on the mat", "a dog ate the cat's hat; 春江潮水"]
    alone = [score_text(model, tokenizer, text).nats.sum() for text in texts]
    scores = evaluate(model, tokenizer, texts)
    bits = sum(alone) / LN2 / len("".join(texts).encode())
    assert scores["bits_per_byte"]["value"] == pytest.approx(bits, rel=1e-6)
    assert scores["documents"] == 3
    assert abs(bits - evaluate(model, tokenizer, "".join(texts))["bits_per_byte"]["value"]) > 1e-3


# ── by a slow reference ──


def one_by_one(model: LanguageModel, ids: list[int], stride: int) -> list[float]:
    """Nats of each target, each from a forward of its own over just the ids its window lets it see."""
    context = model.config.context_length
    nats = []
    for target in range(1, len(ids)):
        window = 0 if target <= context else -((context - target) // stride)
        seen = torch.tensor([ids[window * stride : target]])
        with torch.no_grad():
            nats.append(-float(torch.log_softmax(model(seen)[0, -1].double(), -1)[ids[target]]))
    return nats


@pytest.mark.parametrize("stride", [None, 16, 5, 1])
def test_windows_are_those_of_the_definition(tokenizer: Tokenizer, stride: int | None) -> None:
    model, text = decoder(tokenizer), TEXT[:130]
    ids = [tokenizer.end_id, *tokenizer.encode(text)]
    score = score_text(model, tokenizer, text, stride=stride)
    assert score.nats == pytest.approx(one_by_one(model, ids, stride or 16), abs=2e-5)


def test_stride_is_another_figure_and_named(tokenizer: Tokenizer) -> None:
    model = decoder(tokenizer)
    plain, strided = evaluate(model, tokenizer, TEXT), evaluate(model, tokenizer, TEXT, stride=4)
    assert plain["stride"] is None
    assert strided["stride"] == 4
    assert plain["tokens"] == strided["tokens"] == len(tokenizer.encode(TEXT))
    assert abs(plain["bits_per_byte"]["value"] - strided["bits_per_byte"]["value"]) > 1e-3


@pytest.mark.promise("Results", "Perplexity is that of `transformers`; batch size changes no figure")
def test_perplexity_equals_that_of_transformers(tokenizer: Tokenizer) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    peer = GPT2LMHeadModel(
        GPT2Config(vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    ).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    class Peer(LanguageModel):
        config = FakeConfig(tokenizer.vocab_size, 16)

        def forward(self, ids: Tensor, cache: object = None, lengths: Tensor | None = None) -> Tensor:
            return peer(ids).logits

    ids = torch.tensor([[tokenizer.end_id, *tokenizer.encode(TEXT)]])
    n_targets, total = ids.shape[1] - 1, 0.0
    for start in range(0, n_targets, 16):
        window = ids[:, start : start + 17]
        logits = peer(window[:, :-1]).logits
        loss = peer.loss_function(
            logits=logits, labels=None, shift_labels=window[:, 1:], vocab_size=tokenizer.vocab_size
        )
        total += loss.item() * (window.shape[1] - 1)
    scores = evaluate(Peer(), tokenizer, TEXT)
    assert scores["perplexity"] == pytest.approx(math.exp(total / n_targets), rel=1e-5)


# ── what must change nothing ──


@pytest.mark.parametrize("family", [decoder, ngram])
def test_batch_size_changes_nothing(tokenizer: Tokenizer, family: object) -> None:
    model = family(tokenizer)  # type: ignore[operator]
    texts = [TEXT, "the cat", "x", "", TEXT[:40]]
    figures = [evaluate(model, tokenizer, texts, batch_size=n) for n in (1, 4, 32, None)]
    values = [figure["bits_per_byte"]["value"] for figure in figures]
    assert max(values) - min(values) < 1e-6
    assert len({figure["tokens"] for figure in figures}) == 1


def test_a_model_that_looks_at_its_batch_is_seen(tokenizer: Tokenizer) -> None:
    class Leaking(Decoder):
        def forward(self, ids: Tensor, cache: object = None, lengths: Tensor | None = None) -> Tensor:
            return super().forward(ids) * (1 + 0.1 * len(ids))

        def score(self, batch: object) -> tuple[Tensor, str]:
            return LanguageModel.score(self, batch)  # type: ignore[arg-type]

    model = Leaking(decoder(tokenizer).config)
    model.load_state_dict(decoder(tokenizer).state_dict())
    one, four = (evaluate(model, tokenizer, TEXT, batch_size=n)["bits_per_byte"]["value"] for n in (1, 4))
    assert abs(one - four) > 1e-3


def test_dropout_precision_and_mode_do_not_matter_and_are_put_back(tokenizer: Tokenizer) -> None:
    model = decoder(tokenizer)
    expected = evaluate(model, tokenizer, TEXT)["bits_per_byte"]["value"]
    model.train()
    model.dropout.p = 0.5
    model.precision = torch.bfloat16
    assert evaluate(model, tokenizer, TEXT)["bits_per_byte"]["value"] == expected
    assert model.training
    assert model.precision == torch.bfloat16
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_ngram_reads_on_across_windows_and_parts(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ngram(tokenizer)
    whole = evaluate(model, tokenizer, TEXT)
    cut = [TextChunk(TEXT[at : at + 90], continues=at > 0) for at in range(0, len(TEXT), 90)]
    in_parts = evaluate(model, tokenizer, EvalText("parts", len(TEXT.encode()), lambda: cut))
    monkeypatch.setattr(perplexity, "UNLIMITED_WINDOW", 7)
    in_windows = evaluate(model, tokenizer, TEXT)
    for row in (in_parts, in_windows):
        assert row["bits_per_byte"]["value"] == pytest.approx(whole["bits_per_byte"]["value"], abs=1e-7)
        assert row["tokens"] == whole["tokens"]
    assert in_parts["documents"] == 1
    assert (in_windows["window"], whole["window"]) == (7 + 3, 8192 + 3)
    # the planted fault: contexts are lost at every window's edge
    monkeypatch.setattr(model, "capabilities", Capabilities())
    assert evaluate(model, tokenizer, TEXT)["bits_per_byte"]["value"] > whole["bits_per_byte"]["value"] + 1e-3


def test_parts_are_a_window_s_end_and_keep_the_id_before(tokenizer: Tokenizer) -> None:
    model = decoder(tokenizer)
    first, second = TEXT[:20], TEXT[20:50]
    scored = [
        s.nats
        for _, _, s in score_chunks(model, tokenizer, [TextChunk(first), TextChunk(second, continues=True)])
    ]
    ids = tokenizer.encode(TEXT[:50])
    assert np.concatenate(scored[:1]) == pytest.approx(
        one_by_one(model, [tokenizer.end_id, *ids[:20]], 16), abs=2e-5
    )
    assert scored[1] == pytest.approx(one_by_one(model, ids[19:], 16), abs=2e-5)


def test_memory_does_not_grow_with_the_text(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "GROUP_CHARACTERS", 2000)
    waiting, most = 0, 0

    def endless() -> Iterator[TextChunk]:
        nonlocal waiting, most
        for _ in range(60):
            waiting += 1
            most = max(most, waiting)
            yield TextChunk(TEXT)

    for _ in score_chunks(fake(tokenizer), tokenizer, endless()):
        waiting -= 1
    assert waiting == 0
    assert most * len(TEXT) < 4000


# ── what is read ──


def test_bytes_are_those_of_the_file_as_given(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "utf8.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "gb.txt").write_bytes((TEXT * 3).encode("gb18030"))
    with gzip.open(tmp_path / "utf8.txt.gz", "wb") as file:
        file.write(TEXT.encode())
    plain, packed, chinese = (
        evaluate(fake(tokenizer), tokenizer, read_text(tmp_path / name))
        for name in ("utf8.txt", "utf8.txt.gz", "gb.txt")
    )
    assert plain["bytes"] == packed["bytes"] == len(TEXT.encode())
    assert plain["bits_per_byte"] == packed["bits_per_byte"]
    assert chinese["bytes"] == len(TEXT.encode("gb18030")) * 3
    bits = math.log2(tokenizer.vocab_size) * len(TEXT) * 3
    assert chinese["bits_per_byte"]["value"] == pytest.approx(bits / chinese["bytes"], rel=1e-6)


def test_nothing_of_a_file_is_normalised(tmp_path: Path) -> None:
    text = "a\r\nb\rc\ufb01 e\u0301\n"
    (tmp_path / "odd.txt").write_bytes(text.encode())
    assert "".join(part.text for part in read_text(tmp_path / "odd.txt")) == text


def test_a_long_file_comes_in_parts_of_one_document(tmp_path: Path) -> None:
    text = "line of a long book\n" * 150_000
    (tmp_path / "long.txt").write_text(text)
    texts = read_text(tmp_path / "long.txt")
    parts = list(texts)
    assert len(parts) >= 3
    assert max(len(part.text) for part in parts) <= 1_000_000
    assert "".join(part.text for part in parts) == text
    assert [part.continues for part in parts] == [False] + [True] * (len(parts) - 1)
    assert list(texts) == parts  # it can be read again, for the next model


def test_a_string_and_a_file_score_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = TEXT * (1_200_000 // len(TEXT))
    (tmp_path / "long.txt").write_text(text)
    model = ngram(tokenizer)
    from_file, from_string = (
        evaluate(model, tokenizer, read_text(tmp_path / "long.txt")),
        evaluate(model, tokenizer, text),
    )
    assert from_file["bits_per_byte"] == from_string["bits_per_byte"]
    assert len(score_text(model, tokenizer, text).nats) == from_file["tokens"] == len(text)


def test_broken_bytes_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.txt").write_bytes("春江潮水连海平，海上明月共潮生。".encode() + b"\xff\xfe ok")
    texts = read_text(tmp_path / "broken.txt")
    assert "".join(part.text for part in texts).endswith("\ufffd\ufffd ok")
    assert "2 broken bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"), [("none.txt", None), ("empty.txt", b""), ("noise.bin", bytes(9000))]
)
def test_what_is_no_text_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        read_text(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_split_of_a_corpus(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"the cat {number} sat; " * (number + 1))
    corpus = build([tmp_path], tmp_path / "corpus", settings=CorpusSettings(split="hash:0.3"))
    texts = corpus_split_text(corpus)
    scores = evaluate(fake(tokenizer), tokenizer, texts)
    assert scores["documents"] == corpus.n_documents("validation") > 1
    assert scores["bytes"] == corpus.n_bytes("validation") == sum(len(part.text.encode()) for part in texts)


# ── bad words and bad models ──


def test_bad_strides_and_empty_texts_are_refused(tokenizer: Tokenizer) -> None:
    for stride in (0, 17, -1):
        with raises(UsageError, "out_of_range", f"stride {stride}"):
            evaluate(decoder(tokenizer), tokenizer, TEXT, stride=stride)
    for texts in ("", [], ["", ""]):
        with raises(DataError, "empty_data"):
            evaluate(decoder(tokenizer), tokenizer, texts)


@pytest.mark.promise("Results", "A model of not-a-numbers is an error, not a figure")
def test_a_model_of_nan_is_an_error_not_a_figure(tokenizer: Tokenizer) -> None:
    model = decoder(tokenizer)
    with torch.no_grad():
        model.embedding.weight[tokenizer.encode("t")[0]] = float("nan")
    with raises(RunError, "invalid_weights"):
        evaluate(model, tokenizer, TEXT)


def test_sequences_too_short_to_have_a_target_score_nothing(tokenizer: Tokenizer) -> None:
    nats, kind = score_ids(decoder(tokenizer), [[1], [1, 2], [1, 2, 3]], [0, 0, 2])
    assert [len(line) for line in nats] == [0, 1, 0]
    assert kind == "exact"


# ── samples ──


def test_one_text_written_three_times_is_varied_within_and_not_altogether(tokenizer: Tokenizer) -> None:
    model = fake(tokenizer, margin=50.0, context=None)  # greedy counting upwards, around the vocabulary
    period = tokenizer.vocab_size - 1 - tokenizer.end_id  # ids after end-of-text until ids wrap around
    n = min(10, period) if period > 0 else 10
    result = sample_quality(model, tokenizer, n=3, sampling=SamplingParams(temperature=0.0, max_tokens=n))
    assert result["tokens"] == 3 * n
    assert result["distinct_1"]["value"] == pytest.approx(1 / 3)  # greedy: three times the same
    assert result["repetition"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 3}


def test_samples_have_seeds_of_their_own_and_the_same_ones_again(tokenizer: Tokenizer) -> None:
    model = ngram(tokenizer)
    first = sample_quality(model, tokenizer, n=4, seed=1)
    assert first == sample_quality(model, tokenizer, n=4, seed=1)
    assert first != sample_quality(model, tokenizer, n=4, seed=2)
    assert 0 < first["distinct_4"]["value"] <= 1
    assert first["distinct_4"]["value"] <= 1 - first["repetition"]["value"]  # also between samples


def test_a_family_that_cannot_generate_has_no_samples(tokenizer: Tokenizer) -> None:
    model = fake(tokenizer)
    model.capabilities = Capabilities(can_generate=False)
    with raises(UsageError, "unsupported_model"):
        sample_quality(model, tokenizer)


# ── a family's own figures ──


def vae(tokenizer: Tokenizer, spread: float) -> VAE:
    """One whose posterior means lie so far apart; at 0 they say nothing."""
    torch.manual_seed(1)
    model = VAE(VAEConfig(tokenizer.vocab_size, tokenizer.end_id, context_length=32, d_model=16, d_latent=4))
    with torch.no_grad():
        model.posterior.weight.mul_(0).add_(torch.randn(model.posterior.weight.shape) * spread)
        model.posterior.bias.zero_()
    return model.eval()


TEXTS = ["the cat", "sat on the mat", "a dog ate the cat's hat;", "春江潮水连海平", "", "the mat, the dog"]


@pytest.mark.promise(
    "Families", "A family's own metrics have an interval over texts; a collapsed latent is reported"
)
def test_a_family_s_own_figures_are_reported_with_an_interval_over_texts(tokenizer: Tokenizer) -> None:
    model = vae(tokenizer, spread=6.0)
    result = model_metrics(model, tokenizer, TEXTS)
    item = []
    for text in TEXTS:
        if text:  # one by one, and without any padding
            ids = torch.tensor([[*tokenizer.encode(text), tokenizer.end_id]])
            with torch.no_grad():
                mean, log_variance = model.encode(ids)
            item.append(float(0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum()))
    kl = result["kl_per_text"]
    assert (kl["value"], kl["n"]) == (pytest.approx(np.mean(item), rel=1e-5), 5)
    assert min(item) < kl["low"] < kl["value"] < kl["high"] < max(item)
    assert result["active_units"] == 4
    assert result["trouble"] is None
    assert result["tokens"] == len(tokenizer.encode("".join(TEXTS)))
    assert model_metrics(decoder(tokenizer), tokenizer, TEXTS) == {}


def test_a_collapsed_latent_is_trouble(tokenizer: Tokenizer) -> None:
    result = model_metrics(vae(tokenizer, spread=0.0), tokenizer, TEXTS)
    assert "the latent has collapsed (KL 0.000 nats a text, 0 of 4 units active)" in result["trouble"]
    assert result["kl_per_text"]["value"] == result["kl_per_text"]["high"] == 0


def test_parts_of_a_document_are_one_text_for_its_family(tokenizer: Tokenizer) -> None:
    model, whole = vae(tokenizer, spread=6.0), ["the cat sat on", "a dog ate"]
    parts = [TextChunk("the cat"), TextChunk(" sat on", continues=True), TextChunk("a dog ate")]
    in_parts = EvalText("parts", 23, lambda: parts)
    assert model_metrics(model, tokenizer, in_parts) == model_metrics(model, tokenizer, whole)


def test_of_a_long_text_the_beginning_is_read_and_how_much_is_reported(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perplexity, "MAX_METRIC_TOKENS", 20)
    result = model_metrics(vae(tokenizer, spread=6.0), tokenizer, ["the cat sat on"] * 50)
    assert result["tokens"] == 28
    assert result["kl_per_text"]["n"] == 2


# ── pages, tables and archives ─────────────────────────────────────────────────────────────────

SENTENCES = ["The old man went down to the sea.", "She said it was a fine day, and it was."]


def files_of_sentences(folder: Path) -> dict[str, Path]:
    """The same two documents in several forms."""
    from zipfile import ZipFile

    paragraphs = "".join(f"<p>{text}</p>" for text in SENTENCES)
    rows = [{"text": text, "id": number} for number, text in enumerate(SENTENCES)]
    contents = {
        "page.html": f"<html><head><title>x</title><style>p {{}}</style></head><body>{paragraphs}</body></html>",
        "table.csv": 'id,text\n0,"{}"\n1,"{}"\n'.format(*SENTENCES),
        "rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "rows.json": json.dumps(rows),
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    with ZipFile(folder / "texts.zip", "w") as archive:
        for number, text in enumerate(SENTENCES):
            archive.writestr(f"{number}.txt", text)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.promise("Robustness", "Pages and tables are measured by their text, not their markup")
@pytest.mark.parametrize("name", ["table.csv", "rows.jsonl", "rows.json", "texts.zip", "page.html"])
def test_the_text_of_pages_and_tables_is_measured_not_their_markup(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = files_of_sentences(tmp_path)[name]
    texts = ["\n".join(SENTENCES)] if name == "page.html" else SENTENCES
    run = open_run(trained)
    assert main(["evaluate", str(trained), "--on", str(file), "--json"]) == 0
    shown = capsys.readouterr()
    report, expected = json.loads(shown.out), run.evaluate(texts)
    assert report["bytes"] == sum(len(text.encode()) for text in texts)
    assert report["bits_per_byte"]["value"] == pytest.approx(expected["bits_per_byte"]["value"], abs=1e-9)
    assert f"{file}: the text of {len(texts)} documents is measured, {report['bytes']} bytes" in shown.err
    compared = textus.compare([trained, trained], on=file)
    assert compared["bytes"] == report["bytes"]


def test_half_characters_of_a_table_are_reported_where_it_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "a\\ud800b"}\n{"text": "c"}\n')
    texts = read_documents(file)
    assert [part.text for part in texts] == ["a\ufffdb", "c"]
    assert capsys.readouterr().err.count("1 broken bytes were read as U+FFFD") == 1


def test_columns_of_a_table_that_is_measured(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("review,stars\n" + "".join(f'"{text}",5\n' for text in SENTENCES) + '"never closed\n')
    assert main(["evaluate", str(trained), "--on", str(table)]) == 1
    assert "--columns" in capsys.readouterr().err
    assert main(["evaluate", str(trained), "--on", str(table), "--columns", "text=review", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["bytes"] == sum(map(len, SENTENCES))
    assert "1 rows or files hold no text and are left out" in shown.err
    (tmp_path / "a.txt").write_text("plain")
    assert main(["evaluate", str(trained), "--on", str(tmp_path / "a.txt"), "--columns", "text=review"]) == 2
    assert "is read as one text" in capsys.readouterr().err
