"""The demo's page."""

from matplotlib.figure import Figure

from lightning_rlhf.cli.demo.curves import curve, last
from lightning_rlhf.cli.demo.report import Table, write_report


def test_what_a_model_wrote_is_escaped(tmp_path):
    figure = Figure(figsize=(1, 1))
    table = Table("samples", ("response",), [("<script>alert(1)</script> & $summary",)])
    write_report(tmp_path / "r.html", summary="<b>", tables=[table], commands=["a > b"], figure=figure)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $summary" in page
    assert "&lt;b&gt;" in page
    assert "a &gt; b" in page


def test_curves_skip_rows_without_the_metric(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,val/loss\n0,1,\n0,2,0.5\n1,4,0.25\n", encoding="utf-8")
    assert curve(tmp_path, "val/loss") == [(2, 0.5), (4, 0.25)]
    assert last(tmp_path, "val/loss") == 0.25
    assert str(last(tmp_path, "val/absent")) == "nan"
