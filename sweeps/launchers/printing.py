"""Prints the commands, for a scheduler that nobody has written a launcher for."""

from pathlib import Path

from sweeps.runs import Run


class Print:
    """Prints a command per run, as one types it into a shell."""

    def launch(self, folder: Path, runs: list[Run]) -> None:
        """Prints the commands."""
        for run in runs:
            print(run.command_line(folder))
