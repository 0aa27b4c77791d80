#!/usr/bin/env python3
"""A web server that answers every request with its own name.

    dummy-server.py NAME PORT [BIND]

Use it to try out the balancer: the response shows which server answered. The backlog is
long enough for many concurrent clients.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        page = (self.server.page + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    bind = sys.argv[3] if len(sys.argv) == 4 else "127.0.0.1"
    server = Server((bind, int(sys.argv[2])), Handler)
    server.page = sys.argv[1]
    server.serve_forever()
