"""Texts that are hard to read, at any length: repeats, nestings and runs of every mark we know."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rfprm_runtime.ground.thinking import THINKING_STYLES

Shape = Callable[[int], str]
"""A text of about ``n`` characters."""

_TAGS = tuple(dict.fromkeys(tag for style in THINKING_STYLES for tag in style.all))
_CHAT = (
    *("<|im_start|>user\n", "<|im_end|>", "<|start_header_id|>user<|end_header_id|>\n\n"),
    *("<|eot_id|>", "<start_of_turn>user\n", "<end_of_turn>", "<|user|>\n", "<|end|>", "[INST]"),
    *(
        "[/INST]",
        "<｜User｜>",
        "<｜Assistant｜>",
        "</s>",
        "<eos>",
        "<pad>",
        "<｜end▁of▁sentence｜>",
    ),
)
_ANSWERS = (
    *("\\boxed{", "\\boxed", "\\boxed{1}", "####", "#", "A:", "answer", "answer is", "answer: :"),
    *("final answer", "the answer is 1. ", "**", "$", "\\text{", "\\text{a}", "is:", "is 1.5%"),
)
_ARITHMETIC = (
    *("<<", ">>", "<<1+1=2>>2", "<<1=", "=", "1=1", "1 + 1 = 2 ", "1+", "1x", "1 x ", "1,", "1,1"),
    *(
        "1,000",
        "1.",
        ".1",
        "-1",
        "--",
        "1/",
        "1 1/2 ",
        "1/2",
        "((",
        "))",
        "()",
        "[(",
        "$ ",
        "$1",
        "1%",
    ),
    *("1 % ", "x ", "of ", "1 of ", "times ", "divided by ", "plus ", "minus ", "is equal to "),
    *(
        "\\frac{",
        "\\frac{1}{",
        "\\frac{1}{2}",
        "\\times",
        "\\left",
        "\\$",
        "{,}",
        "^",
        "9^{",
        "!",
        "e9",
    ),
    *("one ", "seven hundred ", "Anna ", "Aaa Bbb ", "more less ", "-(", "1 apples * 2 "),
)
_SIGNS = (
    *(
        "\ufffd",
        "\u0301",
        "a\u0301\u0323",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u202e",
        "\U0001f468\u200d",
    ),
    *("\ud800", "\udc00", "\x00", "\x1c", "\x85", "\u2028", "\u00a0", "\u3000", "\t", "\x0b", " "),
    *(
        "\n",
        "\r",
        "\r\n",
        "\n ",
        " \n",
        "\n\n",
        "a\n\n",
        "a\n",
        "a ",
        "a. ",
        "a",
        "ab",
        "\u0130",
        "\u00df",
    ),
    *(
        "\ufb01",
        "\u0661",
        "\u00b2",
        "\u6570",
        "\U0001f642",
        "\uac00",
        "{",
        "}",
        "{}",
        "[",
        "]",
        "(",
        ")",
    ),
    *(
        "<",
        ">",
        "</",
        "<a>",
        "&",
        "\\",
        "\\\\",
        "\\n",
        "\\u",
        '"',
        '\\"',
        "'",
        "`",
        "|",
        "_",
        "-",
        ".",
    ),
    *(
        ". ",
        "..",
        ",",
        ":",
        ";",
        "/",
        "0",
        "1",
        "9",
        "1 ",
        "1\n",
        "1\n\n",
        '{"a":',
        "[1,",
        '{"step":1}',
    ),
)
MARKS = tuple(dict.fromkeys((*_TAGS, *_CHAT, *_ANSWERS, *_ARITHMETIC, *_SIGNS)))


def _repeated(unit: str) -> Shape:
    return lambda n: (unit * (n // len(unit) + 1))[:n]


def _after(opening: str, unit: str, closing: str = "") -> Shape:
    """A long run between two texts."""
    return lambda n: opening + _repeated(unit)(max(0, n - len(opening) - len(closing))) + closing


def _nested(opening: str, closing: str, core: str = "1") -> Shape:
    def shape(n: int) -> str:
        depth = (n - len(core)) // (len(opening) + len(closing))
        return opening * depth + core + closing * depth

    return shape


def shapes(*, quick: bool = False) -> Iterator[tuple[str, Shape]]:
    """Every shape with its name. ``quick``: about a third of them."""
    for mark in MARKS:
        yield f"{mark!r} repeated", _repeated(mark)
    if not quick:
        for mark in MARKS:
            yield f"{mark!r} in lines", _repeated(mark + "\n\n")
            yield f"{mark!r} then spaces", _after(mark, " ")
    for tag in _TAGS[::5] if quick else _TAGS:
        for other in _TAGS:
            yield f"{tag!r} then {other!r}s", _after(tag, other + " ", "x</think>ok")
            yield f"{tag!r} then glued {other!r}s", _after(tag, other, "x</think>ok")
    marks = (*_ANSWERS, "1", "1 +", "$", "\\frac{", "<<1", "\n")
    for mark in marks[::6] if quick else marks:
        for run in (" ", "\n", "\t\n", "1", "a", "1,", "{", "(", "#", "."):
            yield f"{mark!r} then {run!r}s", _after(mark, run)
            yield f"{mark!r} then {run!r}s, then !", _after(mark, run, "!")
    for opening, closing in (
        *(("\\boxed{", "}"), ("(", ")"), ("[", "]"), ("{", "}"), ("\\frac{", "}{2}"), ("9^{", "}")),
        *(("<think>", "</think>"), ("<answer>", "</answer>"), ("<<", ">>"), ("\\text{", "}")),
        *(("-(", ")"), ("\\sqrt{", "}"), ('{"a":', "}")),
    ):
        yield f"nested {opening + closing!r}", _nested(opening, closing)
    yield "distinct words", lambda n: " ".join(f"w{i}" for i in range(n // 6))
    yield "distinct names", lambda n: " ".join("A" + _letters(i) for i in range(n // 5))
    yield "distinct numbers", lambda n: " ".join(str(i * 7919) for i in range(n // 8))
    yield "distinct equations", lambda n: "\n".join(f"{i} + 1 = {i + 1}" for i in range(n // 15))
    yield "distinct lines", lambda n: "\n\n".join(f"step {i}" for i in range(n // 9))
    yield "growing runs", _growing
    yield "alternating runs", lambda n: ("a" * 300 + "b" * 300) * (n // 600)


def _letters(number: int) -> str:
    digits = ""
    for _ in range(4):
        number, digit = divmod(number, 26)
        digits += chr(ord("a") + digit)
    return digits


def _growing(n: int) -> str:
    """Words of 1, 2, 3, … letters."""
    text, length = [], 1
    while n > 0:
        text.append("a" * min(length, n))
        n -= length + 1
        length += 1
    return " ".join(text)
