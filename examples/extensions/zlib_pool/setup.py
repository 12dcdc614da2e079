from setuptools import Extension, setup

import pyasync_c

setup(
    name="zlib_pool",
    version="1.0",
    ext_modules=[
        Extension(
            "zlib_pool",
            ["zlib_pool.c"],
            include_dirs=[pyasync_c.get_include()],
            libraries=["z", "pthread"],
            extra_compile_args=["-std=gnu11", "-Wall", "-Wextra"],
        )
    ],
)
