"""`python -m data.glyphs [build|check]`: the data set's code is in data/sets/glyphs.py."""

from data.sets.glyphs import main
from fcmae.run.program import run_program

if __name__ == "__main__":
    run_program(main)
