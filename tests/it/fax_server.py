"""A fax vendor: prints its port, then each fax that is handed over as a line of JSON. Its first argument says what becomes of them, as
JSON: `script` has for each number a list of faxes, each a list of states that are told one after the other (the last one stays);
`drop` numbers whose first fax is taken, but not answered; `slow` numbers whose answer takes so many seconds; `same` whether a known
Idempotency-Key gives the same fax; `cert` and `key` for TLS. It speaks as the profiles `multipart` and `json` have it, below /api.
A GET of /finish lets all faxes arrive."""

import base64
import email
import email.policy
import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

options = json.loads(sys.argv[1])
faxes = []
dropped = set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Type"] == "application/json":
            fields = json.loads(body)
            document = base64.b64decode(fields.pop("document")["content"])
            reference = fields["client_reference"]
        else:
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            parts = email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts()
            fields = {}
            for part in parts:
                name = part.get_param("name", header="content-disposition")
                content = part.get_payload(decode=True)
                if part.get_filename():
                    fields["file"] = [name, part.get_filename(), part.get_content_type()]
                    document = content
                else:
                    fields[name] = content.decode()
            reference = fields["reference"]
        key = self.headers["Idempotency-Key"]
        known = [fax for fax in faxes if options.get("same") and fax["key"] == key]
        number = fields["to"]
        fax = known[0] if known else {"id": str(4711 + len(faxes)), "reference": reference, "key": key, "number": number}
        if not known:
            script = options["script"].get(number, [["success"]])
            before = len([old for old in faxes if old["number"] == number])
            fax["states"] = list(script[min(before, len(script) - 1)])
            faxes.append(fax)
        seen = {
            "path": self.path,
            "fields": fields,
            "reference": reference,
            "key": key,
            "document": document.decode("latin-1"),
            "authorization": self.headers["Authorization"],
            "account": self.headers["X-Account"],
            "known": bool(known),
        }
        print(json.dumps(seen), flush=True)
        if number in options.get("drop", []) and number not in dropped:
            dropped.add(number)
            self.close_connection = True
            return
        time.sleep(options.get("slow", {}).get(number, 0))
        fax = {"id": fax["id"]}
        self.answer(202, {"data": fax} if self.path.startswith("/api/v1/") else fax)

    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/finish":
            for fax in faxes:
                fax["states"] = ["delivered"] if options.get("json") else ["success"]
            return self.answer(200, {})
        reference = query.get("reference", query.get("client_reference", [None]))[0]
        if reference:
            found = [{"id": fax["id"]} for fax in faxes if fax["reference"] == reference]
            return self.answer(200, {"data" if "client_reference" in query else "faxes": found})
        fax = next((fax for fax in faxes if fax["id"] == url.path.rsplit("/", 1)[1]), None)
        if fax is None:
            return self.answer(404, {})
        state = fax["states"].pop(0) if len(fax["states"]) > 1 else fax["states"][0]
        if self.path.startswith("/api/v1/"):
            return self.answer(200, {"data": {"status": state, "page_count": 2}})
        self.answer(200, {"status": state, "pages": 2})

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if "cert" in options:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options["cert"], options["key"])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
