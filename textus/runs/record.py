"""What run.json of a run holds. It is written last, so a folder without it is no finished run."""

from __future__ import annotations

from typing import Any, TypedDict


class RunRecord(TypedDict, total=False):
    """The record of a run. Fields after `isa` exist only for the kind of run in the comment above them."""

    version: int
    status: str  # running or finished
    family: str  # name in models.registry
    config: dict[str, Any]  # the family's config
    settings: dict[str, Any]  # training.trainer.TrainSettings
    compute: dict[str, Any]  # training.trainer.ComputeConfig
    measured: dict[str, Any]  # seconds of each way to compute a step
    seed: int
    request: dict[str, Any]  # the options that were given
    corpus: Any  # path and fingerprint; of labelled rows also dev, columns, encoding
    tokenizer: dict[str, Any]  # kind and fingerprint
    budget: dict[str, Any] | None  # training.trainer.CpuBudget
    command: str
    versions: dict[str, str]  # of packages
    isa: str  # instruction sets of the processor
    files: dict[str, str]  # name → SHA-256

    # of a run that continues another
    parent: Any  # its path, or None
    parent_weights: Any  # their SHA-256, or None

    # of a finished run
    steps: int
    weights: dict[str, Any]  # the step of the weights to use, and why
    best: dict[str, Any] | None
    schedule_cuts: list[dict[str, Any]]
    cpu_seconds: float
    seconds: float
    peak_memory_bytes: int

    # of an imported run
    imported: dict[str, Any]
    chat_fault: str  # why its chat template was refused

    # where input embeddings came from a file
    embeddings: dict[str, Any]

    # of a run fine-tuned for a task
    task: Any  # its name; "chat" for an imported chat model, None for one that continues texts
    task_settings: dict[str, Any]
    labels: list[str]
    label_counts: list[int]
    label_type: str
    n_texts: list[int]
    heads: dict[str, Any]
    head_name: str
    method: str
    method_settings: dict[str, Any]
    augment: dict[str, Any] | None
    solved: dict[str, Any]  # how heads were solved before the first step
    held_out: dict[str, Any]  # scores on held-out rows
    mix: dict[str, Any]  # how steps are dealt out to several tasks
    extra_tasks: dict[str, dict[str, Any]]
