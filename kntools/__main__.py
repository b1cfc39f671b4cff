"""`python -m kntools`: the same as the command `kntools`."""

from kntools.cli import app

app(prog_name="kntools")
