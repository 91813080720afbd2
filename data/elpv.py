"""`python -m data.elpv OUT`: the data set's code is in data/sets/elpv.py."""

from data.sets.elpv import main
from fcmae.run.program import run_program

if __name__ == "__main__":
    run_program(main)
