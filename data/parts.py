"""`python -m data.parts OUT`: the data set's code is in data/sets/parts.py."""

from data.sets.parts import main
from fcmae.run.program import run_program

if __name__ == "__main__":
    run_program(main)
