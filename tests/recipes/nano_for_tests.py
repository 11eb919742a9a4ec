"""Makes the modules of recipes/nano importable, which are a folder of scripts and no package."""

import sys
from pathlib import Path

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "nano"
if str(RECIPE) not in sys.path:
    sys.path.insert(0, str(RECIPE))
