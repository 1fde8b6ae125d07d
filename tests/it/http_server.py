"""An HTTP server of Python's own: prints its port, then each request as a line of JSON. With a certificate and a key it speaks
TLS, with a client authority it also asks who calls."""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        peer = self.connection.getpeercert() if hasattr(self.connection, "getpeercert") else None
        common_name = peer and dict(pair for part in peer["subject"] for pair in part)["commonName"]
        seen = {
            "path": self.path,
            "key": self.headers["Idempotency-Key"],
            "type": self.headers["Content-Type"],
            "body": body.decode(),
            "client": common_name,
            "port": self.client_address[1],
        }
        print(json.dumps(seen), flush=True)
        answer = json.dumps({"stored": len(body)}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        # In chunks: what an answer's end looks like differs from server to server.
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (answer[:5], answer[5:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    if len(sys.argv) > 3:
        context.load_verify_locations(sys.argv[3])
        context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
