"""Whatever a server answers: another one is asked, or there is one short line; no answer is believed unchecked."""

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from tests.engine.server.conftest import VOCAB_SIZE
from tests.engine.server.fake import NUM_TOKENS, REQUEST, SEGMENT, FakeServer, http
from treepo.engine.server import client
from treepo.engine.server.answers import Vocabulary, complaint_of, kv_cache_tokens_of
from treepo.engine.server.engine import ServerEngine
from treepo.engine.server.weight_sync import DiskSync
from treepo.engine.settings import ServerSettings
from treepo.errors import EngineError, SettingError

EOS = 9
DEEP = "[" * 100_000
COMPLETIONS = "/v1/completions"


@pytest.fixture
def fakes() -> Iterator[list[FakeServer]]:
    servers = [FakeServer(), FakeServer()]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., ServerEngine]]:
    engines: list[ServerEngine] = []

    def make(fakes: list[FakeServer], **settings: Any) -> ServerEngine:
        own = ServerSettings(urls=tuple(fake.url for fake in fakes), **({"max_retries": 2} | settings))
        engines.append(ServerEngine(own, DiskSync(), Vocabulary(VOCAB_SIZE, (EOS,))))
        engines[-1].connect()
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def choice(**changed: Any) -> bytes:
    """A good answer with other entries of its choice."""
    answer = deepcopy(SEGMENT)
    answer["choices"][0].update(changed)  # type: ignore[attr-defined]
    return http(answer)


def ids(*token_ids: Any) -> bytes:
    """An answer with these tokens and as many log-probabilities."""
    return choice(token_ids=list(token_ids), logprobs={"token_logprobs": [-1.0] * len(token_ids)})


def logprobs(*values: Any) -> bytes:
    """An answer with these log-probabilities in the place of the first ones."""
    return choice(logprobs={"token_logprobs": [*values, -1.0, -1.0, -1.0, -1.0, -1.0][:NUM_TOKENS]})


def usage(value: Any) -> bytes:
    return http(SEGMENT | {"usage": value})


def text(body: str, *headers: str) -> bytes:
    return http(body, "200 OK", *headers)


def drip() -> Iterator[bytes]:
    """A byte at a time, without an end."""
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    yield from itertools.repeat(b" ")


def flood() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    yield from itertools.repeat(b" " * (1 << 20))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

SEGMENTS: dict[str, Any] = {
    # Tokens.
    "id beyond the vocabulary": ids(3, 4, 5, 6, VOCAB_SIZE),
    "negative id": ids(3, -1, 5, 6, 7),
    "id of 2^31": ids(3, 2**31, 5, 6, 7),
    "id of 2^64": ids(3, 2**64, 5, 6, 7),
    "id of a thousand digits": ids(3, 10**1000, 5, 6, 7),
    "fraction as id": ids(3, 4.5, 5, 6, 7),
    "float as id": ids(3, 4.0, 5, 6, 7),
    "bool as id": ids(3, True, 5, 6, 7),
    "text as id": ids(3, "4", 5, 6, 7),
    "null as id": ids(3, None, 5, 6, 7),
    "list as id": ids(3, [4], 5, 6, 7),
    "nested ids": choice(token_ids=[[3, 4, 5, 6, 7]]),
    "ids as text": choice(token_ids="34567"),
    "ids as a mapping": choice(token_ids={"0": 3}),
    "one id alone": choice(token_ids=3),
    "end before the last token": ids(3, EOS, 5, 6, 7),
    "end before the end": ids(3, EOS, EOS),
    "end first": ids(EOS, 4, 5, 6, 7),
    "too many tokens": ids(3, 4, 5, 6, 7, 8),
    "too many tokens and an end": ids(3, 4, 5, 6, 7, 8, EOS),
    "a hundred thousand tokens": ids(*[3] * 100_000),
    "too few tokens": ids(3, 4),
    "no tokens": ids(),
    # Log-probabilities.
    "NaN": logprobs(float("nan")),
    "infinity": logprobs(float("inf")),
    "minus infinity": logprobs(float("-inf")),
    "1e999": text(json.dumps(SEGMENT).replace("-2.0", "1e999")),
    "-1e999": text(json.dumps(SEGMENT).replace("-2.0", "-1e999")),
    "probability above 1": logprobs(0.01),
    "a probability itself": logprobs(0.5),
    "below what there is": logprobs(-1e30),
    "a log-probability of a thousand digits": logprobs(-(10**1000)),
    "text as a log-probability": logprobs("-1.0"),
    "bool as a log-probability": logprobs(False),
    "null as a log-probability": logprobs(None),
    "list as a log-probability": logprobs([-1.0]),
    "too few log-probabilities": choice(logprobs={"token_logprobs": [-1.0]}),
    "too many log-probabilities": choice(logprobs={"token_logprobs": [-1.0] * 6}),
    "log-probabilities without a name": choice(logprobs=[-1.0] * 5),
    "log-probabilities as text": choice(logprobs={"token_logprobs": "-----"}),
    # The rest of an answer.
    "no choices": http({"usage": {}}),
    "choices as text": http(SEGMENT | {"choices": "abc"}),
    "choice as a number": http(SEGMENT | {"choices": [7]}),
    "usage as a list": usage([]),
    "usage of nothing": usage(None),
    "details as text": usage({"prompt_tokens_details": "2"}),
    "more cached than there is": usage({"prompt_tokens_details": {"cached_tokens": 4}}),
    "less than nothing cached": usage({"prompt_tokens_details": {"cached_tokens": -1}}),
    "half a token cached": usage({"prompt_tokens_details": {"cached_tokens": 0.5}}),
    "true cached": usage({"prompt_tokens_details": {"cached_tokens": True}}),
    "a number": http(5),
    "null": http(None),
    "text": http('"abc"'),
    "nothing": http(""),
    "half an answer": text(json.dumps(SEGMENT)[:60]),
    "two answers": text(2 * json.dumps(SEGMENT)),
    "deep list": text(DEEP),
    "deep object": text('{"a":' * 100_000),
    "deep entry": text(f'{{"choices": {DEEP}'),
    "a number of 5,000 digits": text("1" * 5000),
    "no UTF-8": http(b"\xff\xfe{"),
    "UTF-16": http(json.dumps(SEGMENT).encode("utf-16")),
    "a page": text("<html>It works!</html>", "Content-Type: text/html"),
    "unknown characters": text("{", "Content-Type: application/json; charset=klingon"),
    # The protocol.
    "301": http("", "301 Moved Permanently", "Location: http://127.0.0.1:1/"),
    "307 to itself": http("", "307 Temporary Redirect", f"Location: {COMPLETIONS}"),
    "302 to a file": http("", "302 Found", "Location: file:///etc/passwd"),
    "204": http("", "204 No Content"),
    "304": http("", "304 Not Modified"),
    "401": http({"error": "no key"}, "401 Unauthorized"),
    "404": http("", "404 Not Found"),
    "429": http({"message": "x" * 100_000}, "429 Too Many Requests"),
    "500": http("x\n" * 100_000, "500 Internal Server Error"),
    "503 of bytes": http(bytes(range(256)), "503 Service Unavailable"),
    "deep 500": http(DEEP, "500 Internal Server Error"),
    "many quotes in a 500": http('"message":"\\' * 50_000, "500 Internal Server Error"),
    "status 999": http("", "999 What"),
    "status 101": http("", "101 Switching Protocols", "Upgrade: websocket"),
    "closes at once": b"",
    "closes in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "closes in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + json.dumps(SEGMENT).encode(),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n{}     ",
    "length in words": b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n{}",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n{}",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n{}",
    "header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n{}",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "nonsense in chunks": CHUNKED + b"zz\r\n{}\r\n",
    "negative chunk": CHUNKED + b"-5\r\n{}\r\n",
    "giant chunk": CHUNKED + b"fffffffffffffffff\r\n{}\r\n",
    "half a chunk": CHUNKED + b"50\r\n{}",
    "bad gzip": http(b"\x00" * 50, "200 OK", "Content-Encoding: gzip"),
    "gzip": http(gzip.compress(json.dumps(SEGMENT).encode()), "200 OK", "Content-Encoding: gzip"),
    "brotli": http(b"{}", "200 OK", "Content-Encoding: br"),
    "a cookie": http("{}", "200 OK", "Set-Cookie: \x01=;;=\x7f"),
    "drips": drip,
    "floods": flood,
}
"""What a server sends in the place of a good segment: what it is asked for, and its answer."""


def is_good(engine: ServerEngine) -> bool:
    """Whether its next segment is the good one."""
    engine.submit(REQUEST)
    [result] = engine.step()
    return result.token_ids.tolist() == [3, 4, 5, 6, 7] and bool((result.logprobs <= 0).all()) and not result.ended


def test_a_good_answer_is_taken(fakes: list[FakeServer], connect: Callable[..., ServerEngine]) -> None:
    """What the others differ from; also an end at the last place, and no numbers of cached tokens."""
    engine = connect(fakes[:1])
    assert is_good(engine)
    for answer in (ids(3, 4, EOS), ids(EOS), ids(3, 4, 5, 6, EOS), logprobs(1e-6), logprobs(0), usage({})):
        fakes[0].answers[COMPLETIONS] = answer
        engine.submit(REQUEST)
        [result] = engine.step()
        assert result.ended == (result.token_ids[-1] == EOS)
        assert np.isfinite(result.logprobs).all()
    assert fakes[0].asked.count(COMPLETIONS) == 7


@pytest.mark.parametrize("kind", SEGMENTS)
def test_what_is_no_good_answer_is_asked_for_elsewhere(
    fakes: list[FakeServer], connect: Callable[..., ServerEngine], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong ids were taken, 4.5 for 4 and "4" for 4; tokens after the end became part of trees; deep JSON and numbers
    of 1,000 digits ended the run in a traceback; a flood took all memory."""
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 3 << 20)
    fakes[0].answers[COMPLETIONS] = SEGMENTS[kind]
    engine = connect(fakes, timeout_s=0.7)
    assert is_good(engine)
    assert fakes[0].asked.count(COMPLETIONS) == 1


@pytest.mark.parametrize("kind", SEGMENTS)
def test_without_another_server_it_is_one_line(
    fakes: list[FakeServer], connect: Callable[..., ServerEngine], kind: str
) -> None:
    """However long the answer."""
    fakes[0].answers[COMPLETIONS] = SEGMENTS[kind]
    engine = connect(fakes[:1], timeout_s=0.5, max_retries=0)
    engine.submit(REQUEST)
    with pytest.raises(EngineError, match="^servers.urls: gave up after 1 attempts: ") as raised:
        engine.step()
    assert len(str(raised.value)) < 500 and "\n" not in str(raised.value)


def models(**changed: Any) -> tuple[str, bytes]:
    return "/v1/models", http({"data": [{"id": "fake", "max_model_len": 512} | changed]})


def metrics(line: str) -> tuple[str, bytes]:
    return "/metrics", http(f"vllm:cache_config_info{{{line}}} 1.0\n")


LIMITS: dict[str, tuple[str, Any]] = {
    "no max_model_len": ("/v1/models", http({"data": [{"id": "fake"}]})),
    "max_model_len of null": models(max_model_len=None),
    "max_model_len of 0": models(max_model_len=0),
    "negative max_model_len": models(max_model_len=-512),
    "max_model_len of 10^30": models(max_model_len=10**30),
    "infinite max_model_len": models(max_model_len=float("inf")),
    "fractional max_model_len": models(max_model_len=512.5),
    "true max_model_len": models(max_model_len=True),
    "max_model_len as text": models(max_model_len="512"),
    "max_model_len as long text": models(max_model_len="9" * 100_000),
    "no name": models(id=None),
    "empty name": models(id=""),
    "long name": models(id="x" * 100_000),
    "no models": ("/v1/models", http({"data": []})),
    "models as a mapping": ("/v1/models", http({"data": {"0": {}}})),
    "deep models": ("/v1/models", http(DEEP)),
    "no metrics": ("/metrics", http("", "404 Not Found")),
    "metrics of bytes": ("/metrics", http(b"\xff")),
    "metrics of a giant cache": metrics('num_gpu_blocks="999999999999999999",block_size="999999999999999999"'),
    "no block size": metrics('num_gpu_blocks="10"'),
    "no version": ("/weight_info", http({})),
    "version as a list": ("/weight_info", http({"weight_version": [1]})),
    "deep version": ("/weight_info", http(f'{{"weight_version": {DEEP}')),
    "redirected": ("/v1/models", http("", "308 Permanent Redirect", "Location: https://elsewhere/")),
    "dripping": ("/v1/models", drip),
    "flooding": ("/metrics", flood),
}
"""By name: what is asked for, and the answer."""


@pytest.mark.parametrize("kind", LIMITS)
def test_limits_that_cannot_be_are_one_line(
    fakes: list[FakeServer], connect: Callable[..., ServerEngine], kind: str
) -> None:
    """Before anything is sampled."""
    path, answer = LIMITS[kind]
    fakes[0].answers[path] = answer
    with pytest.raises(SettingError, match=f"^servers.urls: .*{path}") as raised:
        connect(fakes[:1], timeout_s=0.7)
    assert len(str(raised.value)) < 500 and "\n" not in str(raised.value)


@pytest.mark.parametrize("body", [{}, {"weight_version": {}}, {"weight_version": "other"}, DEEP, 5])
def test_a_version_that_changes_or_is_none_ends_the_use_of_a_server(
    fakes: list[FakeServer], connect: Callable[..., ServerEngine], body: object
) -> None:
    """Its answer is asked for elsewhere."""
    engine = connect(fakes)
    fakes[0].answers["/weight_info"] = http(body)
    assert is_good(engine)
    assert [server.url for server in engine.fleet.alive] == [fakes[1].url]


def test_metrics_that_are_long_are_read_at_once() -> None:
    """A line of word characters took the square of its length."""
    assert kv_cache_tokens_of("vllm:cache_config_info{" + "a" * 1_000_000) is None
    assert kv_cache_tokens_of('vllm:cache_config_info{block_size="8",num_gpu_blocks="500"} 1.0') == 4000
    assert complaint_of('"message"' + " " * 1_000_000) == '"message"'
