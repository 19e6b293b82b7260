"""The functions of `import textus`, one per command of the command line, and the class `Run`.

Each takes paths and returns an opened folder, or results as JSON values. Nothing here prints; what the command line
shows is written in `textus.cli.render`.
"""

from typing import TYPE_CHECKING, Any

from textus.api.asking import ask, calibrate_index
from textus.api.corpus import build_corpus, open_corpus, report_tokenizer, show_corpus, trace_corpus
from textus.api.data import augment, cloze, validate
from textus.api.inference import (
    chat,
    compare,
    embed,
    ensemble_evaluate,
    ensemble_predict,
    evaluate,
    fewshot,
    generate,
    iter_predictions,
    open_run,
    predict,
    robustness,
    triples,
)
from textus.api.rewriting import summarize, translate
from textus.api.run import Run
from textus.api.runs import doctor, export, import_model, pull, serve, show, verify
from textus.api.search import (
    add_to_index,
    build_index,
    evaluate_index,
    open_index,
    remove_from_index,
    search,
)
from textus.api.training import (
    finetune,
    load_tokenizer,
    resume,
    train,
    train_tokenizer,
    tune,
    verify_determinism,
)
from textus.augment.config import AugmentConfig, ClozeConfig
from textus.core.errors import TextusError
from textus.evaluation.config import EvalConfig, FewShotConfig, PredictConfig
from textus.finetuning.config import FinetuneConfig, TuneConfig
from textus.generation.params import SamplingParams
from textus.pipelines.config import AskConfig, EmbedConfig, IndexConfig, RewriteConfig
from textus.tasks.config import ValidateConfig
from textus.training.config import PretrainConfig

if TYPE_CHECKING:
    from textus.pipelines.search_index import Index

__all__ = [
    "AskConfig", "AugmentConfig", "ClozeConfig", "EmbedConfig", "EvalConfig", "FewShotConfig", "FinetuneConfig",
    "Index", "IndexConfig", "PredictConfig", "PretrainConfig", "RewriteConfig", "Run", "SamplingParams",
    "TextusError", "TuneConfig", "ValidateConfig", "add_to_index", "ask", "augment", "build_corpus", "build_index",
    "calibrate_index", "chat", "cloze", "compare", "doctor", "embed", "ensemble_evaluate", "ensemble_predict",
    "evaluate", "evaluate_index", "export", "fewshot", "finetune", "generate", "import_model", "iter_predictions",
    "load_tokenizer", "open_corpus", "open_index", "open_run", "predict", "pull", "remove_from_index",
    "report_tokenizer", "resume", "robustness", "search", "serve", "show", "show_corpus", "summarize",
    "trace_corpus", "train", "train_tokenizer", "translate", "triples", "tune", "validate", "verify",
    "verify_determinism",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "Index":  # its module imports torch
        from textus.pipelines.search_index import Index

        return Index
    raise AttributeError(f"module 'textus.api' has no attribute {name!r}")
