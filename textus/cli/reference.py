"""Write the command reference: python -m textus.cli.reference docs/reference.md"""

from __future__ import annotations

import sys
from pathlib import Path

from textus.cli.app import build_app
from textus.cli.help import reference
from textus.common import write_atomic

if __name__ == "__main__":
    write_atomic(Path(sys.argv[1]), reference(build_app()))
