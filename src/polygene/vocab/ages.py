"""Ages: a development stage, as people write it, in years relative to birth."""

import re

DAYS_PER_YEAR = 365.25
WEEKS_TO_BIRTH = 38  # after fertilization; 40 after the last menstrual period, from which gestation counts
OLDEST = 130.0

_YEARS = {"y": 1.0, "m": 1 / 12, "w": 7 / DAYS_PER_YEAR, "d": 1 / DAYS_PER_YEAR}
_UNIT = r"[\s-]*(?P<unit>years?|yrs?|y\.?o|y|months?|mos?|weeks?|wks?|w|days?|d)\b"
_NUMBER = r"(?<![\w.])(?P<low>\d+(?:\.\d+)?)(?:st|nd|rd|th)?"
_TO = r"\s*(?:-|–|to)\s*(?P<high>\d+(?:\.\d+)?)"
_BARE = re.compile(r"(?:age\s*[:=]?\s*)?[>≥]?\s*(?P<years>-?\d+(?:\.\d+)?)\s*(?:\+|and over|or older)?")
_RANGE = re.compile(_NUMBER + _TO + _UNIT)
_UNDER = re.compile(rf"(?:under|below|less than|<)[\s-]*{_NUMBER}{_UNIT}".replace(r"(?<![\w.])", ""))
_SINGLE = re.compile(_NUMBER + _UNIT)
_NEWBORN = re.compile(r"\b(?:newborn|neonat)")
_PRENATAL = re.compile(r"fertili[sz]ation|conception|\bpcw|\bgw|fo?et(?:al|us)|embryo|gestation|prenatal")
_PRENATAL_AGE = re.compile(
    rf"{_NUMBER}(?:{_TO})?[\s-]*(?P<unit>w|d|m|pcw|gw)(?:ks?|eeks?|ays?|onths?)?\b"
    r"|(?P<unit_first>pcw|gw|week|day)s?\s*(?P<number>\d+(?:\.\d+)?)\b"
)
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"]
_DECADE = re.compile(rf"\b(?:(?P<word>{'|'.join(_ORDINALS)})|(?P<number>\d+)(?:st|nd|rd|th)) decade\b")


def age_in_years(label: str) -> float | None:
    """Read a development stage as years relative to birth; None where it has no number, or is outside -1 to 130 years.

    * An age is its number: "57-year-old" is 57.0, "80 year-old and over" 80, "newborn" 0.
    * A span is its middle, its last unit counted in: "fifth decade" (40 to 49 years) is 45, "under-1-year-old" 0.5.
    * Before birth ages are negative. Birth is 38 weeks after fertilization, from which fetal and embryonic stages and
      pcw count. Gestational weeks (gw) count from the last menstrual period, two weeks before.

    >>> [age_in_years(label) for label in ("57-year-old human stage", "18-month-old stage", "adult")]
    [57.0, 1.5, None]
    """
    text = str(label).strip().lower()
    if bare := _BARE.fullmatch(text):
        return _plausible(float(bare["years"]))
    if _PRENATAL.search(text):
        return _before_birth(text)
    if _NEWBORN.search(text):
        return 0.0
    if decade := _DECADE.search(text):
        nth = int(decade["number"]) if decade["number"] else _ORDINALS.index(decade["word"]) + 1
        return _plausible(10.0 * nth - 5)
    if under := _UNDER.search(text):
        return _plausible(float(under["low"]) / 2 * _YEARS[under["unit"][0]])
    if span := _RANGE.search(text):
        return _plausible((float(span["low"]) + float(span["high"]) + 1) / 2 * _YEARS[span["unit"][0]])
    parts = {part["unit"][0]: float(part["low"]) for part in _SINGLE.finditer(text)}  # "2 years 6 months" has two
    if not parts:
        return None
    return _plausible(sum(number * _YEARS[unit] for unit, number in parts.items()))


def _before_birth(text: str) -> float | None:
    age = _PRENATAL_AGE.search(text)
    if age is None:
        return None
    unit = age["unit"] or age["unit_first"]
    low = float(age["low"] or age["number"])
    number = (low + float(age["high"]) + 1) / 2 if age["high"] else low
    years = number * _YEARS["w" if unit in ("pcw", "gw") else unit[0]]
    weeks_to_birth = WEEKS_TO_BIRTH + 2 * ("gestation" in text or unit == "gw")
    return _plausible(years - weeks_to_birth * _YEARS["w"])


def _plausible(years: float) -> float | None:
    return years if -1 <= years <= OLDEST else None
