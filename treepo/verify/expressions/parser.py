r"""A parser of expressions: LaTeX and plain text, by precedence, with bounded recursion.

Sums bind weaker than products, these than signs, these than powers. Things side by side are a product only where a
bracket, a letter, a power or a command makes them one: 48(24) and 2x are, 48 24 is nothing.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from treepo.verify.expressions.cursor import END, Cursor
from treepo.verify.expressions.literals import read_number
from treepo.verify.expressions.nodes import INFINITY, ONE, ZERO, Apply, Node, Number, Symbol, negated, number, product
from treepo.verify.expressions.tokens import COMMAND, LETTER, NUMBER, SIGN, WORD, Token
from treepo.verify.expressions.words import CONSTANTS, FUNCTIONS

_CLOSING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_DECORATIONS = {"\\overline": "bar", "\\bar": "bar", "\\vec": "vec", "\\hat": "hat", "\\tilde": "tilde"}
_DECORATIONS |= {"\\dot": "dot", "\\ddot": "ddot"}
_LARGE = {"\\sum": "sum", "\\prod": "prod", "\\int": "int", "\\lim": "lim", "\\iint": "iint", "\\oint": "oint"}
_SEVERAL = {"gcd", "lcm", "max", "min", "binom", "log"}
_UNICODE_ROOTS = {"\\surd": 2, "\\cubicroot": 3, "\\fourthroot": 4}
_NAMED_SYMBOLS = {"\\angle", "\\triangle", "\\partial", "\\nabla", "\\R", "\\Z", "\\N", "\\Q", "\\C", "\\P"}
_STARTS = {"(", "[", "{", "\\frac", "\\sqrt", "\\binom", "\\lfloor", "\\lceil", "\\infty", "\\pi"}
_STARTS |= _DECORATIONS.keys() | _LARGE.keys() | _UNICODE_ROOTS.keys() | _NAMED_SYMBOLS
_DIFFERENTIAL = re.compile(r"(?:d|\\partial)(?:\^\{?[2-9]\}?)?(?:[A-Za-z]|\\[a-z]+)?(?:\^\{?[2-9]\}?)?")
_RELATIONS = {"=", "\\to", ",", "<", "\\le", ">", "\\ge", "\\ne", "\\in"}


def parse(tokens: Sequence[Token]) -> Node:
    """The expression that all the tokens write; raises UnreadableError."""
    parser = _Parser(tokens)
    node = parser.fraction()
    if parser.peek() is not END:
        parser.fail("something follows the expression")
    return node


class _Parser(Cursor):
    """Reads expressions from tokens, one after the other."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        super().__init__(tokens)
        self.open_bars = 0

    def sum(self) -> Node:
        """Terms with + and - between them."""
        with self.deeper():
            terms = [self._signed_term()]
            while self.peek().kind == SIGN and self.peek().text in {"+", "-"}:
                terms.append(self._signed_term())
        return terms[0] if len(terms) == 1 else Apply("add", tuple(terms))

    def fraction(self) -> Node:
        r"""A sum, or a \over b, or n \choose k."""
        node = self.sum()
        if self.peek().text not in {"\\over", "\\choose"}:
            return node
        is_quotient = self.next().text == "\\over"
        bottom = self.sum()
        return _quotient(node, bottom) if is_quotient else Apply("binom", (node, bottom))

    def _sign(self) -> int:
        """1, or -1 for an odd number of minus signs; at most four signs are read."""
        sign = 1
        for _ in range(4):
            if self.take("-"):
                sign = -sign
            elif not self.take("+"):
                break
        return sign

    def _signed_term(self) -> Node:
        is_negative = self._sign() < 0
        node = self._term()
        return negated(node) if is_negative else node

    def _term(self) -> Node:
        node = last = self._factor()
        while True:
            if self.take("*"):
                last = self._signed_factor()
                node = product(node, last)
            elif self.take("/"):
                last = self._signed_factor(after_slash=True)
                node = _quotient(node, last)
            elif self._goes_on(last):
                last = self._factor()
                node = product(node, last)
            else:
                return node

    def _signed_factor(self, after_slash: bool = False) -> Node:
        is_negative = self._sign() < 0
        node = self._factor(after_slash)
        return negated(node) if is_negative else node

    def _goes_on(self, last: Node) -> bool:
        """Whether the next token begins a factor that multiplies what is before it."""
        token = self.peek()
        if token.kind == NUMBER:
            # 48 24, x2 and \frac12 3 are no products; 2^6 3^5 is one.
            has_power = (isinstance(last, Apply) and last.function == "pow") or self.peek(1).text == "^"
            if self.last().text not in {")", "]", "!"} and not (has_power and token.spaced):
                self.fail("a number behind something that is no bracket")
            return True
        if token.text == "|":
            return self.open_bars == 0
        return token.kind in {LETTER, WORD} or token.text in _STARTS or self._is_function()

    def _factor(self, after_slash: bool = False) -> Node:
        """A primary with its powers, factorials and signs behind it."""
        node = self._primary(after_slash)
        while True:
            if self.take_all("^", "\\circ") or self.take_all("^", "{", "\\circ", "}") or self.take("\\circ"):
                node = Apply("degree", (node,))
            elif self.take("^"):
                node = self._raised(node)
            elif self.take("!"):
                if self.peek().text == "!":
                    self.fail("a double factorial")
                node = Apply("factorial", (node,))
            elif self.take("%"):
                node = Apply("percent", (node,))
            else:
                return node

    def _raised(self, base: Node) -> Node:
        exponent = self._exponent()
        # v^2_0 is v_0^2.
        if isinstance(base, Symbol) and self.take("_"):
            base = Symbol(f"{base.name}_{self.raw_group()}")
        return Apply("pow", (base, exponent))

    def _exponent(self) -> Node:
        """What stands behind ^ or _: a group, or a number or letter with its sign; 2^3^4 is 2^(3^4)."""
        if self.take("{"):
            return self._rest_of_group("{")
        with self.deeper():
            is_negative = self._sign() < 0
            if self.peek().kind == LETTER:
                node: Node = Symbol(self.next().text)
            else:
                node = self._rest_of_group("{") if self.take("{") else self._primary(False)
            if self.take("^"):
                node = self._raised(node)
        return negated(node) if is_negative else node

    def _primary(self, after_slash: bool) -> Node:
        with self.deeper():
            token = self.next()
            if token.kind == NUMBER:
                return read_number(self, token, after_slash)
            if token.kind == LETTER:
                return self._symbol(token.text)
            if token.kind == WORD and token.text in CONSTANTS:
                return Symbol(CONSTANTS[token.text])
            if token.kind in {SIGN, COMMAND, WORD}:
                self.at -= 1
                return self._applied_function() if self._is_function() else self._after_sign(self.next())
            return self.fail("an expression is missing")

    def _after_sign(self, token: Token) -> Node:
        text = token.text if token.kind != WORD else ""
        if text in _CLOSING:
            node = self._rest_of_group(text)
            return Apply({"\\lfloor": "floor", "\\lceil": "ceil"}[text], (node,)) if "\\" in text else node
        if text in {"\\pi", "\\infty"}:
            return Symbol(text)
        if text == "\\frac" and (derivative := self._derivative()) is not None:
            return derivative
        if text in {"\\frac", "\\binom"}:
            top, bottom = self._argument(), self._argument()
            return _quotient(top, bottom) if text == "\\frac" else Apply("binom", (top, bottom))
        if text == "|":
            return self._absolute()
        if text == "\\sqrt" or text in _UNICODE_ROOTS:
            return self._root(text)
        if text in _DECORATIONS:
            return self._symbol(f"{_DECORATIONS[text]} {self.raw_group()}")
        if text in _LARGE:
            return self._large(_LARGE[text])
        if text in _NAMED_SYMBOLS:
            return self._named(text)
        return self.fail(f"{token.text} begins no expression")

    def _derivative(self) -> Node | None:
        r"""\frac{dy}{dx}, which is no quotient of products; None for other fractions."""
        start = self.at
        if self.peek().text == "{" and self.peek(1).text in {"d", "\\partial"}:
            parts = self.raw_group(), self.raw_group() if self.peek().text == "{" else ""
            if all(_DIFFERENTIAL.fullmatch(part) for part in parts) and len(parts[1]) > 1:
                return Symbol("/".join(parts))
        self.at = start
        return None

    def _absolute(self) -> Node:
        self.open_bars += 1
        inner = self.sum()
        self.expect("|")
        self.open_bars -= 1
        return Apply("abs", (inner,))

    def _named(self, text: str) -> Node:
        r"""\angle ABC and the like."""
        letters = [text]
        while text in {"\\angle", "\\triangle"} and self.peek().kind == LETTER and self.peek().text.isupper():
            letters.append(self.next().text)
        return Symbol(" ".join(letters))

    def _rest_of_group(self, opening: str) -> Node:
        """What is in a bracket that has been opened."""
        bars, self.open_bars = self.open_bars, 0
        node = self.fraction() if opening == "{" else self.sum()
        self.open_bars = bars
        self.expect(_CLOSING[opening])
        return node

    def _argument(self) -> Node:
        r"""What follows \frac: a group, or one digit or letter."""
        if self.take("{"):
            return self._rest_of_group("{")
        token = self.next()
        if token.kind == NUMBER and token.text.isdecimal() and len(token.text) <= 2:
            # \frac12: each digit is an argument of its own.
            if token.text[1:]:
                self.at -= 1
                self.tokens[self.at] = Token(NUMBER, token.text[1:])
            return number(token.text[0])
        if token.kind == LETTER:
            return Symbol(token.text)
        if token.text in {"\\pi", "\\sqrt", "\\frac", "\\infty"}:
            self.at -= 1
            return self._primary(False)
        return self.fail("an argument is missing")

    def _root(self, text: str) -> Node:
        """\\sqrt with its degree, or a sign of Unicode, which takes a whole number behind it."""
        degree: Node = Number(Fraction(_UNICODE_ROOTS.get(text, 2)))
        if text == "\\sqrt" and self.take("["):
            degree = self._rest_of_group("[")
        if self.take("("):
            argument = self._rest_of_group("(")
        elif text == "\\sqrt":
            argument = self._argument()
            if self.last().kind == NUMBER and self.peek().kind == NUMBER:
                self.fail("several digits without braces")
        else:
            argument = self._exponent()
        return Apply("sqrt", (argument,)) if degree == Number(Fraction(2)) else Apply("root", (argument, degree))

    def _symbol(self, name: str) -> Node:
        """A letter with its subscript and primes, or the value of a function that it names."""
        if name == "d" and self.peek(1).text == "/" and self.peek(2).text == "d" and self.peek(3).kind == LETTER:
            top, bottom = self.next().text, self.peek(2).text
            self.at += 3
            return Symbol(f"d{top}/d{bottom}")
        index: Node | None = None
        if self.take("_"):
            start = self.at
            label = self.raw_group()
            if not _is_label(label):
                self.at = start
                index = self._limit() if self.take("{") else self._exponent()
            name = name if index is not None else f"{name}_{label}"
        while self.take("'"):
            name += "'"
        if index is not None:
            return Apply(f"{name}_", (index,))
        # I(0) is a value of a function; the product of a letter and a bracket with one number is written 2I.
        is_value = self.peek().text == "(" and self.peek(1).kind == NUMBER and self.peek(2).text == ")"
        if not (name.rstrip("'") in {"f", "g"} or is_value) or name in {"e", "i"} or not self.take("("):
            return Symbol(name)
        return Apply(f"{name}()", tuple(self._list(")")))

    def _list(self, closing: str) -> list[Node]:
        """Expressions with commas between them, up to the closing sign."""
        bars, self.open_bars = self.open_bars, 0
        nodes = [self.sum()]
        while self.take(",", ";"):
            nodes.append(self.sum())
        self.expect(closing)
        self.open_bars = bars
        return nodes

    def _is_function(self) -> bool:
        token = self.peek()
        name = token.text.removeprefix("\\") if token.kind == COMMAND else token.text
        return token.kind in {WORD, COMMAND} and name in FUNCTIONS and token.text not in {"\\sqrt", "\\binom"}

    def _applied_function(self) -> Node:
        name = FUNCTIONS[self.next().text.removeprefix("\\")]
        base = power = None
        for _ in range(2):
            if self.take("_"):
                base = self._exponent()
            elif self.take("^"):
                power = self._exponent()
        if power == Number(Fraction(-1)) and name in {"sin", "cos", "tan", "cot", "sec", "csc"}:
            name, power = f"arc{name}", None
        arguments = self._function_arguments()
        if base is not None:
            arguments.append(base)
        is_allowed = len(arguments) == 1 if name not in _SEVERAL else len(arguments) == 2 or name != "binom"
        if not is_allowed or (base is not None and (name != "log" or len(arguments) != 2)):
            self.fail("too many arguments, or too few")
        node = Apply(name, tuple(arguments))
        return node if power is None else Apply("pow", (node, power))

    def _function_arguments(self) -> list[Node]:
        """In brackets, or the product that follows: 2x in \\sin 2x."""
        for opening, closing in (("(", ")"), ("[", "]"), ("{", "}")):
            if self.take(opening):
                return self._list(closing)
        if self.take("-"):
            return [negated(self._factor())]
        node = last = self._factor()
        while self.peek().kind in {LETTER, COMMAND} and not self._is_function() and self._goes_on(last):
            last = self._factor()
            node = product(node, last)
        return [node]

    def _large(self, name: str) -> Node:
        """A sum, product, integral or limit: its bounds and what stands behind it, which is not computed."""
        bounds: dict[str, Node] = {"_": ZERO, "^": ZERO}
        for _ in range(2):
            if self.peek().text in bounds:
                side = self.next().text
                bounds[side] = self._limit() if self.take("{") else self._exponent()
        body = ONE if name == "int" and self.peek() is END else self._term()
        return Apply(name, tuple(_named_infinity(node) for node in (bounds["_"], bounds["^"], body)))

    def _limit(self) -> Node:
        r"""What stands below a sum or limit, up to its brace: k=1, x \to 0, i<j."""
        parts, names = [_named_infinity(self.sum())], []
        while self.peek().text in _RELATIONS:
            names.append(self.next().text)
            parts.append(_named_infinity(self.sum()))
        self.expect("}")
        return parts[0] if not names else Apply(f"limits {' '.join(names)}", tuple(parts))


def _named_infinity(node: Node) -> Node:
    """Infinity has no value of its own; as a bound it is a name."""
    if node == INFINITY:
        return Symbol("infinity")
    return Symbol("minus infinity") if node == Apply("neg", (INFINITY,)) else node


def _is_label(text: str) -> bool:
    """Whether a subscript is a name rather than an expression."""
    return text.replace("\\", "").replace(",", "").replace(" ", "").isalnum() or text in {"*", "+", "-"}


def _quotient(top: Node, bottom: Node) -> Node:
    """A fraction of whole numbers is a number."""
    if (
        isinstance(top, Number)
        and isinstance(bottom, Number)
        and bottom.value
        and not top.num_digits + bottom.num_digits
    ):
        return Number(top.value / bottom.value)
    return Apply("div", (top, bottom))
