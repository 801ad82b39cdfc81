"""A page is data and scripts whose checksums it names; nothing of a payload is read as anything else."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.report.page.report import MAX_PLAIN, page_html, payload_text

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>]]>\u2028\u202e&lt;&amp;'\"\x00\ud800"


class Page(HTMLParser):
    """Elements with their attributes and text, as a browser divides them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), ""))

    def handle_data(self, data):
        if self.elements:
            tag, attributes, text = self.elements[-1]
            self.elements[-1] = tag, attributes, text + data

    def handle_endtag(self, tag):
        self.elements.append(("end of " + tag, {}, ""))

    def policy(self) -> str:
        (policy,) = [a["content"] for _, a, _ in self.elements if a.get("http-equiv") == "Content-Security-Policy"]
        return policy or ""

    def scripts(self) -> list[str]:
        return [text for tag, attributes, text in self.elements if tag == "script" and "type" not in attributes]

    def payload(self) -> dict:
        (text,) = [text for _, attributes, text in self.elements if attributes.get("id") == "payload"]
        return json.loads(text) if text.startswith("{") else json.loads(gzip.decompress(base64.b64decode(text)))


def payload_of(text: str) -> dict:
    return {"version": 1, "title": text, "runs": [{"name": text, "note": text}], "charts": []}


@settings(max_examples=30)
@given(st.one_of(st.text(alphabet=st.characters()), st.sampled_from([HOSTILE, HOSTILE * 5000])))
def test_any_text_comes_back_from_the_page_and_adds_no_element(text):
    kind, written = payload_text(payload_of(text))
    assert not set(written) & set("<>&\u2028\u2029\x00")
    assert (kind == "application/json") == (len(written) <= MAX_PLAIN and written.startswith("{"))
    read = written if kind == "application/json" else gzip.decompress(base64.b64decode(written))
    assert json.loads(read) == payload_of(text)


def test_a_hostile_page_has_the_elements_of_a_benign_one():
    hostile, benign = (Page(page_html(payload_of(text))) for text in (HOSTILE, "a"))
    assert [element[:1] for element in hostile.elements] == [element[:1] for element in benign.elements]
    assert hostile.payload() == payload_of(HOSTILE)
    assert hostile.scripts() == benign.scripts()


def test_the_policy_allows_the_scripts_of_the_page_and_no_connection():
    text = page_html(payload_of("a"))
    page = Page(text)
    assert text.index("Content-Security-Policy") < text.index("<script")
    digests = [hashlib.sha256(script.encode()).digest() for script in page.scripts()]
    rules = [
        "default-src 'none'",
        "script-src " + " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests),
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert page.policy().split("; ") == rules
    live = Page(page_html(payload_of("a"), is_live=True)).policy()
    assert live.split("; ") == [*rules, "connect-src 'self'"]


def test_a_page_names_no_other_file():
    """Everything it needs is in it: no script, style, image or font is fetched."""
    page = Page(page_html(payload_of("a")))
    assert not [a for tag, a, _ in page.elements if tag == "link" or "src" in a or "href" in a]
    for tag, _, text in page.elements:
        assert tag != "style" or not re.search(r"@import|url\(\s*['\"]?(?!data:|#)", text)
