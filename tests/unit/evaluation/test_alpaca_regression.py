"""The length-controlled win rate beside the alpaca_eval package, and what other instruction sets get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.alpaca.regression import GamedRows, LengthControl, chosen_strength, fit
from nemo_mm_align.evaluation.alpaca.variant import variant_for

PREFERENCES = [1.9, 1.2, 1.55, 1.0, 2.0, 1.35, 1.7, 1.05, 1.5, 1.8, 1.1, 1.65]
BASELINE_LENGTHS = [120, 300, 80, 410, 150, 60, 220, 90, 500, 170, 260, 330]
LENGTHS = [180, 250, 140, 300, 400, 70, 260, 60, 510, 290, 200, 420]
DIFFICULTY = [0.4, -0.6, 0.1, -1.2, 0.9, -0.2, 0.5, -0.8, 0.0, 0.7, -0.5, 0.3]
GAMED = [0.1, 0.3, 0.2, 0.6, 0.05, 0.4, 0.15, 0.5, 0.35, 0.25, 0.45, 0.1]
GAMED += [0.8, 0.6, 0.9, 0.4, 0.95, 0.7, 0.85, 0.5, 0.65, 0.75, 0.55, 0.9]
GAMED_LENGTHS = [1.5, 0.8, 1.1, 0.2, 2.0, 0.5, 1.4, 0.3, 0.9, 1.2, 0.4, 1.8]
GAMED_LENGTHS += [-1.0, -0.5, -1.6, -0.2, -2.1, -0.7, -1.3, -0.4, -0.6, -0.9, -0.3, -1.7]


def columns() -> dict[str, np.ndarray]:
    return {
        "preference": np.array(PREFERENCES) - 1,
        "length_difference": np.array(BASELINE_LENGTHS) - np.array(LENGTHS),
        "position": np.arange(12.0),
        "difficulty": np.array(DIFFICULTY),
    }


def gamed_file(folder: Path, gamed: bool = True) -> Path:
    path = folder / "df_gamed.csv"
    rows = zip(["verbose"] * 12 + ["concise"] * 12, GAMED, [*range(12)] * 2, GAMED_LENGTHS, DIFFICULTY * 2, strict=True)
    text = "model,preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline\n"
    text += "".join(f"{','.join(map(str, row))},False\n" for row in rows)
    difficulties = "".join(f"{index},{value}\n" for index, value in enumerate(DIFFICULTY))
    path.write_text(text if gamed else f",instruction_difficulty\n{difficulties}")
    return path


@pytest.mark.parametrize(
    ("variant", "figure"),
    [
        ("length_controlled_v1", 37.925112745067196),
        ("length_controlled_noreg", 48.667089322284916),
        ("length_controlled_minimal", 32.86374437241308),
    ],
)
def test_the_package_computes_the_same(variant: str, figure: float, tmp_path: Path) -> None:
    """Made with alpaca_eval 0.6.6 and scikit-learn 1.9.1, the rows above as `rows` and `gamed_file` as df_gamed.csv:

        pip install alpaca_eval==0.6.6 "setuptools<80" scikit-learn==1.9.1
        from alpaca_eval.metrics import glm_winrate
        glm_winrate.hf_hub_download = lambda **asked: "df_gamed.csv"
        rows = pd.DataFrame([dict(preference=p, output_1="x" * a, output_2="y" * b, generator_1="g", generator_2="o",
                             annotator="j") for p, a, b in zip(PREFERENCES, BASELINE_LENGTHS, LENGTHS)])
        glm_winrate.get_length_controlled_winrate(rows, glm_name=variant, save_weights_dir=None)

    On 805 random rows with 1,610 gamed ones, and on the published annotations of Qwen-14B-Chat and OpenHermes-2.5-Mistral-7B,
    both agree to the last digit as well (the latter two by the minimal variant: 20.5383 and 20.6480).
    """
    difficulty = {"length_controlled_v1": True, "length_controlled_noreg": False}.get(variant)
    path = None if difficulty is None else gamed_file(tmp_path, difficulty)
    found = variant_for(path, 12)
    assert found.name == variant and list(found.difficulties.values()) == ([] if path is None else DIFFICULTY)
    assert found.control(np.ones((1, 12)), columns())[0] == pytest.approx(figure, rel=1e-7)


def test_the_order_of_answers_changes_nothing() -> None:
    """Folds go by the place in the instruction set, not by the order in which answers come."""
    order = np.random.default_rng(0).permutation(12)
    shuffled = {name: column[order] for name, column in columns().items()}
    assert LengthControl()(np.ones((1, 12)), shuffled)[0] == pytest.approx(32.86374437241308, rel=1e-7)


def test_a_resample_is_the_fit_of_the_answers_that_were_drawn() -> None:
    """Drawn twice, a row is there twice; the strength of the penalty is that of the whole set."""
    control, weights = LengthControl(), np.array([2.0, 0, 1, 1, 3, 0, 1, 1, 1, 0, 1, 1])
    drawn = {name: np.repeat(column, weights.astype(int)) for name, column in columns().items()}
    strength = chosen_strength(control.rows(np.ones(12), columns()))
    coefficients = fit(control.rows(np.ones(12), drawn), strength)
    expected = 100 / (1 + np.exp(-coefficients[1]))
    assert control(weights[None], columns())[0] == pytest.approx(expected, rel=1e-3)  # liblinear stops at 1e-4


def test_longer_answers_that_win_by_length_alone_are_set_back_to_half() -> None:
    """The preference is the logistic function of tanh(standardised length) alone: nothing is left at equal length."""
    difference = -np.linspace(-300, 500, 400)
    preference = 1 / (1 + np.exp(2 * np.tanh(difference / difference.std(ddof=1))))
    data = {"preference": preference, "length_difference": difference, "position": np.arange(400.0)}
    assert preference.mean() > 0.55 and LengthControl()(np.ones((1, 400)), data)[0] == pytest.approx(50, abs=0.5)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_small_sets_and_equal_lengths_have_a_figure(count: int) -> None:
    data = {
        "preference": np.linspace(0, 1, count),
        "length_difference": np.zeros(count),
        "position": np.arange(float(count)),
    }
    weights = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), size=20)
    assert np.isfinite(LengthControl()(np.vstack([np.ones(count), weights]), data)).all()
    assert np.isnan(LengthControl()(np.zeros((1, count)), data)).all(), "nothing was drawn"


def test_another_instruction_set_gets_the_minimal_variant_by_name(tmp_path: Path) -> None:
    path = gamed_file(tmp_path)
    assert variant_for(path, 12).label == "LC win rate"
    other, none = variant_for(path, 11), variant_for(None, 805)
    assert other.label == none.label == "LC win rate (minimal variant)"
    assert (other.why, none.why) == ("another instruction set than the difficulty table's", "no difficulty table")
    assert variant_for(gamed_file(tmp_path, gamed=False), 12).label == "LC win rate (no gamed baselines)"


def test_gamed_rows_weigh_a_tenth(tmp_path: Path) -> None:
    control = variant_for(gamed_file(tmp_path), 12).control
    assert isinstance(control.gamed, GamedRows)
    rows = control.rows(np.ones(12), columns())
    assert rows.weight.tolist() == [0.1] * 24 + [1.0] * 12
    assert rows.features[:24, 2].tolist() == [0] * 24 and rows.features[0].tolist() == [np.tanh(1.5), 0.4, 0]
    spread = np.std(columns()["length_difference"], ddof=1)
    assert rows.features[24].tolist() == pytest.approx([np.tanh(-60 / spread), 0.4, 1])


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("index,instruction_difficulty\n0,1.5\n1,\n")
    with pytest.raises(RecordError, match=r"table.csv:3: instruction_difficulty is '', no number"):
        variant_for(path, 2)
    path.write_text("a,b,c\n1,2,3\n")
    with pytest.raises(UserError, match="its columns are a, b, c; index and instruction_difficulty are needed"):
        variant_for(path, 1)
    with pytest.raises(UserError, match="no such file"):
        variant_for(tmp_path / "absent.csv", 1)
