"""A webhook consumer made of nothing but http.server. What it does with a request is said by the path:

/status/N       answers with status N
/hang/read      never reads the body
/hang/status    reads the request and never answers
/hang/header    begins an answer and never ends its header
/hang/N         answers with status N and never sends the body it has announced
/close/request  closes the connection when the request is there
/close/header   closes within the header of the answer
/close/N        answers with status N and closes within the body
/long/N         answers with status N and 10 MiB of body
/store          prints the webhook-id and the length of the body
"""
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LONG = b"no, thank you. " * (10 * 2**20 // 15)
forever = threading.Event()


class Consumer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        _, what, *rest = self.path.split("/")
        detail = rest[0] if rest else ""
        if (what, detail) == ("hang", "read"):
            forever.wait()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if what == "store":
            # In one piece: other threads print as well.
            os.write(1, f"{self.headers['webhook-id']} {len(body)}\n".encode())
            self.answer(204, b"")
        elif what == "status":
            self.answer(int(detail), b"it is " + detail.encode())
        elif what == "long":
            self.answer(int(detail), LONG)
        elif detail == "request":
            self.close_connection = True
        elif detail == "status":
            forever.wait()
        elif detail == "header":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            self.end(what)
        else:
            self.send_response(int(detail))
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"it is " + detail.encode())
            self.end(what)

    def end(self, what):
        self.wfile.flush()
        if what == "hang":
            forever.wait()
        self.close_connection = True

    def answer(self, status, body):
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/store")
        if status in (204, 304):
            body = b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


print("ready", flush=True)
Server(("127.0.0.1", int(sys.argv[1])), Consumer).serve_forever()
