"""SSH that no client speaks: ssh_peer.py PORT USER KEY logins|messages|names. Prints a line for each case; exit code 1 when one got in."""

import os
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import paramiko
from paramiko import SFTPAttributes
from paramiko.message import Message

port, user, key, action = sys.argv[1:5]
SUCCESS, OPENED = 52, 91


class Peer:
    """A connection on which the keys are exchanged, and nothing else; what comes is kept."""

    def __init__(self):
        self.came = queue.Queue()
        self.transport = paramiko.Transport(("127.0.0.1", int(port)))
        self.transport.start_client(timeout=60)
        for kind in list(range(1, 20)) + list(range(50, 128)):
            self.transport._handler_table[kind] = lambda _, kind=kind: self.came.put(kind)
        self.transport._channel_handler_table = {}

    def send(self, kind, *parts):
        message = Message()
        message.add_byte(bytes([kind]))
        for part in parts:
            if isinstance(part, bool):
                message.add_boolean(part)
            elif isinstance(part, int):
                message.add_int(part)
            else:
                message.add_string(part)
        try:
            self.transport._send_message(message)
        except (EOFError, OSError, paramiko.SSHException):
            pass

    def answers(self, seconds):
        """What comes until the connection ends or nothing comes any more."""
        found = []
        while True:
            try:
                found.append(self.came.get(timeout=seconds if self.transport.is_active() else 0.05))
            except queue.Empty:
                return found

    def is_in(self):
        """Whether a channel can be opened."""
        self.send(90, "session", 0, 1 << 20, 1 << 15)
        found = self.answers(0.4)
        return OPENED in found or SUCCESS in found


def string(data):
    return len(data).to_bytes(4, "big") + data


def logins():
    public = paramiko.Ed25519Key.from_private_key_file(key).asbytes()
    other = paramiko.ECDSAKey.generate().asbytes()
    junk = os.urandom(64)
    # The right key in the shape of a certificate, and of a key of a security token.
    cert = string(b"ssh-ed25519-cert-v01@openssh.com") + string(b"n" * 32) + public[19:] + b"\0" * 80
    token = string(b"sk-ssh-ed25519@openssh.com") + public[15:] + string(b"ssh:")
    signature = string(string(b"ssh-ed25519") + string(b"\0" * 64))
    cases = {
        "none": ("none",),
        "empty password": ("password", False, ""),
        "password where there is none": ("password", False, "x"),
        "password of 30000 bytes": ("password", False, "x" * 30000),
        "password that is to be changed": ("password", True, "x", "y"),
        "keyboard-interactive": ("keyboard-interactive", "", ""),
        "hostbased": ("hostbased", "ssh-ed25519", public, "host", "root", signature),
        "gssapi-with-mic": ("gssapi-with-mic", 1, b"\x06\x09"),
        "no method": ("",),
        "empty key": ("publickey", True, "ssh-ed25519", b"", b""),
        "half a key": ("publickey", True, "ssh-ed25519", public[:20], signature),
        "key of 30000 bytes": ("publickey", True, "ssh-ed25519", public + b"\0" * 30000, signature),
        "junk": ("publickey", True, "ssh-ed25519", junk, junk),
        "the key of nobody": ("publickey", True, "ecdsa-sha2-nistp256", other, signature),
        "the right key under another type": ("publickey", True, "ssh-rsa", public, signature),
        "the right key, signed with zeros": ("publickey", True, "ssh-ed25519", public, signature),
        "the right key, no signature": ("publickey", True, "ssh-ed25519", public, b""),
        "the right key, only asked for": ("publickey", False, "ssh-ed25519", public),
        "a certificate": ("publickey", True, "ssh-ed25519-cert-v01@openssh.com", cert, signature),
        "a key of a token, not touched": ("publickey", True, "sk-ssh-ed25519@openssh.com", token, signature),
    }
    users = {name: user for name in cases} | {"nobody: none": "", "NUL: none": user + "\0"}

    def attempt(name):
        peer = Peer()
        peer.send(5, "ssh-userauth")
        peer.send(50, users[name], "ssh-connection", *cases.get(name, ("none",)))
        answers = peer.answers(2.5)
        return name, SUCCESS in answers or peer.is_in()

    return list(ThreadPoolExecutor(8).map(attempt, users))


def messages():
    # Those with a meaning, and a few without. 20 and 21 are the key exchange, which paramiko would answer itself.
    kinds = [0, 2, 3, 4, 6, 7, 8, 19, 22, 30, 31, 34, 50, 51, 52, 53, 60, 61, 63, 79, 80, 81, 82, 83]
    kinds += list(range(90, 101)) + [127, 128, 192, 254, 255]

    def attempt(kind):
        peer = Peer()
        match kind:
            case 50:
                # Before the service was asked for.
                peer.send(kind, user, "ssh-connection", "none")
            case 80:
                peer.send(kind, "tcpip-forward", True, "127.0.0.1", 0)
            case 90:
                peer.send(kind, "direct-tcpip", 0, 1 << 20, 1 << 15, "127.0.0.1", 22, "127.0.0.1", 1)
            case 98:
                peer.send(kind, 0, "subsystem", True, "sftp")
            case _:
                peer.send(kind, 0, "x")
        forwarded = 81 in peer.answers(0.2) if kind == 80 else False
        return f"message {kind}", forwarded or peer.is_in()

    return list(ThreadPoolExecutor(8).map(attempt, kinds))


def names():
    """Uploads under names that no client lets through. A name is fine when it is refused, or lands in the folder: the test looks."""
    transport = paramiko.Transport(("127.0.0.1", int(port)))
    # One connection, and a channel after the other on it.
    transport.connect(username=user, pkey=paramiko.Ed25519Key.from_private_key_file(key))
    long = b"x" * 256
    bad = [
        b"/orders/../../../etc/cron.d/x", b"../../../etc/cron.d/x", b"/etc/cron.d/x", b"/orders/..\\..\\x", b"..\\x",
        b"/orders/a/./../../../b", b"/orders/nul\0x", b"/orders/" + long, b"/" + b"x/" * 2500 + b"x",
        b"/orders/\xff\xfe", b"/orders/new\nline", b"/orders/\x1b[2J", b"/orders/-rf", b"/orders/dots...", b"/orders/.",
        b"/orders/..", b"/orders/", b"", b"/", b"/orders/space ", b"/orders/sub/x", b"/orders/x.incomplete",
    ]
    good = [b"/orders/%2e%2e", b"/orders/a/./../b", b"/orders/./c", b"orders/d", b"//orders//e"]
    found = []
    for path in bad + good:
        channel = paramiko.SFTPClient.from_transport(transport)
        channel.get_channel().settimeout(3)
        try:
            # SSH_FXP_OPEN: write, create, truncate; then close. What was taken is no HL7, so that the close is refused.
            _, answer = channel._request(3, path, 0x02 | 0x08 | 0x10, SFTPAttributes())
            handle = answer.get_binary()
            try:
                channel._request(4, handle)
            except OSError:
                pass
            taken = True
        except (OSError, EOFError, paramiko.SSHException, TypeError):
            taken = False
        channel.close()
        found.append((repr(path[:40]), taken != (path in good)))
    return found


results = {"logins": logins, "messages": messages, "names": names}[action]()
for name, wrong in results:
    print(("WRONG" if wrong else "fine"), name)
print(f"{len(results)} cases")
sys.stdout.flush()
os._exit(1 if any(wrong for _, wrong in results) else 0)
