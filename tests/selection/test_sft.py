"""A selection goes straight into a trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rfprm_runtime.selection import OutputOptions, Selection, select_traces
from selection.selection_helpers import traces, write_jsonl
from tiny_models import byte_tokenizer, fake_scorer

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
)


def tiny_llama() -> tuple[Any, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), eos_token="<|im_end|>", pad_token="<repo_name>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), tokenizer


def seen_by(trainer: Any, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(row["input_ids"]) for row in trainer.train_dataset]


@pytest.mark.slow
# TRL's own default uses a name that transformers has deprecated.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_output_trains_a_model_with_trl(tmp_path: Path, suffix: str) -> None:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    source, output = tmp_path / f"in{suffix}", tmp_path / f"best{suffix}"
    rows = [{**row, "labels": [True, False]} for row in traces(20)]
    if suffix == ".jsonl":
        write_jsonl(source, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), source)
    with fake_scorer() as scorer:
        options = OutputOptions(sft=True)
        select_traces(scorer, source, output, Selection(top=6), options=options)

    kind = "json" if suffix == ".jsonl" else "parquet"
    data = load_dataset(
        kind, data_files=str(output), split="train", cache_dir=str(tmp_path / "cache")
    )
    model, tokenizer = tiny_llama()
    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=3,
            per_device_train_batch_size=2,
            max_length=256,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            shuffle_dataset=False,
            disable_tqdm=True,
        ),
        train_dataset=data,
        processing_class=tokenizer,
    )
    texts = seen_by(trainer, tokenizer)
    assert len(texts) == 6
    for text, row in zip(texts, data, strict=True):
        assert row["question"] in text
        assert row["original_completion"] in text
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps(losses))
    assert len(losses) == 3
    assert all(0 < loss < 20 for loss in losses)
