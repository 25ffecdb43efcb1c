"""``python -m graphc`` is the command ``graphc``: see `graphc.cli`.

In: the process's arguments. Out: its exit status.
"""

import sys

from graphc.cli import main

if __name__ == "__main__":
    sys.exit(main())
