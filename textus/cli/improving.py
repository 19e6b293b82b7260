"""Verbs that make more of few rows: `augment`, `tune`, `fewshot`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from textus.cli.options import Answer, Columns, Force, Json, Rows, option


@Parameter(name="*")
@dataclass(frozen=True)
class Changes:
    """How rows are changed: fields of `augment.AugmentSettings`."""

    operations: Annotated[
        str,
        option("Of synonyms, swap, delete, insert, typos, ocr, pinyin, infill; commas between.", "--with"),
    ]
    times: Annotated[int, option("Copies of a row at most; the operations take turns.")] = 1
    rate: Annotated[float, option("Share of a text's words to change; at least one is.")] = 0.1
    seed: Annotated[int, option("The same rows and seed give the same copies, in any order.")] = 0
    wordnet: Annotated[
        str,
        option(
            "The folder of WordNet's files, if it is not where it is usually installed.", metavar="FOLDER"
        ),
    ] = ""
    vectors: Annotated[
        str, option("Word vectors whose nearest are taken for synonyms, for any language.", metavar="FILE")
    ] = ""
    encoder: Annotated[str, option("The run of an encoder that infills.", metavar="RUN")] = ""


def augment(
    data: Rows,
    /,
    *,
    out: Annotated[Path, option("The file of JSON lines to write.", metavar="FILE")],
    changes: Changes,
    columns: Columns = None,
    force: Force = False,
    as_json: Json = False,
) -> Answer:
    """Make more labelled rows: changed copies whose labels stay right; 'finetune' keeps those of held-out rows apart.

    Example: textus augment reviews.csv --with swap,delete,typos --times 4 --out more.jsonl
    """
    from textus import api
    from textus.cli.telling import plain

    found = api.augment(data, out=out, columns=columns, force=force, **asdict(changes))
    said = f"{found['rows']:,} rows and {sum(found['copies'].values()):,} copies ({plain(found['copies'])})"
    return Answer(found, f"{out}: {said}\nnext: textus finetune {out} --model lstm --out FOLDER")
