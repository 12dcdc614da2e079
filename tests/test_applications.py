"""Applications that nobody here wrote: servers, clients and drivers from PyPI on this loop.

Each test runs on our loop by run(), by a Runner in debug mode, and on asyncio's own loop, which is
what says that the test is right. After each: no descriptor and no task is left, nothing was
reported to the loop's exception handler, and no destructor has warned.
"""

import asyncio
import contextlib
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import asyncpg
import httpx
import pytest
import redis.asyncio
import uvicorn
from aiohttp import web
from helpers import collect, foreign_environment, free_port, open_fds, turns, unraisable

import pyasync_c

ROOT = Path(__file__).parent.parent
LONG = 30  # seconds, for what has to come: never waited for in full


def run_in_debug_mode(main):
    with asyncio.Runner(debug=True, loop_factory=pyasync_c.new_event_loop) as runner:
        return runner.run(main)


async def _whole(main):
    """Run main(); nothing is reported meanwhile and no task is left."""
    reports = []
    loop = asyncio.get_running_loop()
    # A callback that takes long on a busy machine is not what is looked for.
    loop.slow_callback_duration = LONG
    loop.set_exception_handler(lambda _, context: reports.append(context))
    async with asyncio.timeout(LONG):
        result = await main()
    await turns()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not reports and not left
    return result


@pytest.fixture(
    params=[
        pytest.param(pyasync_c.run, id="pyasync_c"),
        pytest.param(run_in_debug_mode, id="debug"),
        pytest.param(asyncio.run, id="asyncio"),
    ]
)
def run(request):
    """Runs an async function, and looks at what it leaves."""

    def run(main):
        collect()
        before = open_fds()
        with unraisable() as seen:
            result = request.param(_whole(main))
            collect()
        assert not seen
        assert open_fds() <= before
        return result

    return run


async def cancelled(awaitable, after=0.05):
    """Cancel what awaits it once it waits."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ── aiohttp ──────────────────────────────────────────────────────────────────────────────────


class Site:
    """An aiohttp server with a handler for each thing that a client may want."""

    def __init__(self):
        self.connections = set()
        self.begun = self.interrupted = 0

    async def echo(self, request):
        self.connections.add(request.transport.get_extra_info("peername"))
        return web.Response(body=await request.read())

    async def count(self, request):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number in range(int(request.query["to"])):
            await response.write(f"{number}\n".encode())
            await asyncio.sleep(0)
        return response

    async def measure(self, request):
        sizes = [len(chunk) async for chunk in request.content.iter_chunked(65536)]
        return web.json_response({"bytes": sum(sizes), "chunks": len(sizes)})

    async def never(self, request):
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.interrupted += 1

    async def websocket(self, request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            if message.data == "bye":
                await ws.close(code=4001)
            elif message.type is aiohttp.WSMsgType.TEXT:
                await ws.send_str(message.data.upper())
            else:
                await ws.send_bytes(message.data[::-1])
        return ws

    @contextlib.asynccontextmanager
    async def serving(self, tls=None):
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/echo", self.echo)
        app.router.add_get("/count", self.count)
        app.router.add_post("/measure", self.measure)
        app.router.add_get("/never", self.never)
        app.router.add_get("/ws", self.websocket)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            scheme = "http" if tls is None else "https"
            yield f"{scheme}://localhost:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def ask_everything(session, url):
    async with session.post(f"{url}/echo", data=b"x" * 900_000) as response:
        assert await response.read() == b"x" * 900_000

    async with session.get(f"{url}/count", params={"to": 500}) as response:
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert [int(line) async for line in response.content] == list(range(500))

    async def body():
        for _ in range(50):
            yield b"y" * 20_000

    async with session.post(f"{url}/measure", data=body()) as response:
        assert (await response.json())["bytes"] == 1_000_000

    async with session.ws_connect(f"{url}/ws") as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "HELLO"
        await ws.send_bytes(bytes(range(256)) * 1000)
        assert await ws.receive_bytes() == (bytes(range(256)) * 1000)[::-1]
        await ws.ping()
        await ws.send_str("bye")
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 4001


def test_aiohttp(run):
    async def main():
        async with Site().serving() as url, aiohttp.ClientSession() as session:
            await ask_everything(session, url)

    run(main)


def test_aiohttp_keeps_connections(run):
    async def main():
        site = Site()
        connector = aiohttp.TCPConnector(limit=4)
        async with site.serving() as url, aiohttp.ClientSession(connector=connector) as session:

            async def ask(number):
                async with session.post(f"{url}/echo", data=str(number)) as response:
                    return int(await response.text())

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(n)) for n in range(100)]
            assert [task.result() for task in tasks] == list(range(100))
            assert 1 <= len(site.connections) <= 4

    run(main)


def test_aiohttp_many_connections_at_once(run):
    async def main():
        site = Site()
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with site.serving() as url, aiohttp.ClientSession(connector=connector) as session:

            async def ask(number):
                async with session.post(f"{url}/echo", data=str(number)) as response:
                    return int(await response.text())

            assert await asyncio.gather(*map(ask, range(60))) == list(range(60))
            assert len(site.connections) == 60

    run(main)


def test_aiohttp_timeouts_and_cancels(run):
    async def main():
        site = Site()
        async with site.serving() as url, aiohttp.ClientSession() as session:
            for timeout in {"total": 0.05}, {"sock_read": 0.05}:
                with pytest.raises(asyncio.TimeoutError):
                    await session.get(f"{url}/never", timeout=aiohttp.ClientTimeout(**timeout))
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(0.05):
                    await session.get(f"{url}/never")
            asked = asyncio.ensure_future(session.get(f"{url}/never"))
            # A busy machine may have sent none of the others before it gave them up.
            while site.begun <= site.interrupted:
                await asyncio.sleep(0.001)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            # The server has seen each of them go.
            while site.interrupted < site.begun:
                await asyncio.sleep(0.001)
            async with session.post(f"{url}/echo", data=b"still there") as response:
                assert await response.read() == b"still there"

    run(main)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The paths of a self-signed certificate for localhost and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with: install the package openssl")
    folder = tmp_path_factory.mktemp("certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        + ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_aiohttp_over_tls(run, certificate):
    async def main():
        here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        here.load_cert_chain(*certificate)
        there = ssl.create_default_context(cafile=certificate[0])
        connector = aiohttp.TCPConnector(ssl=there)
        async with Site().serving(here) as url:
            async with aiohttp.ClientSession(connector=connector) as session:
                await ask_everything(session, url)

    run(main)


# ── uvicorn and httpx ────────────────────────────────────────────────────────────────────────


class Application:
    """An ASGI application; tests/programs of a subprocess use it as test_applications:app."""

    def __init__(self):
        self.life = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                self.life.append("started")
                await send({"type": "lifespan.startup.complete"})
            self.life.append("ended")
            print("lifespan ended", flush=True)
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert scope["type"] == "http"
        body = [type(asyncio.get_running_loop()).__module__.encode()]
        if scope["path"] == "/echo":
            body, more = [], True
            while more:
                message = await receive()
                body.append(message["body"])
                more = message["more_body"]
        elif scope["path"] == "/slow":
            print("slow", flush=True)
            await asyncio.sleep(0.3)
        elif scope["path"] == "/never":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.life.append("disconnected")
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in body:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


app = Application()


@contextlib.asynccontextmanager
async def uvicorn_serving(app, **options):
    config = uvicorn.Config(app, lifespan="on", log_level="warning", port=0, **options)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
        assert not task.done()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


def test_uvicorn_and_httpx(run):
    async def main():
        app = Application()
        limits = httpx.Limits(max_connections=10)
        async with (
            uvicorn_serving(app) as url,
            httpx.AsyncClient(limits=limits, verify=False) as client,
        ):
            assert (await client.post(f"{url}/echo", content=b"z" * 500_000)).content == (
                b"z" * 500_000
            )

            async def parts():
                for number in range(30):
                    yield str(number).encode()
                    await asyncio.sleep(0)

            async with client.stream("POST", f"{url}/echo", content=parts()) as response:
                streamed = b"".join([part async for part in response.aiter_bytes()])
            assert streamed == "".join(map(str, range(30))).encode()

            async def ask(number):
                return (await client.post(f"{url}/echo", content=str(number))).text

            answers = await asyncio.gather(*map(ask, range(80)))
            assert answers == [str(number) for number in range(80)]

            with pytest.raises(httpx.ReadTimeout):
                await client.get(f"{url}/never", timeout=0.05)
            await cancelled(client.get(f"{url}/never"))
            while app.life.count("disconnected") < 2:
                await asyncio.sleep(0.001)
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(verify=False) as client:
                await client.get(url)
        assert app.life == ["started", "disconnected", "disconnected", "ended"]

    run(main)


@contextlib.contextmanager
def uvicorn_process(*options):
    """uvicorn in a process of its own: the process, and where it serves."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)]),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "test_applications:app", "--port", "0", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            for line in process.stdout:
                if found := re.search(r"running on (http://\S+)", line):
                    break
            else:
                pytest.fail("uvicorn did not start")
            yield process, found[1]
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_uvicorn_as_a_program(number):
    """Under load, then told to stop in the middle of a request, which is still answered."""

    async def main():
        async with httpx.AsyncClient(timeout=LONG, verify=False) as client:
            assert (await client.get(url)).text == "pyasync_c._eventloop"

            async def ask(number):
                return (await client.post(f"{url}/echo", content=str(number))).text

            answers = await asyncio.gather(*map(ask, range(100)))
            assert answers == [str(number) for number in range(100)]

            slow = asyncio.create_task(client.get(f"{url}/slow"))
            loop = asyncio.get_running_loop()
            while await loop.run_in_executor(None, process.stdout.readline) != "slow\n":
                pass
            process.send_signal(number)
            assert (await slow).status_code == 200
        return await loop.run_in_executor(None, process.stdout.read)

    with uvicorn_process("--loop", "pyasync_c:new_event_loop", "--no-access-log") as (
        process,
        url,
    ):
        said = pyasync_c.run(main())
        code = process.wait(LONG)
    assert "lifespan ended" in said and "Finished server process" in said
    assert "Traceback" not in said and "ERROR" not in said
    # uvicorn raises the signal again once it has shut down; Ctrl-C it then takes for done.
    assert code == (0 if number == signal.SIGINT else -number)


# ── tornado ──────────────────────────────────────────────────────────────────────────────────


def test_tornado(run):
    import tornado.httpclient
    import tornado.httpserver
    import tornado.ioloop
    import tornado.netutil
    import tornado.web
    import tornado.websocket

    class Main(tornado.web.RequestHandler):
        async def get(self):
            for number in range(10):
                self.write(str(number))
                await self.flush()
                await tornado.gen.sleep(0.001)

        def post(self):
            self.write(self.request.body)

    class Socket(tornado.websocket.WebSocketHandler):
        async def on_message(self, message):
            await self.write_message(message[::-1])

    async def main():
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        server = tornado.httpserver.HTTPServer(
            tornado.web.Application([("/", Main), ("/ws", Socket)])
        )
        server.add_sockets(sockets)
        port = sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        client = tornado.httpclient.AsyncHTTPClient(force_instance=True)
        assert (await client.fetch(url)).body == b"0123456789"
        answers = await asyncio.gather(
            *[client.fetch(url, method="POST", body=str(n)) for n in range(50)]
        )
        assert [int(answer.body) for answer in answers] == list(range(50))
        ws = await tornado.websocket.websocket_connect(f"ws://127.0.0.1:{port}/ws")
        await ws.write_message("hello")
        assert await ws.read_message() == "olleh"
        ws.close()
        assert await ws.read_message() is None
        ticks = []
        periodic = tornado.ioloop.PeriodicCallback(lambda: ticks.append(1), 1)
        periodic.start()
        while len(ticks) < 5:
            await asyncio.sleep(0.001)
        periodic.stop()
        in_thread = await tornado.ioloop.IOLoop.current().run_in_executor(None, len, "four")
        assert in_thread == 4
        client.close()
        server.stop()
        await server.close_all_connections()

    run(main)


# ── redis ────────────────────────────────────────────────────────────────────────────────────


def wait_for_port(process, port, log):
    until = time.monotonic() + LONG
    while True:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > until:
            pytest.fail("the server did not start:\n" + log.read_text()[-2000:])
        time.sleep(0.02)


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory):
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("no redis-server: install the package redis-server")
    folder = tmp_path_factory.mktemp("redis")
    log = folder / "log"
    port = free_port()
    command = [server, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, env=foreign_environment()) as process,
    ):
        try:
            wait_for_port(process, port, log)
            yield port
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def redis_client(port, **options):
    client = redis.asyncio.Redis(port=port, decode_responses=True, **options)
    try:
        await client.flushall()
        yield client
    finally:
        await client.aclose()


def test_redis(run, redis_port):
    async def main():
        async with redis_client(redis_port) as client:
            await client.set("key", "value", px=10_000)
            assert await client.get("key") == "value"

            async with client.pipeline(transaction=True) as pipe:
                for number in range(1000):
                    pipe.rpush("list", number)
                lengths = await pipe.lrange("list", -2, -1).execute()
            assert lengths == [*range(1, 1001), ["998", "999"]]

            big = "b" * 2_000_000
            await client.set("big", big)
            assert await client.get("big") == big
            assert [key async for key in client.scan_iter("k*")] == ["key"]

    run(main)


def test_redis_pool(run, redis_port):
    async def main():
        pool = redis.asyncio.BlockingConnectionPool(
            port=redis_port, max_connections=5, timeout=LONG
        )
        client = redis.asyncio.Redis.from_pool(pool)
        try:
            await client.delete("count")
            counts = await asyncio.gather(*[client.incr("count") for _ in range(100)])
            assert sorted(counts) == list(range(1, 101))
        finally:
            await client.aclose()

    run(main)


def test_redis_publish_and_subscribe(run, redis_port):
    async def main():
        async with redis_client(redis_port) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("news")
            await pubsub.psubscribe("w*")
            told = []

            async def listen():
                async for message in pubsub.listen():
                    if message["type"].endswith("message"):
                        told.append((message["channel"], message["data"]))
                        if message["data"] == "last":
                            return

            listener = asyncio.create_task(listen())
            while await client.publish("news", "first") == 0:
                await asyncio.sleep(0.001)
            await asyncio.gather(*[client.publish("weather", n) for n in range(30)])
            await client.publish("news", "last")
            await listener
            assert told[0] == ("news", "first") and told[-1] == ("news", "last")
            assert sorted(told[1:-1], key=lambda item: int(item[1])) == [
                ("weather", str(n)) for n in range(30)
            ]

    run(main)


def test_redis_blocking_calls_are_cancelled(run, redis_port):
    async def main():
        async with redis_client(redis_port) as client:
            await cancelled(client.blpop("queue", timeout=0))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.blpop("queue", timeout=0)
            assert await client.blpop("queue", timeout=0.05) is None
            waiting = asyncio.create_task(client.blpop("queue", timeout=LONG))
            await asyncio.sleep(0.05)
            # Those that were cancelled do not take it.
            await client.rpush("queue", "job")
            assert await waiting == ("queue", "job")
            assert await client.llen("queue") == 0

    run(main)


# ── asyncpg ──────────────────────────────────────────────────────────────────────────────────


def postgres_programs():
    """The folder of the newest PostgreSQL's programs, or None."""
    folders = glob.glob("/usr/lib/postgresql/*/bin")
    folders.sort(key=lambda folder: float(Path(folder).parent.name))
    initdb = shutil.which("initdb") or (shutil.which("initdb", path=folders[-1]) if folders else "")
    return Path(initdb).parent if initdb else None


@pytest.fixture(scope="module")
def postgres_port():
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: install the package postgresql")
    # It refuses to run as root.
    user = {}
    if os.geteuid() == 0:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    # Not pytest's folder: that is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="pyasync_c-postgres-"))
    try:
        if user:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        data = folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync"]
            + ["-E", "UTF8", "--locale", "C"],
            check=True,
            capture_output=True,
            cwd=folder,
            env=foreign_environment(),
            **user,
        )
        port = free_port()
        log = folder / "log"
        command = [programs / "postgres", "-D", data, "-p", str(port), "-c", "fsync=off"]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        options = {"cwd": folder, "env": foreign_environment(), **user}
        with (
            log.open("wb") as out,
            subprocess.Popen(command, stdout=out, stderr=out, **options) as process,
        ):
            try:
                wait_for_port(process, port, log)
                yield port
            finally:
                process.send_signal(signal.SIGINT)  # "fast": without waiting for clients
    finally:
        shutil.rmtree(folder)


async def connect(port, **options):
    """Connect; anew while the server still starts up."""
    while True:
        try:
            return await asyncpg.connect(
                host="127.0.0.1", port=port, user="tester", database="postgres", **options
            )
        except asyncpg.CannotConnectNowError:
            await asyncio.sleep(0.02)


def test_asyncpg(run, postgres_port):
    async def main():
        connection = await connect(postgres_port)
        await connection.execute("create temporary table t (id int primary key, text text)")
        rows = [(number, f"row {number}") for number in range(2000)]
        await connection.copy_records_to_table("t", records=rows)
        assert await connection.fetchval("select count(*) from t") == 2000

        async with connection.transaction():
            cursor = [row["id"] async for row in connection.cursor("select id from t order by id")]
        assert cursor == list(range(2000))

        with pytest.raises(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.execute("delete from t where id < 1000")
                await connection.execute("insert into t values (1999, 'twice')")
        assert await connection.fetchval("select count(*) from t") == 2000

        big = "p" * 3_000_000
        assert await connection.fetchval("select $1::text", big) == big
        await connection.close()

    run(main)


def test_asyncpg_cancels_queries(run, postgres_port):
    async def main():
        connection = await connect(postgres_port)
        await cancelled(connection.execute("select pg_sleep(100)"), after=0.1)
        with pytest.raises(asyncio.TimeoutError):
            await connection.execute("select pg_sleep(100)", timeout=0.1)
        with pytest.raises(asyncpg.QueryCanceledError):
            async with connection.transaction():
                await connection.execute("set local statement_timeout = '50ms'")
                await connection.execute("select pg_sleep(100)")
        # The connection is as good as new.
        assert await connection.fetchval("select 1 + 1") == 2
        await connection.close()

    run(main)


def test_asyncpg_listens(run, postgres_port):
    async def main():
        listener, speaker = await connect(postgres_port), await connect(postgres_port)
        heard = asyncio.Queue()
        await listener.add_listener("news", lambda _c, _pid, _channel, said: heard.put_nowait(said))
        for number in range(20):
            await speaker.execute("select pg_notify('news', $1)", str(number))
        assert [int(await heard.get()) for _ in range(20)] == list(range(20))
        await listener.close()
        await speaker.close()

    run(main)


def test_asyncpg_pool(run, postgres_port):
    async def main():
        await (await connect(postgres_port)).close()
        address = {"host": "127.0.0.1", "port": postgres_port, "database": "postgres"}
        async with asyncpg.create_pool(**address, user="tester", min_size=2, max_size=5) as pool:

            async def ask(number):
                async with pool.acquire() as connection, connection.transaction():
                    return await connection.fetchval("select $1::int * 2", number)

            answers = await asyncio.gather(*map(ask, range(80)))
            assert answers == [number * 2 for number in range(80)]
            holders = [await pool.acquire() for _ in range(5)]
            with pytest.raises(asyncio.TimeoutError):
                await pool.acquire(timeout=0.05)
            await cancelled(pool.acquire())
            for holder in holders:
                await pool.release(holder)
            assert pool.get_idle_size() == 5

    run(main)
