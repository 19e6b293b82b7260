"""Documents that come with Python: the language reference and the standard library's docstrings, parsed, never
imported.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from textus.data.corpus.documents import Document

NOT_PROSE = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "pydoc_data"})


def demo_documents() -> Iterator[Document]:
    """One document for each topic of the language reference and module of the library; sorted, about 2 MB. Sources are
    named `pydoc_data.topics:assert` and `json.decoder:docstrings`.
    """
    topics = import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield Document("", topics[name], f"pydoc_data.topics:{name}", 0)
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if NOT_PROSE.isdisjoint(inside.parts) and (text := module_docstrings(path)):
            module = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
            yield Document("", text, f"{module}:docstrings", 0)


def module_docstrings(path: Path) -> str:
    """The docstrings of a module, its classes and functions, in order, a blank line between them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in strings: not ours to report
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ""  # kept broken on purpose, as templates and bad examples are
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [
        ast.get_docstring(node, clean=False) for node in iter_statements(tree) if isinstance(node, documented)
    ]
    return "".join(f"{cleaned}\n\n" for text in texts if text and (cleaned := inspect.cleandoc(text)))


def iter_statements(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes in the order of the text; of statements only, since expressions hold no docstring."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler):
            yield from iter_statements(child)
