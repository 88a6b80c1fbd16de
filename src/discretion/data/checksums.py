"""Check digits and issuing rules of numbers that identify: is this string of digits a number of that kind?

Plain functions on strings without separators. Sources: ISO/IEC 7812 (Luhn), ISO 13616 (IBAN), the NHS data dictionary,
the US Social Security Administration's rules since 2011, and the national standards named at each function.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CARDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d+|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|(?:6011|65\d\d|64[4-9]\d|35\d\d|62\d\d)\d{12}"
)
# The registry of ISO 13616: letters of the country, and the length of its IBAN.
_REGISTRY = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18
    FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21
    LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27
    ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20
"""
_IBANS = {word[:2]: int(word[2:]) for word in _REGISTRY.split()}
_NIF_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_VERHOEFF_D = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_P = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(d) * w for d, w in zip(digits, weights, strict=False))


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def card(digits: str) -> bool:
    """A payment card: prefix and length of a known issuer, then Luhn."""
    if not _CARDS.fullmatch(digits) or (digits[0] in "25" and len(digits) != 16):
        return False
    return len(set(digits)) > 1 and luhn(digits)


def iban_length(country: str) -> int | None:
    """How long an IBAN of this country is; None for letters that are no country of the registry."""
    return _IBANS.get(country.upper())


def iban_remainder(value: str) -> int:
    """ISO 7064 mod 97-10 of an IBAN without separators; 1 where the check digits are right."""
    value = value.upper()
    return int("".join(str(int(c, 36)) for c in value[4:] + value[:4])) % 97


def ssn(digits: str) -> bool:
    """A US social security number that may have been issued; not the ones of advertisements."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if area in ("000", "666") or area[0] == "9" or group == "00" or serial == "0000":
        return False
    return digits not in ("078051120", "219099999", "123456789") and len(set(digits)) > 1


def itin(digits: str) -> bool:
    """A US individual taxpayer number: 9xx, then a group the tax office uses."""
    return (
        digits[0] == "9"
        and (50 <= int(digits[3:5]) <= 65 or 70 <= int(digits[3:5]) <= 99)
        and digits[3:5] not in ("89", "93")
    )


def nhs(digits: str) -> bool:
    """NHS number of England, Wales and the Isle of Man: mod 11 over weights 10 to 2."""
    check = 11 - _weighted(digits, range(10, 1, -1)) % 11
    return check != 10 and check % 11 == int(digits[9]) and len(set(digits)) > 1


def isbn(digits: str) -> bool:
    """An ISBN-13: a book, not a person."""
    return len(digits) == 13 and digits[:3] in ("978", "979") and _weighted(digits, (1, 3) * 7) % 10 == 0


def pesel(digits: str) -> bool:
    """Poland's PESEL: weights 1 3 7 9, and a month that the century codes allow."""
    month = int(digits[2:4]) % 20
    return 1 <= month <= 12 and _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def aadhaar(digits: str) -> bool:
    """India's Aadhaar: Verhoeff, never beginning with 0 or 1."""
    state = 0
    for place, digit in enumerate(reversed(digits)):
        state = int(_VERHOEFF_D[state][int(_VERHOEFF_P[place % 8][int(digit)])])
    return state == 0 and digits[0] not in "01" and len(set(digits)) > 1


def ahv(digits: str) -> bool:
    """Switzerland's AHV number: 756, then EAN-13."""
    return digits[:3] == "756" and _weighted(digits, (1, 3) * 7) % 10 == 0


def nif(value: str) -> bool:
    """Spain's NIF: eight digits and a letter by mod 23."""
    return value[8].upper() == _NIF_LETTERS[int(value[:8]) % 23]


def dea(value: str) -> bool:
    """A US medical licence (DEA): two letters, seven digits, the last one a check digit."""
    digits = value[2:]
    total = _weighted(digits, (1, 2, 1, 2, 1, 2))
    return value[0].upper() in "ABCDEFGHJKLMPRSTUX" and total % 10 == int(digits[6])


def nino(value: str) -> bool:
    """A British national insurance number: no check digit, but letters that are never used."""
    return re.fullmatch(r"[A-CEGHJ-PR-TW-Z]{2}[0-9]{6}[A-D]", value.upper()) is not None
