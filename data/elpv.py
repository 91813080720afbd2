"""`python -m data.elpv OUT`: the command; the data set's code is in data/sets/elpv.py."""

from data.sets.elpv import main

if __name__ == "__main__":
    main()
