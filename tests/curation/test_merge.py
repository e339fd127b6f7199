"""Merging by template and by an endpoint on this machine that fails as real ones do; choice and sampling."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from curation import config_json
from curation.config_error import CurationError
from curation.model_config import ChoiceConfig, MergeConfig
from curation.stages.merge import MergeError, Merger, check_endpoint, choose, merge, sample_caption

Reply = tuple[int, dict[str, str], str]
PAIRS = [(f"a red star number {i}", f"a star spins {i} times") for i in range(12)]


def answer(text: str | None, finish: str = "stop") -> str:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


JSON = {"Content-Type": "application/json"}


class Endpoint:
    """A loopback server; `reply` decides from (request, how often this very request came before)."""

    def __init__(self) -> None:
        self.reply: Callable[[dict, int], Reply] = lambda request, tries: (200, JSON, answer(said(request)))
        self.seen: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
        self.requests: list[dict] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    def handle(self, body: dict, headers: dict[str, str]) -> Reply:
        with self.lock:
            key = body["messages"][-1]["content"]
            tries = self.seen.get(key, 0)
            self.seen[key] = tries + 1
            self.headers.append(headers)
            self.requests.append(body)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return self.reply(body, tries)
        finally:
            with self.lock:
                self.under_way -= 1


def said(request: dict) -> str:
    """What the server makes of a pair: both captions, so that a caption on the wrong clip shows."""
    return " / ".join(line.partition(": ")[2] for line in request["messages"][-1]["content"].splitlines())


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def url(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, text = endpoint.handle(body, {name.lower(): value for name, value in self.headers.items()})
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                self.send_header(name, value)
            with contextlib.suppress(ConnectionError):  # the client has given up waiting
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.002)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def by(url: str, **values: object) -> Merger:
    return Merger(MergeConfig(llm_url=url, llm_model="m", **values))  # type: ignore[arg-type]


def test_answers_keep_the_order_of_the_pairs(endpoint: Endpoint, url: str) -> None:
    """Later requests are answered first."""
    order = {f"Frame: {image}\nClip: {video}": place for place, (image, video) in enumerate(PAIRS)}
    last_first = [threading.Event() for _ in PAIRS]

    def reply(request: dict, tries: int) -> Reply:
        place = order[request["messages"][-1]["content"]]
        if place + 1 < len(PAIRS):
            last_first[place + 1].wait(10)
        last_first[place].set()
        return 200, JSON, answer(said(request))

    endpoint.reply = reply
    merged = by(url, llm_concurrency=len(PAIRS)).merge(PAIRS)
    assert merged == [f"{image} / {video}" for image, video in PAIRS]


def test_concurrency_is_bounded(endpoint: Endpoint, url: str) -> None:
    gate = threading.Barrier(3)

    def reply(request: dict, tries: int) -> Reply:
        gate.wait(10)
        return 200, JSON, answer("x")

    endpoint.reply = reply
    by(url, llm_concurrency=3).merge(PAIRS)
    assert endpoint.most_under_way == 3


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_failures_that_pass_are_waited_out(endpoint: Endpoint, url: str, status: int) -> None:
    """Every pair fails twice; 0 is a connection that is closed without an answer."""
    endpoint.reply = lambda request, tries: (status, JSON, "{}") if tries < 2 else (200, JSON, answer(said(request)))
    merged = by(url, llm_max_retries=2).merge(PAIRS[:3])
    assert merged == [f"{image} / {video}" for image, video in PAIRS[:3]]
    assert set(endpoint.seen.values()) == {3}


PERMANENT: dict[str, tuple[Reply, str]] = {
    "server error": ((500, JSON, '{"error": {"message": "out of order"}}'), "InternalServerError.*out of order"),
    "unknown model": ((404, JSON, '{"error": {"message": "no model m"}}'), "NotFoundError.*no model m"),
    "key": ((401, JSON, "{}"), "refuses the key: set OPENAI_API_KEY"),
    "web page": ((200, {"Content-Type": "text/html"}, "<html>hello</html>"), "answered without a message"),
    "no JSON": ((200, JSON, "{"), "gave no caption"),
    "no choices": ((200, JSON, '{"choices": []}'), "answered without a message"),
    "null choices": ((200, JSON, '{"object": "error"}'), "answered without a message"),
    "list": ((200, JSON, "[1]"), "answered without a message|gave no caption"),
    "no message": ((200, JSON, '{"choices": [{"index": 0}]}'), "answered without a message"),
    "null": ((200, JSON, answer(None)), "answered without a message"),
    "empty": ((200, JSON, answer('  ""\n')), "empty caption"),
    "cut off": ((200, JSON, answer("a star that", "length")), "broke off"),
}


@pytest.mark.parametrize("name", sorted(PERMANENT))
def test_a_clip_without_an_answer_is_an_error_and_no_template(endpoint: Endpoint, url: str, name: str) -> None:
    reply, message = PERMANENT[name]
    bad = PAIRS[1]
    endpoint.reply = lambda request, tries: reply if bad[0] in said(request) else (200, JSON, answer(said(request)))
    merger = by(url, llm_max_retries=1)
    with pytest.raises(MergeError, match=message):
        merger.merge(PAIRS[:3])
    for pair in (PAIRS[0], PAIRS[2]):  # as the pipeline tries again: clip by clip
        assert merger.merge([pair]) == [f"{pair[0]} / {pair[1]}"]
    assert sorted(endpoint.seen.values()) in ([1, 1, 1], [1, 1, 2])
    with pytest.raises(MergeError):
        merger.merge([bad])


def test_the_template_stands_in_only_where_configured(endpoint: Endpoint, url: str) -> None:
    endpoint.reply = lambda request, tries: (500, JSON, "{}")
    assert by(url, llm_max_retries=0, llm_failure="template").merge(PAIRS[:2]) == [merge(*pair) for pair in PAIRS[:2]]


def test_nobody_listening_and_too_slow(endpoint: Endpoint, url: str) -> None:
    with pytest.raises(MergeError, match=r"127\.0\.0\.1:9/v1 \(model m\) gave no caption \(APIConnectionError"):
        by("http://127.0.0.1:9/v1", llm_max_retries=0).merge(PAIRS[:1])
    stop = threading.Event()
    endpoint.reply = lambda request, tries: (stop.wait(5), (200, JSON, answer("late")))[1]
    with pytest.raises(MergeError, match="APITimeoutError"):
        by(url, llm_max_retries=0, llm_timeout_s=0.2).merge(PAIRS[:1])
    stop.set()


def test_an_endpoint_can_be_checked_before_any_work(endpoint: Endpoint, url: str) -> None:
    config = MergeConfig(llm_url=url, llm_model="m", llm_max_retries=0, llm_failure="template")
    check_endpoint(MergeConfig())
    check_endpoint(config)
    endpoint.reply = lambda request, tries: PERMANENT["unknown model"][0]
    with pytest.raises(MergeError, match="no model m"):
        check_endpoint(config)


def test_what_is_sent(endpoint: Endpoint, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret")
    config = MergeConfig(llm_url=url, llm_model="m", llm_key_variable="A_KEY")
    assert Merger(config).merge([PAIRS[0], PAIRS[0], ("", "a star"), ("a star", "")])[2:] == ["a star", "a star"]
    assert len(endpoint.requests) == 1, "one pair twice is asked once, a lone caption never"
    assert endpoint.headers[0]["authorization"] == "Bearer secret"
    assert (endpoint.requests[0]["model"], endpoint.requests[0]["temperature"]) == ("m", 0.0)
    assert "secret" not in config_json.to_json(config)
    by(url, llm_temperature=None).merge(PAIRS[1:2])
    assert "temperature" not in endpoint.requests[1]


def test_answers_come_on_one_line_without_quotation_marks(endpoint: Endpoint, url: str) -> None:
    endpoint.reply = lambda request, tries: (200, JSON, answer('\n"A red star\n spins."  '))
    assert by(url).merge(PAIRS[:1]) == ["A red star spins."]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"llm_url": "localhost:8000", "llm_model": "m"}, "llm_url = 'localhost:8000' must be http://HOST"),
        ({"llm_url": "https://me:secret@host/v1", "llm_model": "m"}, "without user or password"),
        ({"llm_url": "https://host/v1"}, "llm_model = None must be the name"),
        ({"llm_timeout_s": 0}, "llm_timeout_s = 0 must be positive"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, object], message: str) -> None:
    with pytest.raises(CurationError, match=message):
        MergeConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "video", "merged"),
    [
        ("a red star in the forest", "a red star walks left in the forest", "a red star walks left in the forest"),
        ("a red star in the city", "a star spins", "a star spins, a red star in the city"),
        ("a red star in the forest", "a red star", "a red star in the forest"),
        ("", "a star spins", "a star spins"),
        ("a star", "", "a star"),
        ("", "", ""),
    ],
)
def test_the_template(image: str, video: str, merged: str) -> None:
    assert merge(image, video) == merged
    assert Merger(MergeConfig()).merge([(image, video)] * 2) == [merged] * 2


def test_choose_takes_the_chosen_or_what_there_is() -> None:
    assert [choose("c", "v", "l", ChoiceConfig(chosen=name)) for name in ("coca", "video", "llm")] == ["c", "v", "l"]
    assert choose("c", None, "", ChoiceConfig(chosen="llm")) == "c"
    assert choose("c", "v", None, ChoiceConfig(chosen="llm")) == "v"
    assert choose(None, None, None, ChoiceConfig()) is None
    assert choose("", None, "", ChoiceConfig()) == ""


def test_sampling_has_the_paper_s_shares() -> None:
    row = {"caption_coca": "c", "caption_video": "v", "caption_llm": "l", "caption": "x"}
    generator = np.random.default_rng(0)
    drawn = [sample_caption(row, generator) for _ in range(8000)]
    shares = [drawn.count(text) / 8000 for text in "cvl"]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.02)


def test_missing_captions_leave_their_share_to_the_others() -> None:
    generator = np.random.default_rng(0)
    row = {"caption_coca": float("nan"), "caption_video": "v", "caption_llm": "l"}
    drawn = [sample_caption(row, generator) for _ in range(4000)]
    assert drawn.count("v") / 4000 == pytest.approx(0.5, abs=0.03)
    assert sample_caption({"caption_coca": None, "caption_llm": "l"}, generator) == "l"
    with pytest.raises(CurationError, match="has a caption to sample"):
        sample_caption({"caption_coca": ""}, generator)
