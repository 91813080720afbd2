"""`python -m data.scenes OUT`: the data set's code is in data/sets/scenes.py."""

from data.sets.scenes import main
from fcmae.run.program import run_program

if __name__ == "__main__":
    run_program(main)
