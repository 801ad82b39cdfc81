"""Units of measurement: what they measure, and how they convert."""

from dataclasses import dataclass
from fractions import Fraction

from treepo.utils.text import table_of, words_of

Dimension = tuple[tuple[str, int], ...]
"""Base units and their powers, in order of the names."""


@dataclass(frozen=True)
class Unit:
    """A unit as a multiple of base units; words that are no unit of measurement, such as apples, are base units."""

    dimension: Dimension
    factor: Fraction = Fraction(1)


def combined(first: Unit, second: Unit, power: int = 1) -> Unit:
    """first times second to the power."""
    powers = dict(first.dimension)
    for name, exponent in second.dimension:
        powers[name] = powers.get(name, 0) + power * exponent
    dimension = tuple(sorted((name, exponent) for name, exponent in powers.items() if exponent))
    return Unit(dimension, first.factor * second.factor**power)


NONE = Unit(())
PERCENT = Unit((("percent", 1),))
DEGREE = Unit((("degree", 1),))
RADIAN = Unit((("rad", 1),))

_BASE = words_of("m g s A K mol cd dollar euro pound_sterling yen bit degree degree_C degree_F percent month rad")

_DERIVED = """
    L: 1/1000 m^3
    N: 1000 g^1 m^1 s^-2
    J: 1000 g^1 m^2 s^-2
    W: 1000 g^1 m^2 s^-3
    Pa: 1000 g^1 m^-1 s^-2
    Hz: 1 s^-1
    C: 1 A^1 s^1
    V: 1000 g^1 m^2 s^-3 A^-1
    ohm: 1000 g^1 m^2 s^-3 A^-2
    F: 1/1000 g^-1 m^-2 s^4 A^2
    T: 1000 g^1 s^-2 A^-1
    eV: 1602176634/10000000000000000000000000 g^1 m^2 s^-2
    erg: 1/10000 g^1 m^2 s^-2
    dyne: 1/100 g^1 m^1 s^-2
    cal: 4184 g^1 m^2 s^-2
    atm: 101325000 g^1 m^-1 s^-2
    min: 60 s^1
    h: 3600 s^1
    d: 86400 s^1
    week: 604800 s^1
    year: 12 month^1
    decade: 120 month^1
    century: 1200 month^1
    inch: 254/10000 m^1
    ft: 3048/10000 m^1
    yd: 9144/10000 m^1
    mi: 1609344/1000 m^1
    mph: 1609344/3600000 m^1 s^-1
    kph: 1000/3600 m^1 s^-1
    lb: 45359237/100000 g^1
    oz: 45359237/1600000 g^1
    ton: 1000000 g^1
    ha: 10000 m^2
    acre: 40468564224/10000000 m^2
    gal: 3785411784/1000000000000 m^3
    qt: 946352946/1000000000000 m^3
    pt: 473176473/1000000000000 m^3
    cup: 2365882365/10000000000000 m^3
    cent: 1/100 dollar^1
    penny: 1/100 dollar^1
    pence: 1/100 pound_sterling^1
    B: 8 bit^1
        rpm: 1/60 revolution^1 s^-1
"""
"""Units as multiples of base units, from the SI brochure and the NIST guide SP 811; a cup is one of the US."""

_NAMES = table_of(
    r"""
    m: meter metre
    g: gram gramme gm
    s: second sec
    A: ampere amp
    K: kelvin
    mol: mole
    dollar: buck USD
    euro: EUR
    pound_sterling: GBP
    yen: JPY
    degree: deg
    degree_C: celsius
    degree_F: fahrenheit
    percent: pct percentage
    month: mo
    L: liter litre l
    N: newton
    J: joule
    W: watt
    Pa: pascal
    Hz: hertz
    C: coulomb
    V: volt
    F: farad
    T: tesla
    eV: electronvolt
    dyne: dyn
    cal: calorie
    atm: atmosphere
    min: minute
    h: hour hr
    d: day
    week: wk
    year: yr
    century: centuries
    inch: in inches
    ft: foot feet
    yd: yard
    mi: mile
    kph: kmh kmph
    lb: pound
    oz: ounce
    ton: tonne
    ha: hectare
    gal: gallon
    qt: quart
    pt: pint
    cent: c ¢
    penny: pennies
    B: byte
    rad: radian
    """
)
"""Other names of units."""

_SYMBOLS = words_of(
    """
    m g s A K mol L N J W Pa Hz C V F T eV h d l c B in hr kmh kmph mph kph gm rpm inches feet pence centuries pennies
    """
)
"""Names that take no s."""

_PREFIXES = {
    "p": ("pico", -12),
    "n": ("nano", -9),
    "\\mu": ("micro", -6),
    "u": ("", -6),
    "m": ("milli", -3),
    "c": ("centi", -2),
    "d": ("deci", -1),
    "k": ("kilo", 3),
    "M": ("mega", 6),
    "G": ("giga", 9),
    "T": ("tera", 12),
}
_WITH_PREFIXES = words_of("m g s L l A N J W Pa Hz V eV mol F C T B cal ohm")


def _table() -> dict[str, Unit]:
    units = {name: Unit(((name, 1),)) for name in _BASE} | {"unit": NONE}
    for line in _DERIVED.strip().splitlines():
        name, factor, *powers = line.replace(":", "").split()
        pairs = [power.partition("^") for power in powers]
        units[name] = Unit(tuple(sorted((base, int(power)) for base, _, power in pairs)), Fraction(factor))
    for other, name in (_NAMES | {name: name for name in units}).items():
        units[other] = units[name]
        if other not in _SYMBOLS:
            units[f"{other}s"] = units[name]
    for name in _WITH_PREFIXES:
        _add_prefixes(units, name)
    return units | {"sq": NONE, "cc": Unit((("m", 3),), Fraction(1, 10**6)), "\\circ": DEGREE}


def _add_prefixes(units: dict[str, Unit], name: str) -> None:
    words = [other for other, meant in _NAMES.items() if meant == name and other not in _SYMBOLS]
    for prefix, (word, power) in _PREFIXES.items():
        unit = Unit(units[name].dimension, units[name].factor * Fraction(10) ** power)
        units.setdefault(prefix + name, unit)
        for other in words if word else ():
            units |= {f"{word}{other}": unit, f"{word}{other}s": unit}


_UNITS = _table()
UNIT_NAMES = frozenset(name for name in _UNITS if len(name) > 1 and name.isalpha())
"""Names of units of at least two letters."""

ATTACHED = words_of("cm mm km kg ml mL mph kph kmh ft lb lbs oz mi hr hrs min sec nm kW MHz GHz Hz kHz Pa kPa kJ eV")
"""Short names that may stand right behind a number without a blank."""

_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "feet": "foot"}


def unit_of(word: str) -> Unit | None:
    """The unit of measurement of this name; None for other words."""
    found = _UNITS.get(word)
    return found or (_UNITS.get(word.lower()) if len(word) > 2 else None)


def counted(noun: str) -> Unit:
    """The unit of things that are counted: 5 apples."""
    noun = noun.lower()
    if noun in _IRREGULAR:
        return Unit(((f"#{_IRREGULAR[noun]}", 1),))
    for ending, short in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x")):
        if noun.endswith(ending) and len(noun) > 4:
            return Unit(((f"#{noun.removesuffix(ending)}{short}", 1),))
    is_plural = noun.endswith("s") and not noun.endswith("ss")
    return Unit(((f"#{noun[:-1] if is_plural else noun}", 1),))
