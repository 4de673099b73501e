"""Fine-tunes the base model of the shipped PRM on prompts and completions; resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerFast
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from rfprm_export.base_model import read_base_model
from rfprm_export.named_base import find_base_model
from rfprm_export.shipped import shipped_checkpoint
from rfprm_training.construction.sampling.line_sampler import causal_lm
from rfprm_training.learning.config import read_config
from rfprm_training.learning.precision import is_fast_in_bfloat16

LINEARS = tuple(f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down"))
"""What adapters are put on."""


def base_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    checkpoint = shipped_checkpoint()
    return find_base_model(read_config(checkpoint / "config.toml").base, checkpoint)


def tokenizer() -> PreTrainedTokenizerFast:
    make: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = make(
        tokenizer_object=read_base_model(base_path()).tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
    )
    return made


def fine_tune(
    rows: Dataset, output: Path, *, epochs: float, seed: int = 0, first_layer: int = 0
) -> Path:
    """Train a LoRA adapter on ``rows`` (``prompt``, ``completion``) with TRL's SFTTrainer and merge
    it; returns the model's folder. What is there is kept. Layers below ``first_layer`` stay as they
    are, which saves their backward pass."""
    model_folder, checkpoints = output / "model", output / "checkpoints"
    if (model_folder / "config.json").is_file():
        return model_folder
    processing = tokenizer()
    model = causal_lm(base_path())
    # On a CPU the backward pass of torch's fused attention takes longer than plain products do.
    model.set_attn_implementation("eager")
    trained = list(range(first_layer, model.config.num_hidden_layers))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(checkpoints),
            num_train_epochs=epochs,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            max_length=512,
            train_sampling_strategy="group_by_length",
            gradient_checkpointing=False,
            save_steps=5,
            save_total_limit=1,
            logging_steps=5,
            report_to="none",
            use_cpu=True,
            bf16=is_fast_in_bfloat16(torch.device("cpu")),
            seed=seed,
        ),
        train_dataset=rows,
        processing_class=processing,
        peft_config=LoraConfig(
            r=32,
            lora_alpha=64,
            target_modules=list(LINEARS),
            layers_to_transform=trained,
        ),
    )
    last: Any = get_last_checkpoint
    trainer.train(resume_from_checkpoint=last(str(checkpoints)) if checkpoints.is_dir() else None)
    adapted: Any = trainer.model
    processing.save_pretrained(model_folder)
    adapted.merge_and_unload().save_pretrained(model_folder)
    return model_folder
