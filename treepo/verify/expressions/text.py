r"""The text of an answer before it is read: Unicode as LaTeX, one kind of blank, no formatting.

Everything here takes linear time, whatever the text.
"""

import re
import unicodedata

MAX_ANSWER_LEN = 1000
"""Characters of an answer that is read as mathematics."""

MAX_DEPTH = 24
"""Brackets within brackets, powers of powers and so on of an answer that is read as mathematics."""


class UnreadableError(ValueError):
    """The text is no answer that can be read; it equals only the same text."""


_GREEK = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "ζ": "zeta",
    "η": "eta",
    "θ": "theta",
    "ι": "iota",
    "κ": "kappa",
    "λ": "lambda",
    "μ": "mu",
    "µ": "mu",
    "ν": "nu",
    "ξ": "xi",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "υ": "upsilon",
    "φ": "phi",
    "ϕ": "phi",
    "χ": "chi",
    "ψ": "psi",
    "ω": "omega",
    "Γ": "Gamma",
    "Δ": "Delta",
    "Θ": "Theta",
    "Λ": "Lambda",
    "Ξ": "Xi",
    "Π": "Pi",
    "Σ": "Sigma",
    "Φ": "Phi",
    "Ψ": "Psi",
    "Ω": "Omega",
    "∆": "Delta",
}
_SIGNS = {
    "≤": "le",
    "⩽": "le",
    "≦": "le",
    "≥": "ge",
    "⩾": "ge",
    "≧": "ge",
    "≠": "ne",
    "≈": "approx",
    "≃": "approx",
    "≅": "approx",
    "∞": "infty",
    "∪": "cup",
    "∩": "cap",
    "∖": "setminus",
    "∅": "emptyset",
    "∈": "in",
    "⊂": "subset",
    "∉": "notin",
    "±": "pm",
    "∓": "mp",
    "×": "times",
    "✕": "times",
    "⨯": "times",
    "÷": "div",
    "·": "cdot",
    "⋅": "cdot",
    "∙": "cdot",
    "•": "cdot",
    "∗": "cdot",
    "⟨": "langle",
    "⟩": "rangle",
    "〈": "langle",
    "〉": "rangle",
    "⌊": "lfloor",
    "⌋": "rfloor",
    "⌈": "lceil",
    "⌉": "rceil",
    "∠": "angle",
    "△": "triangle",
    "∑": "sum",
    "∏": "prod",
    "∫": "int",
    "∂": "partial",
    "→": "to",
    "⇒": "Rightarrow",
    "…": "ldots",
    "⋯": "ldots",
    "ℝ": "R",
    "ℤ": "Z",
    "ℕ": "N",
    "ℚ": "Q",
    "ℂ": "C",
    "¬": "neg",
    "∧": "wedge",
    "∨": "vee",
    "≡": "equiv",
    "√": "surd",
    "∛": "cubicroot",
    "∜": "fourthroot",
    "°": "degree",
    "º": "degree",
    "˚": "degree",
    "∣": "vert",
    "¢": "cent",
    "€": "euro",
    "£": "pounds",
    "¥": "yen",
    "∝": "propto",
}
_PLAIN = {
    **dict.fromkeys("−–—‒―﹣－‐‑", "-"),
    **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\u2061\u2062\u2063\ufeff\u00ad", ""),
    **dict.fromkeys("’‘ʼ′", "'"),
    **dict.fromkeys("“”″", '"'),
    "℃": "\\degree C",
    "℉": "\\degree F",
    "⁄": "/",
    "∕": "/",
    "∶": ":",
    "。": ".",
    "、": ",",
    "ℯ": "e",
    "ⅈ": "i",
    "ℓ": "\\ell ",
    "‖": "\\Vert ",
    "ı": "i",
    "―": "-",
}
_CHARACTERS = str.maketrans(
    {**{c: f"\\{name} " for c, name in (_GREEK | _SIGNS).items()}, **_PLAIN},
)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᶜᵈᵏᵐᵗ", "0123456789+-=()nixyabcdkmt", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₐₑₓₙₖₘₜᵢⱼ", "0123456789+-aexnkmtij", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_BLANKS = re.compile(r"\s+")
_CURRENCY = re.compile(r"(?:^|[\s({\[,=+<>-])(\$)(?=\s?\.?[0-9])")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z{}])")
_EMPHASIS = re.compile(r"(\*\*\*|\*\*|\*|__|`)(.*)\1", re.DOTALL)


def normalised(text: str) -> str:
    r"""The answer in ASCII as far as possible: Unicode signs as commands, ² as ^{2}, ½ as \frac{1}{2}, no $ of LaTeX.

    Raises UnreadableError for more than MAX_ANSWER_LEN characters.
    """
    if len(text) > MAX_ANSWER_LEN:
        raise UnreadableError("too long")
    text = text.strip()
    if not text.isascii():
        text = _ascii(text)
    if text[:1] in "*_`" and (match := _EMPHASIS.fullmatch(text)):
        text = match[2]
    if "\\\\" in text and "\\begin" not in text:
        # Backslashes of a quoted string, each written twice; rows end in matrices only.
        text = _DOUBLED.sub(r"\\", text)
    if "$" in text:
        text = _without_dollars(text)
    return _BLANKS.sub(" ", text.replace("o'clock", "oclock")).strip()


def _ascii(text: str) -> str:
    text = _RAISED_RUN.sub(lambda match: f"^{{{''.join(_RAISED[c] for c in match[0])}}}", text)
    text = _LOWERED_RUN.sub(lambda match: f"_{{{''.join(_LOWERED[c] for c in match[0])}}}", text)
    text = text.translate(_CHARACTERS)
    return text if text.isascii() else "".join(c if c.isascii() else _ascii_character(c) for c in text)


def _ascii_character(character: str) -> str:
    """Digits of other scripts, full-width and mathematical letters, and fractions; others stay as they are."""
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", character).replace("−", "-").translate(_CHARACTERS)
    if len(plain) > 2 and "⁄" in unicodedata.normalize("NFKC", character):
        top, _, bottom = plain.partition("/")
        return f"\\frac{{{top}}}{{{bottom}}}"
    is_plain = len(unicodedata.normalize("NFKC", character)) == 1 and unicodedata.category(character)[0] in "LPSN"
    is_circled = 0x2460 <= ord(character) <= 0x24FF
    return plain if is_plain and plain.isascii() and not is_circled else character


def _without_dollars(text: str) -> str:
    r"""Dollars before numbers as \$; those around mathematics as blanks."""
    bare = text.replace("\\$", "")
    signs = bare.count("$")
    if signs and len(_CURRENCY.findall(bare)) == signs:
        return text.replace("\\$", "$").replace("$", "\\$")
    return text.replace("\\$", "\0").replace("$", " ").replace("\0", "\\$")


def check_depth(text: str) -> None:
    """Raise UnreadableError for brackets that are nested too deep."""
    depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            if depth > 2 * MAX_DEPTH:
                raise UnreadableError("nested too deep")
        elif character in ")]}":
            depth -= 1
