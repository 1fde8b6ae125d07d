"""An MLLP peer with TLS by Python's ssl module, that is OpenSSL: nothing in it is ours.

usage: tls_peer.py serve|send '{"cert": FILE, "key": FILE, "ca": FILE, "host": NAME, "port": N, "most": "TLSv1_1",
        "number": true, "once": true, "push": true}'

`serve` acknowledges whatever comes, and prints its port, then a line for each message, with the number of its connection if
that is asked for; after one message it closes if that is asked for. Where it is to push, it sends a message itself. `send` reads hexadecimal messages
from standard input, one a line, and prints each answer, or one line that begins with ERROR.
"""

import contextlib
import json
import socket
import ssl
import sys
import threading
import time
import warnings

warnings.simplefilter("ignore", DeprecationWarning)


def say(text):
    print(text, flush=True)


def context(server, options):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if "most" in options:
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version = ssl.TLSVersion.TLSv1
        made.maximum_version = ssl.TLSVersion[options["most"]]
    if "cert" in options:
        made.load_cert_chain(options["cert"], options["key"])
    if "ca" in options:
        made.load_verify_locations(options["ca"])
        made.verify_mode = ssl.CERT_REQUIRED
    if not server:
        made.check_hostname = "ca" in options
        if "ca" not in options:
            made.verify_mode = ssl.CERT_NONE
    return made


def frame(stream):
    read = b""
    while not read.endswith(b"\x1c\r"):
        more = stream.recv(65536)
        if not more:
            return None
        read += more
    return read[1:-2].decode("latin-1")


def acknowledge(made, plain, number, options):
    try:
        stream = made.wrap_socket(plain, server_side=True)
        if "push" in options:
            stream.sendall(b"\x0bMSH|^~\\&|A|B|C|D|2026||ORU^R01|p1|P|2.5\r\x1c\r")
            said = frame(stream) or ""
            say(f"{stream.version()} pushed" if "MSA|AA|p1" in said else f"ERROR {said}")
        while (message := frame(stream)) is not None:
            control_id = message.split("\r")[0].split("|")[9]
            answer = f"MSH|^~\\&|||||||ACK|A|P|2.5\rMSA|AA|{control_id}\r"
            stream.sendall(b"\x0b" + answer.encode() + b"\x1c\r")
            say(f"{stream.version()} {control_id}" + (f" {number}" if "number" in options else ""))
            if "once" in options:
                # With TLS's own farewell; the next message may cross it on the way.
                with contextlib.suppress(OSError):
                    stream.unwrap()
                return stream.close()
    except OSError as error:
        say(f"ERROR {error}")


def listen(port):
    """A port that was given up just now may be another test's for a moment."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def serve(options):
    made = context(True, options)
    listener = listen(options.get("port", 0))
    say(listener.getsockname()[1])
    number = 0
    while True:
        plain, _ = listener.accept()
        number += 1
        threading.Thread(target=acknowledge, args=(made, plain, number, options), daemon=True).start()


def send(options):
    try:
        plain = socket.create_connection(("127.0.0.1", options["port"]), timeout=20)
        stream = context(False, options).wrap_socket(plain, server_hostname=options["host"])
        subject = (stream.getpeercert() or {}).get("subject", ())
        say(" ".join([stream.version(), *(value for part in subject for _, value in part)]))
        for line in sys.stdin:
            stream.sendall(b"\x0b" + bytes.fromhex(line) + b"\x1c\r")
            answer = frame(stream)
            if answer is None:
                return say("ERROR closed")
            say(answer.encode("latin-1").hex())
    except OSError as error:
        say(f"ERROR {error}")


{"serve": serve, "send": send}[sys.argv[1]](json.loads(sys.argv[2]))
