r"""One spelling for what is written in many: Unicode and LaTeX that look alike become one text.

Knows signs; knows no values. What it changes never changes what an answer means. Linear time.
"""

from __future__ import annotations

import re
import unicodedata

DOLLAR = "¤"
r"""What ``\$`` becomes: money, and no border of a formula."""
_SIGNS = {
    **dict.fromkeys("−‐‑‒–—﹣", "-"),
    **dict.fromkeys("×⋅·∙", r"\cdot "),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f\u205f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    "÷": "/", "∕": "/", "⁄": "/", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ",
    "≠": r"\ne ", "±": r"\pm ", "∞": r"\infty ", "π": r"\pi ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "→": r"\to ", "°": r"^{\circ}", "º": r"^{\circ}",
    "、": ",", "。": ".", "’": "'", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "μ": r"\mu ",
    "φ": r"\phi ", "≈": r"\approx ", "≡": r"\equiv ", "∠": r"\angle ",
}  # fmt: skip
_TRANSLATED = str.maketrans(_SIGNS)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_ROOT_SIGN = re.compile(r"√\s?(?:(\d+(?:\.\d+)?|[A-Za-z])|(?=[({]))")
_ROOT_OF_GROUP = re.compile(r"(?:(?<![A-Za-z\\])sqrt|\\sqrt)\s?\(([^()]{1,200})\)")

_SHAPES = (
    # Sizes and spacing say nothing.
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\s?\.?"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|phantom\{[^{}]*\})(?![A-Za-z])"), ""),
    (re.compile(r"(?<=\d)(?:\\[,!;: ]|\{,\}|,\\!){1,2}\s?(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<=\d),\s?\\[!,]\s?(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\\(?:[,!;:>]|q?quad(?![A-Za-z])|enspace(?![A-Za-z])|(?<!\\\\) )|(?<!\\)~"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:geq|geqslant|ge)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\(?:leq|leqslant|le)(?![A-Za-z])|<="), r"\\le "),
    (re.compile(r"\\(?:neq|ne)(?![A-Za-z])|!="), r"\\ne "),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\(?:times|cdotp?|ast)(?![A-Za-z])"), r"\\cdot "),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(?:varnothing|empty)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:lbrack|rbrack)(?![A-Za-z])"), lambda m: "[" if m[0][1] == "l" else "]"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\langle(?![A-Za-z])\s?"), "("),
    (re.compile(r"\s?\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\mathbb\s?([A-Z])(?![A-Za-z])"), r"\\mathbb{\1}"),
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"(?<![A-Za-z\\])infinity(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\{?\s?(\w{1,9})\s?\\choose\s?(\w{1,9})\s?\}?"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<=\d)\s?:\s?(?=\d)"), ":"),
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?|\\degrees?(?![A-Za-z])"), r"^{\\circ}"),
    (re.compile(r"\\varphi(?![A-Za-z])"), r"\\phi "),
    (re.compile(r"\\([%#&])"), r"\1"),
    (re.compile(r"(?<=[\w)}])\s?\*\*\s?(?=[\w({\-])"), "^"),
    (re.compile(r"\\math(?:bf|rm|it|sf|tt)\s?\{"), r"\\text{"),
    (re.compile(r"\\text(?:bf|rm|it|sf|tt|normal|up)\s?\{"), r"\\text{"),
    (re.compile(r"\\(?:mbox|hbox|operatorname\*?)\s?\{"), r"\\text{"),
    (re.compile(r"\\text\{\s?([ei])\s?\}"), r" \1 "),
    (re.compile(r"\{\\rm\s([^{}]*)\}"), r"\\text{\1}"),
)  # fmt: skip
_SPACE_BESIDE_SIGNS = re.compile(
    r" (?=[+\-*/=<>^_|)}\]])|(?<=[+*/=<>^_|({\[\-]) |(?<=[A-Za-z]) (?=[({,])"
)
"""Not behind a comma: ``32, 349`` are two numbers."""
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z()\[\]{}])")
_EMPHASIS = "*`_ \t\n"
_WRAPPED = re.compile(
    r"\\\((.*)\\\)|\\\[(.*)\\\]|\$\$(.*)\$\$|\$([^$]*)\$"
    r"|\\(?:begin)?f?boxed\s?\{(.*)\}|\\fbox\s?\{(.*)\}|\{(.*)\}|\\text\{([^{}]*)\}",
    re.DOTALL,
)
_TAIL = re.compile(r"[\s.,;:]+$|\\+$")
_TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_MATRIX = re.compile(r"\\begin\s?\{")


def tidy(text: str) -> str:
    r"""``text`` in one spelling, without what is around the whole: ``\dfrac{1}{2}``, ``$\frac12$``
    and ``**\(\frac{1}{2}\)**`` differ no more, nor do ``−5`` and ``-5``."""
    text = _one_unicode(text).replace("\\$", DOLLAR).replace("...", "\\ldots ")
    text = _without_wrapping(text)
    if not _MATRIX.search(text):  # there a doubled backslash ends a row
        text = _DOUBLED.sub(lambda _: "\\", text)
    for shape, plain in _SHAPES:
        text = shape.sub(plain, text)
    text = _ROOT_OF_GROUP.sub(r"\\sqrt{\1}", text)
    text = re.sub(r"\s+", " ", _without_wrapping(text))
    return _SPACE_BESIDE_SIGNS.sub("", text).strip()


def words_shown(text: str) -> str:
    r"""A tidy text with the content of ``\text{…}`` in place of the command."""
    return re.sub(r"\s+", " ", _TEXT.sub(r" \1 ", text)).strip()


def _one_unicode(text: str) -> str:
    """Digits of every script, fractions, exponents and signs as ASCII and LaTeX."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda found: "^{" + found[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda found: "_{" + found[0].translate(_SUBSCRIPTS) + "}", text)
    text = _ROOT_SIGN.sub(lambda found: r"\sqrt{" + found[1] + "}" if found[1] else "sqrt", text)
    return "".join(map(_one_sign, text.translate(_TRANSLATED)))


def _one_sign(sign: str) -> str:
    if sign.isascii():
        return sign
    if sign.isdecimal():
        return str(unicodedata.digit(sign))
    folded = unicodedata.normalize("NFKC", sign)
    if "⁄" in folded:  # ½
        return " " + folded.replace("⁄", "/")
    return folded if folded.isascii() else sign


def _without_wrapping(text: str) -> str:
    """Without emphasis, quotes, dollars, boxes and braces around the whole, and the full stop."""
    for _ in range(12):
        bare = _TAIL.sub("", text.strip()).strip(_EMPHASIS)
        bare = bare[1:-1] if len(bare) > 2 and bare[0] == bare[-1] == '"' else bare
        found = _WRAPPED.fullmatch(bare)
        inner = next((g for g in found.groups() if g is not None), "") if found else bare
        bare = inner if _is_whole(inner) else bare
        if bare == text:
            break
        text = bare
    return re.sub(r"(?<!\\)\$\$?", "", text) if _is_latex_dollar(text) else text


def _is_latex_dollar(text: str) -> bool:
    return text.count("$") >= 2


def _is_whole(inner: str) -> bool:
    """Whether the wrapping around ``inner`` is one pair and not two side by side."""
    if "\\)" in inner or "\\]" in inner or "$" in inner.replace("\\$", ""):
        return False
    depth = 0
    for sign in inner:
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return False
    return depth == 0
