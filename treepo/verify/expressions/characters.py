"""Unicode characters of mathematics, and the commands or ASCII characters that they stand for."""

from treepo.utils.text import table_of

GREEK = table_of(
    r"""
    alpha: α
    beta: β
    gamma: γ
    delta: δ
    epsilon: ε
    zeta: ζ
    eta: η
    theta: θ
    iota: ι
    kappa: κ
    lambda: λ
    mu: μ µ
    nu: ν
    xi: ξ
    pi: π
    rho: ρ
    sigma: σ
    tau: τ
    upsilon: υ
    phi: φ ϕ
    chi: χ
    psi: ψ
    omega: ω
    Gamma: Γ
    Delta: Δ ∆
    Theta: Θ
    Lambda: Λ
    Xi: Ξ
    Pi: Π
    Sigma: Σ
    Phi: Φ
    Psi: Ψ
    Omega: Ω
    """
)

SIGNS = table_of(
    r"""
    le: ≤ ⩽ ≦
    ge: ≥ ⩾ ≧
    ne: ≠
    approx: ≈ ≃ ≅
    infty: ∞
    cup: ∪
    cap: ∩
    setminus: ∖
    emptyset: ∅
    in: ∈
    subset: ⊂
    notin: ∉
    pm: ±
    mp: ∓
    times: × ✕ ⨯
    div: ÷
    cdot: · ⋅ ∙ • ∗
    langle: ⟨ 〈
    rangle: ⟩ 〉
    lfloor: ⌊
    rfloor: ⌋
    lceil: ⌈
    rceil: ⌉
    angle: ∠
    triangle: △
    sum: ∑
    prod: ∏
    int: ∫
    partial: ∂
    to: →
    Rightarrow: ⇒
    ldots: … ⋯
    R: ℝ
    Z: ℤ
    N: ℕ
    Q: ℚ
    C: ℂ
    neg: ¬
    wedge: ∧
    vee: ∨
    equiv: ≡
    surd: √
    cubicroot: ∛
    fourthroot: ∜
    degree: ° º ˚
    vert: ∣
    cent: ¢
    euro: €
    pounds: £
    yen: ¥
    propto: ∝
    """
)

PLAIN = {
    **dict.fromkeys("\u2212\u2013\u2014\u2012\u2015\ufe63\uff0d\u2010\u2011", "-"),
    **{chr(code): " " for code in (0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)},
    **{chr(code): "" for code in (0x200B, 0x200C, 0x200D, 0x2060, 0x2061, 0x2062, 0x2063, 0xFEFF, 0xAD)},
    **dict.fromkeys("\u2019\u2018\u02bc\u2032", "'"),
    **dict.fromkeys("\u201c\u201d\u2033", '"'),
    "\u2103": "\\degree C",
    "\u2109": "\\degree F",
    "\u2044": "/",
    "\u2215": "/",
    "\u2236": ":",
    "\u3002": ".",
    "\u3001": ",",
    "\u212f": "e",
    "\u2148": "i",
    "\u2113": "\\ell ",
    "\u2016": "\\Vert ",
}
"""Characters and the text in their place: signs of minus, blanks, quotation marks, and others."""

RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᶜᵈᵏᵐᵗ", "0123456789+-=()nixyabcdkmt", strict=True))
LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₐₑₓₙₖₘₜᵢⱼ", "0123456789+-aexnkmtij", strict=True))

CHARACTERS = str.maketrans({c: f"\\{name} " for c, name in (GREEK | SIGNS).items()} | PLAIN)
"""For str.translate: commands end in a blank."""
