"""A judge on this machine: an OpenAI-compatible server that does as it is told."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class FakeJudge:
    """A server whose replies follow a script: each request takes the next entry, and the last one stays.

    An entry is the verdict, a dict of status, headers and body, `"stall"`, `"trickle"`, or a function of the request.
    """

    def __init__(self):
        self.script = [lambda body: score_of(body["messages"][0]["content"])]
        self.requests = []
        self.headers = []
        self.busy = 0
        self.most_at_a_time = 0
        self.pause_s = 0.0
        self.closing = threading.Event()
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.answer(self, body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def answer(self, handler, body):
        with self._lock:
            self.requests.append(body)
            self.headers.append((handler.path, dict(handler.headers)))
            entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            self.busy += 1
            self.most_at_a_time = max(self.most_at_a_time, self.busy)
        try:
            time.sleep(self.pause_s)
            self._send(handler, entry(body) if callable(entry) else entry)
        except OSError:
            pass  # the client has given up
        finally:
            with self._lock:
                self.busy -= 1

    def _send(self, handler, entry):
        if entry == "stall":
            self.closing.wait(20)
            handler.close_connection = True
            return
        if entry == "trickle":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            while not self.closing.wait(0.02):
                handler.wfile.write(b" ")
                handler.wfile.flush()
            return
        if isinstance(entry, str):
            entry = {"body": completion(entry)}
        content = entry["body"] if isinstance(entry["body"], str | bytes) else json.dumps(entry["body"])
        content = content if isinstance(content, bytes) else content.encode()
        handler.send_response(entry.get("status", 200))
        for name, value in entry.get("headers", {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def completion(text, finish_reason="stop"):
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }


def score_of(question):
    """A judge with an opinion of its own that depends on the whole question and on nothing else."""
    return f"Because.\nScore: {1 + int(hashlib.sha256(question.encode()).hexdigest(), 16) % 10}"


@pytest.fixture
def judge():
    server = FakeJudge()
    yield server
    server.close()


@pytest.fixture(scope="class")
def class_judge():
    server = FakeJudge()
    yield server
    server.close()
