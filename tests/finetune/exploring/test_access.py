"""Who gets an answer: hosts, origins and tokens, by plain HTTP against the real program."""

import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from finetune.exploring.access import HEADERS
from finetune.exploring.pictures import MOST_BYTES
from finetune.exploring.serving import listen
from tests.support.exploring import TEST, explored, fine_tuned, pretrained
from tests.support.images import png
from tests.support.programs import run

QUESTION = {"picture": "sample-3", "stage": 3, "ratio": 0.6, "patch": 2}
Answer = tuple[int, bytes, http.client.HTTPMessage]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The address of a page on a run and the demo's test images, on loopback."""
    with explored(pretrained(folder), "--data", TEST, "--compare", "16") as (url, _):
        yield urlsplit(url).netloc


def ask(
    place: str, path: str = "/", body: bytes | None = None, method: str = "", **headers: str
) -> Answer:
    """One request with these headers; a POST if it has a body."""
    method = method or ("GET" if body is None else "POST")
    with closing(http.client.HTTPConnection(place, timeout=60)) as connection:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers


def test_answers_come_quickly(server: str, capsys) -> None:
    times = []
    for seed in range(21):
        start = time.perf_counter()
        status, body, _ = ask(server, "/answer", json.dumps(QUESTION | {"seed": seed}).encode())
        times.append(time.perf_counter() - start)
        assert status == 200
        answer = json.loads(body)
        assert answer["visible"].count("1") == 6
        assert "Feature maps of stage 3" in answer["html"]
    median = sorted(times)[len(times) // 2]
    with capsys.disabled():
        print(f"\nanswers of the page: median {1000 * median:.0f} ms, most {1000 * max(times):.0f}")
    assert median < 3  # on any machine; the printed number is what counts


def test_every_answer_has_strict_headers(server: str) -> None:
    for path in ("/", "/explore.js", "/bar.png", "/thumbnail?sample=1", "/none"):
        _, _, headers = ask(server, path)
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert "server" not in headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9000", 200),  # a forwarded port
        ("[::1]:80", 200),
        ("rebound.example", 403),
        ("127.0.0.1.example", 403),
        ("192.0.2.1", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_other_names_are_refused(host: str, status: int, server: str) -> None:
    assert ask(server, Host=host)[0] == status


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://127.0.0.1:1"])
def test_pages_of_others_are_refused(origin: str, server: str) -> None:
    body = json.dumps(QUESTION).encode()
    assert ask(server, "/answer", body, Origin=origin)[0] == 403
    assert ask(server, "/answer", body, Origin=f"http://{server}")[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/answer", json.dumps(QUESTION | {"picture": "/etc/passwd"}).encode()),
        ("/answer", json.dumps(QUESTION | {"picture": "sample-99999"}).encode()),
        ("/answer", b"nonsense"),
        ("/drop", b"nonsense"),
        ("/drop", png(0)[:99]),
    ],
)
def test_errors_are_told_without_a_path(path: str, body: bytes, server: str, folder: Path) -> None:
    status, content, _ = ask(server, path, body)
    assert status == 200
    error = json.loads(content)["error"]
    assert error
    assert not any(word in error for word in (str(folder), "data/demo", "site-packages", ".py"))


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/explore.html", "/templates/page.html", "/%2e%2e/README.md"]
)
def test_no_other_file_is_served(path: str, server: str) -> None:
    assert ask(server, path)[0] == 404
    assert ask(server, method="PUT")[0] == 405


def test_no_answer_names_a_place_of_the_machine(server: str, folder: Path) -> None:
    answer = json.dumps(QUESTION).encode()
    for path, body in (("/", None), ("/images?page=1", None), ("/answer", answer)):
        content = ask(server, path, body)[1].decode()
        assert not any(word in content for word in (str(folder), "data/demo", "/tmp"))


def test_an_image_that_is_no_number_is_grey(server: str) -> None:
    for sample in ("99999", "-1", "x", "9" * 5000):
        status, content, _ = ask(server, f"/thumbnail?sample={sample}")
        assert (status, content[:4]) == (200, b"\x89PNG")


def test_what_is_too_large_is_not_read(server: str) -> None:
    place = urlsplit(f"//{server}")
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=60) as client:
        lines = ("POST /drop HTTP/1.1", f"Host: {server}", "Connection: close")
        head = "\r\n".join((*lines, f"Content-Length: {MOST_BYTES + 1}", "", ""))
        client.sendall(head.encode() + b"a")
        told = client.makefile("rb").read()
    assert b" 413 " in told.splitlines()[0]
    assert b"the page takes 32 MB: drop a smaller one" in told


def test_a_body_without_length_ends_where_it_is_too_large(server: str) -> None:
    parts = (b"a" * 50_000 for _ in range(3))
    with closing(http.client.HTTPConnection(server, timeout=60)) as connection:
        connection.request("POST", "/answer", parts, {"Host": server}, encode_chunked=True)
        response = connection.getresponse()
        assert response.status == 413
        assert b"0.1 MB" in response.read()


def test_another_address_demands_the_printed_token(folder: Path) -> None:
    with explored(fine_tuned(folder), "--host", "0.0.0.0") as (url, program):
        parts = urlsplit(url)
        place, token = f"127.0.0.1:{parts.port}", parts.query
        assert len(token.removeprefix("token=")) >= 40
        for path in ("/", "/explore.js", "/?token=", "/?token=wrong", "/?token=%C3%A9"):
            assert ask(place, path)[0] == 401
        assert ask(place, "/answer", b"{}")[0] == 401
        status, _, headers = ask(place, f"/?{token}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        known = cookie.partition(";")[0]
        assert ask(place, Cookie=known)[0] == 200
        assert ask(place, Cookie=known, Host="192.0.2.1:80")[0] == 401  # a cookie of another port
        assert ask(place, Cookie=known, Host="rebound.example")[0] == 403
        assert ask(place, Cookie=f"fcmae-{parts.port}=wrong")[0] == 401
        assert program.printed().count("token=") == 1


def test_ctrl_c_ends_it_in_a_line(folder: Path) -> None:
    with explored(fine_tuned(folder)) as (_, program):
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=30) == 130
        _, after = program.printed().split("Ctrl-C ends it\n")
        assert after == "interrupted\n"


def test_a_port_in_use_and_a_wrong_host_are_told() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = run("-m", "finetune.explore", "none", "--port", port)
        assert done.returncode == 1
        assert done.stderr == (
            f"error: port={port} is in use by another program: end that one, or give --port 0,"
            " which takes a free one\n"
        )
    with pytest.raises(OSError, match=r"cannot listen on host=192\.0\.2\.1 port=0 .*--host"):
        listen("192.0.2.1", 0)
    with pytest.raises(OSError, match="cannot listen on host=no host"):
        listen("no host", 0)
