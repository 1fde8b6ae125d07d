"""A mail server of somebody else's (aiosmtpd): prints its port, then each mail as a line of JSON. Its first argument is what it
should do, as JSON: `tls` ("starttls", "implicit" or none) with `cert` and `key`, `password`, `mechanisms`, `size`. What a recipient
is called says how it is answered: busy@ 451, nobody@ 550; what the sender is called how the mail is: later@ 452, never@ 554, a
dropped@ one is taken, and the connection lost before that is said, once."""

import asyncio
import base64
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

options = json.loads(sys.argv[1])
seen = set()


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address.startswith("busy@"):
            return f"451 4.3.0 {address} is busy"
        if address.startswith("nobody@"):
            return f"550 5.1.1 {address} is unknown"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "content": base64.b64encode(envelope.original_content).decode(),
            "tls": session.ssl is not None or options.get("tls") == "implicit",
            "login": session.auth_data,
            "hello": session.host_name,
        }
        print(json.dumps(mail), flush=True)
        if envelope.mail_from.startswith("later@"):
            return "452 4.2.2 full"
        if envelope.mail_from.startswith("never@"):
            return "554 5.7.1 not wanted"
        if envelope.mail_from.startswith("dropped@") and envelope.mail_from not in seen:
            seen.add(envelope.mail_from)
            server.transport.abort()
        return "250 2.0.0 queued as 4711"


def authenticator(server, session, envelope, mechanism, auth_data):
    fine = auth_data.password == options["password"].encode()
    return AuthResult(success=fine, handled=False, auth_data=[mechanism, auth_data.login.decode()] if fine else None)


def protocol():
    more = {}
    if options.get("tls") == "starttls":
        more.update(tls_context=context, require_starttls=True)
    if "password" in options:
        more.update(
            authenticator=authenticator,
            auth_required=True,
            auth_require_tls=options.get("tls") == "starttls",
            auth_exclude_mechanism={"LOGIN", "PLAIN"} - set(options.get("mechanisms", ["LOGIN", "PLAIN"])),
        )
    return SMTP(Handler(), data_size_limit=options.get("size", 33554432), hostname="mail.example", **more)


context = None
if options.get("tls"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options["cert"], options["key"])


async def serve():
    wrapped = context if options.get("tls") == "implicit" else None
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=wrapped)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(serve())
