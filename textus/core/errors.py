"""The errors of Textus and their codes.

The tree (`exit_code` is what the command line returns)::

    TextusError (1)                 the work failed
    ├── UsageError (2)              an option, value or name is wrong; also a ValueError
    ├── DataError (1)               the text or table cannot be used
    ├── RunError (1)                a run, corpus, tokenizer or model folder is missing, damaged or of another kind
    ├── TrainingError (1)           training cannot continue (not a number, no space left)
    └── MissingDependencyError (1)  an optional dependency is not installed

Each error has a `code` of `CODES`, which stays the same when the wording changes, and a message of one line: what
happened, the value, the remedy.
"""

from __future__ import annotations


class CodedError(Exception):
    """An error with a stable `code` and a `message`, which is also its text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return self.message


class TextusError(CodedError):
    """The work failed."""

    exit_code = 1


class UsageError(TextusError, ValueError):
    """An option, value or name is wrong."""

    exit_code = 2


class DataError(TextusError):
    """The text or table cannot be used."""


class RunError(TextusError):
    """A run, corpus, tokenizer or model folder is missing, damaged or of another kind."""


class TrainingError(TextusError):
    """Training cannot continue."""


class MissingDependencyError(TextusError):
    """An optional dependency is not installed."""


OPTIONS = {
    "ambiguous_text": "A string could be a text or the name of a file. Give a Path for a"
    " file, --text or a list for a text.",
    "conflicting_options": "Two options exclude each other. Leave one out.",
    "duplicate_name": "Two things have one name. Rename one.",
    "incompatible_settings": "Two settings do not fit together. The message names both.",
    "invalid_arguments": "The arguments of a command are wrong. See textus COMMAND --help.",
    "invalid_value": "An option or setting is written wrongly. The message shows the form.",
    "missing_argument": "Something is needed and was not given.",
    "not_implemented": "A feature that is planned. The message has what can be used today.",
    "option_not_applicable": "The option has no effect here. Leave it out.",
    "out_of_range": "A number is outside of its range. The message has the range.",
    "size_mismatch": "Two things must have the same length or shape.",
    "unknown_name": "No such name. The message lists the known ones.",
    "wrong_type": "A Python value of another type is needed.",
}
FILES = {
    "already_exists": "The output exists. Choose another --out, or replace it with --force"
    " where that is offered.",
    "checksum_mismatch": "A downloaded file is not the known one. It was not imported.",
    "damaged": "A file was changed, cut short, or was not written by Textus. Use a copy, or make it again.",
    "disk_full": "No space is left to write. Free some; the last good checkpoint is kept.",
    "download_failed": "A package could not be downloaded. Check the package index.",
    "extra_broken": "An optional dependency is installed and cannot be imported. Reinstall it.",
    "extra_not_installed": "An optional dependency is missing. The message has the command that installs it.",
    "in_use": "Another process works in this folder or engine. Wait for it, or choose another.",
    "invalid_path": "This path cannot be used here. Choose another.",
    "out_of_memory": "The model, batch or context does not fit into memory. Use a smaller one.",
    "not_a_regular_file": "A pipe, device or link where a file is needed. Use a copy of the file.",
    "not_found": "A file, folder or document does not exist.",
    "plugin_broken": "An installed package adds to Textus and cannot be imported. Repair or uninstall it.",
    "unreadable_file": "A file cannot be read.",
    "unsafe_file": "A file could run a program or forge tokens when it is read. It was not opened.",
    "version_unsupported": "The folder was written by another version. Make it again.",
}
TEXT = {
    "column_not_found": "A column or field does not exist. Name it with --columns FIELD=COLUMN.",
    "duplicate_column": "Two columns have one name. Rename all but one.",
    "empty_data": "There is no text or row to work on. Give data that is not empty.",
    "incompatible_data": "This kind of data does not fit the model, task or option.",
    "invalid_row": "A labelled row is malformed. Correct it, or leave it out with --skip-invalid.",
    "invalid_rows": "Several rows cannot be used. Correct them, or leave them out with --skip-invalid.",
    "invalid_span": "The place of a label or answer is not in its text. Correct the offsets.",
    "invalid_unicode": "The text has half characters (lone surrogates). Repair it.",
    "malformed_json": "JSON that cannot be parsed, or of another form than expected.",
    "malformed_table": "A csv, tsv or CoNLL file cannot be parsed. The message names the line.",
    "mixed_data": "Data of two kinds is mixed. Give one kind.",
    "no_labels": "None of the rows has a label of this task.",
    "not_classes": "A label column has too many different values for classes. Name the right column.",
    "not_text": "The file is binary.",
    "one_class": "All rows have the same label or number. Give rows of two or more.",
    "record_too_long": "One record or page has too many characters. Split it.",
    "rows_already_augmented": "The rows are copies. Augment the originals.",
    "too_few_rows": "There are too few rows to train on some and validate on others.",
    "too_little_data": "There is too little text for this.",
    "unknown_encoding": "The encoding is unknown or cannot be determined. Name it with --encoding.",
    "unreadable_rows": "Lines of a table cannot be parsed. The message names them.",
    "unsupported_format": "The file is of a format that is not read.",
    "wrong_number_of_texts": "A row has one text where two are needed, or the other way round.",
}
RUNS = {
    "all_trials_failed": "No trial of a search finished. The message has the reason of the last one.",
    "data_changed": "The data, parent or tokenizer is not what the run was started with."
    " Bring the old one back, or train anew.",
    "internal_error": "A fault of Textus. Set TEXTUS_DEBUG=1 for the traceback, and report it.",
    "interrupted": "Stopped by a signal. The work is saved; the message has the command that continues it.",
    "not_a_corpus": "The folder is no corpus. Make one with textus corpus build.",
    "not_a_language_model": "The run was fine-tuned for a task and does not generate text.",
    "not_a_run": "The folder is no run. Make one with textus train or textus import.",
    "not_an_index": "The folder is no search index. Make one with textus index build.",
    "not_fine_tuned": "The run was not fine-tuned for a task. Make one with textus finetune.",
    "not_fitted": "The model was not trained yet.",
    "not_reproduced": "A resumed training ended in other weights.",
    "run_unfinished": "Training did not finish. Continue it with textus resume.",
    "runs_differ": "The runs do not fit together: other tasks, classes, data or weights.",
    "training_diverged": "The loss is not a number. Lower the learning rate.",
    "wrong_task": "The run was fine-tuned for another task.",
}
MODELS = {
    "cannot_encode": "The tokenizer cannot encode this text. Use another tokenizer.",
    "context_exceeded": "The text has more tokens than the model's context holds. Shorten it,"
    " or train with a longer context.",
    "incomplete_model": "A file of the model is missing. Fetch it.",
    "invalid_weights": "The model computes NaN or infinite numbers. Use an earlier checkpoint.",
    "not_a_tokenizer": "The file is no tokenizer that can be used.",
    "tensor_missing": "The weights lack a tensor that the configuration asks for.",
    "tensor_unknown": "The weights have a tensor that the configuration does not explain.",
    "tokenizer_training_failed": "The tokenizer library failed.",
    "unknown_id": "A token id is outside of the vocabulary. Use the model's own tokenizer.",
    "unsupported_architecture": "The model is of an architecture that is not known.",
    "unsupported_export": "The model has no equal in the other format.",
    "unsupported_kernel": "The chosen step or attention cannot compute this model on this machine.",
    "unsupported_model": "This family or model cannot do that. Use another.",
    "unsupported_setting": "A setting of an imported model that changes what it computes is not supported.",
    "unsupported_tokenizer": "A tokenizer of this kind is not supported.",
    "weights_mismatch": "The weights do not fit the configuration.",
}
SERVING = {
    "address_in_use": "Another program listens on this port. Choose another --port.",
    "address_not_available": "The host is no address of this machine, or the port is reserved. Use"
    " 127.0.0.1 and a port above 1023.",
    "closed": "The server or engine is shut down. Start it again.",
    "generation_failed": "The model failed while generating. Check the run with textus verify.",
    "invalid_message": "A message of a conversation is malformed.",
    "special_token_in_message": "A message spells a special token that this tokenizer cannot keep apart.",
    "template_failed": "The chat template is broken.",
    "template_limit": "The chat template does too much work or writes too much.",
    "template_missing": "The tokenizer has no chat template.",
    "template_refusal": "The chat template refuses these messages.",
    "template_unsupported": "The chat template uses something that is not supported.",
}

CODES = {
    "Options and values": OPTIONS,
    "Files and this machine": FILES,
    "Texts and rows": TEXT,
    "Runs and training": RUNS,
    "Models, tokenizers and their exchange": MODELS,
    "Conversations and the server": SERVING,
}
"""Chapter → code → what it means, and the remedy; `docs/errors.md` is made of it."""
