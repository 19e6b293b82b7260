"""Families by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from textus.core.config import from_dict
from textus.core.names import unknown_name_error
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
"""Family name → module, model class, config class. A new family is one file and one line here."""


CLASSIFIERS = {"linear": ("textus.models.linear", "LinearTextModel", "LinearConfig")}
"""Families that learn classes only, by `textus finetune`."""


def family(name: str) -> tuple[type[LanguageModel], type]:
    """The model class and the config class of a family; UsageError naming the nearest for one that is not
    there.
    """
    known = FAMILIES | CLASSIFIERS
    if name not in known:
        raise unknown_name_error("model", name, [each for each in known if each != "fake"])
    module_name, model, config = known[name]
    module = import_module(module_name)
    return getattr(module, model), getattr(module, config)


def build(name: str, config: dict[str, Any] | Any) -> LanguageModel:
    """A new model of a family, from its config or that config's JSON values. Weights follow torch's global
    seed.
    """
    model_class, config_class = family(name)
    if isinstance(config, dict):
        config = from_dict(config_class, config, "model.")
    return model_class(config)  # type: ignore[call-arg]
