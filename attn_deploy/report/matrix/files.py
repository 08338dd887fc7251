"""The files that a matrix leaves behind, all made from one record."""

from __future__ import annotations

from pathlib import Path

from attn_deploy.files import write_atomic
from attn_deploy.matrix.record import RECORD_NAME, MatrixRecord
from attn_deploy.report.matrix.html import matrix_html
from attn_deploy.report.matrix.tables import matrix_csv, matrix_junit, matrix_markdown


def write_reports(record: MatrixRecord, folder: Path) -> list[Path]:
    """Write the record and its reports into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        RECORD_NAME: record.to_json(),
        "matrix.csv": matrix_csv(record),
        "matrix.xml": matrix_junit(record),
        "matrix.md": matrix_markdown(record),
        "matrix.html": matrix_html(record),
    }
    for name, text in files.items():
        write_atomic(folder / name, text)
    return [folder / name for name in files]
