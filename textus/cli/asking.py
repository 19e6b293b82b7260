"""Commands for answers from documents: `ask`, `index calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from textus.cli.index import IndexFolder
from textus.cli.params import Columns, CommandResult, Encoding, Json, option, with_config

if TYPE_CHECKING:
    from textus.pipelines.config import AskConfig


@with_config("textus.pipelines.config")
def ask(
    index: IndexFolder,
    /,
    *question: Annotated[
        str, Parameter(name="QUESTION", help="The question, in quotes or as several words.")
    ],
    config: AskConfig,
    as_json: Json = False,
) -> CommandResult:
    """Answer a question from the documents of an index, with its source; with a chat run in its own words, citations
    checked; refused where the documents do not hold the answer.

    Example: textus ask work/handbook "How many days off?" --run work/smollm2
    """
    from textus import api

    pieces: list[str] = []

    def show(piece: str) -> None:
        pieces.append(piece)
        print(piece, end="", flush=True)

    result = api.ask(index, " ".join(question), on_text=None if as_json else show, config=config)
    lines = [""] if pieces else []
    return CommandResult(result, "\n".join([*lines, *answer_lines(result, streamed=bool(pieces))]))


def answer_lines(result: dict[str, Any], *, streamed: bool) -> list[str]:
    """An answer for the terminal, with its source or its passages and what is not supported."""
    from textus.pipelines.answers import REFUSALS, is_chinese

    if result["refused"]:
        scores = f"confidence {result['confidence']:.2f}, threshold {result['threshold']:.2f}"
        return [f"{REFUSALS[is_chinese(result['question'])]} ({scores})"]
    lines = [] if streamed else [result["answer"]]
    if "source" in result:
        return [*lines, f"  from {place(result['source'])}"]
    cited = {number for sentence in result["sentences"] for number in sentence["citations"]}
    lines += [f"  [{p['passage']}] {place(p)}" for p in result["passages"] if p["passage"] in cited]
    for number in result["invalid_citations"]:
        lines.append(f"  citation [{number}] does not exist")
    for sentence in result["sentences"]:
        if not sentence["supported"]:
            lines.append(f"  not supported ({sentence['support']:.2f}): {sentence['text']}")
        elif not sentence["citations"]:
            lines.append(f"  without a citation: {sentence['text']}")
    return lines


def place(source: dict[str, Any]) -> str:
    """Where a text is from."""
    page = f", page {source['page']}" if source["page"] else ""
    end = source.get("end", source["start"] + len(source.get("text", "")))
    return f"{source['where']}{page}, characters {source['start']:,}–{end:,}"


def index_calibrate(
    index: IndexFolder,
    /,
    *,
    on: Annotated[
        Path,
        option(
            "Rows with a question (text) and the document that answers it: its text (document) or id (document_id);"
            " neither: no document does.",
            metavar="FILE",
        ),
    ],
    refuse: Annotated[float, option("Share of questions without an answer that are refused.")] = 0.85,
    columns: Columns = None,
    encoding: Encoding = None,
    as_json: Json = False,
) -> CommandResult:
    """Learn from questions when 'textus ask' refuses to answer, and store it in the index.

    Example: textus index calibrate work/index --on questions.csv --columns text=question,document=page
    """
    from textus import api

    result = api.calibrate_index(index, on, refuse=refuse, columns=columns, encoding=encoding)
    text = (
        f"{index}: threshold {result['threshold']:.3f}; of {result['questions']:,} questions"
        f" {result['refused']:.1%} are refused without their document, {result['false_refusals']:.1%} with it"
    )
    return CommandResult(result, text)
