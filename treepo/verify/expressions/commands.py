"""Commands of LaTeX in answers: letters, those that mean nothing, and one name for each of the others."""

from treepo.utils.text import table_of, words_of

GREEK = words_of(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar
    """
)

LETTERS = {f"\\{name}": f"\\{name.removeprefix('var')}" for name in GREEK}
"""Commands that are letters, and one name for each."""

IGNORED = words_of(
    r"""
    \( \) \Large \[ \] \bf \bm \bold \boldmath \boldsymbol \boxed \cdotp \displaystyle \emph \ensuremath \fbox
    \hfill \it \large \left \limits \mathbf \mathbin \mathcal \mathfrak \mathit \mathop \mathord \mathrel
    \mathscr \mathsf \mathstrut \middle \nobreak \nolimits \normalsize \pmb \right \rm \scriptstyle \sf \small
    \smash \strut \textstyle \tt \underline
    \color \textcolor \colorbox \tag \label
    """
) | {f"\\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m")}
"""Commands that only say how what follows looks."""

UPRIGHT = words_of(
    r"""
    \hbox \mathrm \mbox \operatorname \text \textbf \textit \textnormal \textrm \textsc \textsf \texttt \textup
    \unit
    """
)
"""Commands with text behind them."""

SPACES = words_of(r"\, \; \: \! \> \quad \qquad \enspace \thinspace \hspace") | {"\\ ", "~"}

SAME = table_of(
    r"""
    \frac: \nicefrac \sfrac \dfrac \tfrac \cfrac
    \binom: \dbinom \tbinom
    \le: \leq \leqslant
    \ge: \geq \geqslant
    <: \lt
    >: \gt
    \ne: \neq
    \{: \lbrace
    \}: \rbrace
    [: \lbrack
    ]: \rbrack
    *: \ast \times \cdot
    /: \div \slash
    :: \colon
    |: \vert \lvert \rvert \mid
    \Vert: \| \lVert \rVert
    \ldots: \dots \cdots \dotsc \dotsb
    \emptyset: \varnothing
    \setminus: \backslash \smallsetminus
    \infty: \infin
    \circ: \degree
    \to: \longrightarrow \rightarrow
    \approx: \sim \simeq \cong \doteq
    \wedge: \land
    \vee: \lor
    \in: \isin
    \R: \reals
    \hat: \widehat
    \vec: \overrightarrow
    ': \prime
    (: \lparen
    ): \rparen
    %: \%
    \and: \&
    '': \dprime
    \cup: \bigcup
    \cap: \bigcap
    =: \coloneqq
    """
)
"""Commands, and the command or sign that means the same."""

PLAIN_SIGNS = table_of(
    r"""
    \le: <= =<
    \ge: >=
    \ne: !=
    \to: => ->
    ^: **
    \pm: +- +/-
    =: == :=
    \approx: ~=
    \ldots: ...
    """
)
"""Signs of several characters in plain text."""
