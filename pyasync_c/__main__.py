"""`python -m pyasync_c`: see `python -m pyasync_c --help`."""

import sys

from pyasync_c._cli import main

if __name__ == "__main__":
    sys.exit(main())
