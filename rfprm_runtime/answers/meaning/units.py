"""Units and numbers in words: which words behind a number mean the same.

Knows English units and number words; knows no answers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MEASURES = {
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "m": "m meter metre",
    "km": "km kilometer kilometre kms", "inch": "in inch inches", "foot": "ft foot feet",
    "yard": "yd yard", "mile": "mi mile", "g": "g gram gm", "kg": "kg kilogram kilo", "mg": "mg",
    "ton": "ton tonne", "lb": "lb pound lbs", "oz": "oz ounce", "l": "l liter litre",
    "ml": "ml milliliter millilitre", "gallon": "gal gallon", "s": "s sec second",
    "min": "min minute mins", "hour": "h hr hour hrs", "day": "day", "week": "week",
    "month": "month", "year": "yr year yrs", "dollar": "dollar usd us$ $ ¤ buck", "cent": "cent ¢",
    "euro": "euro eur €", "£": "£ gbp", "yen": "¥ yen", "rupee": "₹ rs rs. rupee inr", "real": "r$",
    "%": "% percent percentage pct", "hz": "hz hertz", "n": "newton", "j": "j joule",
    "w": "w watt", "v": "v volt", "k": "k kelvin", "rad": "rad radian", "degree": "degree deg",
    "celsius": "celsius °c", "fahrenheit": "fahrenheit °f", "am": "am a.m. a.m",
    "pm": "pm p.m. p.m", "unit": "unit",
}  # fmt: skip
_NAMES = {alias: name for name, aliases in _MEASURES.items() for alias in aliases.split()}
_SIGNS = frozenset("sgmhlLJWVNK")
"""Units of one letter, which may be variables."""
_FILLER_WORDS = (
    "a an the of each only exactly total altogether about approximately more left remaining "
    "long wide tall high old away ways different possible whole extra is are has have had"
)
_FILLERS = frozenset(_FILLER_WORDS.split())
_OTHER_VALUES = (
    "or and to not than least most times over under below above between plus minus if when where "
    "for unless except dozen hundred thousand million billion trillion half halves third thirds "
    "quarter quarters tenth tenths fourths fifths sixths sevenths eighths ninths percentages "
    "points point squared cubed root factorial mod modulo base remainder less fewer negative into "
    "by from until through off r"
)
_NEVER = frozenset(_OTHER_VALUES.split())
"""Words that make another value of the number before them, or a part of it."""
_LARGE = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_UP_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_UP_TO_NINETEEN.split())} | {
    word: 10 * value for value, word in enumerate(_TENS.split(), start=2)
}
_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10,
}  # fmt: skip
_CHINESE = {sign: value for value, sign in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_WORD = re.compile(r"[A-Za-z]+(?:['.-][A-Za-z]+)*\.?|[%°¢$¤€£¥₹]|[^\W\d_]+")
_ORDINAL = re.compile(r"(?:st|nd|rd|th|(?:\^\s?\{?\s?(?:st|nd|rd|th)\s?\}?))(?![A-Za-z])\.?")
_ALTOGETHER = re.compile(r"(?:^|\s)in (?:total|all|sum)$")
_POWER = re.compile(r"\s?\^\s?\{?\s?(-?[1-3])\s?\}?")
_MOST_WORDS = 6
_BEHIND_FORMULA = re.compile(
    r"(?P<formula>.*[\d})A-Za-z])\s?(?:\\text\s?\{(?P<text>[^{}]+)\}"
    r"|(?<=[\d})\s])(?P<words>(?:(?:square|sq\.?|cubic|cu\.?)\s)?[A-Za-z]{2,15}(?:\s(?:per|/)\s?[A-Za-z]+)?|%)"
    r"|(?P<degree>\^\{\\circ\}))(?P<power>\s?\^\s?\{?[23]\}?)?",
    re.DOTALL,
)


class Unit(NamedTuple):
    """What stands behind a number, in the order written."""

    words: tuple[str, ...]

    def fits(self, other: Unit) -> bool:
        """Whether the units can belong to one answer: they are the same, one is missing, or one
        says more of the things that both count. Minutes are never hours."""
        if not self.words or not other.words or self.words == other.words:
            return True
        mine, theirs = set(self.words), set(other.words)
        if _measures(mine) or _measures(theirs):
            return _measures(mine) == _measures(theirs)
        return mine <= theirs or theirs <= mine


def _measures(words: set[str]) -> set[str]:
    return {word for word in words if re.split(r"[\^/]", word)[0] in _MEASURES or "/" in word}


def read_unit(text: str, money: str = "", *, is_attached: bool = False) -> Unit | None:
    """The unit that stands behind a number; None if what stands there is no unit.

    ``money`` is a currency in front of the number. A single letter attached to the number is a
    variable.
    """
    ordinal = _ORDINAL.match(text)
    text = text[ordinal.end() :] if ordinal else text
    words = _unit_words(text.strip(" .,"), is_attached)
    if words is None:
        return None
    if money:
        sign = _NAMES.get(money.lower(), money)
        words = [sign, *(word for word in words if word != sign)]
    return Unit(tuple(words))


def without_unit(text: str) -> tuple[str, Unit]:
    r"""A formula without the unit behind it: ``5\pi \text{ cm}`` is ``5\pi`` and cm."""
    found = _BEHIND_FORMULA.fullmatch(text)
    if found is None:
        return text, Unit(())
    if found["degree"]:
        is_angle = not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text)
        return (found["formula"].strip(), Unit(("degree",))) if is_angle else (text, Unit(()))
    words = found["text"] or found["words"]
    unit = read_unit(f"{words}{found['power'] or ''}")
    is_known = unit is not None and (found["text"] or _measures(set(unit.words)))
    return (found["formula"].strip(), unit) if unit is not None and is_known else (text, Unit(()))


def _unit_words(text: str, is_attached: bool) -> list[str] | None:
    text = _ALTOGETHER.sub("", text)
    words: list[str] = []
    at, joined, factor = 0, "", ""
    while at < len(text):
        if text[at] == " " or (text[at] in ",-()" and words):
            at += 1
            continue
        if text[at] == "/" and words:
            joined, at = "/", at + 1
            continue
        found = _WORD.match(text, at)
        if found is None or len(words) >= _MOST_WORDS:
            return None
        word = found[0].lower().rstrip(".")
        at = found.end()
        if word in _NEVER or (len(word) == 1 and word.isascii() and not _is_sign(found[0])):
            return None
        if is_attached and len(word) == 1 and word.isalpha() and word.isascii():
            return None
        power = _POWER.match(text, at)
        if power is not None:
            at = power.end()
        if word in ("square", "sq", "cubic", "cu"):
            factor = "^2" if word.startswith("s") else "^3"
            continue
        if word == "per":
            joined = "/"
            continue
        name = _singular(word)
        name += f"^{power[1]}" if power is not None else factor
        factor = ""
        if joined and words:
            words[-1], joined = f"{words[-1]}/{name}", ""
        elif word not in _FILLERS:
            words.append(name)
    if factor:
        words.append("unit" + factor)
    return words


def _is_sign(word: str) -> bool:
    return not word.isalpha() or word in _SIGNS


def _singular(word: str) -> str:
    if word in _NAMES:
        return _NAMES[word]
    for ending, instead in (
        ("ies", "y"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("sses", "ss"),
        ("s", ""),
    ):
        if len(word) > len(ending) + 1 and word.endswith(ending) and not word.endswith("ss"):
            word = word.removesuffix(ending) + instead
            break
    return _NAMES.get(word, word)


def multiplier(text: str) -> tuple[int, str]:
    """``million`` and its kin behind a number: the factor, and what is left."""
    found = re.match(r"\s?(thousand|million|billion|trillion)(?![A-Za-z])", text)
    return (_LARGE[found[1]], text[found.end() :]) if found else (1, text)


def number_words(text: str) -> tuple[int, str] | None:
    """The value of the number words (``twenty-one``, ``三``) that begin a text, and the rest."""
    if (text and text[0] in _CHINESE) or text[:1] == "十":
        found = re.match("[零〇一二两三四五六七八九十百]{1,5}", text)
        value = _chinese(found[0]) if found else None
        return None if found is None or value is None else (value, text[found.end() :])
    total = current = end = 0
    has_any = False
    for word in re.finditer(r"[A-Za-z]+", text[:120]):
        name = word[0].lower()
        if text[end : word.start()].strip(" -,"):
            break
        if name in _SMALL:
            if has_any and (current % 100 >= 20) <= (current % 10 != 0) and current % 100:
                return None
            current += _SMALL[name]
        elif name == "hundred" and has_any:
            current = max(current, 1) * 100
        elif name in _LARGE and has_any:
            total, current = total + max(current, 1) * _LARGE[name], 0
        elif name == "and" and has_any:
            continue
        elif not has_any and name in _ORDINALS and len(text) == len(name):
            return _ORDINALS[name], ""
        else:
            break
        has_any, end = True, word.end()
    return (total + current, text[end:]) if has_any else None


def _chinese(text: str) -> int | None:
    if "百" in text:
        left, _, right = text.partition("百")
        hundreds, rest = _chinese(left or "一"), _chinese(right.lstrip("零") or "零")
        return None if hundreds is None or rest is None else hundreds * 100 + rest
    if "十" in text:
        left, _, right = text.partition("十")
        tens, ones = _CHINESE.get(left or "一"), _CHINESE.get(right or "零")
        return None if tens is None or ones is None else tens * 10 + ones
    if all(sign in _CHINESE for sign in text):
        return int("".join(str(_CHINESE[sign]) for sign in text))
    return None
