"""Triples out of raw text: entities by one run, relations by another, cited, written, measured."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import networkx
import pytest
from labelled import facts, facts_in, written
from raising import raises

from benchmarks.triples import adjacent
from benchmarks.triples import row_of as news_row
from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.pipelines.extraction import as_graphml

SMALL = ("train.batch_size=16", "model.n_layer=1", "model.d_model=32", "optim.rate=0.01")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return facts_in(tmp_path_factory.mktemp("extracting"))


@pytest.fixture(scope="module")
def tuned(folder: Path) -> api.Run:
    return api.finetune(
        folder / "train.jsonl", task="relations", model="lstm", out=folder / "run", epochs=3, overrides=SMALL
    )


@pytest.fixture(scope="module")
def tagger(folder: Path) -> api.Run:
    return api.finetune(
        folder / "train.jsonl", task="tagging", model="lstm", out=folder / "tagger", epochs=6, overrides=SMALL
    )


# ── from raw text ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "Triples from raw text cite document, text and characters; a graph is read by `networkx`; figures "
    "from raw text are those of its triples; runs that do not belong are refused",
)
def test_triples_of_raw_text_cite_it(tuned: api.Run, tagger: api.Run, tmp_path: Path) -> None:
    text = "Anna lives in Bonn .\r\n\n  Bob is a child of Dana .\nRome never saw Chen .\n"
    file = tmp_path / "news.txt"
    file.write_bytes(text.encode())
    out = tmp_path / "graph.jsonl"
    result = tuned.triples(file, entities=tagger.path, out=out)
    assert (result["texts"], result["entities"]) == (3, 6)
    answer = {(row["head"]["text"], row["relation"], row["tail"]["text"]) for row in result["triples"]}
    assert answer == {("Anna", "lives in", "Bonn"), ("Bob", "child of", "Dana")}
    for triple in result["triples"]:
        assert triple["document"] == str(file)
        assert triple["text"] in text
        for role in ("head", "tail"):
            assert text[triple[role]["start"] : triple[role]["end"]] == triple[role]["text"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == result["triples"]
    with raises(UsageError, "already_exists"):
        tuned.triples(file, entities=tagger.path, out=out)


def test_a_graph_is_read_by_others(tuned: api.Run, tagger: api.Run, folder: Path, tmp_path: Path) -> None:
    words = [
        "triples",
        str(folder / "test.jsonl"),
        "--entities",
        str(tagger.path),
        "--relations",
        str(tuned.path),
    ]
    for name in ("g.graphml", "g.csv"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
    result = tuned.triples(folder / "test.jsonl", entities=tagger.path)["triples"]
    graph = networkx.read_graphml(tmp_path / "g.graphml", force_multigraph=True)
    edges = {
        (
            graph.nodes[a]["name"],
            row["relation"],
            graph.nodes[b]["name"],
            row["document"],
            row["head_start"],
        )
        for a, b, row in graph.edges(data=True)
    }
    wanted = {
        (e["head"]["text"], e["relation"], e["tail"]["text"], e["document"], e["head"]["start"])
        for e in result
    }
    assert edges == wanted
    assert len(graph) == len(
        {(e[role]["text"], e[role]["label"]) for e in result for role in ("head", "tail")}
    )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "g.csv").read_text())))
    assert [(row["head"], row["relation"], row["tail"]) for row in rows] == [
        (row["head"]["text"], row["relation"], row["tail"]["text"]) for row in result
    ]


def test_what_xml_cannot_hold_is_replaced() -> None:
    entity = {"text": 'a\x00<&"', "label": "t", "start": 0, "end": 5}
    triple = {
        "head": entity,
        "relation": "r",
        "tail": entity,
        "probability": 0.5,
        "document": "d",
        "text": "\x1b",
    }
    graph = networkx.parse_graphml(as_graphml([triple]), force_multigraph=True)
    assert [row["name"] for _, row in graph.nodes(data=True)] == ['a\ufffd<&"']


def test_figures_from_raw_text_are_those_of_its_triples(
    tuned: api.Run, tagger: api.Run, tmp_path: Path
) -> None:
    rows = facts(60, seed=1)
    for row in rows:  # in another order than they are found in
        last = len(row["entities"]) - 1
        row["entities"].reverse()
        row["relations"] = [
            {**item, "head": last - item["head"], "tail": last - item["tail"]} for item in row["relations"]
        ]
    test = written(tmp_path / "test.jsonl", rows)
    scores = tuned.evaluate(test, entities=tagger.path)
    gold, guess = set(), set()
    for number, row in enumerate(rows, 1):
        for relation in row["relations"]:
            ends = [
                (row["entities"][relation[role]]["start"], row["entities"][relation[role]]["end"])
                for role in ("head", "tail")
            ]
            gold.add((number, relation["relation"], *ends))
    for relation in tuned.triples(test, entities=tagger.path)["triples"]:
        ends = [(relation[role]["start"], relation[role]["end"]) for role in ("head", "tail")]
        guess.add((int(relation["document"].rpartition(" ")[2]), relation["relation"], *ends))
    right = len(gold & guess)
    assert scores["precision"]["value"] == pytest.approx(right / len(guess))
    assert scores["recall"]["value"] == pytest.approx(right / len(gold))
    assert scores["f1"]["value"] > 0.5
    alone = tagger.evaluate(test)
    assert scores["entity_f1"]["value"] == pytest.approx(alone["f1"]["value"])


def test_runs_that_do_not_belong_are_refused(
    tuned: api.Run, tagger: api.Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = str(folder / "test.jsonl")
    with raises(UsageError, "wrong_task", "--entities", "for"):
        tuned.triples(test, entities=tuned.path)
    with raises(UsageError, "wrong_task", "for", "tagging", "relations"):
        tagger.triples(test, entities=tagger.path)
    with raises(UsageError, "unknown_name"):
        tuned.triples(test, entities=tagger.path, out=tmp_path / "g.json")
    other = [
        {"tokens": ["Anna", "sleeps"], "tags": ["B-NAME", "O"]},
        {"tokens": ["it", "rains"], "tags": ["O", "O"]},
    ]
    plain = [
        {"tokens": ["Anna", "sleeps"], "tags": ["N", "V"]},
        {"tokens": ["it", "rains"], "tags": ["P", "V"]},
    ]
    for name, rows, message in (
        ("names", other, "no entity type in common"),
        ("plain", plain, "not entities"),
    ):
        data = written(tmp_path / f"{name}.jsonl", rows)
        run = api.finetune(
            data, task="tagging", model="rnn", out=tmp_path / name, dev=data, epochs=1, overrides=SMALL
        )
        with pytest.raises(UsageError, match=message):
            tuned.triples(test, entities=run.path)
    assert (
        main(
            [
                "evaluate",
                str(tuned.path),
                str(tuned.path),
                "--on",
                test,
                "--ensemble",
                "mean",
                "--entities",
                "x",
            ]
        )
        == 2
    )
    assert "not with --ensemble" in capsys.readouterr().err
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with raises(DataError, "empty_data", "empty.txt"):
        tuned.triples(empty, entities=tagger.path)


# ── the rule of the benchmark ──────────────────────────────────────────────────────────────────


def test_the_rule_of_the_benchmark_reads_tags(tmp_path: Path) -> None:
    def row(*words: str) -> tuple[dict[str, Any], set[tuple[str, str, str]]]:
        result = news_row([(word, tag) for word, _, tag in (word.partition("/") for word in words)])
        texts = [result["text"][entity["start"] : entity["end"]] for entity in result["entities"]]
        return result, {
            (texts[relation["head"]], relation["relation"], texts[relation["tail"]])
            for relation in result["relations"]
        }

    first, answer = row("美国/ns", "国务院/nt", "发言人/n", "张/nr", "三/nr", "说/v")
    assert answer == {("张三", "担任", "发言人"), ("张三", "属于", "国务院")}
    second, answer = row("北京市/ns", "教育/vn", "局长/n", "李/nr", "四/nr", "、/w", "王/nr", "五/nr")
    assert answer == {("李四", "担任", "局长"), ("李四", "属于", "北京市")}
    assert row("北京/ns", "的/u", "局长/n", "李/nr", "四/nr")[1] == {("李四", "担任", "局长")}
    assert row("局长/n", "去/v", "北京/ns", "见/v", "李/nr", "四/nr")[1] == set()
    assert row("李/nr", "四/nr", "局长/n")[1] == set()
    file = written(tmp_path / "rows.jsonl", [first, second])
    assert (adjacent(file)["precision"]["value"], adjacent(file)["recall"]["value"]) == (1, 0.75)
