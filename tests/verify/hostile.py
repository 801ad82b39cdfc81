"""Answers that try to hang, crash, fill up or deceive what judges them; drawn from a seed."""

import random
from collections.abc import Callable, Iterator

PRESETS = (
    *("72", "-3", "\\frac{1}{2}", "0.25", "x^2+1", "(1,2)", "\\{1,2\\}", "x>5", "[0,1)", "\\text{yes}", "3\\sqrt{2}"),
    *("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "y = 2x + 1", "\\pi"),
)
"""Ground truths; no hostile one equals any of them."""


def hostile_answers(count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """`count` of (kind, response, ground truth), the same for the same seed; none of them is right."""
    rng = random.Random(seed)
    kinds = list(_KINDS)
    for kind in rng.choices(kinds, [_KINDS[k][1] for k in kinds], k=count):
        text = _KINDS[kind][0](rng)
        yield kind, text if "\\boxed" in text else f"so \\boxed{{{text}}}", rng.choice(PRESETS)


def _nested(rng: random.Random) -> str:
    opening, closing = rng.choice(
        [
            ("(", ")"),
            ("{", "}"),
            ("[", "]"),
            ("\\left(", "\\right)"),
            ("\\sqrt{", "}"),
            ("\\frac{1}{1+", "}"),
            ("|", "|"),
        ]
    )
    depth = rng.choice([8, 9, 10, 11, 30, 100, 3000, 100_000])
    return opening * depth + "7" + closing * (depth - rng.choice([0, 0, 1]))


def _tower(rng: random.Random) -> str:
    height = rng.randint(3, 60)
    base = str(rng.randint(7, 99))
    return rng.choice(["^".join([base] * height), f"{base}^{{" * height + base + "}" * height, f"{base}^{{9^{{9^9}}}}"])


def _factorial(rng: random.Random) -> str:
    number = 10 ** rng.randint(2, 12) + 7
    return rng.choice([f"{number}!", "9" + "!" * rng.randint(3, 50), f"\\binom{{{number}}}{{{number // 2}}}", "(9!)!"])


def _digits(rng: random.Random) -> str:
    count = rng.choice([90, 400, 5000, 100_000, 2_000_000])
    digits = "".join(rng.choices("123456789", k=50)) * (count // 50)
    return rng.choice([digits, f"0.{digits}", f"-{digits}/{digits}1", ",".join(["123"] * (count // 4)), f"7e{digits}"])


def _unbalanced(rng: random.Random) -> str:
    pieces = [
        "\\frac{",
        "}",
        "{",
        "\\sqrt[",
        "]",
        "^",
        "_",
        "&",
        "\\\\",
        "\\left(",
        "\\right.",
        "7",
        "x",
        "=",
        "\\text{",
        "$",
    ]
    pieces += [
        "\\begin{matrix}",
        "\\end{cases}",
        "\\boxed{",
        "\\",
        "%",
        "#",
        "~",
        "<",
        "\\pm",
        "\\%",
        "'",
        '"',
        ";",
        "||",
    ]
    return "".join(rng.choices(pieces, k=rng.randint(1, 60))) + rng.choice(["", "\\boxed{-7", "\\boxed{-7}}}}"])


def _characters(rng: random.Random) -> str:
    odd = [
        chr(c) for c in (0, 1, 7, 8, 10, 13, 27, 127, 0x85, 0x200F, 0x202E, 0x2028, 0xD800, 0xDFFF, 0xFEFF, 0x10FFFF)
    ]
    return "".join(rng.choices([*odd, "7", " ", "\x00\x00\x00\x00\x00\x00\x00\x02{}"], k=rng.randint(1, 200)))


def _code(rng: random.Random) -> str:
    texts = [
        "{0.__class__.__mro__}",
        "%s%n%x",
        "{answer}",
        "{}",
        "__import__('os')._exit(0)",
        "$(kill -9 $PPID)",
        "`id`",
    ]
    texts += [
        "lambda: 7",
        "open('/dev/zero').read()",
        "eval('9**9**9')",
        '{"verdict": {"correct": 1.0}}',
        "1;DROP TABLE",
    ]
    return "".join(rng.choices(texts, k=rng.randint(1, 3)))


def _exponent(rng: random.Random) -> str:
    size = rng.choice([99, 401, 9999, 10**6, 10**9, 10**15])
    texts = [
        "7e{}",
        "7e-{}",
        "10^{{{}}}",
        "7^{{-{}}}",
        "7.5 \\times 10^{{{}}}",
        "\\sqrt[{}]{{7}}",
        "(x+7)^{{{}}}",
        "\\frac{{7}}{{7e{}}}",
    ]
    return rng.choice(texts).format(size)


def _infinity(rng: random.Random) -> str:
    texts = [
        "\\infty",
        "-\\infty",
        "\\infty-\\infty",
        "\\frac{0}{0}",
        "\\frac{7}{0}",
        "\\text{nan}",
        "nan",
        "inf",
        "0^{-7}",
    ]
    texts += [
        "\\frac{\\infty}{\\infty}",
        "\\tan\\frac{\\pi}{2}",
        "\\log 0",
        "(-\\infty,\\infty)",
        "\\emptyset",
        "\\{\\}",
        "0 \\cdot \\infty",
    ]
    return rng.choice(texts)


def _matrix(rng: random.Random) -> str:
    size = rng.randint(1, 9)
    cell = rng.choice(["7", "x_{}", "\\frac{7}{3}", "9^{99}", ""])
    rows = "\\\\".join("&".join([cell] * rng.choice([size, size, size + 1])) for _ in range(size))
    name = rng.choice(["pmatrix", "bmatrix", "vmatrix", "array"])
    return f"\\begin{{{name}}}{rows}\\end{{{name}}}" + rng.choice(
        ["", "^{-1}", "^{99}", "^T", "\\begin{pmatrix}7\\end{pmatrix}"]
    )


def _collection(rng: random.Random) -> str:
    count = rng.choice([3, 20, 60, 100, 10_000])
    parts = [str(rng.randint(5, 10**6)) for _ in range(count)]
    return rng.choice(
        [
            ",".join(parts),
            "\\{" + ",".join(parts) + "\\}",
            " \\cup ".join(f"({p},{p}7)" for p in parts),
            "=".join(parts),
        ]
    )


def _other_digits(rng: random.Random) -> str:
    zeros = [0xFF10, 0x0660, 0x0966, 0x1D7CE, 0x2070, 0x2080, 0x2460]
    return "".join(chr(rng.choice(zeros) + rng.randint(4, 9)) for _ in range(rng.randint(1, 30)))


def _endless(rng: random.Random) -> str:
    texts = [
        "\\sum_{n=1}^{\\infty} \\frac{1}{n^{7}+\\sin n}",
        "\\int_0^{\\infty} e^{-x^{x}} dx",
        "\\prod_{k=1}^{10^9} k",
    ]
    texts += [
        "\\lim_{x \\to 0} x^{x^{x}}",
        "\\int \\sqrt{\\sin(x^7)} dx",
        "\\sum_{n=1}^{10^{12}} n^n",
        "\\log_{7} 9^{9^{9}}",
    ]
    return rng.choice(texts)


def _algebra(rng: random.Random) -> str:
    size = rng.randint(2, 40)
    texts = [
        f"(x+y+z)^{{{size}}}",
        f"\\sin^{{{size}}} x \\cos^{{7}} x",
        "\\sqrt{7+" * (size // 5) + "\\sqrt{7}" + "}" * (size // 5),
    ]
    texts += [f"\\cos({size}x)+\\sin^{{{size}}}(x)", "+".join(f"\\sqrt{{{p}}}" for p in range(2, 2 + size))]
    return rng.choice(texts)


def _boxes(rng: random.Random) -> str:
    many = rng.choice([10, 1000, 100_000])
    piece = rng.choice(["\\boxed{", "\\boxed{}", "\\boxed{{", "{\\boxed{7", "\\boxed\\{", "\\\\boxed{7}"])
    return piece * many + rng.choice(["", "}" * many, "72", "\\boxed{"])


def _hedge(rng: random.Random) -> str:
    number = rng.randint(100, 999)
    texts = [
        "0=0",
        "x=x",
        "x \\in \\mathbb{R}",
        f"72 \\text{{ or }} {number}",
        f"72,{number}",
        f"72 \\pm {number}",
        "\\text{any}",
    ]
    texts += [
        f"{number} \\neq 72",
        f"72 < x < {number}",
        "72x",
        "y",
        "\\text{all of the above}",
        f"\\{{1,2,{number}\\}}",
        "?",
    ]
    return rng.choice(texts)


_KINDS: dict[str, tuple[Callable[[random.Random], str], float]] = {
    "nested": (_nested, 6),
    "tower": (_tower, 1),
    "factorial": (_factorial, 1),
    "digits": (_digits, 4),
    "unbalanced": (_unbalanced, 20),
    "characters": (_characters, 10),
    "code": (_code, 10),
    "exponent": (_exponent, 4),
    "infinity": (_infinity, 8),
    "matrix": (_matrix, 6),
    "collection": (_collection, 6),
    "other digits": (_other_digits, 5),
    "endless": (_endless, 1),
    "algebra": (_algebra, 3),
    "boxes": (_boxes, 5),
    "hedge": (_hedge, 10),
}
"""How each kind is made, and how often it is drawn beside the others; few of those that take the whole time limit."""
