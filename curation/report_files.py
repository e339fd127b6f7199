"""Files of single clips, as a section of the page: how they were written, and how much of the clips they lack."""

from html import escape

import pandas as pd

from curation.charts import histogram
from curation.page import Section
from curation.report_clips import place

MOST = 8


def clip_files(clips: pd.DataFrame) -> list[Section]:
    """The section, or none where no clip has a file of its own."""
    if "file_name" not in clips or clips["file_name"].isna().all():
        return []
    written = clips[clips["file_name"].notna()]
    note = (
        "A copy keeps the source's packets, so it begins at a key frame and lacks what lies before it; an encoded file "
        "is whole."
    )
    chart = histogram(written["file_loss_frac"].astype(float), [], "share of a clip that its file lacks")
    cards = (f"<h3>How they were written</h3>{_counts(written)}", _worst(written), chart)
    body = f'<div class="grid">{"".join(f"""<div class="card">{card}</div>""" for card in cards)}</div>'
    return [Section("files", "Clip files", note, body)]


def _counts(written: pd.DataFrame) -> str:
    """Per method: files, seconds of their clips, seconds lost, the mean and the largest loss."""
    lost_s = written["file_loss_frac"].astype(float) * written["duration_s"]
    rows = ""
    for method, of_method in written.groupby("file_method"):
        clips_s, gone_s = of_method["duration_s"].sum(), lost_s[of_method.index].sum()
        most = of_method["file_loss_frac"].max()
        rows += (
            f"<tr><td>{escape(str(method))}</td><td class='figure'>{len(of_method):,}</td>"
            f"<td class='figure'>{clips_s:,.1f} s</td><td class='figure'>{gone_s:,.1f} s</td>"
            f"<td class='figure'>{gone_s / clips_s if clips_s else 0:.1%}</td><td class='figure'>{most:.1%}</td></tr>"
        )
    names = ("files", "of clips", "lost", "share", "most")
    head = "<th>written by</th>" + "".join(f"<th class='figure'>{name}</th>" for name in names)
    return f'<table class="even"><tr>{head}</tr>{rows}</table>'


def _worst(written: pd.DataFrame) -> str:
    """The files that lack most of their clips."""
    lossy = written[written["file_loss_frac"] > 0]
    if lossy.empty:
        return "<h3>Loss</h3><p>No file lacks anything of its clip.</p>"
    rows = "".join(
        f"<tr><td class='figure'>{row['file_loss_frac']:.1%}</td><td>{place(row)}</td></tr>"
        for _, row in lossy.sort_values(["file_loss_frac", "clip_id"], ascending=[False, True]).head(MOST).iterrows()
    )
    return f'<h3>Largest losses</h3><table><tr><th class="figure">lost</th><th>clip</th></tr>{rows}</table>'
