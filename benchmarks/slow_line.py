"""A TCP proxy on 127.0.0.1 with the latency and the bandwidth per connection of a distant server.

python -m benchmarks.slow_line 8080    # hands on to that port, and prints its own
"""

import asyncio
import math
import sys
import time
from contextlib import suppress

LATENCY, RATE = 0.02, 4e6  # seconds of a round trip; bytes per second and connection


async def hand_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency: float, rate: float
) -> None:
    """Hand on what arrives, ``latency`` seconds later and no more than ``rate`` bytes a second."""
    free = 0.0  # when the line has carried what it was given
    while data := await reader.read(1 << 14):
        free = max(free, time.monotonic() + latency) + len(data) / rate
        await asyncio.sleep(free - time.monotonic())
        writer.write(data)
        await writer.drain()
    writer.close()


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection; a request takes the whole round trip, for what comes back is a stream."""
    await asyncio.sleep(LATENCY)  # the round trip of the handshake
    up_reader, up_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    with suppress(OSError):  # one side hung up
        await asyncio.gather(
            hand_on(reader, up_writer, LATENCY, math.inf), hand_on(up_reader, writer, 0, RATE)
        )
    up_writer.close()
    writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
