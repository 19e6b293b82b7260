"""The architecture rule: a module imports only from layers below it, packages as a whole and inside of each; modules
of one layer do not import each other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

LAYERS = {
    "": """
        core
        reporting metrics tokenizers
        data
        models
        interop
        generation runs
        augment
        training
        tasks
        finetuning
        evaluation
        pipelines
        serving
        api
        cli
        __init__
    """,
    "core": """
        __init__ console errors memory rng scripts
        arguments hardware locks names plugins
        config io
        requests
    """,
    "reporting": """
        __init__ format
        html plots
    """,
    "metrics": """
        __init__ calibration resampling
        classification entities overlap ranking regression spans
    """,
    "tokenizers": """
        compat provenance
        chat_encoding filters
        sandbox
        chat_content
        chat_template
        tokenizer
        training
        quality
        __init__
    """,
    "data": """
        __init__ batch conversations corpus sentences
        eval_text labeled token_dataset
        bucketing loader skipping
        denoising read_options weighted_rows
        text_pairs
        pair_loaders passages
        inputs
        output
    """,
    "data.corpus": """
        documents languages
        demo dialects guessing repair sources store
        conll decoding exports pdf_docx
        aligned tables
        readers
        builder
        __init__
    """,
    "models": """
        __init__ checks contract hmm_tagger kernels
        hmm ngram nn registry testing word_vectors
        decoder encoder encoder_decoder gan linear rnn vae
        seq2seq
    """,
    "models.kernels": """
        __init__ native
        varlen
    """,
    "models.nn": """
        __init__ cross_entropy linear recurrent rnn_cells rope
        heads layers lora
        attention registry
        source_cache vae_modules
    """,
    "interop": """
        __init__ packaging validate
        config_keys gguf_reader sentence_transformers tokenizer_json
        architectures legacy_tokenizers
        bert gpt2 llama t5
        roberta
        task_heads
        registry
        folder peft
        gguf
        llama2c
    """,
    "generation": """
        __init__ params streaming
        sampling
        engine
        beam
        completion
    """,
    "runs": """
        __init__ record tensorboard
        store
    """,
    "augment": """
        __init__ config units wordnet
        negation
        operations
        cloze infilling
        augmenter
    """,
    "training": """
        __init__ gradients optim
        trainer
        autotune config
        planner
        pretrain
    """,
    "tasks": """
        __init__ config labels reporting rows
        base
        chat_rows classification encoding generation question_answering token_data
        chat inference multitask registry regression relation_data tagging text2text
        validation
        prediction relations similarity
    """,
    "finetuning": """
        __init__ config solved
        data length text_training
        outcome
        finetune
        hyperparameters
    """,
    "evaluation": """
        __init__ config perplexity text_baselines
        comparison fewshot inspection
        task_report
        chat_report ensembles robustness task_comparison
    """,
    "pipelines": """
        __init__ config embeddings extraction search_index
        answers index_updates rewriting
        calibration
    """,
    "serving": """
        schemas
        scheduler
        guard
        app
        __init__
    """,
    "api": """
        checks conversation corpus exchange signatures
        task_methods
        data run search
        inference training
        asking rewriting runs
        __init__
    """,
    "cli": """
        __init__ params render
        augment chat corpus demo exchange index rewriting train validate
        asking inference
        app
        help
        main reference
    """,
}  # fmt: skip
"""Package ("" is the whole one) → its parts from the lowest layer to the highest."""
MOST_PACKAGES, MOST_MODULES = 20, 2


def numbered(layers: str) -> dict[str, int]:
    """Part → the number of its layer, counted from the lowest."""
    return {name: number for number, line in enumerate(layers.split("\n")) for name in line.split()}


def violations(package: Path, layers: Mapping[str, str] = LAYERS) -> Iterator[str]:
    """One line for each import that breaks the rule, and for each part of a listed package that has no layer."""
    orders = {prefix: numbered(lines) for prefix, lines in layers.items()}
    for path in sorted(package.rglob("*.py")):
        here = dotted(path, package)
        for prefix, order in orders.items():
            part = part_of(here, prefix)
            if part is not None and part not in order:
                yield f"{path}: {part} has no layer in {prefix or package.name}; give it one in tests/test_layers.py"
        for line, there in imports(path, package):
            if there.startswith("!"):
                yield f"{path}:{line}: {there[1:]}"
            else:
                yield from upward(f"{path}:{line}", here, there, orders)


def upward(where: str, here: str, there: str, orders: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What is wrong with an import from `here` of `there`: the smallest package that has both decides."""
    for prefix in sorted(orders, key=len, reverse=True):
        mine, other = part_of(here, prefix), part_of(there, prefix)
        if mine is None or other is None:
            continue
        order = orders[prefix]
        if other not in order:
            yield f"{where}: {mine} imports {other}, which has no layer"
        elif mine != other and mine in order and order[other] >= order[mine]:
            yield f"{where}: {mine} must not import {other}: it is not in a layer below"
        return


def part_of(module: str, prefix: str) -> str | None:
    """The part of a package in which a module is; None for one outside of it."""
    if not prefix:
        return module.split(".")[0]
    rest = module.removeprefix(f"{prefix}.")
    return rest.split(".")[0] if rest != module else None


def dotted(path: Path, package: Path) -> str:
    """The name of a module inside of a package: `data.loader`, `data.__init__`, `__init__`."""
    return ".".join(path.relative_to(package).with_suffix("").parts)


def imports(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Each import of the package's own modules as (line, module); '!' begins a form of import that is refused."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):  # sees imports inside functions too
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "!relative imports are refused; write the whole name"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
            for alias in node.names:
                yield node.lineno, module_of(f"{node.module}.{alias.name}", package)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package.name:
                    yield node.lineno, f"!write 'from {alias.name} import …', not 'import {alias.name}'"
        elif (named := imported_by_name(node)) and named.split(".")[0] == package.name:
            yield node.lineno, module_of(named, package)


def module_of(name: str, package: Path) -> str:
    """The module, in the package, that a dotted name of it or of something in it belongs to."""
    parts = name.split(".")[1:]
    if parts and (package.joinpath(*parts).is_dir() or package.joinpath(*parts).with_suffix(".py").is_file()):
        return ".".join([*parts, "__init__"] if package.joinpath(*parts).is_dir() else parts)
    if len(parts) < 2:
        return "__init__" if not parts or (package / "__init__.py").is_file() else parts[0]
    folder = package.joinpath(*parts[:-1])
    return ".".join([*parts[:-1], "__init__"] if folder.is_dir() else parts[:-1])


def imported_by_name(node: ast.AST) -> str | None:
    """The module of `import_module("textus.x")`: a string is an import too."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return None
    called = getattr(node.func, "id", getattr(node.func, "attr", ""))
    return str(node.args[0].value) if called in ("import_module", "__import__") else None


def cycles(package: Path) -> list[list[str]]:
    """Groups of modules that import each other, whatever the layers say."""
    edges = {
        dotted(path, package): {there for _, there in imports(path, package) if not there.startswith("!")}
        for path in package.rglob("*.py")
    }
    groups = []
    reachable = {module: reached(module, edges) for module in edges}
    for module in sorted(edges):
        group = sorted(other for other in reachable[module] if module in reachable.get(other, ()))
        if group and group[0] == module and len(group) > 1:
            groups.append(group)
    return groups


def reached(module: str, edges: Mapping[str, set[str]]) -> set[str]:
    """All modules that a module imports, and those that these import."""
    seen: set[str] = set()
    left = [module]
    while left:
        for other in edges.get(left.pop(), ()):
            if other not in seen:
                seen.add(other)
                left.append(other)
    return seen


@pytest.mark.promise(
    "Architecture",
    "A module imports only from layers below, at both levels; no relative imports, no cycles; every "
    "module has a layer",
)
def test_layers_hold() -> None:
    assert list(violations(REPOSITORY / "textus")) == []


def test_no_modules_import_each_other() -> None:
    assert cycles(REPOSITORY / "textus") == []


def test_every_package_has_layers_and_there_are_few() -> None:
    package = REPOSITORY / "textus"
    packages = [path.name for path in package.iterdir() if (path / "__init__.py").is_file()]
    modules = [path.name for path in package.glob("*.py") if path.name != "__init__.py"]
    assert {"core", "models", "cli"} <= set(packages)
    assert len(packages) <= MOST_PACKAGES
    assert len(modules) <= MOST_MODULES
    several = {name for name in packages if len(list((package / name).glob("*.py"))) > 2}
    assert several <= set(LAYERS)


SMALL = {"": "low\nmiddle other\nhigh\n__init__", "high": "__init__\nfirst\nsecond"}


def small(folder: Path, **files: str) -> Path:
    """A package of the layers low < middle other < high, where high has first < second; `__` is a dot in a name."""
    package = folder / "small"
    for name, source in files.items():
        path = package.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


def test_imports_from_below_are_allowed(tmp_path: Path) -> None:
    package = small(
        tmp_path,
        low="",
        middle="from small.low import a",
        high__first="from small.middle import b",
        high__second="from small.high.first import c\nfrom small.high import first\nfrom small.low import a",
    )
    assert list(violations(package, SMALL)) == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"middle": "from .low import a"}, "relative imports are refused"),
        ({"middle": "def f():\n    from . import low"}, "relative imports are refused"),
        ({"middle": "import small.low"}, "not 'import small.low'"),
        ({"middle": "import small"}, "not 'import small'"),
        ({"middle": "import small.low as low"}, "not 'import small.low'"),
        ({"attic": ""}, "attic has no layer in small"),
        ({"low": "from small.middle import a", "middle": ""}, "low must not import middle"),
        (
            {"low": "def f():\n    from small.high.first import a", "high__first": ""},
            "low must not import high",
        ),
        (
            {"low": "def f():\n    from small.high import first", "high__first": ""},
            "low must not import high",
        ),
        (
            {"low": "class A:\n    def f(self):\n        from small import middle", "middle": ""},
            "low must not import",
        ),
        ({"middle": "from small.other import a", "other": ""}, "middle must not import other"),
        ({"low": "if True:\n    from small.high.part import a"}, "low must not import high"),
        ({"low": "import_module('small.high.first')", "high__first": ""}, "low must not import high"),
        ({"low": "importlib.import_module('small.middle')", "middle": ""}, "low must not import middle"),
        ({"middle": "from small.cellar import a"}, "cellar, which has no layer"),
        (
            {"high__first": "from small.high.second import a", "high__second": ""},
            "first must not import second",
        ),
        (
            {"high__first": "from small.high import second", "high__second": ""},
            "first must not import second",
        ),
        (
            {"high__first": "import_module('small.high.second')", "high__second": ""},
            "first must not import second",
        ),
        ({"high__third": ""}, "third has no layer in high"),
    ],
)
def test_planted_faults_are_caught(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    complaints = list(violations(small(tmp_path, **files), SMALL))
    assert len(complaints) == 1
    assert complaint in complaints[0]


def test_a_planted_cycle_is_caught(tmp_path: Path) -> None:
    package = small(
        tmp_path,
        low="def f():\n    from small.middle import g",
        middle="from small.low import f",
        high__first="",
    )
    assert cycles(package) == [["low", "middle"]]
