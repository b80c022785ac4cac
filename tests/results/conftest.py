"""The scripts of docs/results are beside each other; here they are imported as they import one another."""

import sys
from pathlib import Path


sys.path.append(str(Path(__file__).parents[2] / "docs" / "results"))
