"""A chat template is a program of the checkpoint's: it may write text around two others, and
nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("jinja2")

from published_models import LLAMA_CHAT, QWEN_CHAT
from rfprm_export import ExportError
from rfprm_export.chat_template import (
    chat_format,
    read_chat_template,
    read_tokenizer_config,
    special_tokens,
)

TURNS = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"


def test_the_fixed_texts_of_a_chat_are_found() -> None:
    found = chat_format(QWEN_CHAT, {}, "Be strict.")
    assert found.opening == "<|im_start|>system\nBe strict.<|im_end|>\n<|im_start|>user\n"
    assert found.middle == "<|im_end|>\n<|im_start|>assistant\n"
    assert found.closing == "<|im_end|>\n"
    assert not found.strips
    assert found.fill(" q ", "a\n") == f"{found.opening} q {found.middle}a\n{found.closing}"


def test_a_template_that_trims_is_recognised() -> None:
    found = chat_format(LLAMA_CHAT, {"bos_token": {"content": "<|begin_of_text|>"}}, None)
    assert found.strips
    assert found.opening.startswith("<|begin_of_text|><|start_header_id|>system")
    assert found.closing == "<|eot_id|>"


def test_the_date_of_a_template_does_not_depend_on_the_day() -> None:
    for format, day in (("%d %b %Y", "26 Jul 2024"), ("%Y-%m-%d", "2024-07-26")):
        found = chat_format("{{ strftime_now('" + format + "') }}" + TURNS, {}, None)
        assert found.opening == f"{day}[user]"
        assert found.notes == ("writes today's date, taken to be 26 July 2024",)
    assert not chat_format(TURNS, {}, None).notes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("c.rstrip()", "white space"),
        ("c.strip('\\n')", "white space"),
        ("c.lstrip('\\n')", "white space"),
        ("c.strip() if m['role'] == 'user' else c", "white space"),
        ("c.split('</think>')[-1]", "<think>"),
        ("c if '<think>' in c else '<think></think>' + c", "<think>"),
    ],
)
def test_what_a_template_does_to_some_texts_is_said(change: str, said: str) -> None:
    template = TURNS.replace("{{ m['content'] }}", "{% set c = m['content'] %}{{ " + change + " }}")
    [note] = chat_format(template, {}, None).notes
    assert said in note


def test_marks_for_training_are_plain_text() -> None:
    marked = TURNS.replace(
        "{{ m['content'] }}", "{% generation %}{{ m['content'] }}{% endgeneration %}"
    )
    assert chat_format(marked, {}, None) == chat_format(TURNS, {}, None)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0]['content'] }}", "does not write the question and then the answer"),
        ("{{ messages[1]['content'] ~ messages[0]['content'] }}", "does not write the question"),
        (TURNS * 2, "does not write the question and then the answer, each once"),
        (TURNS.replace("m['content']", "m['content'] | upper"), "does not write the question"),
        (TURNS.replace("m['content']", "m['content'] | replace('Step', 'X')"), "changes the texts"),
        ("{{ raise_exception('only images') }}", "it refuses the chat: only images"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ undefined_function() }}", "UndefinedError"),
        ("{{ 'x' * 3000000 }}" + TURNS, "writes 3000"),
        # It may neither look around nor run for ever.
        ("{{ cycler.__init__.__globals__.os.getcwd() }}" + TURNS, "SecurityError|UndefinedError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}" + TURNS, "SecurityError|UndefinedError"),
        ("{{ messages.append({}) }}" + TURNS, "SecurityError"),
        ("{% include '/etc/passwd' %}" + TURNS, "no loader"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "does not end",
        ),
        (
            "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
            "{% endfor %}",
            "does not end|MemoryError",
        ),
    ],
)
def test_a_template_that_does_more_is_refused(
    template: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfprm_export.chat_template._SECONDS", 3.0)
    with pytest.raises(ExportError, match=said):
        chat_format(template, {}, None)


def test_the_process_finds_no_modules_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that users run rfprm in may hold a ``jinja2.py`` or a ``json.py``."""
    for name in ("jinja2", "json", "rfprm_export"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert chat_format(TURNS, {}, None).middle == "[assistant]"
    assert not os.path.exists(tmp_path / "ran")


def test_where_a_template_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="give the template that it was trained with by --chat"):
        read_chat_template(tmp_path, None)
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "listed"}]
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": named}))
    assert read_chat_template(tmp_path, None) == "listed"
    config.write_text(json.dumps({"chat_template": "in the config"}))
    assert read_chat_template(tmp_path, None) == "in the config"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "of its own"}))
    assert read_chat_template(tmp_path, None) == "of its own"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert read_chat_template(tmp_path, None) == "jinja"
    (tmp_path / "given").write_text("given")
    assert read_chat_template(tmp_path, tmp_path / "given") == "given"
    (tmp_path / "given").write_bytes(b"\xff")
    with pytest.raises(ExportError, match="cannot be read"):
        read_chat_template(tmp_path, tmp_path / "given")


def test_special_tokens_of_older_checkpoints_are_found(tmp_path: Path) -> None:
    """transformers reads their second file unless the first lists all added tokens."""
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}}')
    for config, begin in (
        ({}, "<s>"),
        ({"bos_token": None}, "<s>"),
        ({"bos_token": "<b>"}, "<b>"),
        ({"added_tokens_decoder": {}}, None),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert special_tokens(read_tokenizer_config(tmp_path)).get("bos_token") == begin
