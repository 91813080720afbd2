"""`python -m data.scenes OUT`: the command; the data set's code is in data/sets/scenes.py."""

from data.sets.scenes import main

if __name__ == "__main__":
    main()
