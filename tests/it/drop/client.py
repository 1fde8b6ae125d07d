"""What paramiko does as a partner: client.py PORT USER KEY ACTION FILE ..."""

import os
import sys

import paramiko

port, user, key, action, file = sys.argv[1:6]
transport = paramiko.Transport(("127.0.0.1", int(port)))
transport.connect(username=user, pkey=paramiko.Ed25519Key.from_private_key_file(key))
sftp = paramiko.SFTPClient.from_transport(transport)
name = os.path.basename(file)
if action == "put":
    # Looks for the file afterwards and compares the sizes.
    sftp.put(file, "/orders/" + sys.argv[6], confirm=True)
elif action == "winscp":
    sftp.put(file, f"/orders/{name}.filepart", confirm=True)
    sftp.posix_rename(f"/orders/{name}.filepart", f"/orders/{name}")
    sftp.utime(f"/orders/{name}", (5, 5))
    assert sftp.stat(f"/orders/{name}").st_size == os.path.getsize(file)
elif action == "interrupt":
    handle = sftp.open(f"/orders/{name}", "wb")
    with open(file, "rb") as content:
        handle.write(content.read(int(sys.argv[6])))
    handle.stat()
    # Gone, without a word.
    transport.sock.close()
    os._exit(0)
elif action == "refused":
    # paramiko takes no notice of what a close is answered: asked for by hand.
    try:
        handle = sftp.open(f"/orders/{name}", "wb")
        with open(file, "rb") as content:
            handle.write(content.read())
        sftp._request(4, handle.handle)
        print("taken")
    except OSError as error:
        print(error)
transport.close()
