"""The published reward models that can be read. A new one is a new entry and a golden test.

Prompts and readouts follow the authors' own inference code, which each entry names. Texts are
encoded together where a tokenizer that gets the whole prompt would do so.
"""

from __future__ import annotations

from rfprm_export.classifiers import WHOLE_ANSWER, sequence_family, token_family
from rfprm_export.preset import OwnHead, Preset, RenamedHead, TokenRows, always
from rfprm_runtime.artifact.families import FAMILIES, QWEN_CHAT, Family
from rfprm_runtime.artifact.manifest import Head, Readout
from rfprm_runtime.artifact.prompt_format import (
    Piece,
    Question,
    Steps,
    Template,
    TrajectoryMarker,
)

_BARE = ("", "LlamaModel", "Qwen2Model", "Qwen3Model", "MistralModel")
_LANGUAGE_MODEL = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_TWO = Head(kind="linear", num_labels=2)
_ONE = Head(kind="linear", num_labels=1)
_FIRST = Readout(transform="softmax", positive=0)
_SECOND = Readout(transform="softmax", positive=1)
_DIFFERENCE = Readout(transform="softmax", positive=1, scale=2, offset=-1)
"""p(right) − p(wrong)."""

# The default system block of Llama 3.1's chat template, whose date does not move.
_LLAMA_SYSTEM = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
)
_LLAMA_USER = "<|start_header_id|>user<|end_header_id|>\n\n"
_LLAMA_VERDICT = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
_QWEN_VERDICT = "<|im_end|>\n<|im_start|>assistant\n"
_QWEN_DEFAULT_SYSTEM = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n"
)

# RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py: a chat in which each step is a turn of the
# user, the first one after the question and a space, and each answer is "+", whatever it scored.
# The score is read at the token before the answer. The template trims each turn.
_RLHFLOW_QUESTION: tuple[Piece, ...] = (
    Template(text=_LLAMA_SYSTEM + _LLAMA_USER),
    Question(),
    Template(text=" ", joins="both"),
)
_RLHFLOW_PRM = Family(
    pieces=(*_RLHFLOW_QUESTION, Steps(between=Template(text="+<|eot_id|>" + _LLAMA_USER))),
    step_marker_token=_LLAMA_VERDICT,
    text_markers=True,
    strips=True,
    head=_TWO,
    step_readout=_FIRST,
)
_RLHFLOW_ORM = Family(
    pieces=(*_RLHFLOW_QUESTION, *WHOLE_ANSWER, TrajectoryMarker()),
    trajectory_marker_token=_LLAMA_VERDICT,
    text_markers=True,
    strips=True,
    head=_TWO,
    trajectory_readout=_FIRST,
)

# psunlpgroup/FoVer, src/prm: the same kind of chat, with the instruction in the first turn (its
# typing error included) and "correct" for "+".
_FOVER_TASK = (
    "\n\n** Task **\nYour task is to evaluate the accuracy of each step in the provided solution "
    'to the above question. For each step, respond with "correct" if the reasoning is logically '
    "valid and mathematically sound, or if the step is a general statement or transition that does "
    'not contain reasoning. Respond with "incorrect" if the step includes any errors or flawed '
    "logic.\n\n** Sotluion **\n"
)


def _fover(opening: str, verdict: str, next_turn: str, *, strips: bool) -> Family:
    return Family(
        pieces=(
            Template(text=opening),
            Template(text="** Problem **\n", joins="after"),
            Question(),
            Template(text=_FOVER_TASK, joins="both"),
            Steps(
                between=Template(text="correct" + next_turn, joins="none" if strips else "after")
            ),
        ),
        step_marker_token=verdict,
        text_markers=True,
        strips=strips,
        head=_TWO,
        step_readout=_SECOND,
    )


# UW-Madison-Lee-Lab/VersaPRM, evaluation/get_rewards_reasoning_step.py: plain text, steps end with
# a blank and four line ends, which are one token.
def _versaprm(begin: tuple[Piece, ...]) -> Family:
    return Family(
        pieces=(*begin, Question(), Template(text=" \n\n"), Steps()),
        step_marker_token=" \n\n\n\n",
        text_markers=True,
        strips=True,
        head=_TWO,
        step_readout=_SECOND,
    )


_MATH_PSA = Family(
    pieces=(
        Question(),
        Template(text=" ", joins="both"),
        Steps(label="Step {n}: ", between=Template(text=" ", joins="after")),
    ),
    step_marker_token=" \n\n\n\n\n",
    text_markers=True,
    head=_TWO,
    step_readout=_FIRST,
)

# peiyi9979/math-shepherd-mistral-7b-prm, card; openr, prm/infer_fns.py. Its tokenizer writes a
# blank before a text, here the template does.
_MATH_SHEPHERD = Family(
    pieces=(
        Template(text="<s> ", joins="after"),
        Question(),
        Template(text=" ", joins="both"),
        Steps(label="Step {n}: ", between=Template(text="\n", joins="after")),
    ),
    step_marker_token=" ки",
    text_markers=True,
    head=_TWO,
    step_readout=_FIRST,
)
# compute-optimal-tts, src/reason/inference/rm_call.py (Llama3.1-Math-PRM): the same text on one
# line, under Llama's tokenizer.
_ER_PRM = Family(
    pieces=(
        Template(text="<|begin_of_text|>"),
        Question(),
        Template(text=" ", joins="both"),
        Steps(),
    ),
    step_marker_token=" ки",
    text_markers=True,
    head=_TWO,
    step_readout=_FIRST,
)

# Skywork's skywork-o1-prm-inference, model_utils/io_utils.py: bos and the problem as one text, then
# each line by itself. The value head is read by sigmoid.
_SKYWORK_O1 = Family(
    pieces=(
        Template(text="<|endoftext|>"),
        Question(),
        Template(text="\n", joins="before"),
        Steps(),
    ),
    step_marker_token="\n",
    text_markers=True,
    head=_ONE,
    step_readout=Readout(transform="sigmoid", positive=0),
)

# Qwen2.5-Math-RM, card: the whole answer in a chat; one number, without bounds, at the last token.
_QWEN_MATH_RM = Family(
    pieces=(*QWEN_CHAT, *WHOLE_ANSWER, TrajectoryMarker()),
    trajectory_marker_token="<|im_end|>\n",
    text_markers=True,
    head=Head(kind="mlp_relu", num_labels=1),
    trajectory_readout=Readout(transform="none", positive=0),
)

# Gen-Verse/ReasonFlux, ReasonFlux_PRM/utils/rm_utils.py: question and answer without anything
# between them, read at the last token.
_REASONFLUX_1_5B = Family(
    pieces=(Question(), Template(text="", joins="both"), *WHOLE_ANSWER, TrajectoryMarker()),
    trajectory_marker_token="",
    head=_ONE,
    trajectory_readout=Readout(transform="sigmoid", positive=0),
)

PRESETS: dict[str, Preset] = {
    "qwen2.5-math-prm": Preset(
        family=always(FAMILIES["qwen2.5-math-prm"]),
        own_architectures=("Qwen2ForProcessRewardModel",),
        architectures=_BARE,
        card="Qwen/Qwen2.5-Math-PRM-7B; Gen-Verse/ReasonFlux-PRM-7B",
        names=("qwen2.5-math-prm-*", "qwen2.5-math-7b-prm800k", "reasonflux-prm-7b"),
    ),
    "qwen2.5-math-rm": Preset(
        family=always(_QWEN_MATH_RM),
        own_architectures=("Qwen2ForRewardModel",),
        names=("qwen2.5-math-rm-*", "qwen2-math-rm-*"),
        card="Qwen/Qwen2.5-Math-RM-72B",
    ),
    "skywork-o1-prm": Preset(
        family=always(_SKYWORK_O1),
        own_architectures=("Qwen2ForPrmModel",),
        head=RenamedHead("v_head.summary"),
        names=("skywork-o1-open-prm-*",),
        card="SkyworkAI/skywork-o1-prm-inference",
    ),
    "reasonflux-prm-1.5b": Preset(
        family=always(_REASONFLUX_1_5B),
        architectures=(*_BARE, "Qwen2ForCausalLM"),
        head=RenamedHead("reward_head", file="reward_head.pt"),
        names=("reasonflux-prm-1.5b",),
        card="Gen-Verse/ReasonFlux, ReasonFlux_PRM/utils/rm_utils.py",
    ),
    "rlhflow-prm": Preset(
        family=always(_RLHFLOW_PRM),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows(("+", "-")),
        names=("llama3.1-8b-prm-mistral-data", "llama3.1-8b-prm-deepseek-data"),
        card="RLHFlow/RLHF-Reward-Modeling, math-rm/prm_evaluate.py",
    ),
    "rlhflow-orm": Preset(
        family=always(_RLHFLOW_ORM),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows(("+", "-")),
        names=("llama3.1-8b-orm-mistral-data", "llama3.1-8b-orm-deepseek-data"),
        card="RLHFlow/RLHF-Reward-Modeling, math-rm/orm_evaluate.py",
    ),
    "fover-llama": Preset(
        family=always(
            _fover(
                _LLAMA_SYSTEM + _LLAMA_USER,
                _LLAMA_VERDICT,
                "<|eot_id|>" + _LLAMA_USER,
                strips=True,
            )
        ),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows(("incorrect", "correct"), first_of_several=True),
        names=("llama-3.1-8b-fover-prm*",),
        card="psunlpgroup/FoVer, src/prm",
    ),
    "fover-qwen": Preset(
        family=always(
            _fover(
                _QWEN_DEFAULT_SYSTEM + "<|im_start|>user\n",
                _QWEN_VERDICT,
                "<|im_end|>\n<|im_start|>user\n",
                strips=False,
            )
        ),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows(("incorrect", "correct"), first_of_several=True),
        names=("qwen-2.5-7b-fover-prm*", "qwen2.5-7b-fover-prm*"),
        card="psunlpgroup/FoVer, src/prm",
    ),
    "versaprm": Preset(
        family=always(_versaprm((Template(text="<|begin_of_text|>"),))),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows(("-", "+")),
        names=("versaprm*", "llama-prm800k"),
        card="UW-Madison-Lee-Lab/VersaPRM, evaluation/prm_models/prm_llama.py",
    ),
    "versaprm-qwen": Preset(
        family=always(_versaprm(())),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows(("-", "+")),
        names=("qwen-prm800k",),
        card="UW-Madison-Lee-Lab/VersaPRM, evaluation/prm_models/prm_qwen.py",
    ),
    "math-psa": Preset(
        family=always(_MATH_PSA),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows((" +", " -")),
        names=("math-psa*",),
        card="openreasoner/openr, prm/infer_fns.py",
    ),
    "math-shepherd": Preset(
        family=always(_MATH_SHEPHERD),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows((" +", " -")),
        names=("math-shepherd-mistral-7b-prm",),
        card="peiyi9979/math-shepherd-mistral-7b-prm",
    ),
    "er-prm": Preset(
        family=always(_ER_PRM),
        architectures=_LANGUAGE_MODEL,
        head=TokenRows((" +", " -")),
        names=("llama3.1-math-prm",),
        card="RyanLiu112/compute-optimal-tts, src/reason/inference",
    ),
    "pure-prm": Preset(
        family=lambda described: token_family(described, separator="\n\n", readout=_DIFFERENCE),
        architectures=("*ForTokenClassification",),
        names=("pure-prm-*",),
        card="jinachris/PURE-PRM-7B; declare-lab/PathFinder-PRM, pure_prm.py",
    ),
    "token-classifier": Preset(
        family=token_family,
        own_architectures=("*ForTokenClassification",),
        architectures=_BARE,
        options=("step_separator",),
        card="huggingface/trl, trl/experimental/prm/prm_trainer.py",
    ),
    "sequence-classifier": Preset(
        family=sequence_family,
        own_architectures=("*ForSequenceClassification",),
        architectures=_BARE,
        head=OwnHead(has_bias=False),
        options=("system_prompt", "chat_template"),
        card="huggingface/trl, trl/trainer/reward_trainer.py",
    ),
    "skywork-reward": Preset(
        family=sequence_family,
        architectures=("*ForSequenceClassification",),
        head=OwnHead(has_bias=False),
        names=("skywork-reward-*",),
        options=("system_prompt", "chat_template"),
        max_positions=16_384,
        card="SkyworkAI/Skywork-Reward-V2",
    ),
    "acemath-rm": Preset(
        family=lambda described: sequence_family(
            described,
            system="Please reason step by step, and check your final answer within \\boxed{}.",
        ),
        architectures=("*ForSequenceClassification",),
        head=OwnHead(has_bias=False),
        names=("acemath-*-rm*",),
        options=("system_prompt", "chat_template"),
        card="nvidia/AceMath-7B-RM",
    ),
}
