"""A client of any OpenAI-compatible chat endpoint: one question with photos, one answer of bounded size in bounded time.

The client is one POST of httpx2 rather than the openai package, which follows redirects, reads a body of any
size, retries with waits of its own and takes settings from the environment.
"""

import re
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
from PIL import Image
from pydantic import ValidationError, create_model

from mudi.user_files.descriptions import quoted
from pipeline.templates.page import picture_address
from pipeline.workers.failure import RunFailedError

LARGEST_REPLY = 1_000_000  # bytes; forty prompts are 4,000
LONGEST_WAIT = 60.0  # seconds that a server may ask us to wait
LONGEST_SIDE = 768  # pixels that vision models look at; a photo then takes about 100 kB
TRANSPORT_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.ProtocolError, httpx2.ProxyError, httpx2.DecodingError)
BUSY = (408, 409, 425, 429)
UNDERSTOOD_NOT = (400, 422)

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a model answers. The key is in no repr, message or file."""

    address: str
    """The base address, to which /chat/completions is added: "https://host/v1"."""
    key: str | None = field(default=None, repr=False)
    """Sent as a bearer token to this address and nowhere else."""
    timeout: float = 60.0
    """Seconds for an answer; twice that if it comes in slow pieces."""
    delays: tuple[float, ...] = (1.0, 4.0, 15.0)
    """Seconds to wait before each further try after a failure of the network or the server."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Raises ValueError of one line for an address or key that no request can be sent with; it shows no secret."""
        if re.search(r"[@?#]", self.address):
            raise ValueError("the endpoint's address holds '@', '?' or '#'; give it bare, like https://host/v1, and the key apart")
        try:
            parts = urlsplit(self.address)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not re.fullmatch(r"[!-~]+", self.address):
            raise ValueError(f"endpoint {quoted(self.address)} is no http or https address; write one like https://host/v1")
        if self.key is not None and not re.fullmatch(r"[!-~]+", self.key):
            raise ValueError(f"the key for {self.address} is empty or holds spaces, line breaks or letters beyond ASCII; copy it again")


class ReplyError(Exception):
    """A failed try that may be repeated, with its reason and the seconds that the server asks us to wait."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class RefusedFormatError(Exception):
    """The server does not understand the request as it is; its text says why."""


_Choice = create_model("_Choice", message=create_model("_Message", content=str))
_Completion = create_model("_Completion", choices=list[_Choice])


def answer(endpoint: Endpoint, model: str, messages: Sequence[Message], schema: dict[str, Any]) -> str:
    """The model's answer, a text that should be JSON of `schema`.

    Servers differ in the forms of `response_format` that they take: a schema is tried first, then "any JSON
    object", then none; each refused form costs one request. RunFailedError if the server cannot be reached or
    does not answer properly after all tries; ValueError if it refuses the key, the model or the request. Both
    are one line, with the address and without the key.
    """
    forms = (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}},
        {"response_format": {"type": "json_object"}},
        {},
    )
    refusal = ""
    for form in forms:
        try:
            return _persistent(endpoint, {"model": model, "messages": list(messages), **form})
        except RefusedFormatError as error:
            refusal = str(error)
    raise ValueError(f"endpoint {endpoint.address}: model {model!r} does not take the request ({refusal}); use one that sees pictures")


def user_message(text: str, images: Sequence[np.ndarray] = ()) -> Message:
    """A question with its photos (H, W, 3) as JPEGs of at most 768 pixels a side in the request: no server fetches anything."""
    if not images:
        return {"role": "user", "content": text}
    pictures = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


def data_url(image: np.ndarray) -> str:
    """The photo as a data: URL of a JPEG, scaled down to 768 pixels on its longer side if it is larger."""
    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture_address(picture, "JPEG", quality=90)


def _persistent(endpoint: Endpoint, request: dict[str, Any]) -> str:
    for delay in (*endpoint.delays, None):
        try:
            return _post(endpoint, request)
        except ReplyError as error:
            if delay is None:
                tries = len(endpoint.delays) + 1
                raise RunFailedError(
                    f"endpoint {endpoint.address}: {error} ({tries} tries); see that it runs and start again, or use --words templates"
                ) from None
            endpoint.sleep(max(delay, error.wait))
    raise AssertionError("the last try returns or raises")


def _post(endpoint: Endpoint, request: dict[str, Any]) -> str:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    url = endpoint.address.rstrip("/") + "/chat/completions"
    deadline = endpoint.clock() + endpoint.timeout
    try:
        # A redirect is not followed: it would carry the photos, and to the same host the key, elsewhere.
        with httpx2.stream(
            "POST", url, json=request, headers=headers, timeout=endpoint.timeout, follow_redirects=False, verify=_certificates()
        ) as response:
            body = _body(endpoint, response, deadline)
    except httpx2.TimeoutException:
        raise ReplyError(f"no answer in {endpoint.timeout:g} s") from None
    except TRANSPORT_ERRORS as error:
        raise ReplyError(f"{type(error).__name__}: {_redacted(endpoint, str(error))}") from None
    _check_status(endpoint, response, body, request["model"])
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ReplyError(f"answers with {quoted(kind)} instead of application/json; is the address the one that ends in /v1?")
    try:
        choices = _Completion.model_validate_json(body).choices
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise ReplyError(
            f"the reply's {place} is wrong ({first['msg'][:80]}): {_redacted(endpoint, body.decode('utf-8', 'replace'))}"
        ) from None
    if not choices:
        raise ReplyError("the reply has no choices")
    return choices[0].message.content


@cache
def _certificates() -> ssl.SSLContext:
    """The trusted certificates, read once a process: reading takes 60 ms, and each photo is a request."""
    return httpx2.create_ssl_context()


def _body(endpoint: Endpoint, response: httpx2.Response, deadline: float) -> bytes:
    """The whole body, given up as soon as it is too large or too late."""
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > LARGEST_REPLY:
            raise ReplyError(f"the reply is larger than {LARGEST_REPLY} bytes")
        if endpoint.clock() > deadline:
            raise ReplyError(f"the reply was not complete after {endpoint.timeout:g} s")
    return bytes(body)


def _check_status(endpoint: Endpoint, response: httpx2.Response, body: bytes, model: str) -> None:
    """Returns for 200; otherwise the kind of exception says whether to try again, to ask in another form, or to stop."""
    status, place = response.status_code, f"endpoint {endpoint.address}"
    if status == 200:
        return
    said = _redacted(endpoint, body.decode("utf-8", "replace"))
    if status in BUSY or status >= 500:
        raise ReplyError(f"HTTP {status}: {said}", wait=_retry_after(response.headers.get("retry-after", "")))
    if status in UNDERSTOOD_NOT:
        raise RefusedFormatError(f"HTTP {status}: {said}")
    if status in (401, 403):
        # The server's text may repeat the key in part.
        given = "the key was refused" if endpoint.key is not None else "it asks for a key, and none was given"
        raise ValueError(f"{place}: {given} (HTTP {status}); give a valid one")
    if 300 <= status < 400:
        target = quoted(re.split(r"[?#]", response.headers.get("location", ""))[0])
        raise ValueError(f"{place}: redirects to {target} (HTTP {status}), which is not followed; give that address if you trust it")
    raise ValueError(f"{place}: HTTP {status} for model {model!r}: {said}; correct the address, which mostly ends in /v1, or the model")


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date, at most a minute; 0 for none."""
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return min(float(value), LONGEST_WAIT)
    try:
        seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _redacted(endpoint: Endpoint, text: str) -> str:
    """The beginning of a server's text, with the key blanked if it is repeated there."""
    return quoted(text.replace(endpoint.key, "***") if endpoint.key else text)
