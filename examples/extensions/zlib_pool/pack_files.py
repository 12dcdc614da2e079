"""Compress files side by side on a pool of C threads, while the loop goes on.

python pack_files.py FILE ...
"""

import sys
import zlib

import zlib_pool

import pyasync_c


async def pack(pool, name):
    with open(name, "rb") as file:
        data = file.read()
    packed = await pool.compress(data, level=9)
    assert await pool.decompress(packed) == data == zlib.decompress(packed)
    return name, len(data), len(packed)


async def tick(counter):
    async for _ in pyasync_c.interval(0.001):
        counter.append(1)


async def main(names):
    ticks = []
    ticking = pyasync_c.spawn(tick(ticks))
    with zlib_pool.Pool() as pool:
        results = await pyasync_c.join(*(pack(pool, name) for name in names))
        try:
            await pool.decompress(b"this is no zlib stream")
        except zlib.error as error:
            print(f"what is no zlib stream is refused: {error}")
    ticking.cancel()
    for name, size, packed in results:
        print(f"{name}: {size:,} bytes, packed {packed:,}")
    print(f"{len(results)} files; the loop ticked meanwhile")


if __name__ == "__main__":
    pyasync_c.run(main(sys.argv[1:] or [__file__]))
