"""Charts look the same whatever the user's settings are, and matplotlib writes nothing to stderr."""

import warnings

import pytest

pytest.importorskip("matplotlib")


def drawn(title: str, format: str) -> bytes:
    from levit_cli.system.plotting import Figure, chart_style, encode

    with chart_style("test"):
        figure = Figure(figsize=(3, 2))
        figure.add_subplot().plot([1, 2], [3, 4])
        figure.suptitle(title)
        return encode(figure, format)


@pytest.mark.parametrize("format", ["svg", "png"])
def test_the_settings_of_the_user_do_not_change_a_chart(format: str) -> None:
    from matplotlib import rc_context, rcParams

    expected = drawn("accuracy", format)
    with rc_context({"font.size": 30, "lines.linewidth": 9, "savefig.pad_inches": 3, "axes.facecolor": "black"}):
        assert drawn("accuracy", format) == expected
        assert rcParams["font.size"] == 30  # they are the same as before


def test_a_title_may_hold_anything() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawn("日本 $\\frac{a}{$ <b>", "png").startswith(b"\x89PNG")
        assert "$\\frac{a}{$ &lt;b&gt;" in drawn("日本 $\\frac{a}{$ <b>", "svg").decode()
