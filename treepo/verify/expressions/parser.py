r"""A parser of expressions: LaTeX and plain text, by precedence, with bounded recursion.

Sums bind weaker than products, these than signs, these than powers. Things side by side are a product only where a
bracket, a letter or a command makes them one: 48(24) and 2x are, 48 24 is nothing. 1 1/4 and 1\frac14 are mixed numbers.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NoReturn

from treepo.verify.expressions.nodes import INFINITY, ONE, ZERO, Apply, Node, Number, Symbol, negated, number, product
from treepo.verify.expressions.text import MAX_DEPTH, UnreadableError
from treepo.verify.expressions.tokens import COMMAND, LETTER, NUMBER, SIGN, WORD, Token
from treepo.verify.expressions.words import CONSTANTS, FUNCTIONS, HEDGES

_CLOSING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_DECORATIONS = {"\\overline": "bar", "\\bar": "bar", "\\vec": "vec", "\\hat": "hat", "\\tilde": "tilde", "\\dot": "dot"}
_LARGE = {"\\sum": "sum", "\\prod": "prod", "\\int": "int", "\\lim": "lim", "\\iint": "iint", "\\oint": "oint"}
_SEVERAL = {"gcd", "lcm", "max", "min", "binom", "log"}
_UNICODE_ROOTS = {"\\surd": 2, "\\cubicroot": 3, "\\fourthroot": 4}
_NAMED_SYMBOLS = {"\\angle", "\\triangle", "\\partial", "\\nabla", "\\R", "\\Z", "\\N", "\\Q", "\\C", "\\P"}
_STARTS = {"\\frac", "\\sqrt", "\\binom", "\\lfloor", "\\lceil", "\\infty", "\\pi"}
_STARTS |= _DECORATIONS.keys() | _LARGE.keys() | _UNICODE_ROOTS.keys() | _NAMED_SYMBOLS
END = Token("end", "")


def parse(tokens: Sequence[Token]) -> Node:
    """The expression that all the tokens write; raises UnreadableError."""
    parser = Parser(tokens)
    node = parser.sum()
    if parser.peek() is not END:
        parser.fail("something follows the expression")
    return node


class Parser:
    """Reads expressions from tokens, one after the other."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = [part for token in tokens for part in _letters(token) if part.text != "\\quad"]
        self.at = 0
        self.depth = 0
        self.open_bars = 0

    def fail(self, why: str) -> NoReturn:
        """Raise UnreadableError."""
        raise UnreadableError(why)

    def peek(self, ahead: int = 0) -> Token:
        """The token that comes next, or END."""
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else END

    def take(self, *texts: str) -> bool:
        """Whether the next token is one of these; if so it is passed over."""
        found = self.peek().kind in {SIGN, COMMAND} and self.peek().text in texts
        self.at += found
        return found

    def expect(self, text: str) -> None:
        """Pass over a token that must be there."""
        if not self.take(text):
            self.fail(f"{text} is missing")

    def sum(self) -> Node:
        """Terms with + and - between them."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("nested too deep")
        terms = [self._signed_term()]
        while self.peek().kind in {SIGN, COMMAND} and self.peek().text in {"+", "-", "\\pm", "\\mp"}:
            terms.append(self._signed_term())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Apply("add", tuple(terms))

    def _signed_term(self) -> Node:
        sign, wrap = 1, ""
        for _ in range(4):
            if self.take("-"):
                sign = -sign
            elif self.take("\\pm", "\\mp"):
                wrap = self.tokens[self.at - 1].text
            elif not self.take("+"):
                break
        term = self._term()
        term = term if sign > 0 else negated(term)
        return Apply(wrap, (term,)) if wrap else term

    def _term(self) -> Node:
        node = self._factor()
        while True:
            if self.take("*"):
                node = product(node, self._signed_factor())
            elif self.take("/"):
                node = _quotient(node, self._signed_factor(after_slash=True))
            elif self._goes_on():
                node = product(node, self._factor())
            else:
                return node

    def _goes_on(self) -> bool:
        """Whether the next token begins a factor that multiplies what is before it."""
        token, last = self.peek(), self.tokens[self.at - 1]
        if token.kind == NUMBER:
            # 48 24, x2 and \frac12 3 are no products.
            if last.text not in {")", "]", "!"}:
                self.fail("a number behind something that is no bracket")
            return True
        if token.text == "|":
            return self.open_bars == 0
        return (
            token.kind in {LETTER, WORD}
            or token.text in {"(", "[", "{"}
            or token.text in _STARTS
            or self._is_function()
        )

    def _signed_factor(self, after_slash: bool = False) -> Node:
        if self.take("-"):
            return negated(self._factor(after_slash))
        self.take("+")
        return self._factor(after_slash)

    def _factor(self, after_slash: bool = False) -> Node:
        """A primary with its powers, factorials and signs behind it."""
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:
            self.fail("nested too deep")
        node = self._primary(after_slash)
        while True:
            if self.take("^"):
                node = self._raised(node)
            elif self.take("!"):
                if self.peek().text == "!":
                    self.fail("a double factorial")
                node = Apply("factorial", (node,))
            elif self.take("\\circ"):
                node = Apply("degree", (node,))
            elif self.take("%"):
                node = Apply("percent", (node,))
            else:
                break
        self.depth -= 1
        return node

    def _raised(self, base: Node) -> Node:
        if self.take("\\circ") or self._take_all("{", "\\circ", "}"):
            return Apply("degree", (base,))
        return Apply("pow", (base, self._exponent()))

    def _exponent(self) -> Node:
        if self.take("{"):
            return self._rest_of_group("{")
        if self.take("-"):
            return negated(self._exponent())
        if self.take("+"):
            return self._exponent()
        node = self._primary(False) if self.peek().kind == NUMBER else self._unit_primary()
        # 2^3^4 in plain text is 2^(3^4).
        if self.take("^"):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                self.fail("nested too deep")
            node = self._raised(node)
            self.depth -= 1
        return node

    def _unit_primary(self) -> Node:
        if self.peek().kind == LETTER:
            self.at += 1
            return Symbol(self.tokens[self.at - 1].text)
        return self._primary(False)

    def _take_all(self, *texts: str) -> bool:
        found = all(self.peek(ahead).text == text for ahead, text in enumerate(texts))
        self.at += len(texts) if found else 0
        return found

    def _primary(self, after_slash: bool) -> Node:
        token = self.peek()
        if token.kind == NUMBER:
            self.at += 1
            return self._mixed(token, after_slash)
        if self._is_function():
            return self._applied_function()
        if token.kind == LETTER:
            self.at += 1
            return self._symbol(token.text)
        if token.kind == WORD and token.text in CONSTANTS:
            self.at += 1
            return Symbol(CONSTANTS[token.text])
        if token.kind in {SIGN, COMMAND}:
            self.at += 1
            return self._after_sign(token.text)
        return self.fail("an expression is missing")

    def _after_sign(self, text: str) -> Node:
        if text in {"(", "[", "{"}:
            return self._rest_of_group(text)
        if text == "|":
            self.open_bars += 1
            inner = self.sum()
            self.expect("|")
            self.open_bars -= 1
            return Apply("abs", (inner,))
        if text in {"\\lfloor", "\\lceil"}:
            return Apply("floor" if text == "\\lfloor" else "ceil", (self._rest_of_group(text),))
        if text in {"\\pi", "\\infty"}:
            return Symbol(text)
        if text in {"\\frac", "\\binom"}:
            top, bottom = self._argument(), self._argument()
            return _quotient(top, bottom) if text == "\\frac" else Apply("binom", (top, bottom))
        if text == "\\sqrt":
            return self._square_root()
        if text in _UNICODE_ROOTS:
            degree = _UNICODE_ROOTS[text]
            argument = self._exponent() if self.peek().text != "(" else self._primary(False)
            return Apply("sqrt", (argument,)) if degree == 2 else Apply("root", (argument, Number(Fraction(degree))))
        if text in _DECORATIONS:
            return self._symbol(f"{_DECORATIONS[text]} {self._raw_group()}")
        if text in _LARGE:
            return self._large(_LARGE[text])
        if text in _NAMED_SYMBOLS:
            letters = []
            while text in {"\\angle", "\\triangle"} and self.peek().kind == LETTER and self.peek().text.isupper():
                letters.append(self.peek().text)
                self.at += 1
            return Symbol(" ".join([text, *letters]))
        return self.fail(f"{text} begins no expression")

    def _rest_of_group(self, opening: str) -> Node:
        bars, self.open_bars = self.open_bars, 0
        node = self.sum()
        self.open_bars = bars
        self.expect(_CLOSING[opening])
        return node

    def _argument(self) -> Node:
        r"""What follows \frac: a group, or one digit or letter."""
        token = self.peek()
        if self.take("{"):
            return self._rest_of_group("{")
        if token.kind == NUMBER and token.text.isdecimal():
            # \frac12: each digit is an argument of its own.
            head, rest = token.text[0], token.text[1:]
            if len(rest) > 1:
                self.fail("too many digits without braces")
            self.tokens[self.at : self.at + 1] = [Token(NUMBER, digits) for digits in (head, rest) if digits]
            self.at += 1
            return number(head)
        if token.kind == LETTER:
            self.at += 1
            return Symbol(token.text)
        if token.text in {"\\pi", "\\sqrt", "\\frac", "\\infty"}:
            return self._primary(False)
        return self.fail("an argument is missing")

    def _square_root(self) -> Node:
        degree: Node | None = None
        if self.take("["):
            degree = self._rest_of_group("[")
        if self.take("("):
            argument = self._rest_of_group("(")
        else:
            argument = self._argument()
            if self.tokens[self.at - 1].kind == NUMBER and self.peek().kind == NUMBER:
                self.fail("several digits without braces")
        if degree is None or degree == Number(Fraction(2)):
            return Apply("sqrt", (argument,))
        return Apply("root", (argument, degree))

    def _mixed(self, token: Token, after_slash: bool) -> Node:
        """A number, with the fraction behind it that makes it a mixed one."""
        whole = self._repeating(token)
        start = self.at
        if not token.text.isdecimal():
            return whole
        first, slash, last = self.peek(), self.peek(1), self.peek(2)
        is_plain = first.kind == NUMBER and slash.text == "/" and last.kind == NUMBER
        if is_plain and first.text.isdecimal() and last.text.isdecimal():
            self.at += 3
            top, bottom = int(first.text), int(last.text)
        elif first.text == "\\frac" and (found := self._plain_fraction()):
            top, bottom = found
        else:
            return whole
        if self.peek().text in {"^", "!", "/"} or after_slash or not 0 < top < bottom:
            if is_plain or self.peek().text == "!" or after_slash:
                self.fail("no mixed number")
            if not 0 < top < bottom:
                self.fail("a mixed number with an improper fraction")
            self.at = start
            return whole
        assert isinstance(whole, Number)
        return Number(whole.value + Fraction(top, bottom))

    def _plain_fraction(self) -> tuple[int, int] | None:
        r"""The numbers of a \frac of two numbers, which is passed over; None without one."""
        start = self.at
        self.at += 1
        try:
            parts = self._argument(), self._argument()
        except UnreadableError:
            parts = ()
        whole = [int(p.value) for p in parts if isinstance(p, Number) and p.value.denominator == 1 and not p.num_digits]
        if len(whole) == 2:
            return whole[0], whole[1]
        self.at = start
        return None

    def _repeating(self, token: Token) -> Node:
        r"""A number; 0.1\overline{6}, 0.\overline{3} and 0.333\ldots are repeating decimals."""
        has_point = self.peek().text == "." and self.peek(1).text in {"\\overline", "\\bar", "\\dot"}
        if "e" in token.text.lower() or not (has_point or "." in token.text):
            return number(token.text)
        if self.peek().text == "\\ldots":
            return self._dotted(token.text)
        self.at += has_point
        if not self.take("\\overline", "\\bar", "\\dot"):
            return number(token.text)
        digits = self._raw_group()
        if not digits.isdecimal():
            self.fail("what repeats is no digits")
        start = number(token.text)
        assert isinstance(start, Number)
        places = len(token.text.partition(".")[2])
        tail = Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)
        return Number(start.value + tail)

    def _dotted(self, text: str) -> Node:
        digits = text.partition(".")[2]
        if len(digits) < 3 or len(set(digits[-3:])) > 1:
            self.fail("dots behind digits that do not repeat")
        self.at += 1
        start = number(text)
        assert isinstance(start, Number)
        return Number(start.value + Fraction(int(digits[-1]), 9 * 10 ** len(digits)))

    def _raw_group(self) -> str:
        """The text of a group, or of one token, without blanks."""
        if not self.take("{"):
            token = self.peek()
            if token.kind not in {NUMBER, LETTER}:
                self.fail("a group is missing")
            self.at += 1
            return token.text
        start, depth = self.at, 1
        while depth:
            if self.peek() is END:
                self.fail("a group does not end")
            depth += {"{": 1, "}": -1}.get(self.peek().text, 0)
            self.at += 1
        return "".join(token.text for token in self.tokens[start : self.at - 1])

    def _symbol(self, name: str) -> Node:
        """A letter with its subscript and primes; f and g of something in brackets are functions that are not known."""
        index: Node | None = None
        if self.take("_"):
            start = self.at
            label = self._raw_group()
            if not label.isalnum():
                self.at = start
                index = self._limit() if self.take("{") else self._unit_primary()
            name = name if index is not None else f"{name}_{label}"
        while self.take("'"):
            name += "'"
        node: Node = Symbol(name) if index is None else Apply(f"{name}_", (index,))
        if name.rstrip("'") not in {"f", "g"} or not self.take("("):
            return node
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
        return (token.kind == WORD and token.text in FUNCTIONS) or (
            token.kind == COMMAND and token.text[1:] in FUNCTIONS and token.text != "\\sqrt" and token.text != "\\binom"
        )

    def _applied_function(self) -> Node:
        name = FUNCTIONS[self.peek().text.removeprefix("\\")]
        self.at += 1
        base = power = None
        for _ in range(2):
            if self.take("_"):
                base = self._exponent()
            elif self.take("^"):
                power = self._exponent()
        if power == Number(Fraction(-1)) and name in {"sin", "cos", "tan", "cot", "sec", "csc"}:
            name, power = f"arc{name}", None
        arguments = self._function_arguments(name)
        if base is not None:
            if name != "log":
                self.fail("a subscript of a function")
            arguments.append(base)
        if name == "sqrt" or (name == "cbrt" and len(arguments) == 1) or len(arguments) == 1 or name in _SEVERAL:
            node = Apply(name, tuple(arguments))
        else:
            return self.fail("too many arguments")
        if name == "binom" and len(arguments) != 2:
            self.fail("a binomial coefficient of two numbers")
        return node if power is None else Apply("pow", (node, power))

    def _function_arguments(self, name: str) -> list[Node]:
        if self.take("("):
            return self._list(")")
        if self.take("["):
            return self._list("]")
        if self.take("{"):
            return self._list("}")
        if self.take("-"):
            return [negated(self._factor())]
        node = self._factor()
        while self.peek().kind in {LETTER, COMMAND} and not self._is_function() and self._goes_on():
            node = product(node, self._factor())
        return [node]

    def _large(self, name: str) -> Node:
        """A sum, product, integral or limit: its bounds and what stands behind it, which is not computed."""
        bounds: dict[str, Node] = {"_": ZERO, "^": ZERO}
        for _ in range(2):
            if self.peek().text in {"_", "^"}:
                side = self.peek().text
                self.at += 1
                bounds[side] = self._limit() if self.take("{") else self._unit_or_number()
        body = self._term() if name != "int" or self._goes_on_or_number() else ONE
        return Apply(name, (bounds["_"], bounds["^"], body))

    def _goes_on_or_number(self) -> bool:
        return self.peek() is not END

    def _unit_or_number(self) -> Node:
        return self._primary(False) if self.peek().kind == NUMBER else self._unit_primary()

    def _limit(self) -> Node:
        """What stands below a sum or limit, up to its brace: k=1, x \to 0, i<j."""
        parts = [self._infinite_or_sum()]
        names = []
        while self.peek().text in {"=", "\\to", ",", "<", "\\le", ">", "\\ge", "\\ne", "\\in"}:
            names.append(self.peek().text)
            self.at += 1
            parts.append(self._infinite_or_sum())
        self.expect("}")
        return parts[0] if not names else Apply(f"limits {' '.join(names)}", tuple(parts))

    def _infinite_or_sum(self) -> Node:
        node = self.sum()
        # Infinity has no value of its own; as a bound it is a name.
        if node == INFINITY:
            return Symbol("infinity")
        return Symbol("minus infinity") if node == Apply("neg", (INFINITY,)) else node


def _letters(token: Token) -> list[Token]:
    """The token, or the letters of a word that is no function and no constant: a product."""
    if token.kind != WORD or token.text in FUNCTIONS or token.text in CONSTANTS:
        return [token]
    if (token.upright and not token.text.isupper()) or token.text.lower() in HEDGES or not token.text.isalpha():
        raise UnreadableError("a word in an expression")
    return [Token(LETTER, letter, token.spaced and not index, token.upright) for index, letter in enumerate(token.text)]


def _quotient(top: Node, bottom: Node) -> Node:
    if (
        isinstance(top, Number)
        and isinstance(bottom, Number)
        and bottom.value
        and not (top.num_digits or bottom.num_digits)
    ):
        return Number(top.value / bottom.value)
    return Apply("div", (top, bottom))
