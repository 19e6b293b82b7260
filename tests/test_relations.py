"""Relations: rows of every form, marks around pairs, figures beside scikit-learn, and all of it end to end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled import facts, facts_in, written
from raising import raises
from sklearn.metrics import precision_recall_fscore_support

from textus import api
from textus.augment.augmenter import AugmentConfig, augment_records
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.labeled import Record
from textus.models.nn.heads import RelationHead
from textus.tasks.base import EncodedExample, InputTemplate
from textus.tasks.encoding import collate, input_template
from textus.tasks.relation_data import fit_window, parse_relation_example
from textus.tasks.relations import RelationPrediction, Relations, RelationsSettings
from textus.tokenizers import Tokenizer
from textus.tokenizers import train as train_tokenizer

SMALL = ("train.batch_size=16", "model.n_layer=1", "model.d_model=32", "optim.rate=0.01")


def row_of(text: str, entities: list[Any], relations: list[Any]) -> Record:
    """One row; entities are (start, end, label), relations (head, name, tail)."""
    held = [dict(zip(("head", "relation", "tail"), relation, strict=True)) for relation in relations]
    return Record(
        {"text": text, "entities": [list(entity) for entity in entities], "relations": held}, "row 1"
    )


def task_of(records: list[Record], **settings: Any) -> Relations:
    return Relations.from_records(RelationsSettings(**settings), records)


def rows_in(
    task: Relations, records: list[Record], longest: int | None = None, kind: str = "char"
) -> list[EncodedExample]:
    """The rows of records, and the tokenizer learnt from them."""
    examples = task.make_examples(records, labelled=True)
    return task.encode(examples, tokenizer_of(task, records, kind), InputTemplate((0,), 0, longest))


def tokenizer_of(task: Relations, records: list[Record], kind: str) -> Tokenizer:
    return train_tokenizer(kind, task.tokenizer_texts(task.make_examples(records, labelled=True)), 600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return facts_in(tmp_path_factory.mktemp("relations"))


@pytest.fixture(scope="module")
def tuned(folder: Path) -> api.Run:
    return api.finetune(
        folder / "train.jsonl", task="relations", model="lstm", out=folder / "run", epochs=3, overrides=SMALL
    )


# ── figures ────────────────────────────────────────────────────────────────────────────────────


def drawn_answers(seed: int, n: int = 80) -> tuple[Relations, list[Any], list[Any]]:
    """A task of three relations, rows with relations by chance, and answers half of which are right."""
    draw = random.Random(seed)
    records = []
    for _ in range(n):
        k = draw.randint(2, 4)
        pairs = [(head, tail) for head in range(k) for tail in range(k) if head != tail]
        held = [(head, draw.choice("abc"), tail) for head, tail in pairs if draw.random() < 0.3]
        records.append(row_of("x" * k, [(at, at + 1, "t") for at in range(k)], held))
    task = task_of(records)
    examples = task.make_examples(records, labelled=True)
    answers = [
        [
            RelationPrediction(
                *pair,
                task.index[task.relation(example, *pair)] if draw.random() < 0.5 else draw.randrange(4),
                0.5,
            )
            for pair in task.scored_pairs(example)
        ]
        for example in examples
    ]
    return task, examples, answers


@pytest.mark.promise(
    "Tasks",
    "Relation metrics equal scikit-learn's; no relation is not a class, and direction counts; the "
    "majority by entity types is the baseline",
)
def test_figures_are_scikit_learns() -> None:
    task, examples, answers = drawn_answers(seed=3)
    result = task.metrics(examples, answers)
    gold = [
        task.relation(entry, one.head, one.tail)
        for entry, out in zip(examples, answers, strict=True)
        for one in out
    ]
    guess = [task.labels[one.label] for out in answers for one in out]
    relations = task.labels[1:]
    theirs = precision_recall_fscore_support(gold, guess, labels=relations, average="micro")
    for name, value in zip(("precision", "recall", "f1"), theirs, strict=False):
        assert result[name]["value"] == pytest.approx(value)
        assert result[name]["low"] < result[name]["value"] < result[name]["high"]
    item = precision_recall_fscore_support(gold, guess, labels=relations, average=None)
    for ours, name in enumerate(("precision", "recall", "f1", "n")):
        assert [row[name] for row in result["classes"]] == pytest.approx(item[ours].tolist())
    assert result["macro_f1"] == pytest.approx(item[2].mean())


def test_direction_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [row_of("a b", [(0, 1, "t"), (2, 3, "t")], [(0, "r", 1)])]
    task = task_of(records)
    examples = task.make_examples(records, labelled=True)
    assert (
        task.metrics(examples, [[RelationPrediction(0, 1, 1, 0.9), RelationPrediction(1, 0, 0, 0.9)]])["f1"][
            "value"
        ]
        == 1
    )
    turned = [[RelationPrediction(0, 1, 0, 0.9), RelationPrediction(1, 0, 1, 0.9)]]
    assert task.metrics(examples, turned)["f1"]["value"] == 0

    def undirected(self: Relations, output: list[RelationPrediction]) -> list[Any]:
        return [("r", *sorted((example.head, example.tail))) for example in output if example.label]

    monkeypatch.setattr(Relations, "triples", undirected)  # the fault that the line above would not let pass
    assert task.metrics(examples, turned)["f1"]["value"] == 1


def test_no_relation_is_no_class_and_rows_without_any_are_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = [row_of("a b", [(0, 1, "t"), (2, 3, "t")], [(0, "r", 1)])]
    task = task_of(records)
    empty = task.make_examples([row_of("a b", [(0, 1, "t"), (2, 3, "t")], [])], labelled=True)
    nothing = [[RelationPrediction(0, 1, 0, 0.9), RelationPrediction(1, 0, 0, 0.9)]]
    result = task.metrics(empty, nothing)
    assert (result["f1"]["value"], result["classes"], result["exact_match"]["value"]) == (0, [], 1)
    assert "these rows have no relation" in capsys.readouterr().err
    assert task.metrics(empty, [[RelationPrediction(0, 1, 1, 0.9)]])["precision"]["value"] == 0
    named = [row_of("a b", TWO, [(0, "no_relation", 1), (1, "r", 0)])]  # as TACRED calls it
    right = [[RelationPrediction(0, 1, 0, 0.9), RelationPrediction(1, 0, 1, 0.9)]]
    assert task.metrics(task.make_examples(named, labelled=True), right)["recall"]["value"] == 1


def test_the_baseline_is_what_most_pairs_of_the_types_have() -> None:
    records = [
        row_of("a b", [(0, 1, "x"), (2, 3, "y")], [(0, "r", 1)]),
        row_of("a b", [(0, 1, "x"), (2, 3, "y")], [(0, "r", 1)]),
        row_of("a b", [(0, 1, "x"), (2, 3, "y")], [(0, "s", 1)]),
        row_of("a b", [(0, 1, "y"), (2, 3, "x")], [(0, "s", 1)]),
        row_of("b a", [(0, 1, "x"), (2, 3, "y")], []),
    ]
    task = task_of(records)
    assert task.settings.seen["x"]["y"] == {"no_relation": 2, "r": 2, "s": 1}
    assert task.label_counts == [task.label_counts[0], 2, 2]
    blind = task.majority_baseline(task.make_examples(records[:1], labelled=False))
    assert blind is not None
    assert [(example.head, example.tail, example.probability) for example in blind[0]] == [
        (0, 1, 0.4),
        (1, 0, 0.8),
    ]


# ── rows ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "Rows of relations in three forms are equivalent; an index, a span or a mark out of range, a "
    "relation of an entity with itself and data without a relation are refused by name",
)
def test_all_forms_are_equal() -> None:
    plain = row_of("Anna lives in Bonn .", [(0, 4, "person"), (14, 18, "place")], [(0, "lives in", 1)])
    tacred = {
        "token": ["Anna", "lives", "in", "Bonn", "."], "subj_start": 0, "subj_end": 0, "subj_type": "person",
        "obj_start": 3, "obj_end": 3, "obj_type": "place", "relation": "lives in",
    }  # fmt: skip
    spo = {"subject": "Anna", "subject_type": "person", "predicate": "lives in"}
    duie = [{**spo, "object": "Bonn", "object_type": "place"}]
    second = [{**spo, "object": {"@value": "Bonn"}, "object_type": {"@value": "place"}}]
    wanted = parse_relation_example(plain, labelled=True)
    for other in (tacred, {"text": wanted.text, "spo_list": duie}, {"text": wanted.text, "spo_list": second}):
        result = parse_relation_example(Record(other, "row 1"), labelled=True)
        assert (result.texts, result.entities, result.label) == (wanted.texts, wanted.entities, wanted.label)
    assert parse_relation_example(Record(tacred, ""), labelled=True).marked_pairs == ((0, 1),)


def test_mentions_missing_from_their_text_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    spo = {"subject": "Anna", "subject_type": "p", "predicate": "r", "object_type": "q"}
    values = {"text": "Anna Bonn", "spo_list": [{**spo, "object": "Bonn"}, {**spo, "object": "Rome"}]}
    task_of([Record(values, "row 1")]).make_examples([Record(values, "row 1")], labelled=True)
    assert "1 triples have a mention that does not occur in their text" in capsys.readouterr().err


TWO = [(0, 1, "t"), (2, 3, "t")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (row_of("a b", TWO, [(0, "r", 2)]), "the tail of 'r' is 2, not the index of one of its 2 entities"),
        (row_of("a b", TWO, [(-1, "r", 1)]), "the head of 'r' is -1"),
        (row_of("a b", TWO, [("0", "r", 1)]), "the head of 'r' is '0'"),
        (row_of("a b", TWO, [(True, "r", 1)]), "the head of 'r' is True"),
        (row_of("a b", TWO, [(1, "r", 1)]), "relates entity 1 with itself"),
        (row_of("a b", TWO, [(0, " ", 1)]), "is ' ', not a name"),
        (row_of("a b", [(0, 1, "t"), (2, 4, "t")], []), "the t at 2 to 4 is not in its text of 3 characters"),
        (row_of("a b", [(0, 1, "")], []), "wanted a list of {start, end, label}"),
        (Record({"text": "a b", "entities": []}, "row 1"), "has no 'relations'"),
        (Record({"text": "a b", "relations": []}, "row 1"), "has no 'entities'"),
        (Record({"text": "a b", "entities": [], "relations": [3]}, "row 1"), "is not {head, relation, tail}"),
        (Record({"text": 3}, "row 1"), "has a text that is int"),
        (Record({"subj_start": 0, "token": "a b"}, "row 1"), "'token' is a b, not a list of strings"),
        (Record({"text": "a", "spo_list": None}, "row 1"), "'spo_list' is NoneType, not a list"),
        (Record({"text": "a", "spo_list": [{}]}, "row 1"), "lacks a field"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_are_named(record: Record, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse_relation_example(record, labelled=True)
    assert message in str(error.value)
    assert "row 1" in str(error.value)


@pytest.mark.parametrize("name", ["subj_end", "obj_start"])
def test_marks_outside_the_tokens_are_named(name: str) -> None:
    values = {"token": ["a", "b"], "relation": "r"} | {
        f"{role}_{end}": at for at, role in enumerate(("subj", "obj")) for end in ("start", "end")
    }
    values |= {"subj_type": "t", "obj_type": "t"}
    assert parse_relation_example(Record(values, ""), labelled=True).entities == (("t", 0, 1), ("t", 2, 3))
    with raises(DataError, "invalid_span", "2"):
        parse_relation_example(Record({**values, name: 2}, "row 1"), labelled=True)


def test_data_without_a_relation_trains_no_class() -> None:
    with raises(DataError, "no_labels", "1"):
        task_of([row_of("a b", TWO, [])])
    with raises(DataError, "no_labels", "1"):
        task_of([row_of("a b", TWO, [(0, "Other", 1)])], no_relation_label="Other")
    task = task_of([row_of("a b", TWO, [(0, "r", 1)])])
    with raises(DataError, "no_labels", "1"):
        task.check_validation_set(task.make_examples([row_of("a b", TWO, [])], labelled=True))


@pytest.mark.parametrize("setting", ["negatives=0", "negatives=1.5", "reach=0", "seen=1"])
def test_settings_out_of_range_are_refused(setting: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        api.finetune(
            folder / "train.jsonl",
            task="relations",
            model="lstm",
            out=tmp_path / "x",
            overrides=[f"task.{setting}"],
        )
    assert not (tmp_path / "x").exists()


# ── pairs ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "The choice of candidate pairs is reported with counts: texts without a pair, types that nothing "
    "joined, thousands of entities by distance, a seeded share of those without a relation",
)
def test_a_text_with_one_entity_has_no_pair_and_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        row_of("a b", TWO, [(0, "r", 1)]),
        row_of("a b", TWO[:1], []),
        row_of("a b", TWO, [(1, "r", 0)]),
    ]
    task = task_of(records)
    rows = rows_in(task, records)
    assert [row.meta[:2] for row in rows] == [(0, (0, 1)), (0, (1, 0)), (1, None), (2, (0, 1)), (2, (1, 0))]
    assert "1 of 3 rows have fewer than two entities, so no pair" in capsys.readouterr().err
    merged = task.aggregate_windows(rows, [np.asarray([0.4, 0.6])] * len(rows))
    assert list(map(len, merged)) == [2, 0, 2]
    assert task.training_rows(rows) == [row for row in rows if row.meta[1]]


def test_thousands_of_entities_are_paired_by_distance(capsys: pytest.CaptureFixture[str]) -> None:
    n = 3000
    entities = [(2 * at, 2 * at + 1, "t") for at in range(n)]
    record = row_of("x " * n, entities, [(0, "r", 1), (5, "r", 9), (0, "r", n - 1)])
    task = task_of([record], reach=5)
    rows = rows_in(task, [record], longest=48)
    assert len(rows) == 2 * (5 * n - 15)  # every ordered pair at most 5 apart
    assert max(len(row.ids) for row in rows) <= 48
    err = capsys.readouterr().err
    assert f"{n * (n - 1) - len(rows):,} are more than 5 entities apart" in err
    assert "1 relations are between types without a relation in training, or more than 5" in err
    assert all(abs(row.meta[1][0] - row.meta[1][1]) <= 5 for row in rows)


def test_types_without_a_relation_are_skipped_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    three = [(0, 1, "x"), (2, 3, "y"), (4, 5, "z")]
    train_row = row_of("a b c", three, [(0, "r", 1)])
    task = task_of([train_row])
    assert task.settings.seen == {"x": {"y": {"r": 1}}}
    rows = [row_of("a b c", three, [(0, "r", 1), (1, "r", 2), (0, "q", 1)])]
    rows = rows_in(task, rows)
    assert [row.meta[1] for row in rows] == [(0, 1)]
    err = capsys.readouterr().err
    assert "1 of 6 pairs of entities in 1 texts are scored; 5 are of types without a relation" in err
    assert "1 relations were never seen in training (q): they count as missed" in err
    assert "1 relations are between types without a relation in training" in err
    assert "1 relations are of a pair that has another" in err


def test_a_share_of_the_pairs_without_a_relation_is_drawn_once(capsys: pytest.CaptureFixture[str]) -> None:
    records = [Record(row, f"row {number}") for number, row in enumerate(facts(120))]
    task = task_of(records, negatives=0.25)
    rows = rows_in(task, records)
    kept = task.training_rows(rows)
    assert kept == task.training_rows(rows)
    held, none = [row for row in rows if row.label], [row for row in rows if row.label == 0]
    assert [row for row in kept if row.label] == held
    share = sum(row.label == 0 for row in kept) / len(none)
    assert 0.15 < share < 0.35
    assert (
        f"{len(held):,} pairs with a relation to learn from, {len(none):,} without" in capsys.readouterr().err
    )


def test_augmented_rows_relate_the_same_names() -> None:
    rows = [Record(row, f"row {number}") for number, row in enumerate(facts(30))]
    result = augment_records(rows, AugmentConfig(ops="swap,delete,typos", copies=2))
    names = lambda example: [  # noqa: E731
        tuple(example.entity(place)["text"] for place in places) for _, *places in example.label
    ]
    copies = [record for record in result if "augmented" in record.values]
    assert len(copies) > 30
    for copy in copies:
        original = next(
            record
            for record in result
            if record.values["origin"] == copy.values["origin"] and record is not copy
        )
        assert names(parse_relation_example(copy, labelled=True)) == names(
            parse_relation_example(original, labelled=True)
        )


# ── marks ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "Marks enclose head and tail, which may overlap, and change nothing else of the text; long texts "
    "are read around the pair; the head reads both places in order",
)
@pytest.mark.parametrize("kind", ["char", "word", "bpe", "wordpiece"])
def test_marks_surround_the_pair_and_nothing_else_changes(kind: str) -> None:
    records = [Record(row, f"row {number}") for number, row in enumerate(facts(40))]
    task = task_of(records)
    tokenizer = tokenizer_of(task, records, kind)
    examples = task.make_examples(records, labelled=True)
    rows = task.encode(examples, tokenizer, InputTemplate((0,), 0, None))
    assert len(rows) > 80
    for row in rows:
        example = examples[row.meta[0]]
        decoded, text = tokenizer.decode(row.ids[1:-1]).replace(" ", ""), example.text.replace(" ", "")
        head, tail = (example.entity(number) for number in row.meta[1])
        assert f"@*{head['label']}*{head['text']}@" in decoded
        assert f"#^{tail['label']}^{tail['text']}#" in decoded
        for mark in ("@", f"*{head['label']}*", "#", f"^{tail['label']}^"):
            decoded = decoded.replace(mark, "")
        assert decoded == text
        first = [tokenizer.decode([row.ids[int(place)]]).strip()[:1] for place in row.numbers]
        assert first == ["@", "#"]


@pytest.mark.parametrize(
    ("spans", "wanted"),
    [
        (((0, 4), (0, 2)), "@*t*#^t^北京#大学@"),  # one in the other
        (((0, 2), (0, 4)), "#^t^@*t*北京@大学#"),
        (((0, 4), (0, 4)), "@*t*#^t^北京大学#@"),  # the same stretch twice
        (((0, 3), (2, 4)), "@*t*北京#^t^大@学#"),  # across each other
        (((0, 2), (2, 4)), "@*t*北京@#^t^大学#"),  # side by side
        (((2, 4), (0, 2)), "#^t^北京#@*t*大学@"),
    ],
)  # fmt: skip
def test_entities_may_overlap(spans: tuple[tuple[int, int], ...], wanted: str) -> None:
    record = row_of("北京大学", [(*span, "t") for span in spans], [(0, "r", 1)])
    task = task_of([record])
    tokenizer = tokenizer_of(task, [record], "char")
    row = rows_in(task, [record])[0] if spans[0] <= spans[1] else rows_in(task, [record])[1]
    assert row.meta[1] == (0, 1)
    assert tokenizer.decode(row.ids[1:-1]) == wanted
    assert [wanted[int(place) - 1] for place in row.numbers] == ["@", "#"]


def test_what_is_read_of_a_long_text_is_around_the_pair() -> None:
    draw, cut = random.Random(0), 0
    for _ in range(500):
        n, space = draw.randint(20, 200), draw.randint(16, 100)
        spans = []
        for _ in range(2):
            start = draw.randrange(n - 6)
            spans.append((start, draw.randint(start + 5, n)))
        kept, places, through = fit_window(list(range(n)), spans, space)
        assert len(kept) == min(n, space) or (through and len(kept) <= space)
        assert [kept[place] for place in places] == [start for start, _ in spans]
        whole = max(end for _, end in spans) - min(start for start, _ in spans) <= space
        assert through != whole
        if whole:
            assert kept == list(range(kept[0], kept[0] + len(kept)))
            assert all(set(range(*span)) <= set(kept) for span in spans)
        cut += through
    assert cut > 50


def test_a_pair_too_far_apart_and_a_window_too_small_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    record = row_of("a" + " x" * 100 + " b", [(0, 1, "t"), (202, 203, "t")], [(0, "r", 1)])
    task = task_of([record])
    row = rows_in(task, [record], longest=40)[0]
    assert len(row.ids) == 40
    assert "2 pairs are more than 40 tokens apart" in capsys.readouterr().err
    with raises(UsageError, "out_of_range", "12"):
        rows_in(task, [record], longest=12)


def test_marks_that_the_tokenizer_does_not_know_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    record = row_of("a b", TWO, [(0, "r", 1)])
    task = task_of([record])
    task.encode(
        task.make_examples([record], labelled=True),
        train_tokenizer("char", ["a b t"], 50),
        InputTemplate((0,), 0, None),
    )
    assert "does not know the markers" in capsys.readouterr().err


def test_the_head_reads_both_places_in_their_order() -> None:
    torch.manual_seed(0)
    head, hidden = RelationHead(4, 3, dropout=0.0), torch.randn(2, 6, 4)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    places = torch.tensor([[1.0, 4.0], [3.0, 0.0]], dtype=torch.float64)
    states = [
        torch.cat([hidden[0, 1], hidden[0, 4], hidden[0].mean(0)]),
        torch.cat([hidden[1, 3], hidden[1, 0], hidden[1, :4].mean(0)]),
    ]
    wanted = torch.stack(states) @ head.out.weight.T + head.out.bias
    assert torch.allclose(head(hidden, mask, places), wanted, atol=1e-6)
    assert not torch.allclose(head(hidden, mask, places.flip(1)), wanted, atol=1e-3)
    labels = torch.tensor([2, 0])
    batch = Batch(
        torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 6, dtype=torch.long), torch.ones(2, 6), mask=mask,
        labels=labels, numbers=places,
    )  # fmt: skip
    loss = head.loss(hidden, batch)
    assert float(loss.total.detach()) == pytest.approx(
        float(torch.nn.functional.cross_entropy(wanted, labels).detach() * 2), abs=1e-5
    )
    with raises(UsageError, "unknown_name", "pooling"):
        RelationHead(4, 3, pooling="most")


def test_a_batch_holds_the_places_of_its_rows(tuned: api.Run) -> None:
    task = tuned.task
    assert isinstance(task, Relations)
    examples = task.make_examples([Record(row, "row") for row in facts(5, seed=3)], labelled=True)
    rows = task.encode(examples, tuned.tokenizer, input_template(tuned.model.config, tuned.tokenizer, 64))
    batch = collate(task, rows, tuned.tokenizer.pad_id)
    assert batch.numbers is not None
    for row, places, ids in zip(rows, batch.numbers, batch.ids, strict=True):
        assert [int(ids[int(place)]) for place in places] == [row.ids[int(place)] for place in row.numbers]


# ── learnt ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "Relations and their direction are trained, in English and in Chinese, resumed to the same bytes, "
    "and predicted with character offsets",
)
def test_relations_and_their_direction_are_learned(tuned: api.Run, folder: Path) -> None:
    scores = tuned.evaluate(folder / "test.jsonl", out=folder / "page")
    assert scores["f1"]["value"] > 0.9
    assert {class_["label"]: class_["f1"] > 0.8 for class_ in scores["classes"]} == {
        "child of": True,
        "lives in": True,
    }
    baseline = scores["baselines"]["majority by types"]
    assert baseline["f1"]["value"] < 0.5
    assert baseline["difference"]["low"] > 0
    assert (folder / "page" / "evaluation.html").exists()


def test_answers_are_at_their_offsets(
    tuned: api.Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = facts(60, seed=1)
    answers = tuned.predict(folder / "test.jsonl")
    assert len(answers) == len(rows)
    right = 0
    for row, answer in zip(rows, answers, strict=True):
        for triple in answer["triples"]:
            for role in ("head", "tail"):
                entity = triple[role]
                assert row["text"][entity["start"] : entity["end"]] == entity["text"]
            held = [(row["entities"][r["head"]]["start"], r["relation"]) for r in row["relations"]]
            right += (triple["head"]["start"], triple["relation"]) in held
    assert right > 30
    capsys.readouterr()
    assert main(["predict", str(tuned.path), str(folder / "test.jsonl")]) == 0
    assert "– lives in →" in capsys.readouterr().out
    assert main(["predict", str(tuned.path), "Anna lives in Bonn ."]) == 2
    assert "is a text without entities" in capsys.readouterr().err


def test_broken_off_and_resumed_it_ends_in_the_same_bytes(tuned: api.Run) -> None:
    assert api.verify_determinism(tuned.path)["identical"]


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_other_families_learn_it_and_chinese_by_character(family: str, tmp_path: Path) -> None:
    rows = [
        {
            "text": text.format(name, town),
            "entities": [
                {"start": at, "end": at + 2, "label": kind} for at, kind in ((0, "人名"), (4, "地名"))
            ],
            "relations": [{"head": 0, "relation": "住", "tail": 1}] if "住" in text else [],
        }
        for text in ("{}住在{}。", "{}没去{}。")
        for name in ("张三", "李四", "王五", "赵六")
        for town in ("北京", "上海", "南京", "天津")
    ]
    data = written(tmp_path / "zh.jsonl", rows)
    settings = [*SMALL, "train.batch_size=8"]
    run = api.finetune(
        data, task="relations", model=family, out=tmp_path / "run", dev=data, epochs=12, overrides=settings
    )
    assert run.tokenizer.kind == "char"
    assert run.evaluate(data, baselines=False)["f1"]["value"] > 0.9
