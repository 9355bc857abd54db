"""A chat endpoint may fail in every way that servers do: tries are counted, waits bounded, and the key stays where it belongs."""

import base64
import io
import json
import logging
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from chat_server import chat_server, cuts, hangs, says, sends
from PIL import Image

from pipeline.prepare.endpoint import LARGEST_REPLY, Endpoint, answer, data_url, user_message
from pipeline.workers.failure import RunFailedError

KEY = "sk-0123456789-secret"
SCHEMA = {"type": "object", "properties": {"caption": {"type": "string"}}}


@pytest.fixture
def waits():
    return []


@pytest.fixture
def serve(waits):
    """A server that takes these turns, and an endpoint that waits by writing it down."""
    with chat_server() as server:

        def start(*turns, **settings):
            server.turns[:] = turns
            defaults = {"key": KEY, "timeout": 30.0, "delays": (1.0, 4.0), "sleep": waits.append}
            return server, Endpoint(address=server.address, **{**defaults, **settings})

        yield start


def ask(endpoint: Endpoint) -> str:
    return answer(endpoint, "a-model", [user_message("What is it?")], SCHEMA)


def failure(endpoint: Endpoint, kind: type[Exception]) -> str:
    """The one line that a failed question ends with, which names the address and not the key."""
    with pytest.raises(kind) as caught:
        ask(endpoint)
    text = str(caught.value)
    assert "\n" not in text
    assert endpoint.address in text
    assert KEY not in text
    assert KEY not in repr(caught.value.__cause__) + repr(caught.value.__context__)
    return text


def test_a_question_is_one_request_with_the_key_in_its_header_alone(serve):
    server, endpoint = serve(says("yes"))
    assert ask(endpoint) == "yes"
    (request,) = server.asked
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert (request.body["model"], request.body["messages"]) == ("a-model", [{"role": "user", "content": "What is it?"}])
    assert request.body["response_format"] == {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}
    assert KEY not in json.dumps(request.body)


def test_without_a_key_there_is_no_authorization_header(serve):
    server, endpoint = serve(says("yes"), key=None)
    ask(endpoint)
    assert "Authorization" not in server.asked[0].headers


def test_a_slash_at_the_end_of_the_address_changes_nothing(serve):
    server, _ = serve(says("yes"))
    ask(Endpoint(address=server.address + "/"))
    assert server.asked[0].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    "bad",
    [
        sends("overloaded", 500),
        sends("bad gateway", 502, "text/html"),
        sends("come back", 503),
        sends("{}", 429),
        sends('{"choices": []}'),
        sends('{"id": 1}'),
        sends('{"choices": [{"message": {"content": null}}]}'),
        sends('{"choices": '),
        sends(b"\xff\xfe\x00"),
        sends("[" * 100_000),
        sends("<html>please log in</html>", 200, "text/html"),
        sends("x" * (LARGEST_REPLY + 1)),
        cuts(b'{"choices": [{"message": {"content": "ye'),
    ],
    ids=[
        "500", "502", "503", "429", "no choices", "other object", "no text", "broken", "not UTF-8", "deep", "HTML", "huge", "cut",
    ],
)  # fmt: skip
def test_a_passing_failure_is_tried_again_after_the_first_delay(serve, waits, bad):
    server, endpoint = serve(bad, says("yes"))
    assert ask(endpoint) == "yes"
    assert len(server.asked) == 2
    assert server.asked[0].body == server.asked[1].body
    assert waits == [1.0]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (sends("over\nloaded " + KEY, 500), "HTTP 500: 'over\\nloaded ***'"),
        (sends('{"choices": []}'), "no choices"),
        (sends("<html>", 200, "text/html"), "'text/html' instead of application/json"),
        (sends("x" * 10_000_000), f"larger than {LARGEST_REPLY} bytes"),
        (sends('{"choices": [{"message": {"content": null}}]}'), "choices.0.message.content is wrong"),
        (cuts(b'{"choices": [{"mess'), "RemoteProtocolError"),
    ],
    ids=["500", "no choices", "HTML", "10 MB", "no text", "cut"],
)
def test_a_lasting_failure_ends_after_one_try_more_than_there_are_delays(serve, waits, bad, said):
    server, endpoint = serve(*[bad] * 5)
    text = failure(endpoint, RunFailedError)
    assert said in text
    assert "(3 tries)" in text
    assert len(server.asked) == 3
    assert waits == [1.0, 4.0]


def test_a_server_that_hangs_is_left_after_the_timeout(serve, waits):
    server, endpoint = serve(timeout=0.2)
    server.turns[:] = [hangs(server)] * 3
    assert "no answer in 0.2 s (3 tries)" in failure(endpoint, RunFailedError)
    assert len(server.asked) == 3


def test_a_server_that_answers_too_slowly_is_left_although_it_never_pauses(serve):
    """By this clock the first piece of the body comes 50 s after the question, of which 30 are allowed."""
    times = iter([0.0, 50.0])
    _, endpoint = serve(says("yes"), delays=(), clock=lambda: next(times))
    assert "not complete after 30 s (1 tries)" in failure(endpoint, RunFailedError)


def test_where_nobody_listens_the_connection_is_tried_three_times(waits):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = Endpoint(
            address=f"http://127.0.0.1:{unused.getsockname()[1]}/v1", key=KEY, timeout=5.0, delays=(1.0, 4.0), sleep=waits.append
        )
        assert "ConnectError" in failure(endpoint, RunFailedError)
    assert waits == [1.0, 4.0]


@pytest.mark.parametrize(
    ("asked_for", "waited"),
    [("7", 7.0), ("0", 1.0), ("3600", 60.0), ("soon", 1.0), ("-5", 1.0), ("Sat, 01 Jan 2000 00:00:00 GMT", 1.0), ("9" * 400, 60.0)],
)
def test_a_wait_that_the_server_asks_for_is_granted_up_to_a_minute(serve, waits, asked_for, waited):
    """And never less than our own delay of 1 s."""
    _, endpoint = serve(sends("{}", 429, Retry_After=asked_for), says("yes"))
    assert ask(endpoint) == "yes"
    assert waits == [waited]


def test_a_wait_until_a_date_is_granted(serve, waits):
    """A date 30 s ahead asks for 30 s less what the request took and the second it is rounded to."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    _, endpoint = serve(sends("{}", 503, Retry_After=date), says("yes"))
    ask(endpoint)
    assert 1.0 < waits[0] <= 30.0


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_tried_again(serve, status):
    """The server's own words are left out: some repeat most of the key."""
    server, endpoint = serve(sends(f"Incorrect API key provided: {KEY[:12]}*****", status), says("yes"))
    text = failure(endpoint, ValueError)
    assert "the key was refused" in text
    assert KEY[:12] not in text
    assert len(server.asked) == 1


def test_a_missing_key_is_not_called_refused(serve):
    _, endpoint = serve(sends("{}", 401), key=None)
    assert "asks for a key" in failure(endpoint, ValueError)


def test_a_model_that_is_not_there_is_not_tried_again(serve):
    server, endpoint = serve(sends('{"error": "no such model"}', 404), says("yes"))
    text = failure(endpoint, ValueError)
    assert "HTTP 404 for model 'a-model'" in text
    assert "no such model" in text
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_the_other_host_hears_nothing(serve, status):
    with chat_server([says("stolen")]) as other:
        server, endpoint = serve(sends("", status, Location=other.address + "/chat/completions?secret=1"), says("yes"))
        text = failure(endpoint, ValueError)
        assert other.address in text
        assert "secret" not in text
        assert other.asked == []
    assert len(server.asked) == 1


def test_a_server_without_schemas_is_asked_for_any_object_and_then_for_text(serve, waits):
    server, endpoint = serve(sends("what is json_schema?", 400), sends("what is json_object?", 400), says("yes"))
    assert ask(endpoint) == "yes"
    formats = [request.body.pop("response_format", None) for request in server.asked]
    assert [form and form["type"] for form in formats] == ["json_schema", "json_object", None]
    assert server.asked[0].body == server.asked[1].body == server.asked[2].body
    assert waits == []


def test_a_request_that_is_refused_in_every_form_is_given_up_with_what_the_server_said(serve):
    server, endpoint = serve(*[sends("this model is blind", 400)] * 5)
    assert "this model is blind" in failure(endpoint, ValueError)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "address",
    ["", "host/v1", "ftp://host/v1", "http:///v1", "http://host:99999/v1", "http://host:0/v1", "http://ho st/v1", "http://höst/v1"],
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(address):
    with pytest.raises(ValueError, match="no http or https address"):
        Endpoint(address=address)


@pytest.mark.parametrize(
    "address", ["https://me:hunter2@host/v1", "https://me:hun#hunter2@host/v1", "https://host/v1?key=hunter2", "https://host/v1#hunter2"]
)
def test_an_address_with_a_secret_in_it_is_refused_and_not_shown(address):
    with pytest.raises(ValueError, match="give it bare") as caught:
        Endpoint(address=address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak: injected", "schlüssel", "sk\x00"])
def test_a_key_that_fits_no_header_is_refused_and_not_shown(key):
    """A line break would begin a header of its own; the HTTP library's complaint would show the key."""
    with pytest.raises(ValueError, match="copy it again") as caught:
        Endpoint(address="https://host/v1", key=key)
    assert not key or key not in str(caught.value)


def test_the_key_is_in_no_repr_and_no_log(serve, caplog):
    _, endpoint = serve(sends("no", 500), says("yes"))
    with caplog.at_level(logging.DEBUG):
        ask(endpoint)
    assert "127.0.0.1" in caplog.text
    assert KEY not in caplog.text + repr(endpoint)


def test_a_photo_travels_inside_the_request_scaled_to_768_pixels():
    """1536 x 1024 pixels become 768 x 512; a plain colour survives JPEG to within 2 levels; a small photo keeps its size."""
    photo = np.full((1024, 1536, 3), (200, 100, 50), np.uint8)
    head, _, data = data_url(photo).partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/jpeg;base64"
    assert (picture.format, picture.size) == ("JPEG", (768, 512))
    assert np.abs(np.array(picture).astype(int) - (200, 100, 50)).max() <= 2
    small = base64.b64decode(data_url(photo[:30, :40]).partition(",")[2])
    assert Image.open(io.BytesIO(small)).size == (40, 30)
