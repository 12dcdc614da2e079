"""A small inventory in SQLite: rows, parameters, errors, a transaction, and a query that takes too
long and is interrupted."""

import asyncio
import time

import async_sqlite

import pyasync_c

SLOW = """with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000000)
          select count(*) from n"""


async def main():
    async with await async_sqlite.connect(":memory:") as db:
        await db.execute("create table item (name text primary key, price real, stock integer)")
        for item in [("bolt", 0.25, 1000), ("nut", 0.1, 2000), ("saw", 19.5, 7)]:
            await db.execute("insert into item values (?, ?, ?)", item)

        rows = await db.execute("select name, stock from item where price < ? order by name", (1,))
        print(rows)
        assert rows == [("bolt", 1000), ("nut", 2000)]

        try:
            await db.execute("insert into item values (?, ?, ?)", ("saw", 1, 1))
        except async_sqlite.IntegrityError as error:
            print(f"refused: {error} (code {error.code})")

        await db.execute("begin")
        await db.execute("update item set stock = stock - 5 where name = 'saw'")
        await db.execute("rollback")
        assert await db.execute("select stock from item where name = 'saw'") == [(7,)]

        begin = time.monotonic()
        try:
            async with asyncio.timeout(0.1):
                await db.execute(SLOW)
        except TimeoutError:
            print("a query of minutes was interrupted")
        assert await db.execute("select 1") == [(1,)]
        assert time.monotonic() - begin < 30


if __name__ == "__main__":
    pyasync_c.run(main())
