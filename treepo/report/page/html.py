"""A payload and the page's own files -> one HTML text.

Nothing of a payload is ever read as HTML or as a script: it stands in an element of data, in which no character can end
that element, and a policy in the page lets the browser run nothing but the scripts whose checksums it names.
"""

import base64
import gzip
import hashlib
import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from treepo.utils.text import replace_surrogates

MAX_PLAIN = 200_000
"""Characters of a payload that is not compressed."""


def page_html(payload: dict[str, Any], is_live: bool = False) -> str:
    """The page. is_live: whether it may fetch more from where it came from, as that of `treepo watch` does."""
    static = files("treepo.report.page").joinpath("static")
    names = sorted(entry.name for entry in static.iterdir())
    vendored = sorted(entry.name for entry in static.joinpath("vendor").iterdir())
    # What all others are called by comes last.
    own = sorted((name for name in names if name.endswith(".js")), key=lambda name: (name == "shell.js", name))
    scripts = [
        *(static.joinpath("vendor", name).read_text(encoding="utf-8") for name in vendored if name.endswith(".js")),
        *(static.joinpath(name).read_text(encoding="utf-8") for name in own),
    ]
    for script in scripts:
        assert "</script" not in script.lower() and "<!--" not in script, "a script ends where its element does"
    styles = [static.joinpath(name).read_text(encoding="utf-8") for name in names if name.endswith(".css")]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(static.joinpath("page.html").read_text(encoding="utf-8"))
    kind, text = payload_text(payload)
    return template.render(
        title=replace_surrogates(payload["title"]),
        policy=policy(scripts, is_live),
        styles=styles,
        scripts=scripts,
        payload_type=kind,
        payload=text,
    )


def payload_text(payload: dict[str, Any]) -> tuple[str, str]:
    """(media type, text of the element that holds it): JSON, or where that is long its gzip in base64.

    The JSON is ASCII without `<`, `>` and `&`. Raises ValueError for a number that is not finite.
    """
    plain = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    if len(plain) <= MAX_PLAIN:
        return "application/json", plain
    return "application/octet-stream", base64.b64encode(gzip.compress(plain.encode(), mtime=0)).decode()


def policy(scripts: list[str], is_live: bool) -> str:
    """The page's Content-Security-Policy: it runs these scripts alone and fetches nothing, or from its own server."""
    checksums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{checksum}'" for checksum in checksums)
    rules = [
        "default-src 'none'",
        f"script-src {allowed}",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if is_live else []),
    ]
    return "; ".join(rules)
