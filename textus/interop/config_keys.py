"""Keys of config.json: those that an architecture reads or that change nothing, and what becomes of all others.

A key that changes what a model computes and is not read here would make every answer wrong without a word, so a key
that sounds like one is refused by name; any other that is not known is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from textus.core.console import log_notice
from textus.core.errors import UsageError
from textus.interop.validate import short_repr


def names_in(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


HARMLESS = names_in(
    """_name_or_path _commit_hash architectures model_type dtype torch_dtype transformers_version auto_map
        id2label label2id num_labels problem_type finetuning_task task_specific_params prefix tokenizer_class
        chunk_size_feed_forward gradient_checkpointing keys_to_ignore_at_inference tf_legacy_loss torchscript
        use_bfloat16 use_cache use_return_dict return_dict return_dict_in_generate output_attentions
        output_hidden_states output_past output_scores initializer_range initializer_factor pretraining_tp
        bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id mask_token_id
        decoder_start_token_id forced_bos_token_id forced_eos_token_id bad_words_ids suppress_tokens
        begin_suppress_tokens max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups
        diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
        encoder_no_repeat_ngram_size num_return_sequences remove_invalid_values exponential_decay_length_penalty
        cross_attention_hidden_size tie_word_embeddings quantization_config max_sequence_length model_max_length"""
)
"""Names, defaults of generating, and what only training reads."""
HARMLESS_KINDS = re.compile(
    r"dropout|pdrop|flash|attn_implementation|^summary_|^unsloth|^_(?!rope)|_aux_loss|^pooler_"
)

COMPUTES = re.compile(
    r"causal|multiplier|softcap|scal(e|ar|ing)|expert|moe|router|clip|clamp|rope|rotary|window|norm|alibi|interleav|activation"
    r"|bias|sparse|block|conv|lora|quant|parallel|residual|position|direction|sink|latent|predict|mtp|nextn|shar(e|ing)"
    r"|embedding|logit|attention|attn|query|_act|layer|pruned|decoder|mixer|ssm|state|group"
)
"""What keys are called that change what a model computes."""
OURS = names_in(
    "scale_attn_weights use_rope use_rotary use_rotary_embedding use_rotary_embeddings use_gated_mlp"
)
CAUSAL = names_in("is_causal causal use_causal_mask use_causal_attention")
"""Switches of what every model here has, and every one that reads from left to right: off, it is another model."""
ZERO = re.compile(r"softcap|expert|moe|chunk|clip|clamp|window|mtp|nextn|predict|lora|sparse|sink|latent")
"""Keys that 0 switches off."""
ONE = re.compile(r"multiplier|scal(e|ing)|partial|factor")
"""Keys that 1 switches off."""


def check_keys(hf: dict[str, Any], known: Iterable[str], where: str, *, causal: bool = True) -> None:
    """UsageError for a key that changes what is computed and is not among the `known` ones, unless its value switches
    it off; a notice names those that are not known and do not sound like one. `causal`: the model reads from left to
    right.
    """
    known, odd = {*known, *HARMLESS}, []
    kept = OURS | CAUSAL if causal else OURS
    for key, value in hf.items():
        if key in known or HARMLESS_KINDS.search(key):
            continue
        if value in (True, None) if key in kept else is_switched_off(key, value):
            continue
        if key in kept or COMPUTES.search(key):
            raise UsageError(
                "unsupported_setting",
                f"{key}={short_repr(value)} is not supported for {config_name(hf)}; it changes what"
                " the model computes, so ignoring it would give wrong outputs",
            )
        odd.append(key)
    if odd:
        log_notice(f"{where}: {len(odd)} keys are not known and not read: {', '.join(odd)}")


def config_name(hf: dict[str, Any]) -> str:
    """The class that a configuration names."""
    return str((hf.get("architectures") or ["this architecture"])[0])


def is_switched_off(key: str, value: Any) -> bool:
    """Whether a key's value leaves the computation as it is without the key."""
    if value is None or value is False or value in ([], {}, ""):
        return True
    if key == "no_rope_layers":  # 1 where a layer's queries and keys are turned
        return isinstance(value, list) and all(item == 1 for item in value)
    if key == "layer_types":
        return isinstance(value, list) and set(value) == {"full_attention"}
    if type(value) not in (int, float):
        return False
    if value == 0:
        return bool(ZERO.search(key))
    return value == 1 and bool(ONE.search(key)) and key != "attention_multiplier"


def check_model_type(hf: dict[str, Any], types: Iterable[str]) -> None:
    """UsageError where config.json names a class of one model and the `model_type` of another."""
    types = sorted(types)
    if (model_type := hf.get("model_type")) is not None and model_type not in types:
        raise UsageError(
            "unsupported_architecture",
            f"model_type={short_repr(model_type)} does not match {config_name(hf)} ({', '.join(types)});"
            " transformers would build another model",
        )
