"""Families by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from textus.core.config import from_dict
from textus.core.names import unknown_name_error
from textus.core.plugins import entry_points
from textus.models.contract import LanguageModel

FAMILIES = {
    "decoder": ("textus.models.decoder", "Decoder", "DecoderConfig"),
    "encoder": ("textus.models.encoder", "Encoder", "EncoderConfig"),
    "encoder-decoder": ("textus.models.encoder_decoder", "EncoderDecoder", "EncoderDecoderConfig"),
    "fake": ("textus.models.testing", "Fake", "FakeConfig"),
    "gan": ("textus.models.gan", "GAN", "GANConfig"),
    "gru": ("textus.models.rnn", "RNN", "GRUConfig"),
    "hmm": ("textus.models.hmm", "HMM", "HMMConfig"),
    "lstm": ("textus.models.rnn", "RNN", "LSTMConfig"),
    "ngram": ("textus.models.ngram", "NGram", "NGramConfig"),
    "rnn": ("textus.models.rnn", "RNN", "RNNConfig"),
    "seq2seq": ("textus.models.seq2seq", "Seq2Seq", "Seq2SeqConfig"),
    "vae": ("textus.models.vae", "VAE", "VAEConfig"),
}
"""Family name → module, model class, config class. A new family is one file and one line here, or an entry point."""


CLASSIFIERS = {"linear": ("textus.models.linear", "LinearTextModel", "LinearConfig")}
"""Families that learn classes only, by `textus finetune`."""


def family_names() -> list[str]:
    """The language-model families, those of installed packages included."""
    built_in = [name for name in FAMILIES if name != "fake"]
    return [*built_in, *entry_points("textus.families", FAMILIES | CLASSIFIERS)]


def family(name: str) -> tuple[type[LanguageModel], type]:
    """The model class and the config class of a family.

    An installed package registers its model class, whose `config_class` names the config, under the entry point
    group `textus.families`. UsageError for an unknown name, TextusError for a package that cannot be imported.
    """
    built_in = FAMILIES | CLASSIFIERS
    if name in built_in:
        module_name, model, config = built_in[name]
        module = import_module(module_name)
        return getattr(module, model), getattr(module, config)
    plugins = entry_points("textus.families", built_in)
    if name not in plugins:
        raise unknown_name_error("model", name, [*family_names(), *CLASSIFIERS])
    model_class = plugins[name]()
    return model_class, model_class.config_class


def build(name: str, config: dict[str, Any] | Any) -> LanguageModel:
    """A new model of a family, from its config or that config's JSON values. Weights follow torch's global
    seed.
    """
    model_class, config_class = family(name)
    if isinstance(config, dict):
        config = from_dict(config_class, config, "model.")
    return model_class(config)  # type: ignore[call-arg]
