"""Who the review server answers, and what it refuses; over a real socket."""

from __future__ import annotations

import http.client
import json
import resource
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from moderate.cli.main import run
from moderate.review.access import HEADERS, parse_tokens
from moderate.review.journal import read_journal
from moderate.review.run import listening
from moderate.review.server import MOST_BODY
from tests.support.pictures import encode, scene
from tests.support.reviewing import Served, animation, review_row, write_queue

TOKENS = {"ada": "ada-" + "a" * 24, "bob": "bob-" + "b" * 24}
EVIL = "</script><script>alert(1)</script>\u202e\x1b[31m"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        assert self.json.keys() == {"problem", "code"}
        problem: str = self.json["problem"]
        return problem


class Client:
    """One browser: what it sends is what the test says, and its cookie."""

    def __init__(self, port: int, reviewer: str | None = None) -> None:
        self.port = port
        self.cookie = self.csrf = ""
        if reviewer:
            entered = self.get(f"/?token={TOKENS[reviewer]}")
            assert entered.status == 200
            self.cookie = entered.headers["set-cookie"].partition(";")[0]
            self.csrf = self.get("/api/session").json["csrf"]

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        sent = {
            "host": f"127.0.0.1:{self.port}",
            **({"cookie": self.cookie} if self.cookie else {}),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        if body:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answer = Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
        connection.close()
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, (method, path, answer.status)
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, values: Any = None, **headers: str) -> Answer:
        body = json.dumps({} if values is None else values).encode()
        own = {"origin": f"http://127.0.0.1:{self.port}", "x_moderate_csrf": self.csrf}
        return self.ask("POST", path, body, **{**own, **headers})

    def decide(self, row: Mapping[str, Any], decision: str = "approve", **values: Any) -> Answer:
        sent = {"row": row["row"], "path": row["path"], "decision": decision, **values}
        return self.post("/api/decide", sent)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("queue")
    rows = []
    for number in range(12):
        path = folder / f"{number}.png"
        path.write_bytes(data := encode(scene((60, 40), number), "PNG"))
        rows.append(review_row(path, data))
    (folder / "changed.png").write_bytes(b"<svg onload=alert(1)>")
    rows.append(review_row(folder / "changed.png", b"as it was"))
    rows.append(review_row(folder / "vanished.png", b"as it was"))
    rows.append(review_row(folder / "no digest.png", None))
    (folder / "moving.gif").write_bytes(animation())
    rows.append(review_row(folder / "moving.gif", animation()))
    copy = review_row(folder / "copy.png", b"", duplicate_of=str(folder / "0.png"))
    carrying = [
        replace(row, ref=replace(row.ref, carried=("theirs", EVIL))) for row in [*rows, copy]
    ]
    return write_queue(folder / "r.jsonl", carrying, ["row", EVIL]).parent


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    (folder / "tokens").write_text("# who\n" + "".join(f"{n} {t}\n" for n, t in TOKENS.items()))
    options = ["--token-file", str(folder / "tokens"), "--decisions", str(folder / "d.jsonl")]
    with Served(folder / "r.jsonl", *options) as served:
        yield served


@pytest.fixture
def ada(server: Served) -> Client:
    return Client(server.port, "ada")


def rows_of(client: Client, count: int = 20) -> list[Any]:
    rows: list[Any] = client.get(f"/api/next?count={count}").json["rows"]
    return rows


def named(client: Client, name: str) -> Any:
    return next(row for row in rows_of(client) if row["path"].endswith(f"/{name}"))


def test_the_page_and_its_files_are_served_and_nothing_else(ada: Client) -> None:
    page = ada.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for name in (b"/page/review.css", b"/page/review.js", b"/page/icon.svg"):
        assert name in page.body
        assert ada.get(name.decode()).status == 200
    for line in ada.get("/page/review.js").body.split(b"\n"):
        if line.startswith(b"import"):
            module = line.rpartition(b' "./')[2].rstrip(b'";').decode()
            assert ada.get(f"/page/{module}").headers["content-type"].startswith("text/javascript")
    for path in (
        "/page/review.html",
        "/page/../server.py",
        "/page/..%2fserver.py",
        "/page/%2e%2e/%2e%2e/errors.py",
        "/page/%00",
        "/etc/passwd",
        "//etc/passwd",
        "/api/pictures/../1",
        "/api/pictures/..%2f..%2fetc%2fpasswd",
        "/api/pictures/1/0/..%2f..%2fsmall",
        "/api/pictures/1/0/huge",
        "/api/pictures/1/99/large",
        "/api/pictures/0",
        "/api/pictures/-1",
        "/api/pictures/17",
        "/api/pictures/1e1",
        "/docs",
    ):
        assert ada.get(path).status == 404, path
    assert ada.get("/api/pictures/" + "9" * 5000).status >= 400


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_inline(ada: Client) -> None:
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert "http" not in policy
    page = ada.get("/").body.decode()
    for wrong in ("style=", "onclick", "onload", "<style", "http:", "https:", "javascript:"):
        assert wrong not in page
    assert page.count("<script") == page.count('<script type="module" src=') == 1


def test_only_its_own_names_are_answered(ada: Client, server: Served) -> None:
    assert ada.get("/", host=f"localhost:{server.port}").status == 200
    for host in (
        "127.0.0.1",
        f"evil.example:{server.port}",
        f"127.0.0.1.evil.example:{server.port}",
        f"localhost:{server.port + 1}",
        "",
    ):
        answer = ada.get("/api/session", host=host)
        assert (answer.status, answer.problem) == (403, "the server has another name")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_other_sites_are_refused(ada: Client, headers: dict[str, str]) -> None:
    for answer in (
        ada.get("/api/next", **headers),
        ada.get("/api/pictures/1/0/large", **headers),
        ada.post("/api/undo", **headers),
    ):
        assert (answer.status, answer.problem) == (403, "the request comes from another site")


def test_a_request_without_cookie_or_token_for_changes_is_refused(
    ada: Client, server: Served
) -> None:
    stranger = Client(server.port)
    for path in ("/", "/page/review.js", "/api/session", "/api/next", "/api/pictures/1/0/small"):
        assert stranger.get(path).status == 401, path
    assert stranger.post("/api/undo").status == 401
    stranger.cookie = f"moderate_review_{server.port}=wrong"
    assert stranger.get("/api/session").status == 401
    for csrf in ("", "wrong", ada.csrf[:-1], "\xe9"):
        for path in ("/api/decide", "/api/undo", "/api/invite"):
            answer = ada.post(path, x_moderate_csrf=csrf)
            assert (answer.status, "does not come from the page" in answer.problem) == (403, True)
    bob = Client(server.port, "bob")
    bob.csrf = ada.csrf
    assert bob.post("/api/undo").status == 403
    body = json.dumps({}).encode()
    answer = ada.ask("POST", "/api/undo", body, x_moderate_csrf=ada.csrf)
    assert "does not say where it comes from" in answer.problem


def test_methods(ada: Client) -> None:
    for method, path in (
        ("GET", "/api/decide"),
        ("PUT", "/api/undo"),
        ("DELETE", "/"),
        ("POST", "/api/next"),
        ("TRACE", "/"),
    ):
        headers = {"origin": f"http://127.0.0.1:{ada.port}", "x_moderate_csrf": ada.csrf}
        assert ada.ask(method, path, **headers).status == 404, (method, path)


def test_a_link_lets_one_browser_in_once(ada: Client, server: Served) -> None:
    link = ada.post("/api/invite", {"reviewer": " cyd "}).json["link"]
    assert link.startswith(f"http://127.0.0.1:{server.port}/?token=")
    path = link.partition(str(server.port))[2]
    guest = Client(server.port)
    assert guest.ask("HEAD", path).status == 405, "a preview of the link does not use it up"
    # From a mail: the page that follows must be asked for by the server's own page.
    entered = guest.get(path, sec_fetch_site="cross-site")
    assert (entered.status, b'http-equiv="refresh"' in entered.body) == (200, True)
    cookie = entered.headers["set-cookie"]
    assert cookie.startswith(f"moderate_review_{server.port}=")
    for word in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert word in cookie
    again = Client(server.port).get(path)
    assert (again.status, "used already" in again.problem) == (403, True)
    assert "set-cookie" not in again.headers
    guest.cookie = cookie.partition(";")[0]
    assert guest.get("/api/session").json["reviewer"] == "cyd"
    assert guest.get(path).status == 303, "who is in already just goes on"
    for token in ("", "x" * 40, "%ff%00", TOKENS["ada"][:-1]):
        assert Client(server.port).get(f"/?token={token}").status == 403
    for name in ("", "   ", 7, None, "x" * 101):
        assert ada.post("/api/invite", {"reviewer": name}).status == 400


def test_bodies_that_are_wrong_or_too_large(ada: Client, server: Served) -> None:
    own = {"origin": f"http://127.0.0.1:{server.port}", "x_moderate_csrf": ada.csrf}
    big = b'{"note": "' + b"x" * MOST_BODY + b'"}'
    assert ada.ask("POST", "/api/decide", big, **own).status == 413
    for body in (b"[]", b"null", b"{", b"\xff", b"[" * 60_000):
        assert ada.ask("POST", "/api/decide", body, **own).status == 400, body[:9]
    row = rows_of(ada)[0]
    for wrong in (
        {"decision": "maybe"},
        {"labels": {"cats": True}},
        {"labels": {"nudity": 1}},
        {"labels": []},
        {"note": "x" * 2001},
        {"note": None},
        {"seconds": -1},
        {"seconds": "1"},
        {"seconds": 1e9},
        {"revealed": "all"},
        {"id": "../../x"},
        {"id": 7},
        {"row": "x"},
        {"row": True},
        {"row": 0},
        {"row": row["row"] + 0.5},
        {"row": float("inf")},
    ):
        values = {"row": row["row"], "path": row["path"], "decision": "approve", **wrong}
        assert ada.post("/api/decide", values).status == 400, wrong
    nan = json.dumps({"row": row["row"], "path": row["path"], "decision": "approve"})
    assert (
        ada.ask("POST", "/api/decide", nan[:-1].encode() + b', "seconds": NaN}', **own).status
        == 400
    )
    unknown = ada.decide({"row": 10**6, "path": row["path"]})
    assert (unknown.status, unknown.json["code"]) == (404, "queue")
    for count in ("0", "65", "x", "-1"):
        assert ada.get(f"/api/next?count={count}").status == 400


def test_what_could_not_be_shown_is_not_judged(ada: Client, folder: Path) -> None:
    reasons = {
        "changed.png": "changed since it was scanned",
        "vanished.png": "No such file",
        "no digest.png": "no digest",
    }
    for name, reason in reasons.items():
        row = named(ada, name)
        frames = ada.get(f"/api/pictures/{row['row']}").json
        assert frames["frames"] == []
        assert reason in frames["problem"]
        assert ada.get(f"/api/pictures/{row['row']}/0/large").status == 404
        for decision in ("approve", "block"):
            refused = ada.decide(row, decision)
            assert (refused.status, refused.json["code"]) == (409, "not_shown")
            assert "could not be shown" in refused.problem
    assert not [entry for entry in read_journal(folder / "d.jsonl") if "png" not in entry.path]
    row = named(ada, "changed.png")
    assert ada.decide(row, "unsure").status == 200
    assert ada.post("/api/undo").json["row"]["row"] == row["row"]
    # What comes back can be looked at again.
    row = named(ada, "vanished.png")
    (folder / "vanished.png").write_bytes(b"as it was")
    assert "No such file" in ada.get(f"/api/pictures/{row['row']}").json["problem"]
    assert "No such" not in ada.get(f"/api/pictures/{row['row']}?again=1").json["problem"]


def test_images_are_new_jpegs_and_frames_are_stills(ada: Client) -> None:
    row = named(ada, "moving.gif")
    frames = ada.get(f"/api/pictures/{row['row']}").json["frames"]
    assert [each["frame"] for each in frames] == [0, 1, 2, 3]
    for size in ("small", "large"):
        answer = ada.get(f"/api/pictures/{row['row']}/2/{size}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.body.startswith(b"\xff\xd8\xff")


def test_rows_hold_what_the_page_shows(ada: Client) -> None:
    row = named(ada, "0.png")
    assert row["decision"] == "review"
    assert row["scores"][0] == {"name": "nudity", "score": 0.5, "band": "review"}
    assert {each["band"] for each in row["scores"][1:]} == {"approve"}
    place = {"text": "10 to 60 % across and 20 to 70 % down", "frame": None}
    assert row["places"] == [{"term": "nudity", **place, "box": [10, 20, 60, 70]}]
    assert row["warnings"] == ["small_image"]
    assert row["unseen"] == pytest.approx(0.2)
    # A column of the user's may be called as our own key, and says nothing to a terminal.
    assert row["carried"][0] == ["row", "theirs"]
    assert isinstance(row["row"], int)
    assert "\u202e" not in json.dumps(row, ensure_ascii=False)
    assert row["copies"]["count"] == 1
    assert row["copies"]["paths"][0].endswith("/copy.png")
    assert ["width", "320"] in row["facts"]


def test_a_decision_that_is_sent_twice_is_recorded_once(
    ada: Client, server: Served, folder: Path
) -> None:
    row = named(ada, "3.png")
    known = {"id": "ab" * 16, "note": "é\n<b>", "labels": {"nudity": True}, "revealed": "grey"}
    first, again = ada.decide(row, "block", **known), ada.decide(row, "block", **known)
    assert first.json["id"] == again.json["id"] == "ab" * 16
    other = ada.decide(row, "approve", id="cd" * 16)
    assert (other.status, other.json["code"]) == (409, "not_yours")
    assert "you have decided" in other.problem
    bob = Client(server.port, "bob")
    taken = bob.decide(row)
    assert (taken.status, "somebody else" in taken.problem) == (409, True)
    moved = ada.decide({**rows_of(ada)[0], "path": "/elsewhere"})
    assert (moved.status, moved.json["code"]) == (409, "queue")
    (entry,) = [each for each in read_journal(folder / "d.jsonl") if each.path == row["path"]]
    assert (entry.decision, entry.note, entry.revealed) == ("block", "é\n<b>", "grey")
    assert entry.reviewer == "ada"


def test_a_full_disk_is_told_and_nothing_counts_as_decided(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(data := encode(scene((60, 40)), "PNG"))
    write_queue(tmp_path / "r.jsonl", [review_row(tmp_path / "0.png", data)])
    (tmp_path / "tokens").write_text(f"ada {TOKENS['ada']}\n")
    journal = tmp_path / "r.jsonl.decisions.jsonl"
    journal.write_bytes(b"\n" * (size := 16 << 20))  # larger than all else that is written
    with Served(tmp_path / "r.jsonl", "--token-file", str(tmp_path / "tokens")) as served:
        client = Client(served.port, "ada")
        row = rows_of(client)[0]
        assert client.get(f"/api/pictures/{row['row']}").json["frames"]
        limit = size + 40, resource.RLIM_INFINITY
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, limit)
        failed = client.decide(row)
        assert failed.status == 500
        assert "cannot write" in failed.problem
        assert read_journal(journal) == []
        infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, infinite)
        assert client.decide(row).status == 200
        assert len(read_journal(journal)) == 1


def test_answers_are_sent_at_once() -> None:
    # What asyncio asks of a socket before it has small packets sent without a delay.
    with listening("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
        with connection:
            assert connection.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_its_end_names_where_the_decisions_are(tmp_path: Path, number: signal.Signals) -> None:
    write_queue(tmp_path / "r.csv", [review_row(tmp_path / "0.png", b"")])
    (tmp_path / "tokens").write_text(f"ada {TOKENS['ada']}\n")
    with Served(tmp_path / "r.csv", "--token-file", str(tmp_path / "tokens")) as served:
        client = Client(served.port, "ada")
        slow = http.client.HTTPConnection("127.0.0.1", served.port)
        slow.putrequest("POST", "/api/decide")
        for name, value in (
            ("Cookie", client.cookie),
            ("Origin", f"http://127.0.0.1:{served.port}"),
            ("X-Moderate-CSRF", client.csrf),
            ("Content-Length", "9"),
        ):
            slow.putheader(name, value)
        slow.endheaders(b"{")
        client.get("/api/session")  # by now, the other request is under way
        served.process.send_signal(number)
        assert served.process.wait() == 128 + number
    said = (tmp_path / "server.log").read_text()
    end = f"what was decided is in {tmp_path / 'r.csv.decisions.jsonl'}\n"
    assert said == f"moderate: error: stopped by {number.name}; {end}"


def test_other_hosts_need_a_token_file_and_a_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = str(folder / "r.jsonl")
    assert run(["review", results, "--host", "192.0.2.7"]) == 2
    assert "--token-file" in capsys.readouterr().err
    (folder / "t").write_text(f"ada {TOKENS['ada']}\n")
    for host in ("0.0.0.0", "::"):
        assert run(["review", results, "--host", host, "--token-file", str(folder / "t")]) == 2
        assert "the address or name that the reviewers open" in capsys.readouterr().err


def test_token_files() -> None:
    text = f"# who\n\n ada  {'a' * 24}\nbob {'b' * 30}\n"
    assert parse_tokens(text) == {"a" * 24: "ada", "b" * 30: "bob"}
    for wrong, reason in (
        ("", "no token"),
        ("# nobody", "no token"),
        ("ada", "line 1: write NAME TOKEN"),
        (f"\nada b {'c' * 24}", "line 2: write NAME TOKEN"),
        (f"ada {'a' * 23}", "line 1: the token is short"),
        (f"ada {'a' * 24}\nbob {'a' * 24}", "line 2: the token is that of ada, too"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse_tokens(wrong)
