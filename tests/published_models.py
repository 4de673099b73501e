"""Random checkpoints in the layouts of published reward models, with tokenizers of their shape.

The pre-tokenizers are those of Llama 3 and Qwen2: a full stop and the line ends after it may be one
token, and runs of line ends are.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tiny_models import SCALED

_LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_SPLIT = _LLAMA_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
LLAMA_SPECIAL = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>")
_TEXT = (
    "What is 3 + 4? Step 1: start at 3.\n\nStep 2: go on by 4.\n\nSo the answer is 7. It is "
    "correct.\nassistant\nassistant\nuser\nsystem\ncorrect\nincorrect assistant user\n\n + - ки"
    " \n\n\n\nx \n\n\n\n\ny.\n\n"
)

LLAMA_CHAT = (
    "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' }}"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] | trim }}"
    "{% set messages = messages[1:] %}{% endif %}{{ '<|eot_id|>' }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_CHAT = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n' }}{% endif %}{% for message in messages %}"
    "{% if message['role'] != 'system' %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chats of Llama 3.1 and Qwen2.5, as far as they have text only."""


@cache
def _trained(split: str, special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=440,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True) for token in special],
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT] * 4, trainer)
    return tokenizer.to_str()


def llama_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(_trained(_LLAMA_SPLIT, LLAMA_SPECIAL))


def qwen_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(_trained(_QWEN_SPLIT, QWEN_SPECIAL))


def save_model(
    folder: Path, class_name: str, tokenizer: Tokenizer, *, chat: str | None = None, **config: Any
) -> Any:
    """A random model of transformers' class ``class_name``, with its tokenizer; returns it."""
    import torch
    import transformers

    kind = class_name.partition("For")[0].removesuffix("Model")
    is_llama = kind in ("Llama", "Mistral")
    torch.manual_seed(zlib.crc32(repr((class_name, sorted(config))).encode()))
    settings = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 64,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "bos_token_id": 0 if is_llama else None,
            "pad_token_id": None,
            **({"rope_scaling": SCALED["llama3"]} if kind == "Llama" else {}),
            **config,
        }
    )
    model = getattr(transformers, class_name)(settings).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if name.endswith("bias") or "norm" in name else 0.15
            parameter.add_(scale * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {
        "bos_token": "<|begin_of_text|>" if is_llama else None,
        "eos_token": "<|eot_id|>" if is_llama else "<|im_end|>",
        **({} if chat is None else {"chat_template": chat}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return model


def rename_architecture(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [name]
    (folder / "config.json").write_text(json.dumps(config))


def fast_tokenizer(folder: Path) -> Any:
    """transformers' view of the same tokenizer."""
    from transformers import PreTrainedTokenizerFast

    described = json.loads((folder / "tokenizer_config.json").read_text())
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **described)
