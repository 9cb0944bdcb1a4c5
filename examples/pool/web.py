#!/usr/bin/env python3
"""A small HTTP server that tells on which port the kernel let it listen."""

import os
import signal

# First of all: a TERM that comes while the rest is still being imported must end
# the process too, and at once.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

import http.server  # noqa: E402
import json  # noqa: E402


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path not in ("/", "/healthz"):
            self.send_error(404)
            return
        body = json.dumps({"worker": os.environ.get("PITVISOR_WORKER", "?"), "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass  # one line for each request is too much talk for an example


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for the requests in flight


def stop(*_):
    raise SystemExit(0)


def main():
    # Port 0: the kernel chooses a free port, so any number of workers can start
    # at once without agreeing on numbers.
    with Server(("127.0.0.1", 0), Handler) as server:
        signal.signal(signal.SIGTERM, stop)
        # Flushed, because a file is not a terminal: Python would keep the line.
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever(poll_interval=None)


if __name__ == "__main__":
    main()
