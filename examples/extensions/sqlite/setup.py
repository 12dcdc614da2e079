from setuptools import Extension, setup

import pyasync_c

setup(
    name="async_sqlite",
    version="1.0",
    ext_modules=[
        Extension(
            "async_sqlite",
            ["async_sqlite.c"],
            include_dirs=[pyasync_c.get_include()],
            libraries=["sqlite3", "pthread"],
            extra_compile_args=["-std=gnu11", "-Wall", "-Wextra"],
        )
    ],
)
