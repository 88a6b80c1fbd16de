"""`python -m discretion.world` writes the generated part of docs/world.md to standard output."""

import sys

from discretion.world.norms import load_world, tables

sys.stdout.write(tables(load_world()))
