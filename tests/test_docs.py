"""The papers say what the code does: the reference is generated, README commands run, both languages
agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import promises
import pytest

from textus.cli.app import build_app
from textus.cli.help import example, flat_commands, page, reference
from textus.cli.reference import errors_page

REPOSITORY = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh-CN.md")
BLOCK = re.compile(
    r"(?P<mark><!-- test -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks(text: str) -> list[tuple[bool, str, str]]:
    """(marked as a test, language, code) of every fenced block of a Markdown text."""
    return [(bool(found["mark"]), found["language"], found["code"]) for found in BLOCK.finditer(text)]


@pytest.mark.promise(
    "Architecture", "The command reference matches the code; every command has a real example that parses"
)
def test_the_reference_is_what_the_code_shows() -> None:
    written = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == reference(build_app()), "run: make docs"
    assert (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8") == errors_page(), "run: make docs"


@pytest.mark.parametrize("name", sorted(flat_commands()))
def test_every_verb_has_one_real_example(name: str) -> None:
    command = example(flat_commands()[name])
    assert f"textus {name}" in command
    assert "\n" not in command
    assert command in page(build_app(), name)


@pytest.mark.parametrize("name", sorted(set(flat_commands()) - {"bench"}))
def test_the_examples_are_understood_by_the_parser(name: str) -> None:
    command = example(flat_commands()[name])
    words = re.findall(r'"[^"]*"|\S+', command[command.index("textus ") :])[1:]
    function, _, _ = build_app().parse_args(words, print_error=False, exit_on_error=False)
    assert function is flat_commands()[name]


def test_both_readmes_show_the_same_commands() -> None:
    english, chinese = (blocks((REPOSITORY / name).read_text(encoding="utf-8")) for name in READMES)
    assert english
    assert [block[2] for block in chinese if block[1] != "text"] == [b[2] for b in english if b[1] != "text"]


def test_every_command_of_the_papers_is_understood() -> None:
    papers = [REPOSITORY / name for name in READMES] + sorted((REPOSITORY / "docs").rglob("*.md"))
    commands = set(flat_commands()) | {name.split()[0] for name in flat_commands()}
    unknown = [
        f"{path.name}: {line}"
        for path in papers
        for _, language, code in blocks(path.read_text(encoding="utf-8"))
        if language == "bash"
        for line in code.splitlines()
        if (match := re.match(r"textus (\w+)", line)) and match[1] not in commands
    ]
    assert unknown == []


def marked_blocks() -> list[tuple[str, str]]:
    """(language, code) of the README's blocks that are marked as tests; they run in order, in one folder."""
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return [(language, code) for marked, language, code in blocks(page) if marked]


@pytest.mark.promise("Architecture", "The README's marked commands run; both READMEs show the same ones")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    """With a few steps; `tests/test_tutorial.py` does the same for the tutorial."""
    assert {language for language, _ in marked_blocks()} == {"bash", "python"}
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for language, code in marked_blocks():
        short = code.replace("--preset 1min", "--depth 1 --steps 20").replace(
            'preset="1min"', "depth=1, steps=20"
        )
        done = subprocess.run(
            [sys.executable, "-c", short] if language == "python" else ["bash", "-e", "-c", short],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}"


def test_marked_blocks_are_found() -> None:
    text = "a\n<!-- test -->\n```bash\ntextus doctor\n```\n\n```text\nx\n```\n\n```bash\nmake demo\n```\n"
    assert blocks(text) == [
        (True, "bash", "textus doctor\n"),
        (False, "text", "x\n"),
        (False, "bash", "make demo\n"),
    ]


def test_the_page_of_promises_is_made_of_the_markers_on_the_tests() -> None:
    written = (REPOSITORY / "docs" / "dev" / "promises.md").read_text(encoding="utf-8")
    assert written == promises.page(), "run: make docs"


def test_a_promise_without_a_section_is_refused(tmp_path: Path) -> None:
    marker = '@pytest.mark.promise("Tales", "x")\ndef test_x(): ...\n'
    (tmp_path / "test_x.py").write_text(marker)
    with pytest.raises(ValueError, match="unknown section 'Tales'"):
        promises.page(tmp_path)
    (tmp_path / "test_x.py").write_text(marker.replace("Tales", "Text"))
    assert "| x | `test_x.py`: `test_x` |" in promises.page(tmp_path)


PATH = re.compile(r"`((?:textus|tests|docs|runs|benchmarks)/[\w./-]+\.\w+)`|\]\((?!http)([\w./-]+)\)")


def test_every_file_that_a_document_names_exists() -> None:
    """Paths in backquotes, from the root of the repository, and links, from the document's folder."""
    documents = [REPOSITORY / name for name in (*READMES, "CONTRIBUTING.md", "SECURITY.md")]
    missing = [
        f"{document.name}: {match[0]}"
        for document in (*documents, *sorted((REPOSITORY / "docs").rglob("*.md")))
        if document.name not in ("log.md", "results.md")
        for match in PATH.finditer(document.read_text(encoding="utf-8"))
        if "NAME" not in match[0]
        and not (REPOSITORY / match[1] if match[1] else document.parent / match[2]).exists()
    ]
    assert missing == []
