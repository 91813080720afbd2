"""Show what runs have come to, in one HTML file that needs no network.

    fcmae report runs/quickstart
    fcmae report runs/small runs/large --out compared.html

The file has curves, pictures and all results that lie beside the runs, and can be sent to anybody.
A run that still trains is shown as far as it is.
"""

from collections.abc import Sequence

from fcmae.run.config import parse
from fcmae.run.program import run_program
from finetune.reporting.config import ReportConfig


def main(argv: Sequence[str]) -> None:
    """Read the runs, and write the report."""
    config = parse(ReportConfig, argv, description=str(__doc__))
    from fcmae.run.extras import extra
    from fcmae.run.files import write_text

    with extra("report", "reports need"):
        from finetune.reporting.page import page
    from finetune.reporting.closing import print_closing
    from finetune.reporting.record import read_runs

    runs = read_runs(config.runs)
    out = config.out or config.runs[0] / "report.html"
    write_text(out, page(runs))
    print_closing(runs, out)


if __name__ == "__main__":
    run_program(main)
