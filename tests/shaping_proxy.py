"""A TCP proxy on 127.0.0.1 with the latency and the bandwidth per connection of a distant server.

python -m tests.shaping_proxy --target 8080 --latency 0.02 --rate 4e6    # prints its port
"""

import argparse
import asyncio
import time

PIECE = 1 << 14  # bytes


async def shaped(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency: float, rate: float
) -> None:
    """Hand on what arrives, each byte ``latency`` seconds later and no more than ``rate`` bytes a second."""
    line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(max(4, int(rate * latency) // PIECE + 4))

    async def receive() -> None:
        while data := await reader.read(PIECE):
            await line.put((time.monotonic() + latency, data))
        await line.put((0.0, b""))

    async def send() -> None:
        free = 0.0  # when the line has carried what it was given
        while (item := await line.get())[1]:
            free = max(free, item[0]) + len(item[1]) / rate
            await asyncio.sleep(free - time.monotonic())
            writer.write(item[1])
            await writer.drain()
        writer.close()

    tasks = [asyncio.create_task(receive()), asyncio.create_task(send())]
    try:
        await asyncio.gather(*tasks)
    except OSError:
        pass  # one side hung up
    finally:
        for task in tasks:
            task.cancel()
        writer.close()


async def serve(target: int, latency: float, rate: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(latency)  # the round trip of the handshake
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(
            shaped(reader, up_writer, latency / 2, 1e9), shaped(up_reader, writer, latency / 2, rate)
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=int, required=True, help="port to hand on to")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds of a round trip")
    parser.add_argument("--rate", type=float, default=4e6, help="bytes per second and connection")
    options = parser.parse_args()
    asyncio.run(serve(options.target, options.latency, options.rate))
