"""Every published layout gives the tokens and the scores of its authors' own procedure.

The procedures are written anew with transformers, as the sources that the presets name describe
them; the models are random, in the layouts of the real ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from tokenizers import Tokenizer

from published_models import (
    LLAMA_CHAT,
    QWEN_CHAT,
    fast_tokenizer,
    llama_tokenizer,
    qwen_tokenizer,
    rename_architecture,
    save_model,
)
from rfprm_export import ExportError
from rfprm_export.checkpoint import load_prm
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.preset import ReadingOptions
from rfprm_export.qwen2_layout import FAMILY_FIELD, write_qwen2_layout
from rfprm_export.vocabulary.folder import open_tokenizer
from rfprm_runtime import Trajectory
from rfprm_runtime.backends.torch import TorchBackend, build_network
from rfprm_runtime.engine.rows import TokenBatch
from rfprm_runtime.scorer import Scorer
from rfprm_runtime.scores.readout import softmax
from tokenizer_files import NORMAL, bpe_pieces, model_proto, write_sentencepiece

QUESTION = "What is 3 + 4?"
STEPS = ("Start at 3.", "Go on by 4:\n3 + 4 = 7.", "So the answer is 7 – “sieben”.")
RESPONSE = ("It is 7.", "Correct!")
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."

_FOVER_TASK = (
    "** Problem **\n{problem}\n\n** Task **\nYour task is to evaluate the accuracy of each "
    "step in the provided solution to the above question. For each step, respond with "
    '"correct" if the reasoning is logically valid and mathematically sound, or if the step '
    "is a general statement or transition that does not contain reasoning. Respond with "
    '"incorrect" if the step includes any errors or flawed logic.\n\n** Sotluion **\n{step}'
)

Ids = list[int]
Found = tuple[Ids, list[float]]
"""The tokens of the authors' prompt, and their scores."""


def _scorer(prm: LoadedPRM, **options: Any) -> Scorer:
    network = build_network(prm.manifest.backbone, prm.manifest.head, prm.weights)
    return Scorer(prm.manifest, prm.encoder(), TorchBackend(network, device="cpu"), **options)


def _logits(model: Any, ids: Ids) -> Any:
    with torch.no_grad():
        found = model(torch.tensor([ids]))
    return found.logits[0]


def _of_two(model: Any, ids: Ids, rows: Sequence[int], tokens: Sequence[int], right: int) -> Found:
    logits = _logits(model, ids)[list(rows)][:, list(tokens)]
    return ids, logits.softmax(-1)[:, right].tolist()


def _check(prm: LoadedPRM, theirs: Found) -> None:
    """Steps only: ids up to the last token that is read, and scores."""
    trajectory = Trajectory(question=QUESTION, steps=STEPS)
    row = prm.encoder().encode(trajectory)
    ids, scores = theirs
    assert row.token_ids.tolist() == ids[: row.num_tokens]
    with _scorer(prm) as scorer:
        found = scorer.score(QUESTION, STEPS)
    np.testing.assert_allclose(found.step_scores, scores, atol=1e-5)


# Chats in which a verdict follows each step.


def _chat_rows(tokenizer: Any, turns: Sequence[str], verdict: str) -> tuple[Ids, list[int]]:
    """A chat of ``turns``, each answered by ``verdict``, and the token before each answer."""
    chat: list[dict[str, str]] = []
    rows = []
    ids: Ids = []
    for turn in turns:
        chat.append({"role": "user", "content": turn})
        opened = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        rows.append(len(opened) - 1)
        chat.append({"role": "assistant", "content": verdict})
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
    return ids, rows


@pytest.mark.parametrize("name", ["Llama3.1-8B-PRM-Mistral-Data", "Llama3.1-8B-PRM-Deepseek-Data"])
def test_rlhflow(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    model = save_model(folder, "LlamaForCausalLM", llama_tokenizer(), chat=LLAMA_CHAT)
    tokenizer = fast_tokenizer(folder)
    turns = [f"{QUESTION} {STEPS[0]}", *STEPS[1:]]
    ids, rows = _chat_rows(tokenizer, turns, "+")
    labels = [tokenizer.encode(x, add_special_tokens=False)[-1] for x in "+-"]
    _check(load_prm(folder), _of_two(model, ids, rows, labels, 0))


def test_rlhflow_whole_answers(tmp_path: Path) -> None:
    folder = tmp_path / "Llama3.1-8B-ORM-Mistral-Data"
    model = save_model(folder, "LlamaForCausalLM", llama_tokenizer(), chat=LLAMA_CHAT)
    tokenizer = fast_tokenizer(folder)
    answer = "\n\n".join((*STEPS, *RESPONSE))
    ids, rows = _chat_rows(tokenizer, [f"{QUESTION} {answer}"], "+")
    assert rows == [len(ids) - 3]
    labels = [tokenizer.encode(x, add_special_tokens=False)[-1] for x in "+-"]
    [score] = _of_two(model, ids, rows, labels, 0)[1]
    _check_whole(load_prm(folder), ids, score)


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_fover(tmp_path: Path, kind: str) -> None:
    is_llama = kind == "Llama"
    folder = tmp_path / ("Llama-3.1-8B-FoVer-PRM" if is_llama else "Qwen-2.5-7B-FoVer-PRM")
    own, chat = (llama_tokenizer(), LLAMA_CHAT) if is_llama else (qwen_tokenizer(), QWEN_CHAT)
    model = save_model(folder, f"{kind}ForCausalLM", own, chat=chat)
    tokenizer = fast_tokenizer(folder)
    turns = [_FOVER_TASK.format(problem=QUESTION, step=STEPS[0]), *STEPS[1:]]
    ids, rows = _chat_rows(tokenizer, turns, "correct")
    words = ("incorrect", "correct")
    labels = [tokenizer.encode(word, add_special_tokens=False)[0] for word in words]
    _check(load_prm(folder), _of_two(model, ids, rows, labels, 1))


# Plain text with a separator of ordinary tokens.


def _plain_rows(tokenizer: Any, text: str, marker: str) -> tuple[Ids, list[int]]:
    """The tokens of ``text``, and those that end where a ``marker`` ends."""
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    ends = [place + len(marker) for place in range(len(text)) if text.startswith(marker, place)]
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    return ids, [index for index, (_, end) in enumerate(offsets) if end in ends]


def test_versaprm(tmp_path: Path) -> None:
    folder = tmp_path / "VersaPRM"
    model = save_model(folder, "LlamaForCausalLM", llama_tokenizer())
    tokenizer = fast_tokenizer(folder)
    text = QUESTION + " \n\n" + "".join(f"{step} \n\n\n\n" for step in STEPS)
    ids, rows = _plain_rows(tokenizer, text, " \n\n\n\n")
    assert len(rows) == len(STEPS)
    ids, rows = [tokenizer.bos_token_id, *ids], [row + 1 for row in rows]
    labels = [tokenizer.encode(x, add_special_tokens=False)[-1] for x in "-+"]
    _check(load_prm(folder), _of_two(model, ids, rows, labels, 1))


def test_versaprm_on_qwen(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen-PRM800K"
    model = save_model(folder, "Qwen2ForCausalLM", qwen_tokenizer(), tie_word_embeddings=True)
    tokenizer = fast_tokenizer(folder)
    text = QUESTION + " \n\n" + "".join(f"{step} \n\n\n\n" for step in STEPS)
    ids, rows = _plain_rows(tokenizer, text, " \n\n\n\n")
    labels = [tokenizer.encode(x, add_special_tokens=False)[-1] for x in "-+"]
    _check(load_prm(folder), _of_two(model, ids, rows, labels, 1))


def test_math_psa(tmp_path: Path) -> None:
    folder = tmp_path / "math-psa"
    model = save_model(folder, "Qwen2ForCausalLM", qwen_tokenizer())
    tokenizer = fast_tokenizer(folder)
    tag = " \n\n\n\n\n"
    text = QUESTION + " " + " ".join(f"Step {n}: {step}{tag}" for n, step in enumerate(STEPS, 1))
    ids, rows = _plain_rows(tokenizer, text, tag)
    assert len(rows) == len(STEPS)
    labels = [tokenizer.encode(f" {x}", add_special_tokens=False)[-1] for x in "+-"]
    _check(load_prm(folder), _of_two(model, ids, rows, labels, 0))


def test_er_prm(tmp_path: Path) -> None:
    folder = tmp_path / "Llama3.1-Math-PRM"
    model = save_model(folder, "LlamaForCausalLM", llama_tokenizer())
    tokenizer = fast_tokenizer(folder)
    text = QUESTION + " " + "".join(f"{step} ки" for step in STEPS)
    ids, rows = _plain_rows(tokenizer, text, " ки")
    rows = [row for row in rows if row + 1 == len(ids) or rows.count(row) == 1]
    ids, rows = [tokenizer.bos_token_id, *ids], [row + 1 for row in rows]
    labels = [tokenizer.encode(f" {x}", add_special_tokens=False)[-1] for x in "+-"]
    _check(load_prm(folder), _of_two(model, ids, rows, labels, 0))


# Heads of their own.


def test_qwen_math_prm(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = save_model(folder, "Qwen2Model", qwen_tokenizer(), chat=QWEN_CHAT)
    first, second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)
    _add(folder, {"score.0": first, "score.2": second}, "Qwen2ForProcessRewardModel")
    tokenizer = fast_tokenizer(folder)
    chat = _chat(QUESTION, "<extra_0>".join(STEPS) + "<extra_0>", QWEN_SYSTEM)
    ids = tokenizer.apply_chat_template(chat, return_dict=False)
    rows = [i for i, x in enumerate(ids) if x == tokenizer.convert_tokens_to_ids("<extra_0>")]
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0, rows]
        scores = second(first(hidden).relu()).softmax(-1)[:, 1]
    _check(load_prm(folder), (ids, scores.tolist()))


def test_qwen_math_rm(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = save_model(folder, "Qwen2Model", qwen_tokenizer(), chat=QWEN_CHAT)
    first, second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 1)
    _add(folder, {"score.0": first, "score.2": second}, "Qwen2ForRewardModel")
    tokenizer = fast_tokenizer(folder)
    chat = _chat(QUESTION, "\n\n".join((*STEPS, *RESPONSE)), QWEN_SYSTEM)
    ids = tokenizer.apply_chat_template(chat, return_dict=False)
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0, -1]
        score = second(first(hidden).relu())
    _check_whole(load_prm(folder), ids, float(score))


def test_skywork_o1(tmp_path: Path) -> None:
    """The value head of a wrapper, in a pickled file; each line is encoded by itself."""
    folder = tmp_path / "model"
    model = save_model(folder, "Qwen2Model", qwen_tokenizer())
    head = torch.nn.Linear(64, 1)
    _add(folder, {"v_head.summary": head}, "Qwen2ForPrmModel", pickled=True)
    tokenizer = fast_tokenizer(folder)
    [newline] = tokenizer.encode("\n", add_special_tokens=False)
    ids = tokenizer.encode("<|endoftext|>" + QUESTION + "\n", add_special_tokens=False)
    rows = []
    for step in STEPS:
        ids += [*tokenizer.encode(step, add_special_tokens=False), newline]
        rows.append(len(ids) - 1)
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0, rows]
        scores = head(hidden)[:, 0].sigmoid()
    _check(load_prm(folder), (ids, scores.tolist()))


def test_reasonflux_1_5b(tmp_path: Path) -> None:
    """A language model with ``reward_head.pt`` beside it."""
    folder = tmp_path / "my-copy"
    model = save_model(folder, "Qwen2ForCausalLM", qwen_tokenizer())
    head = torch.nn.Linear(64, 1)
    torch.save(head.state_dict(), folder / "reward_head.pt")
    tokenizer = fast_tokenizer(folder)
    text = QUESTION + "\n\n".join((*STEPS, *RESPONSE))
    ids = tokenizer.encode(text, add_special_tokens=False)
    with torch.no_grad():
        score = head(model.model(torch.tensor([ids])).last_hidden_state[0, -1]).sigmoid()
    prm = load_prm(folder)
    assert prm.manifest.family == "reasonflux-prm-1.5b"
    _check_whole(prm, ids, float(score))
    torch.save({**head.state_dict(), "other": torch.ones(1)}, folder / "reward_head.pt")
    with pytest.raises(ExportError, match="a linear head alone"):
        load_prm(folder)


# Classifiers as transformers saves them.


@pytest.mark.parametrize("separator", ["\n", "\n\n", " \n\n\n\n", "<extra_0>", " ок"])
@pytest.mark.parametrize("kind", ["Qwen2", "Llama", "Mistral"])
def test_token_classifiers(tmp_path: Path, kind: str, separator: str) -> None:
    """As TRL's trainer encodes: bos, the question and the steps, each step with its separator."""
    folder = tmp_path / "model"
    own = qwen_tokenizer() if kind == "Qwen2" else llama_tokenizer()
    model = save_model(folder, f"{kind}ForTokenClassification", own, num_labels=2)
    tokenizer = fast_tokenizer(folder)
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids += tokenizer.encode(QUESTION, add_special_tokens=False)
    rows = []
    for step in STEPS:
        ids += tokenizer.encode(step, add_special_tokens=False)
        ids += tokenizer.encode(separator, add_special_tokens=False)
        rows.append(len(ids) - 1)
    scores = _logits(model, ids)[rows].softmax(-1)[:, 1].tolist()
    _check(load_prm(folder, reading=ReadingOptions(step_separator=separator)), (ids, scores))


def test_pure_scores_are_differences(tmp_path: Path) -> None:
    folder = tmp_path / "PURE-PRM-7B"
    model = save_model(folder, "Qwen2ForTokenClassification", qwen_tokenizer(), num_labels=2)
    tokenizer = fast_tokenizer(folder)
    ids, rows = tokenizer.encode(QUESTION, add_special_tokens=False), []
    for step in STEPS:
        ids += tokenizer.encode(step, add_special_tokens=False)
        ids += tokenizer.encode("\n\n", add_special_tokens=False)
        rows.append(len(ids) - 1)
    p = _logits(model, ids)[rows].softmax(-1)
    prm = load_prm(folder)
    _check(prm, (ids, (p[:, 1] - p[:, 0]).tolist()))
    assert prm.manifest.reward_bounds == (-1, 1)


def _chat(question: str, answer: str, system: str | None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [
        *before,
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


@pytest.mark.parametrize("padding", [None, "last", "other"])
@pytest.mark.parametrize("system", [None, "Be strict."])
@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama"])
def test_sequence_classifiers(
    tmp_path: Path, kind: str, system: str | None, padding: str | None
) -> None:
    """transformers reads the last token that is not padding, whatever it is."""
    folder = tmp_path / "model"
    is_llama = kind == "Llama"
    own = llama_tokenizer() if is_llama else qwen_tokenizer()
    pads = {"last": "<|eot_id|>", "other": "<|finetune_right_pad_id|>"}
    pads = pads if is_llama else {"last": "<|im_end|>", "other": "<|endoftext|>"}
    pad = None if padding is None else own.token_to_id(pads[padding])
    model = save_model(
        folder,
        f"{kind}ForSequenceClassification",
        own,
        chat=LLAMA_CHAT if is_llama else QWEN_CHAT,
        num_labels=1,
    )
    config = folder / "config.json"
    config.write_text(
        config.read_text().replace('"pad_token_id": null', f'"pad_token_id": {pad}')
        if pad is not None
        else config.read_text()
    )
    model.config.pad_token_id = pad
    tokenizer = fast_tokenizer(folder)
    answer = "\n\n".join((*STEPS, *RESPONSE))
    ids = tokenizer.apply_chat_template(_chat(QUESTION, answer, system), return_dict=False)
    score = float(_logits(model, ids)[0])
    _check_whole(load_prm(folder, reading=ReadingOptions(system_prompt=system)), ids, score)


def _check_whole(prm: LoadedPRM, ids: Ids, score: float) -> None:
    """One number for a whole answer; of prefixes, if they are asked for, too."""
    row = prm.encoder().encode(Trajectory(question=QUESTION, steps=STEPS, response=RESPONSE))
    assert row.token_ids.tolist() == ids[: row.num_tokens]
    with _scorer(prm) as scorer:
        found = scorer.score(QUESTION, STEPS, RESPONSE)
        alone = [scorer.score(QUESTION, STEPS[:end]).reward for end in (1, 2, 3)]
    assert found.trajectory_score == pytest.approx(score, abs=1e-5)
    assert found.reward == found.trajectory_score
    assert len(found.step_scores) == 0
    with _scorer(prm, score_prefixes=True) as scorer:
        again = scorer.score(QUESTION, STEPS, RESPONSE)
        session = scorer.session(QUESTION)
        grown = [session.extend([STEPS[0]]), session.extend(STEPS[1:])]
        ended = session.score(RESPONSE)
    assert again.reward == pytest.approx(found.reward, abs=1e-6)
    np.testing.assert_allclose(again.step_scores, alone, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(grown), alone, atol=1e-5)
    assert ended.reward == pytest.approx(found.reward, abs=1e-5)


def _add(folder: Path, heads: dict[str, Any], architecture: str, *, pickled: bool = False) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = {f"model.{name}": x for name, x in load_file(path).items()}
    for name, head in heads.items():
        state |= {
            f"{name}.{part}": x.detach().contiguous() for part, x in head.state_dict().items()
        }
    path.unlink()
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, path)
    rename_architecture(folder, architecture)


def test_math_shepherd(tmp_path: Path) -> None:
    """A pickled model with a SentencePiece tokenizer alone, which writes a space before a text."""
    folder = tmp_path / "math-shepherd-mistral-7b-prm"
    folder.mkdir()
    learned = ["к", "и", "▁к", "▁ки", "▁+", "▁-", "-"]
    pieces = bpe_pieces(*((text, -30.0 - n, NORMAL) for n, text in enumerate(learned)))
    write_sentencepiece(folder, model_proto(pieces), bos_token="<s>")
    own = open_tokenizer(folder, {}).tokenizer
    model = save_model(folder, "LlamaForCausalLM", own)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").unlink()
    text = QUESTION + "".join(f"\nStep {n}: {step} ки" for n, step in enumerate(STEPS, 1))
    text = " " + text.replace("\n", " ", 1)
    ids = [1, *own.encode(text, add_special_tokens=False).ids]
    rows = [index for index, token in enumerate(ids) if token == own.token_to_id("▁ки")]
    labels = [own.token_to_id(token) for token in ("▁+", "▁-")]
    _check(load_prm(folder), _of_two(model, ids, rows, labels, 0))


@pytest.mark.parametrize("has_own", [False, True])
@pytest.mark.parametrize("separator", ["\n", "\n\n"])
def test_a_marker_of_ordinary_text_goes_out_to_other_servers(
    tmp_path: Path, separator: str, has_own: bool
) -> None:
    """They look for a token's id, so it must not be one that steps hold too."""
    tokenizer = qwen_tokenizer()
    tokenizer = (
        tokenizer
        if has_own
        else Tokenizer.from_str(tokenizer.to_str().replace("<extra_0>", "<unused>"))
    )
    folder, layout = tmp_path / "model", tmp_path / "layout"
    save_model(folder, "Qwen2ForTokenClassification", tokenizer, num_labels=2, vocab_size=400)
    prm = load_prm(folder, reading=ReadingOptions(step_separator=separator))
    write_qwen2_layout(prm, layout)
    with _scorer(prm) as ours:
        expected = ours.score(QUESTION, STEPS).step_scores
    with pytest.raises(ExportError, match="lacks the prompt of its family 'token-classifier'"):
        load_prm(layout)
    config = json.loads((layout / "config.json").read_text())
    del config[FAMILY_FIELD]
    (layout / "config.json").write_text(json.dumps(config))
    other = load_prm(layout)
    [step] = tokenizer.encode(separator, add_special_tokens=False).ids
    ids = prm.encoder().encode(Trajectory(question=QUESTION, steps=STEPS)).token_ids.tolist()
    network = build_network(other.manifest.backbone, other.manifest.head, other.weights)
    marker = other.tokenizer.token_to_id("<extra_0>")
    markers = prm.encoder().encode(Trajectory(question=QUESTION, steps=STEPS)).marker_positions
    for place in markers:
        assert ids[place] == step
        ids[place] = marker
    places = [place for place, token in enumerate(ids) if token == marker]  # as vLLM finds them
    batch = TokenBatch(np.array([ids]), np.array([len(ids)]), np.array(places))
    logits = TorchBackend(network, device="cpu").run(batch)
    np.testing.assert_allclose(softmax(logits)[:, 1], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "tokenizer", "missing"),
    [
        ("versaprm", qwen_tokenizer, "<|begin_of_text|>"),
        ("rlhflow-prm", qwen_tokenizer, "<|eot_id|>"),
        ("fover-qwen", llama_tokenizer, "<|im_end|>"),
        ("math-shepherd", llama_tokenizer, "<s>"),
    ],
)
def test_a_prompt_of_another_models_tokens_is_refused(
    tmp_path: Path, family: str, tokenizer: Callable[[], Tokenizer], missing: str
) -> None:
    """They would be plain text, and the scores those of another prompt."""
    folder = tmp_path / "model"
    save_model(folder, "Qwen2ForCausalLM", tokenizer())
    said = f"{family}.* has .*{re.escape(missing)}.* which the tokenizer does not have"
    with pytest.raises(ExportError, match=said):
        load_prm(folder, reading=ReadingOptions(family=family))


ODD = [
    ("\nWhat is it?\n", ("\n So it is.", "Yes. \n")),
    ("  What?", ("x\n\n\ny", "\t1.")),
    ("What is “it”?\r\n", ("So.\r\n", "…")),
]
"""Texts with white space at their ends, which a tokenizer may join with that of the prompt."""


@pytest.mark.parametrize(("question", "steps"), ODD)
@pytest.mark.parametrize("kind", ["prm", "sequence", "fover", "rlhflow"])
def test_white_space_at_the_ends_of_texts(
    tmp_path: Path, kind: str, question: str, steps: tuple[str, ...]
) -> None:
    """Encoded as transformers encodes the whole prompt, where authors give it the whole."""
    names = {"fover": "Qwen-2.5-7B-FoVer-PRM", "rlhflow": "Llama3.1-8B-PRM-Mistral-Data"}
    folder = tmp_path / names.get(kind, "model")
    classes = {"prm": "Qwen2Model", "sequence": "Qwen2ForSequenceClassification"}
    classes |= {"fover": "Qwen2ForCausalLM", "rlhflow": "LlamaForCausalLM"}
    own, chat = (
        (llama_tokenizer(), LLAMA_CHAT) if kind == "rlhflow" else (qwen_tokenizer(), QWEN_CHAT)
    )
    labels = {"num_labels": 1} if kind == "sequence" else {}
    save_model(folder, classes[kind], own, chat=chat, **labels)
    if kind == "prm":
        heads = {"score.0": torch.nn.Linear(64, 64), "score.2": torch.nn.Linear(64, 2)}
        _add(folder, heads, "Qwen2ForProcessRewardModel")
    tokenizer = fast_tokenizer(folder)
    if kind == "sequence":
        turns = _chat(question, "\n\n".join(steps), None)
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
    elif kind == "prm":
        turns = _chat(question, "<extra_0>".join(steps) + "<extra_0>", QWEN_SYSTEM)
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
    elif kind == "rlhflow":
        ids, _ = _chat_rows(tokenizer, [f"{question} {steps[0]}", *steps[1:]], "+")
    else:
        first = _FOVER_TASK.format(problem=question, step=steps[0])
        ids, _ = _chat_rows(tokenizer, [first, *steps[1:]], "correct")
    row = load_prm(folder).encoder().encode(Trajectory(question=question, steps=steps))
    assert row.token_ids.tolist() == ids[: row.num_tokens]
