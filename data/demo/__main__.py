"""`python -m data.demo [build|check]`: the data set's code is in data/sets/demo.py."""

from data.sets.demo import main
from fcmae.run.program import run_program

if __name__ == "__main__":
    run_program(main)
