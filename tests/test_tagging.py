"""Tagging: entities as seqeval has them, rows of every form, words in pieces, windows, and all of it end to end."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled import written
from raising import raises
from seqeval.metrics import accuracy_score, classification_report
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import f1_score
from torch import nn

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.labeled import Record, stream_records
from textus.metrics.entities import bio_tags, entity_scores, entity_spans, scheme_counts, token_scores
from textus.models.nn.heads import CRF, IGNORED
from textus.tasks.base import InputTemplate
from textus.tasks.config import ValidateConfig
from textus.tasks.tagging import Tagging, TaggingSettings, common_mistakes, word_windows
from textus.tasks.token_data import TaggingExample, parse_tagging_example, token_spans
from textus.tasks.validation import validate_files
from textus.tokenizers import train as train_tokenizer

SMALL = ("train.batch_size=8", "model.n_layer=1", "model.d_model=32", "optim.rate=0.01")
NAMES, TOWNS = ("Anna", "Bob", "Chen", "Dana"), ("Bonn", "Oslo", "Rome", "York")
WORDS = ("sees", "a", "house", "in", "the", "rain", "and", "then", "went", "home", "with", "old")


def drawn_tags(prefixes: str, seed: int, n: int = 60) -> list[list[str]]:
    """Sentences of tags by chance, most of them in no scheme."""
    draw = random.Random(seed)
    tags = ["O", "O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("PER", "LOC", "ORG-X"))]
    return [draw.choices(tags, k=draw.randint(1, 12)) for _ in range(n)]


def sentences(n: int, seed: int = 0) -> list[dict[str, list[str]]]:
    """Rows in which a person has one or two words and a town always one."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        tokens, tags = draw.choices(WORDS, k=draw.randint(2, 5)), []
        tags = ["O"] * len(tokens)
        for kind, words in (("PER", draw.sample(NAMES, draw.randint(1, 2))), ("LOC", [draw.choice(TOWNS)])):
            at = draw.choice(
                [place for place in range(len(tokens) + 1) if "I-PER" not in tags[place : place + 1]]
            )
            tokens[at:at] = words
            tags[at:at] = bio_tags([(kind, 0, len(words))], len(words))
        rows.append({"tokens": tokens, "tags": tags})
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rows") / "train.jsonl", sentences(240))


@pytest.fixture(scope="module")
def tuned(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    out = tmp_path_factory.mktemp("runs") / "lstm"
    return api.finetune(rows, task="tagging", model="lstm", out=out, epochs=5, overrides=SMALL)


# ── entities, against seqeval ──────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks", "Entities and their metrics equal seqeval's, in any scheme; schemes are recognised and repaired"
)
@pytest.mark.parametrize("prefixes", ["BI", "I", "BIES"])
def test_entities_are_seqevals(prefixes: str) -> None:
    for tags in drawn_tags(prefixes, seed=len(prefixes), n=400):
        theirs = [(kind, start, end + 1) for kind, start, end in get_entities(tags)]
        assert entity_spans(tags) == theirs, tags
        again = bio_tags(entity_spans(tags), len(tags))
        assert entity_spans(again) == theirs
        assert [(kind, start, end + 1) for kind, start, end in get_entities(again)] == theirs
        assert all(
            after[0] != "I" or before[1:] == after[1:] for before, after in itertools.pairwise(["O", *again])
        )


def test_other_names_of_the_prefixes_mean_the_same() -> None:
    for tags in drawn_tags("BIES", seed=9):
        other = [tag.replace("E-", "L-").replace("S-", "U-").replace("I-", "M-") for tag in tags]
        assert entity_spans(other) == entity_spans(tags)


def test_entity_figures_are_seqevals() -> None:
    gold = [bio_tags(entity_spans(tags), len(tags)) for tags in drawn_tags("BI", seed=1, n=200)]
    draw = random.Random(2)
    guess = [list(tags) if draw.random() < 0.6 else draw.sample(tags, len(tags)) for tags in gold]
    result = entity_scores([entity_spans(item) for item in gold], [entity_spans(item) for item in guess])
    theirs = classification_report(gold, guess, output_dict=True, zero_division=0)
    for ours, name in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
        assert result[ours]["value"] == pytest.approx(theirs["micro avg"][name])
        assert result[ours]["low"] < result[ours]["value"] < result[ours]["high"]
        assert [class_[ours] for class_ in result["classes"]] == pytest.approx(
            [theirs[class_["label"]][name] for class_ in result["classes"]]
        )
    assert result["macro_f1"] == pytest.approx(theirs["macro avg"]["f1-score"])
    assert [class_["n"] for class_ in result["classes"]] == [
        theirs[class_["label"]]["support"] for class_ in result["classes"]
    ]
    tokens = token_scores(gold, guess)
    assert tokens["accuracy"]["value"] == pytest.approx(accuracy_score(gold, guess))
    flat = [list(itertools.chain(*part)) for part in (gold, guess)]
    assert tokens["macro_f1"] == pytest.approx(f1_score(*flat, average="macro"))


def test_an_answer_half_right_is_wrong() -> None:
    gold = [("PER", 0, 2)]
    for guess in ([("PER", 0, 1)], [("LOC", 0, 2)], []):
        assert entity_scores([gold], [guess])["f1"]["value"] == 0  # type: ignore[list-item]
    assert entity_scores([[]], [[]])["f1"] == {"value": 0, "low": 0, "high": 0, "n": 1}


def test_schemes_are_distinguished() -> None:
    assert scheme_counts([["B-X", "I-X", "O", "B-Y", "B-Y"]]) == (0, 2)  # BIO
    assert scheme_counts([["I-X", "I-X", "O", "I-Y", "B-Y"]]) == (2, 0)  # IOB1
    assert scheme_counts([["B-X", "O", "I-X", "I-Y"]]) == (2, 1)  # BIO with two that have no B
    assert scheme_counts([["S-X", "O", "B-X", "E-X"]]) == (0, 1)


# ── a chain in which an I follows its own ──────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "With a CRF no I follows another type, and its nats are those over lawful tags; without the guard "
    "one does",
)
@torch.no_grad()
def test_no_step_is_taken_that_must_not_be() -> None:
    task = Tagging(TaggingSettings(), ["O", "B-A", "I-A", "B-B", "I-B"])
    lawful = CRF(5, task.allowed_previous())
    free = CRF(5)
    for parameter, other in zip(lawful.parameters(), free.parameters(), strict=True):
        nn.init.normal_(parameter)
        other.copy_(parameter)
    scores, mask = 3 * torch.randn(40, 4, 5), torch.ones(40, 4, dtype=torch.bool)

    def is_lawful(numbers: tuple[int, ...]) -> bool:
        names = [task.labels[number] for number in numbers]
        return bio_tags(entity_spans(names), len(names)) == names

    assert all(is_lawful(tuple(path)) for path in lawful.best(scores, mask).tolist())
    assert not all(is_lawful(tuple(path)) for path in free.best(scores, mask).tolist())  # the planted fault
    every = [path for path in itertools.product(range(5), repeat=4) if is_lawful(path)]
    paths = torch.tensor(every)
    one = scores[:1].expand(len(every), -1, -1)
    totals = free.score(one, paths, mask[:1].expand(len(every), -1))
    nats = lawful.loss(one, paths, mask[:1].expand(len(every), -1))
    torch.testing.assert_close(nats, totals.logsumexp(0) - totals, rtol=1e-4, atol=1e-3)
    assert lawful.best(scores[:1], mask[:1])[0].tolist() == list(every[int(totals.argmax())])


# ── rows ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "A text is cut without loss; entities by character align with whole tokens, in both forms; what "
    "cannot be aligned is named with row, place and text",
)
@pytest.mark.parametrize(
    ("unit", "text", "tokens"),
    [
        ("token", "The U.S. won 6-3, Bob's dog...", "The U.S. won 6-3 , Bob 's dog ..."),
        ("token", "On 1996-08-22 in A.B. C(d) 1,000.5.", "On 1996-08-22 in A.B. C ( d ) 1,000.5 ."),
        ("word", "The U.S. won 6-3.", "The U . S . won 6 - 3 ."),
        ("word", " 我爱NLP and Köln\n", "我 爱 NLP and Köln"),
        ("character", "我爱 NLP。", "我 爱 N L P 。"),
        ("word", "  ", ""),
    ],
)  # fmt: skip
def test_texts_are_cut_and_nothing_is_lost(unit: str, text: str, tokens: str) -> None:
    places = token_spans(text, unit)
    assert [text[start:end] for start, end in places] == tokens.split()
    assert "".join(text.split()) == "".join(text[start:end] for start, end in places)


def test_both_forms_of_entities_are_one() -> None:
    text = "浙商银行的叶老桂在CSOL"
    nested = {"name": {"叶老桂": [[5, 7]]}, "company": {"浙商银行": [[0, 3]]}, "game": {"CSOL": [[9, 12]]}}
    listed = [
        {"start": 5, "end": 8, "label": "name"},
        {"start": 0, "end": 4, "label": "company", "text": "浙商银行"},
        [9, 13, "game"],
    ]
    past = {
        kind: {surface: [[a, b + 1] for a, b in at] for surface, at in item.items()}
        for kind, item in nested.items()
    }
    expected = "B-company I-company I-company I-company O B-name I-name I-name O B-game I-game I-game I-game"
    for name, value in (("label", nested), ("entities", listed), ("spans", past)):
        row = parse_tagging_example(Record({"text": text, name: value}, "row"), "character", labelled=True)
        assert " ".join(row.label) == expected, name


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"text": "Anna ran", "entities": [[0, 9, "PER"]]},
            "line 1: the PER at 0 to 9 is not in its text of 8 char",
        ),
        ({"text": "Anna ran", "entities": [[2, 2, "PER"]]}, "the PER at 2 to 2 is not in its text"),
        ({"text": "Anna ran", "entities": [[0, 3, "PER"]]}, "the PER 'Ann' at 0 to 3 cuts the token 'Anna'"),
        ({"text": "Anna  ran", "entities": [[4, 6, "PER"]]}, "the PER at 4 to 6 holds no token"),
        (
            {"text": "Anna ran", "label": {"PER": {"Ann": [[1, 3]]}}},
            "the PER 'Ann' is not the text at 1",
        ),
        (
            {"text": "Anna ran", "entities": [{"start": 0, "label": "PER"}]},
            "wanted a list of {start, end, label}",
        ),
        ({"text": "Anna ran", "entities": "PER"}, "'entities' is PER; wanted a list"),
        ({"text": "Anna ran", "entities": [["0", 4, "PER"]]}, "start '0', end 4"),
        ({"text": "Anna ran"}, "has no 'entities'; it has 'text'"),
        ({"text": 3, "entities": []}, "has a text that is int (3)"),
        ({"review": "Anna"}, "has 'review'; it needs tokens and tags, or text and entities"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "line 1 has 2 tokens and 1 tags; give one for each token"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens[1] is '', not a non-empty string"),
        ({"tokens": ["a"], "tags": [3]}, "tags[0] is 3, not a non-empty string; names of tags"),
        ({"tokens": "a b", "tags": ["O"]}, "'tokens' is str, not a list"),
        ({"tokens": ["a"]}, "line 1: has no 'tags'; give a list of strings"),
    ],
)
def test_rows_that_cannot_be_are_named(values: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    whole = sentences(20) if "tokens" in values else [{"text": "Bob ran", "entities": [[0, 3, "PER"]]}] * 2
    data = written(tmp_path / "r.jsonl", [values, *whole])
    with pytest.raises(DataError) as caught:
        api.finetune(data, task="tagging", model="lstm", out=tmp_path / "run", overrides=("task.unit=token",))
    assert complaint in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tags", "complaint"),
    [
        (["O", "O"], "tokens have the one tag 'O': there is nothing to learn"),
        (["NN", "NN"], "tokens have the one tag 'NN'"),
        (["B-PER", "NN"], "the tags have both prefixes and none, such as 'B-PER' and 'NN'"),
    ],
)
def test_tags_without_information_are_refused(tags: list[str], complaint: str, tmp_path: Path) -> None:
    data = written(tmp_path / "r.jsonl", [{"tokens": ["a", f"b{n}"], "tags": tags} for n in range(40)])
    with pytest.raises(DataError) as caught:
        api.finetune(data, task="tagging", model="lstm", out=tmp_path / "run")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("form", "outside"),
    [("{prefix}_{kind}", "O"), ("{prefix}:{kind}", "O"), ("{kind}-{prefix}", "O"), ("{kind}_{prefix}", "O")],
)
@pytest.mark.parametrize("lower", [False, True])
def test_entities_in_other_spellings_are_read_as_bio(
    form: str, outside: str, lower: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 10: B_PER, b_per, PER-B … are the entities that B-PER are, in training and in other files, with a line."""

    def other(tag: str) -> str:
        prefix, _, kind = tag.partition("-")
        written = form.format(prefix=prefix.lower() if lower else prefix, kind=kind) if kind else outside
        return written.lower() if written == outside and lower else written

    plain = sentences(30)
    data = written(
        tmp_path / "r.jsonl", [row | {"tags": [other(tag) for tag in row["tags"]]} for row in plain]
    )
    records = list(stream_records(data))
    task = Tagging.from_records(TaggingSettings(), records)
    assert task.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert [list(example.label) for example in task.make_examples(records, labelled=True)] == [
        row["tags"] for row in plain
    ]
    assert f"{other('B-LOC')} as B-LOC" in capsys.readouterr().err
    assert validate_files(data, ValidateConfig(task="tagging"))["classes"] == {"LOC": 30, "PER": 30}


@pytest.mark.parametrize("tags", [["NN", "VB_Z"], ["B_x", "A_x"], ["x_s", "I_y"]])
def test_plain_tags_with_an_underscore_stay_plain(tags: list[str]) -> None:
    records = [Record({"tokens": ["a", f"b{n}"], "tags": tags}, f"row {n}") for n in range(20)]
    assert Tagging.from_records(TaggingSettings(), records).labels == sorted(tags)


@pytest.mark.parametrize("tag", ["B-PER", "B_PER"])
def test_a_tag_without_a_prefix_is_named_and_can_be_left_out(
    tag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 9: the error names line, token and tag; --skip-invalid, where it is advised, helps."""
    data = tmp_path / "p.conll"
    rows = "".join(f"Anna\t{tag}\nruns{n}\tO\n\n" for n in range(40))
    data.write_text("Berlin\tpos\n\n" + rows)
    result = validate_files(data, ValidateConfig(task="tagging"))
    line = f"{data}: line 1: token 1, 'Berlin', has the tag 'pos' without a prefix"
    assert [error["message"].startswith(line) for error in result["errors"]] == [True]
    words = ["finetune", str(data), "--task", "tagging", "--model", "gru", "--epochs", "1"]
    words += ["--out", str(tmp_path / "run")]
    assert main(words) == 1
    assert line in capsys.readouterr().err
    assert main([*words, "--skip-invalid", "all", *(w for setting in SMALL for w in ("--set", setting))]) == 0
    assert api.open_run(tmp_path / "run").record["labels"] == ["O", "B-PER", "I-PER"]


def test_mixed_tags_are_named_with_their_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attack 9: where no row alone is wrong no row can be left out, and `validate` does not advise it."""
    rows = [{"tokens": ["a", f"b{n}"], "tags": ["B-PER", ("NN", "O")[n % 3 == 0]]} for n in range(30)]
    data = written(tmp_path / "r.jsonl", rows)
    assert main(["validate", str(data), "--task", "tagging"]) == 1
    shown = capsys.readouterr().out
    assert "'B-PER' and 'NN' (30 and 20 tags, the first in" in shown
    assert f"{data}: line 1 and {data}: line 2)" in shown
    assert "--skip-invalid" not in shown


def test_too_many_tags_are_no_tags(tmp_path: Path) -> None:
    data = written(
        tmp_path / "r.jsonl",
        [{"tokens": ["a"] * 9, "tags": [f"{n}.{k}" for k in range(9)]} for n in range(200)],
    )
    with raises(DataError, "not_classes", "0.0"):
        api.finetune(data, task="tagging", model="lstm", out=tmp_path / "run")


def test_what_is_mended_or_left_out_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    task = Tagging(TaggingSettings(unit="word"), ["O", "B-A", "I-A"])

    def told(*values: dict[str, Any]) -> tuple[list[Any], str]:
        result = task.make_examples(
            [Record(item, f"row {n}") for n, item in enumerate(values)], labelled=True
        )
        return [example.label for example in result], capsys.readouterr().err

    good = {"tokens": ["a", "b", "c"], "tags": ["B-A", "I-A", "O"]}
    assert told(good) == ([("B-A", "I-A", "O")], "")
    labels, err = told(good, {"tokens": ["a", "b"], "tags": ["I-A", "O"]})
    assert labels[1] == ("B-A", "O")
    assert "1 entities begin with I-, not B-" in err
    labels, err = told({"tokens": ["a", "b", "c", "d"], "tags": ["I-A", "I-A", "B-A", "O"]})
    assert labels == [("B-A", "I-A", "B-A", "O")]
    assert "the tags are IOB1" in err
    assert told({"tokens": ["a", "b", "c"], "tags": ["S-A", "B-A", "E-A"]}) == ([("B-A", "B-A", "I-A")], "")
    labels, err = told({"tokens": [], "tags": []}, good, {"text": "", "entities": []})
    assert len(labels) == 1
    assert "2 rows have no token and are left out; the first is row 0" in err
    labels, err = told({"text": "New York City", "entities": [[0, 8, "A"], [4, 13, "A"], [0, 13, "A"]]})
    assert labels == [("B-A", "I-A", "I-A")]
    assert "2 entities overlap longer ones" in err
    _, err = told({"tokens": ["a", "b"], "tags": ["B-New", "I-New"]})
    assert "2 tags were never seen in training (B-New, I-New)" in err


# ── words in pieces, texts in windows ──────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "A tag belongs to the first token of its word, and every word of a text of any length gets one tag",
)
@pytest.mark.parametrize("kind", ["word", "bpe", "wordpiece", "unigram", "char"])
def test_the_first_piece_of_a_word_has_its_tag(kind: str) -> None:
    row = sentences(30, seed=3)
    tokenizer = train_tokenizer(kind, [" " + word for item in row for word in item["tokens"][:4]], 600)
    task = Tagging(TaggingSettings(unit="token"), ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])
    example = task.make_examples([Record(row[0], "row")], labelled=True)[0]
    ids = tokenizer.encode_batch(list(example.texts))
    result = task.encode_windows(example, ids, InputTemplate((7,), 8, None))[0]
    assert result.ids == [7, *itertools.chain(*ids), 8]
    assert result.target_positions == [1 + sum(map(len, ids[:n])) for n in range(len(ids))]
    assert [task.labels[result.label[place]] for place in result.target_positions] == list(example.label)
    assert sum(label != IGNORED for label in result.label) == len(ids)


def test_a_word_without_a_piece_is_answered_too() -> None:
    task = Tagging(TaggingSettings(unit="token"), ["O", "B-A", "I-A"])
    example = TaggingExample((" a", " \u200b", " b"), ("O", "B-A", "O"), "row")
    assert task.encode_windows(example, [[5], [], [6]], InputTemplate((1,), 2, None))[0].target_positions == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("seed", range(20))
def test_windows_answer_every_word_once(seed: int) -> None:
    draw = random.Random(seed)
    lengths, space = draw.choices((1, 2, 3, 5), k=draw.randint(0, 80)), draw.randint(5, 30)
    result = word_windows(lengths, space)
    answered = [number for _, _, first, last in result for number in range(first, last)]
    assert answered == list(range(len(lengths)))
    for low, high, first, last in result:
        assert sum(lengths[low:high]) <= space
        assert low <= first <= last <= high
    for (_, high, _, last), (low, _, _, _) in itertools.pairwise(result):
        assert low <= last <= high
        if space >= 20:  # a word near an edge has something on both sides
            assert low < last < high


def test_long_texts_are_read_in_windows_and_reported(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*SMALL, "model.n_head=2", "optim.rate=0.005", "model.context_length=24"]
    run = api.finetune(
        rows, task="tagging", model="encoder", out=tmp_path / "run", epochs=8, overrides=settings
    )
    capsys.readouterr()
    long = [word for row in sentences(30, seed=5) for word in row["tokens"]]
    answer = run.predict([" ".join(long)])[0]
    assert "1 of 1 texts are longer than 24 tokens: they are read in" in capsys.readouterr().err
    right = [word in (*NAMES, *TOWNS) for word in long]
    places = [0, *itertools.accumulate(len(word) + 1 for word in long)]
    inside = [any(e["start"] <= at < e["end"] for e in answer["entities"]) for at in places[:-1]]
    assert sum(a == b for a, b in zip(right, inside, strict=True)) > 0.95 * len(long)


def test_a_word_longer_than_the_model_reads_is_cut() -> None:
    task = Tagging(TaggingSettings(unit="token"), ["O", "B-A", "I-A"])
    example = TaggingExample((" a", " b", " c"), ("O", "B-A", "O"), "row")
    windows = task.encode_windows(example, [[5], [6] * 40, [7]], InputTemplate((1,), 2, 10))
    assert sum(window.n_truncated for window in windows) == 32
    assert all(len(window.ids) <= 10 for window in windows)
    assert sum(len(window.target_positions or ()) for window in windows) == 3


# ── learnt and asked ───────────────────────────────────────────────────────────────────────────

NEURAL = ["lstm", "gru", "rnn", "seq2seq", "encoder", "decoder", "encoder-decoder", "vae", "gan"]


@pytest.mark.promise(
    "Tasks",
    "Every family with hidden states trains on tagging, resumes to the same bytes, and predicts with "
    "character offsets",
)
@pytest.mark.parametrize("family", NEURAL)
def test_every_family_with_states_learns_it(family: str, rows: Path, tmp_path: Path) -> None:
    settings = [*SMALL, *(["model.n_head=2"] if "coder" in family else [])]
    run = api.finetune(rows, task="tagging", model=family, out=tmp_path / "run", epochs=5, overrides=settings)
    test = written(tmp_path / "test.jsonl", sentences(60, seed=1))
    assert run.evaluate(test)["f1"]["value"] > 0.9


def test_answers_are_at_their_offsets(tuned: api.Run) -> None:
    text = "then  Anna Bob went home in\nOslo , a house"
    predictions = tuned.predict([text])[0]
    assert [(entity["text"], entity["label"]) for entity in predictions["entities"]] == [
        ("Anna Bob", "PER"),
        ("Oslo", "LOC"),
    ]
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in predictions["entities"])
    assert tuned.predict(["", " \n"]) == [{"entities": []}] * 2


def test_rows_of_tokens_get_tags_too(tuned: api.Run, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", [{"tokens": ["Anna", "sees", "York"]}, {"text": "the rain"}])
    first, second = tuned.predict(data)
    assert first["tags"] == ["B-PER", "O", "B-LOC"]
    assert [(entity["text"], entity["start"], entity["end"]) for entity in first["entities"]] == [
        ("Anna", 0, 4),
        ("York", 10, 14),
    ]
    assert second == {"line": 2, "entities": []}


def test_single_texts_and_batches_have_equal_answers(tuned: api.Run) -> None:
    texts = [" ".join(row["tokens"]) for row in sentences(30, seed=2)]
    assert [tuned.predict([text])[0] for text in texts] == tuned.predict(texts)


def test_broken_off_and_resumed_it_ends_in_the_same_bytes(rows: Path, tmp_path: Path) -> None:
    run = api.finetune(rows, task="tagging", model="gru", out=tmp_path / "run", epochs=2, overrides=SMALL)
    assert api.verify_determinism(run.path)["identical"]


def test_figures_of_a_file_are_seqevals(tuned: api.Run, tmp_path: Path) -> None:
    gold = sentences(60, seed=7)
    for row in gold[::3]:
        row["tags"] = ["B-PER" if tag == "B-LOC" else tag for tag in row["tags"]]
    data = written(tmp_path / "t.jsonl", gold)
    scores = tuned.evaluate(data)
    theirs = classification_report(
        [row["tags"] for row in gold], [item["tags"] for item in tuned.predict(data)], output_dict=True
    )
    assert scores["f1"]["value"] == pytest.approx(theirs["micro avg"]["f1-score"])
    assert scores["macro_f1"] == pytest.approx(theirs["macro avg"]["f1-score"])
    assert scores["f1"]["value"] < 0.9


def test_the_commonest_mistakes_are_reported_first() -> None:
    """Missed, of another type, with other ends, and none at all; what is right is not told."""
    words = ["Anna", "saw", "New", "York", "City", "and", "Bob", "in", "May"]
    (example,) = Tagging.from_records(
        TaggingSettings(), [Record({"tokens": words, "tags": ["O"] * 8 + ["B-X"]}, "row")]
    ).make_examples([Record({"tokens": words, "tags": ["B-X"] + ["O"] * 8}, "row 7")], labelled=True)
    gold = ["B-PER", "O", "B-LOC", "I-LOC", "I-LOC", "O", "B-PER", "O", "O"]
    predicted = ["O", "O", "B-LOC", "I-LOC", "O", "O", "B-LOC", "O", "B-PER"]
    result = common_mistakes([example, example], [gold, gold], [predicted, ["B-PER", *predicted[1:]]])
    assert [tuple(record.values()) for record in result] == [
        ("Bob", "PER", "LOC", 2, "row 7"),
        ("May", "none", "PER", 2, "row 7"),
        ("New York City", "LOC", "LOC: New York", 2, "row 7"),
        ("Anna", "PER", "none", 1, "row 7"),
    ]
    assert common_mistakes([example], [gold], [gold]) == []


def test_chinese_is_read_and_answered_by_character(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = []
    for _ in range(200):
        text = "".join(draw.choices("这部电影我们昨天一起去看了", k=6))
        at = draw.randrange(7)
        who = draw.choice(["张三丰", "李四"])
        rows.append(
            {"text": text[:at] + who + text[at:], "label": {"name": {who: [[at, at + len(who) - 1]]}}}
        )
    data = written(tmp_path / "r.jsonl", rows)
    run = api.finetune(data, task="tagging", model="lstm", out=tmp_path / "run", epochs=5, overrides=SMALL)
    assert run.record["task_settings"]["unit"] == "character"
    assert run.tokenizer.kind == "char"
    predictions = run.predict(["我们去看 张三丰了"])[0]["entities"]
    assert predictions == [{"text": "张三丰", "label": "name", "start": 5, "end": 8}]


@pytest.mark.parametrize("crf", ["true", "false"])
def test_plain_tags_are_scored_by_token(crf: str, tmp_path: Path) -> None:
    rows = [
        {"tokens": row["tokens"], "tags": ["NAME" if word[0].isupper() else "WORD" for word in row["tokens"]]}
        for row in sentences(150, seed=8)
    ]
    data = written(tmp_path / "r.jsonl", rows)
    settings = [*SMALL, f"task.crf={crf}"]
    run = api.finetune(data, task="tagging", model="gru", out=tmp_path / "run", epochs=4, overrides=settings)
    scores = run.evaluate(data)
    assert scores["accuracy"]["value"] > 0.95
    assert [class_["label"] for class_ in scores["classes"]] == ["NAME", "WORD"]
    assert run.predict(["Anna went"]) == [{"tokens": ["Anna", "went"], "tags": ["NAME", "WORD"]}]


def test_columns_of_conll_are_read(tmp_path: Path) -> None:
    text = "".join(
        "".join(f"{a} NN {b.replace('B-', 'I-')}\n" for a, b in zip(row["tokens"], row["tags"], strict=True))
        + "\n"
        for row in sentences(60, seed=4)
    )
    (tmp_path / "train.conll").write_text("-DOCSTART- -X- O\n\n" + text)
    run = api.finetune(
        tmp_path / "train.conll", task="tagging", model="gru", out=tmp_path / "run", epochs=1, overrides=SMALL
    )
    assert run.record["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_the_command_line_shows_entities(
    tuned: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tuned.path), "Anna went home"]) == 0
    assert "Anna (PER 0–4)" in capsys.readouterr().out
    data = written(tmp_path / "t.jsonl", sentences(20, seed=6))
    assert main(["evaluate", str(tuned.path), "--on", str(data)]) == 0
    out = capsys.readouterr().out
    assert "f1" in out
    assert "token accuracy" in out


def test_wrong_words_are_named(rows: Path, tuned: api.Run, tmp_path: Path) -> None:
    with raises(UsageError, "invalid_value", "'auto'", "'token'"):
        api.finetune(rows, task="tagging", model="gru", out=tmp_path / "r", overrides=["task.unit=charcter"])
    with raises(UsageError, "wrong_number_of_texts", "text 1", "2"):
        tuned.predict([("a", "b")])


def test_rows_without_entities_mean_nothing(
    tuned: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "t.jsonl", [{"tokens": ["the", "rain"], "tags": ["O", "O"]}])
    assert tuned.evaluate(data)["f1"]["value"] == 0
    assert "these rows have no entity" in capsys.readouterr().err
