"""The page that `treepo watch --page` serves, to this machine's own browser alone."""

import http.client
import socket
import threading

import pytest

from treepo.report.live.server import HEADERS, PageServer, PayloadCache, _Handler


class Run:
    """A run whose payload is its step."""

    def __init__(self):
        self.step, self.num_made, self.error = 0, 0, ""

    def mark(self):
        return f"mark {self.step}"

    def make(self):
        if self.error:
            raise ValueError(self.error)
        self.num_made += 1
        return {"step": self.step}


@pytest.fixture
def run():
    return Run()


@pytest.fixture
def server(run):
    cache = PayloadCache(run.mark, run.make, clock=lambda: 0.0)
    with PageServer(cache, lambda payload: f"<p>step {payload['step']} \u202e</p>") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request(method, path, headers={"Host": f"127.0.0.1:{server.server_port}"} | headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_the_page_and_the_payload(server, run):
    response, body = ask(server, "/")
    assert response.status == 200 and response.getheader("Content-Type") == "text/html; charset=utf-8"
    assert body.decode() == "<p>step 0 \u202e</p>"
    run.step = 7
    response, body = ask(server, "/payload")
    assert (response.status, response.getheader("Content-Type"), body) == (200, "application/json", b'{"step":7}')
    assert "Python" not in response.getheader("Server")


@pytest.mark.parametrize("path", ["/", "/payload", "/nothing"])
def test_nothing_that_is_answered_may_be_embedded_or_read_elsewhere(server, path):
    headers = dict(ask(server, path)[0].getheaders())
    told = {name: headers.get(name) for name in HEADERS}
    assert told == {
        "Cache-Control": "no-cache",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    assert not [name for name in headers if name.startswith("Access-Control")]


def test_a_client_that_says_nothing_is_cut_off(server, monkeypatch):
    """Else each would hold a thread for good."""
    assert 0 < _Handler.timeout <= 30
    monkeypatch.setattr(_Handler, "timeout", 0.05)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as client:
        assert client.recv(1) == b""


def test_a_run_that_has_written_nothing_new_costs_nothing(server, run):
    mark = ask(server, "/payload")[0].getheader("ETag")
    response, body = ask(server, "/payload", **{"If-None-Match": mark})
    assert (response.status, body, run.num_made) == (304, b"", 1)
    run.step = 1
    response, body = ask(server, "/payload", **{"If-None-Match": mark})
    assert (response.status, body, run.num_made) == (200, b'{"step":1}', 2)


@pytest.mark.parametrize(
    "path",
    ["/payload/", "/payload?x", "/./", "/index.html", "/config.toml", "/../config.toml", "/%2e%2e/config.toml", "*"],
)
def test_nothing_else_is_there(server, path):
    assert ask(server, path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS", "DELETE"])
def test_nothing_can_be_sent(server, method):
    assert ask(server, "/", method)[0].status == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{}", "127.0.0.1", "127.0.0.1:1", "", "[::1]:{}"])
def test_a_name_that_was_made_to_lead_here_is_refused(server, run, host):
    response, body = ask(server, "/payload", Host=host.format(server.server_port))
    assert (response.status, run.num_made) == (403, 0)
    assert b"step" not in body
    assert ask(server, "/payload", Host=f"localhost:{server.server_port}")[0].status == 200


def test_nobody_else_can_reach_it(server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_run_that_cannot_be_read_is_told_of_and_tried_again(server, run):
    run.error = "'metrics.jsonl', line 3: no metrics"
    response, body = ask(server, "/payload")
    assert (response.status, body.decode()) == (503, "'metrics.jsonl', line 3: no metrics\n")
    run.error = ""
    assert ask(server, "/payload")[0].status == 200


def test_a_port_that_is_taken_or_impossible_is_named(server):
    for port in (server.server_port, 99999):
        with pytest.raises(ValueError, match=f"port: {port} is not available"):
            PageServer(server.cache, server.page, port)


def test_making_payloads_takes_a_tenth_of_the_time_at_most(run):
    """Of a run with many trees it takes a second, and a page that is looked at asks every few seconds."""
    now = 0.0

    def make():
        nonlocal now
        now += 1.0
        return {"step": run.step}

    cache = PayloadCache(run.mark, make, clock=lambda: now)
    made = set()
    for _ in range(100):
        run.step += 1
        made.add(cache.get().payload["step"])
        now += 1.0
    assert 0.09 < len(made) / now < 0.11
