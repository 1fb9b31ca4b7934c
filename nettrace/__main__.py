"""`python -m nettrace`: the same as the command `nettrace`."""

from __future__ import annotations

import sys

from nettrace.cli import main

sys.exit(main())
