"""Words around a number that say it is no answer: bounds, names, operands and denials.

Knows the words of a dozen languages; knows no sentences.
"""

from __future__ import annotations

import re

_BOUND_WORDS = (
    # a bound
    r"least|most|than|between|over|under|up\s+to|below|above|within|exceeds?|exceeding|until|after|before"
    r"|since|or|either",
    # a name
    r"step|equation|case|part|line|number|problem|question|theorem|lemma|figure|table|page|chapter|section"
    r"|exercise|example|method|option|rule|formula|corollary|proposition|definition|base",
    # an operand
    r"mod|modulo|versus|(?:divisible|divided|multiplied|times)\s+by|times|plus|minus|divides|to\s+the|as"
    r"|(?:half|third|quarter|twice|double|triple|square|cube|root|multiples?|factors?|divisors?|digits?"
    r"|remainder|percent|percentage|fraction|power|%|out|sum|product)\s+of",
    # bounds in German, Dutch, French, Spanish, Italian, Portuguese and Russian
    r"mindestens|höchstens|mehr\s+als|weniger\s+als|über|unter|bis\s+zu",
    r"minstens|hoogstens|meer\s+dan|minder\s+dan",
    r"au\s+moins|au\s+plus|plus\s+de|moins\s+de|jusqu['’]à",
    r"al\s+menos|como\s+máximo|a\s+lo\s+sumo|más\s+de|menos\s+de|hasta",
    r"almeno|al\s+massimo|più\s+di|meno\s+di",
    r"pelo\s+menos|no\s+máximo|mais\s+de",
    r"не\s+менее|не\s+более|более|менее|больше|меньше|до",
)
_BOUND_SIGNS = (
    r"至少有?|至多有?|最多有?|最少有?|超过|多于|少于|不到|不足|大于|小于|不超过|不少于|第"
    r"|على\s+الأقل|أكثر\s+من|أقل\s+من|कम\s+से\s+कम|से\s+अधिक"
)
BOUNDS = re.compile(
    rf"(?:\b(?:{'|'.join(_BOUND_WORDS)})|{_BOUND_SIGNS})\s*\**\s*[#$€£¥]?$", re.IGNORECASE
)
"""At the end of what stands before the number."""
MAKES_ANOTHER = re.compile(
    r"\s*(?:[^\W\d_]{1,20}\s)?(?:or\s+(?:more|less|fewer|so)\b"
    r"|(?:more|less|fewer|greater|larger|smaller|higher)\s+than\b"
    r"|times\b|sure\b|certain\b|confident\b|plus\b|minus\b|divided\b|multiplied\b|squared|cubed|factorial|choose\b|mod\b"
    r"|of\s+(?:every|each|\d)|to\s+the\b|percent\s+of\b"
    r"|(?:is|are|was)(?:\s+not\b|n['’]t\b|\s+(?:wrong|incorrect|too|impossible)\b)|cannot|can['’]t"
    r"|oder\s+mehr|ou\s+(?:plus|moins)\b|o\s+más|fois\b|veces\b|mal\b|倍|以上|以下|或更多)",
    re.IGNORECASE,
)
"""At the beginning of what stands behind the number."""
DENIES = re.compile(
    r"\b(?:not|no|never|cannot|neither|nor|fails?|impossible|unless|without|nicht|keine?|pas|jamais|nunca|não|нет|не|niet)\b|n['’]t\b"
    r"|\bno\s+(?:es|son|era)\b|\bnon\s+è\b|不是|并非|没有|ليس|नहीं",
    re.IGNORECASE,
)

SUPPOSES = re.compile(
    r"\b(?:if|whether|suppos\w+|assum\w+|let|perhaps|maybe|might|could|may|doubt\w*|guess\w*|imagine"
    r"|wrong|incorrect|false|wenn|falls|angenommen|vielleicht|si|supposons|peut-être|supongamos|quizás"
    r"|se|forse|talvez|если|возможно)\b|如果|假设|假如|也许|可能|错误|यदि|إذا",
    re.IGNORECASE,
)
"""Before a number or an answer, in its sentence."""
