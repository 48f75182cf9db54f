"""A real HTTP server that speaks OpenAI's embeddings API, and can be told to go wrong."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from .words import encode

Answer = dict[str, Any]


class EmbeddingsServer:
    """Answers on localhost, with the vectors of ``words.encode`` shortened to `dimensions`.

    Attributes
    ----------
    requests : list of dict
        The bodies of the requests that came, in their order.
    faults : list
        Taken from the front, one a request: a (status, headers) to answer with, or a function that changes
        the answer; None answers well.
    knows_dimensions : bool
        Whether the parameter is heeded.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.faults: list[tuple[int, dict[str, str]] | Callable[[Answer], Any] | None] = []
        self.knows_dimensions = True
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.headers.append({name.lower(): value for name, value in self.headers.items()})
                owner.requests.append(body)
                fault = owner.faults.pop(0) if owner.faults else None
                if isinstance(fault, tuple):
                    status, headers = fault
                    self._send(status, {"error": {"message": f"told to answer {status}"}}, headers)
                elif self.path != "/v1/embeddings":
                    self._send(404, {"error": {"message": self.path}}, {})
                else:
                    answer = owner.answer(body)
                    self._send(200, answer if fault is None else fault(answer), {})

            def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> Answer:
        """Return the right answer to a request."""
        vectors = encode(body["input"])
        if self.knows_dimensions:
            vectors = vectors[:, : body.get("dimensions")]
        told = (
            [base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode() for row in vectors]
            if body.get("encoding_format") == "base64"
            else vectors.astype(float).tolist()
        )
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(told)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return {"object": "list", "model": body["model"], "data": data, "usage": usage}

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
