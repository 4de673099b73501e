"""A real OpenAI-compatible server with a real model: ``transformers serve`` and the base model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder."""
    from transformers import PreTrainedTokenizerFast

    from rfprm_export.base_model import read_base_model
    from rfprm_export.checkpoint import find_base_model, read_checkpoint
    from rfprm_export.shipped import shipped_checkpoint
    from rfprm_training.construction.sampling.line_sampler import language_model

    checkpoint = shipped_checkpoint()
    base = read_base_model(find_base_model(read_checkpoint(checkpoint).base, checkpoint))
    folder = tmp_path_factory.mktemp("smollm2")
    language_model(base).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=base.tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def server_url(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    program = Path(sys.executable).with_name("transformers")
    process = subprocess.Popen(
        [program, "serve", chat_model, "--port", str(port), "--device", "cpu"],
        stdout=log,
        stderr=log,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        deadline = time.monotonic() + 180
        while True:
            assert process.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, "the server did not come up"
            try:
                if httpx.get(f"http://localhost:{port}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield f"http://localhost:{port}/v1"
    finally:
        process.terminate()
        process.wait()
        log.close()
