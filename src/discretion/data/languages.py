"""Which language a text is in: by its script, and by its function words where languages share one.

The thirty languages that IFEval names. A text that shows no clear winner has no language here: nothing is guessed.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter

LEAST = 2
"""Function words that must be found, where languages share a script; one in a text of fewer than five words."""
_ENDS = string.punctuation + "“”‘’«»„…。、！？।؟،"

_ALONE = {
    "BENGALI": "bn", "GUJARATI": "gu", "GURMUKHI": "pa", "HANGUL": "ko", "HEBREW": "he", "HIRAGANA": "ja",
    "KANNADA": "kn", "KATAKANA": "ja", "MALAYALAM": "ml", "TAMIL": "ta", "TELUGU": "te", "THAI": "th",
}  # fmt: skip
"""Scripts that one of the languages has for itself."""
_SHARED = {
    "ARABIC": {
        "ar": "في من على إلى أن هذا هذه التي الذي كان لا ما مع عن هو هي كل بعد قد ذلك لم أو بين",
        "fa": "و در به از که این را با است برای آن یک خود تا بر هم نیز می های شد بود ها",
        "ur": "کے کی میں ہے اور سے کا کو نے پر یہ ہیں اس کہ ایک بھی تھا کر وہ ہو گیا",
    },
    "CYRILLIC": {
        "bg": "и на да се от за е в са не с по че ще като това към или който тя беше още със може",
        "ru": "и в не на что я он с как это по но они мы все она так его за был бы только был или",
        "uk": "і в не на що з як це до та він у але для є вона за від або ми був вони також його",
    },
    "DEVANAGARI": {
        "hi": "के का में है और से को पर यह हैं की एक नहीं ने भी था कि इस वह हो कर",
        "mr": "आणि आहे या मध्ये च्या ते ही आहेत एक नाही होते तो की हे असे करून साठी ला होता",
        "ne": "र छ को मा यो हो लागि भएको गर्न छन् पनि एक थियो तथा तर गरेको ले हुन् त्यो",
    },
    "LATIN": {
        "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an wir ich",
        "en": (
            "the of and to in is that it was for on are with as they be at have this from or had by but not what all "
            "were when we there can an your which their said if do will each about how up out them then she many some "
            "so these would other into has more her two him could no make than first been its who now my made over did "
            "down only you he i"
        ),
        "es": "de la que el en y a los se del las un por con no una su para es al lo como más pero sus le ya o",
        "fi": "ja on ei se että oli joka mutta hän ovat myös kun tai mukaan sekä niin kuin jos ole sen olla nyt vain",
        "fr": "de la le et les des en un une du que est pour qui dans sur par plus pas au ce il ne se avec sont nous",
        "it": "di e il la che in un a per è una con non del della sono le si da come i al più ma gli nel anche ha",
        "pl": "w i na z się do nie to że jest o jak ale po co tak za od przez dla oraz był są jego tym",
        "pt": "de a o que e do da em um para com não uma os no se na por mais as dos como mas ao ele das à seu",
        "sw": "ya na wa kwa ni katika za la kuwa hii cha huo kama yake au lakini hiyo watu pia sana kwamba hivyo",
        "vi": "và của là có được cho trong không một các với những này đã người để khi đến từ như về cũng làm",
    },
}
_SCRIPT_ONLY = {
    "bn": "এবং এই একটি করে", "gu": "અને છે આ માટે", "pa": "ਅਤੇ ਹੈ ਇਹ ਲਈ", "ko": "그리고 이것은 있다", "he": "של את על הוא",
    "ja": "これは です そして", "kn": "ಮತ್ತು ಈ ಒಂದು ಇದು", "ml": "ഒരു ഈ എന്ന ആണ്", "ta": "மற்றும் இந்த ஒரு என்று",
    "te": "మరియు ఈ ఒక అని", "th": "และ ที่ เป็น การ",
}  # fmt: skip
WORDS: dict[str, tuple[str, ...]] = {
    code: tuple(words.split()) for table in (*_SHARED.values(), _SCRIPT_ONLY) for code, words in sorted(table.items())
}
"""Language (ISO 639-1) → common words of it."""
_FUNCTION_WORDS = {
    script: {code: frozenset(words.split()) for code, words in table.items()} for script, table in _SHARED.items()
}


def detect(text: str) -> str | None:
    """ISO 639-1 code of the language that most of the letters, and then most of the function words, speak for."""
    scripts = Counter(unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha())
    if not scripts:
        return None
    if scripts["HIRAGANA"] + scripts["KATAKANA"] and "CJK" in scripts:
        scripts["HIRAGANA"] += scripts.pop("CJK")
    script, count = scripts.most_common(1)[0]
    if 2 * count <= scripts.total():
        return None
    if script in _ALONE:
        return _ALONE[script]
    words = [word.strip(_ENDS) for word in unicodedata.normalize("NFC", text).casefold().split()]
    hits = Counter(
        {code: sum(w in known for w in words) for code, known in _FUNCTION_WORDS.get(script, {}).items()}
    ).most_common(2)
    if not hits or hits[0][1] == hits[1][1] or hits[0][1] < (LEAST if len(words) >= 5 else 1):
        return None
    return hits[0][0]
