"""`python -m fcmae COMMAND ...`, and `accelerate launch -m fcmae COMMAND ...`; see `fcmae.cli`."""

from fcmae.cli import enter as main
from fcmae.run.program import run_program

if __name__ == "__main__":
    run_program(main)
