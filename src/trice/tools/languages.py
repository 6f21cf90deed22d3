"""Languages: detection with py3langid, and the codes that programs and models use.

Only the languages listed here are detected, and a phrase of one or two words may be assigned to a related language.
Texts that mix languages are not supported.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from trice.errors import InputError

ENGLISH = "en"


class Language(NamedTuple):
    """A language's English name and its code in FLORES-200, whose first part is ISO 639-3."""

    name: str
    flores: str

    @property
    def iso3(self) -> str:
        return self.flores.partition("_")[0]


# By ISO 639-1 code.
LANGUAGES = {
    "af": Language("Afrikaans", "afr_Latn"), "ar": Language("Arabic", "arb_Arab"),
    "bg": Language("Bulgarian", "bul_Cyrl"), "bn": Language("Bengali", "ben_Beng"),
    "ca": Language("Catalan", "cat_Latn"), "cs": Language("Czech", "ces_Latn"),
    "da": Language("Danish", "dan_Latn"), "de": Language("German", "deu_Latn"),
    "el": Language("Greek", "ell_Grek"), "en": Language("English", "eng_Latn"),
    "es": Language("Spanish", "spa_Latn"), "et": Language("Estonian", "est_Latn"),
    "fa": Language("Persian", "pes_Arab"), "fi": Language("Finnish", "fin_Latn"),
    "fr": Language("French", "fra_Latn"),
    "he": Language("Hebrew", "heb_Hebr"), "hi": Language("Hindi", "hin_Deva"),
    "hr": Language("Croatian", "hrv_Latn"), "hu": Language("Hungarian", "hun_Latn"),
    "id": Language("Indonesian", "ind_Latn"), "is": Language("Icelandic", "isl_Latn"),
    "it": Language("Italian", "ita_Latn"), "ja": Language("Japanese", "jpn_Jpan"),
    "ko": Language("Korean", "kor_Hang"), "lt": Language("Lithuanian", "lit_Latn"),
    "lv": Language("Latvian", "lvs_Latn"), "mk": Language("Macedonian", "mkd_Cyrl"),
    "ml": Language("Malayalam", "mal_Mlym"), "nl": Language("Dutch", "nld_Latn"),
    "no": Language("Norwegian", "nob_Latn"), "pl": Language("Polish", "pol_Latn"),
    "pt": Language("Portuguese", "por_Latn"), "ro": Language("Romanian", "ron_Latn"),
    "ru": Language("Russian", "rus_Cyrl"), "sk": Language("Slovak", "slk_Latn"),
    "sl": Language("Slovenian", "slv_Latn"), "sr": Language("Serbian", "srp_Cyrl"),
    "sv": Language("Swedish", "swe_Latn"), "sw": Language("Swahili", "swh_Latn"),
    "ta": Language("Tamil", "tam_Taml"), "te": Language("Telugu", "tel_Telu"),
    "th": Language("Thai", "tha_Thai"), "tr": Language("Turkish", "tur_Latn"),
    "uk": Language("Ukrainian", "ukr_Cyrl"), "ur": Language("Urdu", "urd_Arab"),
    "vi": Language("Vietnamese", "vie_Latn"), "zh": Language("Chinese", "zho_Hans"),
}  # fmt: skip


def detect(text: str) -> str:
    """The ISO 639-1 code of a text's language. Raises InputError if the detector is not installed."""
    return str(_detector().classify(text)[0])


@cache
def _detector() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped,import-not-found]
    except ImportError:
        raise InputError(
            "language detection needs the extra 'search': pip install 'trice-rlef[search]'"
        ) from None
    detector = LanguageIdentifier.from_model_file(MODEL_FILE)
    detector.set_languages(list(LANGUAGES))
    return detector
