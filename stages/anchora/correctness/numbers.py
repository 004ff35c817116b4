"""Read the numbers of a text as people and models write them.

What is read as one number:

- digits of any script; thousands grouped by a comma, a point, an apostrophe, ``_`` or a space (``12 500``), in threes, the Indian
  way (``1,50,000``) or in fours; a decimal point or a decimal comma;
- with a sign and a currency before the digits; a percent sign behind them changes nothing (``10%`` is 10), nor does a unit;
- fractions (``3/4``, ``\\frac{3}{4}``, ``\u00bd``), mixed numbers (``2 1/2``), exponents and powers (``1e3``, ``3 \\times 10^4``);
- decimals whose last digits repeat (``0.\\overline{3}``, ``0.\\dot{3}``, ``0.(3)``): the fraction that they stand for;
- TeX's spaces between groups of digits (``12\\,345``, ``12\\ 345``).

A composite is no single number, and none of its parts stands for it: dates, times, ratios, roots, ``24/7``, version numbers. Nor does
a part stand for a number with a base (``1101_2``) or for what can be meant in several ways (``0.1(6)``, ``12~345``).

One separator alone can be meant in two ways. Before three digits a comma groups and a point is decimal (``1,234`` is 1234,
``1.234`` is 1.234); before any other number of digits a comma is decimal (``3,50``). Several commas that group in no known way
part a list (``1,2,3``). References and responses are read by the same rules.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from fractions import Fraction

# Active codes of ISO 4217, then abbreviations that stand before amounts.
CURRENCIES = set(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY COP CRC CUP
    CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD
    JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN
    NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN
    SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
    RMB RM Rs Rp Kr kr Fr Tk Ksh KSh
    """.split()
)

MINUS = "\u2212\u2013\ufe63\uff0d-"  # minus, en dash, small, wide and plain hyphen; the last one last, as it parts ranges in a class
THIN = r"(?:\\,|\\thinspace(?![a-z])[ ]?)"  # TeX's space within a number
THIN_SPACED = re.compile(rf"(?<![\d.,])(?P<whole>\d+(?:{THIN}\d+)*)(?P<fraction>(?:\.|\{{?,\}}?)\d+(?:{THIN}\d+)*)?")
TEX_COMMA = re.compile(r"(?:\\(?:text|mathrm|mathord))?\{,\}")
NEGATIVE_SPACE = re.compile(r"(?<!\\)\\!")
TEX_SPACE = re.compile(
    rf"(?<!\\)(?:(?<!\d){THIN}|{THIN}(?!\d)|\\[:;> ]|\\(?:en)?space(?![a-z])[ ]?|\\[hm]space\*?\{{[^{{}}]*\}}|"
    r"\\m?kern[ ]?-?[\d.]+[ ]?[a-z]{2}[ ]?|\{[ ]\}|~(?=\\))"
)
REPEATING = re.compile(  # the digits of one period behind a decimal separator
    r"""
    (?<![\d.,])(?<!\d[ ])(?P<whole>\d{1,3}(?:,\d{3})+(?=\.)|\d{0,100})[.,](?P<fixed>\d{0,100})
    (?:\\(?:overline|bar)[ ]?(?:\{[ ]?(?P<barred>\d{1,100})[ ]?\}|(?P<bar>\d))
      |\\dot[ ]?(?P<dots>\d|\{\d\}|(?:\d|\{\d\})\d{0,100}\\dot[ ]?(?:\d|\{\d\}))
      |(?<=[.,])\((?P<round>\d{1,100})\))
    (?![\d({]|\\(?:overline|bar|dot)|[ ]?[\^_])
    """,
    re.VERBOSE,
)
OVERLINED, DOTTED = re.compile(r"(?:\d[\u0304\u0305])+"), re.compile(r"(\d)\u0307")  # by combining characters
SUPERSCRIPTS = dict(zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-", strict=True))
SUPERSCRIPT = re.compile(f"[{''.join(SUPERSCRIPTS)}]+")
SUBSCRIPT = re.compile("[\u2080-\u2089]+")
SEPARATORS = str.maketrans("\u066b\u066c\uff0c", ".,,")  # Arabic decimal point and comma, the wide comma
SIGNS = "".join(chr(code) for code in range(0x24, 0x20C1) if unicodedata.category(chr(code)) == "Sc")  # of currencies

SLASH = r"[ ]?[/\u2044\u2215][ ]?"
POWER = rf"[ ]?\^[ ]?[{{(]?[ ]?(?P<NAME>[+{MINUS}]?\d+)(?!\d)[ ]?[}})]?"
ARGUMENT = r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\?\w)"  # of a TeX command
RUN = r"\d+(?:[.,\u066b\u066c\uff0c]\d+)*"
SPACED = r"[1-9]\d{0,2}(?P<gap>[ _'\u2019\u00a0\u2007\u2009\u202f])\d{3}(?:(?P=gap)\d{3})*(?!\d|(?P=gap)\d)(?:[.,]\d+)?"

ACCENT = r"\\(?:overline|bar|d?dot|(?:wide)?hat|overarc|wideparen|(?:overset|stackrel)[ ]?\{[^{}]*\})[ ]?"
# What can be meant in several ways, and numbers with a base, which are equal only to themselves.
BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}
BASE = rf"(?:\d+|{'|'.join(BASES)})\b"
NUMBER_START = r"(?<!\d)(?<!\d[.,])"
UNCERTAIN = rf"""
    {NUMBER_START}\d[\d.,]*(?:(?:{ACCENT}|(?<=\.)\\underline[ ]?){ARGUMENT}\d*)+   # 3\overline{{5}}, 0.\hat{{3}}
    |{ACCENT}(?=\{{?[ ]?\d){ARGUMENT}(?:_{ARGUMENT})?                             # \overline{{12}}
    |{NUMBER_START}\d+[.,]\d+\(\d+\)                                            # 0.1(6): a period, a product, or how exact it is
    |(?<![\w.,])(?!{SPACED})\d(?:[A-Fa-f\d]|[.,]\d)*(?:\\right)?[)}}]?[ ]?_(?:{ARGUMENT}|\\[a-z]+\{{[^{{}}]*\}}|\w)\w*  # 1101_2
    |{NUMBER_START}0(?:[xX][\dA-Fa-f]+|[bB][01]+|[oO][0-7]+)\b
    |{NUMBER_START}{RUN}[ ]?(?:\(base[ -]?{BASE}\)|(?:in[ ])?base[ -]?{BASE})
    |{NUMBER_START}\d+(?:~\d{{3}})+(?!\d)(?:[.,]\d+)*                           # 12~345: TeX's tie, or a range
    |{NUMBER_START}\d+(?:{THIN}\d+)+                                            # 3\,5
    |{NUMBER_START}\d+(?:\\[a-z]+)?\{{[^\w{{}}\\]*\}}\d+                         # 12{{.}}345
"""

IN_A_WORD = re.compile(r"[^\W_]_\{?$|\w_$|[)}\]]_\{?$")  # x_1: a subscript
IN_AN_EXPONENT = re.compile(r"\^[ ]?[{(]?[+-]?$")  # of what is no number: 25 cm^2
DIVIDED = re.compile(r"[^\W_]/$|[)}\]][ ]?/[ ]?$")  # (3 + 4)/2: the divisor of what is no number
NUMBER_ALONE = re.compile(rf"[ {MINUS}]*{RUN}[ ]*")
SKIPPED = re.compile(RUN)
LETTERS = re.compile(r"[^\W\d_]+$")
CURRENCY = re.compile(rf"(?:\\?[{SIGNS}]|(?<![^\W\d_])(?:{'|'.join(sorted(CURRENCIES, key=len, reverse=True))}))[ ]?$")

CANDIDATE = re.compile(
    r"\d|(?<![^\W_])(?<!\.)\.\d|[\u00bc-\u00be\u2150-\u215e\u221a]|\\[dtc]?frac|\\sqrt|sqrt[ ]?\(|" + ACCENT + r"\{?[ ]?\d"
)
COMPOSITE = re.compile(
    rf"""
    \d+(?:\.\d+)?(?:[:\uff1a]\d+)+                                       # 7:30, 2:1
    |\d+(?:{SLASH}\d+){{2,}}|24/7(?![\d/])                               # 3/4/2020, an idiom
    |(?:\d{{4}}-\d\d?-\d\d?|\d\d?-\d\d?-\d{{4}})(?![\d-])                # 2020-04-03
    |(?:{RUN}[ ]?)?(?:\\sqrt(?:\[[^\]]*\])?[ ]?{ARGUMENT}|\u221a[ ]?\(?\d[\d.]*|sqrt[ ]?\([^()]*\))
    |{RUN}[ ]?(?:\\pi(?![a-z])|\u03c0|(?:\u00b1|\\pm)[ ]?{RUN})
    |{UNCERTAIN}
    """,
    re.VERBOSE,
)
FRACTION = re.compile(
    rf"""
    (?:(?P<whole>\d+)[ ]?)?
    (?:\\[dtc]?frac[ ]?(?P<tex_over>{ARGUMENT})[ ]?(?P<tex_under>{ARGUMENT})
      |(?P<vulgar>[\u00bc-\u00be\u2150-\u215e])
      |(?<=[ ])(?P<over>\d+){SLASH}(?P<under>\d+)(?![\d/]|[.,]\d))
    """,
    re.VERBOSE,
)
PLAIN = re.compile(
    rf"""
    (?P<digits>{SPACED}|{RUN}|\.\d+)
    (?:(?P<exponent>[eE][+-]?\d{{1,3}})(?![\w.]*\d))?
    (?:[ ]?(?:x|\u00d7|\*|\u00b7|\u22c5|\\times|\\cdot)[ ]?10{POWER.replace("NAME", "tens")}|{POWER.replace("NAME", "power")})?
    (?P<unread_power>[ ]?\^(?![ ]?\{{?[ ]?\\circ))?
    (?:{SLASH}(?P<divisor>{RUN})(?![\d/]))?
    """,
    re.VERBOSE,
)


def numbers(text: str) -> list[Decimal | None]:
    """Return the numbers of ``text`` in order; None stands for a composite."""
    text, place = plain_marks(text), 0
    found: list[Decimal | None] = []
    while candidate := CANDIDATE.search(text, place):
        start = candidate.start()
        before = text[max(0, start - 6) : start]
        if IN_A_WORD.search(before) or IN_AN_EXPONENT.search(before) or (before[-1:].isalpha() and not _may_precede(text, start)):
            place = _skip(text, start)
        elif DIVIDED.search(before):
            place = _skip(text, start)
            found.append(None)
        else:
            values, place = _read_at(text, start)
            found += values
    return found


def _skip(text: str, start: int) -> int:
    """Return the place behind the digits at ``start``, or behind one letter."""
    skipped = SKIPPED.match(text, start)
    return skipped.end() if skipped else start + 1


def only_number(text: str) -> Decimal | None:
    """Return the number of a text that holds exactly one, whatever stands around it; else None."""
    found = numbers(text)
    return found[0] if len(found) == 1 else None


def plain_marks(text: str) -> str:
    """Return ``text`` with the marks that TeX and Unicode give to numbers as plain ones.

    TeX's thousands separators become commas or spaces, superscripts powers (``10\u2076`` is ``10^6``), subscripts ``_{2}``, and repeating
    decimals TeX's fractions (``0.\\overline{3}`` is ``\\frac{3}{9}``).
    """
    text = TEX_COMMA.sub(",", NEGATIVE_SPACE.sub("", THIN_SPACED.sub(_without_thin_spaces, text)))
    text = SUPERSCRIPT.sub(lambda digits: "^" + "".join(SUPERSCRIPTS[digit] for digit in digits[0]), TEX_SPACE.sub(" ", text))
    text = SUBSCRIPT.sub(lambda digits: f"_{{{unicodedata.normalize('NFKC', digits[0])}}}", text)
    text = OVERLINED.sub(lambda digits: rf"\overline{{{re.sub('[^0-9]', '', digits[0])}}}", DOTTED.sub(r"\\dot{\1}", text))
    return REPEATING.sub(_as_tex_fraction, text)


def _without_thin_spaces(found: re.Match) -> str:
    """Return a number without TeX's thin spaces; as it is where they part its whole digits in no known way."""
    groups, fraction = re.split(THIN, found["whole"]), found["fraction"] or ""
    if len(groups) > 1 and not _groups(groups):
        return found[0]
    return "".join(groups) + re.sub(THIN, "", fraction)


def _as_tex_fraction(found: re.Match) -> str:
    """Return a repeating decimal as a fraction: all digits less those that do not repeat, over as many nines as repeat, then zeros."""
    period = found["barred"] or found["bar"] or found["round"] or re.sub(r"\D", "", found["dots"])
    before = found["whole"].replace(",", "") + found["fixed"]
    over = int(before + period) - int(before or 0)
    return rf"\frac{{{over}}}{{{10 ** len(found['fixed']) * (10 ** len(period) - 1)}}}"


def _may_precede(text: str, start: int) -> bool:
    """Return whether digits at ``start`` are a number though a letter stands before them.

    So they are behind scripts without upper and lower case, which put no space there (\u7b54\u3048\u306f12), and behind a currency
    (USD150); behind other letters they belong to a name (A12, v1.2).
    """
    word = LETTERS.search(text[max(0, start - 12) : start])
    return word is None or word[0] in CURRENCIES or word[0][-1].lower() == word[0][-1].upper()


def _read_at(text: str, start: int) -> tuple[list[Decimal | None], int]:
    """Read the number that begins at ``start``: its value, or those of a list, and the place behind it."""
    if composite := COMPOSITE.match(text, start):
        return [None], composite.end()
    fraction, plain = FRACTION.match(text, start), PLAIN.match(text, start)
    if fraction and not (fraction["over"] and int(fraction["over"]) >= int(fraction["under"])):  # "3 5/2" is a number and a fraction
        values, end = [_fraction(fraction)], fraction.end()
    elif plain:
        values, end = _values_of_run(plain["digits"], plain["gap"]), plain.end()
        if len(values) == 1:
            values = [_with_suffixes(values[0], plain)]
    else:
        return [], start + 1
    first = values[0]
    if first is not None and _is_negative(text[max(0, start - 16) : start], start > 16):
        values[0] = -first
    return values, end


def _is_negative(before: str, more: bool) -> bool:
    """Return whether the text before a number, its last characters, ends with its minus.

    No sign is a minus in ``7 - 5`` or COVID-19, a dash, or a bullet; ``more`` says that text was cut off.
    """
    before = CURRENCY.sub("", before)
    bare = before.rstrip(" ")
    if not bare or bare[-1] not in MINUS or len(before) - len(bare) > 1:
        return False
    left = bare[:-1]
    if before != bare:  # a space behind the minus
        return (not more and not left.strip()) or left.rstrip(" ").endswith(("=", "(", "[", ":", "#"))
    if left[-1:].isalpha() and left[-1].lower() != left[-1].upper():
        return False
    stripped = left.rstrip()
    return not stripped or not (stripped[-1].isdigit() or stripped[-1] in ")]%")


def _values_of_run(digits: str, gap: str | None) -> list[Decimal | None]:
    """Read digits with separators: one value, several of a list, or None where they are no number (a version, a date)."""
    digits = (digits.replace(gap, "") if gap else digits).translate(SEPARATORS)
    points, commas = digits.count("."), digits.count(",")
    if points + commas == 0 or (points == 1 and not commas):
        return [_decimal(digits)]
    if points and commas:
        decimal, group = (".", ",") if digits.rindex(".") > digits.rindex(",") else (",", ".")
        whole, _, fraction = digits.rpartition(decimal)
        if decimal not in whole and _groups(whole.split(group)):
            return [_decimal(whole.replace(group, "") + "." + fraction)]
        return [value for part in digits.split(",") for value in _values_of_run(part, None)]
    if points:
        return [_decimal(digits.replace(".", "")) if _groups(digits.split("."), threes_alone=True) else None]
    if _groups(digits.split(",")):
        return [_decimal(digits.replace(",", ""))]
    return [_decimal(digits.replace(",", "."))] if commas == 1 else [_decimal(part) for part in digits.split(",")]


def _groups(parts: list[str], threes_alone: bool = False) -> bool:
    """Return whether the parts of a number group it: by threes, in twos before the last three (India), or by fours."""
    first, *others, last = parts
    if first.startswith("0"):
        return False
    if len(first) <= 3 and all(len(part) == 3 for part in (*others, last)):
        return True
    if threes_alone or not others:
        return False
    indian = len(first) <= 2 and all(len(part) == 2 for part in others) and len(last) == 3
    return indian or (len(first) <= 4 and all(len(part) == 4 for part in (*others, last)))


def _with_suffixes(value: Decimal | None, found: re.Match) -> Decimal | None:
    """Return ``value`` with its exponent, power and divisor; None for a power or a divisor that cannot be read."""
    if value is None or found["unread_power"] or len(found["tens"] or found["power"] or "") > 4:
        return None
    with localcontext() as context:
        context.prec = 50
        try:
            if found["exponent"]:
                value = value.scaleb(int(found["exponent"][1:]))
            if found["tens"]:
                value = value.scaleb(_integer(found["tens"]))
            if found["power"]:
                value = value ** _integer(found["power"])
            if found["divisor"]:
                (divisor, *others) = _values_of_run(found["divisor"], None)
                value = None if others or not divisor else value / divisor
        except (InvalidOperation, Overflow, DivisionByZero):
            return None
    return value


def _fraction(found: re.Match) -> Decimal | None:
    """Return the value of a fraction or a mixed number; None where a part of it is no number."""
    if found["vulgar"]:
        over, under = Fraction(unicodedata.numeric(found["vulgar"])).limit_denominator(100).as_integer_ratio()
        parts: list[Decimal | None] = [Decimal(over), Decimal(under)]
    else:
        texts = (found["tex_over"].strip("{} "), found["tex_under"].strip("{} ")) if found["tex_over"] else (found["over"], found["under"])
        parts = [only_number(text) if NUMBER_ALONE.fullmatch(text) else None for text in texts]
    over_part, under_part = parts
    if over_part is None or not under_part:
        return None
    with localcontext() as context:
        context.prec = 50
        return Decimal(found["whole"] or 0) + over_part / under_part


def _integer(text: str) -> int:
    return int(re.sub(f"[{MINUS}]", "-", text))


def _decimal(digits: str) -> Decimal | None:
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None
