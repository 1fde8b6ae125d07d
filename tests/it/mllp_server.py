"""An MLLP server of the Python package `hl7`: acknowledges every message, prints its port, then each MSH-10."""

import asyncio

from hl7.mllp import start_hl7_server


async def serve(reader, writer):
    try:
        while not writer.is_closing():
            message = await reader.readmessage()
            writer.writemessage(message.create_ack())
            await writer.drain()
            print(message.segment("MSH")[10], flush=True)
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


async def main():
    async with await start_hl7_server(serve, host="127.0.0.1", port=0, limit=1 << 24) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
