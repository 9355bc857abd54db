"""A chat endpoint on loopback that answers as it is told, well or badly, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Turn = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: dict


@dataclass
class ChatServer:
    """`turns` are taken one a request; a request beyond them is answered with 418, which no client retries."""

    turns: list[Turn]
    asked: list[Asked] = field(default_factory=list)
    address: str = ""
    over: threading.Event = field(default_factory=threading.Event)


def says(content: object) -> Turn:
    """A proper completion with this text, or with this value as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    return sends(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}))


def sends(body: str | bytes, status: int = 200, kind: str = "application/json", **headers: str) -> Turn:
    def turn(handler: BaseHTTPRequestHandler) -> None:
        payload = body.encode() if isinstance(body, str) else body
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(payload)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(payload)

    return turn


def cuts(body: bytes) -> Turn:
    """A chunked body whose last chunk announces more than is sent before the connection closes."""

    def turn(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(f"{len(body) + 100:x}\r\n".encode() + body)
        handler.close_connection = True

    return turn


def hangs(server: ChatServer) -> Turn:
    """Says nothing until the server is closed."""
    return lambda handler: bool(server.over.wait(60))


@contextmanager
def chat_server(turns: Sequence[Turn] = ()) -> Iterator[ChatServer]:
    state = ChatServer(turns=list(turns))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.asked.append(Asked(self.path, dict(self.headers), json.loads(body)))
            turn = state.turns.pop(0) if state.turns else sends("{}", 418)
            try:
                turn(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
