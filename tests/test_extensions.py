"""The example extensions: built by their own setup.py, and used on each loop."""

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from helpers import every_loop, open_fds, turns

import pyasync_c

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = ROOT / "examples" / "extensions"
NEEDED = {
    "zlib_pool": ("zlib.h", "zlib1g-dev"),
    "async_sqlite": ("sqlite3.h", "libsqlite3-dev"),
}
LONG = 60  # seconds, for what has to come: never waited for in full


def has_header(header):
    test = f"#include <{header}>\n"
    command = ["cc", "-fsyntax-only", "-x", "c", "-"]
    return subprocess.run(command, input=test, text=True, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def build_extension(tmp_path_factory):
    """build_extension(folder, name): the module, built as its README says, but in a copy."""
    built = tmp_path_factory.mktemp("extensions")

    def build(folder, name):
        header, package = NEEDED[name]
        if not has_header(header):
            message = f"{header} is missing, so {name} IS NOT TESTED: apt-get install {package}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
        copy = built / folder
        if not copy.exists():
            shutil.copytree(
                EXTENSIONS / folder, copy, ignore=shutil.ignore_patterns("build", "*.so")
            )
            sanitizers = os.environ.get("PAC_SANITIZE", "")
            flags = f"-Werror -fsanitize={sanitizers} -g" if sanitizers else "-Werror"
            environment = os.environ | {"CFLAGS": flags, "LDFLAGS": flags}
            environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
            command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
        [path] = copy.glob(f"{name}*.so")
        return path

    return build


def load(name, path):
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


@pytest.fixture(scope="module")
def zlib_path(build_extension):
    return build_extension("zlib_pool", "zlib_pool")


@pytest.fixture(scope="module")
def sqlite_path(build_extension):
    return build_extension("sqlite", "async_sqlite")


@pytest.fixture(scope="module")
def zlib_pool(zlib_path):
    return load("zlib_pool", zlib_path)


@pytest.fixture(scope="module")
def async_sqlite(sqlite_path):
    return load("async_sqlite", sqlite_path)


def threads_of_this_process():
    return set(os.listdir("/proc/self/task"))


def threads_since(before):
    """How many there are that were not there before; one of those may have ended since."""
    return len(threads_of_this_process() - before)


def until(condition):
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# ---- zlib_pool


@every_loop
def test_pool_does_what_zlib_does(zlib_pool, run):
    pieces = [b"", b"x", bytes(1000), os.urandom(5000), b"to be or not " * 50_000, bytes(2_000_000)]

    async def main():
        with zlib_pool.Pool(threads=3) as pool:
            for level in (-1, 0, 1, 9):
                packed = await asyncio.gather(*(pool.compress(p, level=level) for p in pieces))
                assert [zlib.decompress(p) for p in packed] == pieces
                assert await asyncio.gather(*map(pool.decompress, packed)) == pieces
                assert (
                    await pool.decompress(memoryview(zlib.compress(pieces[4], level))) == pieces[4]
                )

    run(main())


@every_loop
def test_pool_many_small_buffers(zlib_pool, run):
    pieces = [b"%d" % i * 20 for i in range(2000)]

    async def main():
        with zlib_pool.Pool(threads=4) as pool:
            packed = await asyncio.gather(*map(pool.compress, pieces))
        assert packed == [zlib.compress(p) for p in pieces]

    run(main())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no zlib stream at all", "Error -3"),
        (b"", "Error -5: incomplete"),
        (zlib.compress(bytes(100_000))[:-4], "Error -5: incomplete"),
        (zlib.compress(b"abc")[:-1] + b"\0", "Error -3"),
    ],
)
def test_pool_refuses_what_zlib_refuses(zlib_pool, data, message):
    async def main():
        with zlib_pool.Pool(threads=1) as pool:
            with pytest.raises(zlib.error, match=message):
                await pool.decompress(data)
            with pytest.raises(zlib.error):
                zlib.decompress(data)
            assert await pool.decompress(await pool.compress(b"it goes on")) == b"it goes on"

    pyasync_c.run(main())


def test_pool_bad_input(zlib_pool):
    for threads in (0, -1, 257):
        with pytest.raises(ValueError, match="threads must be from 1"):
            zlib_pool.Pool(threads=threads)
    with pytest.raises(TypeError):
        zlib_pool.Pool(threads="2")

    async def main():
        with zlib_pool.Pool(1) as pool:
            with pytest.raises(TypeError):
                pool.compress("text")
            with pytest.raises(TypeError):
                pool.compress()
            with pytest.raises(zlib.error, match="invalid level"):
                await pool.compress(b"x", level=77)

    pyasync_c.run(main())


@every_loop
def test_pool_leaves_a_job_that_nobody_waits_for(zlib_pool, run):
    """A job of minutes (300 MB of noise, again and again) ends soon after its await was cancelled,
    and lets go of its buffer."""

    async def main():
        noise = bytearray(os.urandom(1_000_000) * 100)
        with zlib_pool.Pool(threads=1) as pool:
            tasks = [pyasync_c.spawn(pool.compress(noise, level=9)) for _ in range(20)]
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            assert {type(r) for r in await asyncio.gather(*tasks, return_exceptions=True)} == {
                asyncio.CancelledError
            }
            del tasks
            assert await pool.compress(b"next") == zlib.compress(b"next")
            del noise[:]  # BufferError if a job still had it

    run(main())


@every_loop
def test_pool_a_small_result_does_not_wait_for_a_large_job(zlib_pool, run):
    much, little = os.urandom(30_000_000), zlib.compress(b"x")

    async def main():
        with zlib_pool.Pool(threads=1) as pool:
            # All three are queued, and the second one awaited, while the first one runs.
            first, small = pool.compress(much[:2_000_000]), pool.decompress(little)
            large = pool.compress(much)
            assert await small == b"x"
            assert "complete" in repr(first) and "pending" in repr(large)

    run(main())


def test_pool_closed_by_several_threads(zlib_pool):
    """Its threads are joined once: a second join of the same thread is undefined."""
    for _ in range(20):
        pool = zlib_pool.Pool(threads=2)
        work = [pool.compress(bytes(1_000_000)) for _ in range(2)]
        closers = [threading.Thread(target=pool.close) for _ in range(4)]
        for thread in closers:
            thread.start()
        for thread in closers:
            thread.join(LONG)
            assert not thread.is_alive()
        with pytest.raises(RuntimeError, match="closed"):
            pool.compress(b"x")
        assert all("pending" not in repr(one) for one in work)


def test_pool_close(zlib_pool):
    before = threads_of_this_process()

    async def main():
        pool = zlib_pool.Pool(threads=2)
        assert threads_since(before) == 2
        waiting = [pool.compress(bytes(300_000), level=9) for _ in range(200)]
        pool.close()
        pool.close()
        until(lambda: threads_since(before) == 0)
        results = await asyncio.gather(*waiting, return_exceptions=True)
        broken = [r for r in results if isinstance(r, Exception)]
        assert broken and all("released without completing" in str(r) for r in broken)
        with pytest.raises(RuntimeError, match="the pool is closed"):
            pool.compress(b"x")
        # One that is collected closes itself.
        zlib_pool.Pool(threads=3)
        until(lambda: threads_since(before) == 0)

    pyasync_c.run(main())


@every_loop
def test_pool_outlives_its_loop(zlib_pool, run):
    pool = zlib_pool.Pool(threads=2)

    async def leave():
        for _ in range(50):
            pyasync_c.spawn(pool.compress(bytes(200_000), level=9))
        await turns()

    async def come_back():
        return await pool.compress(b"again")

    run(leave())
    assert run(come_back()) == zlib.compress(b"again")
    pool.close()


def program(text, *paths):
    """Run it in an interpreter of its own; nothing may be said on stderr."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *(str(p.parent) for p in paths)])
    }
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env=environment, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_pool_at_exit(zlib_path):
    """The interpreter ends with jobs under way, at a moment of its own choosing."""
    program(
        """if True:
        import zlib_pool, pyasync_c
        pool = zlib_pool.Pool(threads=3)
        kept = []
        async def main():
            for i in range(200):
                kept.append(pool.compress(bytes(100_000), level=9))
                await pyasync_c.yield_now()
        pyasync_c.run(main())
        """,
        zlib_path,
    )


def test_pool_after_fork(zlib_path):
    program(
        """if True:
        import os, warnings, zlib_pool, pyasync_c
        warnings.simplefilter("ignore", DeprecationWarning)  # fork() with threads: that is the test
        pool = zlib_pool.Pool(threads=2)
        async def main():
            return await pool.compress(b"x")
        pyasync_c.run(main())
        pid = os.fork()
        if pid == 0:
            try:
                pool.compress(b"x")
            except RuntimeError as error:
                assert "parent" in str(error)
                pool.close()
                del pool
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        pyasync_c.run(main())
        """,
        zlib_path,
    )


# ---- async_sqlite

# Hours, if nobody interrupts it.
ENDLESS = """with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000000000)
             select count(*) from n"""


@every_loop
def test_sqlite_values(async_sqlite, run):
    values = [
        None,
        0,
        -(2**63),
        2**63 - 1,
        1.5,
        float("inf"),
        "",
        "a\0b é 𝄞",
        b"",
        b"\0\xff" * 1000,
    ]
    values += [bytearray(b"ab"), memoryview(b"cd"), True]

    async def main():
        async with await async_sqlite.connect(":memory:") as db:
            marks = ", ".join("?" * len(values))
            [row] = await db.execute(f"select {marks}", values)
            assert list(row) == values
            assert [type(v) for v in row[:10]] == [type(v) for v in values[:10]]
            assert row[10:] == (b"ab", b"cd", 1)
            assert await db.execute("create table t (a, b)") == []
            for i in range(100):
                assert await db.execute("insert into t values (?, ?)", (i, str(i))) == []
            rows = await db.execute("select * from t where a >= ? order by a;", (90,))
            assert rows == [(i, str(i)) for i in range(90, 100)]
            assert await db.execute("  -- nothing") == []

    run(main())


@every_loop
def test_sqlite_errors(async_sqlite, run):
    async def main():
        async with await async_sqlite.connect(":memory:") as db:
            with pytest.raises(async_sqlite.Error, match="syntax error") as caught:
                await db.execute("selec 1")
            assert caught.value.code == 1
            await db.execute("create table t (a unique)")
            await db.execute("insert into t values (1)")
            with pytest.raises(async_sqlite.IntegrityError, match="UNIQUE") as caught:
                await db.execute("insert into t values (1)")
            assert caught.value.code == 2067  # SQLITE_CONSTRAINT_UNIQUE
            with pytest.raises(async_sqlite.Error, match="has 2 parameters, 1 were given"):
                await db.execute("select ?, ?", [1])
            with pytest.raises(async_sqlite.Error, match="one statement at a time"):
                await db.execute("select 1; select 2")
            with pytest.raises(UnicodeDecodeError):
                await db.execute("select cast(x'ff' as text)")
            assert await db.execute("select a from t") == [(1,)]
        with pytest.raises(async_sqlite.Error, match="unable to open") as caught:
            await async_sqlite.connect("/nowhere/at/all.db")
        assert caught.value.code & 0xFF == 14

    run(main())


def test_sqlite_bad_input(async_sqlite):
    async def main():
        db = await async_sqlite.connect(":memory:")
        for wrong, error in [
            (5, TypeError),
            ([object()], TypeError),
            ([1j], TypeError),
            ([2**63], OverflowError),
            (["\ud800"], UnicodeEncodeError),
        ]:
            with pytest.raises(error):
                db.execute("select ?", wrong)
        with pytest.raises(TypeError):
            db.execute(b"select 1")
        with pytest.raises(ValueError, match="null"):
            db.execute("select 1\0")
        with pytest.raises(TypeError):
            async_sqlite.connect(5.5)
        with pytest.raises(TypeError):
            async_sqlite.Connection()
        await db.close()
        await db.close()
        with pytest.raises(RuntimeError, match="the connection is closed"):
            db.execute("select 1")
        with pytest.raises(RuntimeError, match="the connection is closed"):
            async with db:
                pass

    pyasync_c.run(main())


@every_loop
@pytest.mark.parametrize("how", ["timeout", "cancel", "select"])
def test_sqlite_a_cancelled_query_is_interrupted(async_sqlite, run, how):
    async def main():
        async with await async_sqlite.connect(":memory:") as db:
            await db.execute("create table t (a)")
            for _ in range(5):
                query = db.execute("insert into t " + ENDLESS)
                if how == "timeout":
                    with pytest.raises(TimeoutError):
                        async with asyncio.timeout(0.01):
                            await query
                elif how == "select":
                    await pyasync_c.select(query, pyasync_c.sleep(0.01))
                else:
                    task = pyasync_c.spawn(query)
                    await asyncio.sleep(0.01)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                # The connection's thread gets to this only if the query has ended.
                assert await db.execute("select count(*) from t") == [(0,)]

    run(asyncio.wait_for(main(), LONG))


def test_sqlite_a_query_that_was_cancelled_in_the_queue_never_begins(async_sqlite):
    async def main():
        async with await async_sqlite.connect(":memory:") as db:
            await db.execute("create table t (a)")
            endless = pyasync_c.spawn(db.execute(ENDLESS))
            await asyncio.sleep(0.01)
            waiting = db.execute("insert into t values (1)")
            following = db.execute("insert into t values (2)")
            waiting.close()
            endless.cancel()
            await following
            assert await db.execute("select * from t") == [(2,)]

    pyasync_c.run(asyncio.wait_for(main(), LONG))


def test_sqlite_cancelled_before_the_first_step(async_sqlite):
    """An interrupt by then is none to SQLite: the query would run for hours. Binding parameters, as
    many as SQLite allows, takes long enough to be met."""
    query, parameters = ENDLESS + " where i < ?32766", ["x"] * 32766

    async def main():
        async with await async_sqlite.connect(":memory:") as db:
            for n in range(100):
                task = pyasync_c.spawn(db.execute(query, parameters))
                await turns(1)
                end = time.perf_counter_ns() + n % 50 * 20_000
                while time.perf_counter_ns() < end:
                    pass
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await asyncio.wait_for(db.execute("select 1"), LONG) == [(1,)]

    pyasync_c.run(main())


def test_sqlite_cancelling_races_with_the_end(async_sqlite):
    """An interrupt that is late must not hit the query behind it."""

    async def main():
        async with await async_sqlite.connect(":memory:") as db:
            await db.execute("create table t (a)")
            for i in range(400):
                task = pyasync_c.spawn(db.execute("insert into t values (?)", (i,)))
                other = db.execute("select count(*) from t")
                await asyncio.sleep(i % 20 * 1e-5)
                task.cancel()
                await other
            count = await db.execute("select count(*) from t")
            assert 0 <= count[0][0] <= 400

    pyasync_c.run(asyncio.wait_for(main(), LONG))


@every_loop
def test_sqlite_connections_work_side_by_side(async_sqlite, run, tmp_path):
    async def use(number):
        async with await async_sqlite.connect(tmp_path / "file.db") as db:
            for i in range(10):
                await db.execute("insert into t values (?, ?)", (number, i))

    async def main():
        async with await async_sqlite.connect(str(tmp_path / "file.db")) as db:
            await db.execute("drop table if exists t")
            await db.execute("create table t (a, b)")
            await asyncio.gather(*map(use, range(5)))
            assert await db.execute("select a, count(*) from t group by a") == [
                (i, 10) for i in range(5)
            ]

    before = open_fds()
    run(main())
    until(lambda: open_fds() <= before)


def test_sqlite_close_comes_after_what_was_executed(async_sqlite, tmp_path):
    before = threads_of_this_process()

    async def main():
        db = await async_sqlite.connect(tmp_path / "file.db")
        await db.execute("create table t (a)")
        waiting = [db.execute("insert into t values (?)", (i,)) for i in range(20)]
        await db.close()
        await asyncio.gather(*waiting)
        async with await async_sqlite.connect(tmp_path / "file.db") as db:
            assert await db.execute("select count(*) from t") == [(20,)]

    pyasync_c.run(main())
    until(lambda: threads_since(before) == 0)


def test_sqlite_a_connection_that_was_not_closed(async_sqlite, tmp_path):
    before = threads_of_this_process()

    async def main():
        async with await async_sqlite.connect(":memory:") as other:
            db = await async_sqlite.connect(":memory:")
            await db.execute("select 1")
            with pytest.warns(ResourceWarning, match="was not closed"):
                del db
                # Its last request may only be finalized now.
                await other.execute("select 1")
            # Nobody has got this one.
            async_sqlite.connect(":memory:").close()
            while threads_since(before) > 1:
                await other.execute("select 1")

    pyasync_c.run(asyncio.wait_for(main(), LONG))
    until(lambda: threads_since(before) == 0)


@every_loop
def test_sqlite_the_loop_goes_first(async_sqlite, run):
    kept = []

    async def main():
        db = await async_sqlite.connect(":memory:")
        kept.append(db)
        pyasync_c.spawn(db.execute(ENDLESS))
        await asyncio.sleep(0.01)

    async def again():
        assert await kept[0].execute("select 1") == [(1,)]
        await kept.pop().close()

    run(main())
    run(asyncio.wait_for(again(), LONG))


def test_sqlite_from_two_loops(async_sqlite):
    """A connection belongs to no loop: two threads' loops share one."""

    async def use(db):
        return [await db.execute("select ?", (i,)) for i in range(100)]

    db = pyasync_c.run(connect(async_sqlite))
    results = []
    threads = [
        threading.Thread(target=lambda run=run: results.append(run(use(db))))
        for run in (pyasync_c.run, asyncio.run)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert results == [[[(i,)] for i in range(100)]] * 2
    pyasync_c.run(close(db))


async def connect(async_sqlite):
    return await async_sqlite.connect(":memory:")


async def close(db):
    await db.close()


def test_sqlite_at_exit(sqlite_path):
    program(
        """if True:
        import async_sqlite, pyasync_c
        async def main():
            db = await async_sqlite.connect(":memory:")
            kept.append((db, db.execute("select 1"), db.execute('''ENDLESS''')))
        kept = []
        pyasync_c.run(main())
        import warnings
        warnings.simplefilter("ignore")
        """.replace("ENDLESS", ENDLESS),
        sqlite_path,
    )


# ---- the programs beside them


@pytest.mark.parametrize(
    ("folder", "name", "said"),
    [
        ("zlib_pool", "pack_files.py", "what is no zlib stream is refused"),
        ("sqlite", "inventory.py", "a query of minutes was interrupted"),
    ],
)
def test_program(request, folder, name, said):
    path = request.getfixturevalue({"zlib_pool": "zlib_path", "sqlite": "sqlite_path"}[folder])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(path.parent)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", EXTENSIONS / folder / name],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
    )
    assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr


def test_each_extension_is_introduced():
    introduced = (ROOT / "examples" / "README.md").read_text()
    for folder in EXTENSIONS.iterdir():
        if folder.is_dir():
            assert f"extensions/{folder.name}" in introduced
            assert {f.suffix for f in folder.iterdir() if f.is_file()} >= {".c", ".py", ".md"}


# ---- the guide


def test_the_guide_leads_to_an_extension_that_works(tmp_path):
    """docs/c-api.md: its C and its setup.py are built as they stand there, its program is run."""
    guide = (ROOT / "docs" / "c-api.md").read_text()
    source, setup, program = re.findall(r"^```(?:c|python)\n(.*?)^```", guide, re.M | re.S)[:3]
    (tmp_path / "deep_thought.c").write_text(source)
    (tmp_path / "setup.py").write_text(setup)
    (tmp_path / "program.py").write_text(program)
    assert build_and_run(tmp_path) == "42\n[42, 42, 42]\n" * 2


def test_the_extension_of_the_readme_works(tmp_path):
    """README.md shows the middle of that: its C instead, between the same beginning and end."""
    guide, readme = ((ROOT / path).read_text() for path in ("docs/c-api.md", "README.md"))
    source, setup, program = re.findall(r"^```(?:c|python)\n(.*?)^```", guide, re.M | re.S)[:3]
    (shown,) = re.findall(r"^```c\n(.*?)^```", readme, re.M | re.S)
    begin, end = source.index("static const struct"), source.index("static PyMethodDef")
    (tmp_path / "deep_thought.c").write_text(source[:begin] + shown + source[end:])
    (tmp_path / "setup.py").write_text(setup)
    (tmp_path / "program.py").write_text(program)
    assert build_and_run(tmp_path, "-Wno-unused-parameter") == "42\n[42, 42, 42]\n" * 2


def build_and_run(tmp_path, *more_flags):
    """What program.py prints."""
    sanitizers = os.environ.get("PAC_SANITIZE", "")
    flags = " ".join(["-Wall -Wextra -Werror", *more_flags])
    flags += f" -fsanitize={sanitizers}" if sanitizers else ""
    environment = os.environ | {"CFLAGS": flags, "LDFLAGS": flags, "PYTHONPATH": str(ROOT)}
    for arguments in (["setup.py", "--quiet", "build_ext", "--inplace"], ["program.py"]):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_guides_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]*)\)", (ROOT / "docs" / "c-api.md").read_text()):
        assert (ROOT / "docs" / link).exists(), link
